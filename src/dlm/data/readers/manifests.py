"""Manifests of NeMo, plain and tarred, of Granary, and of Lhotse.

    manifest.json           NeMo: a recording, or a span of one, a line
        {"audio_filepath": "a.wav", "duration": 2.5, "text": "...", "offset": 0.5, "lang": "fr"}
        {"audio_filepath": "a.wav", "answer": "...", "source_lang": "de", "target_lang": "en"}
        {"audio_filepath": "b.wav", "duration": 4.0, "text": "...", "shard_id": 3}
    audio_0.tar ... audio_3.tar     beside it, or in `audio`: a folder or audio__OP_0..3_CL_.tar

    granary.jsonl           text without audio, joined with recordings in `audio` or beside the list
        {"utt_id": "20190117-PLENARY-7", "text": "...", "audio_filepath": "de/..."}

    cuts.jsonl.gz           Lhotse
        {"id", "start", "duration", "channel", "recording", "supervisions"}
    data/
    ├── recordings.jsonl.gz     {"id", "sources": [{"type": "file", "source": "a.wav"}], ...}
    └── supervisions.jsonl.gz   {"id", "recording_id", "start", "duration", "text", "speaker", ...}

NeMo: `answer` wins over `text`; `text_filepath` is a file below the manifest; text in another
language than the audio makes an example of the task `answer`. A tarred manifest has a shard for
each tar, whose recordings stay in it, and 16 bytes a record in memory.

Granary: the recording is the one at audio_filepath, or else the one with that name, or with the
name in a column called like audio, path, file, utt or id. A record without one is skipped.

Lhotse: a supervision with a text is an example; its start counts from its cut or recording. Only
recordings in files are read, of one channel: no command is ever run.
"""

import gzip
import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from unicodedata import normalize

from dlm.data.file_globs import is_audio_file, is_inside_folder, list_files
from dlm.data.readers.base import IdRegistry, ReaderItem, SkippedItem, SourceContext, SourceShard
from dlm.data.readers.columns import (
    KNOWN_COLUMNS,
    MAX_COLUMNS_SHOWN,
    TEXT_COLUMNS,
    SourceRecord,
    clean_column_name,
    get_audio_dir,
    get_column_text,
    get_seconds,
    get_speaker_and_language,
    get_text,
    parse_language_code,
    require_local_path,
)
from dlm.data.readers.conversations import CONVERSATION_KEYS
from dlm.data.readers.records import (
    GZIP_SUFFIX,
    MAX_RECORD_CHARS,
    NumberedRecord,
    check_unique_id,
    get_list_suffix,
    make_list_shard,
    make_single_shard,
    make_unreadable_list_error,
    parse_json_line,
    parse_record,
    parse_records,
    read_first_json_record,
)
from dlm.data.readers.webdataset import TarMember, expand_tar_pattern, iter_tar_members
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

AUDIO_PATH_KEY = "audio_filepath"
MAX_TEXT_FILE_BYTES = 1 << 20
TRANSLATION_TASKS = {"ast", "s2t_translation", "translate"}
TAR_NUMBER_RE = re.compile(r"(\d+)$")  # at the end of a tar's stem
SUBSEGMENT_RE = re.compile(r"-sub\d+(?=\.[^.]*$)")  # of a recording with spans in several records
NO_SHARD_ID = -1
MAX_SHARD_ID_DIGITS = 10
NAME_COLUMN_RE = re.compile("audio|path|file|utt|^id$|_id$", re.IGNORECASE)
OTHER_COLUMN_RE = re.compile("source|speaker|text|shard|lang|duration|format", re.IGNORECASE)
AUDIO_RECORD_KEYS = {*KNOWN_COLUMNS["audio"], *CONVERSATION_KEYS} - {AUDIO_PATH_KEY}
SINGLE_CHANNEL_HINT = "save it as a recording of its own, with one channel"
START_TOLERANCE_SECONDS = 1e-3  # a supervision may begin this much before its recording


