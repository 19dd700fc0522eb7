"""The catalogue, and bases that lie in a folder."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.errors import ModelError
from dlm.plan.model_spec import (
    COMPOSED_MODEL_CONFIGS,
    MODEL_CATALOG,
    MODEL_SPEC_FILE,
    read_model_spec,
    write_model_spec,
)
from dlm.plan.resolve import find_catalog_spec, resolve_model_spec
from tests.tiny_models import make_tiny_spec


def test_every_row_is_complete() -> None:
    for key, base in MODEL_CATALOG.items():
        assert base.key == key
        assert (
            base.audio_spec.window_samples
            % (base.audio_spec.hop_length * base.audio_spec.encoder_stride)
            == 0
        ), key
        assert base.placeholder and base.license, key
        assert bool(base.revision) == (key not in COMPOSED_MODEL_CONFIGS), (
            key
        )  # those have one of their parts
        assert bool(base.default_prompt) == (base.chat_format not in ("mistral", "asr")), key
        assert (
            min(base.sizes.num_parameters, base.megabytes, base.context_length, base.default_epochs)
            > 0
        ), key


def test_a_known_key_is_found() -> None:
    assert find_catalog_spec("sparrow").source == "embedded:sparrow"


@pytest.mark.parametrize("typo", ["sparow", "Sparrow", "sparrows"])
def test_a_near_miss_is_told_the_nearest_key(typo: str) -> None:
    with pytest.raises(ModelError, match=f"unknown base '{typo}'; did you mean sparrow"):
        find_catalog_spec(typo)


def test_a_wide_miss_is_told_every_key() -> None:
    with pytest.raises(ModelError) as told:
        find_catalog_spec("zzz")
    assert all(key in str(told.value) for key in MODEL_CATALOG)
    assert "local folder" in str(told.value)


def test_a_folder_is_a_base_of_its_own(tmp_path: Path) -> None:
    folder = facts_in(tmp_path / "mine")
    assert resolve_model_spec("mine", tmp_path) == replace(make_tiny_spec(), source=str(folder))
    assert resolve_model_spec(str(folder), Path("/elsewhere")).source == str(folder)
    (tmp_path / "notes").mkdir()
    assert resolve_model_spec("../mine", tmp_path / "notes").key == "tiny"


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    facts_in(tmp_path / "mine")
    assert resolve_model_spec("~/mine", Path("/elsewhere")).key == "tiny"


def test_a_key_wins_over_a_folder_of_its_name(tmp_path: Path) -> None:
    facts_in(tmp_path / "sparrow")
    assert resolve_model_spec("sparrow", tmp_path).source == "embedded:sparrow"


def test_a_folder_without_facts_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty: no config.json in this folder"):
        resolve_model_spec("./empty", tmp_path)
    with pytest.raises(ModelError, match="unknown base './nowhere'"):
        resolve_model_spec("./nowhere", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{half",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"strides": {}}',
        '{"strides": 3}',
        b"\xff\xfe",
    ],
    ids=str,
)
def test_damaged_facts_are_named(tmp_path: Path, damage: str | bytes) -> None:
    path = tmp_path / MODEL_SPEC_FILE
    path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(ModelError) as told:
        read_model_spec(tmp_path)
    assert str(told.value).startswith(f"{path}: not the facts of a base")
    assert "\n" not in str(told.value)


def test_a_field_too_many_or_too_few_is_named(tmp_path: Path) -> None:
    facts = json.loads((facts_in(tmp_path) / MODEL_SPEC_FILE).read_text())
    for told, changed in (
        ("colour", {**facts, "colour": "blue"}),
        ("sizes", {name: value for name, value in facts.items() if name != "sizes"}),
    ):
        (tmp_path / MODEL_SPEC_FILE).write_text(json.dumps(changed))
        with pytest.raises(ModelError, match=told):
            read_model_spec(tmp_path)


def test_facts_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    folder = facts_in(tmp_path)
    assert os.fspath(tmp_path) not in (folder / MODEL_SPEC_FILE).read_text()


def facts_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_model_spec(make_tiny_spec(), folder)
    return folder
