"""What is changed of sounds, in the plan: said in a line, counted in its memory, refused early."""

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
    TrainSetInfo,
)
from tests.tiny_models import LAPTOP, make_example, make_tiny_spec, write_tone

EVERYTHING = {
    "speed": [0.9, 1.1],
    "room": 0.5,
    "noise": "synthetic",
    "gain": [-6, 6],
    "codec": ["mulaw", "telephone"],
    "mask_time": {"seconds": 0.5},
    "mask_frequency": {"bins": 20},
    "share": 0.8,
}
FROZEN = {"adapter": "projector"}


def plan(
    folder: Path,
    augment: dict,
    *,
    base: ModelSpec | None = None,
    text: str = "",
    **training: object,
) -> Plan:
    known = {
        "dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "base_model": "tiny",
        "training": {**FROZEN, **training, "audio": {"augment": augment}},
    }
    document = Document(folder / "my.dlm", DlmConfig(**known), (), text, "0" * 64)
    spec, config = base or make_tiny_spec(), document.config.training
    return make_plan(
        config,
        spec,
        TrainSetInfo(100, num_stage_examples=(100,) * len(config.stages)),
        LAPTOP,
        augmentation=plan_augmentation(document, spec),
    )


def refusal(folder: Path, augment: dict, **how: object) -> str:
    with pytest.raises(PlanError) as told:
        plan(folder, augment, **how)
    assert len(str(told.value).splitlines()) == 1 and told.value.hint
    return str(told.value)


def test_without_it_nothing_is_said_and_features_are_kept(tmp_path: Path) -> None:
    for augment in ({}, {**EVERYTHING, "share": 0}):
        drawn = plan(tmp_path, augment)
        assert drawn.batches.augmentation is None and drawn.batches.use_cached_features
        assert not drawn.model.encode_every_step
        assert "augment" not in {line.name for line in summarize_plan(drawn)}


