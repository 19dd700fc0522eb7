"""The loop: what it says, what it skips, how it is cut, and that it learns."""

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 8)


def weights(taught: TrainingSetup) -> Tensors:
    return {
        name: each.detach().clone() for name, each in get_trainable_parameters(taught.model).items()
    }


def steps_of(taught: TrainingSetup) -> list[StepCompleted]:
    return [event for event in taught.iter_events() if isinstance(event, StepCompleted)]


def test_a_run_says_what_happens(folder: Path, clips: list[Example]) -> None:
    taught = make_training_setup(make_tiny_plan(folder, 8, steps=3), clips)
    events = list(taught.iter_events(evaluate_fn=lambda: ({"loss": 1.0, "gap": 2.0}, 8)))
    assert [type(each) for each in events] == [
        TrainingStarted,
        StepCompleted,
        StepCompleted,
        StepCompleted,
        Evaluated,
        CheckpointSaved,
        TrainingFinished,
    ]
    started, first, *_, checked, saved, finished = events
    total = sum(each.numel() for each in taught.model.parameters())
    assert started == TrainingStarted(0, 3, total - 100 * 32, total)
    assert (first.step, first.num_examples) == (1, 8)
    assert first.num_label_tokens == sum(len(clip.target) + 1 for clip in clips)
    assert first.audio_seconds == pytest.approx(sum(0.4 + 0.05 * n for n in range(8)), abs=1e-3)
    assert checked == Evaluated(3, {"loss": 1.0, "gap": 2.0}, 8)
    assert (saved.step, saved.is_final) == (3, True)
    assert (finished.step, finished.reason) == (3, "done")
    assert finished.scores == {"loss": 1.0, "gap": 2.0}


def test_it_checks_in_evaluation_mode(folder: Path, clips: list[Example]) -> None:
    taught = make_training_setup(make_tiny_plan(folder, 8, steps=1), clips)
    modes = []
    list(taught.iter_events(evaluate_fn=lambda: (modes.append(taught.model.training) or {}, 0)))
    assert modes == [False]


def test_it_says_nothing_of_scores_it_has_not(folder: Path, clips: list[Example]) -> None:
    events = list(make_training_setup(make_tiny_plan(folder, 8, steps=1), clips).iter_events())
    assert not any(isinstance(each, Evaluated) for each in events)
    assert events[-1].scores == {}


@pytest.mark.parametrize("cut", [(1, 4), (2, 2), (3, 2)])
def test_a_step_does_not_depend_on_how_it_is_cut(
    folder: Path, clips: list[Example], cut: tuple[int, int]
) -> None:
    """Four clips at once, or one after the other: the same within fp32 rounding.

    Adam makes a rounding error of a gradient near zero as large as the rate, so weights may differ
    by a small part of it; the losses hardly do.
    """
    clips = clips[: cut[0] * cut[1]] if cut != (1, 4) else clips[:4]
    asked = {"steps": 4, "learning_rate": 1e-3}
    whole = make_training_setup(
        make_tiny_plan(folder, len(clips), micro_batch_size=len(clips), grad_accum=1, **asked),
        clips,
    )
    parts = make_training_setup(
        make_tiny_plan(folder, len(clips), micro_batch_size=cut[0], grad_accum=cut[1], **asked),
        clips,
    )
    assert (len(whole.batches.get_step_examples(0)), len(parts.batches.get_step_examples(0))) == (
        1,
        cut[1],
    )
    one, other = steps_of(whole), steps_of(parts)
    assert [each.loss for each in one] == pytest.approx([each.loss for each in other], abs=1e-5)
    for name, each in weights(whole).items():
        assert torch.allclose(each, weights(parts)[name], atol=1e-4), name


def test_gradients_are_cut_to_their_limit(folder: Path, clips: list[Example]) -> None:
    for limit in (1e-3, 1e6):
        taught = make_training_setup(make_tiny_plan(folder, 8, steps=2, max_grad_norm=limit), clips)
        for event in taught.iter_events():
            if isinstance(event, StepCompleted):
                norm = float(
                    get_total_norm(
                        [each.grad for each in get_trainable_parameters(taught.model).values()]
                    )
                )
                assert event.grad_norm > 0.1, "what is told is the norm before the cut"
                assert norm == pytest.approx(min(limit, event.grad_norm), rel=1e-3)


