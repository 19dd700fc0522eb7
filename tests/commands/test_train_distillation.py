"""`dlm train` with training.teacher: printed, logged, resumed, refused."""

import json
import re
from pathlib import Path

import pytest

from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model

TEACHER = (
    "  held_out: 0\n  adapter: lora\n  learning_rate: 0.01\n  teacher: {weight: 0.5, top_k: 8}\n"
)
QUESTION = "\n::instruction::\n### Q\nWhat was that?\n### A\nA tone.\n"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def list_hashes(document: Path) -> list[dict[str, str]]:
    return [version["hashes"] for version in json.loads(dlm("versions", document, "--json").out)]


def test_resumed_run_with_a_teacher_makes_the_same_version(
    tiny_model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = write_document(
        tmp_path, base_model=tiny_model, training=TEACHER, num_clips=3, body=QUESTION
    )
    result = dlm("train", document, "--steps", 4)
    assert result.code == 0, result.err
    assert re.search(
        r"^teacher +50% of the loss \(its 8 most probable tokens", result.out, re.MULTILINE
    )
    assert re.search(r"step 4/4  loss \d\.\d{3}  teacher \d\.\d{3}  ", result.err), result.err
    (log,) = home.rglob("log.jsonl")
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(step["teacher"] > 0 for step in steps if "gradient_norm" in step)
    for path in home.rglob("features/*"):
        path.unlink()  # so that the teacher runs again
    with monkeypatch.context() as patch:
        patch.setattr("dlm.cli.progress.stop_on_interrupt", lambda: lambda: True)
        assert dlm("train", document, "--steps", 4).code == 130
    assert dlm("train", document, "--steps", 4, "--resume").code == 0
    first, second = list_hashes(document)
    assert first == second


def test_audio_without_a_transcript_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    conversation = (
        "\n::conversation::\n### User\n<audio>clips/{}.wav</audio> Who?\n### Assistant\nAnn.\n"
    )
    write_document(tmp_path, base_model=tiny_model, num_clips=2)  # which makes the recordings
    (tmp_path / "clips/1.wav").rename(tmp_path / "clips/7.wav")
    document = write_document(
        tmp_path,
        base_model=tiny_model,
        training=TEACHER,
        num_clips=1,
        body=conversation.format(0) + conversation.format(7),
    )
    result = dlm("check", document)
    assert result.code == 1
    lines = [line for line in (result.out + result.err).splitlines() if "training.teacher" in line]
    assert len(lines) == 1, lines
    assert "clips/7.wav has no transcript, which training.teacher reads" in lines[0]
    dlm("train", document).refused("clips/7.wav has no transcript")
    assert dlm("check", document, "--set", "training.teacher.weight=0").code == 0


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("{weight: 1.5}", "weight"),
        ("{weight: 0.5, temperature: 0}", "temperature"),
        ("{weight: 0.5, top_k: 0}", "top_k"),
        ("{wieght: 0.5}", "weight"),
    ],
)
def test_impossible_teacher_fields_are_refused(
    tiny_model: Path, tmp_path: Path, teacher: str, words: str
) -> None:
    document = write_document(tmp_path, base_model=tiny_model, training=f"  teacher: {teacher}\n")
    dlm("check", document).refused("my.dlm:7", words)


def test_fully_trained_model_is_no_teacher(tiny_model: Path, tmp_path: Path) -> None:
    training = "  adapter: full\n  teacher: {weight: 1}\n"
    document = write_document(tmp_path, base_model=tiny_model, training=training)
    dlm("train", document).refused("training.teacher", error="plan.teacher_is_trained")
