"""Where a long recording is cut: at its pauses, and where it is quietest if it has none.

    blocks -> level of each 20 ms -> stretches with sound -> joined while short -> cut while long

One block of the recording is held at a time, and a number for each 20 ms of it. Instead of what is
loud, somebody else may say what is to be heard: where a voice is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dlm.clips.audio import listen, mono
from dlm.clips.clip import Sound
from dlm.errors import MissingExtra

FRAMES_PER_SECOND = 50
SILENCE_DECIBELS = -35.0  # below the loudest frame
LEAST_PAUSE = 0.3  # seconds of quiet at which a recording may be cut
WAYS = ("energy", "silero", "none")  # where it is quiet, where nobody speaks, or every so often

Levels = NDArray[np.float32]
Mask = NDArray[np.bool_]
Hears = Callable[[Sound, int, float], Mask]  # so many frames of so many seconds: which are heard
Spans = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Cut:
    """How long a recording lasts, and its spans with sound in them, in seconds."""

    seconds: float
    spans: Spans


def cut(sound: Sound, *, longest: float, joined: float, hears: Hears | None = None) -> Cut:
    """Spans apart by pauses, none longer than `longest` seconds; short ones `joined` up to so many.

    What is heard is what `hears` says, or what is loud. A recording no longer than `longest` is one
    span.
    """
    with listen(sound) as span:
        rate, samples = span.header.rate, span.samples
        if samples <= longest * rate:
            return Cut(samples / rate, ((0.0, samples / rate),))
        size = max(rate // FRAMES_PER_SECOND, 1)
        rest, levels = np.zeros(0, np.float32), []
        for block in span.blocks:
            wave = np.concatenate([rest, mono(block)])
            whole = len(wave) // size * size
            levels.append(_levels(wave[:whole].reshape(-1, size)))
            rest = wave[whole:]
        levels.append(_levels(np.pad(rest, (0, -len(rest) % size)).reshape(-1, size)))
    loud, frame = np.concatenate(levels), size / rate
    heard = hears(sound, len(loud), frame) if hears else loud > loud.max() + SILENCE_DECIBELS
    spans = _join(_heard(heard), int(joined / frame))
    pieces = [piece for span in spans for piece in _halve(span, loud, int(longest / frame))]
    end = samples / rate
    return Cut(end, tuple((first * frame, min(last * frame, end)) for first, last in pieces))


def even(sound: Sound, *, longest: float) -> Cut:
    """Spans of the same length, whatever is in them."""
    with listen(sound) as span:
        rate, samples = span.header.rate, span.samples
    edges = [*range(0, samples, max(int(longest * rate), 1)), samples]
    return Cut(
        samples / rate, tuple((first / rate, last / rate) for first, last in pairwise(edges))
    )


def voice_weights() -> Path:
    """Where the weights of Silero VAD lie. Raises MissingExtra where they are not installed."""
    found = find_spec("silero_vad")
    if found is None or found.origin is None:
        raise MissingExtra("silero-vad", "voice")
    return Path(found.origin).parent / "data" / "silero_vad_16k.safetensors"


def _levels(frames: NDArray[np.float32]) -> Levels:
    """Level of each frame (frames, samples) in decibels."""
    levels: Levels = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10)
    return levels


def _heard(heard: Mask) -> list[tuple[int, int]]:
    """Frames that belong together: what is heard, with half a pause on both sides."""
    pause = round(LEAST_PAUSE * FRAMES_PER_SECOND)
    spans: list[list[int]] = []
    for frame in np.flatnonzero(heard).tolist():
        if spans and frame - spans[-1][1] < pause:
            spans[-1][1] = frame + 1
        else:
            spans.append([frame, frame + 1])
    margin = pause // 2
    return [(max(first - margin, 0), min(last + margin, len(heard))) for first, last in spans]


def _join(spans: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Neighbours joined as long as they fit together: whole sentences are heard better."""
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and last - joined[-1][0] <= most:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _halve(span: tuple[int, int], loud: Levels, most: int) -> list[tuple[int, int]]:
    """A span cut at its quietest frame, away from its ends, until the pieces fit."""
    first, last = span
    if last - first <= most:
        return [span]
    quarter = (last - first) // 4
    middle = first + quarter + int(np.argmin(loud[first + quarter : last - quarter]))
    return _halve((first, middle), loud, most) + _halve((middle, last), loud, most)
