"""Where a long recording is cut: at its pauses, and where it is quietest if it has none.

    blocks -> level of each 20 ms -> stretches with sound -> joined while short -> cut while long

One block of the recording is held at a time, and a number for each 20 ms of it. Instead of what is
loud, somebody else may say what is to be heard: where a voice is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dlm.data.audio_io import open_audio, to_mono
from dlm.data.types import AudioSegment

SEGMENTATION_FRAMES_PER_SECOND = 50
SILENCE_THRESHOLD_DB = -35.0  # below the loudest frame
MIN_PAUSE_SECONDS = 0.3  # seconds of quiet at which a recording may be cut
SEGMENTATION_METHODS = (
    "energy",
    "silero",
    "none",
)  # where it is quiet, where nobody speaks, or every so often

DecibelLevels = NDArray[np.float32]
SpeechMask = NDArray[np.bool_]
VadFn = Callable[
    [AudioSegment, int, float], SpeechMask
]  # so many frames of so many seconds: which are heard
TimeSpans = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Segmentation:
    """How long a recording lasts, and its spans with sound in them, in seconds."""

    seconds: float
    spans: TimeSpans


def split_on_silence(
    segment: AudioSegment,
    *,
    max_seconds: float,
    max_merged_seconds: float,
    vad_fn: VadFn | None = None,
) -> Segmentation:
    """Spans apart by pauses, none longer than `longest` seconds; short ones `joined` up to so many.

    What is heard is what `hears` says, or what is loud. A recording no longer than `longest` is one
    span.
    """
    with open_audio(segment) as span:
        rate, samples = span.info.sample_rate, span.num_samples
        if samples <= max_seconds * rate:
            return Segmentation(samples / rate, ((0.0, samples / rate),))
        size = max(rate // SEGMENTATION_FRAMES_PER_SECOND, 1)
        rest, levels = np.zeros(0, np.float32), []
        for block in span.blocks:
            wave = np.concatenate([rest, to_mono(block)])
            whole = len(wave) // size * size
            levels.append(_compute_frame_decibels(wave[:whole].reshape(-1, size)))
            rest = wave[whole:]
        levels.append(
            _compute_frame_decibels(np.pad(rest, (0, -len(rest) % size)).reshape(-1, size))
        )
    loud, frame = np.concatenate(levels), size / rate
    heard = (
        vad_fn(segment, len(loud), frame) if vad_fn else loud > loud.max() + SILENCE_THRESHOLD_DB
    )
    spans = _merge_short_spans(_mask_to_spans(heard), int(max_merged_seconds / frame))
    pieces = [
        piece
        for span in spans
        for piece in _split_at_quietest(span, loud, int(max_seconds / frame))
    ]
    end = samples / rate
    return Segmentation(
        end, tuple((first * frame, min(last * frame, end)) for first, last in pieces)
    )


def split_evenly(segment: AudioSegment, *, max_seconds: float) -> Segmentation:
    """Spans of the same length, whatever is in them."""
    with open_audio(segment) as span:
        rate, samples = span.info.sample_rate, span.num_samples
    edges = [*range(0, samples, max(int(max_seconds * rate), 1)), samples]
    return Segmentation(
        samples / rate, tuple((first / rate, last / rate) for first, last in pairwise(edges))
    )


def _compute_frame_decibels(frames: NDArray[np.float32]) -> DecibelLevels:
    """Level of each frame (frames, samples) in decibels."""
    levels: DecibelLevels = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10)
    return levels


def _mask_to_spans(mask: SpeechMask) -> list[tuple[int, int]]:
    """Frames that belong together: what is heard, with half a pause on both sides."""
    pause = round(MIN_PAUSE_SECONDS * SEGMENTATION_FRAMES_PER_SECOND)
    spans: list[list[int]] = []
    for frame in np.flatnonzero(mask).tolist():
        if spans and frame - spans[-1][1] < pause:
            spans[-1][1] = frame + 1
        else:
            spans.append([frame, frame + 1])
    margin = pause // 2
    return [(max(first - margin, 0), min(last + margin, len(mask))) for first, last in spans]


def _merge_short_spans(spans: list[tuple[int, int]], max_frames: int) -> list[tuple[int, int]]:
    """Neighbours joined as long as they fit together: whole sentences are heard better."""
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and last - joined[-1][0] <= max_frames:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _split_at_quietest(
    span: tuple[int, int], levels: DecibelLevels, max_frames: int
) -> list[tuple[int, int]]:
    """A span cut at its quietest frame, away from its ends, until the pieces fit."""
    first, last = span
    if last - first <= max_frames:
        return [span]
    quarter = (last - first) // 4
    middle = first + quarter + int(np.argmin(levels[first + quarter : last - quarter]))
    return _split_at_quietest((first, middle), levels, max_frames) + _split_at_quietest(
        (middle, last), levels, max_frames
    )
