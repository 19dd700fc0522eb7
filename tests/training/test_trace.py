"""Where a number first was not finite: by module, by tensor, by clip, forward and back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlm.data.types import Example
from dlm.errors import TrainingError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.adapters import get_trainable_parameters
from dlm.training.events import NonFiniteOrigin, StepCompleted, StepSkipped
from tests.cli_runner import dlm
from tests.tiny_models import (
    TrainingSetup,
    make_tiny_plan,
    make_tiny_spec,
    make_training_setup,
    write_document,
    write_tiny_model,
    write_tone_examples,
)

UP = "lm.model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 4)


def skipped(taught: TrainingSetup) -> StepSkipped:
    found = [event for event in taught.iter_events() if isinstance(event, StepSkipped)]
    return found[0]


def plan(folder: Path, **asked: object):
    return make_tiny_plan(folder, 4, steps=2, **{"adapter": "projector", **asked})


def deafened(clips: list[Example], broken: int, heard: object):
    """An ear that hears no numbers in one clip."""
    ear = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False, encode_fn=heard)

    def listen(sound):
        windows = ear(sound)
        if sound != clips[broken].audio_segments[0]:
            return windows
        return tuple(replace(w, values=torch.full_like(w.values, torch.nan)) for w in windows)

    return listen


@pytest.mark.parametrize(
    ("asked", "module"), [({"adapter": "projector"}, "projector"), ({"adapter": "full"}, "encoder")]
)
def test_a_planted_nan_clip_is_named(
    folder: Path, clips: list[Example], asked: dict, module: str
) -> None:
    drawn = plan(folder, **asked)
    hear = (
        make_training_setup(drawn, clips).model.encode_single
        if drawn.batches.use_cached_features
        else None
    )
    event = skipped(make_training_setup(drawn, clips, feature_fn=deafened(clips, 2, hear)))
    assert event.locations == event.non_finite_origin.locations == ("2.wav",)
    assert event.non_finite_origin.module.startswith(module)
    assert (
        event.non_finite_origin.direction,
        event.non_finite_origin.weight_name,
        event.non_finite_origin.is_input_non_finite,
    ) == ("forward", "", True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("planted", [3e38, torch.inf, torch.nan])
def test_a_planted_weight_is_named(
    folder: Path, clips: list[Example], planted: float, precision: str
) -> None:
    """Of the first one every number is finite, and none of what it makes."""
    taught = make_training_setup(plan(folder, precision=precision), clips)
    with torch.no_grad():
        taught.model.get_submodule(UP).weight[3] = planted
    fault = skipped(taught).non_finite_origin
    assert (fault.module, fault.direction, fault.weight_name) == (UP, "forward", f"{UP}.weight")
    assert set(fault.locations) == {f"{n}.wav" for n in range(4)} and not fault.is_input_non_finite


class Breaks(torch.autograd.Function):
    """As it is on the way forward; nothing on the way back from one row."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, above: torch.Tensor) -> torch.Tensor:
        return above * torch.where(above.abs().sum((1, 2), keepdim=True) > 0, torch.inf, 1.0)


@pytest.mark.parametrize("again", [False, True])
def test_a_gradient_is_followed_back_to_where_it_broke(
    folder: Path, clips: list[Example], again: bool
) -> None:
    taught = make_training_setup(plan(folder, gradient_checkpointing=again), clips)
    inner = taught.model.get_submodule("lm.model.layers.0.self_attn.o_proj")
    inner.register_forward_hook(lambda module, given, said: Breaks.apply(said))
    event = skipped(taught)
    assert event.reason == "the gradient is not finite"
    assert event.non_finite_origin.module == "lm.model.layers.0.self_attn.o_proj"
    assert event.non_finite_origin.direction == "backward"
    assert len(event.locations) == 1, "row by row, the first that breaks"


def test_a_gradient_that_only_a_weight_keeps_is_named_by_it(
    folder: Path, clips: list[Example]
) -> None:
    taught = make_training_setup(plan(folder), clips)
    taught.model.projector.enter.weight.register_hook(lambda grad: grad / 0.0)
    fault = skipped(taught).non_finite_origin
    assert fault.weight_name == "projector.enter.weight"
    assert (fault.module, fault.direction) == ("projector.enter", "backward")


def test_looking_for_it_changes_nothing(folder: Path, clips: list[Example]) -> None:
    """A run that skips a step goes on as if nobody had looked: without hooks, to the same bits."""
    drawn = make_tiny_plan(folder, 4, steps=4, micro_batch_size=1, grad_accum=2, adapter="full")
    runs = [
        make_training_setup(drawn, clips, feature_fn=deafened(clips, 1, None)) for _ in range(2)
    ]
    events = [[event for event in run.iter_events()] for run in runs]
    assert any(isinstance(event, StepSkipped) for event in events[0])
    assert not any(module._forward_hooks for module in runs[0].model.modules())
    assert not any(module._backward_hooks for module in runs[0].model.modules())
    one, other = get_trainable_parameters(runs[0].model), get_trainable_parameters(runs[1].model)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_tracing_ends_the_run_at_the_first_of_them(folder: Path, clips: list[Example]) -> None:
    taught = make_training_setup(plan(folder), clips, feature_fn=deafened(clips, 2, None))
    seen = []
    with pytest.raises(TrainingError) as told:
        for event in taught.iter_events(trace_nan=True):
            seen.append(event)
    assert isinstance(seen[-1], StepSkipped) and not any(
        isinstance(each, StepCompleted) for each in seen
    )
    said = str(told.value)
    assert said.startswith("2.wav: step 1: the loss is not finite, first in ")
    assert "(forward)" in said and "\n" not in said


def test_a_fault_says_itself() -> None:
    fault = NonFiniteOrigin("lm.mlp", "backward", ("a.wav",), "lm.mlp.weight")
    assert str(fault) == "first in lm.mlp (backward) by lm.mlp.weight"


def test_the_command_traces(folder: Path, tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=folder, training="  held_out: 0\n", num_clips=3)
    wild = ("--set", "training.learning_rate=1e30", "--set", "training.max_grad_norm=1e30")
    done = dlm("train", document, "--steps", 5, "--trace-nan", *wild)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "is not finite, first in " in last and "step " in last and "my.dlm:" in last
    assert "Traceback" not in done.err
    assert dlm("train", document, "--fresh", "--steps", 1, "--trace-nan").code == 0
