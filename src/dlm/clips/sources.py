"""Which clips a document points at: those it writes out, then those of its source folders.

    corpus/a.wav  + corpus/a.txt    a clip: what is said in a.wav stands in a.txt
    corpus/b.flac                   no transcript: skipped, counted and said
    corpus/notes.md                 not audio: skipped and counted
    data.jsonl                      a clip for each of its rows (manifest.py); so .json and .csv

Nothing is raised: what is wrong is a Problem with its place, so that all can be told at once.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dlm.clips.captions import Absent
from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.haul import Haul, SourceReport
from dlm.clips.manifest import Given, listed
from dlm.clips.rows import LISTS
from dlm.clips.sections import (
    EMPTY_TRANSCRIPT,
    clips_in,
    located,
    opening,
    place_of,
    transcription,
)
from dlm.clips.walk import AUDIO_SUFFIXES, matches, walk
from dlm.document.document import Document
from dlm.document.settings import Source
from dlm.errors import ClipError

FOREIGN_SUFFIXES = frozenset(".m4a .aac .mp4 .wma .webm .mkv .mov .amr .aiff .aif .caf .au".split())


@dataclass(frozen=True)
class Gathered:
    """All clips of a document, in order, and what is wrong with the rest."""

    clips: tuple[Clip, ...]
    sources: tuple[SourceReport, ...]
    problems: tuple[Problem, ...]


def gather(document: Document) -> Gathered:
    """Everything the document gives to learn from."""
    found = list(clips_in(document))
    clips = [clip for clip in found if isinstance(clip, Clip)]
    problems = [problem for problem in found if isinstance(problem, Problem)]
    reports: list[SourceReport] = []
    for source in document.settings.training.sources:
        given = gather_source(document, source)
        clips += given.clips
        problems += given.problems
        reports += given.sources
    if not clips and not any(problem.fatal for problem in problems):
        mend = "add an ::audio:: section, or a folder of clips under training.sources"
        what = "the document gives nothing to learn"
        problems.append(Problem(document.path.name, what, mend, fatal=True))
    return Gathered(tuple(clips), tuple(reports), tuple(problems))


def gather_source(document: Document, source: Source) -> Gathered:
    """Everything that one source gives."""
    haul = Haul()
    try:
        _haul_in(document, source, haul)
    except ClipError as error:
        haul.problems.append(Problem.of(error, _place_of_source(document, source)))
    return Gathered(tuple(haul.clips), (haul.report(source.path),), tuple(haul.problems))


def _haul_in(document: Document, source: Source, haul: Haul) -> None:
    """Everything in one source, in the order of its paths."""
    root = located(document, source.path)
    if not root.exists():
        what = f"source not found: {source.path}"
        raise ClipError(what, mend="make the folder or mend its path")
    home = document.folder if document.settings.training.sources_policy == "strict" else None
    if home is not None and not _inside(root, home):
        raise _escape(source.path)
    if root.suffix.lower() in LISTS and root.is_file():
        for row in listed(root, Path(source.path).as_posix(), prompt=source.prompt):
            _take_row(document, source, row, haul, home=home)
    elif root.is_file() and root.suffix.lower() not in AUDIO_SUFFIXES:
        lists, suffixes = ", ".join(LISTS), ", ".join(sorted(AUDIO_SUFFIXES))
        mend = f"name a folder of clips, a list ({lists}), or one recording ({suffixes})"
        raise ClipError(f"source is neither a folder nor audio: {source.path}", mend=mend)
    else:
        _take_files(document, source, root, haul, home=home)
    haul.problems += haul.remarks(source.path, _place_of_source(document, source))


def _take_files(
    document: Document, source: Source, root: Path, haul: Haul, *, home: Path | None
) -> None:
    """The recordings of a folder; nothing outside `home` if there is one."""
    for file in _chosen(source, root, haul):
        name = _name(source, root, file)
        if home is not None and not _inside(file, home):
            place = _place_of_source(document, source)
            haul.problems.append(Problem.of(_escape(name), place))
        else:
            _take(document, source, _Pair(file, _sidecar(file), name), haul)


def _take_row(
    document: Document, source: Source, row: Given, haul: Haul, *, home: Path | None
) -> None:
    """A row of a list becomes a clip, a skip or a problem."""
    if isinstance(row, Problem):
        haul.problems.append(row)
        return
    if isinstance(row, Absent):
        haul.absent.append(row.name)
        return
    outside = [each.name for each in row.sounds if home and not _inside(each.path, home)]
    if not all(_means(source, each.name) for each in row.sounds):
        haul.excluded += 1
    elif outside:
        haul.problems.append(Problem.of(_escape(outside[0]), row.place))
    elif source.max_files is not None and len(haul.clips) >= source.max_files:
        haul.over += 1
    else:
        for sound in row.sounds:
            haul.weigh(sound.path)
        told = row.turns[0].role == "system"
        turns = row.turns if told else (*opening(document), *row.turns)
        haul.clips.append(replace(row, turns=turns, language=row.language or source.language))


def _means(source: Source, path: str) -> bool:
    """Whether the source's patterns mean a path."""
    path = path.lstrip("/")
    return matches(path, source.include or ("**",)) and not matches(path, source.exclude)


