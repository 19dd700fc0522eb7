"""The example documents of composed bases, trained with what is in the package."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli_runner import dlm

EXAMPLES = Path(__file__).parents[2] / "examples"
FROM_SPARROW = ("--set", "base_model.encoder=sparrow", "--set", "base_model.lm=sparrow")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of examples/, so that nothing is written into it."""
    ignored = shutil.ignore_patterns("voice", "voxtral*", "podcast*", "tones-base")
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=ignored))


def check_document(path: Path, *words: object) -> dict:
    done = dlm("check", path, "--json", *words)
    assert done.code == 0, done.out + done.err
    report: dict = json.loads(done.out)
    return report


def test_musiccaps_checks_and_trains(examples: Path) -> None:
    path = examples / "musiccaps.dlm"
    report = check_document(path, *FROM_SPARROW)
    assert report["tasks"] == {"answer": 6}
    (source,) = report["source_directives"]
    assert source["skipped_other_split"] == 1, "the row of AudioSet's evaluation set"
    assert source["skipped_rows_no_audio"] == 1 and source["skipped_names"] == ["dlm-piece-7"]
    done = dlm("check", path, "--show-labels", *FROM_SPARROW)
    assert "Describe the sound of the given file" in done.out
    trained = dlm("train", path, "--steps", 2, *FROM_SPARROW)
    assert trained.code == 0, trained.err
    assert "2 clips held out: loss" in trained.out and "listening gap" in trained.out


def test_conversation_checks_trains_and_answers(examples: Path) -> None:
    path = examples / "conversation.dlm"
    report = check_document(path, *FROM_SPARROW)
    assert report["tasks"] == {"answer": 12, "transcribe": 2}
    assert [each["audio_count"] for each in report["source_directives"]] == [12, 2]
    trainable = next(line["value"] for line in report["plan"] if line["name"] == "learns")
    assert "projector" in trainable and "lm" in trainable
    done = dlm("train", path, "--steps", 2, *FROM_SPARROW)
    assert done.code == 0, done.err
    audio_options = "--audio", examples / "conversation/wavs/question_2.ogg"
    assert dlm("prompt", path, "Answer what you hear.", *audio_options).code == 0


def test_tones_and_alignment_name_what_is_missing(examples: Path) -> None:
    dlm("train", examples / "tones.dlm", *FROM_SPARROW[:2]).refused("source not found: tones")
    dlm("train", examples / "alignment.dlm", *FROM_SPARROW[:2]).refused("./tones-base")
    assert dlm("tones", examples / "tones", "--count", 60).code == 0
    report = check_document(examples / "tones.dlm", *FROM_SPARROW[:2])
    assert (report["learn"], report["held_out"]) == (50, 10)
    steps = next(line["value"] for line in report["plan"] if line["name"] == "steps")
    assert steps.startswith("50")
