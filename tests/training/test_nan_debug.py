"""The first non-finite number: by module, weight, example and direction."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlm.data.types import Example
from dlm.errors import TrainingError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.adapters import get_trainable_parameters
from dlm.training.events import CheckpointSaved, NonFiniteOrigin, StepCompleted, StepSkipped
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

UP_PROJ = "lm.model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 4)


def find_skipped_step(setup: TrainingSetup) -> StepSkipped:
    return next(event for event in setup.iter_events() if isinstance(event, StepSkipped))


def make_plan(model_dir: Path, **training: object):
    return make_tiny_plan(model_dir, 4, steps=2, **{"adapter": "projector", **training})


def make_nan_feature_fn(examples: list[Example], bad_index: int, encode_fn: object):
    """Features that are NaN for one example."""
    extractor = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False, encode_fn=encode_fn)

    def extract(segment):
        windows = extractor(segment)
        if segment != examples[bad_index].audio_segments[0]:
            return windows
        return tuple(
            replace(window, values=torch.full_like(window.values, torch.nan)) for window in windows
        )

    return extract


@pytest.mark.parametrize(
    ("training", "module"),
    [({"adapter": "projector"}, "projector"), ({"adapter": "full"}, "encoder")],
)
def test_nan_features_are_named_by_example(
    model_dir: Path, examples: list[Example], training: dict, module: str
) -> None:
    plan = make_plan(model_dir, **training)
    encode_fn = (
        make_training_setup(plan, examples).model.encode_single
        if plan.batches.use_cached_features
        else None
    )
    event = find_skipped_step(
        make_training_setup(plan, examples, feature_fn=make_nan_feature_fn(examples, 2, encode_fn))
    )
    assert event.locations == event.non_finite_origin.locations == ("2.wav",)
    assert event.non_finite_origin.module.startswith(module)
    assert (
        event.non_finite_origin.direction,
        event.non_finite_origin.weight_name,
        event.non_finite_origin.is_input_non_finite,
    ) == ("forward", "", True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [3e38, torch.inf, torch.nan])
def test_non_finite_weight_is_named(
    model_dir: Path, examples: list[Example], value: float, precision: str
) -> None:
    """With the first value the weight is finite, and its product is not."""
    setup = make_training_setup(make_plan(model_dir, precision=precision), examples)
    with torch.no_grad():
        setup.model.get_submodule(UP_PROJ).weight[3] = value
    origin = find_skipped_step(setup).non_finite_origin
    assert (origin.module, origin.direction, origin.weight_name) == (
        UP_PROJ,
        "forward",
        f"{UP_PROJ}.weight",
    )
    assert (
        set(origin.locations) == {f"{n}.wav" for n in range(4)} and not origin.is_input_non_finite
    )


class InfiniteGradient(torch.autograd.Function):
    """The identity; its gradient is infinite where that of an example is not zero."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad_output: torch.Tensor) -> torch.Tensor:
        return grad_output * torch.where(
            grad_output.abs().sum((1, 2), keepdim=True) > 0, torch.inf, 1.0
        )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_non_finite_gradient_is_traced_to_its_module(
    model_dir: Path, examples: list[Example], checkpointing: bool
) -> None:
    setup = make_training_setup(
        make_plan(model_dir, gradient_checkpointing=checkpointing), examples
    )
    o_proj = setup.model.get_submodule("lm.model.layers.0.self_attn.o_proj")
    o_proj.register_forward_hook(lambda module, inputs, output: InfiniteGradient.apply(output))
    event = find_skipped_step(setup)
    assert event.reason == "the gradient is not finite"
    assert event.non_finite_origin.module == "lm.model.layers.0.self_attn.o_proj"
    assert event.non_finite_origin.direction == "backward"
    assert len(event.locations) == 1, "examples are searched one by one"


def test_non_finite_gradient_of_a_weight_is_named(model_dir: Path, examples: list[Example]) -> None:
    setup = make_training_setup(make_plan(model_dir), examples)
    setup.model.projector.enter.weight.register_hook(lambda grad: grad / 0.0)
    origin = find_skipped_step(setup).non_finite_origin
    assert origin.weight_name == "projector.enter.weight"
    assert (origin.module, origin.direction) == ("projector.enter", "backward")


def test_search_does_not_change_the_run(model_dir: Path, examples: list[Example]) -> None:
    """It leaves no hooks, and the weights are reproducible."""
    plan = make_tiny_plan(model_dir, 4, steps=4, micro_batch_size=1, grad_accum=2, adapter="full")
    setups = [
        make_training_setup(plan, examples, feature_fn=make_nan_feature_fn(examples, 1, None))
        for _ in range(2)
    ]
    events = [[event for event in setup.iter_events()] for setup in setups]
    assert any(isinstance(event, StepSkipped) for event in events[0])
    assert not any(module._forward_hooks for module in setups[0].model.modules())
    assert not any(module._backward_hooks for module in setups[0].model.modules())
    first, second = (
        get_trainable_parameters(setups[0].model),
        get_trainable_parameters(setups[1].model),
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_trace_nan_ends_the_run_at_the_first_skipped_step(
    model_dir: Path, examples: list[Example]
) -> None:
    setup = make_training_setup(
        make_plan(model_dir), examples, feature_fn=make_nan_feature_fn(examples, 2, None)
    )
    events = []
    with pytest.raises(TrainingError) as caught:
        for event in setup.iter_events(trace_nan=True):
            events.append(event)
    assert isinstance(events[-1], StepSkipped) and not any(
        isinstance(event, StepCompleted) for event in events
    )
    message = str(caught.value)
    assert message.startswith("2.wav: step 1: the loss is not finite, first in ")
    assert "(forward)" in message and "\n" not in message


def test_origin_as_text() -> None:
    origin = NonFiniteOrigin("lm.mlp", "backward", ("a.wav",), "lm.mlp.weight")
    assert str(origin) == "first in lm.mlp (backward) by lm.mlp.weight"


def test_trace_nan_option(model_dir: Path, tmp_path: Path) -> None:
    document = write_document(
        tmp_path, base_model=model_dir, training="  held_out: 0\n", num_clips=3
    )
    overrides = ("--set", "training.learning_rate=1e30", "--set", "training.max_grad_norm=1e30")
    result = dlm("train", document, "--steps", 5, "--trace-nan", *overrides)
    assert result.code == 1
    last_line = result.err.splitlines()[-1]
    assert (
        "is not finite, first in " in last_line and "step " in last_line and "my.dlm:" in last_line
    )
    assert "Traceback" not in result.err
    assert dlm("train", document, "--fresh", "--steps", 1, "--trace-nan").code == 0


def test_a_run_of_skipped_steps_alone_makes_no_version(
    model_dir: Path, examples: list[Example]
) -> None:
    """Wrong weights: fewer steps than stop a run, and not one of them changed a weight."""
    feature_fn = make_nan_feature_fn(examples, 2, None)
    setup = make_training_setup(
        make_plan(model_dir, adapter="full"), examples, feature_fn=feature_fn
    )
    events = setup.iter_events(evaluate_fn=lambda: ({"loss": 0.0}, 1))
    with pytest.raises(TrainingError, match="every step was skipped, so nothing was") as caught:
        for event in events:
            assert not isinstance(event, CheckpointSaved)
    assert caught.value.code == "training.non_finite" and caught.value.where == "2.wav"
