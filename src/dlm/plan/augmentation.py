"""Whether `training.audio.augment` can be done, in numbers, and its line of the plan.

Everything that can be known before weights are loaded is checked here: the noise recordings can be
read and resampled, and masks (SpecAugment) fit the mel of the model.
"""

import hashlib
import re

from dlm.config.data_schema import SYNTHETIC_NOISE, AugmentationConfig, speed_to_percent
from dlm.config.parser import Document
from dlm.data.audio_io import choose_resampler
from dlm.data.synthetic import list_noise_recordings
from dlm.errors import DataError, PlanError
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import AugmentationSpec, SpecAugmentMasks, SummaryLine

AUGMENT_FIELD = "training.audio.augment"


def plan_augmentation(document: Document, spec: ModelSpec) -> AugmentationSpec | None:
    """Return what each epoch changes, or None where that is nothing.

    Raises:
        PlanError: the model takes no mel to mask (`plan.mask_without_mel`), a mask is wider than
            the mel (`plan.mask_too_wide`), or the noise cannot be used (a code of `DataError`).
    """
    config, audio_spec = document.config.training.audio.augment, spec.audio_spec
    if not config.is_enabled:
        return None
    _check_masks(config, spec)
    try:
        noise_recordings = list_noise_recordings(document)
        if config.speed or any(
            noise.sample_rate != audio_spec.sample_rate for noise in noise_recordings
        ):
            choose_resampler()
    except DataError as error:
        where = error.where or _find_noise_location(document)
        raise PlanError(error.what, where=where, hint=error.hint, code=error.code) from error
    noise_key = repr([(noise.name, noise.seconds) for noise in noise_recordings])
    time_masks, frequency_masks = config.mask_time, config.mask_frequency
    mask_samples = time_masks.seconds * audio_spec.sample_rate if time_masks else 0
    mask_frames = max(round(mask_samples / audio_spec.hop_length), 1)
    return AugmentationSpec(
        probability=config.share,
        speed_percent=(speed_to_percent(config.speed[0]), speed_to_percent(config.speed[1]))
        if config.speed
        else None,
        reverb_probability=config.room,
        rt60_seconds=config.rt60,
        noise_source=config.noise,
        noise_sha256=hashlib.sha256(noise_key.encode()).hexdigest() if noise_recordings else None,
        snr_db=config.snr,
        gain_db=config.gain,
        codecs=config.codec,
        time_masks=SpecAugmentMasks(time_masks.count, mask_frames, time_masks.most)
        if time_masks
        else None,
        frequency_masks=SpecAugmentMasks(frequency_masks.count, frequency_masks.bins)
        if frequency_masks
        else None,
    )


def summarize_augmentation(
    augmentation: AugmentationSpec | None, *, encoder_frozen: bool
) -> tuple[SummaryLine, ...]:
    """Return the line of the plan; with a frozen encoder it says that features are not cached."""
    if augmentation is None:
        return ()
    value = ", ".join(_describe_augmentation(augmentation))
    if augmentation.probability < 1:
        value += f", in {augmentation.probability:.0%} of the clips"
    why = "each epoch gets another variant"
    return (
        SummaryLine("augment", value, f"features not cached: {why}" if encoder_frozen else why),
    )


def _check_masks(config: AugmentationConfig, spec: ModelSpec) -> None:
    mask_field = "mask_time" if config.mask_time else "mask_frequency"
    if (config.mask_time or config.mask_frequency) and spec.encoder_input == "wave":
        raise PlanError(
            f"{AUGMENT_FIELD}.{mask_field} masks a mel, and {spec.key} takes the waveform itself",
            hint="take it out",
            code="plan.mask_without_mel",
        )
    if config.mask_frequency and config.mask_frequency.bins > spec.num_mel_bins:
        raise PlanError(
            f"{AUGMENT_FIELD}.mask_frequency.bins is {config.mask_frequency.bins}, "
            f"and {spec.key} takes {spec.num_mel_bins} bins",
            hint=f"use {spec.num_mel_bins // 3} or so",
            code="plan.mask_too_wide",
        )


def _find_noise_location(document: Document) -> str:
    """The document's line that sets `noise`, as far as it can be found."""
    for number, line in enumerate(document.text.split("\n"), start=1):
        if re.search(r"\bnoise\s*:", line):
            return f"{document.path}:{number}"
    return str(document.path)


def _describe_augmentation(augmentation: AugmentationSpec) -> list[str]:
    """Describe each change in a few words, in the order in which they are made."""
    changes = []
    if augmentation.speed_percent:
        slowest, fastest = augmentation.speed_percent
        changes.append(f"speed {slowest / 100:g} to {fastest / 100:g}")
    if augmentation.reverb_probability:
        shortest, longest = augmentation.rt60_seconds
        probability = augmentation.reverb_probability
        changes.append(f"rooms of {shortest:g} to {longest:g} s for {probability:.0%}")
    if augmentation.noise_source:
        loudest, softest = augmentation.snr_db
        synthetic = augmentation.noise_source == SYNTHETIC_NOISE
        noise = "synthetic noise" if synthetic else f"noise from {augmentation.noise_source}"
        changes.append(f"{noise} {loudest:g} to {softest:g} dB below")
    if augmentation.gain_db:
        lowest, highest = augmentation.gain_db
        changes.append(f"gain {lowest:g} to {highest:g} dB")
    if augmentation.codecs:
        changes.append(f"codec {' or '.join(augmentation.codecs)}")
    for masks, unit in (
        (augmentation.time_masks, "frames"),
        (augmentation.frequency_masks, "bins"),
    ):
        if masks:
            changes.append(f"{masks.num_masks} masks of up to {masks.max_width} {unit}")
    return changes
