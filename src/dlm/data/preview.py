"""A preview of a source before a document names it (`dlm import`): format, hours, languages.

Only lists and the headers of recordings are read; nothing is decoded.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dlm.config.data_schema import SourceConfig
from dlm.config.parser import Document
from dlm.data.audio_io import make_sample_rate_error, open_audio
from dlm.data.load import (
    MAX_STREAM_SAMPLE_EXAMPLES,
    SourceReport,
    load_source_examples,
    resolve_source,
)
from dlm.data.readers.registry import find_reader
from dlm.data.types import Example, Issue
from dlm.errors import DataError

MAX_PREVIEW_EXAMPLES = 5

PreviewProgressFn = Callable[[int, int], None]


@dataclass(frozen=True)
class PreviewExample:
    """One example, as shown.

    Attributes:
        location: where it is written.
        seconds: duration of its audio.
        text: its transcript or answer.
    """

    location: str
    seconds: float
    text: str


@dataclass(frozen=True)
class SourcePreview:
    """What a source gives.

    Attributes:
        source: the source.
        format: name of its format.
        format_description: what that format is.
        is_partial: whether only the first examples of a stream were read.
        examples: those whose recordings can be opened.
        seconds: duration of their audio.
        num_words: words of their transcripts and answers.
        rates: examples by sample rate in Hz, the most frequent first.
        languages: examples by language, the most frequent first.
        speakers: examples by speaker, the most frequent first.
        report: what was left out.
        issues: what is wrong.
        first_examples: the first few, to show.
    """

    source: SourceConfig
    format: str
    format_description: str
    is_partial: bool
    examples: tuple[Example, ...]
    seconds: float
    num_words: int
    rates: dict[int, int]
    languages: dict[str, int]
    speakers: dict[str, int]
    report: SourceReport
    issues: tuple[Issue, ...]
    first_examples: tuple[PreviewExample, ...]

    @property
    def hours(self) -> float:
        """The hours of audio."""
        return self.seconds / 3600

    @property
    def transcripts_per_minute(self) -> float:
        """Examples in a minute of audio."""
        return len(self.examples) * 60 / self.seconds if self.seconds else 0.0

    @property
    def words_per_minute(self) -> float:
        """Words to be trained on in a minute of audio."""
        return self.num_words * 60 / self.seconds if self.seconds else 0.0


def preview_source(
    document: Document,
    source: SourceConfig,
    *,
    sample_rate: int | None = None,
    progress: PreviewProgressFn | None = None,
) -> SourcePreview:
    """Read what a source would give to a document.

    Args:
        document: what it would be added to.
        source: its entry.
        sample_rate: in Hz, that recordings must have to be trained on; None for any.
        progress: called after each example.

    Raises:
        DataError: the source is not there, or in no format that is known.
    """
    reader = find_reader(resolve_source(document, source))
    data = load_source_examples(
        document, source, max_examples=MAX_STREAM_SAMPLE_EXAMPLES if source.stream else None
    )
    issues = list(data.issues)
    durations: list[float] = []
    rates: Counter[int] = Counter()
    examples: list[Example] = []
    for number, example in enumerate(data.examples, start=1):
        try:
            seconds, rate = probe_example_audio(example)
        except DataError as error:
            issues.append(Issue.from_error(error, example.location))
        else:
            if sample_rate and rate and rate != sample_rate:
                mismatch = make_sample_rate_error(example.location, rate, sample_rate)
                issues.append(Issue.from_error(mismatch, example.location))
            examples.append(example)
            durations.append(seconds)
            rates[rate] += 1
        if progress:
            progress(number, len(data.examples))
    languages = Counter(example.language for example in examples if example.language)
    speakers = Counter(example.speaker for example in examples if example.speaker)
    return SourcePreview(
        source=source,
        format=reader.name,
        format_description=reader.description,
        is_partial=source.stream,
        examples=tuple(examples),
        seconds=sum(durations),
        num_words=sum(len(example.target.split()) for example in examples),
        rates=dict(rates.most_common()),
        languages=dict(languages.most_common()),
        speakers=dict(speakers.most_common()),
        report=data.sources[0],
        issues=tuple(issues),
        first_examples=tuple(
            PreviewExample(example.location, seconds, example.target)
            for example, seconds in zip(examples[:MAX_PREVIEW_EXAMPLES], durations, strict=False)
        ),
    )


def probe_example_audio(example: Example) -> tuple[float, int]:
    """Read headers: the seconds of an example's audio, and the sample rate in Hz of the last.

    Raises:
        AudioError: a recording cannot be opened.
    """
    seconds, rate = 0.0, 0
    for segment in example.audio_segments:
        with open_audio(segment) as stream:
            rate = stream.info.sample_rate
            seconds += stream.num_samples / rate
    return seconds, rate