def _chosen(source: Source, root: Path, haul: Haul) -> Iterator[Path]:
    """The audio files that the patterns mean; the rest is counted."""
    found = walk(root)
    for folder in found.closed:
        name, mend = _name(source, root, folder), "allow it to be read, or exclude it"
        haul.problems.append(Problem(name, "the folder cannot be listed", mend, fatal=False))
    audio = [file for file in found.files if file.suffix.lower() in AUDIO_SUFFIXES]
    told = {sidecar for sidecar in map(_sidecar, audio) if sidecar is not None}
    rest = set(found.files) - set(audio) - told
    haul.not_audio = len(rest)
    foreign = sorted(file for file in rest if file.suffix.lower() in FOREIGN_SUFFIXES)
    haul.foreign = [_name(source, root, file) for file in foreign]
    for file in audio:
        if _means(source, file.name if file == root else file.relative_to(root).as_posix()):
            yield file
        else:
            haul.excluded += 1


@dataclass(frozen=True)
class _Pair:
    """An audio file, the transcript beside it, and its name in the author's words."""

    file: Path
    sidecar: Path | None
    name: str


def _take(document: Document, source: Source, pair: _Pair, haul: Haul) -> None:
    """One audio file becomes a clip, a skip or a problem."""
    if pair.sidecar is None:
        haul.untold.append(pair.name)
        return
    if source.max_files is not None and len(haul.clips) >= source.max_files:
        haul.over += 1
        return
    place_of_text = Path(pair.name).with_name(pair.sidecar.name).as_posix()
    try:
        transcript = _transcript(pair.sidecar)
        haul.weigh(pair.file)
    except ClipError as error:
        haul.problems.append(Problem.of(error, place_of_text))
        return
    sound = Sound(pair.file, written=pair.name)
    turns = transcription(document, sound, transcript, prompt=source.prompt)
    haul.clips.append(Clip(turns, pair.name, "transcribe", source.language))


def _transcript(sidecar: Path) -> str:
    """The words of a sidecar, without the blanks around them."""
    try:
        if not sidecar.is_file():
            raise ClipError("the transcript is not a regular file", mend="write it in a text file")
        text = sidecar.read_bytes().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        what = f"the transcript is not UTF-8 (byte {error.start + 1})"
        mend = "save it as UTF-8: `iconv -f latin1 -t utf-8 in.txt > out.txt`"
        raise ClipError(what, mend=mend) from error
    except OSError as error:
        mend = "allow it to be read"
        raise ClipError("the transcript cannot be read", mend=mend) from error
    if not text:
        raise ClipError(EMPTY_TRANSCRIPT, mend="write what is said, or remove the file to skip it")
    return text


def _sidecar(file: Path) -> Path | None:
    """The transcript beside an audio file."""
    beside = (file.with_suffix(suffix) for suffix in (".txt", ".TXT"))
    return next((sidecar for sidecar in beside if os.path.lexists(sidecar)), None)


def _name(source: Source, root: Path, file: Path) -> str:
    """A file below a source as the author would write it: relative to the document."""
    return Path(source.path, file.relative_to(root)).as_posix()


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _escape(name: str) -> ClipError:
    what = f"{name} lies outside the document's folder, and sources_policy is strict"
    return ClipError(what, mend="move it inside, or set `sources_policy: permissive`")


def _place_of_source(document: Document, source: Source) -> str:
    """The line of the document that names the source, as far as it can be found."""
    key, written = r"(?:\b(?:path|sources)\s*:|^\s*-)", re.escape(source.path)
    form = re.compile(rf"{key}\s*['\"]?{written}['\"]?\s*(?:$|[,}}#])")
    for number, line in enumerate(document.source.split("\n"), start=1):
        if form.search(line):
            return place_of(document, number)
    return document.path.name
