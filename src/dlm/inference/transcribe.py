"""Transcribes recordings of any length: segments with texts and times, SRT and WebVTT."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dlm.batching.whisper_chat import WhisperChatEncoder
from dlm.data.segmentation import Segmentation, VadFn, split_evenly, split_on_silence
from dlm.data.types import AudioSegment, Example, Message
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.vad import SileroVad
from dlm.plan.audio_lengths import AudioTokenizerSpec

MAX_SEGMENT_SECONDS = 12.0  # longer segments are cut at their quietest frame
# Of the window, up to which neighbours are merged: sparrow (15 s) gets 50 % of the words of 60
# sentences, one after the other, wrong when they are merged up to 3 s, 81 % up to 6 s.
MAX_MERGE_FRACTION = 0.2
TIMESTAMP_RE = re.compile(r"<\|(\d+\.\d\d)\|>")


@dataclass(frozen=True)
class TranscriptSegment:
    """A segment of a recording: start and end in seconds, and its text."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """The transcript of one recording.

    Attributes:
        path: the recording.
        seconds: of all of it.
        segments: in order.
        output: the file that the transcript is kept in.
        num_cut: segments whose text had not ended.
    """

    path: Path
    seconds: float
    segments: tuple[TranscriptSegment, ...]
    output: Path | None = None
    num_cut: int = 0

    @property
    def text(self) -> str:
        """The whole text in one line."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    def format_file(self, output_format: str) -> str:
        """Format what a file holds: the text in one line, or subtitles."""
        if output_format == "text":
            return f"{self.text}\n" if self.text else ""
        return self.format_subtitles(output_format)

    def format_subtitles(self, output_format: str) -> str:
        """Format the segments that have a text as `srt` (SubRip) or `vtt` (WebVTT)."""
        decimal_mark = "," if output_format == "srt" else "."
        cues = []
        for segment in self.segments:
            if segment.text:
                start, end = (
                    _format_timestamp(seconds, decimal_mark)
                    for seconds in (segment.start, segment.end)
                )
                cues.append(f"{start} --> {end}\n{segment.text}\n")
        if output_format == "srt":
            return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1))
        return "\n".join(["WEBVTT\n", *cues])


def transcribe_files(
    engine: InferenceEngine,
    paths: list[Path],
    *,
    segmentation: str = "energy",
    language: str | None = None,
    timestamps: bool = False,
) -> Iterator[Transcript]:
    """Transcribe one recording after the other.

    Args:
        engine: the model.
        paths: the recordings.
        segmentation: how a long recording is cut, one of `SEGMENTATION_METHODS`.
        language: of the recordings, for chat formats that take one.
        timestamps: whether a Whisper writes times within the segments.

    Raises:
        AudioError: a recording cannot be read or decoded (`audio.*`).
        MissingExtra: Silero VAD is not installed.
    """
    vad_fn = SileroVad().detect_speech if segmentation == "silero" else None
    audio_spec = engine.model.spec.audio_spec
    if timestamps and isinstance(engine.chat_encoder, WhisperChatEncoder):
        engine = replace(engine, chat_encoder=engine.chat_encoder.with_timestamps())
    for path in paths:
        recording = AudioSegment(path)
        if segmentation == "none":
            split = split_evenly(recording, max_seconds=audio_spec.window_seconds)
        else:
            split = split_recording(recording, audio_spec, vad_fn)
        num_cut_before = len(engine.cut_locations)
        examples = [_make_example(path, span, language) for span in split.spans]
        texts = {
            (segment.start, segment.end): " ".join(text.split())
            for example, text in batch_generate(engine, examples)
            for segment in example.audio_segments
        }
        segments = (
            segment for span in split.spans for segment in split_at_times(*span, texts[span])
        )
        num_cut = len(engine.cut_locations) - num_cut_before
        yield Transcript(path, split.seconds, tuple(segments), num_cut=num_cut)


def split_at_times(start: float, end: float, text: str) -> Iterator[TranscriptSegment]:
    """Split the text of a segment at the times that a Whisper wrote into it.

    Args:
        start: of the segment in the recording, in seconds.
        end: of the segment; no part is later.
        text: with times from the segment's start on, such as `<|1.50|>`; or without any.
    """
    first, *rest = TIMESTAMP_RE.split(text)
    times = [min(start + float(seconds), end) for seconds in rest[::2]]
    parts = zip([start, *times], [*times, end], [first, *rest[1::2]], strict=True)
    segments = [
        TranscriptSegment(part_start, part_end, part.strip())
        for part_start, part_end, part in parts
        if part.strip()
    ]
    return iter(segments or [TranscriptSegment(start, end, "")])


def split_recording(
    recording: AudioSegment, audio_spec: AudioTokenizerSpec, vad_fn: VadFn | None = None
) -> Segmentation:
    """Cut a recording at its pauses into spans that fit the encoder's window. Raises AudioError."""
    window_seconds = audio_spec.window_seconds
    if audio_spec.pad_mode == "none":
        max_seconds = min(MAX_SEGMENT_SECONDS, window_seconds)
        max_merged_seconds = min(max_seconds / 2, MAX_MERGE_FRACTION * window_seconds)
    else:  # a window costs the same however much audio it holds
        max_seconds, max_merged_seconds = window_seconds, window_seconds / 2
    return split_on_silence(
        recording, max_seconds=max_seconds, max_merged_seconds=max_merged_seconds, vad_fn=vad_fn
    )


def _make_example(path: Path, span: tuple[float, float], language: str | None) -> Example:
    user_message = Message("user", (AudioSegment(path, *span),))
    messages = (user_message, Message("assistant", ("",)))
    return Example(messages, str(path), "transcribe", language)


def _format_timestamp(seconds: float, decimal_mark: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    hours, rest = divmod(whole, 3600)
    return f"{hours:02}:{rest // 60:02}:{rest % 60:02}{decimal_mark}{thousandths:03}"
