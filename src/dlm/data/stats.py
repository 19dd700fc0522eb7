"""What is known of each clip, put together from its sounds when it is asked for.

Nothing is kept for a clip but the columns of `Heard`, so a hundred thousand clips are a few
megabytes; a ClipFacts is made anew each time one goes through them.

What all clips are together: hours, lengths, levels, and who speaks what at which rate.

Each sound counts once, with the first clip that names it.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from dlm.data.audio_scan import AudioScan, AudioStats
from dlm.data.types import Example, RecordingKey, Task


@dataclass(frozen=True, slots=True)
class ExampleStats:
    """One clip, measured: levels are shares of full scale, None where only headers were read.

    Several sounds count together; `rate`, `channels` and `sha256` (of the recording, empty where
    there are too many to hash) are of the first. `lasting` is how many seconds each of them lasts,
    `content` the sha256 of what is heard in all of them. A text clip has no sound: zeros.
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
    """The facts of every clip whose sounds can all be heard, in order."""

    examples: Sequence[Example]
    scan: AudioScan

    def __iter__(self) -> Iterator[ExampleStats]:
        for clip in self.examples:
            numbers = self.scan.get_segment_numbers(clip)
            if numbers is not None:
                yield _compute_example_stats(clip, numbers, self.scan)

    @property
    def content_hashes(self) -> dict[RecordingKey, str]:
        """The sha256 of the samples of every recording that was heard from end to end."""
        heard = self.scan
        return {
            sound.recording_key: heard.stats[number].content_sha256
            for sound, number in heard.segment_numbers.items()
            if number in heard.stats and sound.start is None and sound.end is None
        }

    def __len__(self) -> int:
        return sum(self.scan.get_segment_numbers(clip) is not None for clip in self.examples)

    def get_durations(self) -> dict[str, tuple[float, ...]]:
        """How many seconds each sound of a clip lasts, by the clip's place."""
        both = ((clip, self.scan.get_segment_numbers(clip)) for clip in self.examples)
        return {
            clip.location: tuple(map(self.scan.get_seconds, numbers))
            for clip, numbers in both
            if numbers is not None
        }

    def get_content_by_location(self) -> dict[str, str]:
        """What is heard in each clip whose sounds were decoded, as a hash, by its place."""
        return {
            clip.location: _join_content_hashes(numbers, self.scan)
            for clip in self.examples
            if (numbers := self.scan.get_segment_numbers(clip))
            and self.scan.stats.keys() >= set(numbers)
        }


def _compute_example_stats(example: Example, numbers: list[int], scan: AudioScan) -> ExampleStats:
    """The sounds of a clip taken together."""
    lasting = tuple(map(scan.get_seconds, numbers))
    seconds, words = sum(lasting), len(example.target.split())
    found = [scan.stats[number] for number in numbers if number in scan.stats]
    whole = len(found) == len(numbers)
    recording = scan.recordings[numbers[0]] if numbers else None
    return ExampleStats(
        location=example.location,
        task=example.task,
        seconds=seconds,
        num_samples=sum(scan.num_samples[number] for number in numbers),
        sample_rate=scan.sample_rates[numbers[0]] if numbers else 0,
        num_channels=scan.num_channels[numbers[0]] if numbers else 0,
        peak=max((sound.peak for sound in found), default=0.0) if whole else None,
        rms=_compute_weighted_mean(found, lambda sound: sound.rms**2) ** 0.5 if whole else None,
        silent_fraction=_compute_weighted_mean(found, lambda sound: sound.silent_fraction)
        if whole
        else None,
        clipped_fraction=_compute_weighted_mean(found, lambda sound: sound.clipped_fraction)
        if whole
        else None,
        num_words=words,
        words_per_second=words / seconds if seconds else 0.0,
        sha256=recording.sha256 if recording else "",
        durations=lasting,
        content_sha256=_join_content_hashes(numbers, scan) if whole else "",
    )


def _join_content_hashes(numbers: list[int], scan: AudioScan) -> str:
    """One hash of the samples of several sounds; of a single one, its own."""
    return " ".join(scan.stats[number].content_sha256 for number in numbers)


def _compute_weighted_mean(
    stats: list[AudioStats], value_fn: Callable[[AudioStats], float]
) -> float:
    """A measure of several sounds, weighted by how long they last."""
    seconds = sum(sound.seconds for sound in stats)
    return sum(value_fn(sound) * sound.seconds for sound in stats) / seconds if seconds else 0.0


