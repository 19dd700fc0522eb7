"""Writes the page of `dlm check --page`: statistics of the clips, issues with players, transcripts.

    statistics    hours, sample rates, languages, speakers; histograms of durations and levels
    transcripts   what a model transcribed, the worst clips first, with `--listen`
    issues        by their hint, with the clips that have them

The beginnings of the first clips are within the page; others are played from their files, if those
are below the page's own folder.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dlm.data.stats import Histogram
from dlm.data.types import AudioSegment, Issue
from dlm.data.validate import ValidationReport
from dlm.errors import DataError
from dlm.io import write_atomic
from dlm.reports.html import AudioPlayer, make_embedded_player, render_page

if TYPE_CHECKING:
    from dlm.inference.label_check import TranscriptionCheck

DATA_REPORT_PACKAGES = ("jinja2",)
MAX_EMBEDDED_EXAMPLES = 50  # whose audio is within the page
DATA_PREVIEW_SECONDS = 10.0  # of each: some 60 kB
DATA_PREVIEW_SAMPLE_RATE = 16_000
MAX_LISTED_EXAMPLES = 100  # of each hint, and of transcripts; the rest are counted
MAX_LISTED_SPEAKERS = 12


@dataclass(frozen=True)
class ReportHeader:
    """What a page is about: file name of the document, key of the model, time."""

    document: str
    base_model: str
    created_at: str


@dataclass(frozen=True)
class IssueGroup:
    """Issues with the same hint.

    Attributes:
        hint: what to do about them.
        fatal: whether training would fail on them.
        issues: the first of them.
        num_omitted: the rest.
    """

    hint: str
    fatal: bool
    issues: tuple[Issue, ...]
    num_omitted: int


@dataclass(frozen=True)
class HistogramBar:
    """One bar of a histogram; its height is a fraction of the tallest."""

    label: str
    count: int
    height: float


def write_data_report(
    path: Path,
    header: ReportHeader,
    report: ValidationReport,
    *,
    issues: Sequence[Issue],
    transcription_check: "TranscriptionCheck | None",
) -> None:
    """Write the page. Raises StoreError."""
    groups = tuple(_group_issues(issues))
    transcripts = transcription_check.transcripts if transcription_check else ()
    worst = [checked for checked in transcripts if checked.wer][:MAX_LISTED_EXAMPLES]
    locations = [*(checked.location for checked in worst), *_iter_locations(groups)]
    page = render_page(
        "data_report.html",
        header=header,
        report=report,
        groups=groups,
        check=transcription_check,
        worst=worst,
        players=_make_players(locations, report, path.absolute().parent),
        duration_bars=tuple(make_histogram_bars(report.lengths, "s")),
        level_bars=tuple(make_histogram_bars(report.levels, "dB")),
        speakers=dict(islice(report.speakers.items(), MAX_LISTED_SPEAKERS)),
    )
    write_atomic(path, page)


def make_histogram_bars(histogram: Histogram, unit: str) -> Iterator[HistogramBar]:
    """Yield the bars of a histogram, from the first with a count to the last."""
    counts = histogram.counts
    filled = [index for index, count in enumerate(counts) if count]
    for index in range(filled[0], filled[-1] + 1) if filled else ():
        low, high = histogram.edges[index], histogram.edges[index + 1]
        label = f"{low:g} to {high:g} {unit}"
        if not math.isfinite(low):
            label = f"below {high:g} {unit}"
        elif not math.isfinite(high):
            label = f"above {low:g} {unit}"
        yield HistogramBar(label, counts[index], counts[index] / max(counts))


def _group_issues(issues: Iterable[Issue]) -> Iterator[IssueGroup]:
    """Issues by their hint, the fatal ones first."""
    grouped: dict[tuple[bool, str], list[Issue]] = defaultdict(list)
    for issue in issues:
        grouped[issue.fatal, issue.hint].append(issue)
    for (fatal, hint), group in sorted(grouped.items(), key=lambda item: not item[0][0]):
        listed = tuple(group[:MAX_LISTED_EXAMPLES])
        yield IssueGroup(hint, fatal, listed, len(group) - len(listed))


def _iter_locations(groups: Sequence[IssueGroup]) -> Iterator[str]:
    """The locations of issues, a few of each group before the rest of any."""
    for index in range(MAX_LISTED_EXAMPLES):
        yield from (group.issues[index].where for group in groups if index < len(group.issues))


def _make_players(
    locations: Iterable[str], report: ValidationReport, folder: Path
) -> dict[str, tuple[AudioPlayer, ...]]:
    """Players by the location of an example; the first are within the page."""
    wanted = dict.fromkeys(locations)
    examples = {
        example.location: example
        for example in report.example_stats.examples
        if example.location in wanted
    }
    durations = report.example_stats.get_durations()
    players: dict[str, tuple[AudioPlayer, ...]] = {}
    num_embedded = 0
    for location in wanted:
        segments = examples[location].audio_segments if location in examples else ()
        is_embedded = num_embedded < MAX_EMBEDDED_EXAMPLES
        made = (
            _embed_segment(segment, seconds)
            if is_embedded
            else _link_segment(segment, seconds, folder)
            for segment, seconds in zip(segments, durations.get(location, ()), strict=False)
        )
        players[location] = tuple(player for player in made if player is not None)
        num_embedded += bool(players[location])
    return players


def _embed_segment(segment: AudioSegment, seconds: float) -> AudioPlayer | None:
    """A player that holds the beginning of a segment; None if it cannot be decoded."""
    try:
        return make_embedded_player(
            segment,
            seconds,
            max_seconds=DATA_PREVIEW_SECONDS,
            sample_rate=DATA_PREVIEW_SAMPLE_RATE,
            audio_format="ogg",
        )
    except DataError:
        return None


def _link_segment(segment: AudioSegment, seconds: float, folder: Path) -> AudioPlayer | None:
    """A player of the file itself; None if that is in an archive, or not below the page."""
    path = segment.path.absolute()
    if segment.byte_range is not None or not path.is_relative_to(folder):
        return None
    url = quote(path.relative_to(folder).as_posix())
    if segment.start is not None or segment.end is not None:
        start = segment.start or 0.0
        url += f"#t={start:g},{start + seconds:g}"  # media fragment (W3C Media Fragments URI 1.0)
    return AudioPlayer(url)
