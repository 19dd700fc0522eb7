"""A table of clips: .csv or .tsv, with the names of its columns in the first line.

    path,sentence,start,end
    clips/a.wav,"Yes, of course.",0.5,2

Its columns are those of a list in JSON (manifest.py), under any of their known names or the ones
that the source says; a row is a clip, and may take several lines.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dlm.clips.formats.listed import given, one_shard
from dlm.clips.formats.manifest import KNOWN, clip_of
from dlm.clips.formats.rows import TABLES, Fields, columns_of, suffix_of, text_of
from dlm.clips.origin import Given, Origin, Shard
from dlm.errors import ClipError

SHOWN = 12  # columns in a message


def table(origin: Origin) -> list[Shard]:
    """One shard, in the order of its rows."""
    return one_shard(origin, _rows)


def is_table(root: Path) -> bool:
    """A file of a table, whatever its columns are."""
    return suffix_of(root) in TABLES and root.is_file()


def cell_seconds(row: Fields, key: str) -> float | None:
    """The seconds in a cell, None where it is empty."""
    written = text_of(row, key)
    try:
        seconds = None if written is None else float(written)
    except ValueError:
        seconds = math.nan
    if seconds is not None and not math.isfinite(seconds):
        raise ClipError(f"{key} is not a number of seconds", mend="write it as 30")
    return seconds


def _rows(origin: Origin) -> Iterator[Given]:
    seen = columns_of(origin.root)
    for ours in ("audio", "text") if seen else ():
        _check(origin, ours, seen)
    return given(origin, partial(_given, origin))


def _check(origin: Origin, ours: str, seen: tuple[str, ...]) -> None:
    """Refuse a table in which a column is not found."""
    said = origin.source.columns.get(ours)
    if not set(seen).isdisjoint(KNOWN[ours] if said is None else (said,)):
        return
    shown = ", ".join(seen[:SHOWN]) + (", ..." if len(seen) > SHOWN else "")
    what = f"no column {said}" if said else f"no column for the {ours} of a clip"
    mend = f"say which it is with columns: {{{ours}: ...}}"
    raise ClipError(f"{what}; the table has {shown}", mend=mend)


def _given(origin: Origin, row: Fields, place: str) -> Iterator[Given]:
    spans = {key: cell_seconds(row, key) for key in map(origin.column, ("start", "end"))}
    yield clip_of(origin, row | spans, place)
