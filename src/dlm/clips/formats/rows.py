"""The rows of a list of clips, each with the line it begins on, read as they are asked for.

    .jsonl   an object a line; blank lines are passed over
    .json    an array of objects, or objects one after the other
    .csv     a table whose first line names its columns (RFC 4180); .tsv with tabs
    .gz      any of these, compressed: list.jsonl.gz

A row that cannot be read is the ClipError that says why. UTF-8, with or without a byte order mark,
with any line ends. No more is held than the row at hand, and no row is longer than LONGEST_ROW.
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from dlm.clips.formats.window import LONGEST_ROW, Window
from dlm.errors import ClipError

FORM = 'write {"audio": ..., "text": ...}'
TABLES = {".csv": ",", ".tsv": "\t"}
PACKED = ".gz"
ODD = re.compile("[\0\ud800-\udfff]")  # what is no character, and bytes that are not UTF-8
ELSEWHERE = re.compile(r"(?P<data>data):|(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)

LONGEST_HEAD = 1 << 16  # letters
LONGEST_PATH = 4096  # letters
ROWS_LOOKED_AT = 20  # to find out what a list holds
SHOWN = 80  # letters of an address in a message

Fields = dict[str, object]
Row = tuple[int, Fields | ClipError]


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a list, and its line. Raises ClipError when the file is no list at all."""
    suffix = suffix_of(path)
    if suffix not in (*LISTS, *TABLES):
        raise ClipError("not a list of clips", mend="name a .jsonl, .json, .csv or .tsv")
    try:
        with _opened(path, newline="\n" if suffix in LISTS else "") as file:
            yield from LISTS[suffix](file) if suffix in LISTS else _table(file, TABLES[suffix])
    except (OSError, EOFError, zlib.error) as error:
        what = f"the list cannot be read ({error})"
        raise ClipError(what, mend="allow it to be read, or copy it again") from error


def suffix_of(path: Path) -> str:
    """What kind of list a file is: .jsonl for a list.jsonl.gz too."""
    packed = path.suffix.lower() == PACKED
    return (path.with_suffix("") if packed else path).suffix.lower()


def columns_of(path: Path) -> tuple[str, ...]:
    """The columns that the first line of a table names; none of what is no table."""
    delimiter = TABLES.get(suffix_of(path))
    if delimiter is None:
        return ()
    try:
        with _opened(path, newline="") as file:
            head = next(csv.reader([file.readline(LONGEST_HEAD)], delimiter=delimiter), [])
    except (OSError, EOFError, zlib.error, csv.Error, ClipError):
        return ()
    return tuple(map(name_of, head))


def first_row(path: Path) -> Fields:
    """The first row of a list that can be read; nothing of what is no list."""
    if suffix_of(path) not in (*LISTS, *TABLES):
        return {}
    try:
        rows = islice(read_rows(path), ROWS_LOOKED_AT)
        return next((row for _, row in rows if isinstance(row, dict)), {})
    except ClipError:
        return {}


def row_in(line: str) -> Fields | ClipError:
    """The object that a line of JSON Lines is, or why it is none."""
    try:
        return _object(json.loads(line))
    except JSONDecodeError as error:
        return _not_json(f"{error.msg}, letter {error.colno}")
    except (ValueError, RecursionError) as error:
        return _not_json(str(error))


def text_of(row: Fields, key: str) -> str | None:
    """The words under a key, without the blanks around them; None where there are none."""
    return letters_of(row, key).strip() or None


def letters_of(row: Fields, key: str) -> str:
    """The words under a key, as they are written."""
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        mend = f'write "{name_of(key)}" and a text in quotes'
        raise ClipError(f"{name_of(key)} is not text", mend=mend)
    if ODD.search(value):
        what = f"{name_of(key)} holds what is no character"
        raise ClipError(what, mend="write it as UTF-8 text")
    return value


def seconds_of(row: Fields, key: str) -> float | None:
    """The seconds under a key, None where there are none."""
    value = row.get(key)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        if isinstance(value, int | float) and number and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer larger than any float
        pass
    raise ClipError(f"{key} is not a number of seconds", mend=f'write "{key}": 1.5')


