"""Whether sounds can be changed as a document asks, and how it is said.

All that can be known before weights are loaded is looked at here: the folder of noise, the masks'
place in the mel, what plays a clip faster.
"""

import hashlib
import re

from dlm.config.data_schema import (
    SYNTHETIC_NOISE,
    AugmentationConfig,
    FrequencyMaskConfig,
    TimeMaskConfig,
    speed_to_percent,
)
from dlm.config.parser import Document
from dlm.data.audio_io import choose_resampler
from dlm.data.synthetic import NoiseRecording, list_noise_recordings
from dlm.errors import DataError, PlanError
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import AugmentationSpec, SpecAugmentMasks, SummaryLine

AUGMENT_FIELD = "training.audio.augment"


def plan_augmentation(document: Document, spec: ModelSpec) -> AugmentationSpec | None:
    """What each pass changes, None where that is nothing. Raises PlanError for what cannot be."""
    asked = document.config.training.audio.augment
    if not asked.is_enabled:
        return None
    _check_masks(asked, spec)
    try:
        found = list_noise_recordings(document)
        if asked.speed or any(each.rate != spec.audio_spec.sample_rate for each in found):
            choose_resampler()
    except DataError as error:
        where = error.where or _find_field_location("noise", document)
        raise PlanError(error.what, where=where, hint=error.hint) from error
    return AugmentationSpec(
        probability=asked.share,
        speed_percent=(speed_to_percent(asked.speed[0]), speed_to_percent(asked.speed[1]))
        if asked.speed
        else None,
        reverb_probability=asked.room,
        rt60_seconds=asked.rt60,
        noise_source=asked.noise,
        noise_sha256=_hash_noise_recordings(found) if found else None,
        snr_db=asked.snr,
        gain_db=asked.gain,
        codecs=asked.codec,
        time_masks=_build_time_masks(asked.mask_time, spec) if asked.mask_time else None,
        frequency_masks=_build_frequency_masks(asked.mask_frequency)
        if asked.mask_frequency
        else None,
    )


def summarize_augmentation(
    augmentation: AugmentationSpec | None, *, encoder_frozen: bool
) -> tuple[SummaryLine, ...]:
    """The line of the plan; a `frozen` encoder hears every clip in every pass all the same."""
    if augmentation is None:
        return ()
    told = ", ".join(_describe_augmentation(augmentation))
    if augmentation.probability < 1:
        told += f", in {augmentation.probability:.0%} of the clips"
    why = "each pass hears another version"
    return (SummaryLine("augment", told, f"features not kept: {why}" if encoder_frozen else why),)


def _check_masks(config: AugmentationConfig, spec: ModelSpec) -> None:
    """Refuse masks where there is no mel, or none so wide."""
    named = "mask_time" if config.mask_time else "mask_frequency"
    if (config.mask_time or config.mask_frequency) and spec.encoder_input == "wave":
        what = f"{AUGMENT_FIELD}.{named} is of a mel, and {spec.key} hears the wave itself"
        raise PlanError(what, hint="take it out")
    if config.mask_frequency and config.mask_frequency.bins > spec.num_mel_bins:
        bins = config.mask_frequency.bins
        what = (
            f"{AUGMENT_FIELD}.mask_frequency.bins is {bins}, "
            f"and {spec.key} hears {spec.num_mel_bins} bins"
        )
        raise PlanError(what, hint=f"use {spec.num_mel_bins // 3} or so")


def _build_time_masks(config: TimeMaskConfig, spec: ModelSpec) -> SpecAugmentMasks:
    """Masks in time, in frames of the mel."""
    frames = round(config.seconds * spec.audio_spec.sample_rate / spec.audio_spec.hop_length)
    return SpecAugmentMasks(config.count, max(frames, 1), config.most)


def _build_frequency_masks(config: FrequencyMaskConfig) -> SpecAugmentMasks:
    return SpecAugmentMasks(config.count, config.bins)


def _hash_noise_recordings(recordings: tuple[NoiseRecording, ...]) -> str:
    """One hash of the names and lengths of the recordings of noise."""
    return hashlib.sha256(
        repr([(each.name, each.seconds) for each in recordings]).encode()
    ).hexdigest()


def _find_field_location(field: str, document: Document) -> str:
    """The line of the document that sets a field, as far as it can be found."""
    lines = document.text.split("\n")
    form = re.compile(rf"\b{field}\s*:")
    found = (number for number, line in enumerate(lines, start=1) if form.search(line))
    number = next(found, None)
    return f"{document.path}:{number}" if number else str(document.path)


def _describe_augmentation(augmentation: AugmentationSpec) -> list[str]:
    """Each change in a few words, in the order they are made."""
    told = []
    if augmentation.speed_percent:
        slow, fast = augmentation.speed_percent
        told.append(f"speed {slow / 100:g} to {fast / 100:g}")
    if augmentation.reverb_probability:
        dry, long = augmentation.rt60_seconds
        told.append(f"rooms of {dry:g} to {long:g} s for {augmentation.reverb_probability:.0%}")
    if augmentation.noise_source:
        near, far = augmentation.snr_db
        made_up = augmentation.noise_source == SYNTHETIC_NOISE
        what = "synthetic noise" if made_up else f"noise from {augmentation.noise_source}"
        told.append(f"{what} {near:g} to {far:g} dB below")
    if augmentation.gain_db:
        low, high = augmentation.gain_db
        told.append(f"gain {low:g} to {high:g} dB")
    if augmentation.codecs:
        told.append(f"codec {' or '.join(augmentation.codecs)}")
    if augmentation.time_masks:
        told.append(
            f"{augmentation.time_masks.num_masks} masks of "
            f"up to {augmentation.time_masks.max_width} frames"
        )
    if augmentation.frequency_masks:
        told.append(
            f"{augmentation.frequency_masks.num_masks} masks of "
            f"up to {augmentation.frequency_masks.max_width} bins"
        )
    return told
