"""How a list becomes what a format gives: row by row, each mistake a problem with its line.

a row  ->  clips and skips      what the format's own function makes of it
       ->  Problem              "data/list.jsonl:7", where that raises ClipError
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dlm.clips.clip import Problem
from dlm.clips.formats.rows import Fields, Row, read_rows, text_of
from dlm.clips.origin import Given, Ids, Origin, Shard
from dlm.errors import ClipError

Make = Callable[[Fields, str], Iterator[Given]]  # of a row and its place


def one_shard(origin: Origin, rows: Callable[[Origin], Iterator[Given]]) -> list[Shard]:
    """All of a list, in the order of its rows."""
    return [Shard.of(origin.name, partial(rows, origin))]


def given(origin: Origin, make: Make, *, path: Path | None = None) -> Iterator[Given]:
    """What each row of the source's list gives, or of a list at `path` below it."""
    name = origin.name if path is None else origin.named(path)
    for row in read_rows(origin.root if path is None else path):
        yield from given_by(row, make, name)


def given_by(row: Row, make: Make, name: str) -> Iterator[Given]:
    """What a row of the list `name` gives."""
    line, fields = row
    place = f"{name}:{line}"
    try:
        if isinstance(fields, ClipError):
            raise fields
        yield from make(fields, place)
    except ClipError as error:
        yield Problem.of(error, place)


def take_id(ids: Ids, row: Fields, key: str = "id") -> None:
    """Refuse an id that an earlier row has; a row need not have one."""
    value = row.get(key)
    name = text_of(row, key) if isinstance(value, str) else value
    if isinstance(name, str | int):
        ids.take(str(name))
