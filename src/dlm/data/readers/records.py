r"""Lists read record by record, each with the line it begins on: JSON Lines, JSON, CSV, TSV.

    .jsonl   an object a line; blank lines are skipped
    .json    an array of objects, or objects one after the other
    .csv     a table whose first line names its columns (RFC 4180), also with semicolons or, without
             quotes, with |; .tsv with tabs; the metadata.csv of LJSpeech: name|as printed|as read
    .gz      any of these, compressed: list.jsonl.gz

UTF-8, with or without a byte order mark, with any line ends. A record that cannot be read is an
error with its line; the next one is read, except in a JSON array. One record is in memory at a
time, of at most MAX_RECORD_CHARS. A .json is read through a window:

    [{...}, {...}, {...}, ...
            ^ position, in line_number: what is before it is dropped, the rest is read on demand
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from json import JSONDecodeError
from pathlib import Path
from typing import TextIO

from dlm.data.readers.base import (
    UTF16_BOMS,
    IdRegistry,
    ReaderItem,
    SourceContext,
    SourceShard,
)
from dlm.data.readers.columns import SourceRecord, clean_column_name, get_text
from dlm.data.types import Issue
from dlm.errors import DataError

GZIP_SUFFIX = ".gz"
TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
MAX_BROKEN_RECORDS = 1_000  # one after the other; an open quote makes millions of some megabytes
OTHER_CSV_DELIMITERS = ";|\t"  # where the first line has more of one of them than of commas
LJSPEECH_COLUMNS = {2: ["file_name", "text"], 3: ["file_name", "raw_text", "text"]}
LJSPEECH_FOLDER = "wavs"
JSON_RECORD_HINT = 'write {"audio": ..., "text": ...}'
JSON_WHITESPACE_RE = re.compile(r"[ \t\r\n]*")
JSON_DECODER = json.JSONDecoder()
MAX_RECORD_CHARS = 1 << 24
MAX_HEADER_CHARS = 1 << 16
JSON_CHUNK_CHARS = 1 << 18  # read at once
JSON_CHUNK_TAIL_CHARS = 16  # an error this near the end of the window may come from its end
MAX_NAME_CHARS = 200  # of a file in LJSpeech
MAX_PROBED_RECORDS = 20  # to find out what a list holds

NumberedRecord = tuple[int, SourceRecord | DataError]
ParseRecordFn = Callable[[SourceRecord, str], Iterator[ReaderItem]]  # record, location


def make_single_shard(
    context: SourceContext, read_items: Callable[[SourceContext], Iterator[ReaderItem]]
) -> list[SourceShard]:
    """Make one shard of a whole source, in the order of its records."""
    return [SourceShard.from_iterable(context.name, partial(read_items, context))]


def make_list_shard(
    context: SourceContext,
    make_parse_fn: Callable[[], ParseRecordFn],
    *,
    test_benchmark: str | None = None,
) -> list[SourceShard]:
    """Make one shard of the source's list; `make_parse_fn` is called when it is read."""

    def read_items() -> Iterator[ReaderItem]:
        return parse_records(context, make_parse_fn())

    return [SourceShard.from_iterable(context.name, read_items, test_benchmark=test_benchmark)]


def parse_records(
    context: SourceContext, parse_fn: ParseRecordFn, *, path: Path | None = None
) -> Iterator[ReaderItem]:
    """Yield the items of each record of the source's list, or of a list at `path` below it."""
    list_name = context.name if path is None else context.to_display_path(path)
    for numbered_record in read_records(path or context.root):
        yield from parse_record(numbered_record, parse_fn, list_name)


def parse_record(
    numbered_record: NumberedRecord, parse_fn: ParseRecordFn, list_name: str
) -> Iterator[ReaderItem]:
    """Yield the items of one record; an error becomes an issue with its line."""
    line, record = numbered_record
    location = f"{list_name}:{line}"
    try:
        if isinstance(record, DataError):
            raise record
        yield from parse_fn(record, location)
    except DataError as error:
        yield Issue.from_error(error, location)


