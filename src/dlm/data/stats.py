"""Statistics of examples and of the dataset: lengths, levels, languages, speakers, speaking rates.

An example's statistics are made from the columns of the scan when they are asked for, so a hundred
thousand examples take a few megabytes. In the dataset's, each audio segment counts once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from dlm.data.audio_scan import AudioScan
from dlm.data.types import Example, RecordingKey, Task

LENGTH_EDGES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 300.0, math.inf)
LEVEL_EDGES_DB = tuple(map(float, (-math.inf, -60, -50, *range(-45, -9, 5), 0)))


@dataclass(frozen=True, slots=True)
class ExampleStats:
    """Statistics of one example; its audio segments are taken as one. Text has zeros.

    Attributes:
        location: where the example was written.
        task: "transcribe", "answer" or "text".
        seconds: length of all segments.
        num_samples: samples of all segments, per channel.
        sample_rate: of the first segment, in Hz.
        num_channels: of the first segment.
        peak: fraction of full scale; None where only headers were read, as for the next three.
        rms: fraction of full scale.
        silent_fraction: frames below -60 dBFS.
        clipped_fraction: samples at full scale.
        num_words: words of the target.
        words_per_second: of the target.
        sha256: of the first recording; empty where there are too many to hash.
        durations: seconds of each segment.
        content_sha256: of the samples of all segments; empty where only headers were read.
    """

    location: str
    task: Task
    seconds: float
    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float | None
    rms: float | None
    silent_fraction: float | None
    clipped_fraction: float | None
    num_words: int
    words_per_second: float
    sha256: str
    durations: tuple[float, ...]
    content_sha256: str


@dataclass(frozen=True)
class ExampleStatsView:
    """The statistics of every example whose audio can be read, in order.

    Attributes:
        examples: all examples.
        scan: the scan of their audio.
    """

    examples: Sequence[Example]
    scan: AudioScan

    def __iter__(self) -> Iterator[ExampleStats]:
        for example in self.examples:
            numbers = self.scan.get_segment_numbers(example)
            if numbers is not None:
                yield _compute_example_stats(example, numbers, self.scan)

    def __len__(self) -> int:
        return sum(self.scan.get_segment_numbers(example) is not None for example in self.examples)

    @property
    def content_hashes(self) -> dict[RecordingKey, str]:
        """The sha256 of the samples of every recording that was decoded as a whole."""
        scan = self.scan
        return {
            segment.recording_key: scan.stats[number].content_sha256
            for segment, number in scan.segment_numbers.items()
            if number in scan.stats and segment.start is None and segment.end is None
        }

    def get_durations(self) -> dict[str, tuple[float, ...]]:
        """Return the seconds of each audio segment of an example, by its location."""
        return {
            example.location: tuple(map(self.scan.get_seconds, numbers))
            for example in self.examples
            if (numbers := self.scan.get_segment_numbers(example)) is not None
        }

    def get_content_by_location(self) -> dict[str, str]:
        """Return a hash of the samples of every decoded example, by its location."""
        return {
            example.location: _join_content_hashes(numbers, self.scan)
            for example in self.examples
            if (numbers := self.scan.get_segment_numbers(example))
            and self.scan.stats.keys() >= set(numbers)
        }


def _compute_example_stats(example: Example, numbers: list[int], scan: AudioScan) -> ExampleStats:
    durations = tuple(map(scan.get_seconds, numbers))
    seconds, num_words = sum(durations), len(example.target.split())
    stats = [scan.stats[number] for number in numbers if number in scan.stats]
    is_decoded = len(stats) == len(numbers)
    recording = scan.recordings[numbers[0]] if numbers else None

    def compute_mean(values: Iterable[float]) -> float | None:
        """The mean over segments, weighted by their length."""
        if not is_decoded:
            return None
        weighted = zip(values, stats, strict=True)
        return sum(value * each.seconds for value, each in weighted) / seconds if seconds else 0.0

    mean_square = compute_mean(each.rms**2 for each in stats)
    return ExampleStats(
        location=example.location,
        task=example.task,
        seconds=seconds,
        num_samples=sum(scan.num_samples[number] for number in numbers),
        sample_rate=recording.sample_rate if recording else 0,
        num_channels=recording.num_channels if recording else 0,
        peak=max((each.peak for each in stats), default=0.0) if is_decoded else None,
        rms=None if mean_square is None else mean_square**0.5,
        silent_fraction=compute_mean(each.silent_fraction for each in stats),
        clipped_fraction=compute_mean(each.clipped_fraction for each in stats),
        num_words=num_words,
        words_per_second=num_words / seconds if seconds else 0.0,
        sha256=recording.sha256 if recording else "",
        durations=durations,
        content_sha256=_join_content_hashes(numbers, scan) if is_decoded else "",
    )


def _join_content_hashes(numbers: list[int], scan: AudioScan) -> str:
    """The hashes of the samples of several segments, as one text."""
    return " ".join(scan.stats[number].content_sha256 for number in numbers)


@dataclass(frozen=True)
class Histogram:
    """How many values lie between each edge and the next; the last edge is inside.

    Attributes:
        edges: rising.
        counts: one fewer.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def from_values(cls, edges: tuple[float, ...], values: Iterable[float]) -> "Histogram":
        """Count values; those outside the edges count in the first or the last bin."""
        bins = np.searchsorted(edges[1:-1], np.fromiter(values, np.float64), "right")
        return cls(edges, tuple(np.bincount(bins, minlength=len(edges) - 1).tolist()))


