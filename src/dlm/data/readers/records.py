"""A JSON text of any length, read value by value, of which only the part at hand is held.

[{...}, {...}, {...}, ...
        ^ at, in `line`; what lies before is let go, what lies behind is read when it is needed

The rows of a list of clips, each with the line it begins on, read as they are asked for.

    .jsonl   an object a line; blank lines are passed over
    .json    an array of objects, or objects one after the other
    .csv     a table whose first line names its columns (RFC 4180); .tsv with tabs
    .gz      any of these, compressed: list.jsonl.gz

A row that cannot be read is the ClipError that says why. UTF-8, with or without a byte order mark,
with any line ends. No more is held than the row at hand, and no row is longer than LONGEST_ROW.

Which column of a dataset is the text, the speaker or the language, where nobody said.

    text       text, sentence, normalized_text, transcript, transcription, raw_text
    speaker    speaker, speaker_id, client_id
    language   language, lang, locale: only codes such as fr or pt-BR, which mean fr and pt

A source may say it: `columns: {text: caption}`.

How a list becomes what a format gives: row by row, each mistake a problem with its line.

a row  ->  clips and skips      what the format's own function makes of it
       ->  Problem              "data/list.jsonl:7", where that raises ClipError
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from json import JSONDecodeError
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from dlm.data.readers.base import IdRegistry, ReaderItem, SourceContext, SourceShard
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

JSON_WHITESPACE_RE = re.compile(r"[ \t\r\n]*")  # as JSON has it
JSON_DECODER = json.JSONDecoder()
MAX_RECORD_CHARS = 1 << 24  # letters
JSON_CHUNK_CHARS = 1 << 18  # letters that are read at once
JSON_CHUNK_TAIL_CHARS = 16  # letters: an error so near the end of what is read may be of the cut


class JsonStream:
    """The part of a text that is being read: from `at` on, which is in `line`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.buffer, self.position, self.line_number = "", 0, 1

    def peek_char(self) -> str:
        """The next letter that is no blank; none at the end."""
        while True:
            blank = JSON_WHITESPACE_RE.match(self.buffer, self.position)
            self._advance_to(blank.end() if blank else self.position)
            if self.position < len(self.buffer) or not self._read_chunk():
                return self.buffer[self.position : self.position + 1]

    def read_value(self) -> object:
        """The value that begins here. Raises ValueError for what is none."""
        while True:
            try:
                value, end = JSON_DECODER.raw_decode(self.buffer, self.position)
            except JSONDecodeError as error:
                cut = (
                    error.msg.startswith("Unterminated")
                    or error.pos > len(self.buffer) - JSON_CHUNK_TAIL_CHARS
                )
                if (
                    not cut
                    or len(self.buffer) - self.position > MAX_RECORD_CHARS
                    or not self._read_chunk()
                ):
                    raise
                continue
            if end < len(self.buffer) or not self._read_chunk():  # a number may go on
                self._advance_to(end)
                return value

    def skip_to_next_object(self) -> bool:
        """Go on at the next line that begins an object; False where none does."""
        while (end := self.buffer.find("\n{", self.position)) < 0:
            self._advance_to(max(self.position, len(self.buffer) - 1))
            if not self._read_chunk():
                return False
        self._advance_to(end + 1)
        return True

    def find_error_line(self, error: Exception) -> int:
        """The line that an error speaks of."""
        broken = error.pos if isinstance(error, JSONDecodeError) else self.position
        return self.line_number + self.buffer.count("\n", self.position, broken)

    def _advance_to(self, end: int) -> None:
        self.line_number += self.buffer.count("\n", self.position, end)
        self.position = end

    def _read_chunk(self) -> bool:
        """Read on, as much again as there is, and let go what was read; False at the end."""
        left = len(self.buffer) - self.position
        piece = self._file.read(max(JSON_CHUNK_CHARS, left))
        if piece:
            self.buffer, self.position = self.buffer[self.position :] + piece, 0
        return bool(piece)