def local(written: str) -> str:
    """The path of a recording, as a row has it; refuses what is no file of this machine."""
    if len(written) > LONGEST_PATH:
        what = f"the path of a recording has {len(written):,} letters"
        raise ClipError(what, mend="save the recording in a file, and write its path")
    found = ELSEWHERE.match(written)
    if found is None:
        return written
    if found["data"]:
        what = "a recording stands in the row itself"
        raise ClipError(what, mend="save it in a file, and write its path")
    if found["scheme"].lower() == "file":
        return ODD.sub("?", unquote(written[found.end() :]))
    what = f"{written[:SHOWN]} is not on this machine, and nothing is fetched"
    raise ClipError(what, mend="fetch the recording, and write its path")


@contextmanager
def _opened(path: Path, *, newline: str) -> Iterator[TextIO]:
    """The text of a file; what is not UTF-8 in it is left to whoever wants those words."""
    if not path.is_file():
        raise ClipError("not a list of clips (it is no regular file)", mend="name a file")
    packed = path.suffix.lower() == PACKED
    with gzip.open(path) if packed else path.open("rb") as file:
        if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ClipError("not a list of clips (it is UTF-16)", mend="save it as UTF-8 text")
        yield io.TextIOWrapper(
            file, encoding="utf-8-sig", errors="surrogateescape", newline=newline
        )


def _lines(file: TextIO) -> Iterator[Row]:
    """JSON Lines: what is wrong with one is no matter to the next."""
    number = 0
    while line := file.readline(LONGEST_ROW):
        number += 1
        if len(line) == LONGEST_ROW and not line.endswith("\n"):
            while (rest := file.readline(LONGEST_ROW)) and not rest.endswith("\n"):
                pass
            yield number, ClipError(f"the row has over {LONGEST_ROW:,} letters", mend=FORM)
        elif line.strip():
            yield number, row_in(line)


def _values(file: TextIO) -> Iterator[Row]:
    """An array, or values one after the other; in an array nothing follows what is broken."""
    window = Window(file)
    listed = window.next() == "["
    window.at += listed
    try_again = True
    while try_again:
        try:
            yield from _values_in(window, listed)
            return
        except (ValueError, RecursionError) as error:
            told = error.msg if isinstance(error, JSONDecodeError) else str(error)
            yield window.line_of(error) if listed else window.line, _not_json(told)
            try_again = not listed and window.pass_over()


def _values_in(window: Window, listed: bool) -> Iterator[Row]:
    while (letter := window.next()) and not (listed and letter == "]"):
        yield window.line, _object(window.value())
        after = window.next()
        if listed and after == ",":
            window.at += 1
        elif listed and after != "]":
            raise JSONDecodeError("Expecting ',' or ']'", window.text, window.at)
    if listed and not window.next():
        raise JSONDecodeError("Expecting ']'", window.text, window.at)
    window.at += listed
    if window.next():
        raise JSONDecodeError("Extra data", window.text, window.at)


def _table(file: TextIO, delimiter: str) -> Iterator[Row]:
    """A row for each record; one may take several lines, where its text does."""
    lines = iter(lambda: file.readline(LONGEST_ROW), "")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    head: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _not_csv(error)
            if head is None:
                return
            continue
        if head is None:
            head = list(map(name_of, cells))
        elif len(cells) == len(head):
            yield line, dict(zip(head, cells, strict=True))
        elif cells:
            what = f"{len(cells)} cells, and the table has {len(head)} columns"
            yield line, ClipError(what, mend="put a text with a comma in quotes")


LISTS: dict[str, Callable[[TextIO], Iterator[Row]]] = {
    ".jsonl": _lines,
    ".json": _values,
}


def name_of(column: str) -> str:
    """A column's name, in letters that can be shown."""
    return column.encode("utf-8", "replace").decode().strip()


def _object(value: object) -> Fields | ClipError:
    return value if isinstance(value, dict) else ClipError("not an object", mend=FORM)


def _not_json(told: str) -> ClipError:
    return ClipError(f"not JSON ({told})", mend=FORM)


def _not_csv(error: csv.Error) -> ClipError:
    """What csv says where a quote is left open: its text ends, or one cell takes all of it."""
    if "unexpected end" in str(error) or "field limit" in str(error):
        mend = 'close it, or write "" for a quote in a text'
        return ClipError("not CSV (a quote is never closed)", mend=mend)
    return ClipError(f"not CSV ({error})", mend="mend its quotes")
