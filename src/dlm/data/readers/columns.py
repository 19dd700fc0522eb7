"""Fields of a record: typed values, column names that datasets use, and paths that are refused.

    audio      audio, audio_path, audio_filepath, path, file, file_name, filename, wav
    text       text, sentence, normalized_text, transcript, transcription, raw_text, caption
    speaker    speaker, speaker_id, client_id
    language   language, lang, locale: codes such as fr or pt-BR, which mean fr and pt

`columns: {text: caption}` of a source says another name. A recording must be a file of this
machine: URLs and audio inside the record are errors.
"""

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from dlm.data.readers.base import SourceContext
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError

TEXT_COLUMNS = ("text", "sentence", "normalized_text", "transcript", "transcription", "raw_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
LANGUAGE_COLUMNS = ("language", "lang", "locale")
KNOWN_COLUMNS = {
    "audio": ("audio", "audio_path", "audio_filepath", "path", "file", "file_name", "filename")
    + ("wav",),
    "text": (*TEXT_COLUMNS, "caption"),
    "language": LANGUAGE_COLUMNS,
    "speaker": SPEAKER_COLUMNS,
}
LOCALE_RE = re.compile(  # fr, zh-Hans-CN
    r"([a-zA-Z]{2})(?:[-_](?:[A-Z]{2}|[a-z]{2}|[A-Z][a-z]{3}))*"
)
# what is no character, and bytes that are not UTF-8
INVALID_CHARS_RE = re.compile("[\0\ud800-\udfff]")
URI_SCHEME_RE = re.compile(r"(?P<data>data):|(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)
MAX_PATH_CHARS = 4096
MAX_URL_CHARS_SHOWN = 80
MAX_COLUMNS_SHOWN = 8

SourceRecord = dict[str, object]


@dataclass(frozen=True)
class ColumnMapping:
    """The columns of a dataset whose records all have the same.

    Attributes:
        context: the source.
        text: the column of the transcript or answer.
        speaker, language, prompt: their columns; None where there is none.
    """

    context: SourceContext
    text: str
    speaker: str | None
    language: str | None
    prompt: str | None

    @classmethod
    def from_names(cls, context: SourceContext, names: Iterable[str]) -> "ColumnMapping":
        """Find the columns. Raises DataError where none is text (`source.no_column`)."""
        names = list(names)
        text = find_column(context, "text", TEXT_COLUMNS, names)
        if text is None:
            shown = ", ".join(sorted(names)[:MAX_COLUMNS_SHOWN]) or "none"
            raise DataError(
                f"no column of text: it has {shown}",
                hint="name it with columns: {text: ...}",
                code="source.no_column",
            )
        return cls(
            context,
            text,
            speaker=find_column(context, "speaker", SPEAKER_COLUMNS, names),
            language=find_column(context, "language", LANGUAGE_COLUMNS, names),
            prompt=find_column(context, "prompt", ("prompt",), names),
        )

    @property
    def column_names(self) -> list[str]:
        """The columns that are read."""
        names = (self.text, self.speaker, self.language, self.prompt)
        return [name for name in names if name is not None]

    def make_example(self, segment: AudioSegment, record: SourceRecord, location: str) -> Example:
        """Make the example of a recording and its record. Raises DataError (`data.*`)."""
        speaker = record.get(self.speaker or "")
        return self.context.make_example(
            segment,
            get_text(record, self.text),
            location,
            language=parse_language_code(record.get(self.language or "")),
            speaker=str(speaker).strip() or None if isinstance(speaker, str | int) else None,
            prompt=get_text(record, self.prompt) if self.prompt else None,
        )


def find_column(
    context: SourceContext, field_name: str, known_names: Iterable[str], available: Collection[str]
) -> str | None:
    """Return the column that the source names, or the first known name that is available.

    Raises:
        DataError: the source names a column that is not there (`source.no_column`).
    """
    requested = context.source.columns.get(field_name)
    if requested is not None and requested not in available:
        hint = f"correct columns: {{{field_name}: ...}}"
        raise DataError(f"no column {requested}", hint=hint, code="source.no_column")
    return requested or next((name for name in known_names if name in available), None)


def find_record_column(context: SourceContext, record: SourceRecord, field_name: str) -> str:
    """Return the key of a field in one record: the source's, or the first known one with a value.

    Records of a JSON list may each have other keys.
    """
    requested = context.source.columns.get(field_name)
    if requested is not None:
        return requested
    for name in KNOWN_COLUMNS.get(field_name, ()):  # a generator is measurably slower
        if record.get(name) is not None:
            return name
    return field_name


def get_column_text(context: SourceContext, record: SourceRecord, field_name: str) -> str | None:
    """Return the text of a field, under whichever key the record has it."""
    return get_text(record, find_record_column(context, record, field_name))


def get_speaker_and_language(context: SourceContext, record: SourceRecord) -> dict[str, str | None]:
    """Return `speaker` and `language` of a record, as arguments of `make_example`."""
    speaker = record.get(find_record_column(context, record, "speaker"))
    language = get_column_text(context, record, "language")
    return {
        "language": language and (parse_language_code(language) or language),
        "speaker": str(speaker)
        if isinstance(speaker, int)
        else get_column_text(context, record, "speaker"),
    }


def get_audio_dir(context: SourceContext) -> Path:
    """Return the folder that the paths of a list are relative to."""
    return context.audio_dir or context.root.parent


def parse_language_code(value: object) -> str | None:
    """Return the two letters of a language or locale; None for what is no code."""
    match = LOCALE_RE.fullmatch(value) if isinstance(value, str) else None
    return match[1].lower() if match else None


def get_text(record: SourceRecord, key: str) -> str | None:
    """Return the text under a key without the blanks around it; None where there is none.

    Raises:
        DataError: it is not text (`data.not_text`) or not UTF-8 (`data.bad_characters`).
    """
    return get_raw_text(record, key).strip() or None


def get_raw_text(record: SourceRecord, key: str) -> str:
    """Return the text under a key as it is written. Raises DataError as `get_text`."""
    value = record.get(key)
    if value is None:
        return ""
    if isinstance(value, str) and not INVALID_CHARS_RE.search(value):
        return value
    name = clean_column_name(key)
    if isinstance(value, str):
        what = f"{name} holds an invalid character"
        raise DataError(what, hint="write it as UTF-8 text", code="data.bad_characters")
    hint = f'write "{name}" and a text in quotes'
    raise DataError(f"{name} is not text", hint=hint, code="data.not_text")


def get_seconds(record: SourceRecord, key: str) -> float | None:
    """Return the seconds under a key; None where there are none.

    Raises:
        DataError: it is not a finite number (`data.bad_seconds`).
    """
    value = record.get(key)
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer larger than any float
        pass
    what = f"{key} is not a number of seconds"
    raise DataError(what, hint="write it as 1.5", code="data.bad_seconds")


def parse_seconds_cell(record: SourceRecord, key: str) -> float | None:
    """Return the seconds in a cell of a table; None where it is empty. Raises as `get_seconds`."""
    text = get_text(record, key)
    try:
        seconds = None if text is None else float(text)
    except ValueError:
        seconds = math.nan
    return get_seconds({key: seconds}, key)


def require_local_path(raw_path: str) -> str:
    """Return the path of a recording as a record has it; file:// is taken off.

    Raises:
        DataError: it is too long (`data.bad_path`), a URL (`data.remote_audio`), or audio
            inside the record (`data.inline_audio`).
    """
    if len(raw_path) > MAX_PATH_CHARS:
        raise DataError(
            f"the path of a recording has {len(raw_path):,} characters",
            hint="save the recording in a file, and write its path",
            code="data.bad_path",
        )
    match = URI_SCHEME_RE.match(raw_path)
    if match is None:
        return raw_path
    if match["data"]:
        raise DataError(
            "a recording is inside the record itself",
            hint="save it in a file, and write its path",
            code="data.inline_audio",
        )
    if match["scheme"].lower() == "file":
        return INVALID_CHARS_RE.sub("?", unquote(raw_path[match.end() :]))
    raise DataError(
        f"{raw_path[:MAX_URL_CHARS_SHOWN]} is not on this machine, and nothing is downloaded",
        hint="download the recording, and write its path",
        code="data.remote_audio",
    )


def clean_column_name(column: str) -> str:
    """Write a column's name in characters that can be shown."""
    return column.encode("utf-8", "replace").decode().strip()
