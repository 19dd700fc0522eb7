"""Training on augmented audio: reproducible, and resumed to the same weights."""

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
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"), 4)


def make_augmented_setup(
    model_dir: Path, examples: list[Example], *, seed: int = 42, **training: object
) -> TrainingSetup:
    fields = {"adapter": "projector", "learning_rate": 1e-3, "audio": {"augment": AUGMENT}}
    plan = make_tiny_plan(
        model_dir, len(examples), steps=STEPS, seed=seed, **{**fields, **training}
    )
    plan = replace(plan, training=replace(plan.training, save_steps=1))
    augmentation, audio_spec = plan.batches.augmentation, plan.batches.spec.audio_spec
    assert augmentation is not None and not plan.batches.use_cached_features
    extractor = AudioFeatureExtractor(plan.batches.spec, auto_resample=False)
    augmenter = Augmenter(augmentation, audio_spec, f"{plan.model.seed}/0")
    return make_training_setup(
        plan, examples, feature_fn=AugmentedExtractor(extractor, augmenter, WaveformCache(1 << 30))
    )


def train(setup: TrainingSetup, **callbacks: object) -> tuple[list[float], bytes]:
    losses = [
        event.loss for event in setup.iter_events(**callbacks) if isinstance(event, StepCompleted)
    ]
    parameters = get_trainable_parameters(setup.model)
    return losses, b"".join(
        parameters[name].detach().numpy().tobytes() for name in sorted(parameters)
    )


@pytest.mark.parametrize("adapter", ["projector", "full"])
def test_same_seed_gives_the_same_weights(
    model_dir: Path, examples: list[Example], adapter: str
) -> None:
    first, second, third = (
        train(make_augmented_setup(model_dir, examples, seed=seed, adapter=adapter))
        for seed in (7, 7, 8)
    )
    assert all(map(math.isfinite, first[0])) and len(first[0]) == STEPS
    assert first == second
    assert first[1] != third[1]


def test_every_epoch_has_other_audio(model_dir: Path, examples: list[Example]) -> None:
    """Without updates, the loss of an epoch differs only because its audio does."""
    setup = make_augmented_setup(model_dir, examples, micro_batch_size=4, learning_rate=1e-30)
    losses, _ = train(setup)
    assert setup.batches.steps_per_epoch == 1
    assert len(set(losses)) == STEPS


def test_resumed_run_has_the_same_weights(
    model_dir: Path, examples: list[Example], tmp_path: Path
) -> None:
    reference = make_augmented_setup(model_dir, examples, micro_batch_size=2)
    checkpoints = {}
    for event in reference.iter_events():
        if isinstance(event, CheckpointSaved) and not event.is_final:
            checkpoints[event.step] = tmp_path / str(event.step)
            checkpoints[event.step].mkdir()
            event.write_fn(checkpoints[event.step])
    expected = get_trainable_parameters(reference.model)
    for step in (1, 2, 5):
        resumed = make_augmented_setup(model_dir, examples, micro_batch_size=2)
        train(resumed, resume_dir=checkpoints[step])
        resumed_parameters = get_trainable_parameters(resumed.model)
        assert all(torch.equal(resumed_parameters[name], expected[name]) for name in expected), step