@dataclass
class CountDuration:
    """A number of examples with audio, and the seconds of their audio."""

    num_examples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class DatasetStats:
    """Statistics of all examples. Each audio segment counts once, however many share it.

    Attributes:
        num_examples: all examples.
        num_segments: audio segments that can be read.
        num_decoded: those of them that were decoded; of the others the header was read.
        hours: length of all audio.
        seconds_min: length of the shortest segment.
        seconds_median: median length.
        seconds_max: length of the longest segment.
        sample_rates: segments by sample rate in Hz.
        tasks: examples by task.
        lengths: histogram of lengths in seconds.
        levels: histogram of RMS in dBFS, of the segments that were decoded.
        languages: examples and seconds by language, most seconds first; empty where unknown.
        speakers: examples and seconds by speaker, most seconds first; empty where unknown.
        transcripts_per_minute: transcribed examples for a minute of their audio.
        words_per_second: median of the transcribed examples.
    """

    num_examples: int
    num_segments: int
    num_decoded: int
    hours: float
    seconds_min: float
    seconds_median: float
    seconds_max: float
    sample_rates: Counter[int]
    tasks: Counter[Task]
    lengths: Histogram
    levels: Histogram
    languages: dict[str, CountDuration] = field(default_factory=dict)
    speakers: dict[str, CountDuration] = field(default_factory=dict)
    transcripts_per_minute: float = 0.0
    words_per_second: float = 0.0


def compute_dataset_stats(examples: Sequence[Example], scan: AudioScan) -> DatasetStats:
    """Compute the statistics of all examples from the scan of their audio."""
    num_samples, rates = np.array(scan.num_samples, float), np.array(scan.sample_rates)
    is_readable = num_samples > 0
    seconds = num_samples[is_readable] / rates[is_readable]
    levels = (20 * math.log10(max(stats.rms, 1e-9)) for stats in scan.stats.values())
    languages, speakers = _count_languages_and_speakers(examples, scan)
    transcribed = [
        (len(example.target.split()), duration)
        for example in examples
        if example.task == "transcribe" and (duration := scan.get_total_seconds(example))
    ]
    minutes = sum(duration for _, duration in transcribed) / 60
    return DatasetStats(
        num_examples=len(examples),
        num_segments=len(seconds),
        num_decoded=len(scan.stats),
        hours=float(seconds.sum()) / 3600,
        seconds_min=float(seconds.min()) if len(seconds) else 0.0,
        seconds_median=float(np.median(seconds)) if len(seconds) else 0.0,
        seconds_max=float(seconds.max(initial=0.0)),
        sample_rates=Counter(rates[is_readable].tolist()),
        tasks=Counter(example.task for example in examples),
        lengths=Histogram.from_values(LENGTH_EDGES_SECONDS, seconds),
        levels=Histogram.from_values(LEVEL_EDGES_DB, levels),
        languages=languages,
        speakers=speakers,
        transcripts_per_minute=len(transcribed) / minutes if minutes else 0.0,
        words_per_second=median(words / duration for words, duration in transcribed)
        if transcribed
        else 0.0,
    )


def _count_languages_and_speakers(
    examples: Sequence[Example], scan: AudioScan
) -> tuple[dict[str, CountDuration], dict[str, CountDuration]]:
    """Examples and seconds by language and by speaker; most seconds first.

    A segment counts with the first example that names it.
    """
    languages: dict[str, CountDuration] = {}
    speakers: dict[str, CountDuration] = {}
    is_counted = bytearray(len(scan.segment_numbers))
    for example in examples:
        numbers = scan.get_segment_numbers(example)
        if not numbers:
            continue
        seconds = sum(scan.get_seconds(number) for number in numbers if not is_counted[number])
        for number in numbers:
            is_counted[number] = True
        for counts, key in ((languages, example.language), (speakers, example.speaker)):
            if key:
                count = counts.setdefault(key, CountDuration())
                count.num_examples += 1
                count.seconds += seconds
    return _sort_by_seconds(languages), _sort_by_seconds(speakers)


def _sort_by_seconds(counts: dict[str, CountDuration]) -> dict[str, CountDuration]:
    return dict(sorted(counts.items(), key=lambda item: -item[1].seconds))
