"""An export is verified by its manifest, file by file; its name in the store is safe."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.errors import StoreError
from dlm.exporters.manifest import (
    EXPORT_MANIFEST_FILE,
    get_export_name,
    verify_export,
    write_export_manifest,
)
from dlm.plan.model_spec import MODEL_CATALOG
from tests.exporters.test_merged import VERSION
from tests.tiny_models import make_tiny_spec


@pytest.fixture
def export_dir(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("read me")
    write_export_manifest(
        tmp_path, make_tiny_spec(), VERSION, target="stitched", architecture="Stitched"
    )
    return tmp_path


def test_every_file_that_differs_is_named(export_dir: Path) -> None:
    assert verify_export(export_dir) == (2, ())
    (export_dir / "README.md").unlink()
    (export_dir / "adapter" / "more.bin").write_bytes(b"more")
    (export_dir / "adapter" / "config.json").write_text("{} ")
    num_files, lines = verify_export(export_dir)
    expected = (
        *("README.md: is gone", "adapter/config.json: was changed, its sha256 is "),
        "adapter/more.bin: was added",
    )
    assert num_files == 2
    assert all(line.startswith(start) for start, line in zip(expected, lines, strict=True))


def test_a_listed_file_outside_the_folder_is_not_opened(export_dir: Path) -> None:
    outside = export_dir.parent / "outside.txt"
    outside.write_text("secret")
    path = export_dir / EXPORT_MANIFEST_FILE
    manifest = json.loads(path.read_text())
    manifest["artifacts"].append({"path": "../outside.txt", "sha256": "0" * 64})
    path.write_text(json.dumps(manifest))
    assert verify_export(export_dir) == (3, ("../outside.txt: is gone",))


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="name a folder that `dlm export` wrote") as caught:
        verify_export(tmp_path)
    assert caught.value.code == "store.no_manifest"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"artifacts": [{"path": "a"}]}'])
def test_a_damaged_manifest_is_refused(export_dir: Path, text: str) -> None:
    (export_dir / EXPORT_MANIFEST_FILE).write_text(text)
    with pytest.raises(StoreError, match="export it again") as caught:
        verify_export(export_dir)
    assert caught.value.code == "store.bad_manifest"


def test_the_name_of_an_export_is_one_safe_path_component() -> None:
    spec = make_tiny_spec()
    assert get_export_name(spec, VERSION) == "tiny-v0003"
    assert get_export_name(replace(spec, key="../my/base"), VERSION) == "my-base-v0003"
    pretrained = MODEL_CATALOG["qwen2-audio-7b-instruct"]
    assert get_export_name(pretrained, VERSION) == "hf-audio-snapshot"