def test_rates_are_obeyed_and_said(folder: Path, clips: list[Example]) -> None:
    """The first step of Adam moves a weight by its rate at most, and some weights by just that."""
    rates = {"encoder": 1e-5, "projector": 1e-3, "lm.*norm*": 1e-4}
    plan = make_tiny_plan(
        folder, 8, steps=1, learning_rate=3e-5, rates=rates, warmup_ratio=0.0, max_grad_norm=1e3
    )
    taught = make_training_setup(plan, clips)
    before = weights(taught)
    (step,) = steps_of(taught)
    assert step.learning_rates == {**rates, "lm": 3e-5}
    moved = {
        name: float((each - before[name]).abs().max()) for name, each in weights(taught).items()
    }
    for name, far in moved.items():
        part = name.split(".")[0]
        rate = 1e-4 if name.startswith("lm.") and "norm" in name else step.learning_rates[part]
        assert far == pytest.approx(rate, rel=0.1), name


def test_a_rate_for_nothing_is_an_error_before_the_first_step(
    folder: Path, clips: list[Example]
) -> None:
    taught = make_training_setup(make_tiny_plan(folder, 8, steps=1, rates={"lora": 1e-4}), clips)
    with pytest.raises(PlanError, match="training.rates names lora"):
        next(taught.iter_events())


def test_only_what_should_learn_changes(folder: Path, clips: list[Example]) -> None:
    for kind in ("projector", "lora", "dora"):
        taught = make_training_setup(make_tiny_plan(folder, 8, steps=2, adapter=kind), clips)
        learns = set(get_trainable_parameters(taught.model))
        before = {name: each.clone() for name, each in taught.model.state_dict().items()}
        list(taught.iter_events())
        after = taught.model.state_dict()
        assert {name for name in after if not torch.equal(after[name], before[name])} == learns


def test_six_tones_are_learned_by_heart(folder: Path, clips: list[Example]) -> None:
    from dlm.inference.evaluate import evaluate_model

    taught = make_training_setup(
        make_tiny_plan(folder, 6, steps=100, learning_rate=1e-2), clips[:6]
    )
    told = steps_of(taught)
    assert told[-1].loss < 0.1 < 3 < told[0].loss
    report = evaluate_model(taught.engine, clips[:6])
    assert {each.reference: each.hypothesis for each in report.worst_examples} == {
        clip.target: clip.target for clip in clips[:6]
    }
    assert (report.word_errors.rate, report.scores["wer"], report.scores["cer"]) == (0.0, 0.0, 0.0)
    assert report.scores["gap"] > 0.5
    assert report.scores["shuffled_loss"] >= 3 * report.scores["loss"]


def deafened(broken: AudioSegment) -> Callable[[AudioSegment], tuple[AudioFeatures, ...]]:
    """An ear that hears no numbers in one sound."""
    ear = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)

    def listen(sound: AudioSegment) -> tuple[AudioFeatures, ...]:
        heard = ear(sound)
        if sound != broken:
            return heard
        return tuple(
            replace(each, values=torch.full_like(each.values, torch.nan)) for each in heard
        )

    return listen