LENGTH_EDGES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 300.0, math.inf)  # seconds
LEVEL_EDGES_DB = (
    -math.inf,
    -60.0,
    -50.0,
    -45.0,
    -40.0,
    -35.0,
    -30.0,
    -25.0,
    -20.0,
    -15.0,
    -10.0,
    0.0,
)


@dataclass(frozen=True)
class Histogram:
    """How many lie between each edge and the next; the last edge is inside."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def from_values(cls, edges: tuple[float, ...], values: Iterable[float]) -> "Histogram":
        """Count values; one that lies below all edges counts with the lowest, and so above."""
        found = np.searchsorted(edges[1:-1], np.fromiter(values, np.float64), "right")
        return cls(edges, tuple(np.bincount(found, minlength=len(edges) - 1).tolist()))


@dataclass
class CountDuration:
    """Clips with sound, and how long they last together."""

    num_examples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class DatasetStats:
    """All clips together. Seconds and rates count each sound once."""

    num_examples: int
    num_segments: int  # that can be heard
    num_decoded: int  # of them decoded; the others are known by their headers
    hours: float
    seconds_min: float
    seconds_median: float
    seconds_max: float
    sample_rates: Counter[int]
    tasks: Counter[Task]
    lengths: Histogram
    levels: Histogram  # decibels below full scale, of those that were decoded
    languages: dict[str, CountDuration] = field(default_factory=dict)  # empty where none is known
    speakers: dict[str, CountDuration] = field(default_factory=dict)
    transcripts_per_minute: float = 0.0
    words_per_second: float = 0.0  # the median of clips that are transcribed


def compute_dataset_stats(examples: Sequence[Example], scan: AudioScan) -> DatasetStats:
    """Add up what is known of every clip."""
    samples, rates = np.array(scan.num_samples, float), np.array(scan.sample_rates, float)
    good = samples > 0
    seconds = samples[good] / rates[good]
    loud = (20 * math.log10(max(each.rms, 1e-9)) for each in scan.stats.values())
    languages, speakers = _count_languages_and_speakers(examples, scan)
    spoken = [
        clip for clip in examples if clip.task == "transcribe" and scan.get_total_seconds(clip)
    ]
    minutes = sum(map(scan.get_total_seconds, spoken)) / 60
    paces = [len(clip.target.split()) / scan.get_total_seconds(clip) for clip in spoken]
    return DatasetStats(
        num_examples=len(examples),
        num_segments=len(seconds),
        num_decoded=len(scan.stats),
        hours=float(seconds.sum()) / 3600,
        seconds_min=float(seconds.min(initial=math.inf)) if len(seconds) else 0.0,
        seconds_median=float(np.median(seconds)) if len(seconds) else 0.0,
        seconds_max=float(seconds.max(initial=0.0)),
        sample_rates=Counter(np.array(scan.sample_rates)[good].tolist()),
        tasks=Counter(clip.task for clip in examples),
        lengths=Histogram.from_values(LENGTH_EDGES_SECONDS, seconds),
        levels=Histogram.from_values(LEVEL_EDGES_DB, loud),
        languages=languages,
        speakers=speakers,
        transcripts_per_minute=len(spoken) / minutes if minutes else 0.0,
        words_per_second=median(paces) if paces else 0.0,
    )


def _count_languages_and_speakers(
    examples: Sequence[Example], scan: AudioScan
) -> tuple[dict[str, CountDuration], dict[str, CountDuration]]:
    """Clips and seconds by language and by speaker, the most heard first."""
    languages: dict[str, CountDuration] = {}
    speakers: dict[str, CountDuration] = {}
    told = bytearray(len(scan.segment_numbers))
    for clip in examples:
        numbers = scan.get_segment_numbers(clip)
        if not numbers:
            continue
        fresh = [number for number in numbers if not told[number]]
        seconds = sum(map(scan.get_seconds, fresh))
        for number in fresh:
            told[number] = True
        for tallies, key in ((languages, clip.language), (speakers, clip.speaker)):
            if key:
                tally = tallies.setdefault(key, CountDuration())
                tally.num_examples += 1
                tally.seconds += seconds
    return _sort_by_duration(languages), _sort_by_duration(speakers)


def _sort_by_duration(tallies: dict[str, CountDuration]) -> dict[str, CountDuration]:
    return dict(sorted(tallies.items(), key=lambda each: -each[1].seconds))
