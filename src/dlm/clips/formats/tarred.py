"""Rows of a manifest whose recordings lie in numbered tars, dealt by tar.

    manifest.json   ... "shard_id": 0 ...   ->  Shard audio_0.tar: its rows, in their order
    audio_0.tar     ... "shard_id": 1 ...   ->  Shard audio_1.tar
    audio_1.tar     a row of no tar         ->  Shard manifest.json: a problem each

The manifest is read once to find where the rows of each tar begin: sixteen bytes are kept a row.
"""

import gzip
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.formats.listed import given_by, take_id
from dlm.clips.formats.manifest import recordings_of
from dlm.clips.formats.rows import PACKED, Fields, Row, row_in, text_of
from dlm.clips.formats.tars import Member, expanded, members
from dlm.clips.formats.window import LONGEST_ROW
from dlm.clips.origin import Given, Ids, Origin, Shard
from dlm.errors import ClipError

ClipOf = Callable[[Origin, Fields, Sound, str], Clip]

NUMBERED = re.compile(r"(\d+)$")  # at the end of a tar's stem
PART = re.compile(r"-sub\d+(?=\.[^.]*$)")  # of a recording that several rows have spans of
NO_TAR = -1
LONGEST_NUMBER = 10  # digits


@dataclass(frozen=True)
class _Tar:
    """A tar, and what the rows that speak of it are made into."""

    origin: Origin
    clip_of: ClipOf
    path: Path
    number: int


def tarred(origin: Origin, clip_of: ClipOf) -> list[Shard]:
    """A shard for each tar, in the order of their numbers."""
    paths = _tars(origin)
    if not paths:
        what = "the manifest has a shard_id in its rows, and no tar is there"
        mend = "put audio_0.tar and the others beside it, or say where they are with audio:"
        raise ClipError(what, mend=mend)
    deal = _Deal(origin.root, frozenset(paths))
    tars = [_Tar(origin, clip_of, path, number) for number, path in paths.items()]
    shards = [Shard.of(tar.path.name, partial(_rows, tar, deal)) for tar in tars]
    lost = Shard.of(origin.name, partial(_lost_rows, origin, deal))
    return [lost, *shards]


def _tars(origin: Origin) -> dict[int, Path]:
    """The tars by their numbers: those of a folder, or of a pattern."""
    root = recordings_of(origin)
    if root.is_dir():
        found = sorted(root.glob("*.tar"))
    else:
        pattern = str(root).replace("_OP_", "{").replace("_CL_", "}")  # as NeMo writes braces
        found = expanded(Path(pattern))
    numbers = {int(last[1]): path for path in found if (last := NUMBERED.search(path.stem))}
    return dict(sorted(numbers.items())) or ({0: found[0]} if len(found) == 1 else {})


def _rows(tar: _Tar, deal: "_Deal") -> Iterator[Given]:
    """The rows of one tar. One that cannot be trusted is told once, and its rows are not."""
    try:
        held = {member.name: member for member in members(tar.path)}
    except ClipError as error:
        yield Problem.of(error, tar.path.name)
        return
    make = partial(_given, tar, held, Ids())
    for row in deal.rows(tar.number):
        yield from given_by(row, make, tar.origin.name)


def _given(
    tar: _Tar, held: dict[str, Member], ids: Ids, row: Fields, place: str
) -> Iterator[Given]:
    take_id(ids, row)
    name = text_of(row, tar.origin.source.columns.get("audio", "audio_filepath"))
    if name is None:
        raise ClipError("no audio_filepath", mend="write the name of the recording in its tar")
    names = (name, PurePosixPath(name).name, PART.sub("", PurePosixPath(name).name))
    member = next((held[each] for each in names if each in held), None)
    if member is None:
        what = f"{name} is not in {tar.path.name}"
        raise ClipError(what, mend="mend its name or its shard_id, or take the row out")
    written = f"{tar.path.name}/{member.name}"
    sound = Sound(tar.path, inside=(member.first, member.size), written=written)
    yield tar.clip_of(tar.origin, row, sound, place)


def _lost_rows(origin: Origin, deal: "_Deal") -> Iterator[Given]:
    """Each row that speaks of no tar that is there."""
    for row in deal.rows(NO_TAR):
        yield from given_by(row, _lost, origin.name)


def _lost(row: Fields, place: str) -> Iterator[Given]:
    number = _number(row)
    what = "no shard_id" if number is None else f"the tar of shard_id {number} is not there"
    raise ClipError(what, mend="put the tar beside the others, or take the row out")


class _Deal:
    """Where in a manifest the rows of each tar begin; found when the first is asked for."""

    def __init__(self, path: Path, numbers: frozenset[int]) -> None:
        self._path, self._numbers = path, numbers
        self._found: dict[int, array[int]] = {}

    def rows(self, number: int) -> Iterator[Row]:
        """The rows of a tar, in order."""
        try:
            with self._opened() as file:
                self._found = self._found or _look(file, self._numbers)
                starts = self._found.get(number, array("Q"))
                for line, first in zip(starts[::2], starts[1::2], strict=True):
                    file.seek(first)
                    yield line, row_in(_text(file.readline(LONGEST_ROW)))
        except (OSError, EOFError, zlib.error) as error:
            what = f"the list cannot be read ({error})"
            raise ClipError(what, mend="allow it to be read, or copy it again") from error

    def _opened(self) -> BinaryIO:
        packed = self._path.suffix.lower() == PACKED
        return cast(BinaryIO, gzip.open(self._path)) if packed else self._path.open("rb")


def _look(file: BinaryIO, numbers: frozenset[int]) -> dict[int, "array[int]"]:
    """The line and the first byte of each row, by the number of its tar."""
    found: dict[int, array[int]] = {}
    line, first = 0, 0
    while written := file.readline(LONGEST_ROW):
        line += 1
        if written.strip():
            row = row_in(_text(written))
            number = _number(row) if isinstance(row, dict) else None
            known = NO_TAR if number is None or number not in numbers else number
            found.setdefault(known, array("Q")).extend((line, first))
        first += len(written)
    return found


def _number(row: Fields) -> int | None:
    """The number of a row's tar."""
    number = row.get("shard_id")
    if isinstance(number, str) and number.isdecimal() and len(number) < LONGEST_NUMBER:
        return int(number)
    return number if isinstance(number, int) else None


def _text(line: bytes) -> str:
    return line.decode("utf-8-sig", "surrogateescape")
