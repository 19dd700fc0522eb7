"""What a source gives, told before a document names it: from its lists and from headers alone.

No sound is decoded: what lies in the samples is for the audit to find.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dlm.config.data_schema import SourceConfig
from dlm.config.parser import Document
from dlm.data.audio_io import open_audio
from dlm.data.load import (
    MAX_STREAM_SAMPLE_EXAMPLES,
    SourceReport,
    load_source_examples,
    resolve_source,
)
from dlm.data.readers.registry import find_reader
from dlm.data.types import Example, Issue
from dlm.errors import DataError

MAX_PREVIEW_EXAMPLES = 5  # that are shown

PreviewProgressFn = Callable[[int, int], None]


@dataclass(frozen=True)
class PreviewExample:
    """One clip as it is shown."""

    location: str
    seconds: float
    text: str


@dataclass(frozen=True)
class SourcePreview:
    """What a source gives. `clips` are those whose recordings can be opened."""

    source: SourceConfig
    format: str
    format_description: str  # of the format
    is_partial: bool  # of a stream only the first rows
    examples: tuple[Example, ...]
    seconds: float
    num_words: int
    rates: dict[int, int]  # clips by Hz, the most frequent first; so the languages and speakers
    languages: dict[str, int]
    speakers: dict[str, int]
    report: SourceReport
    issues: tuple[Issue, ...]
    first_examples: tuple[PreviewExample, ...]

    @property
    def hours(self) -> float:
        """How much sound there is."""
        return self.seconds / 3600

    @property
    def transcripts_per_minute(self) -> float:
        """Clips in a minute of sound."""
        return len(self.examples) * 60 / self.seconds if self.seconds else 0.0

    @property
    def words_per_minute(self) -> float:
        """Words to be learned in a minute of sound."""
        return self.num_words * 60 / self.seconds if self.seconds else 0.0


def preview_source(
    document: Document, source: SourceConfig, *, progress: PreviewProgressFn | None = None
) -> SourcePreview:
    """What a source would give to a document. Raises ClipError where it is no source at all."""
    kind = find_reader(resolve_source(document, source))
    gathered = load_source_examples(
        document, source, max_examples=MAX_STREAM_SAMPLE_EXAMPLES if source.stream else None
    )
    heard: list[tuple[Example, float, int]] = []
    problems = list(gathered.issues)
    for number, clip in enumerate(gathered.examples, start=1):
        try:
            heard.append((clip, *probe_example_audio(clip)))
        except DataError as error:
            problems.append(Issue.from_error(error, clip.location))
        if progress:
            progress(number, len(gathered.examples))
    clips = tuple(clip for clip, _, _ in heard)
    return SourcePreview(
        source=source,
        format=kind.name,
        format_description=kind.description,
        is_partial=source.stream,
        examples=clips,
        seconds=sum(seconds for _, seconds, _ in heard),
        num_words=sum(len(clip.target.split()) for clip in clips),
        rates=dict(Counter(rate for _, _, rate in heard).most_common()),
        languages=dict(Counter(each.language for each in clips if each.language).most_common()),
        speakers=dict(Counter(each.speaker for each in clips if each.speaker).most_common()),
        report=gathered.sources[0],
        issues=tuple(problems),
        first_examples=tuple(
            PreviewExample(each.location, seconds, each.target)
            for each, seconds, _ in heard[:MAX_PREVIEW_EXAMPLES]
        ),
    )


def probe_example_audio(example: Example) -> tuple[float, int]:
    """The seconds of a clip's sounds, and the rate of the last. Raises ClipError for a bad one."""
    seconds, rate = 0.0, 0
    for sound in example.audio_segments:
        with open_audio(sound) as span:
            seconds, rate = (
                seconds + span.num_samples / span.info.sample_rate,
                span.info.sample_rate,
            )
    return seconds, rate
