"""Where the store is, and which names may become a path."""

from pathlib import Path

import pytest

from dlm.errors import StoreError
from dlm.store.layout import get_dlm_home, get_store_layout, make_safe_name, require_safe_name


def test_home_is_dlm_home_or_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/ada")
    monkeypatch.delenv("DLM_HOME", raising=False)
    assert get_dlm_home() == Path("/people/ada/.dlm")
    monkeypatch.setenv("DLM_HOME", "~/sounds")
    assert get_dlm_home() == Path("/people/ada/sounds")
    assert get_store_layout("01HZ").root == Path("/people/ada/sounds/store/01HZ")


def test_paths_are_those_of_the_documented_layout() -> None:
    layout = get_store_layout("01HZ", Path("/home"))
    paths = (
        *(layout.manifest_path, layout.version_dir(12), layout.current_path),
        *(layout.blob_path("ab"), layout.run_dir("20260101T0-ab"), layout.lock_path),
        *(layout.features_dir, layout.runs_dir, layout.exports_dir),
    )
    assert [str(path.relative_to("/home/store/01HZ")) for path in paths] == [
        *("manifest.json", "adapter/versions/v0012", "adapter/current.txt"),
        *("blobs/ab", "runs/20260101T0-ab", "lock"),
        *("features", "runs", "exports"),
    ]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../x", "/etc", "a\\b", "a\n"])
def test_a_name_that_is_no_single_component_is_refused(name: str) -> None:
    with pytest.raises(StoreError) as caught:
        require_safe_name(name)
    assert caught.value.code == "store.bad_name"
    assert require_safe_name(make_safe_name(name))


def test_safe_names_stay() -> None:
    for name in ("01HZ4X7TGZM3J1A2B3C4D5E6F7", "qwen2.5-omni_v0001"):
        assert require_safe_name(name) == make_safe_name(name) == name
    assert make_safe_name("hf:org/my model-v0001") == "hf-org-my-model-v0001"
