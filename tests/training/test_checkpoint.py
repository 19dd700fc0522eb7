"""Checkpoints: a resumed run trains the same weights as one that was never stopped."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlm.batching.collator import Batch
from dlm.batching.samplers import BucketBatchSampler, DataCursor, RankSpec
from dlm.data.types import Example
from dlm.errors import TrainingError
from dlm.models.adapters import get_trainable_parameters, save_adapter
from dlm.plan.types import Plan
from dlm.training.events import CheckpointSaved, StepCompleted, TrainingStarted
from tests.tiny_models import (
    TrainingSetup,
    make_tiny_config,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

STEPS = 6
LORA = {"adapter": "lora", "lora_dropout": 0.3, "lora": {"where": ["lm", "projector"]}}
ADAPTERS = {"full": {"adapter": "full"}, "lora": LORA, "dora": {**LORA, "adapter": "dora"}}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make_tiny_config()
    config["encoders"][0]["config"]["dropout"] = 0.2
    return write_tiny_model(tmp_path_factory.mktemp("base"), config=config)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 7)


def make_plan(
    model_dir: Path, adapter: str = "full", precision: str = "fp32", seed: int = 42
) -> Plan:
    training = {**ADAPTERS[adapter], "precision": precision, "learning_rate": 5e-3}
    return make_tiny_plan(
        model_dir, 7, steps=STEPS, seed=seed, micro_batch_size=1, grad_accum=2, **training
    )


def train_and_save(setup: TrainingSetup, checkpoints_dir: Path, **callbacks: Path) -> list[Path]:
    """Train to the end; return the folders of the checkpoints."""
    checkpoints = []
    for event in setup.iter_events(**callbacks):
        if isinstance(event, CheckpointSaved) and not event.is_final:
            checkpoints.append(checkpoints_dir / str(event.step))
            checkpoints[-1].mkdir(parents=True)
            event.write_fn(checkpoints[-1])
    return checkpoints


def hash_adapter(setup: TrainingSetup, adapter_dir: Path) -> str:
    adapter_dir.mkdir()
    save_adapter(setup.model, setup.plan.model.adapter, adapter_dir)
    return hashlib.sha256((adapter_dir / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_resumed_run_trains_the_same_weights(
    model_dir: Path, examples: list[Example], tmp_path: Path, adapter: str, precision: str
) -> None:
    plan = make_plan(model_dir, adapter, precision)
    reference = make_training_setup(plan, examples, save_steps=1)
    checkpoints = train_and_save(reference, tmp_path / "whole")
    assert [path.name for path in checkpoints] == ["1", "2", "3", "4", "5"]
    for checkpoint in (checkpoints[0], checkpoints[3]):
        torch.manual_seed(99)  # another process has other random numbers
        resumed = make_training_setup(plan, examples, save_steps=1)
        later_checkpoints = train_and_save(
            resumed, tmp_path / f"from {checkpoint.name}", resume_dir=checkpoint
        )
        assert [path.name for path in later_checkpoints] == [
            path.name for path in checkpoints[int(checkpoint.name) :]
        ]
        parameters, reference_parameters = (
            get_trainable_parameters(resumed.model),
            get_trainable_parameters(reference.model),
        )
        assert all(
            torch.equal(parameters[name], reference_parameters[name])
            for name in reference_parameters
        )
        for path in later_checkpoints:
            for file in path.iterdir():
                assert (
                    file.read_bytes() == (tmp_path / "whole" / path.name / file.name).read_bytes()
                )
    assert hash_adapter(resumed, tmp_path / "a") == hash_adapter(reference, tmp_path / "b")


def test_resumed_run_continues_after_the_last_step(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    plan = make_plan(model_dir)
    checkpoint = train_and_save(make_training_setup(plan, examples, save_steps=4), tmp_path)[0]
    events = list(make_training_setup(plan, examples).iter_events(resume_dir=checkpoint))
    assert isinstance(events[0], TrainingStarted) and events[0].step == 4
    assert [event.step for event in events if isinstance(event, StepCompleted)] == [5, 6]


def test_run_stopped_twice_trains_the_same_weights(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    plan = make_plan(model_dir, "lora")
    reference = make_training_setup(plan, examples)
    list(reference.iter_events())
    checkpoint = None
    for attempt in range(3):
        partial_run = make_training_setup(plan, examples)
        stops = iter([False, True] if attempt < 2 else [False] * STEPS)
        for event in partial_run.iter_events(
            resume_dir=checkpoint, stop_fn=lambda stops=stops: next(stops)
        ):
            if isinstance(event, CheckpointSaved) and not event.is_final:
                checkpoint = tmp_path / str(event.step)
                checkpoint.mkdir()
                event.write_fn(checkpoint)
    assert hash_adapter(partial_run, tmp_path / "a") == hash_adapter(reference, tmp_path / "b")


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_seed_decides_the_adapter(
    model_dir: Path, examples: list[Example], tmp_path: Path, adapter: str
) -> None:
    hashes = []
    for attempt, seed in enumerate((7, 7, 8)):
        setup = make_training_setup(make_plan(model_dir, adapter, seed=seed), examples)
        list(setup.iter_events())
        hashes.append(hash_adapter(setup, tmp_path / str(attempt)))
    assert hashes[0] == hashes[1] != hashes[2]


def damage_checkpoint(checkpoint: Path, damage: str) -> None:
    weights = load_file(checkpoint / "weights.safetensors")
    moments = load_file(checkpoint / "moments.safetensors")
    name = "projector.norm.weight"
    match damage:
        case "no state":
            (checkpoint / "state.json").unlink()
        case "half state":
            (checkpoint / "state.json").write_text('{"st')
        case "no step":
            (checkpoint / "state.json").write_text("{}")
        case "half weights":
            (checkpoint / "weights.safetensors").write_bytes(b"\0" * 7)
        case "no moments":
            (checkpoint / "moments.safetensors").unlink()
        case "other name":
            weights["odd"] = weights.pop(name)
        case "other shape":
            weights[name] = torch.ones(1)
        case "other moments":
            moments["odd/exp_avg"] = torch.ones(1)
    if damage.startswith("other"):
        save_file(weights, checkpoint / "weights.safetensors")
        save_file(moments, checkpoint / "moments.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        *("no state", "half state", "no step", "half weights", "no moments"),
        *("other name", "other shape", "other moments"),
    ],
)
def test_damaged_checkpoint_is_refused(
    model_dir: Path, examples: list[Example], tmp_path: Path, damage: str
) -> None:
    checkpoint = train_and_save(
        make_training_setup(make_plan(model_dir), examples, save_steps=5), tmp_path
    )[0]
    damage_checkpoint(checkpoint, damage)
    with pytest.raises(TrainingError) as caught:
        next(make_training_setup(make_plan(model_dir), examples).iter_events(resume_dir=checkpoint))
    assert str(caught.value).startswith(str(checkpoint)) and "--fresh" in str(caught.value)
    other_plan = damage.startswith("other")
    code = "training.other_plan" if other_plan else "training.bad_checkpoint"
    assert caught.value.code == code


def test_checkpoint_of_another_plan_is_refused(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    checkpoint = train_and_save(
        make_training_setup(make_plan(model_dir), examples, save_steps=5), tmp_path
    )[0]
    with pytest.raises(TrainingError, match="another plan"):
        next(
            make_training_setup(make_plan(model_dir, "lora"), examples).iter_events(
                resume_dir=checkpoint
            )
        )


def test_files_of_a_checkpoint(model_dir: Path, examples: list[Example], tmp_path: Path) -> None:
    setup = make_training_setup(make_plan(model_dir), examples, save_steps=5)
    checkpoint = train_and_save(setup, tmp_path)[0]
    assert json.loads((checkpoint / "state.json").read_text()) == {"step": 5}
    names = set(get_trainable_parameters(setup.model))
    assert set(load_file(checkpoint / "weights.safetensors")) == names
    assert {
        key.rpartition("/")[0] for key in load_file(checkpoint / "moments.safetensors")
    } == names


class CursorSource:
    """Batches with a cursor, as those of a stream."""

    def __init__(self, batches: BucketBatchSampler) -> None:
        self.batches, self.requests = batches, []

    def iter_batches(
        self, start_step: int, stop_step: int, rank_spec: RankSpec, cursor: DataCursor
    ) -> Iterator[list[Batch]]:
        self.requests.append((start_step, cursor))
        return self.batches.iter_batches(start_step, stop_step, rank_spec, cursor)

    def get_cursor(self, num_steps: int) -> DataCursor:
        return (7, num_steps)


def test_stream_resumes_from_its_cursor(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    setup = make_training_setup(make_plan(model_dir), examples, save_steps=4)
    source = CursorSource(setup.batches)
    checkpoint = train_and_save(replace(setup, batches=source), tmp_path)[0]
    assert json.loads((checkpoint / "state.json").read_text()) == {"step": 4, "cursors": [[7, 4]]}
    resumed = CursorSource(setup.batches)
    list(
        replace(make_training_setup(make_plan(model_dir), examples), batches=resumed).iter_events(
            resume_dir=checkpoint
        )
    )
    assert (source.requests, resumed.requests) == ([(0, ())], [(4, (7, 4))])


def test_checkpoint_of_more_processes_is_refused(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    checkpoint = train_and_save(
        make_training_setup(make_plan(model_dir), examples, save_steps=5), tmp_path
    )[0]
    (checkpoint / "state.json").write_text(json.dumps({"step": 5, "cursors": [[1], [2]]}))
    with pytest.raises(TrainingError, match="had 2 processes, and now there are 1; start as many"):
        next(make_training_setup(make_plan(model_dir), examples).iter_events(resume_dir=checkpoint))
