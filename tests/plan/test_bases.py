"""The catalogue, and bases that lie in a folder."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.errors import BaseError
from dlm.plan.bases import FACTS, read_facts, write_facts
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.recipes import RECIPES
from dlm.plan.resolve import find, resolve
from tests.tiny import tiny_base


def test_every_row_is_complete() -> None:
    for key, base in CATALOGUE.items():
        assert base.key == key
        assert base.strides.window % (base.strides.hop * base.strides.encoder) == 0, key
        assert base.placeholder and base.license, key
        assert bool(base.revision) == (key not in RECIPES), key  # those have one of their parts
        assert bool(base.prompt) == (base.chat not in ("mistral", "asr")), key
        assert min(base.sizes.parameters, base.megabytes, base.context, base.epochs) > 0, key


def test_a_known_key_is_found() -> None:
    assert find("sparrow").source == "embedded:sparrow"


@pytest.mark.parametrize("typo", ["sparow", "Sparrow", "sparrows"])
def test_a_near_miss_is_told_the_nearest_key(typo: str) -> None:
    with pytest.raises(BaseError, match=f"unknown base '{typo}'; did you mean sparrow"):
        find(typo)


def test_a_wide_miss_is_told_every_key() -> None:
    with pytest.raises(BaseError) as told:
        find("zzz")
    assert all(key in str(told.value) for key in CATALOGUE)
    assert "local folder" in str(told.value)


def test_a_folder_is_a_base_of_its_own(tmp_path: Path) -> None:
    folder = facts_in(tmp_path / "mine")
    assert resolve("mine", tmp_path) == replace(tiny_base(), source=str(folder))
    assert resolve(str(folder), Path("/elsewhere")).source == str(folder)
    (tmp_path / "notes").mkdir()
    assert resolve("../mine", tmp_path / "notes").key == "tiny"


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    facts_in(tmp_path / "mine")
    assert resolve("~/mine", Path("/elsewhere")).key == "tiny"


def test_a_key_wins_over_a_folder_of_its_name(tmp_path: Path) -> None:
    facts_in(tmp_path / "sparrow")
    assert resolve("sparrow", tmp_path).source == "embedded:sparrow"


def test_a_folder_without_facts_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaseError, match="empty: no config.json in this folder"):
        resolve("./empty", tmp_path)
    with pytest.raises(BaseError, match="unknown base './nowhere'"):
        resolve("./nowhere", tmp_path)


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
    path = tmp_path / FACTS
    path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(BaseError) as told:
        read_facts(tmp_path)
    assert str(told.value).startswith(f"{path}: not the facts of a base")
    assert "\n" not in str(told.value)


def test_a_field_too_many_or_too_few_is_named(tmp_path: Path) -> None:
    facts = json.loads((facts_in(tmp_path) / FACTS).read_text())
    for told, changed in (
        ("colour", {**facts, "colour": "blue"}),
        ("sizes", {name: value for name, value in facts.items() if name != "sizes"}),
    ):
        (tmp_path / FACTS).write_text(json.dumps(changed))
        with pytest.raises(BaseError, match=told):
            read_facts(tmp_path)


def test_facts_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    folder = facts_in(tmp_path)
    assert os.fspath(tmp_path) not in (folder / FACTS).read_text()


def facts_in(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_facts(tiny_base(), folder)
    return folder
