"""A table of clips: .csv or .tsv, with the names of its columns in the first line.

    path,sentence,start,end
    clips/a.wav,"Yes, of course.",0.5,2

Its columns are those of a list in JSON (manifest.py), under any of their known names or the ones
that the source says; a row is a clip, and may take several lines.

A list of clips in JSON, each row in a form that is found by looking at it: .jsonl or .json.

    {"audio": "clips/a.wav", "text": "what is said"}
    {"audio": "b.flac", "start": 1.5, "end": 9, "text": "...", "prompt": "...", "language": "fr"}
    {"conversations": [...]}              turns (conversations.py)

A column may have another of its known names, such as `audio_path` or `sentence`, or the one that
the source says. Paths are relative to the list, or to the source's folder of recordings. Other keys
are passed over.
"""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dlm.data.readers.base import IdRegistry, ReaderItem, SourceContext, SourceShard
from dlm.data.readers.conversations import (
    CONVERSATION_KEYS,
    is_conversation,
    parse_record_messages,
    reject_audio_tag,
)
from dlm.data.readers.records import (
    JSON_RECORD_HINT,
    LANGUAGE_COLUMNS,
    LIST_PARSERS,
    SPEAKER_COLUMNS,
    TABLE_DELIMITERS,
    TEXT_COLUMNS,
    SourceRecord,
    check_unique_id,
    get_list_suffix,
    get_seconds,
    get_text,
    make_single_shard,
    parse_language_code,
    parse_records,
    read_column_names,
    require_local_path,
)
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError

MAX_TABLE_COLUMNS_SHOWN = 12  # columns in a message


def list_table_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of its rows."""
    return make_single_shard(context, _read_table)


def is_table(root: Path) -> bool:
    """A file of a table, whatever its columns are."""
    return get_list_suffix(root) in TABLE_DELIMITERS and root.is_file()


def parse_seconds_cell(record: SourceRecord, key: str) -> float | None:
    """The seconds in a cell, None where it is empty."""
    written = get_text(record, key)
    try:
        seconds = None if written is None else float(written)
    except ValueError:
        seconds = math.nan
    if seconds is not None and not math.isfinite(seconds):
        raise DataError(f"{key} is not a number of seconds", hint="write it as 30")
    return seconds


def _read_table(context: SourceContext) -> Iterator[ReaderItem]:
    seen = read_column_names(context.root)
    for ours in ("audio", "text") if seen else ():
        _check_table_column(context, ours, seen)
    return parse_records(context, partial(_parse_table_record, context))


def _check_table_column(
    context: SourceContext, field_name: str, column_names: tuple[str, ...]
) -> None:
    """Refuse a table in which a column is not found."""
    said = context.source.columns.get(field_name)
    if not set(column_names).isdisjoint(KNOWN_COLUMNS[field_name] if said is None else (said,)):
        return
    shown = ", ".join(column_names[:MAX_TABLE_COLUMNS_SHOWN]) + (
        ", ..." if len(column_names) > MAX_TABLE_COLUMNS_SHOWN else ""
    )
    what = f"no column {said}" if said else f"no column for the {field_name} of a clip"
    mend = f"say which it is with columns: {{{field_name}: ...}}"
    raise DataError(f"{what}; the table has {shown}", hint=mend)


def _parse_table_record(
    context: SourceContext, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    spans = {
        key: parse_seconds_cell(record, key) for key in map(context.column_name, ("start", "end"))
    }
    yield make_record_example(context, record | spans, location)


KNOWN_COLUMNS = {
    "audio": ("audio", "audio_path", "audio_filepath", "path", "file", "file_name", "filename")
    + ("wav",),
    "text": (*TEXT_COLUMNS, "caption"),
    "language": LANGUAGE_COLUMNS,
    "speaker": SPEAKER_COLUMNS,
}


def list_json_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of its rows."""
    return make_single_shard(context, _read_json_list)


def is_json_list(root: Path) -> bool:
    """A file of JSON, whatever its rows are."""
    return get_list_suffix(root) in LIST_PARSERS and root.is_file()


def make_record_example(context: SourceContext, record: SourceRecord, location: str) -> Example:
    """A row that names one recording. Raises ClipError for one that cannot be used."""
    written, text = (
        get_column_text(context, record, "audio"),
        get_column_text(context, record, "text"),
    )
    if written is None:
        raise DataError(
            "no audio", hint=f"give the path of a recording as audio: {JSON_RECORD_HINT}"
        )
    asked = get_column_text(context, record, "prompt")
    reject_audio_tag(text, find_record_column(context, record, "text"))
    reject_audio_tag(asked, find_record_column(context, record, "prompt"))
    start, end = (
        get_seconds(record, find_record_column(context, record, side)) for side in ("start", "end")
    )
    sound = AudioSegment(
        get_audio_dir(context) / require_local_path(written), start, end, display_path=written
    )
    return context.make_example(
        sound, text, location, prompt=asked, **get_speaker_and_language(context, record)
    )


def get_speaker_and_language(context: SourceContext, record: SourceRecord) -> dict[str, str | None]:
    """Who speaks in a row's recording, and in which language."""
    language, speaker = (
        get_column_text(context, record, "language"),
        record.get(find_record_column(context, record, "speaker")),
    )
    return {
        "language": language and (parse_language_code(language) or language),
        "speaker": str(speaker)
        if isinstance(speaker, int)
        else get_column_text(context, record, "speaker"),
    }


def get_column_text(context: SourceContext, record: SourceRecord, field_name: str) -> str | None:
    """The words of a row in a column of ours."""
    return get_text(record, find_record_column(context, record, field_name))


def find_record_column(context: SourceContext, record: SourceRecord, field_name: str) -> str:
    """What a row calls a column of ours: as the source says, or the first known name it has."""
    theirs = context.source.columns.get(field_name)
    if theirs is not None:
        return theirs
    for name in KNOWN_COLUMNS.get(field_name, ()):
        if record.get(name) is not None:
            return name
    return field_name


def get_audio_dir(context: SourceContext) -> Path:
    """The folder that a list's paths are relative to."""
    return context.audio_dir or context.root.parent


def _read_json_list(context: SourceContext) -> Iterator[ReaderItem]:
    return parse_records(context, partial(_parse_json_record, context, IdRegistry()))


def _parse_json_record(
    context: SourceContext, ids: IdRegistry, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    check_unique_id(ids, record, context.column_name("id"))
    renamed = {ours: context.column_name(ours) for ours in (*CONVERSATION_KEYS, "audios")}
    record = record | {ours: record[theirs] for ours, theirs in renamed.items() if theirs in record}
    yield (
        _make_conversation_example(context, record, location)
        if is_conversation(record)
        else make_record_example(context, record, location)
    )


def _make_conversation_example(
    context: SourceContext, record: SourceRecord, location: str
) -> Example:
    turns, told = (
        parse_record_messages(record, get_audio_dir(context)),
        get_speaker_and_language(context, record),
    )
    language = told["language"] or context.source.language
    return Example(turns, location, context.source.task or "answer", language, told["speaker"])
