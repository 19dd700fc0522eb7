"""Augmentation in the plan: its numbers, its line, its memory, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm.config.parser import Document
from dlm.config.schema import DlmConfig
from dlm.errors import PlanError
from dlm.plan.augmentation import plan_augmentation
from dlm.plan.memory import estimate_activation_bytes, estimate_sequence_lengths
from dlm.plan.model_spec import MODEL_CATALOG, ModelSpec
from dlm.plan.planner import make_plan
from dlm.plan.summary import summarize_plan
from dlm.plan.types import (
    AugmentationSpec,
    Plan,
    SequenceLengths,
    SpecAugmentMasks,
    SummaryLine,
    TrainSetInfo,
)
from tests.tiny_models import DLM_ID, LAPTOP, make_example, make_tiny_spec, write_tone

ALL_CHANGES = {
    "speed": [0.9, 1.1],
    "room": 0.5,
    "noise": "synthetic",
    "gain": [-6, 6],
    "codec": ["mulaw", "telephone"],
    "mask_time": {"seconds": 0.5},
    "mask_frequency": {"bins": 20},
    "share": 0.8,
}


def plan(
    folder: Path,
    augment: dict,
    *,
    spec: ModelSpec | None = None,
    text: str = "",
    **training: object,
) -> Plan:
    """The plan of a document on a laptop; the encoder is frozen unless `adapter` says otherwise."""
    training = {"adapter": "projector", **training, "audio": {"augment": augment}}
    config = DlmConfig(dlm_id=DLM_ID, base_model="tiny", training=training)
    document = Document(folder / "my.dlm", config, (), text, "0" * 64)
    spec = spec or make_tiny_spec()
    train_set = TrainSetInfo(100, num_stage_examples=(100,) * len(config.training.stages))
    augmentation = plan_augmentation(document, spec)
    return make_plan(config.training, spec, train_set, LAPTOP, augmentation=augmentation)


def refusal(folder: Path, augment: dict, **options: object) -> PlanError:
    with pytest.raises(PlanError) as caught:
        plan(folder, augment, **options)
    assert "\n" not in str(caught.value) and caught.value.hint
    return caught.value


def find_summary_line(plan: Plan) -> SummaryLine:
    (line,) = [line for line in summarize_plan(plan) if line.name == "augment"]
    return line


@pytest.mark.parametrize("augment", [{}, {**ALL_CHANGES, "share": 0}], ids=["none", "share 0"])
def test_without_augmentation_features_are_cached(tmp_path: Path, augment: dict) -> None:
    without = plan(tmp_path, augment)
    assert without.batches.augmentation is None and without.batches.use_cached_features
    assert not without.model.encode_every_step
    assert "augment" not in {line.name for line in summarize_plan(without)}


def test_every_change_is_planned_and_described_in_order(tmp_path: Path) -> None:
    augmented = plan(tmp_path, ALL_CHANGES)
    assert augmented.batches.augmentation == AugmentationSpec(
        probability=0.8,
        speed_percent=(90, 110),
        reverb_probability=0.5,
        rt60_seconds=(0.2, 0.8),
        noise_source="synthetic",
        snr_db=(5.0, 20.0),
        gain_db=(-6.0, 6.0),
        codecs=("mulaw", "telephone"),
        time_masks=SpecAugmentMasks(2, 50, 0.2),
        frequency_masks=SpecAugmentMasks(2, 20),
    )
    line = find_summary_line(augmented)
    assert line.value == (
        "speed 0.9 to 1.1, rooms of 0.2 to 0.8 s for 50%, synthetic noise 5 to 20 dB below, "
        "gain -6 to 6 dB, codec mulaw or telephone, 2 masks of up to 50 frames, "
        "2 masks of up to 20 bins, in 80% of the clips"
    )
    assert line.why == "features not cached: each epoch gets another variant"
    assert not augmented.batches.use_cached_features and augmented.model.encode_every_step


def test_a_trained_encoder_has_no_cached_features_to_lose(tmp_path: Path) -> None:
    augmented = plan(tmp_path, {"gain": [0, 3]}, adapter="full")
    line = find_summary_line(augmented)
    assert (line.value, line.why) == ("gain 0 to 3 dB", "each epoch gets another variant")
    assert not augmented.batches.use_cached_features and not augmented.model.encode_every_step


@pytest.mark.parametrize(("augment", "is_cached"), [({}, True), ({"gain": [0, 3]}, False)])
def test_stages_do_not_cache_augmented_features(
    tmp_path: Path, augment: dict, is_cached: bool
) -> None:
    stages = [{"train": ["projector"], "steps": 1}, {"train": ["projector"], "steps": 1}]
    staged = plan(tmp_path, augment, stages=stages)
    assert [stage.use_cached_features for stage in staged.training.stages] == [is_cached] * 2


def test_encoding_every_step_takes_memory_for_all_windows_of_a_batch(tmp_path: Path) -> None:
    """Features that are cached are encoded one window at a time."""
    cached = replace(plan(tmp_path, {}).model, spec=MODEL_CATALOG["qwen2-audio-7b-instruct"])
    encoded = replace(cached, encode_every_step=True)

    def extra_bytes(num_audio_tokens: int, batch_size: int) -> int:
        lengths = SequenceLengths(2000, num_audio_tokens=num_audio_tokens, num_labels=50)
        encoded_bytes = estimate_activation_bytes(encoded, lengths, batch_size)
        return encoded_bytes - estimate_activation_bytes(cached, lengths, batch_size)

    window_tokens = 750
    assert extra_bytes(window_tokens, 1) == 0 < extra_bytes(window_tokens, 2)
    assert extra_bytes(window_tokens, 4) == 3 * extra_bytes(window_tokens, 2)
    assert extra_bytes(2 * window_tokens, 2) == extra_bytes(window_tokens, 4)


def test_sequence_lengths_have_room_for_the_slowest_variant(tmp_path: Path) -> None:
    spec = replace(MODEL_CATALOG["sparrow"], context_length=10**6)
    example = make_example(write_tone(tmp_path / "a.wav", hertz=300), "x")
    durations = {example.location: (300.0,)}
    unchanged, slower, half = (
        estimate_sequence_lengths(
            spec, 10**6, [example], durations, min_speed_percent=percent
        ).num_audio_tokens
        for percent in (100, 90, 50)
    )
    assert unchanged < slower < half and abs(half - 2 * unchanged) <= 2


@pytest.mark.parametrize("mask", [{"mask_time": {}}, {"mask_frequency": {"bins": 3}}])
def test_masks_need_a_model_that_takes_a_mel(tmp_path: Path, mask: dict) -> None:
    spec = replace(make_tiny_spec(), encoder_input="wave", num_mel_bins=0)
    error = refusal(tmp_path, mask, spec=spec)
    assert error.code == "plan.mask_without_mel"
    assert f"training.audio.augment.{next(iter(mask))} " in error.what
    assert plan(tmp_path, {"gain": [0, 3]}, spec=spec).batches.augmentation


def test_a_mask_wider_than_the_mel_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, {"mask_frequency": {"bins": 81}})
    assert (error.code, error.hint) == ("plan.mask_too_wide", "use 26 or so")
    assert plan(tmp_path, {"mask_frequency": {"bins": 80}}).batches.augmentation


def test_noise_that_cannot_be_read_is_refused_where_it_is_written(tmp_path: Path) -> None:
    text = "---\ntraining:\n  audio:\n    augment:\n      noise: rain\n---\n"
    location = f"{tmp_path / 'my.dlm'}:5"
    error = refusal(tmp_path, {"noise": "rain"}, text=text)
    assert error.where == location and "not found: rain" in error.what
    (tmp_path / "rain").mkdir()
    (tmp_path / "rain/notes.txt").write_text("wet")
    error = refusal(tmp_path, {"noise": "rain"}, text=text)
    assert error.where == location and "no recordings of noise in rain" in error.what
    (tmp_path / "rain/a.wav").write_text("wet")
    error = refusal(tmp_path, {"noise": "rain"}, text=text)
    assert error.where == "rain/a.wav" and "text" in error.what
    write_tone(tmp_path / "rain/a.wav", hertz=300)
    line = find_summary_line(plan(tmp_path, {"noise": "rain"}, text=text))
    assert line.value == "noise from rain 5 to 20 dB below"


def test_other_noise_recordings_make_another_plan(tmp_path: Path) -> None:
    hashes = []
    for seconds in (0.5, 0.5, 0.6):
        write_tone(tmp_path / "rain/a.wav", hertz=300, seconds=seconds)
        hashes.append(plan(tmp_path, {"noise": "rain"}).batches.augmentation.noise_sha256)
    assert hashes[0] == hashes[1] != hashes[2]
    augmentation = plan(tmp_path, {"noise": "rain/a.wav"}).batches.augmentation
    assert augmentation is not None and augmentation.noise_source == "rain/a.wav"


@pytest.mark.parametrize("is_link", [False, True], ids=["a path", "a link"])
def test_strict_refuses_noise_outside_the_folder(tmp_path: Path, is_link: bool) -> None:
    folder = tmp_path / "home"
    (folder / "rain").mkdir(parents=True)
    outside = write_tone(tmp_path / "outside/a.wav", hertz=300)
    noise = "../outside"
    if is_link:
        (folder / "rain/a.wav").symlink_to(outside)
        noise = "rain"
    assert plan(folder, {"noise": noise}).batches.augmentation
    error = refusal(folder, {"noise": noise}, sources_policy="strict")
    assert error.code == "data.outside_folder" and noise in error.what