def is_nemo(root: Path) -> bool:
    """Whether a path is a list in JSON whose records have an audio_filepath."""
    return AUDIO_PATH_KEY in read_first_json_record(root)


def list_nemo_shards(context: SourceContext) -> list[SourceShard]:
    """One shard for each tar, or one of the manifest. Raises DataError (`source.missing_file`)."""
    if "shard_id" in read_first_json_record(context.root):
        return _list_tarred_shards(context)
    return make_list_shard(context, lambda: partial(_parse_nemo_record, context, IdRegistry()))


def _parse_nemo_record(
    context: SourceContext, ids: IdRegistry, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    check_unique_id(ids, record)
    path = _require_audio_path(context, record)
    segment = AudioSegment(get_audio_dir(context) / require_local_path(path), display_path=path)
    yield _make_nemo_example(context, record, segment, location)


def _require_audio_path(context: SourceContext, record: SourceRecord) -> str:
    path = get_text(record, context.source.columns.get("audio", AUDIO_PATH_KEY))
    if path is None:
        hint = "write the path of the recording"
        raise DataError(f"no {AUDIO_PATH_KEY}", hint=hint, code="data.no_audio_path")
    return path


def _make_nemo_example(
    context: SourceContext, record: SourceRecord, segment: AudioSegment, location: str
) -> Example:
    """The example of a record and its recording, of which it may mean a span."""
    start, seconds = get_seconds(record, "offset"), get_seconds(record, "duration")
    if seconds is not None and seconds <= 0:
        hint = "write how many seconds it lasts"
        raise DataError(f"duration is {seconds:g}", hint=hint, code="data.bad_span")
    if start is not None or seconds is not None:
        start = start or 0.0
        segment = replace(segment, start=start, end=None if seconds is None else start + seconds)
    who = get_speaker_and_language(context, record)
    example = context.make_example(
        segment,
        _get_nemo_text(context, record),
        location,
        speaker=who["speaker"],
        language=_get_language(record, "source_lang") or who["language"],
        prompt=get_column_text(context, record, "prompt"),
    )
    if _is_translation(record, example.language):
        return replace(example, task=context.source.task or "answer")
    return example


def _is_translation(record: SourceRecord, audio_language: str | None) -> bool:
    task = get_text(record, "taskname") or get_text(record, "task")
    text_language = _get_language(record, "target_lang")
    is_other = None not in (text_language, audio_language) and text_language != audio_language
    return task in TRANSLATION_TASKS or is_other


def _get_language(record: SourceRecord, key: str) -> str | None:
    text = get_text(record, key)
    return text and (parse_language_code(text) or text)


def _get_nemo_text(context: SourceContext, record: SourceRecord) -> str | None:
    """The text of a record: in it, or in the file that it names."""
    if "text" not in context.source.columns and (answer := get_text(record, "answer")):
        return answer
    text, path = get_column_text(context, record, "text"), get_text(record, "text_filepath")
    return text if text or path is None else _read_text_file(context.root.parent, path)


def _read_text_file(folder: Path, raw_path: str) -> str:
    """The text of a file below the manifest; no other file is read."""
    path = folder / raw_path
    if not is_inside_folder(folder, path):
        what = f"text_filepath {raw_path} leads out of the manifest's folder"
        hint = "put the file there, or write its content as text"
        raise DataError(what, hint=hint, code="data.outside_folder")
    try:
        if not path.is_file() or path.stat().st_size > MAX_TEXT_FILE_BYTES:
            what = f"text_filepath {raw_path} is not a file, or too long for a transcript"
            hint = "write its content as text"
            raise DataError(what, hint=hint, code="data.bad_text_file")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"text_filepath {raw_path} cannot be read ({error})"
        raise DataError(what, hint="save it as UTF-8 text", code="data.bad_text_file") from error


def _list_tarred_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each tar, by number, after one of the records whose tar is not there.

    manifest.json   ... "shard_id": 0 ...   ->  audio_0.tar: its records, in their order
    audio_0.tar     ... "shard_id": 1 ...   ->  audio_1.tar
    audio_1.tar     a record of no tar      ->  manifest.json: an issue each
    """
    paths = _find_tars(context)
    if not paths:
        what = "the manifest has a shard_id in its records, and no tar is there"
        hint = "put audio_0.tar and the others beside it, or name their folder with audio:"
        raise DataError(what, hint=hint, code="source.missing_file")
    index = _ShardRecordIndex(context.root, frozenset(paths))
    return [
        SourceShard.from_iterable(context.name, partial(_read_unassigned_records, context, index)),
        *(
            SourceShard.from_iterable(path.name, partial(_read_tar, context, index, path, shard_id))
            for shard_id, path in paths.items()
        ),
    ]


def _find_tars(context: SourceContext) -> dict[int, Path]:
    """The tars of a folder or a pattern, by their numbers."""
    root = get_audio_dir(context)
    if root.is_dir():
        paths = sorted(root.glob("*.tar"))
    else:
        pattern = str(root).replace("_OP_", "{").replace("_CL_", "}")  # how NeMo writes braces
        paths = expand_tar_pattern(Path(pattern))
    numbered = {int(match[1]): path for path in paths if (match := TAR_NUMBER_RE.search(path.stem))}
    return dict(sorted(numbered.items())) or ({0: paths[0]} if len(paths) == 1 else {})


def _read_tar(
    context: SourceContext, index: "_ShardRecordIndex", path: Path, shard_id: int
) -> Iterator[ReaderItem]:
    """The records of one tar; a tar that cannot be trusted is one issue."""
    try:
        members = {member.name: member for member in iter_tar_members(path)}
    except DataError as error:
        yield Issue.from_error(error, path.name)
        return
    parse_fn = partial(_parse_tarred_record, context, path, members, IdRegistry())
    for numbered_record in index.read_shard(shard_id):
        yield from parse_record(numbered_record, parse_fn, context.name)


def _parse_tarred_record(
    context: SourceContext,
    tar_path: Path,
    members: dict[str, TarMember],
    ids: IdRegistry,
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    check_unique_id(ids, record)
    path = _require_audio_path(context, record)
    name = PurePosixPath(path).name
    names = (path, name, SUBSEGMENT_RE.sub("", name))
    member = next((members[name] for name in names if name in members), None)
    if member is None:
        what = f"{path} is not in {tar_path.name}"
        hint = "correct its name or its shard_id, or take the record out"
        raise DataError(what, hint=hint, code="data.missing_tar_member")
    segment = AudioSegment(
        tar_path,
        byte_range=(member.offset, member.size),
        display_path=f"{tar_path.name}/{member.name}",
    )
    yield _make_nemo_example(context, record, segment, location)


def _read_unassigned_records(
    context: SourceContext, index: "_ShardRecordIndex"
) -> Iterator[ReaderItem]:
    for numbered_record in index.read_shard(NO_SHARD_ID):
        yield from parse_record(numbered_record, _reject_unassigned_record, context.name)


def _reject_unassigned_record(record: SourceRecord, location: str) -> Iterator[ReaderItem]:
    shard_id = _get_shard_id(record)
    what = "no shard_id"
    if shard_id is not None:
        what = f"the tar of shard_id {shard_id} is not there"
    hint = "put the tar beside the others, or take the record out"
    raise DataError(what, hint=hint, code="data.missing_tar")


class _ShardRecordIndex:
    """Where in a manifest the records of each tar begin, found when the first is read."""

    def __init__(self, path: Path, shard_ids: frozenset[int]) -> None:
        self._path, self._shard_ids = path, shard_ids
        self._offsets: dict[int, array[int]] = {}

    def read_shard(self, shard_id: int) -> Iterator[NumberedRecord]:
        """Yield the records of a tar, in order.

        Raises:
            DataError: the manifest cannot be read (`source.unreadable`).
        """
        try:
            with self._open_manifest() as file:
                self._offsets = self._offsets or _build_shard_index(file, self._shard_ids)
                offsets = self._offsets.get(shard_id, array("Q"))
                for line, start in zip(offsets[::2], offsets[1::2], strict=True):
                    file.seek(start)
                    yield line, parse_json_line(_decode_line(file.readline(MAX_RECORD_CHARS)))
        except (OSError, EOFError, zlib.error) as error:
            raise make_unreadable_list_error(error) from error

    def _open_manifest(self) -> BinaryIO:
        is_compressed = self._path.suffix.lower() == GZIP_SUFFIX
        return cast(BinaryIO, gzip.open(self._path)) if is_compressed else self._path.open("rb")


def _build_shard_index(file: BinaryIO, shard_ids: frozenset[int]) -> dict[int, "array[int]"]:
    """The line and the first byte of each record, by the number of its tar."""
    offsets: dict[int, array[int]] = {}
    number, start = 0, 0
    while line := file.readline(MAX_RECORD_CHARS):
        number += 1
        if line.strip():
            record = parse_json_line(_decode_line(line))
            shard_id = _get_shard_id(record) if isinstance(record, dict) else None
            key = NO_SHARD_ID if shard_id is None or shard_id not in shard_ids else shard_id
            offsets.setdefault(key, array("Q")).extend((number, start))
        start += len(line)
    return offsets


def _get_shard_id(record: SourceRecord) -> int | None:
    shard_id = record.get("shard_id")
    if isinstance(shard_id, str) and shard_id.isdecimal() and len(shard_id) < MAX_SHARD_ID_DIGITS:
        return int(shard_id)
    return shard_id if isinstance(shard_id, int) else None


def _decode_line(line: bytes) -> str:
    return line.decode("utf-8-sig", "surrogateescape")


def is_granary(root: Path) -> bool:
    """Whether a path is a list in JSON whose records have a text and a name, and no audio."""
    record = read_first_json_record(root)
    return bool(
        _find_name_columns(record)
        and AUDIO_RECORD_KEYS.isdisjoint(record)
        and not record.keys().isdisjoint(TEXT_COLUMNS)
    )


def list_granary_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of its records."""
    return make_list_shard(
        context,
        lambda: partial(
            _parse_granary_record,
            context,
            _RecordingIndex.from_folder(get_audio_dir(context)),
            IdRegistry(),
        ),
    )


@dataclass(frozen=True)
class _RecordingIndex:
    """The recordings below a folder, by path and by name without suffix."""

    folder: Path
    paths: frozenset[str]
    paths_by_stem: dict[str, list[str]]

    @classmethod
    def from_folder(cls, folder: Path) -> "_RecordingIndex":
        files = [path for path in list_files(folder).files if is_audio_file(path)]
        paths = [path.relative_to(folder).as_posix() for path in files]
        paths_by_stem: dict[str, list[str]] = {}
        for path in paths:
            stem = normalize("NFC", PurePosixPath(path).stem)
            paths_by_stem.setdefault(stem, []).append(path)
        return cls(folder, frozenset(paths), paths_by_stem)

    def find_recording(self, name: str) -> str | None:
        """Return the recording at a path, or else of that name; DataError where there are two."""
        if name in self.paths:
            return name
        path = Path(name)
        stem = normalize("NFC", path.stem if is_audio_file(path) else path.name)
        matches = self.paths_by_stem.get(stem, [])
        if len(matches) > 1:
            what = f"{matches[0]} and {matches[1]} have the name of its recording"
            hint = f"rename one, or write its path as {AUDIO_PATH_KEY}"
            raise DataError(what, hint=hint, code="data.ambiguous_recording")
        return matches[0] if matches else None


def _parse_granary_record(
    context: SourceContext,
    recordings: _RecordingIndex,
    ids: IdRegistry,
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    requested = context.source.columns.get("audio")
    columns = [requested] if requested else _find_name_columns(record)
    names = [name for column in columns if (name := _get_recording_name(record, column))]
    if not names:
        shown = ", ".join(map(clean_column_name, list(record)[:MAX_COLUMNS_SHOWN])) or "nothing"
        what = f"nothing in it names a recording: it has {shown}"
        hint = "name that column with columns: {audio: ...}"
        raise DataError(what, hint=hint, code="data.no_audio_path")
    check_unique_id(ids, record, "utt_id" if "utt_id" in record else "id")
    path = next((path for name in names if (path := recordings.find_recording(name))), None)
    if path is None:
        yield SkippedItem(names[0], "data.no_recording")
        return
    segment = AudioSegment(recordings.folder / path, display_path=path)
    yield _make_nemo_example(context, record, segment, location)


def _find_name_columns(record: SourceRecord) -> list[str]:
    """The columns that may name the recording, audio_filepath first."""
    columns = [
        key for key in record if NAME_COLUMN_RE.search(key) and not OTHER_COLUMN_RE.search(key)
    ]
    return sorted(columns, key=lambda key: key != AUDIO_PATH_KEY)


def _get_recording_name(record: SourceRecord, key: str) -> str | None:
    """The name in a column; a number is one where it is an id."""
    value = record.get(key)
    if isinstance(value, int) and key.endswith("id"):
        return str(value)
    return get_text(record, key) if isinstance(value, str) else None


def is_lhotse(root: Path) -> bool:
    """Whether a path is a list of cuts, or a folder with recordings and supervisions."""
    if root.is_dir():
        return bool(_find_manifest_pairs(root))
    record = read_first_json_record(root)
    cut_type = record.get("type")
    is_cut = isinstance(cut_type, str) and cut_type.endswith("Cut")
    return is_cut or ("supervisions" in record and "recording" in record)


def list_lhotse_shards(context: SourceContext) -> list[SourceShard]:
    """One shard: the cuts of a file, or the supervisions of a folder."""
    if context.root.is_dir():
        return make_single_shard(context, _read_supervisions)
    return make_list_shard(context, lambda: partial(_parse_cut, context, IdRegistry()))


def _parse_cut(
    context: SourceContext, ids: IdRegistry, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    cut_id, cut_type = get_text(record, "id") or location, get_text(record, "type") or "MonoCut"
    check_unique_id(ids, record)
    if cut_type not in ("MonoCut", "MultiCut"):
        hint = "write a MonoCut for each recording"
        raise DataError(f"a {cut_type} is not read", hint=hint, code="data.unsupported_recording")
    supervisions, recording = _get_objects(record, "supervisions"), record.get("recording")
    if not supervisions or not isinstance(recording, dict):
        yield SkippedItem(cut_id, "data.no_recording" if supervisions else "data.no_transcript")
        return
    _require_single_channel(record.get("channel"), "the cut")
    segment = _make_recording_segment(context, recording)
    start = get_seconds(record, "start") or 0.0
    for supervision in supervisions:
        yield _parse_supervision(context, supervision, segment, start, location)


def _parse_supervision(
    context: SourceContext, record: SourceRecord, segment: AudioSegment, start: float, location: str
) -> ReaderItem:
    """The example of a supervision, whose start counts from `start` in the recording."""
    text, seconds = get_text(record, "text"), get_seconds(record, "duration")
    if text is None:
        return SkippedItem(get_text(record, "id") or location, "data.no_transcript")
    start += get_seconds(record, "start") or 0.0
    if seconds is None or seconds <= 0 or start < -START_TOLERANCE_SECONDS:
        hint = "correct its start and duration"
        raise DataError("a supervision has no span", hint=hint, code="data.bad_span")
    _require_single_channel(record.get("channel"), "a supervision")
    start = max(start, 0.0)
    span = AudioSegment(segment.path, start, start + seconds, display_path=segment.display_path)
    language = parse_language_code(record.get("language"))
    speaker = get_text(record, "speaker")
    return context.make_example(span, text, location, language=language, speaker=speaker)


def _make_recording_segment(context: SourceContext, recording: SourceRecord) -> AudioSegment:
    """The whole of a recording; DataError for one that is not one plain file of one channel."""
    sources = _get_objects(recording, "sources")
    if len(sources) != 1:
        what = f"its recording has {len(sources)} sources"
        raise DataError(what, hint=SINGLE_CHANNEL_HINT, code="data.several_channels")
    source_type, path = get_text(sources[0], "type"), get_text(sources[0], "source")
    if source_type != "file" or path is None:
        what = f"its recording is of type {source_type}, and only files are read: no command is run"
        hint = "save the recording in a file, and list that"
        raise DataError(what, hint=hint, code="data.command")
    _require_single_channel(sources[0].get("channels"), "its recording")
    if recording.get("transforms"):
        what = "its recording has transforms, which are not applied"
        hint = "save the result in a file, and list that"
        raise DataError(what, hint=hint, code="data.unsupported_recording")
    folder = context.root if context.root.is_dir() else context.root.parent
    folder = context.audio_dir or folder
    return AudioSegment(folder / require_local_path(path), display_path=path)


def _require_single_channel(channels: object, owner: str) -> None:
    """Refuse several channels: which of them is meant would be lost."""
    if isinstance(channels, list) and len(channels) != 1:
        what = f"{owner} has {len(channels)} channels"
        raise DataError(what, hint=SINGLE_CHANNEL_HINT, code="data.several_channels")


def _get_objects(record: SourceRecord, key: str) -> list[SourceRecord]:
    value = record.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        hint = f'write "{key}": [{{...}}]'
        raise DataError(f"{key} is not a list of objects", hint=hint, code="data.not_a_list")
    return value


def _find_manifest_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The manifests of recordings in a folder, each with that of its supervisions."""
    return sorted(
        (path, supervisions)
        for path in folder.glob("*recordings*.jsonl*")
        if get_list_suffix(path) == ".jsonl"
        and (supervisions := path.with_name(path.name.replace("recordings", "supervisions")))
        and supervisions.is_file()
    )


def _read_supervisions(context: SourceContext) -> Iterator[ReaderItem]:
    """The supervisions of a folder; what is wrong with a recording is reported once."""
    pairs, split = _find_manifest_pairs(context.root), context.source.split
    pairs = [pair for pair in pairs if split is None or split in pair[0].name]
    if len(pairs) != 1:
        names = ", ".join(path.name for path, _ in pairs) or "none"
        what = f"there is not one manifest of recordings and supervisions, but {names}"
        hint = "choose one with split: train, or name the folder of one"
        raise DataError(what, hint=hint, code="source.no_split")
    recordings_path, supervisions_path = pairs[0]
    recordings: dict[str, AudioSegment | None] = {}
    yield from parse_records(
        context, partial(_register_recording, context, recordings), path=recordings_path
    )
    yield from parse_records(
        context,
        partial(_parse_linked_supervision, context, recordings, IdRegistry()),
        path=supervisions_path,
    )


def _register_recording(
    context: SourceContext,
    recordings: dict[str, AudioSegment | None],
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    """Note a recording by its id; None for one that cannot be read."""
    recording_id = get_text(record, "id")
    hint = "give each recording an id of its own"
    if recording_id is None:
        raise DataError("no id", hint=hint, code="data.missing_field")
    if recording_id in recordings:
        what = f"the id {recording_id} appears twice"
        raise DataError(what, hint=hint, code="data.duplicate_id")
    recordings[recording_id] = None
    recordings[recording_id] = _make_recording_segment(context, record)
    return iter(())


def _parse_linked_supervision(
    context: SourceContext,
    recordings: dict[str, AudioSegment | None],
    ids: IdRegistry,
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    recording_id = get_text(record, "recording_id")
    check_unique_id(ids, record)
    hint = "add it there, or take the supervision out"
    if recording_id is None:
        raise DataError("no recording_id", hint=hint, code="data.missing_field")
    if recording_id not in recordings:
        what = f"the recording {recording_id} is not in the manifest of recordings"
        raise DataError(what, hint=hint, code="data.unknown_recording")
    segment = recordings[recording_id]
    if segment is None:
        yield SkippedItem(recording_id, "data.no_recording")
    else:
        yield _parse_supervision(context, record, segment, 0.0, location)
