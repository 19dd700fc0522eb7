"""A directory of Kaldi: recordings, what is said in them, and when.

    wav.scp    reco1 wav/1.flac            a command such as `sph2pipe ... |` is never run: refused
    segments   utt1 reco1 0.50 2.75        without it an utterance is all of the recording's
    text       utt1 half past four
    utt2spk    utt1 ann                    may be missing, as may utt2lang

Paths are relative to the directory, or to the source's `audio`.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from dlm.clips.clip import Problem, Sound
from dlm.clips.formats.columns import language_code
from dlm.clips.origin import Given, Ids, Origin, Shard, Skipped
from dlm.errors import ClipError

RECORDINGS, SEGMENTS, TEXT = "wav.scp", "segments", "text"
ARCHIVED = re.compile(r"\.ark:\d+$")
TO_THE_END = -1.0  # how segments writes an end that is the recording's
AGAIN = "keep one of its lines"

Line = tuple[int, str, str]  # its number, its first word and the rest
Span = tuple[str, float | None, float | None]  # of a recording, in seconds


def kaldi(origin: Origin) -> list[Shard]:
    """One shard, in the order of `text`."""
    missing = next((each for each in (RECORDINGS, TEXT) if not (origin.root / each).exists()), None)
    if missing:
        raise ClipError(f"no {missing} in {origin.name}", mend="write it, or mend the path")
    return [Shard.of(origin.name, lambda: _rows(origin))]


def is_kaldi(root: Path) -> bool:
    """A directory with wav.scp and text."""
    return (root / RECORDINGS).is_file() and (root / TEXT).is_file()


def _rows(origin: Origin) -> Iterator[Given]:
    heard: dict[str, str | None] = {}  # where it lies; None for what is not read
    spans: dict[str, Span] = {}
    yield from _recordings(origin, heard)
    yield from _segments(origin, spans)
    if not (origin.root / SEGMENTS).exists():
        spans = {name: (name, None, None) for name in heard}
    speakers, languages = (dict(_pairs(origin, name)) for name in ("utt2spk", "utt2lang"))
    ids = Ids()
    for line in _lines(origin, TEXT):
        if isinstance(line, Problem):
            yield line
            continue
        number, name, words = line
        place, span = f"{origin.name}/{TEXT}:{number}", spans.pop(name, None)
        try:
            ids.take(name)
            if span is None or heard.get(span[0]) is None:
                yield Skipped(name, "not read" if span and span[0] in heard else "no recording")
                continue
            sound, language = _sound(origin, heard, span), language_code(languages.get(name))
            yield origin.clip(sound, words, place, language=language, speaker=speakers.get(name))
        except ClipError as error:
            yield Problem.of(error, place)
    yield from (Skipped(name, "no transcript") for name in spans)


def _sound(origin: Origin, heard: dict[str, str | None], span: Span) -> Sound:
    written = heard[span[0]] or ""
    return Sound((origin.audio or origin.root) / written, span[1], span[2], written=written)


def _recordings(origin: Origin, heard: dict[str, str | None]) -> Iterator[Problem]:
    """Fill in where each recording lies; what cannot be one is told."""
    for line in _lines(origin, RECORDINGS):
        if isinstance(line, Problem):
            yield line
            continue
        number, name, written = line
        place = f"{origin.name}/{RECORDINGS}:{number}"
        what = mend = ""
        if name in heard:
            what, mend = f"the id {name} comes twice", AGAIN
        elif written.endswith("|") or written.startswith("|") or written == "-":
            what = f"{name} is the output of a command, and none is run"
            mend = "run it once into a file, and name that file here"
        elif ARCHIVED.search(written):
            what = f"{name} lies in an archive of Kaldi, which is not read"
            mend = "write it to a file with `wav-copy`, and name that file here"
        elif not written:
            what, mend = f"{name} has no file", "write its path behind it"
        if what:
            yield Problem(place, what, mend, fatal=True)
            heard.setdefault(name, None)
        else:
            heard[name] = written


def _segments(origin: Origin, spans: dict[str, Span]) -> Iterator[Problem]:
    """Fill in the span of each utterance."""
    for line in _lines(origin, SEGMENTS):
        if isinstance(line, Problem):
            yield line
            continue
        number, name, rest = line
        place = f"{origin.name}/{SEGMENTS}:{number}"
        try:
            if name in spans:
                raise ClipError(f"the id {name} comes twice", mend=AGAIN)
            spans[name] = _span(rest)
        except ClipError as error:
            yield Problem.of(error, place)


def _span(rest: str) -> Span:
    """A recording, and from when to when it is heard."""
    mend = "write utterance, recording, start and end, in seconds"
    try:
        recording, *times = rest.split()
        start, end = (float(each) for each in times)
    except ValueError as error:
        raise ClipError(f"no span: {rest}", mend=mend) from error
    if not (math.isfinite(start) and (end == TO_THE_END or start < end < math.inf)):
        raise ClipError(f"it begins at {start:g} s and ends at {end:g} s", mend=mend)
    return recording, start, None if end == TO_THE_END else end


def _pairs(origin: Origin, name: str) -> Iterator[tuple[str, str]]:
    """What an optional file says of each utterance; a line that cannot be read says nothing."""
    lines = (line for line in _lines(origin, name) if not isinstance(line, Problem))
    return ((first, rest) for _, first, rest in lines if rest)


def _lines(origin: Origin, name: str) -> Iterator[Line | Problem]:
    """The lines of a file that have something in them; none if it is not there."""
    path, shown = origin.root / name, f"{origin.name}/{name}"
    if not path.is_file():
        if path.exists():
            yield Problem(shown, "it is not a regular file", "write it as text", fatal=True)
        return
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    words = line.decode("utf-8-sig" if number == 1 else "utf-8").split(None, 1)
                except UnicodeDecodeError:
                    what, mend = "the line is not UTF-8", "save it as UTF-8"
                    yield Problem(f"{shown}:{number}", what, mend, fatal=True)
                    continue
                if words:
                    yield number, words[0], words[1].strip() if len(words) > 1 else ""
    except OSError:
        yield Problem(shown, "it cannot be read", "allow it to be read", fatal=True)
