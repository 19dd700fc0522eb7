"""Learning from sounds that each pass hears otherwise: the same bits, from wherever one goes on."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlm.data.types import Example
from dlm.features.augment import Augmenter
from dlm.features.extractor import AudioFeatureExtractor, AugmentedExtractor, WaveformCache
from dlm.models.adapters import get_trainable_parameters
from dlm.training.events import CheckpointSaved, StepCompleted
from tests.tiny_models import (
    TrainingSetup,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

AUGMENT = {
    "speed": [0.8, 1.2],
    "noise": "synthetic",
    "gain": [-6, 6],
    "codec": ["none", "telephone"],
    "mask_time": {"count": 1, "seconds": 0.1},
    "mask_frequency": {"count": 1, "bins": 10},
}
STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 4)


def taught(
    folder: Path, clips: list[Example], *, seed: int = 42, **training: object
) -> TrainingSetup:
    asked = {"adapter": "projector", "learning_rate": 1e-3, "audio": {"augment": AUGMENT}}
    plan = make_tiny_plan(folder, len(clips), steps=STEPS, seed=seed, **{**asked, **training})
    plan = replace(plan, training=replace(plan.training, save_steps=1))
    changes, strides = plan.batches.augmentation, plan.batches.spec.audio_spec
    assert changes is not None and not plan.batches.use_cached_features
    ear = AudioFeatureExtractor(plan.batches.spec, auto_resample=False)
    augment = Augmenter(changes, strides, f"{plan.model.seed}/0")
    return make_training_setup(
        plan, clips, feature_fn=AugmentedExtractor(ear, augment, WaveformCache(1 << 30))
    )


def run(made: TrainingSetup, **given: object) -> tuple[list[float], bytes]:
    losses = [event.loss for event in made.iter_events(**given) if isinstance(event, StepCompleted)]
    learned = get_trainable_parameters(made.model)
    return losses, b"".join(learned[name].detach().numpy().tobytes() for name in sorted(learned))


@pytest.mark.parametrize("adapter", ["projector", "full"])
def test_the_same_seed_learns_the_same_bits(
    folder: Path, clips: list[Example], adapter: str
) -> None:
    one, other, third = (
        run(taught(folder, clips, seed=seed, adapter=adapter)) for seed in (7, 7, 8)
    )
    assert all(map(math.isfinite, one[0])) and len(one[0]) == STEPS
    assert one == other
    assert one[1] != third[1]


def test_each_pass_hears_another_version(folder: Path, clips: list[Example]) -> None:
    """With nothing learned, the loss of a pass differs because its sounds do."""
    still = taught(folder, clips, micro_batch_size=4, learning_rate=1e-30)
    losses, _ = run(still)
    assert still.batches.steps_per_epoch == 1
    assert len(set(losses)) == STEPS


def test_going_on_comes_to_the_same_bits(
    folder: Path, clips: list[Example], tmp_path: Path
) -> None:
    whole = taught(folder, clips, micro_batch_size=2)
    states = {}
    for event in whole.iter_events():
        if isinstance(event, CheckpointSaved) and not event.is_final:
            states[event.step] = tmp_path / str(event.step)
            states[event.step].mkdir()
            event.write_fn(states[event.step])
    expected = get_trainable_parameters(whole.model)
    for step in (1, 2, 5):
        again = taught(folder, clips, micro_batch_size=2)
        run(again, resume_dir=states[step])
        found = get_trainable_parameters(again.model)
        assert all(torch.equal(found[name], expected[name]) for name in expected), step
