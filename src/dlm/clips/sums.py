"""What all clips are together: hours, lengths, levels, and who speaks what at which rate.

Each sound counts once, with the first clip that names it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from dlm.clips.clip import Clip, Task
from dlm.clips.heard import Heard

LENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 300.0, math.inf)  # seconds
LEVELS = (-math.inf, -60.0, -50.0, -45.0, -40.0, -35.0, -30.0, -25.0, -20.0, -15.0, -10.0, 0.0)


@dataclass(frozen=True)
class Histogram:
    """How many lie between each edge and the next; the last edge is inside."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, edges: tuple[float, ...], values: Iterable[float]) -> "Histogram":
        """Count values; one that lies below all edges counts with the lowest, and so above."""
        found = np.searchsorted(edges[1:-1], np.fromiter(values, np.float64), "right")
        return cls(edges, tuple(np.bincount(found, minlength=len(edges) - 1).tolist()))


@dataclass
class Tally:
    """Clips with sound, and how long they last together."""

    clips: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Sums:
    """All clips together. Seconds and rates count each sound once."""

    clips: int
    sounds: int  # that can be heard
    heard: int  # of them decoded; the others are known by their headers
    hours: float
    seconds_min: float
    seconds_median: float
    seconds_max: float
    rates: Counter[int]
    tasks: Counter[Task]
    lengths: Histogram
    levels: Histogram  # decibels below full scale, of those that were decoded
    languages: dict[str, Tally] = field(default_factory=dict)  # empty where none is known
    speakers: dict[str, Tally] = field(default_factory=dict)
    transcripts_per_minute: float = 0.0
    words_per_second: float = 0.0  # the median of clips that are transcribed


def sum_up(clips: Sequence[Clip], heard: Heard) -> Sums:
    """Add up what is known of every clip."""
    samples, rates = np.array(heard.samples, float), np.array(heard.rates, float)
    good = samples > 0
    seconds = samples[good] / rates[good]
    loud = (20 * math.log10(max(each.rms, 1e-9)) for each in heard.facts.values())
    languages, speakers = _tallies(clips, heard)
    spoken = [clip for clip in clips if clip.task == "transcribe" and heard.lasting(clip)]
    minutes = sum(map(heard.lasting, spoken)) / 60
    paces = [len(clip.target.split()) / heard.lasting(clip) for clip in spoken]
    return Sums(
        clips=len(clips),
        sounds=len(seconds),
        heard=len(heard.facts),
        hours=float(seconds.sum()) / 3600,
        seconds_min=float(seconds.min(initial=math.inf)) if len(seconds) else 0.0,
        seconds_median=float(np.median(seconds)) if len(seconds) else 0.0,
        seconds_max=float(seconds.max(initial=0.0)),
        rates=Counter(np.array(heard.rates)[good].tolist()),
        tasks=Counter(clip.task for clip in clips),
        lengths=Histogram.of(LENGTHS, seconds),
        levels=Histogram.of(LEVELS, loud),
        languages=languages,
        speakers=speakers,
        transcripts_per_minute=len(spoken) / minutes if minutes else 0.0,
        words_per_second=median(paces) if paces else 0.0,
    )


def _tallies(clips: Sequence[Clip], heard: Heard) -> tuple[dict[str, Tally], dict[str, Tally]]:
    """Clips and seconds by language and by speaker, the most heard first."""
    languages: dict[str, Tally] = {}
    speakers: dict[str, Tally] = {}
    told = bytearray(len(heard.numbers))
    for clip in clips:
        numbers = heard.within(clip)
        if not numbers:
            continue
        fresh = [number for number in numbers if not told[number]]
        seconds = sum(map(heard.seconds, fresh))
        for number in fresh:
            told[number] = True
        for tallies, key in ((languages, clip.language), (speakers, clip.speaker)):
            if key:
                tally = tallies.setdefault(key, Tally())
                tally.clips += 1
                tally.seconds += seconds
    return _most_first(languages), _most_first(speakers)


def _most_first(tallies: dict[str, Tally]) -> dict[str, Tally]:
    return dict(sorted(tallies.items(), key=lambda each: -each[1].seconds))