def check_unique_id(ids: IdRegistry, record: SourceRecord, key: str = "id") -> None:
    """Refuse the id of an earlier record (`data.duplicate_id`); a record may have none."""
    value = record.get(key)
    record_id = get_text(record, key) if isinstance(value, str) else value
    if isinstance(record_id, str | int):
        ids.register_id(str(record_id))


def get_list_suffix(path: Path) -> str:
    """Return the suffix that tells the format of a list: .jsonl for a list.jsonl.gz too."""
    is_compressed = path.suffix.lower() == GZIP_SUFFIX
    return (path.with_suffix("") if is_compressed else path).suffix.lower()


def read_records(path: Path) -> Iterator[NumberedRecord]:
    """Yield every record of a list with its line, an error for one that cannot be read.

    Raises:
        DataError: the file is no list (`source.not_a_list`) or cannot be read
            (`source.unreadable`).
    """
    suffix = get_list_suffix(path)
    if suffix not in (*LIST_PARSERS, *TABLE_DELIMITERS):
        hint = "name a .jsonl, .json, .csv or .tsv"
        raise DataError("not a list of clips", hint=hint, code="source.not_a_list")
    try:
        with _open_text(path, newline="\n" if suffix in LIST_PARSERS else "") as file:
            if suffix in LIST_PARSERS:
                records = LIST_PARSERS[suffix](file)
            else:
                records = _read_delimited(file, path)
            yield from _stop_at_broken(records)
    except (OSError, EOFError, zlib.error) as error:
        raise make_unreadable_list_error(error) from error


def _stop_at_broken(records: Iterator[NumberedRecord]) -> Iterator[NumberedRecord]:
    """End a list where so many records in a row are broken that it is none."""
    num_broken = 0
    for line, record in records:
        num_broken = num_broken + 1 if isinstance(record, DataError) else 0
        if num_broken > MAX_BROKEN_RECORDS:
            what = f"{MAX_BROKEN_RECORDS:,} records in a row cannot be read"
            hint = "correct the first of them: the list is not read from here on"
            yield line, DataError(what, hint=hint, code="data.too_many_broken")
            return
        yield line, record


def make_unreadable_list_error(error: Exception) -> DataError:
    """Make the error of a list that the system or gzip cannot read."""
    what, hint = f"the list cannot be read ({error})", "allow it to be read, or copy it again"
    return DataError(what, hint=hint, code="source.unreadable")


def read_column_names(path: Path) -> tuple[str, ...]:
    """Return the columns in the first line of a table; none where there is no table."""
    if get_list_suffix(path) not in TABLE_DELIMITERS:
        return ()
    try:
        with _open_text(path, newline="") as file:
            line = file.readline(MAX_HEADER_CHARS)
            delimiter = _detect_delimiter(path, line)
            if delimiter == "|" and _is_ljspeech(path, line):
                return tuple(LJSPEECH_COLUMNS[line.count("|") + 1])
            names = next(csv.reader([line], delimiter=delimiter), [])
    except (OSError, EOFError, zlib.error, csv.Error, DataError):
        return ()
    return tuple(map(clean_column_name, names))


def _detect_delimiter(path: Path, first_line: str) -> str:
    """What separates the cells of a table, by its suffix and its first line."""
    delimiter = TABLE_DELIMITERS[get_list_suffix(path)]
    if delimiter == "," and _is_ljspeech(path, first_line):
        return "|"
    if delimiter != ",":
        return delimiter
    other = max(OTHER_CSV_DELIMITERS, key=first_line.count)
    return other if first_line.count(other) > first_line.count(delimiter) else delimiter


def _is_ljspeech(path: Path, first_line: str) -> bool:
    """Whether the first line of a table is a row: it names a recording in wavs/, without suffix."""
    cells = first_line.split("|")
    if len(cells) not in LJSPEECH_COLUMNS or "\0" in cells[0]:
        return False
    return (path.parent / LJSPEECH_FOLDER / f"{cells[0][:MAX_NAME_CHARS]}.wav").is_file()


def read_first_record(path: Path) -> SourceRecord:
    """Return the first record that can be read; an empty one where there is none."""
    try:
        records = islice(read_records(path), MAX_PROBED_RECORDS)
        return next((record for _, record in records if isinstance(record, dict)), {})
    except DataError:
        return {}