@pytest.mark.parametrize("micro", [1, 2])
def test_a_clip_that_makes_nan_is_skipped_by_name(
    folder: Path, clips: list[Example], micro: int
) -> None:
    plan = make_tiny_plan(folder, 8, steps=8, micro_batch_size=micro, grad_accum=2 // micro)
    taught = make_training_setup(plan, clips, feature_fn=deafened(clips[3].audio_segments[0]))
    skipped, last = [], weights(taught)
    for event in taught.iter_events():
        now = weights(taught)
        same = all(torch.equal(now[name], last[name]) for name in now)
        if isinstance(event, StepSkipped):
            skipped.append(event)
            assert same, "nothing was learned from a skipped step"
        elif isinstance(event, StepCompleted):
            assert not same
        assert all(each.isfinite().all() for each in now.values())
        last = now
    assert [event.locations for event in skipped] == [("3.wav",)] * 2, "once in each epoch"
    assert {event.reason for event in skipped} == {"the loss is not finite"}


def test_too_many_skips_in_a_row_end_the_run(folder: Path, clips: list[Example]) -> None:
    plan = make_tiny_plan(folder, 8, steps=9, stability={"max_skipped_steps": 3})
    taught = make_training_setup(plan, clips, feature_fn=deafened(clips[3].audio_segments[0]))
    seen = []
    with pytest.raises(TrainingError) as told:
        for event in taught.iter_events():
            seen.append(event)
    assert [type(each) for each in seen] == [TrainingStarted, StepSkipped, StepSkipped, StepSkipped]
    assert str(told.value).startswith("3.wav: 3 steps in a row were skipped")


def test_the_run_learns_what_a_run_without_the_step_would(
    folder: Path, clips: list[Example]
) -> None:
    """A skipped step leaves no trace in the moments of the optimiser either."""
    plan = make_tiny_plan(
        folder, 2, steps=2, micro_batch_size=1, grad_accum=1, lr_scheduler="constant"
    )
    plan = replace(plan, training=replace(plan.training, warmup_steps=0))
    whole = make_training_setup(plan, clips[:2])
    order = [whole.batches.get_step_examples(number)[0][0].location for number in range(2)]
    broken = next(clip for clip in clips[:2] if clip.location == order[0])
    skipping = make_training_setup(plan, clips[:2], feature_fn=deafened(broken.audio_segments[0]))
    assert [type(each) for each in skipping.iter_events()][1:3] == [StepSkipped, StepCompleted]
    kept = [clip for clip in clips[:2] if clip is not broken]
    alone = make_tiny_plan(folder, 1, steps=1, lr_scheduler="constant")
    alone = replace(alone, training=replace(alone.training, warmup_steps=0))
    single = make_training_setup(alone, kept)
    list(single.iter_events())
    for name, each in weights(single).items():
        assert torch.equal(each, weights(skipping)[name]), name


def test_stopping_saves_and_says_so(folder: Path, clips: list[Example], tmp_path: Path) -> None:
    taught = make_training_setup(make_tiny_plan(folder, 8, steps=9), clips)
    asked = iter([False, False, True])
    events = list(
        taught.iter_events(stop_fn=lambda: next(asked), evaluate_fn=lambda: ({"loss": 0.0}, 1))
    )
    assert [type(each) for each in events] == [
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


@pytest.mark.parametrize(("every", "saves"), [(2, [2, 4]), (1, [1, 2, 3, 4]), (9, [])])
def test_it_saves_when_it_is_due(
    folder: Path, clips: list[Example], every: int, saves: list[int]
) -> None:
    taught = make_training_setup(make_tiny_plan(folder, 8, steps=5), clips, save_steps=every)
    saved = [each for each in taught.iter_events() if isinstance(each, CheckpointSaved)]
    assert [each.step for each in saved] == [*saves, 5]
    assert [each.is_final for each in saved] == [*[False] * len(saves), True]


def test_it_saves_when_time_is_up(folder: Path, clips: list[Example]) -> None:
    taught = make_training_setup(
        make_tiny_plan(folder, 8, steps=3), clips, save_interval_seconds=0.0
    )
    assert [each.step for each in taught.iter_events() if isinstance(each, CheckpointSaved)] == [
        1,
        2,
        3,
    ]


def test_prose_and_sound_are_learned_together(folder: Path, clips: list[Example]) -> None:
    prose = [
        Example((Message("assistant", (f"Once {n}.",)),), f"prose {n}", "text") for n in range(3)
    ]
    plan = make_tiny_plan(folder, 6, steps=6, micro_batch_size=2, grad_accum=1)
    told = steps_of(make_training_setup(plan, [*clips[:3], *prose]))
    assert len(told) == 6
    assert sum(each.num_examples for each in told) == 12


def test_a_large_seed_is_a_seed(folder: Path, clips: list[Example]) -> None:
    plan = make_tiny_plan(folder, 8, steps=1, seed=2**62)
    assert len(steps_of(make_training_setup(plan, clips))) == 1


def test_the_loss_falls(folder: Path, clips: list[Example]) -> None:
    told = steps_of(
        make_training_setup(make_tiny_plan(folder, 8, steps=12, learning_rate=5e-3), clips)
    )
    assert all(later.loss < earlier.loss for earlier, later in pairwise(told[::4]))
