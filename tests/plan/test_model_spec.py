"""The catalog of models, its page, and models in folders with a spec of their own."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.errors import ModelError
from dlm.legacy import AUDIO_SPEC, upgrade_record
from dlm.models.pretrained import MODEL_FAMILIES
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import (
    COMPOSED_MODEL_CONFIGS,
    MODEL_CATALOG,
    MODEL_SPEC_FILE,
    read_model_spec,
    write_model_spec,
)
from dlm.plan.resolve import resolve_model_spec
from tests.tiny_models import make_tiny_spec

BASES_PAGE = Path(__file__).parents[2] / "docs" / "bases.md"


def write_spec(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_model_spec(make_tiny_spec(), folder)
    return folder


def refusal(name: str, folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve_model_spec(name, folder)
    return caught.value


@pytest.mark.parametrize("key", MODEL_CATALOG)
def test_every_spec_of_the_catalog_is_complete(key: str) -> None:
    spec = MODEL_CATALOG[key]
    audio_spec = spec.audio_spec
    assert spec.key == key
    samples_per_frame = audio_spec.hop_length * audio_spec.encoder_stride
    assert audio_spec.window_samples % samples_per_frame == 0
    assert spec.placeholder and spec.license
    is_composed = key in COMPOSED_MODEL_CONFIGS  # its components have revisions
    assert bool(spec.revision) != is_composed
    assert bool(spec.default_prompt) == (spec.chat_format not in ("mistral", "asr", "whisper"))
    numbers = (spec.sizes.num_parameters, spec.megabytes, spec.context_length, spec.default_epochs)
    assert min(numbers) > 0


def test_the_page_of_models_has_the_numbers_of_the_catalog() -> None:
    page = BASES_PAGE.read_text(encoding="utf-8")
    table = page.partition("## Released models")[2].strip().partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    specs = [spec for spec in MODEL_CATALOG.values() if spec.kind == "native"]
    assert rows == [
        [
            f"`{spec.key}`",
            f"[{spec.source}](https://huggingface.co/{spec.source})",
            f"`{str(spec.revision)[:12]}`",
            spec.license,
            f"{spec.audio_spec.sample_rate // 1000} kHz",
            f"{spec.audio_spec.window_seconds:g} s",
            f"{spec.audio_spec.tokens_per_second:g}",
            "`" + spec.placeholder.replace("|", "\\|") + "`",
            f"{spec.megabytes / 1000:.1f}",
        ]
        for spec in specs
    ]
    assert {spec.family for spec in specs} == MODEL_FAMILIES.keys()
    assert all(f"`{family}`" in page for family in MODEL_FAMILIES)


def test_a_key_of_the_catalog_is_found() -> None:
    assert find_catalog_spec("sparrow").source == "embedded:sparrow"


@pytest.mark.parametrize("name", ["sparow", "Sparrow", "sparrows"])
def test_a_misspelt_key_is_refused_with_the_closest_one(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_catalog_spec(name)
    assert caught.value.code == "model.unknown"
    assert str(caught.value) == f"unknown base '{name}'; did you mean sparrow?"


def test_an_unknown_key_is_refused_with_all_of_them() -> None:
    with pytest.raises(ModelError) as caught:
        find_catalog_spec("zzz")
    assert caught.value.code == "model.unknown"
    assert all(key in str(caught.value.hint) for key in (*MODEL_CATALOG, "local folder"))


def test_a_folder_with_a_spec_is_a_model(tmp_path: Path) -> None:
    folder = write_spec(tmp_path / "mine")
    assert resolve_model_spec("mine", tmp_path) == replace(make_tiny_spec(), source=str(folder))
    assert resolve_model_spec(str(folder), Path("/elsewhere")).source == str(folder)
    (tmp_path / "notes").mkdir()
    assert resolve_model_spec("../mine", tmp_path / "notes").key == "tiny"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_spec(tmp_path / "mine")
    assert resolve_model_spec("~/mine", Path("/elsewhere")).key == "tiny"


def test_a_key_of_the_catalog_wins_over_a_folder_of_its_name(tmp_path: Path) -> None:
    write_spec(tmp_path / "sparrow")
    assert resolve_model_spec("sparrow", tmp_path).source == "embedded:sparrow"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = refusal("./empty", tmp_path)
    assert (error.code, error.where) == ("model.no_config", str(tmp_path / "empty"))
    error = refusal("./nowhere", tmp_path)
    assert error.code == "model.unknown" and "'./nowhere'" in error.what


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{half", "[]", "null", '"text"', "{}", '{"strides": {}}', '{"strides": 3}'),
        *("[" * 100_000, b"\xff\xfe"),
    ],
    ids=lambda damage: str(damage[:20]),
)
def test_a_damaged_spec_file_is_refused(tmp_path: Path, damage: str | bytes) -> None:
    path = tmp_path / MODEL_SPEC_FILE
    path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(ModelError) as caught:
        read_model_spec(tmp_path)
    assert (caught.value.code, caught.value.where) == ("model.bad_spec_file", str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_or_a_missing_field_of_a_spec_file_is_named(tmp_path: Path) -> None:
    record = json.loads((write_spec(tmp_path) / MODEL_SPEC_FILE).read_text())
    for field, changed in (
        ("colour", {**record, "colour": "blue"}),
        ("sizes", {name: value for name, value in record.items() if name != "sizes"}),
    ):
        (tmp_path / MODEL_SPEC_FILE).write_text(json.dumps(changed))
        with pytest.raises(ModelError, match=field) as caught:
            read_model_spec(tmp_path)
        assert caught.value.code == "model.bad_spec_file"


def test_a_spec_file_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    assert os.fspath(tmp_path) not in (write_spec(tmp_path) / MODEL_SPEC_FILE).read_text()


def test_the_padding_of_older_records_is_read_by_its_new_name() -> None:
    record = upgrade_record({"fill": "heard", "hop": 160}, AUDIO_SPEC)
    assert record == {"pad_mode": "uncounted", "hop_length": 160}
    assert upgrade_record({"pad_mode": "counted"}, AUDIO_SPEC) == {"pad_mode": "counted"}
