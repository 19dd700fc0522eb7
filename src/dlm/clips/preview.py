"""What a source gives, told before a document names it: from its lists and from headers alone.

No sound is decoded: what lies in the samples is for the audit to find.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dlm.clips.audio import listen
from dlm.clips.clip import Clip, Problem
from dlm.clips.formats.every import format_of
from dlm.clips.haul import SourceReport
from dlm.clips.sources import SAMPLE, gather_source, rooted
from dlm.document.document import Document
from dlm.document.sources import Source
from dlm.errors import ClipError

ROWS = 5  # that are shown

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """One clip as it is shown."""

    place: str
    seconds: float
    text: str


@dataclass(frozen=True)
class Preview:
    """What a source gives. `clips` are those whose recordings can be opened."""

    source: Source
    format: str
    told: str  # of the format
    partly: bool  # of a stream only the first rows
    clips: tuple[Clip, ...]
    seconds: float
    words: int
    rates: dict[int, int]  # clips by Hz, the most frequent first; so the languages and speakers
    languages: dict[str, int]
    speakers: dict[str, int]
    report: SourceReport
    problems: tuple[Problem, ...]
    first: tuple[Row, ...]

    @property
    def hours(self) -> float:
        """How much sound there is."""
        return self.seconds / 3600

    @property
    def transcripts_per_minute(self) -> float:
        """Clips in a minute of sound."""
        return len(self.clips) * 60 / self.seconds if self.seconds else 0.0

    @property
    def words_per_minute(self) -> float:
        """Words to be learned in a minute of sound."""
        return self.words * 60 / self.seconds if self.seconds else 0.0


def look_over(document: Document, source: Source, *, progress: Progress | None = None) -> Preview:
    """What a source would give to a document. Raises ClipError where it is no source at all."""
    kind = format_of(rooted(document, source))
    gathered = gather_source(document, source, most=SAMPLE if source.stream else None)
    heard: list[tuple[Clip, float, int]] = []
    problems = list(gathered.problems)
    for number, clip in enumerate(gathered.clips, start=1):
        try:
            heard.append((clip, *lasting(clip)))
        except ClipError as error:
            problems.append(Problem.of(error, clip.place))
        if progress:
            progress(number, len(gathered.clips))
    clips = tuple(clip for clip, _, _ in heard)
    return Preview(
        source=source,
        format=kind.name,
        told=kind.told,
        partly=source.stream,
        clips=clips,
        seconds=sum(seconds for _, seconds, _ in heard),
        words=sum(len(clip.target.split()) for clip in clips),
        rates=dict(Counter(rate for _, _, rate in heard).most_common()),
        languages=dict(Counter(each.language for each in clips if each.language).most_common()),
        speakers=dict(Counter(each.speaker for each in clips if each.speaker).most_common()),
        report=gathered.sources[0],
        problems=tuple(problems),
        first=tuple(Row(each.place, seconds, each.target) for each, seconds, _ in heard[:ROWS]),
    )


def lasting(clip: Clip) -> tuple[float, int]:
    """The seconds of a clip's sounds, and the rate of the last. Raises ClipError for a bad one."""
    seconds, rate = 0.0, 0
    for sound in clip.sounds:
        with listen(sound) as span:
            seconds, rate = seconds + span.samples / span.header.rate, span.header.rate
    return seconds, rate
