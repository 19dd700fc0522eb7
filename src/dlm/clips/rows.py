"""The rows of a list of clips, each with the line it begins on, as far as it can be read.

    .jsonl   an object a line; blank lines are passed over
    .json    an array of objects, or objects one after the other
    .csv     a table whose first line names its columns (RFC 4180)

A row that cannot be read is the ClipError that says why. UTF-8, with or without a byte order mark,
with any line ends.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from json import JSONDecodeError
from pathlib import Path

from dlm.errors import ClipError

FORM = 'write {"audio": ..., "text": ...}'
COLUMNS = ("ytid", "start_s", "end_s", "caption")  # of MusicCaps' table
TABLE = f"name the columns {', '.join(COLUMNS)} in its first line"
BLANK = re.compile(r"[ \t\r\n]*")  # as JSON has it

Row = tuple[int, dict[str, object] | ClipError]
Fields = dict[str, object]


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a list, and its line. Raises ClipError when the file is no list at all."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipError(f"not a list of clips ({error})", mend="save it as UTF-8 text") from error
    yield from LISTS[path.suffix.lower()](text)


def text_of(row: Fields, key: str) -> str | None:
    """The words under a key, without the blanks around them; None where there are none."""
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ClipError(f"{key} is not text", mend=f'write "{key}" and a text in quotes')
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise ClipError(f"{key} holds what is no character", mend="write it as UTF-8 text")
    return value.strip() or None


def seconds_of(row: Fields, key: str) -> float | None:
    """The seconds under a key, None where there are none."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ClipError(f"{key} is not a number of seconds", mend=f'write "{key}": 1.5')
    return float(value)


def _lines(text: str) -> Iterator[Row]:
    """JSON Lines: what is wrong with one is no matter to the next."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _object(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield number, _not_json(error)


def _values(text: str) -> Iterator[Row]:
    """An array, or values one after the other; nothing can be read after what is broken."""
    at = _skip(text, 0)
    listed = text.startswith("[", at)
    at, line, counted = _skip(text, at + listed), 1, 0
    try:
        while at < len(text) and not (listed and text[at] == "]"):
            line, counted = line + text.count("\n", counted, at), at
            value, end = json.JSONDecoder().raw_decode(text, at)
            yield line, _object(value)
            at = _skip(text, end)
            if listed and text.startswith(",", at):
                at = _skip(text, at + 1)
            elif listed and not text.startswith("]", at):
                raise JSONDecodeError("Expecting ',' or ']'", text, at)
        if listed and _skip(text, at + 1) < len(text):
            raise JSONDecodeError("Extra data", text, at + 1)
        if listed and at == len(text):
            raise JSONDecodeError("Expecting ']'", text, at)
    except (ValueError, RecursionError) as error:
        yield error.lineno if isinstance(error, JSONDecodeError) else line, _not_json(error)


def _table(text: str) -> Iterator[Row]:
    """A row for each record; one may take several lines, where its text does."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head = [name.strip() for name in next(reader, [])]
    missing = [name for name in COLUMNS if name not in head]
    if missing:
        raise ClipError(f"not a table of captions: no column {missing[0]}", mend=TABLE)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, ClipError(f"not CSV ({error})", mend="mend its quotes")
            continue
        if len(cells) == len(head):
            yield line, dict(zip(head, cells, strict=True))
        elif cells:
            what = f"{len(cells)} cells, and the table has {len(head)} columns"
            yield line, ClipError(what, mend="put a text with a comma in quotes")


LISTS: dict[str, Callable[[str], Iterator[Row]]] = {
    ".jsonl": _lines,
    ".json": _values,
    ".csv": _table,
}


def _object(value: object) -> dict[str, object] | ClipError:
    return value if isinstance(value, dict) else ClipError("not an object", mend=FORM)


def _not_json(error: Exception) -> ClipError:
    return ClipError(f"not JSON ({error})", mend=FORM)


def _skip(text: str, at: int) -> int:
    """Where the blanks that begin at `at` end."""
    blank = BLANK.match(text, at)
    return blank.end() if blank else at
