"""The training loop: events, skipped steps, micro batches, checkpoints, and that the loss falls."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.utils import get_total_norm

from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import PlanError, TrainingError
from dlm.features.extractor import AudioFeatureExtractor, AudioFeatures
from dlm.models.adapters import get_trainable_parameters
from dlm.training.events import (
    CheckpointSaved,
    Evaluated,
    StepCompleted,
    StepSkipped,
    TrainingFinished,
    TrainingStarted,
)
from tests.tiny_models import (
    TrainingSetup,
    make_tiny_plan,
    make_tiny_spec,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 8)


def copy_weights(setup: TrainingSetup) -> Tensors:
    return {
        name: parameter.detach().clone()
        for name, parameter in get_trainable_parameters(setup.model).items()
    }


def train_steps(setup: TrainingSetup) -> list[StepCompleted]:
    return [event for event in setup.iter_events() if isinstance(event, StepCompleted)]


def test_events_of_a_run(model_dir: Path, examples: list[Example]) -> None:
    setup = make_training_setup(make_tiny_plan(model_dir, 8, steps=3), examples)
    events = list(setup.iter_events(evaluate_fn=lambda: ({"loss": 1.0, "gap": 2.0}, 8)))
    assert [type(event) for event in events] == [
        TrainingStarted,
        StepCompleted,
        StepCompleted,
        StepCompleted,
        CheckpointSaved,  # what was learned, before it is scored
        Evaluated,
        CheckpointSaved,
        TrainingFinished,
    ]
    started, first, *_, evaluated, saved, finished = events
    total = sum(event.numel() for event in setup.model.parameters())
    assert started == TrainingStarted(0, 3, total - 100 * 32, total)
    assert (first.step, first.num_examples) == (1, 8)
    assert first.num_label_tokens == sum(len(example.target) + 1 for example in examples)
    assert first.audio_seconds == pytest.approx(sum(0.4 + 0.05 * n for n in range(8)), abs=1e-3)
    assert evaluated == Evaluated(3, {"loss": 1.0, "gap": 2.0}, 8)
    assert (saved.step, saved.is_final) == (3, True)
    assert (finished.step, finished.reason) == (3, "done")
    assert finished.scores == {"loss": 1.0, "gap": 2.0}


def test_evaluation_runs_in_evaluation_mode(model_dir: Path, examples: list[Example]) -> None:
    setup = make_training_setup(make_tiny_plan(model_dir, 8, steps=1), examples)
    modes = []
    list(setup.iter_events(evaluate_fn=lambda: (modes.append(setup.model.training) or {}, 0)))
    assert modes == [False]


def test_no_evaluation_without_scores(model_dir: Path, examples: list[Example]) -> None:
    events = list(
        make_training_setup(make_tiny_plan(model_dir, 8, steps=1), examples).iter_events()
    )
    assert not any(isinstance(event, Evaluated) for event in events)
    assert events[-1].scores == {}


@pytest.mark.parametrize("split", [(1, 4), (2, 2), (3, 2)])
def test_step_does_not_depend_on_the_micro_batch_size(
    model_dir: Path, examples: list[Example], split: tuple[int, int]
) -> None:
    """Adam turns a rounding error of a gradient near zero into a step as large as the rate.

    Weights may therefore differ by a small part of it; the losses hardly do.
    """
    examples = examples[: split[0] * split[1]] if split != (1, 4) else examples[:4]
    training = {"steps": 4, "learning_rate": 1e-3}
    single_batch = make_training_setup(
        make_tiny_plan(
            model_dir, len(examples), micro_batch_size=len(examples), grad_accum=1, **training
        ),
        examples,
    )
    several_batches = make_training_setup(
        make_tiny_plan(
            model_dir, len(examples), micro_batch_size=split[0], grad_accum=split[1], **training
        ),
        examples,
    )
    assert (
        len(single_batch.batches.get_step_examples(0)),
        len(several_batches.batches.get_step_examples(0)),
    ) == (
        1,
        split[1],
    )
    single_batch_steps, several_batches_steps = (
        train_steps(single_batch),
        train_steps(several_batches),
    )
    assert [step.loss for step in single_batch_steps] == pytest.approx(
        [step.loss for step in several_batches_steps], abs=1e-5
    )
    for name, step in copy_weights(single_batch).items():
        assert torch.allclose(step, copy_weights(several_batches)[name], atol=1e-4), name


def test_gradients_are_clipped_to_the_maximum_norm(
    model_dir: Path, examples: list[Example]
) -> None:
    for max_norm in (1e-3, 1e6):
        setup = make_training_setup(
            make_tiny_plan(model_dir, 8, steps=2, max_grad_norm=max_norm), examples
        )
        for event in setup.iter_events():
            if isinstance(event, StepCompleted):
                norm = float(
                    get_total_norm(
                        [
                            parameter.grad
                            for parameter in get_trainable_parameters(setup.model).values()
                        ]
                    )
                )
                assert event.grad_norm > 0.1, "the norm before clipping is reported"
                assert norm == pytest.approx(min(max_norm, event.grad_norm), rel=1e-3)


def test_learning_rates_are_applied_and_reported(model_dir: Path, examples: list[Example]) -> None:
    """The first step of Adam changes some weights by their learning rate, and none by more."""
    rates = {"encoder": 1e-5, "projector": 1e-3, "lm.*norm*": 1e-4}
    plan = make_tiny_plan(
        model_dir, 8, steps=1, learning_rate=3e-5, rates=rates, warmup_ratio=0.0, max_grad_norm=1e3
    )
    setup = make_training_setup(plan, examples)
    before = copy_weights(setup)
    (step,) = train_steps(setup)
    assert step.learning_rates == {**rates, "lm": 3e-5}
    updates = {
        name: float((weight - before[name]).abs().max())
        for name, weight in copy_weights(setup).items()
    }
    for name, update in updates.items():
        part = name.split(".")[0]
        rate = 1e-4 if name.startswith("lm.") and "norm" in name else step.learning_rates[part]
        assert update == pytest.approx(rate, rel=0.1), name


def test_learning_rate_without_parameters_is_refused_before_the_first_step(
    model_dir: Path, examples: list[Example]
) -> None:
    setup = make_training_setup(
        make_tiny_plan(model_dir, 8, steps=1, rates={"lora": 1e-4}), examples
    )
    with pytest.raises(PlanError, match="training.rates names lora"):
        next(setup.iter_events())


def test_only_trainable_parameters_change(model_dir: Path, examples: list[Example]) -> None:
    for kind in ("projector", "lora", "dora"):
        setup = make_training_setup(make_tiny_plan(model_dir, 8, steps=2, adapter=kind), examples)
        trainable = set(get_trainable_parameters(setup.model))
        before = {name: value.clone() for name, value in setup.model.state_dict().items()}
        list(setup.iter_events())
        after = setup.model.state_dict()
        assert {name for name in after if not torch.equal(after[name], before[name])} == trainable


def test_model_overfits_six_tones(model_dir: Path, examples: list[Example]) -> None:
    from dlm.inference.evaluate import evaluate_model

    setup = make_training_setup(
        make_tiny_plan(model_dir, 6, steps=100, learning_rate=1e-2), examples[:6]
    )
    steps = train_steps(setup)
    assert steps[-1].loss < 0.1 < 3 < steps[0].loss
    report = evaluate_model(setup.engine, examples[:6])
    assert {score.reference: score.hypothesis for score in report.worst_examples} == {
        example.target: example.target for example in examples[:6]
    }
    assert (report.word_errors.rate, report.scores["wer"], report.scores["cer"]) == (0.0, 0.0, 0.0)
    assert report.scores["gap"] > 0.5
    assert report.scores["shuffled_loss"] >= 3 * report.scores["loss"]


def make_nan_feature_fn(
    bad_segment: AudioSegment,
) -> Callable[[AudioSegment], tuple[AudioFeatures, ...]]:
    """Features that are NaN for one segment."""
    extractor = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)

    def extract(segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        windows = extractor(segment)
        if segment != bad_segment:
            return windows
        return tuple(
            replace(window, values=torch.full_like(window.values, torch.nan)) for window in windows
        )

    return extract


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_nan_example_is_skipped_and_named(
    model_dir: Path, examples: list[Example], micro_batch_size: int
) -> None:
    plan = make_tiny_plan(
        model_dir, 8, steps=8, micro_batch_size=micro_batch_size, grad_accum=2 // micro_batch_size
    )
    setup = make_training_setup(
        plan, examples, feature_fn=make_nan_feature_fn(examples[3].audio_segments[0])
    )
    skipped, weights_before = [], copy_weights(setup)
    for event in setup.iter_events():
        weights_now = copy_weights(setup)
        is_unchanged = all(
            torch.equal(weights_now[name], weights_before[name]) for name in weights_now
        )
        if isinstance(event, StepSkipped):
            skipped.append(event)
            assert is_unchanged, "a skipped step changes no weight"
        elif isinstance(event, StepCompleted):
            assert not is_unchanged
        assert all(weight.isfinite().all() for weight in weights_now.values())
        weights_before = weights_now
    assert [event.locations for event in skipped] == [("3.wav",)] * 2, "once in each epoch"
    assert {event.reason for event in skipped} == {"the loss is not finite"}


def test_too_many_consecutive_skipped_steps_end_the_run(
    model_dir: Path, examples: list[Example]
) -> None:
    plan = make_tiny_plan(model_dir, 8, steps=9, stability={"max_skipped_steps": 3})
    setup = make_training_setup(
        plan, examples, feature_fn=make_nan_feature_fn(examples[3].audio_segments[0])
    )
    events = []
    with pytest.raises(TrainingError) as caught:
        for event in setup.iter_events():
            events.append(event)
    assert [type(event) for event in events] == [
        TrainingStarted,
        StepSkipped,
        StepSkipped,
        StepSkipped,
    ]
    assert str(caught.value).startswith("3.wav: 3 steps in a row were skipped")


def test_skipped_step_leaves_no_trace_in_the_optimizer(
    model_dir: Path, examples: list[Example]
) -> None:
    plan = make_tiny_plan(
        model_dir, 2, steps=2, micro_batch_size=1, grad_accum=1, lr_scheduler="constant"
    )
    plan = replace(plan, training=replace(plan.training, warmup_steps=0))
    clean = make_training_setup(plan, examples[:2])
    order = [clean.batches.get_step_examples(number)[0][0].location for number in range(2)]
    bad_example = next(example for example in examples[:2] if example.location == order[0])
    skipping = make_training_setup(
        plan, examples[:2], feature_fn=make_nan_feature_fn(bad_example.audio_segments[0])
    )
    assert [type(event) for event in skipping.iter_events()][1:3] == [StepSkipped, StepCompleted]
    good_examples = [example for example in examples[:2] if example is not bad_example]
    plan = make_tiny_plan(model_dir, 1, steps=1, lr_scheduler="constant")
    plan = replace(plan, training=replace(plan.training, warmup_steps=0))
    single_step = make_training_setup(plan, good_examples)
    list(single_step.iter_events())
    for name, weight in copy_weights(single_step).items():
        assert torch.equal(weight, copy_weights(skipping)[name]), name


def test_stopped_run_saves_a_checkpoint(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    setup = make_training_setup(make_tiny_plan(model_dir, 8, steps=9), examples)
    stops = iter([False, False, True])
    events = list(
        setup.iter_events(stop_fn=lambda: next(stops), evaluate_fn=lambda: ({"loss": 0.0}, 1))
    )
    assert [type(event) for event in events] == [
        TrainingStarted,
        StepCompleted,
        StepCompleted,
        StepCompleted,
        CheckpointSaved,
        TrainingFinished,
    ]
    saved, finished = events[-2:]
    assert (saved.step, saved.is_final) == (3, False)
    assert (finished.step, finished.num_steps, finished.reason) == (3, 9, "stopped")
    saved.write_fn(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("weights.safetensors", "moments.safetensors", "state.json")
    }


@pytest.mark.parametrize(
    ("save_steps", "checkpoint_steps"), [(2, [2, 4]), (1, [1, 2, 3, 4]), (9, [])]
)
def test_checkpoints_every_save_steps(
    model_dir: Path, examples: list[Example], save_steps: int, checkpoint_steps: list[int]
) -> None:
    setup = make_training_setup(
        make_tiny_plan(model_dir, 8, steps=5), examples, save_steps=save_steps
    )
    saved = [event for event in setup.iter_events() if isinstance(event, CheckpointSaved)]
    assert [event.step for event in saved] == [*checkpoint_steps, 5]
    assert [event.is_final for event in saved] == [*[False] * len(checkpoint_steps), True]


def test_checkpoints_after_the_save_interval(model_dir: Path, examples: list[Example]) -> None:
    setup = make_training_setup(
        make_tiny_plan(model_dir, 8, steps=3), examples, save_interval_seconds=0.0
    )
    assert [event.step for event in setup.iter_events() if isinstance(event, CheckpointSaved)] == [
        1,
        2,
        3,
    ]


def test_text_and_audio_examples_share_batches(model_dir: Path, examples: list[Example]) -> None:
    prose = [
        Example((Message("assistant", (f"Once {n}.",)),), f"prose {n}", "text") for n in range(3)
    ]
    plan = make_tiny_plan(model_dir, 6, steps=6, micro_batch_size=2, grad_accum=1)
    steps = train_steps(make_training_setup(plan, [*examples[:3], *prose]))
    assert len(steps) == 6
    assert sum(step.num_examples for step in steps) == 12


def test_large_seed_is_accepted(model_dir: Path, examples: list[Example]) -> None:
    plan = make_tiny_plan(model_dir, 8, steps=1, seed=2**62)
    assert len(train_steps(make_training_setup(plan, examples))) == 1


def test_loss_falls(model_dir: Path, examples: list[Example]) -> None:
    steps = train_steps(
        make_training_setup(make_tiny_plan(model_dir, 8, steps=12, learning_rate=5e-3), examples)
    )
    assert all(later.loss < earlier.loss for earlier, later in pairwise(steps[::4]))
