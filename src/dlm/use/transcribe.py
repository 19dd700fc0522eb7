"""Transcribing recordings of any length: cut where it is quiet, hear each piece, keep its times."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlm.clips.audio import decode
from dlm.clips.clip import Clip, Sound, Turn
from dlm.use.ready import Ready, answer_all

FRAME_SECONDS = 0.02
SILENCE_DECIBELS = -35.0  # below the loudest frame
LEAST_PAUSE = 0.3  # seconds of quiet at which a recording may be cut
LONGEST_SEGMENT = 12.0  # seconds; longer stretches are cut at their quietest frame


@dataclass(frozen=True)
class Segment:
    """One stretch of a recording and its words; `start` and `end` in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """All that was said in one recording."""

    path: Path
    seconds: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The words, in one line."""
        return " ".join(each.text for each in self.segments if each.text)

    def subtitles(self, form: str) -> str:
        """The segments with words as `srt` (SubRip) or `vtt` (WebVTT)."""
        mark = "," if form == "srt" else "."
        said = [each for each in self.segments if each.text]
        times = [f"{_clock(each.start, mark)} --> {_clock(each.end, mark)}" for each in said]
        cues = [f"{time}\n{each.text}\n" for time, each in zip(times, said, strict=True)]
        if form == "srt":
            return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1))
        return "\n".join(["WEBVTT\n", *cues])


def transcribe(
    using: Ready, paths: list[Path], *, auto_resample: bool, language: str | None = None
) -> Iterator[Transcript]:
    """One recording after the other. Raises ClipError where one cannot be decoded.

    `language` is asked of every segment by a base whose form has a place for it.
    """
    base = using.model.base
    for path in paths:
        rate = base.strides.rate
        samples = decode(Sound(path), rate=rate, resample=auto_resample)
        longest = base.strides.window_seconds  # a window costs the same however much it holds
        if base.strides.fill == "none":
            longest = min(LONGEST_SEGMENT, longest)
        spans = cut(samples, rate=rate, longest=longest)
        clips = [_clip(path, span, language) for span in spans]
        heard = {clip.sounds[0]: text for clip, text in answer_all(using, clips)}
        segments = tuple(
            Segment(start, end, " ".join(heard[clip.sounds[0]].split()))
            for (start, end), clip in zip(spans, clips, strict=True)
        )
        yield Transcript(path, len(samples) / rate, segments)


def cut(samples: np.ndarray, *, rate: int, longest: float) -> list[tuple[float, float]]:
    """Spans with sound in them, in seconds: apart by pauses, none longer than `longest`."""
    loud = _levels(samples, rate)
    if len(samples) <= longest * rate:
        return [(0.0, len(samples) / rate)]
    heard = loud > loud.max() + SILENCE_DECIBELS
    pause = round(LEAST_PAUSE / FRAME_SECONDS)
    spans: list[list[int]] = []
    for frame in np.flatnonzero(heard).tolist():
        if spans and frame - spans[-1][1] < pause:
            spans[-1][1] = frame + 1
        else:
            spans.append([frame, frame + 1])
    margin, most = pause // 2, int(longest / FRAME_SECONDS)
    wide = [(max(first - margin, 0), min(last + margin, len(loud))) for first, last in spans]
    pieces = [piece for span in _join(wide, most) for piece in _halve(span, loud, most)]
    end = len(samples) / rate
    return [(first * FRAME_SECONDS, min(last * FRAME_SECONDS, end)) for first, last in pieces]


def _clip(path: Path, span: tuple[float, float], language: str | None) -> Clip:
    turns = (Turn("user", (Sound(path, *span),)), Turn("assistant", ("",)))
    return Clip(turns, str(path), "transcribe", language)


def _levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Level of each frame in decibels."""
    size = round(FRAME_SECONDS * rate)
    padded = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
    levels: np.ndarray = 10 * np.log10(np.mean(padded**2, axis=1) + 1e-10)
    return levels


def _join(spans: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Neighbours joined as long as they fit together: whole sentences are heard better."""
    joined: list[tuple[int, int]] = []
    for first, last in spans:
        if joined and last - joined[-1][0] <= most // 2:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return joined


def _halve(span: tuple[int, int], loud: np.ndarray, most: int) -> list[tuple[int, int]]:
    """A span cut at its quietest frame, away from its ends, until the pieces fit."""
    first, last = span
    if last - first <= most:
        return [span]
    quarter = (last - first) // 4
    middle = first + quarter + int(np.argmin(loud[first + quarter : last - quarter]))
    return _halve((first, middle), loud, most) + _halve((middle, last), loud, most)


def _clock(seconds: float, mark: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    hours, rest = divmod(whole, 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}{mark}{thousandths:03}"
