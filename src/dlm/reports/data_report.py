"""The page that `dlm check` writes: what is known of the clips, and a player for those it names.

    sums        hours, rates, languages, speakers; lengths and levels as bars
    problems    by what would mend them, with the clips that need it
    dictation   what a model heard, the worst clips first, where that was asked for

One file that asks nothing of a network and runs nothing. The beginnings of a few sounds are within
it; others are played from where they lie, if that is below the page's own folder.
"""

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import soundfile

from dlm.data.audio_io import load_audio
from dlm.data.stats import Histogram
from dlm.data.types import AudioSegment, Issue
from dlm.data.validate import ValidationReport
from dlm.errors import DataError, MissingExtra
from dlm.io import write_atomic

if TYPE_CHECKING:
    from dlm.inference.label_check import TranscriptionCheck


DATA_REPORT_TEMPLATE = "data_report.html"
MAX_EMBEDDED_EXAMPLES = 50  # clips whose sounds are within the page
DATA_PREVIEW_SECONDS = 10.0  # of each: some 60 kB
DATA_PREVIEW_SAMPLE_RATE = 16_000
MAX_LISTED_EXAMPLES = 100  # clips told of one mend, and of a dictation; the rest are counted
MAX_LISTED_SPEAKERS = 12  # that are told by name


@dataclass(frozen=True)
class ReportHeader:
    """What a page is about."""

    document: str
    base_model: str
    created_at: str


@dataclass(frozen=True)
class AudioPlayer:
    """A sound on the page: its address, what of it is played, and whether the page holds it."""

    url: str
    caption: str = ""
    is_embedded: bool = False


@dataclass(frozen=True)
class IssueGroup:
    """Clips that the same mend helps."""

    hint: str
    fatal: bool
    issues: tuple[Issue, ...]
    num_omitted: int  # that are not told


@dataclass(frozen=True)
class HistogramBar:
    """One bar of a histogram: its height is a share of the tallest."""

    label: str
    count: int
    height: float


def require_data_report_extra() -> None:
    """Raise MissingExtra before any work is done where the page could not be written."""
    if find_spec("jinja2") is None:
        raise MissingExtra("jinja2", "insight")


def write_data_report(
    path: Path,
    header: ReportHeader,
    report: ValidationReport,
    *,
    issues: Sequence[Issue],
    transcription_check: "TranscriptionCheck | None",
) -> None:
    """Write the page. Raises StoreError where that cannot be done."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    groups = tuple(_group_issues(issues))
    worst = (
        [clip for clip in transcription_check.transcripts if clip.wer][:MAX_LISTED_EXAMPLES]
        if transcription_check
        else []
    )
    named = [*(each.location for each in worst), *_iter_locations(groups)]
    template = environment.from_string(
        files("dlm.reports").joinpath(DATA_REPORT_TEMPLATE).read_text("utf-8")
    )
    text = template.render(
        about=header,
        found=report,
        groups=groups,
        dictation=transcription_check,
        worst=worst,
        players=_make_players(named, report, path.absolute().parent),
        lengths=tuple(make_histogram_bars(report.lengths, "s")),
        levels=tuple(make_histogram_bars(report.levels, "dB")),
        speakers=dict(islice(report.speakers.items(), MAX_LISTED_SPEAKERS)),
        played=DATA_PREVIEW_SECONDS,
    )
    write_atomic(path, text)


def make_histogram_bars(histogram: Histogram, unit: str) -> Iterator[HistogramBar]:
    """The bars of a histogram, from the first that is not empty to the last."""
    counts, most = histogram.counts, max(histogram.counts, default=0)
    full = [at for at, count in enumerate(counts) if count]
    for at in range(full[0], full[-1] + 1) if full else ():
        low, high = histogram.edges[at], histogram.edges[at + 1]
        label = f"{low:g} to {high:g} {unit}"
        if not math.isfinite(low):
            label = f"below {high:g} {unit}"
        elif not math.isfinite(high):
            label = f"above {low:g} {unit}"
        yield HistogramBar(label, counts[at], counts[at] / most)


def _group_issues(issues: Iterable[Issue]) -> Iterator[IssueGroup]:
    """Problems by their mend, what stops training first."""
    found: dict[tuple[bool, str], list[Issue]] = {}
    for problem in issues:
        found.setdefault((problem.fatal, problem.hint), []).append(problem)
    for (fatal, mend), each in sorted(found.items(), key=lambda item: not item[0][0]):
        yield IssueGroup(
            mend, fatal, tuple(each[:MAX_LISTED_EXAMPLES]), max(len(each) - MAX_LISTED_EXAMPLES, 0)
        )


def _iter_locations(groups: Sequence[IssueGroup]) -> Iterator[str]:
    """Where the problems are, a few of each group before the rest of any."""
    for at in range(MAX_LISTED_EXAMPLES):
        yield from (group.issues[at].where for group in groups if at < len(group.issues))


def _make_players(
    locations: Iterable[str], report: ValidationReport, folder: Path
) -> dict[str, tuple[AudioPlayer, ...]]:
    """Players by the place of a clip; those named first are within the page."""
    wanted = dict.fromkeys(locations)
    by_place = {
        clip.location: clip for clip in report.example_stats.examples if clip.location in wanted
    }
    lasting = report.example_stats.get_durations()
    players: dict[str, tuple[AudioPlayer, ...]] = {}
    within = 0
    for place in wanted:
        sounds = by_place[place].audio_segments if place in by_place else ()
        both = zip(sounds, lasting.get(place, ()), strict=False)
        if within < MAX_EMBEDDED_EXAMPLES:
            made = [_make_embedded_player(sound, seconds) for sound, seconds in both]
        else:
            made = [_make_linked_player(sound, seconds, folder) for sound, seconds in both]
        players[place] = tuple(player for player in made if player is not None)
        within += bool(players[place])
    return players


def _make_embedded_player(segment: AudioSegment, seconds: float) -> AudioPlayer | None:
    """A player that holds the beginning of a sound; None if it cannot be decoded."""
    start, played = segment.start or 0.0, min(seconds, DATA_PREVIEW_SECONDS)
    try:
        span = replace(segment, start=start, end=start + played)
        wave = load_audio(span, sample_rate=DATA_PREVIEW_SAMPLE_RATE, resample=True)
    except DataError:
        return None
    file = io.BytesIO()
    soundfile.write(file, wave, DATA_PREVIEW_SAMPLE_RATE, format="OGG", subtype="VORBIS")
    told = f"the first {played:.0f} s of {seconds:.1f} s" if played < seconds else ""
    address = f"data:audio/ogg;base64,{b64encode(file.getvalue()).decode()}"
    return AudioPlayer(address, told, is_embedded=True)


def _make_linked_player(segment: AudioSegment, seconds: float, folder: Path) -> AudioPlayer | None:
    """A player of the file itself; None if that lies in an archive, or not below the page."""
    path = segment.path.absolute()
    if segment.byte_range is not None or not path.is_relative_to(folder):
        return None
    start = segment.start or 0.0
    part = (
        "" if segment.start is None and segment.end is None else f"#t={start:g},{start + seconds:g}"
    )
    return AudioPlayer(quote(path.relative_to(folder).as_posix()) + part)
