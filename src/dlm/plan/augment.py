"""Whether sounds can be changed as a document asks, and how it is said.

All that can be known before weights are loaded is looked at here: the folder of noise, the masks'
place in the mel, what plays a clip faster.
"""

import hashlib
import re

from dlm.clips.audio import resampler
from dlm.clips.noises import Noise, noises
from dlm.document.augment import SYNTHETIC, Augment, MaskFrequency, MaskTime, percent
from dlm.document.document import Document
from dlm.errors import ClipError, PlanError
from dlm.plan.bases import Base
from dlm.plan.changes import Changes, Masks
from dlm.plan.plan import Line

AUGMENT = "training.audio.augment"


def changing(document: Document, base: Base) -> Changes | None:
    """What each pass changes, None where that is nothing. Raises PlanError for what cannot be."""
    asked = document.settings.training.audio.augment
    if not asked.on:
        return None
    _check_masks(asked, base)
    try:
        found = noises(document)
        if asked.speed or any(each.rate != base.strides.rate for each in found):
            resampler()
    except ClipError as error:
        where = error.where or _line_of("noise", document)
        raise PlanError(error.what, where=where, mend=error.mend) from error
    return Changes(
        share=asked.share,
        speed_percent=(percent(asked.speed[0]), percent(asked.speed[1])) if asked.speed else None,
        room_share=asked.room,
        rt60_seconds=asked.rt60,
        noise=asked.noise,
        noise_sha256=_sha256(found) if found else None,
        snr_db=asked.snr,
        gain_db=asked.gain,
        codecs=asked.codec,
        time=_stretches(asked.mask_time, base) if asked.mask_time else None,
        frequency=_bands(asked.mask_frequency) if asked.mask_frequency else None,
    )


def changing_aloud(changes: Changes | None, *, frozen: bool) -> tuple[Line, ...]:
    """The line of the plan; a `frozen` encoder hears every clip in every pass all the same."""
    if changes is None:
        return ()
    told = ", ".join(_parts(changes))
    if changes.share < 1:
        told += f", in {changes.share:.0%} of the clips"
    why = "each pass hears another version"
    return (Line("augment", told, f"features not kept: {why}" if frozen else why),)


def _check_masks(asked: Augment, base: Base) -> None:
    """Refuse masks where there is no mel, or none so wide."""
    named = "mask_time" if asked.mask_time else "mask_frequency"
    if (asked.mask_time or asked.mask_frequency) and base.ear == "wave":
        what = f"{AUGMENT}.{named} is of a mel, and {base.key} hears the wave itself"
        raise PlanError(what, mend="take it out")
    if asked.mask_frequency and asked.mask_frequency.bins > base.bins:
        bins = asked.mask_frequency.bins
        what = f"{AUGMENT}.mask_frequency.bins is {bins}, and {base.key} hears {base.bins} bins"
        raise PlanError(what, mend=f"use {base.bins // 3} or so")


def _stretches(asked: MaskTime, base: Base) -> Masks:
    """Masks in time, in frames of the mel."""
    frames = round(asked.seconds * base.strides.rate / base.strides.hop)
    return Masks(asked.count, max(frames, 1), asked.most)


def _bands(asked: MaskFrequency) -> Masks:
    return Masks(asked.count, asked.bins)


def _sha256(found: tuple[Noise, ...]) -> str:
    """One hash of the names and lengths of the recordings of noise."""
    return hashlib.sha256(repr([(each.name, each.seconds) for each in found]).encode()).hexdigest()


def _line_of(field: str, document: Document) -> str:
    """The line of the document that sets a field, as far as it can be found."""
    lines = document.source.split("\n")
    form = re.compile(rf"\b{field}\s*:")
    found = (number for number, line in enumerate(lines, start=1) if form.search(line))
    number = next(found, None)
    return f"{document.path}:{number}" if number else str(document.path)


def _parts(changes: Changes) -> list[str]:
    """Each change in a few words, in the order they are made."""
    told = []
    if changes.speed_percent:
        slow, fast = changes.speed_percent
        told.append(f"speed {slow / 100:g} to {fast / 100:g}")
    if changes.room_share:
        dry, long = changes.rt60_seconds
        told.append(f"rooms of {dry:g} to {long:g} s for {changes.room_share:.0%}")
    if changes.noise:
        near, far = changes.snr_db
        made_up = changes.noise == SYNTHETIC
        what = "synthetic noise" if made_up else f"noise from {changes.noise}"
        told.append(f"{what} {near:g} to {far:g} dB below")
    if changes.gain_db:
        low, high = changes.gain_db
        told.append(f"gain {low:g} to {high:g} dB")
    if changes.codecs:
        told.append(f"codec {' or '.join(changes.codecs)}")
    if changes.time:
        told.append(f"{changes.time.count} masks of up to {changes.time.widest} frames")
    if changes.frequency:
        told.append(f"{changes.frequency.count} masks of up to {changes.frequency.widest} bins")
    return told
