"""Splitting a long recording: at pauses, at its quietest moments, by voice activity, or evenly.

    blocks -> level of each frame of 20 ms -> spans with sound -> short ones merged, long ones split

One block is held at a time, and one number for each frame. A voice activity detector may say which
frames hold speech, instead of their level.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dlm.data.audio_io import open_audio, to_mono
from dlm.data.audio_scan import SILENCE_AMPLITUDE
from dlm.data.types import AudioSegment
from dlm.errors import MissingExtra

SEGMENTATION_FRAMES_PER_SECOND = 50
SILENCE_THRESHOLD_DB = -35.0  # below the loudest frame
MIN_LOUDEST_DB = -55.0  # of full scale: where no frame is louder, all of it is noise
MIN_PAUSE_SECONDS = 0.3
SEGMENTATION_METHODS = ("energy", "silero", "none")  # where it is quiet, by Silero VAD, evenly

FrameLevels: TypeAlias = NDArray[np.float32]  # decibels
SpeechMask: TypeAlias = NDArray[np.bool_]
# segment, number of frames, seconds of a frame -> which frames hold speech
VadFn: TypeAlias = Callable[[AudioSegment, int, float], SpeechMask]
FrameSpan: TypeAlias = tuple[int, int]  # first frame, frame after the last


@dataclass(frozen=True)
class Segmentation:
    """How a recording is split.

    Attributes:
        seconds: length of the recording.
        spans: start and end of each span in seconds, in order.
    """

    seconds: float
    spans: tuple[tuple[float, float], ...]


def split_on_silence(
    segment: AudioSegment,
    *,
    max_seconds: float,
    max_merged_seconds: float,
    vad_fn: VadFn | None = None,
) -> Segmentation:
    """Split a segment at its pauses, and leave them out.

    Args:
        segment: what to split; one of up to `max_seconds` is one span, or none where it is silent
            or holds no speech.
        max_seconds: longer spans are split at their quietest frame.
        max_merged_seconds: neighbouring spans are merged up to this length.
        vad_fn: says which frames hold speech; by default, those that are loud.

    Raises:
        AudioError: it cannot be read or decoded (`audio.*`).
    """
    with open_audio(segment) as stream:
        sample_rate, num_samples = stream.info.sample_rate, stream.num_samples
        frame_samples = max(sample_rate // SEGMENTATION_FRAMES_PER_SECOND, 1)
        rest, moments = np.zeros(0, np.float32), []
        for block in stream.blocks:
            waveform = np.concatenate([rest, to_mono(block)])
            num_whole = len(waveform) // frame_samples * frame_samples
            moments.append(_compute_moments(waveform[:num_whole].reshape(-1, frame_samples)))
            rest = waveform[num_whole:]
    if len(rest):
        moments.append(_compute_moments(rest[None]))
    levels = _compute_levels(np.concatenate(moments, axis=1))
    frame_seconds, seconds = frame_samples / sample_rate, num_samples / sample_rate
    mask = levels >= 20 * np.log10(SILENCE_AMPLITUDE)
    if vad_fn:
        mask &= vad_fn(segment, len(levels), frame_seconds)
    elif levels.max() < MIN_LOUDEST_DB:
        mask[:] = False
    else:
        mask &= levels > levels.max() + SILENCE_THRESHOLD_DB
    if num_samples <= max_seconds * sample_rate:
        return Segmentation(seconds, ((0.0, seconds),) if mask.any() else ())
    merged = _merge_short_spans(_mask_to_spans(mask), int(max_merged_seconds / frame_seconds))
    max_frames = int(max_seconds / frame_seconds)
    spans = [piece for span in merged for piece in _split_at_quietest(span, levels, max_frames)]
    return Segmentation(
        seconds,
        tuple((start * frame_seconds, min(end * frame_seconds, seconds)) for start, end in spans),
    )


def split_evenly(segment: AudioSegment, *, max_seconds: float) -> Segmentation:
    """Split a segment into spans of equal length, whatever is in them. Raises AudioError."""
    with open_audio(segment) as stream:
        sample_rate, num_samples = stream.info.sample_rate, stream.num_samples
    edges = [*range(0, num_samples, max(int(max_seconds * sample_rate), 1)), num_samples]
    spans = tuple((start / sample_rate, end / sample_rate) for start, end in pairwise(edges))
    return Segmentation(num_samples / sample_rate, spans)


def find_vad_weights() -> Path:
    """Return the path of the weights of Silero VAD.

    Raises:
        MissingExtra: silero-vad is not installed.
    """
    package = find_spec("silero_vad")
    if package is None or package.origin is None:
        raise MissingExtra("silero-vad", "voice")
    return Path(package.origin).parent / "data" / "silero_vad_16k.safetensors"


def _compute_moments(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and mean square of each frame: (frames, samples) -> (2, frames)."""
    return np.stack(
        [frames.mean(axis=1, dtype=np.float64), np.mean(frames**2, axis=1, dtype=np.float64)]
    )


def _compute_levels(moments: NDArray[np.float64]) -> FrameLevels:
    """The level of each frame in decibels, without the offset of the recording: (frames,)."""
    means, mean_squares = moments
    offset = means.mean()
    power = np.maximum(mean_squares - 2 * offset * means + offset**2, 0)
    levels: FrameLevels = (10 * np.log10(power + 1e-10)).astype(np.float32)
    return levels


def _mask_to_spans(mask: SpeechMask) -> list[FrameSpan]:
    """Frames with sound and no pause between them, with half a pause on both sides."""
    pause_frames = round(MIN_PAUSE_SECONDS * SEGMENTATION_FRAMES_PER_SECOND)
    margin = pause_frames // 2
    frames = np.flatnonzero(mask)
    breaks = np.flatnonzero(np.diff(frames) > pause_frames) + 1
    return [
        (max(int(run[0]) - margin, 0), min(int(run[-1]) + 1 + margin, len(mask)))
        for run in np.split(frames, breaks)
        if len(run)
    ]


def _merge_short_spans(spans: list[FrameSpan], max_frames: int) -> list[FrameSpan]:
    """Merge neighbours as long as they fit: whole sentences are transcribed better."""
    merged: list[FrameSpan] = []
    for start, end in spans:
        if merged and end - merged[-1][0] <= max_frames:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _split_at_quietest(span: FrameSpan, levels: FrameLevels, max_frames: int) -> list[FrameSpan]:
    """Split a span at its quietest frame, away from its ends, until the pieces fit."""
    start, end = span
    if end - start <= max_frames:
        return [span]
    quarter = (end - start) // 4
    middle = start + quarter + int(np.argmin(levels[start + quarter : end - quarter]))
    left = _split_at_quietest((start, middle), levels, max_frames)
    return left + _split_at_quietest((middle, end), levels, max_frames)
