"""`training.teacher` as a user meets it: what is refused, what is said, what is kept."""

import json
import re
from pathlib import Path

import pytest

from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model

TEACHER = (
    "  held_out: 0\n  adapter: lora\n  learning_rate: 0.01\n  teacher: {weight: 0.5, top_k: 8}\n"
)
ASKED = "\n::instruction::\n### Q\nWhat was that?\n### A\nA tone.\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def hashes(document: Path) -> list[dict[str, str]]:
    return [version["hashes"] for version in json.loads(dlm("versions", document, "--json").out)]


def test_a_run_with_a_teacher_goes_on_to_the_same_bits(
    tiny: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = write_document(tmp_path, base_model=tiny, training=TEACHER, num_clips=3, body=ASKED)
    done = dlm("train", document, "--steps", 4)
    assert done.code == 0, done.err
    assert re.search(
        r"^teacher +50% of the loss \(its 8 most probable tokens", done.out, re.MULTILINE
    )
    assert re.search(r"step 4/4  loss \d\.\d{3}  teacher \d\.\d{3}  ", done.err), done.err
    (log,) = home.rglob("log.jsonl")
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(step["teacher"] > 0 for step in steps if "gradient_norm" in step)
    for kept in home.rglob("features/*"):
        kept.unlink()  # nobody remembers what was said
    with monkeypatch.context() as patch:
        patch.setattr("dlm.cli.progress.stop_on_interrupt", lambda: lambda: True)
        assert dlm("train", document, "--steps", 4).code == 130
    assert dlm("train", document, "--steps", 4, "--resume").code == 0
    one, other = hashes(document)
    assert one == other


def test_a_sound_without_a_transcript_is_refused(tiny: Path, tmp_path: Path) -> None:
    talk = "\n::conversation::\n### User\n<audio>clips/{}.wav</audio> Who?\n### Assistant\nAnn.\n"
    write_document(tmp_path, base_model=tiny, num_clips=2)  # which makes the recordings
    (tmp_path / "clips/1.wav").rename(tmp_path / "clips/7.wav")
    document = write_document(
        tmp_path,
        base_model=tiny,
        training=TEACHER,
        num_clips=1,
        body=talk.format(0) + talk.format(7),
    )
    done = dlm("check", document)
    assert done.code == 1
    told = [line for line in (done.out + done.err).splitlines() if "training.teacher" in line]
    assert len(told) == 1, told
    assert "clips/7.wav has no transcript, which training.teacher reads" in told[0]
    dlm("train", document).refused("clips/7.wav has no transcript")
    assert dlm("check", document, "--set", "training.teacher.weight=0").code == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("{weight: 1.5}", "weight"),
        ("{weight: 0.5, temperature: 0}", "temperature"),
        ("{weight: 0.5, top_k: 0}", "top_k"),
        ("{wieght: 0.5}", "weight"),
    ],
)
def test_what_a_teacher_cannot_be(tiny: Path, tmp_path: Path, asked: str, words: str) -> None:
    document = write_document(tmp_path, base_model=tiny, training=f"  teacher: {asked}\n")
    dlm("check", document).refused("my.dlm:7", words)


def test_a_model_that_changes_whole_is_no_teacher(tiny: Path, tmp_path: Path) -> None:
    training = "  adapter: full\n  teacher: {weight: 1}\n"
    document = write_document(tmp_path, base_model=tiny, training=training)
    dlm("train", document).refused("training.teacher", error="plan.teacher_is_trained")
