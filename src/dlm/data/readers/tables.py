"""Lists of clips in JSON (format `json`) and tables of clips (format `table`).

    clips.jsonl  {"audio": "clips/a.wav", "text": "what is said"}
                 {"audio": "b.flac", "start": 1.5, "end": 9, "text": "...", "prompt": "..."}
                 {"conversations": [...]} or {"messages": [...]}          see conversations.py
    clips.csv    path,sentence,start,end
                 clips/a.wav,"Yes, of course.",0.5,2

A record is an example. A column has any of its known names (columns.py), or the one that the
source says; other keys are ignored. Paths are relative to the list, or to the source's `audio`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dlm.data.readers.base import IdRegistry, ReaderItem, SourceContext, SourceShard
from dlm.data.readers.columns import (
    KNOWN_COLUMNS,
    SourceRecord,
    find_record_column,
    get_audio_dir,
    get_column_text,
    get_seconds,
    get_speaker_and_language,
    get_text,
    parse_seconds_cell,
    require_local_path,
)
from dlm.data.readers.conversations import (
    CONVERSATION_KEYS,
    is_conversation,
    parse_record_messages,
    reject_audio_tag,
)
from dlm.data.readers.records import (
    JSON_RECORD_HINT,
    LIST_PARSERS,
    TABLE_DELIMITERS,
    ParseRecordFn,
    check_unique_id,
    get_list_suffix,
    make_list_shard,
    read_column_names,
)
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError

MAX_TABLE_COLUMNS_SHOWN = 12


def is_json_list(root: Path) -> bool:
    """Whether a path is a file in JSON, whatever its records are."""
    return get_list_suffix(root) in LIST_PARSERS and root.is_file()


def list_json_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of its records."""
    return make_list_shard(context, lambda: partial(_parse_json_record, context, IdRegistry()))


def is_table(root: Path) -> bool:
    """Whether a path is a .csv or .tsv, whatever its columns are."""
    return get_list_suffix(root) in TABLE_DELIMITERS and root.is_file()


def list_table_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of its rows."""
    return make_list_shard(context, lambda: _make_table_parser(context))


def _parse_json_record(
    context: SourceContext, ids: IdRegistry, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    check_unique_id(ids, record, context.column_name("id"))
    source_keys = {key: context.column_name(key) for key in (*CONVERSATION_KEYS, "audios")}
    record |= {key: record[name] for key, name in source_keys.items() if name in record}
    if not is_conversation(record):
        yield _make_record_example(context, record, location)
        return
    messages = parse_record_messages(record, get_audio_dir(context))
    who = get_speaker_and_language(context, record)
    language = who["language"] or context.source.language
    yield Example(messages, location, context.source.task or "answer", language, who["speaker"])


def _make_table_parser(context: SourceContext) -> ParseRecordFn:
    names = read_column_names(context.root)
    for field_name in ("audio", "text") if names else ():
        _require_column(context, field_name, names)
    return partial(_parse_table_record, context)


def _require_column(context: SourceContext, field_name: str, names: tuple[str, ...]) -> None:
    """Refuse a table without a column at once, not in every row."""
    requested = context.source.columns.get(field_name)
    if not set(names).isdisjoint((requested,) if requested else KNOWN_COLUMNS[field_name]):
        return
    shown = ", ".join(names[:MAX_TABLE_COLUMNS_SHOWN])
    shown += ", ..." if len(names) > MAX_TABLE_COLUMNS_SHOWN else ""
    what = f"no column {requested}" if requested else f"no column for the {field_name} of a clip"
    hint = f"name it with columns: {{{field_name}: ...}}"
    raise DataError(f"{what}; the table has {shown}", hint=hint, code="source.no_column")


def _parse_table_record(
    context: SourceContext, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    seconds = {
        key: parse_seconds_cell(record, key) for key in map(context.column_name, ("start", "end"))
    }
    yield _make_record_example(context, record | seconds, location)


def _make_record_example(context: SourceContext, record: SourceRecord, location: str) -> Example:
    """Make the example of a record that names one recording."""
    path = get_column_text(context, record, "audio")
    if path is None:
        hint = f"give the path of a recording as audio: {JSON_RECORD_HINT}"
        raise DataError("no audio", hint=hint, code="data.no_audio_path")
    text_key, prompt_key = (find_record_column(context, record, key) for key in ("text", "prompt"))
    text, prompt = get_text(record, text_key), get_text(record, prompt_key)
    reject_audio_tag(text, text_key)
    reject_audio_tag(prompt, prompt_key)
    start, end = (get_seconds(record, context.column_name(key)) for key in ("start", "end"))
    segment = AudioSegment(
        get_audio_dir(context) / require_local_path(path), start, end, display_path=path
    )
    who = get_speaker_and_language(context, record)
    return context.make_example(segment, text, location, prompt=prompt, **who)
