"""The listening gap during training: measured, logged, printed, without an effect."""

import json
from pathlib import Path

import pytest

import dlm
from dlm.training.events import AudioGapEvaluated, StepCompleted
from tests.cli_runner import dlm as command
from tests.tiny_models import write_document, write_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(model_dir: Path, tmp_path: Path) -> Path:
    return write_document(
        tmp_path, base_model=model_dir, training="  held_out: 0\n  learning_rate: 0.01\n"
    )


def test_audio_gap_grows_in_training(document: Path) -> None:
    events = list(dlm.train(document, steps=61, overrides={"training.listen_steps": 20}))
    gaps = [gap for gap in events if isinstance(gap, AudioGapEvaluated)]
    assert [(gap.step, gap.num_examples) for gap in gaps] == [(20, 6), (40, 6), (60, 6)]
    assert all(gap.audio_gap == gap.shuffled_loss - gap.loss for gap in gaps)
    assert gaps[-1].audio_gap > 0.3 > abs(gaps[0].audio_gap)
    losses = {gap.step: gap.loss for gap in events if isinstance(gap, StepCompleted)}
    assert gaps[1].loss == pytest.approx(losses[41], abs=0.05), (
        "it is measured with the weights of that step"
    )


def test_audio_gap_is_logged_and_printed(document: Path, home: Path) -> None:
    result = command("train", document, "--steps", 3, "--set", "training.listen_steps=2")
    assert "step 2/3  listening gap " in result.err
    (log,) = home.rglob("log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (event,) = [line for line in lines if line["event"] == "AudioGapEvaluated"]
    assert event.keys() >= {"step", "loss", "shuffled_loss", "num_examples", "at"}
    steps = [line for line in lines if line["event"] == "StepCompleted"]
    assert all(
        set(line["component_grad_norms"]) == {"encoder", "projector", "lm"} for line in steps
    )
    assert (
        set(steps[0]["update_ratios"]) == {"encoder", "projector", "lm"}
        and not steps[1]["update_ratios"]
    )


def test_measuring_the_gap_does_not_change_the_version(document: Path) -> None:
    versions = [
        list(dlm.train(document, steps=4, overrides={"training.listen_steps": gap_steps}))[-1]
        for gap_steps in (1, 100)
    ]
    assert versions[0].hashes == versions[1].hashes


def test_single_recording_has_no_gap(model_dir: Path, tmp_path: Path) -> None:
    document = write_document(
        tmp_path, base_model=model_dir, training="  held_out: 0\n", num_clips=1
    )
    overrides = {"training.listen_steps": 1}
    assert not any(
        isinstance(event, AudioGapEvaluated)
        for event in dlm.train(document, steps=3, overrides=overrides)
    )


@pytest.mark.parametrize(
    ("steps", "micro_batch_size", "gap_steps"),
    [(10, 4, 80), (200, 4, 80), (1000, 4, 100), (1000, 1, 320)],
)
def test_default_interval_of_measurements(
    document: Path, steps: int, micro_batch_size: int, gap_steps: int
) -> None:
    overrides = {"training.micro_batch_size": micro_batch_size, "training.grad_accum": 1}
    preflight = next(iter(dlm.train(document, steps=steps, overrides=overrides)))
    assert preflight.plan.training.audio_gap_steps == gap_steps
