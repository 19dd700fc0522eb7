"""Which clips a document points at: those it writes out, then those of its sources.

Nothing is raised: what is wrong is a Problem with its place, so that all can be told at once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dlm.clips.benchmarks import refusal
from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.formats.every import format_of
from dlm.clips.formats.hub import is_hub
from dlm.clips.formats.parquet import unpacked
from dlm.clips.formats.tars import expanded
from dlm.clips.haul import Haul, SourceReport
from dlm.clips.origin import Given, Origin, Skipped
from dlm.clips.sections import clips_in, opening, place_of
from dlm.clips.walk import escape, lies_in
from dlm.document.document import Document
from dlm.document.settings import Training
from dlm.document.sources import Source
from dlm.errors import ClipError, MissingExtra

SAMPLE = 256  # clips of a source that are looked at before it is streamed


@dataclass(frozen=True)
class Gathered:
    """All clips of a document, in order, and what is wrong with the rest.

    What is `broken` are single rows, which are among the problems.
    """

    clips: tuple[Clip, ...]
    sources: tuple[SourceReport, ...]
    problems: tuple[Problem, ...]
    broken: tuple[Problem, ...] = ()

    @property
    def held_out(self) -> tuple[Clip, ...]:
        """The clips of the source that is kept for testing, if one is."""
        kept: tuple[Clip, ...] = ()
        first = len(self.clips)
        for report in reversed(self.sources):
            first -= report.audio_count
            if report.held_out:
                kept = self.clips[first : first + report.audio_count]
        return kept


def gather(document: Document) -> Gathered:
    """Everything the document gives to learn from."""
    found = list(clips_in(document))
    clips = [clip for clip in found if isinstance(clip, Clip)]
    problems = [problem for problem in found if isinstance(problem, Problem)]
    broken: list[Problem] = []
    reports: list[SourceReport] = []
    asked = document.settings.training
    for source, tested in every_source(asked):
        sampled = asked.streamed and (source.stream or not tested)
        most = min(SAMPLE, source.max_files or SAMPLE) if sampled else None
        given = gather_source(document, source, most=most)
        clips += given.clips
        problems += given.problems
        broken += given.broken
        (report,) = given.sources
        reports.append(replace(report, held_out=tested))
        if report.audio_count and not tested and not asked.allow_test_split:
            place = _place_of_source(document, source)
            problems += refusal(source, report.test_of, place)
    if not clips and not any(problem.fatal for problem in problems):
        mend = "add an ::audio:: section, or a folder of clips under training.sources"
        what = "the document gives nothing to learn"
        problems.append(Problem(document.path.name, what, mend, fatal=True))
    return Gathered(tuple(clips), tuple(reports), tuple(problems), tuple(broken))


def gather_source(document: Document, source: Source, *, most: int | None = None) -> Gathered:
    """Everything that one source gives, or its first so many clips."""
    haul = Haul()
    try:
        _haul_in(document, source, haul, most=most)
    except (ClipError, MissingExtra) as error:
        haul.problems.append(Problem.of(error, _place_of_source(document, source)))
    reports = (haul.report(source.path),)
    return Gathered(tuple(haul.clips), reports, tuple(haul.problems), tuple(haul.broken))


def every_source(asked: Training) -> Iterator[tuple[Source, bool]]:
    """Every source, and whether it is kept for testing; one that only held_out names comes last."""
    named = asked.held_out if isinstance(asked.held_out, Source) else None
    listed = [(each, named is not None and _is(each, named)) for each in asked.sources]
    yield from listed
    if named is not None and not any(tested for _, tested in listed):
        yield named, True


def _is(source: Source, named: Source) -> bool:
    """Whether a source is the one that is named: by its path alone or by everything."""
    by_path = named == Source(path=named.path) and Path(source.path) == Path(named.path)
    return by_path or source == named


def rooted(document: Document, source: Source) -> Origin:
    """A source where it lies. Raises ClipError where it is not, or where it may not be."""
    origin = Origin.of(document, source)
    afar = is_hub(origin.root)
    if not afar and not any(path.exists() for path in expanded(origin.root)):
        what = f"source not found: {source.path}"
        raise ClipError(what, mend="make the folder or mend its path")
    home = _home(document)
    if home is not None and (afar or not lies_in(home, origin.root)):
        raise escape(source.path)
    return origin


def taken(document: Document, origin: Origin, given: Given) -> Given:
    """What a source makes of what its format gives: one of its clips, or why it is none."""
    if not isinstance(given, Clip):
        return given
    if any("\0" in each.file or "\0" in str(each.folder) for each in given.sounds):
        error = ClipError("the path of its recording holds a zero byte", mend="mend the path")
        return Problem.of(error, given.place)
    home = _home(document)
    away = next((each for each in given.sounds if not origin.means(_below(origin, each))), None)
    if away is not None:
        return Skipped(away.name, "excluded")
    outside = next((each for each in given.sounds if home and _outside(each.path, home)), None)
    if outside is not None:
        name = "it" if outside.name == given.place else outside.name
        return Problem.of(escape(name), given.place)
    told = given.turns[0].role == "system"
    turns = given.turns if told else (*opening(document), *given.turns)
    return replace(given, turns=turns, weight=origin.source.weight)


def _haul_in(document: Document, source: Source, haul: Haul, *, most: int | None) -> None:
    """Everything in one source, in the order of its rows, up to so many clips."""
    origin = rooted(document, source)
    for shard in format_of(origin).shards(origin):
        before = len(haul.clips)
        for given in shard.read(0) if most is None or before < most else ():
            _take(taken(document, origin, given), source, haul)
            if most is not None and len(haul.clips) + len(haul.broken) >= most:
                break
        if shard.test_of and (most is not None or len(haul.clips) > before):
            haul.tests.append(shard.test_of)
    haul.problems += haul.remarks(source.path, _place_of_source(document, source))


def _take(given: Given, source: Source, haul: Haul) -> None:
    """Note what a source gives: a clip, a skip or a problem."""
    if isinstance(given, Problem):
        haul.complain(given)
    elif isinstance(given, Skipped):
        haul.skip(given)
    elif source.max_files is not None and len(haul.clips) >= source.max_files:
        haul.over += 1
    else:
        for sound in given.sounds:
            haul.weigh(sound.path)
        haul.clips.append(given)


def _home(document: Document) -> Path | None:
    """The folder that sources may not leave."""
    return document.folder if document.settings.training.sources_policy == "strict" else None


def _below(origin: Origin, sound: Sound) -> str:
    """A recording as the source's patterns see it: relative to the source or to its list."""
    if sound.inside is not None:
        return sound.name.removeprefix(f"{origin.name}/")
    folder = origin.root if origin.root.is_dir() else origin.root.parent
    return (
        sound.path.relative_to(folder).as_posix()
        if sound.path.is_relative_to(folder)
        else sound.name
    )


def _outside(path: Path, folder: Path) -> bool:
    """Whether a recording lies elsewhere; one that was unpacked lies where its source does."""
    return not lies_in(folder, path) and not unpacked(path)


def _place_of_source(document: Document, source: Source) -> str:
    """The line of the document that names the source, as far as it can be found."""
    key = r"(?:\b(?:path|sources|held_out)\s*:|\bsources\s*:.*[\[,]|^\s*-)"
    written = re.escape(source.path)
    form = re.compile(rf"{key}\s*['\"]?{written}['\"]?\s*(?:$|[],}}#])")
    for number, line in enumerate(document.source.split("\n"), start=1):
        if form.search(line):
            return place_of(document, number)
    return document.path.name
