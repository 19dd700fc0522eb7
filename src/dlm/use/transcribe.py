"""Transcribing recordings of any length: cut where it is quiet, hear each piece, keep its times."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlm.clips.clip import Clip, Sound, Turn
from dlm.clips.segment import Cut, Hears, cut, even, voice_weights
from dlm.plan.frames import Strides
from dlm.use.ready import Ready, answer_all
from dlm.use.voice import Voice

LONGEST_SEGMENT = 12.0  # seconds; longer stretches are cut at their quietest frame
# Of the window, up to which neighbours are heard together: sparrow (15 s) gets 50 % of the words of
# 60 sentences in a row wrong when they are joined up to 3 s, 81 % up to 6 s.
JOINED_SHARE = 0.2


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
    using: Ready, paths: list[Path], *, segment: str = "energy", language: str | None = None
) -> Iterator[Transcript]:
    """One recording after the other. Raises ClipError where one cannot be decoded.

    `segment` is how a long one is cut, see clips/segment.py. `language` is asked of every segment
    by a base whose form has a place for it.
    """
    hears = Voice(voice_weights()).mask if segment == "silero" else None
    for path in paths:
        strides, sound = using.model.base.strides, Sound(path)
        window = strides.window_seconds
        found = even(sound, longest=window) if segment == "none" else _cut(sound, strides, hears)
        clips = [_clip(path, span, language) for span in found.spans]
        heard = {clip.sounds[0]: text for clip, text in answer_all(using, clips)}
        segments = tuple(
            Segment(start, end, " ".join(heard[clip.sounds[0]].split()))
            for (start, end), clip in zip(found.spans, clips, strict=True)
        )
        yield Transcript(path, found.seconds, segments)


def _cut(sound: Sound, strides: Strides, hears: Hears | None) -> Cut:
    """Spans that the base hears at once."""
    window = strides.window_seconds
    if strides.fill != "none":  # a window costs the same however much it holds
        return cut(sound, longest=window, joined=window / 2, hears=hears)
    longest = min(LONGEST_SEGMENT, window)
    joined = min(longest / 2, JOINED_SHARE * window)
    return cut(sound, longest=longest, joined=joined, hears=hears)


def _clip(path: Path, span: tuple[float, float], language: str | None) -> Clip:
    turns = (Turn("user", (Sound(path, *span),)), Turn("assistant", ("",)))
    return Clip(turns, str(path), "transcribe", language)


def _clock(seconds: float, mark: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    hours, rest = divmod(whole, 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}{mark}{thousandths:03}"
