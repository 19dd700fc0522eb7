"""A run that ends clearly worse than the version in use does not replace it."""

import json
from pathlib import Path

import pytest

from dlm.config.parser import read_document
from dlm.store.runs import list_runs, read_run_log
from dlm.store.versions import Store, open_store
from tests.cli_runner import CommandResult, dlm
from tests.tiny_models import TRANSCRIPTS, write_document, write_tiny_model, write_tone

GOOD_STEPS = 60  # half of the words of the held-out clips are right after them


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommandResult]:
    """A document with a good version in use and what a run of one step after it printed."""
    folder = tmp_path_factory.mktemp("compared")
    for number in range(6):
        recording = write_tone(folder / f"held/{number}.wav", hertz=200 + 150 * number, seconds=0.7)
        recording.with_suffix(".txt").write_text(f"tone {TRANSCRIPTS[number]}")
    base_model = write_tiny_model(folder / "tiny")
    document = write_document(folder, base_model=base_model, training="  held_out: held\n")
    text = document.read_text()
    document.write_text(text.replace('transcript="', 'transcript="tone '))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLM_HOME", str(folder / "home"))
        first = dlm("train", document, "--steps", GOOD_STEPS)
        assert first.code == 0 and "in use" not in first.err, first.err
        return document, dlm("train", document, "--steps", 1)


@pytest.fixture
def document(
    trained: tuple[Path, CommandResult], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("DLM_HOME", str(trained[0].parent / "home"))
    return trained[0]


def get_store(document: Path) -> Store:
    return open_store(read_document(document).config.dlm_id)


def test_a_bad_run_does_not_replace_a_good_version(
    trained: tuple[Path, CommandResult], document: Path
) -> None:
    done = trained[1]
    assert done.code == 0 and "v0002 is saved" in done.out
    (line,) = [line for line in done.err.splitlines() if "v0002" in line]
    assert line.startswith("v0002 is kept, and v0001 stays in use: WER 100.0% against ")
    assert "of v0001 on 6 held-out clips (95 % interval" in line
    assert line.endswith(f"; use it with `dlm use {document} v0002`")
    store = get_store(document)
    assert store.get_current_version() == store.get_version("v0001")
    assert "scoring v0001" not in done.err, "its scores are those of its own evaluation"


def test_the_comparison_is_in_json_and_in_the_log_of_the_run(document: Path) -> None:
    first, second = json.loads(dlm("versions", document, "--json").out)[:2]
    assert (first["accepted"], first["comparison"]) == (True, None)
    comparison = second["comparison"]
    assert (second["accepted"], comparison["current"], comparison["metric"]) == (
        False,
        "v0001",
        "wer",
    )
    current, base = comparison["differences"]
    assert (current["name"], current["clearly_worse"]) == ("v0001", True)
    assert (base["name"], base["clearly_worse"]) == ("base", False)
    assert current["score"] == second["scores"]["wer"]
    assert current["other_score"] == first["scores"]["wer"]
    run = next(run for run in list_runs(get_store(document)) if run.id == second["run"])
    *_, finished = read_run_log(run)
    assert finished["comparison"]["differences"][0]["low"] == current["low"]
    lines = dlm("versions", document).out.splitlines()
    assert lines[0].startswith("* v0001") and lines[1].startswith("  v0002")
    assert lines[2].startswith("    not put in use: WER 100.0% against")


def test_scores_that_are_not_kept_are_measured_again(document: Path) -> None:
    store = get_store(document)
    before = store.get_version("v0002").comparison
    for path in store.layout.evaluations_dir.iterdir():
        path.unlink()
    done = dlm("train", document, "--steps", 1, "--seed", 5)
    assert "scoring v0001 on 6 held-out clips" in done.err
    assert "scoring the base on 6 held-out clips" in done.err
    after = store.list_versions()[-1].comparison
    assert after.differences[0].other_score == before.differences[0].other_score
    assert store.get_current_version() == store.get_version("v0001")
    again = dlm("train", document, "--steps", 1, "--seed", 6)
    assert again.code == 0 and "scoring" not in again.err


def test_a_version_in_use_that_is_damaged_does_not_stop_training(document: Path) -> None:
    store = get_store(document)
    for path in store.layout.evaluations_dir.iterdir():
        path.unlink()
    weights = store.get_version("v0001").path / "adapter_model.safetensors"
    committed = weights.read_bytes()
    weights.write_bytes(committed[:-1] + bytes([committed[-1] ^ 1]))
    try:
        done = dlm("train", document, "--steps", 1, "--seed", 7)
    finally:
        weights.write_bytes(committed)
    assert done.code == 0
    assert "not compared: v0001 cannot be scored: was changed or removed" in done.err
    assert dlm("use", document, "v0001").code == 0


def test_a_kept_version_is_used_where_that_is_asked_for(document: Path) -> None:
    assert dlm("use", document, "v0002").code == 0
    assert dlm("use", document, "v0001").code == 0


def test_without_held_out_clips_the_newest_version_is_used_and_that_is_said(
    document: Path,
) -> None:
    done = dlm("train", document, "--steps", 1, "--set", "training.held_out=0")
    assert done.code == 0, done.err
    name = get_store(document).list_versions()[-1].name
    line = f"{name} is in use in place of v0001: not compared: no clips are held out"
    assert line in done.err.splitlines()
    assert get_store(document).get_current_version().name == name