def read_first_json_record(path: Path) -> SourceRecord:
    """Return the first record of a list in JSON; an empty one for any other file."""
    is_json = get_list_suffix(path) in LIST_PARSERS and path.is_file()
    return read_first_record(path) if is_json else {}


def parse_json_line(line: str) -> SourceRecord | DataError:
    """Return the object of a line of JSON Lines, or why it is none."""
    try:
        return _require_object(json.loads(line))
    except JSONDecodeError as error:
        return _make_json_error(f"{error.msg}, character {error.colno}")
    except (ValueError, RecursionError) as error:
        return _make_json_error(str(error))


@contextmanager
def _open_text(path: Path, *, newline: str) -> Iterator[TextIO]:
    """Open a list as text; bytes that are not UTF-8 become surrogates, which `get_text` refuses."""
    if not path.is_file():
        what = "not a list of clips (it is not a regular file)"
        raise DataError(what, hint="name a file", code="source.not_a_list")
    is_compressed = path.suffix.lower() == GZIP_SUFFIX
    with gzip.open(path) if is_compressed else path.open("rb") as file:
        if file.peek(2)[:2] in UTF16_BOMS:
            what = "not a list of clips (it is UTF-16)"
            raise DataError(what, hint="save it as UTF-8 text", code="source.not_a_list")
        yield io.TextIOWrapper(
            file, encoding="utf-8-sig", errors="surrogateescape", newline=newline
        )


def _read_jsonl(file: TextIO) -> Iterator[NumberedRecord]:
    number = 0
    while line := file.readline(MAX_RECORD_CHARS):
        number += 1
        if len(line) == MAX_RECORD_CHARS and not line.endswith("\n"):
            while (rest := file.readline(MAX_RECORD_CHARS)) and not rest.endswith("\n"):
                pass
            what = f"the record has over {MAX_RECORD_CHARS:,} characters"
            yield number, DataError(what, hint=JSON_RECORD_HINT, code="data.record_too_long")
        elif line.strip():
            yield number, parse_json_line(line)