JSON_RECORD_HINT = 'write {"audio": ..., "text": ...}'
TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
GZIP_SUFFIX = ".gz"
INVALID_CHARS_RE = re.compile(
    "[\0\ud800-\udfff]"
)  # what is no character, and bytes that are not UTF-8
URI_SCHEME_RE = re.compile(r"(?P<data>data):|(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)

MAX_HEADER_CHARS = 1 << 16  # letters
MAX_PATH_CHARS = 4096  # letters
MAX_PROBED_RECORDS = 20  # to find out what a list holds
MAX_URL_CHARS_SHOWN = 80  # letters of an address in a message

SourceRecord = dict[str, object]
NumberedRecord = tuple[int, SourceRecord | DataError]


def read_records(path: Path) -> Iterator[NumberedRecord]:
    """Every row of a list, and its line. Raises ClipError when the file is no list at all."""
    suffix = get_list_suffix(path)
    if suffix not in (*LIST_PARSERS, *TABLE_DELIMITERS):
        raise DataError("not a list of clips", hint="name a .jsonl, .json, .csv or .tsv")
    try:
        with _open_text(path, newline="\n" if suffix in LIST_PARSERS else "") as file:
            yield from (
                LIST_PARSERS[suffix](file)
                if suffix in LIST_PARSERS
                else _read_delimited(file, TABLE_DELIMITERS[suffix])
            )
    except (OSError, EOFError, zlib.error) as error:
        what = f"the list cannot be read ({error})"
        raise DataError(what, hint="allow it to be read, or copy it again") from error


def get_list_suffix(path: Path) -> str:
    """What kind of list a file is: .jsonl for a list.jsonl.gz too."""
    packed = path.suffix.lower() == GZIP_SUFFIX
    return (path.with_suffix("") if packed else path).suffix.lower()


def read_column_names(path: Path) -> tuple[str, ...]:
    """The columns that the first line of a table names; none of what is no table."""
    delimiter = TABLE_DELIMITERS.get(get_list_suffix(path))
    if delimiter is None:
        return ()
    try:
        with _open_text(path, newline="") as file:
            head = next(csv.reader([file.readline(MAX_HEADER_CHARS)], delimiter=delimiter), [])
    except (OSError, EOFError, zlib.error, csv.Error, DataError):
        return ()
    return tuple(map(clean_column_name, head))


def read_first_record(path: Path) -> SourceRecord:
    """The first row of a list that can be read; nothing of what is no list."""
    if get_list_suffix(path) not in (*LIST_PARSERS, *TABLE_DELIMITERS):
        return {}
    try:
        rows = islice(read_records(path), MAX_PROBED_RECORDS)
        return next((row for _, row in rows if isinstance(row, dict)), {})
    except DataError:
        return {}


def parse_json_line(line: str) -> SourceRecord | DataError:
    """The object that a line of JSON Lines is, or why it is none."""
    try:
        return _require_object(json.loads(line))
    except JSONDecodeError as error:
        return _invalid_json_error(f"{error.msg}, letter {error.colno}")
    except (ValueError, RecursionError) as error:
        return _invalid_json_error(str(error))


def get_text(record: SourceRecord, key: str) -> str | None:
    """The words under a key, without the blanks around them; None where there are none."""
    return get_raw_text(record, key).strip() or None


def get_raw_text(record: SourceRecord, key: str) -> str:
    """The words under a key, as they are written."""
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        mend = f'write "{clean_column_name(key)}" and a text in quotes'
        raise DataError(f"{clean_column_name(key)} is not text", hint=mend)
    if INVALID_CHARS_RE.search(value):
        what = f"{clean_column_name(key)} holds what is no character"
        raise DataError(what, hint="write it as UTF-8 text")
    return value


def get_seconds(record: SourceRecord, key: str) -> float | None:
    """The seconds under a key, None where there are none."""
    value = record.get(key)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        if isinstance(value, int | float) and number and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer larger than any float
        pass
    raise DataError(f"{key} is not a number of seconds", hint=f'write "{key}": 1.5')


def require_local_path(raw_path: str) -> str:
    """The path of a recording, as a row has it; refuses what is no file of this machine."""
    if len(raw_path) > MAX_PATH_CHARS:
        what = f"the path of a recording has {len(raw_path):,} letters"
        raise DataError(what, hint="save the recording in a file, and write its path")
    found = URI_SCHEME_RE.match(raw_path)
    if found is None:
        return raw_path
    if found["data"]:
        what = "a recording stands in the row itself"
        raise DataError(what, hint="save it in a file, and write its path")
    if found["scheme"].lower() == "file":
        return INVALID_CHARS_RE.sub("?", unquote(raw_path[found.end() :]))
    what = f"{raw_path[:MAX_URL_CHARS_SHOWN]} is not on this machine, and nothing is fetched"
    raise DataError(what, hint="fetch the recording, and write its path")


@contextmanager
def _open_text(path: Path, *, newline: str) -> Iterator[TextIO]:
    """The text of a file; what is not UTF-8 in it is left to whoever wants those words."""
    if not path.is_file():
        raise DataError("not a list of clips (it is no regular file)", hint="name a file")
    packed = path.suffix.lower() == GZIP_SUFFIX
    with gzip.open(path) if packed else path.open("rb") as file:
        if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError("not a list of clips (it is UTF-16)", hint="save it as UTF-8 text")
        yield io.TextIOWrapper(
            file, encoding="utf-8-sig", errors="surrogateescape", newline=newline
        )


def _read_jsonl(file: TextIO) -> Iterator[NumberedRecord]:
    """JSON Lines: what is wrong with one is no matter to the next."""
    number = 0
    while line := file.readline(MAX_RECORD_CHARS):
        number += 1
        if len(line) == MAX_RECORD_CHARS and not line.endswith("\n"):
            while (rest := file.readline(MAX_RECORD_CHARS)) and not rest.endswith("\n"):
                pass
            yield (
                number,
                DataError(f"the row has over {MAX_RECORD_CHARS:,} letters", hint=JSON_RECORD_HINT),
            )
        elif line.strip():
            yield number, parse_json_line(line)


def _read_json(file: TextIO) -> Iterator[NumberedRecord]:
    """An array, or values one after the other; in an array nothing follows what is broken."""
    window = JsonStream(file)
    listed = window.peek_char() == "["
    window.position += listed
    try_again = True
    while try_again:
        try:
            yield from _read_json_values(window, listed)
            return
        except (ValueError, RecursionError) as error:
            told = error.msg if isinstance(error, JSONDecodeError) else str(error)
            yield (
                window.find_error_line(error) if listed else window.line_number,
                _invalid_json_error(told),
            )
            try_again = not listed and window.skip_to_next_object()


def _read_json_values(stream: JsonStream, is_array: bool) -> Iterator[NumberedRecord]:
    while (letter := stream.peek_char()) and not (is_array and letter == "]"):
        yield stream.line_number, _require_object(stream.read_value())
        after = stream.peek_char()
        if is_array and after == ",":
            stream.position += 1
        elif is_array and after != "]":
            raise JSONDecodeError("Expecting ',' or ']'", stream.buffer, stream.position)
    if is_array and not stream.peek_char():
        raise JSONDecodeError("Expecting ']'", stream.buffer, stream.position)
    stream.position += is_array
    if stream.peek_char():
        raise JSONDecodeError("Extra data", stream.buffer, stream.position)


def _read_delimited(file: TextIO, delimiter: str) -> Iterator[NumberedRecord]:
    """A row for each record; one may take several lines, where its text does."""
    lines = iter(lambda: file.readline(MAX_RECORD_CHARS), "")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    head: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _invalid_csv_error(error)
            if head is None:
                return
            continue
        if head is None:
            head = list(map(clean_column_name, cells))
        elif len(cells) == len(head):
            yield line, dict(zip(head, cells, strict=True))
        elif cells:
            what = f"{len(cells)} cells, and the table has {len(head)} columns"
            yield line, DataError(what, hint="put a text with a comma in quotes")


LIST_PARSERS: dict[str, Callable[[TextIO], Iterator[NumberedRecord]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
}


def clean_column_name(column: str) -> str:
    """A column's name, in letters that can be shown."""
    return column.encode("utf-8", "replace").decode().strip()


def _require_object(value: object) -> SourceRecord | DataError:
    return value if isinstance(value, dict) else DataError("not an object", hint=JSON_RECORD_HINT)


def _invalid_json_error(reason: str) -> DataError:
    return DataError(f"not JSON ({reason})", hint=JSON_RECORD_HINT)


def _invalid_csv_error(error: csv.Error) -> DataError:
    """What csv says where a quote is left open: its text ends, or one cell takes all of it."""
    if "unexpected end" in str(error) or "field limit" in str(error):
        mend = 'close it, or write "" for a quote in a text'
        return DataError("not CSV (a quote is never closed)", hint=mend)
    return DataError(f"not CSV ({error})", hint="mend its quotes")


TEXT_COLUMNS = ("text", "sentence", "normalized_text", "transcript", "transcription", "raw_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
LANGUAGE_COLUMNS = ("language", "lang", "locale")
LOCALE_RE = re.compile(
    r"([a-zA-Z]{2})(?:[-_](?:[A-Z]{2}|[a-z]{2}|[A-Z][a-z]{3}))*"
)  # fr, zh-Hans-CN
MAX_COLUMNS_SHOWN = 8


@dataclass(frozen=True)
class ColumnMapping:
    """The columns of a dataset that say something of a recording."""

    context: SourceContext
    text: str
    speaker: str | None
    language: str | None
    prompt: str | None

    @classmethod
    def from_names(cls, context: SourceContext, names: Iterable[str]) -> "ColumnMapping":
        """The columns among `names`. Raises ClipError where none of them is text."""
        there = list(names)
        text = find_column(context, "text", TEXT_COLUMNS, there)
        if text is None:
            shown = ", ".join(sorted(there)[:MAX_COLUMNS_SHOWN]) or "none"
            what = f"no column of text: it has {shown}"
            raise DataError(what, hint="say which it is with columns: {text: ...}")
        others = {"speaker": SPEAKER_COLUMNS, "language": LANGUAGE_COLUMNS, "prompt": ("prompt",)}
        found = (find_column(context, ours, theirs, there) for ours, theirs in others.items())
        return cls(context, text, *found)

    @property
    def column_names(self) -> list[str]:
        """Those that are read."""
        told = (self.text, self.speaker, self.language, self.prompt)
        return [name for name in told if name is not None]

    def make_example(self, segment: AudioSegment, record: SourceRecord, location: str) -> Example:
        """A recording with what its row says."""
        return self.context.make_example(
            segment,
            get_text(record, self.text),
            location,
            language=parse_language_code(record.get(self.language or "")),
            speaker=_parse_speaker(record.get(self.speaker or "")),
            prompt=get_text(record, self.prompt) if self.prompt else None,
        )


def find_column(
    context: SourceContext, field_name: str, known_names: Iterable[str], available: Collection[str]
) -> str | None:
    """The column that the source says, or the first known name that is there."""
    said = context.source.columns.get(field_name)
    if said is not None and said not in available:
        raise DataError(f"no column {said}", hint=f"mend columns: {{{field_name}: ...}}")
    return said or next((name for name in known_names if name in available), None)


def parse_language_code(value: object) -> str | None:
    """The two letters of a language or a locale; None for what is no code."""
    found = LOCALE_RE.fullmatch(value) if isinstance(value, str) else None
    return found[1].lower() if found else None


def _parse_speaker(value: object) -> str | None:
    """Who speaks; some datasets number them."""
    return str(value).strip() or None if isinstance(value, str | int) else None


ParseRecordFn = Callable[[SourceRecord, str], Iterator[ReaderItem]]  # of a row and its place


def make_single_shard(
    context: SourceContext, read_items: Callable[[SourceContext], Iterator[ReaderItem]]
) -> list[SourceShard]:
    """All of a list, in the order of its rows."""
    return [SourceShard.from_iterable(context.name, partial(read_items, context))]


def parse_records(
    context: SourceContext, parse_fn: ParseRecordFn, *, path: Path | None = None
) -> Iterator[ReaderItem]:
    """What each row of the source's list gives, or of a list at `path` below it."""
    name = context.name if path is None else context.to_display_path(path)
    for row in read_records(context.root if path is None else path):
        yield from parse_record(row, parse_fn, name)


def parse_record(
    numbered_record: NumberedRecord, parse_fn: ParseRecordFn, list_name: str
) -> Iterator[ReaderItem]:
    """What a row of the list `name` gives."""
    line, fields = numbered_record
    place = f"{list_name}:{line}"
    try:
        if isinstance(fields, DataError):
            raise fields
        yield from parse_fn(fields, place)
    except DataError as error:
        yield Issue.from_error(error, place)


def check_unique_id(ids: IdRegistry, record: SourceRecord, key: str = "id") -> None:
    """Refuse an id that an earlier row has; a row need not have one."""
    value = record.get(key)
    name = get_text(record, key) if isinstance(value, str) else value
    if isinstance(name, str | int):
        ids.register_id(str(name))
