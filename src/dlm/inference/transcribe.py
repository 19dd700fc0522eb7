"""Transcribing recordings of any length: cut where it is quiet, hear each piece, keep its times."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlm.data.segmentation import (
    Segmentation,
    VadFn,
    find_vad_weights,
    split_evenly,
    split_on_silence,
)
from dlm.data.types import AudioSegment, Example, Message
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.vad import SileroVad
from dlm.plan.audio_lengths import AudioTokenizerSpec

MAX_SEGMENT_SECONDS = 12.0  # seconds; longer stretches are cut at their quietest frame
# Of the window, up to which neighbours are heard together: sparrow (15 s) gets 50 % of the words of
# 60 sentences in a row wrong when they are joined up to 3 s, 81 % up to 6 s.
MAX_MERGE_FRACTION = 0.2


@dataclass(frozen=True)
class TranscriptSegment:
    """One stretch of a recording and its words; `start` and `end` in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """All that was said in one recording."""

    path: Path
    seconds: float
    segments: tuple[TranscriptSegment, ...]

    @property
    def text(self) -> str:
        """The words, in one line."""
        return " ".join(each.text for each in self.segments if each.text)

    def format_subtitles(self, output_format: str) -> str:
        """The segments with words as `srt` (SubRip) or `vtt` (WebVTT)."""
        mark = "," if output_format == "srt" else "."
        said = [each for each in self.segments if each.text]
        times = [
            f"{_format_timestamp(each.start, mark)} --> {_format_timestamp(each.end, mark)}"
            for each in said
        ]
        cues = [f"{time}\n{each.text}\n" for time, each in zip(times, said, strict=True)]
        if output_format == "srt":
            return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1))
        return "\n".join(["WEBVTT\n", *cues])


def transcribe_files(
    engine: InferenceEngine,
    paths: list[Path],
    *,
    segmentation: str = "energy",
    language: str | None = None,
) -> Iterator[Transcript]:
    """One recording after the other. Raises ClipError where one cannot be decoded.

    `segment` is how a long one is cut, see clips/segment.py. `language` is asked of every segment
    by a base whose form has a place for it.
    """
    hears = SileroVad(find_vad_weights()).detect_speech if segmentation == "silero" else None
    for path in paths:
        strides, sound = engine.model.spec.audio_spec, AudioSegment(path)
        window = strides.window_seconds
        found = (
            split_evenly(sound, max_seconds=window)
            if segmentation == "none"
            else _split_audio(sound, strides, hears)
        )
        clips = [_make_example(path, span, language) for span in found.spans]
        heard = {clip.audio_segments[0]: text for clip, text in batch_generate(engine, clips)}
        segments = tuple(
            TranscriptSegment(start, end, " ".join(heard[clip.audio_segments[0]].split()))
            for (start, end), clip in zip(found.spans, clips, strict=True)
        )
        yield Transcript(path, found.seconds, segments)


def _split_audio(
    segment: AudioSegment, audio_spec: AudioTokenizerSpec, vad_fn: VadFn | None
) -> Segmentation:
    """Spans that the base hears at once."""
    window = audio_spec.window_seconds
    if audio_spec.pad_mode != "none":  # a window costs the same however much it holds
        return split_on_silence(
            segment, max_seconds=window, max_merged_seconds=window / 2, vad_fn=vad_fn
        )
    longest = min(MAX_SEGMENT_SECONDS, window)
    joined = min(longest / 2, MAX_MERGE_FRACTION * window)
    return split_on_silence(segment, max_seconds=longest, max_merged_seconds=joined, vad_fn=vad_fn)


def _make_example(path: Path, span: tuple[float, float], language: str | None) -> Example:
    turns = (Message("user", (AudioSegment(path, *span),)), Message("assistant", ("",)))
    return Example(turns, str(path), "transcribe", language)


def _format_timestamp(seconds: float, decimal_marker: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    hours, rest = divmod(whole, 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}{decimal_marker}{thousandths:03}"