def test_every_change_is_said_in_the_order_it_is_made(tmp_path: Path) -> None:
    drawn = plan(tmp_path, EVERYTHING)
    assert drawn.batches.augmentation == AugmentationSpec(
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
    (line,) = [line for line in summarize_plan(drawn) if line.name == "augment"]
    assert line.value == (
        "speed 0.9 to 1.1, rooms of 0.2 to 0.8 s for 50%, synthetic noise 5 to 20 dB below, "
        "gain -6 to 6 dB, codec mulaw or telephone, 2 masks of up to 50 frames, "
        "2 masks of up to 20 bins, in 80% of the clips"
    )
    assert line.why == "features not cached: each epoch gets another variant"
    assert not drawn.batches.use_cached_features and drawn.model.encode_every_step


def test_an_encoder_that_learns_keeps_nothing_anyhow(tmp_path: Path) -> None:
    drawn = plan(tmp_path, {"gain": [0, 3]}, adapter="full")
    (line,) = [line for line in summarize_plan(drawn) if line.name == "augment"]
    assert (line.value, line.why) == ("gain 0 to 3 dB", "each epoch gets another variant")
    assert not drawn.batches.use_cached_features and not drawn.model.encode_every_step


def test_no_stage_keeps_features_either(tmp_path: Path) -> None:
    stages = [{"train": ["projector"], "steps": 1}, {"train": ["projector"], "steps": 1}]
    for augment, kept in (({}, True), ({"gain": [0, 3]}, False)):
        staged = plan(tmp_path, augment, stages=stages)
        assert [stage.use_cached_features for stage in staged.training.stages] == [kept, kept]


def test_hearing_every_batch_takes_memory(tmp_path: Path) -> None:
    """All windows of a batch are heard at once, where features would come from one at a time."""
    model = replace(plan(tmp_path, {}).model, spec=MODEL_CATALOG["qwen2-audio-7b-instruct"])
    afresh = replace(model, encode_every_step=True)

    def more(sound: int, rows: int) -> int:
        row = SequenceLengths(num_tokens=2000, num_audio_tokens=sound, num_labels=50)
        return estimate_activation_bytes(afresh, row, rows) - estimate_activation_bytes(
            model, row, rows
        )

    one_window = 750
    assert more(one_window, 1) == 0 < more(one_window, 2)
    assert more(one_window, 4) == 3 * more(one_window, 2)
    assert more(2 * one_window, 2) == more(one_window, 4)


def test_a_row_has_room_for_its_slowest_version(tmp_path: Path) -> None:
    base = replace(MODEL_CATALOG["sparrow"], context_length=10**6)
    clip = make_example(write_tone(tmp_path / "a.wav", hertz=300), "x")
    lasting = {clip.location: (300.0,)}
    one, slow, half = (
        estimate_sequence_lengths(
            base, 10**6, [clip], lasting, min_speed_percent=percent
        ).num_audio_tokens
        for percent in (100, 90, 50)
    )
    assert one < slow < half and abs(half - 2 * one) <= 2


@pytest.mark.parametrize("mask", [{"mask_time": {}}, {"mask_frequency": {"bins": 3}}])
def test_masks_are_of_a_mel(tmp_path: Path, mask: dict) -> None:
    base = replace(make_tiny_spec(), encoder_input="wave", num_mel_bins=0)
    told = refusal(tmp_path, mask, base=base)
    name = next(iter(mask))
    assert f"training.audio.augment.{name} masks a mel, and tiny takes the waveform itself" in told
    assert plan(tmp_path, {"gain": [0, 3]}, base=base).batches.augmentation


def test_a_mask_is_no_wider_than_the_mel(tmp_path: Path) -> None:
    told = refusal(tmp_path, {"mask_frequency": {"bins": 81}})
    assert "mask_frequency.bins is 81, and tiny takes 80 bins; use 26 or so" in told
    assert plan(tmp_path, {"mask_frequency": {"bins": 80}}).batches.augmentation


def test_a_folder_of_noise_is_looked_at_first(tmp_path: Path) -> None:
    text = "---\ntraining:\n  audio:\n    augment:\n      noise: rain\n---\n"
    here = f"{tmp_path / 'my.dlm'}:5: "
    told = refusal(tmp_path, {"noise": "rain"}, text=text)
    assert told.startswith(here + "noise not found: rain; make the folder, mend its path, or")
    (tmp_path / "rain").mkdir()
    (tmp_path / "rain/notes.txt").write_text("wet")
    assert refusal(tmp_path, {"noise": "rain"}, text=text).startswith(
        here + "no recordings of noise in rain; put recordings of noise there"
    )
    (tmp_path / "rain/a.wav").write_text("wet")
    assert refusal(tmp_path, {"noise": "rain"}, text=text).startswith("rain/a.wav: it holds text")
    write_tone(tmp_path / "rain/a.wav", hertz=300)
    drawn = plan(tmp_path, {"noise": "rain"}, text=text)
    (line,) = [line for line in summarize_plan(drawn) if line.name == "augment"]
    assert line.value == "noise from rain 5 to 20 dB below"


def test_other_noise_makes_another_plan(tmp_path: Path) -> None:
    hashes = []
    for seconds in (0.5, 0.5, 0.6):
        write_tone(tmp_path / "rain/a.wav", hertz=300, seconds=seconds)
        hashes.append(plan(tmp_path, {"noise": "rain"}).batches.augmentation.noise_sha256)
    assert hashes[0] == hashes[1] != hashes[2]
    one = plan(tmp_path, {"noise": "rain/a.wav"}).batches.augmentation
    assert one is not None and one.noise_source == "rain/a.wav"


@pytest.mark.parametrize("how", ["elsewhere", "a link"])
def test_strict_keeps_noise_inside(tmp_path: Path, how: str) -> None:
    home = tmp_path / "home"
    (home / "rain").mkdir(parents=True)
    outside = write_tone(tmp_path / "outside/a.wav", hertz=300)
    named = "../outside"
    if how == "a link":
        (home / "rain/a.wav").symlink_to(outside)
        named = "rain"
    assert plan(home, {"noise": named}).batches.augmentation
    told = refusal(home, {"noise": named}, sources_policy="strict")
    assert f"{named} lies outside the document's folder, and sources_policy is strict" in told
