"""A run that goes on from a state comes to the same bits as one that was never cut short."""

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
KINDS = {"full": {"adapter": "full"}, "lora": LORA, "dora": {**LORA, "adapter": "dora"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make_tiny_config()
    config["encoders"][0]["config"]["dropout"] = 0.2
    return write_tiny_model(tmp_path_factory.mktemp("base"), config=config)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 7)


def plan(folder: Path, kind: str = "full", precision: str = "fp32", seed: int = 42) -> Plan:
    asked = {**KINDS[kind], "precision": precision, "learning_rate": 5e-3}
    return make_tiny_plan(
        folder, 7, steps=STEPS, seed=seed, micro_batch_size=1, grad_accum=2, **asked
    )


def states(taught: TrainingSetup, folder: Path, **given: Path) -> list[Path]:
    """Train to the end; the states on the way."""
    kept = []
    for event in taught.iter_events(**given):
        if isinstance(event, CheckpointSaved) and not event.is_final:
            kept.append(folder / str(event.step))
            kept[-1].mkdir(parents=True)
            event.write_fn(kept[-1])
    return kept


def sha256(taught: TrainingSetup, folder: Path) -> str:
    folder.mkdir()
    save_adapter(taught.model, taught.plan.model.adapter, folder)
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_going_on_comes_to_the_same_bits(
    folder: Path, clips: list[Example], tmp_path: Path, kind: str, precision: str
) -> None:
    drawn = plan(folder, kind, precision)
    whole = make_training_setup(drawn, clips, save_steps=1)
    kept = states(whole, tmp_path / "whole")
    assert [path.name for path in kept] == ["1", "2", "3", "4", "5"]
    for state in (kept[0], kept[3]):
        torch.manual_seed(99)  # another process has drawn other numbers
        again = make_training_setup(drawn, clips, save_steps=1)
        later = states(again, tmp_path / f"from {state.name}", resume_dir=state)
        assert [path.name for path in later] == [path.name for path in kept[int(state.name) :]]
        mine, theirs = get_trainable_parameters(again.model), get_trainable_parameters(whole.model)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        for path in later:
            for file in path.iterdir():
                assert (
                    file.read_bytes() == (tmp_path / "whole" / path.name / file.name).read_bytes()
                )
    assert sha256(again, tmp_path / "a") == sha256(whole, tmp_path / "b")


def test_it_goes_on_where_it_was(folder: Path, clips: list[Example], tmp_path: Path) -> None:
    drawn = plan(folder)
    state = states(make_training_setup(drawn, clips, save_steps=4), tmp_path)[0]
    events = list(make_training_setup(drawn, clips).iter_events(resume_dir=state))
    assert isinstance(events[0], TrainingStarted) and events[0].step == 4
    assert [event.step for event in events if isinstance(event, StepCompleted)] == [5, 6]


def test_a_run_cut_short_twice_comes_to_the_same_bits(
    folder: Path, clips: list[Example], tmp_path: Path
) -> None:
    drawn = plan(folder, "lora")
    whole = make_training_setup(drawn, clips)
    list(whole.iter_events())
    state = None
    for turn in range(3):
        part = make_training_setup(drawn, clips)
        stops = iter([False, True] if turn < 2 else [False] * STEPS)
        for event in part.iter_events(resume_dir=state, stop_fn=lambda stops=stops: next(stops)):
            if isinstance(event, CheckpointSaved) and not event.is_final:
                state = tmp_path / str(event.step)
                state.mkdir()
                event.write_fn(state)
    assert sha256(part, tmp_path / "a") == sha256(whole, tmp_path / "b")


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_seed_makes_the_adapter(
    folder: Path, clips: list[Example], tmp_path: Path, kind: str
) -> None:
    hashes = []
    for turn, seed in enumerate((7, 7, 8)):
        taught = make_training_setup(plan(folder, kind, seed=seed), clips)
        list(taught.iter_events())
        hashes.append(sha256(taught, tmp_path / str(turn)))
    assert hashes[0] == hashes[1] != hashes[2]


def damage(state: Path, how: str) -> None:
    weights = load_file(state / "weights.safetensors")
    moments = load_file(state / "moments.safetensors")
    name = "projector.norm.weight"
    match how:
        case "no state":
            (state / "state.json").unlink()
        case "half state":
            (state / "state.json").write_text('{"st')
        case "no step":
            (state / "state.json").write_text("{}")
        case "half weights":
            (state / "weights.safetensors").write_bytes(b"\0" * 7)
        case "no moments":
            (state / "moments.safetensors").unlink()
        case "other name":
            weights["odd"] = weights.pop(name)
        case "other shape":
            weights[name] = torch.ones(1)
        case "other moments":
            moments["odd/exp_avg"] = torch.ones(1)
    if how.startswith("other"):
        save_file(weights, state / "weights.safetensors")
        save_file(moments, state / "moments.safetensors")


@pytest.mark.parametrize(
    "how",
    [
        *("no state", "half state", "no step", "half weights", "no moments"),
        *("other name", "other shape", "other moments"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    folder: Path, clips: list[Example], tmp_path: Path, how: str
) -> None:
    state = states(make_training_setup(plan(folder), clips, save_steps=5), tmp_path)[0]
    damage(state, how)
    with pytest.raises(TrainingError) as told:
        next(make_training_setup(plan(folder), clips).iter_events(resume_dir=state))
    assert str(told.value).startswith(str(state)) and "--fresh" in str(told.value)


def test_a_state_of_another_plan_is_refused(
    folder: Path, clips: list[Example], tmp_path: Path
) -> None:
    state = states(make_training_setup(plan(folder), clips, save_steps=5), tmp_path)[0]
    with pytest.raises(TrainingError, match="another plan"):
        next(make_training_setup(plan(folder, "lora"), clips).iter_events(resume_dir=state))


def test_a_state_is_plain(folder: Path, clips: list[Example], tmp_path: Path) -> None:
    taught = make_training_setup(plan(folder), clips, save_steps=5)
    state = states(taught, tmp_path)[0]
    assert json.loads((state / "state.json").read_text()) == {"step": 5}
    names = set(get_trainable_parameters(taught.model))
    assert set(load_file(state / "weights.safetensors")) == names
    assert {key.rpartition("/")[0] for key in load_file(state / "moments.safetensors")} == names


class Marked:
    """Batches that say where they stand, as a stream does."""

    def __init__(self, batches: BucketBatchSampler) -> None:
        self.batches, self.asked = batches, []

    def iter_batches(
        self, start: int, stop: int, share: RankSpec, cursor: DataCursor
    ) -> Iterator[list[Batch]]:
        self.asked.append((start, cursor))
        return self.batches.iter_batches(start, stop, share, cursor)

    def get_cursor(self, done: int) -> DataCursor:
        return (7, done)


def test_a_stream_goes_on_from_its_cursor(
    folder: Path, clips: list[Example], tmp_path: Path
) -> None:
    taught = make_training_setup(plan(folder), clips, save_steps=4)
    marked = Marked(taught.batches)
    state = states(replace(taught, batches=marked), tmp_path)[0]
    assert json.loads((state / "state.json").read_text()) == {"step": 4, "cursors": [[7, 4]]}
    again = Marked(taught.batches)
    list(
        replace(make_training_setup(plan(folder), clips), batches=again).iter_events(
            resume_dir=state
        )
    )
    assert (marked.asked, again.asked) == ([(0, ())], [(4, (7, 4))])


def test_a_state_of_more_processes_is_refused(
    folder: Path, clips: list[Example], tmp_path: Path
) -> None:
    state = states(make_training_setup(plan(folder), clips, save_steps=5), tmp_path)[0]
    (state / "state.json").write_text(json.dumps({"step": 5, "cursors": [[1], [2]]}))
    with pytest.raises(TrainingError, match="of 2 processes, and now there are 1; start as many"):
        next(make_training_setup(plan(folder), clips).iter_events(resume_dir=state))