class JsonStream:
    """A JSON text of any length, read value by value.

    `ijson` was measured in its place: it has no line numbers, ends a list at NaN, at an integer of
    over 64 bits and at a byte that is not UTF-8, and takes memory that is quadratic in the depth
    of nesting.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._buffer, self._position, self.line_number = "", 0, 1

    def peek_char(self) -> str:
        """Return the next character that is not blank; an empty text at the end."""
        while True:
            blank = JSON_WHITESPACE_RE.match(self._buffer, self._position)
            self._advance_to(blank.end() if blank else self._position)
            if self._position < len(self._buffer) or not self._read_chunk():
                return self._buffer[self._position : self._position + 1]

    def skip_char(self) -> None:
        """Pass over the character that `peek_char` returned."""
        self._position += 1

    def read_value(self) -> object:
        """Return the value that begins here. Raises ValueError or RecursionError."""
        while True:
            try:
                value, end = JSON_DECODER.raw_decode(self._buffer, self._position)
            except JSONDecodeError as error:
                may_be_cut = (
                    error.msg.startswith("Unterminated")
                    or error.pos > len(self._buffer) - JSON_CHUNK_TAIL_CHARS
                )
                is_too_long = len(self._buffer) - self._position > MAX_RECORD_CHARS
                if not may_be_cut or is_too_long or not self._read_chunk():
                    raise
                continue
            if end < len(self._buffer) or not self._read_chunk():  # a number may go on
                self._advance_to(end)
                return value

    def make_error(self, message: str) -> JSONDecodeError:
        """Make the error of what stands here."""
        return JSONDecodeError(message, self._buffer, self._position)

    def find_error_line(self, error: Exception) -> int:
        """Return the line of an error of `read_value` or `make_error`."""
        end = error.pos if isinstance(error, JSONDecodeError) else self._position
        return self.line_number + self._buffer.count("\n", self._position, end)

    def skip_to_next_object(self) -> bool:
        """Go on at the next line that begins an object; False where none does."""
        while (end := self._buffer.find("\n{", self._position)) < 0:
            self._advance_to(max(self._position, len(self._buffer) - 1))
            if not self._read_chunk():
                return False
        self._advance_to(end + 1)
        return True

    def _advance_to(self, end: int) -> None:
        self.line_number += self._buffer.count("\n", self._position, end)
        self._position = end

    def _read_chunk(self) -> bool:
        """Drop what was read, and double what is left at least; False at the end of the file."""
        num_left = len(self._buffer) - self._position
        chunk = self._file.read(max(JSON_CHUNK_CHARS, num_left))
        if chunk:
            self._buffer, self._position = self._buffer[self._position :] + chunk, 0
        return bool(chunk)


def _read_json(file: TextIO) -> Iterator[NumberedRecord]:
    """An array, or values one after the other; in an array nothing follows what is broken."""
    stream = JsonStream(file)
    is_array = stream.peek_char() == "["
    if is_array:
        stream.skip_char()
    while True:
        try:
            yield from _read_json_values(stream, is_array)
            return
        except (ValueError, RecursionError) as error:
            line = stream.find_error_line(error) if is_array else stream.line_number
            reason = error.msg if isinstance(error, JSONDecodeError) else str(error)
            yield line, _make_json_error(reason)
            if is_array or not stream.skip_to_next_object():
                return


def _read_json_values(stream: JsonStream, is_array: bool) -> Iterator[NumberedRecord]:
    while (char := stream.peek_char()) and not (is_array and char == "]"):
        yield stream.line_number, _require_object(stream.read_value())
        following = stream.peek_char()
        if is_array and following == ",":
            stream.skip_char()
        elif is_array and following != "]":
            raise stream.make_error("Expecting ',' or ']'")
    if is_array:
        if not stream.peek_char():
            raise stream.make_error("Expecting ']'")
        stream.skip_char()
    if stream.peek_char():
        raise stream.make_error("Extra data")


def _require_object(value: object) -> SourceRecord | DataError:
    if isinstance(value, dict):
        return value
    return DataError("not an object", hint=JSON_RECORD_HINT, code="data.not_an_object")


def _make_json_error(reason: str) -> DataError:
    return DataError(f"not JSON ({reason})", hint=JSON_RECORD_HINT, code="data.not_json")


LIST_PARSERS: dict[str, Callable[[TextIO], Iterator[NumberedRecord]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
}


def _read_delimited(file: TextIO, path: Path) -> Iterator[NumberedRecord]:
    """A table; a record takes several lines where its text does."""
    first_line = file.readline(MAX_RECORD_CHARS)
    delimiter = _detect_delimiter(path, first_line)
    is_ljspeech = delimiter == "|" and _is_ljspeech(path, first_line)
    lines = iter(lambda: file.readline(MAX_RECORD_CHARS), "")
    reader = csv.reader(
        chain([first_line], lines) if first_line else lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _make_csv_error(error)
            if header is None:
                return
            continue
        if header is None:
            header = (
                LJSPEECH_COLUMNS[len(cells)] if is_ljspeech else [*map(clean_column_name, cells)]
            )
            if not is_ljspeech:
                continue
        if len(cells) == len(header):
            if is_ljspeech:
                cells[0] = f"{LJSPEECH_FOLDER}/{cells[0]}.wav"
            yield line, dict(zip(header, cells, strict=True))
        elif cells:
            what = f"{len(cells)} cells, and the table has {len(header)} columns"
            hint = "put a text with a comma in quotes"
            yield line, DataError(what, hint=hint, code="data.bad_cell_count")


def _make_csv_error(error: csv.Error) -> DataError:
    """A quote that is never closed: the file ends in it, or one cell takes all of the rest."""
    if "unexpected end" in str(error) or "field limit" in str(error):
        what = "not CSV (a quote is never closed)"
        hint = 'close it, or write "" for a quote in a text'
        return DataError(what, hint=hint, code="data.not_csv")
    return DataError(f"not CSV ({error})", hint="correct its quotes", code="data.not_csv")
