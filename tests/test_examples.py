"""The documents of stitched bases, as they lie in examples/: on what is in the package alone."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli_runner import dlm

EXAMPLES = Path(__file__).parent.parent / "examples"
HERE = ("--set", "base_model.encoder=sparrow", "--set", "base_model.lm=sparrow")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy, so that nothing is left in the real ones."""
    kept = shutil.ignore_patterns("voice", "voxtral*", "podcast*", "tones-base")
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=kept))


def checked(path: Path, *words: object) -> dict:
    done = dlm("check", path, "--json", *words)
    assert done.code == 0, done.out + done.err
    found: dict = json.loads(done.out)
    return found


def test_musiccaps(examples: Path) -> None:
    path = examples / "musiccaps.dlm"
    found = checked(path, *HERE)
    assert found["tasks"] == {"answer": 6}
    (source,) = found["source_directives"]
    assert source["skipped_other_split"] == 1, "the row of AudioSet's evaluation set"
    assert source["skipped_rows_no_audio"] == 1 and source["skipped_names"] == ["dlm-piece-7"]
    done = dlm("check", path, "--show-labels", *HERE)
    assert "Describe the sound of the given file" in done.out
    trained = dlm("train", path, "--steps", 2, *HERE)
    assert trained.code == 0, trained.err
    assert "2 clips held out: loss" in trained.out and "listening gap" in trained.out


def test_conversation(examples: Path) -> None:
    path = examples / "conversation.dlm"
    found = checked(path, *HERE)
    assert found["tasks"] == {"answer": 12, "transcribe": 2}
    assert [each["audio_count"] for each in found["source_directives"]] == [12, 2]
    learns = next(line["value"] for line in found["plan"] if line["name"] == "learns")
    assert "projector" in learns and "lm" in learns
    done = dlm("train", path, "--steps", 2, *HERE)
    assert done.code == 0, done.err
    asked = "--audio", examples / "conversation/wavs/question_2.ogg"
    assert dlm("prompt", path, "Answer what you hear.", *asked).code == 0


def test_tones_and_alignment_name_what_is_made_first(examples: Path) -> None:
    dlm("train", examples / "tones.dlm", *HERE[:2]).refused("source not found: tones")
    dlm("train", examples / "alignment.dlm", *HERE[:2]).refused("./tones-base")
    assert dlm("tones", examples / "tones", "--count", 60).code == 0
    found = checked(examples / "tones.dlm", *HERE[:2])
    assert (found["learn"], found["held_out"]) == (50, 10)
    steps = next(line["value"] for line in found["plan"] if line["name"] == "steps")
    assert steps.startswith("50")
