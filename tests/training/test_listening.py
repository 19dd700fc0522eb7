"""Whether it listens, told on the way: to the log, to who watches, and without a trace."""

import json
from pathlib import Path

import pytest

import dlm
from dlm.training.events import AudioGapEvaluated, StepCompleted
from tests.cli_runner import dlm as command
from tests.tiny_models import write_document, write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path) -> Path:
    return write_document(
        tmp_path, base_model=tiny, training="  held_out: 0\n  learning_rate: 0.01\n"
    )


def test_the_gap_opens_as_it_learns(document: Path) -> None:
    found = list(dlm.train(document, steps=61, overrides={"training.listen_steps": 20}))
    told = [each for each in found if isinstance(each, AudioGapEvaluated)]
    assert [(each.step, each.num_examples) for each in told] == [(20, 6), (40, 6), (60, 6)]
    assert all(each.audio_gap == each.shuffled_loss - each.loss for each in told)
    assert told[-1].audio_gap > 0.3 > abs(told[0].audio_gap)
    losses = {each.step: each.loss for each in found if isinstance(each, StepCompleted)}
    assert told[1].loss == pytest.approx(losses[41], abs=0.05), "it is the model of that step"


def test_it_is_in_the_log_and_in_the_lines(document: Path, home: Path) -> None:
    done = command("train", document, "--steps", 3, "--set", "training.listen_steps=2")
    assert "step 2/3  listening gap " in done.err
    (log,) = home.rglob("log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (heard,) = [line for line in lines if line["event"] == "AudioGapEvaluated"]
    assert heard.keys() >= {"step", "loss", "shuffled_loss", "num_examples", "at"}
    steps = [line for line in lines if line["event"] == "StepCompleted"]
    assert all(
        set(line["component_grad_norms"]) == {"encoder", "projector", "lm"} for line in steps
    )
    assert (
        set(steps[0]["update_ratios"]) == {"encoder", "projector", "lm"}
        and not steps[1]["update_ratios"]
    )


def test_listening_leaves_no_trace(document: Path) -> None:
    versions = [
        list(dlm.train(document, steps=4, overrides={"training.listen_steps": every}))[-1]
        for every in (1, 100)
    ]
    assert versions[0].hashes == versions[1].hashes


def test_a_single_recording_has_no_gap(tiny: Path, tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=tiny, training="  held_out: 0\n", num_clips=1)
    asked = {"training.listen_steps": 1}
    assert not any(
        isinstance(each, AudioGapEvaluated)
        for each in dlm.train(document, steps=3, overrides=asked)
    )


@pytest.mark.parametrize(
    ("steps", "clips", "every"), [(10, 4, 80), (200, 4, 80), (1000, 4, 100), (1000, 1, 320)]
)
def test_it_costs_little_and_comes_ten_times_a_long_run(
    document: Path, steps: int, clips: int, every: int
) -> None:
    asked = {"training.micro_batch_size": clips, "training.grad_accum": 1}
    checked = next(iter(dlm.train(document, steps=steps, overrides=asked)))
    assert checked.plan.training.audio_gap_steps == every
