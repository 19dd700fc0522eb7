"""Manifests of NeMo: a clip a line, its recording a file, or lying in one of several tars.

    {"audio_filepath": "a.wav", "duration": 2.5, "text": "...", "offset": 0.5, "lang": "fr"}
    {"audio_filepath": "a.wav", "answer": "...", "source_lang": "de", "target_lang": "en"}
    {"audio_filepath": "b.wav", "duration": 4.0, "text": "...", "shard_id": 3}   in audio_3.tar

`answer` is `text` where both are there, `text_filepath` a file below the manifest. What is said in
another language than is heard is an answer, not a transcript. The tars lie beside the manifest or
where the source says, as a folder or as `audio__OP_0..3_CL_.tar`; recordings stay in them.

Rows of a manifest whose recordings lie in numbered tars, dealt by tar.

    manifest.json   ... "shard_id": 0 ...   ->  Shard audio_0.tar: its rows, in their order
    audio_0.tar     ... "shard_id": 1 ...   ->  Shard audio_1.tar
    audio_1.tar     a row of no tar         ->  Shard manifest.json: a problem each

The manifest is read once to find where the rows of each tar begin: sixteen bytes are kept a row.

Granary and its like: rows of text that come without sound, joined with the recordings here.

    {"utt_id": "20190117-PLENARY-7", "text": "...", "duration": 9.1, "audio_filepath": "de/..."}

The recordings lie where the source says, or beside the list, in any folders. A row's recording is
the one at its audio_filepath, or else the one of that name, or of the name that one of its columns
of names has (audio, path, file, utt or id in it). A row without one is skipped and counted.

Manifests of Lhotse: cuts, or recordings and supervisions in a folder.

    cuts.jsonl.gz           {"id", "start", "duration", "channel", "recording", "supervisions"}
    data/
    ├── recordings.jsonl.gz     {"id", "sources": [{"type": "file", "source": "a.wav"}], ...}
    └── supervisions.jsonl.gz   {"id", "recording_id", "start", "duration", "text", "speaker", ...}

A supervision that has a text is a clip. Its start counts from that of its cut, or of its recording.
Only recordings in files are read, whole and of one channel: no command is ever run.
"""

import gzip
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from dlm.data.file_globs import is_audio_file, is_inside_folder, list_files
from dlm.data.readers.base import IdRegistry, ReaderItem, SkippedItem, SourceContext, SourceShard
from dlm.data.readers.conversations import CONVERSATION_KEYS
from dlm.data.readers.records import (
    GZIP_SUFFIX,
    LIST_PARSERS,
    MAX_RECORD_CHARS,
    TEXT_COLUMNS,
    NumberedRecord,
    SourceRecord,
    check_unique_id,
    clean_column_name,
    get_list_suffix,
    get_seconds,
    get_text,
    make_single_shard,
    parse_json_line,
    parse_language_code,
    parse_record,
    parse_records,
    read_first_record,
    read_records,
    require_local_path,
)
from dlm.data.readers.tables import (
    KNOWN_COLUMNS,
    get_audio_dir,
    get_column_text,
    get_speaker_and_language,
)
from dlm.data.readers.webdataset import TarMember, expand_tar_pattern, iter_tar_members
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

MAX_TEXT_FILE_BYTES = 1 << 20
TRANSLATION_TASKS = {"ast", "s2t_translation", "translate"}


def list_nemo_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each tar, or all of the manifest."""
    if "shard_id" in read_first_record(context.root):
        return list_tarred_shards(context, make_nemo_example)
    return make_single_shard(context, _read_nemo_manifest)


def is_nemo(root: Path) -> bool:
    """A list in JSON whose rows have an audio_filepath."""
    return (
        get_list_suffix(root) in LIST_PARSERS
        and root.is_file()
        and "audio_filepath" in read_first_record(root)
    )


def make_nemo_example(
    context: SourceContext, record: SourceRecord, segment: AudioSegment, location: str
) -> Example:
    """What a row says of its recording, of which it may mean a part."""
    start, seconds = get_seconds(record, "offset"), get_seconds(record, "duration")
    if seconds is not None and seconds <= 0:
        raise DataError(f"duration is {seconds:g}", hint="write how many seconds it lasts")
    if start is not None:
        segment = replace(segment, start=start, end=None if seconds is None else start + seconds)
    told = get_speaker_and_language(context, record)
    told["language"] = _get_language(record, "source_lang") or told["language"]
    told["prompt"] = get_column_text(context, record, "prompt")
    clip = context.make_example(segment, _get_nemo_text(context, record), location, **told)
    if _is_translation(record, clip.language):
        return replace(clip, task=context.source.task or "answer")
    return clip


def _is_translation(record: SourceRecord, spoken_language: str | None) -> bool:
    """Whether a row is to be said in another language than is heard."""
    said_in, task = (
        _get_language(record, "target_lang"),
        get_text(record, "taskname") or get_text(record, "task"),
    )
    return task in TRANSLATION_TASKS or (
        None not in (said_in, spoken_language) and said_in != spoken_language
    )


def _get_language(record: SourceRecord, key: str) -> str | None:
    written = get_text(record, key)
    return written and (parse_language_code(written) or written)


def _read_nemo_manifest(context: SourceContext) -> Iterator[ReaderItem]:
    return parse_records(context, partial(_parse_nemo_record, context, IdRegistry()))


def _parse_nemo_record(
    context: SourceContext, ids: IdRegistry, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    check_unique_id(ids, record)
    written = get_text(record, context.source.columns.get("audio", "audio_filepath"))
    if written is None:
        raise DataError("no audio_filepath", hint="write the path of the recording")
    yield make_nemo_example(
        context,
        record,
        AudioSegment(get_audio_dir(context) / require_local_path(written), display_path=written),
        location,
    )


def _get_nemo_text(context: SourceContext, record: SourceRecord) -> str | None:
    """What is to be said: in the row, or in the file that it names."""
    if "text" not in context.source.columns and (answer := get_text(record, "answer")):
        return answer
    text, written = get_column_text(context, record, "text"), get_text(record, "text_filepath")
    return text if text or written is None else _read_text_file(context.root.parent, written)


def _read_text_file(folder: Path, raw_path: str) -> str:
    """The words of a file below the manifest; a manifest may not have any other file read."""
    path = folder / raw_path
    if not is_inside_folder(folder, path):
        what = f"text_filepath {raw_path} leads out of the manifest's folder"
        raise DataError(what, hint="put the file there, or write its words as text")
    try:
        if not path.is_file() or path.stat().st_size > MAX_TEXT_FILE_BYTES:
            what = f"text_filepath {raw_path} is no file, or too long for a transcript"
            raise DataError(what, hint="write its words as text")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"text_filepath {raw_path} cannot be read ({error})"
        raise DataError(what, hint="save it as UTF-8 text") from error


MakeExampleFn = Callable[[SourceContext, SourceRecord, AudioSegment, str], Example]

TAR_NUMBER_RE = re.compile(r"(\d+)$")  # at the end of a tar's stem
SUBSEGMENT_RE = re.compile(r"-sub\d+(?=\.[^.]*$)")  # of a recording that several rows have spans of
NO_SHARD_ID = -1
MAX_SHARD_ID_DIGITS = 10  # digits


@dataclass(frozen=True)
class _TarShard:
    """A tar, and what the rows that speak of it are made into."""

    context: SourceContext
    make_example_fn: MakeExampleFn
    path: Path
    shard_id: int


def list_tarred_shards(context: SourceContext, make_example_fn: MakeExampleFn) -> list[SourceShard]:
    """A shard for each tar, in the order of their numbers."""
    paths = _find_tars(context)
    if not paths:
        what = "the manifest has a shard_id in its rows, and no tar is there"
        mend = "put audio_0.tar and the others beside it, or say where they are with audio:"
        raise DataError(what, hint=mend)
    deal = _ShardRecordIndex(context.root, frozenset(paths))
    tars = [_TarShard(context, make_example_fn, path, number) for number, path in paths.items()]
    shards = [
        SourceShard.from_iterable(tar.path.name, partial(_read_tar_shard, tar, deal))
        for tar in tars
    ]
    lost = SourceShard.from_iterable(context.name, partial(_read_unassigned_records, context, deal))
    return [lost, *shards]


def _find_tars(context: SourceContext) -> dict[int, Path]:
    """The tars by their numbers: those of a folder, or of a pattern."""
    root = get_audio_dir(context)
    if root.is_dir():
        found = sorted(root.glob("*.tar"))
    else:
        pattern = str(root).replace("_OP_", "{").replace("_CL_", "}")  # as NeMo writes braces
        found = expand_tar_pattern(Path(pattern))
    numbers = {int(last[1]): path for path in found if (last := TAR_NUMBER_RE.search(path.stem))}
    return dict(sorted(numbers.items())) or ({0: found[0]} if len(found) == 1 else {})


def _read_tar_shard(tar: _TarShard, shard_index: "_ShardRecordIndex") -> Iterator[ReaderItem]:
    """The rows of one tar. One that cannot be trusted is told once, and its rows are not."""
    try:
        held = {member.name: member for member in iter_tar_members(tar.path)}
    except DataError as error:
        yield Issue.from_error(error, tar.path.name)
        return
    make = partial(_parse_tarred_record, tar, held, IdRegistry())
    for row in shard_index.read_shard(tar.shard_id):
        yield from parse_record(row, make, tar.context.name)


def _parse_tarred_record(
    tar: _TarShard,
    members_by_name: dict[str, TarMember],
    ids: IdRegistry,
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    check_unique_id(ids, record)
    name = get_text(record, tar.context.source.columns.get("audio", "audio_filepath"))
    if name is None:
        raise DataError("no audio_filepath", hint="write the name of the recording in its tar")
    names = (name, PurePosixPath(name).name, SUBSEGMENT_RE.sub("", PurePosixPath(name).name))
    member = next((members_by_name[each] for each in names if each in members_by_name), None)
    if member is None:
        what = f"{name} is not in {tar.path.name}"
        raise DataError(what, hint="mend its name or its shard_id, or take the row out")
    written = f"{tar.path.name}/{member.name}"
    sound = AudioSegment(tar.path, byte_range=(member.offset, member.size), display_path=written)
    yield tar.make_example_fn(tar.context, record, sound, location)


def _read_unassigned_records(
    context: SourceContext, shard_index: "_ShardRecordIndex"
) -> Iterator[ReaderItem]:
    """Each row that speaks of no tar that is there."""
    for row in shard_index.read_shard(NO_SHARD_ID):
        yield from parse_record(row, _reject_unassigned_record, context.name)


def _reject_unassigned_record(record: SourceRecord, location: str) -> Iterator[ReaderItem]:
    number = _get_shard_id(record)
    what = "no shard_id" if number is None else f"the tar of shard_id {number} is not there"
    raise DataError(what, hint="put the tar beside the others, or take the row out")


class _ShardRecordIndex:
    """Where in a manifest the rows of each tar begin; found when the first is asked for."""

    def __init__(self, path: Path, shard_ids: frozenset[int]) -> None:
        self._path, self._shard_ids = path, shard_ids
        self._offsets: dict[int, array[int]] = {}

    def read_shard(self, shard_id: int) -> Iterator[NumberedRecord]:
        """The rows of a tar, in order."""
        try:
            with self._open_manifest() as file:
                self._offsets = self._offsets or _build_shard_index(file, self._shard_ids)
                starts = self._offsets.get(shard_id, array("Q"))
                for line, first in zip(starts[::2], starts[1::2], strict=True):
                    file.seek(first)
                    yield line, parse_json_line(_decode_line(file.readline(MAX_RECORD_CHARS)))
        except (OSError, EOFError, zlib.error) as error:
            what = f"the list cannot be read ({error})"
            raise DataError(what, hint="allow it to be read, or copy it again") from error

    def _open_manifest(self) -> BinaryIO:
        packed = self._path.suffix.lower() == GZIP_SUFFIX
        return cast(BinaryIO, gzip.open(self._path)) if packed else self._path.open("rb")


def _build_shard_index(file: BinaryIO, shard_ids: frozenset[int]) -> dict[int, "array[int]"]:
    """The line and the first byte of each row, by the number of its tar."""
    found: dict[int, array[int]] = {}
    line, first = 0, 0
    while written := file.readline(MAX_RECORD_CHARS):
        line += 1
        if written.strip():
            row = parse_json_line(_decode_line(written))
            number = _get_shard_id(row) if isinstance(row, dict) else None
            known = NO_SHARD_ID if number is None or number not in shard_ids else number
            found.setdefault(known, array("Q")).extend((line, first))
        first += len(written)
    return found


def _get_shard_id(record: SourceRecord) -> int | None:
    """The number of a row's tar."""
    number = record.get("shard_id")
    if isinstance(number, str) and number.isdecimal() and len(number) < MAX_SHARD_ID_DIGITS:
        return int(number)
    return number if isinstance(number, int) else None


def _decode_line(line: bytes) -> str:
    return line.decode("utf-8-sig", "surrogateescape")


PREFERRED_NAME_COLUMN = "audio_filepath"
NAME_COLUMN_RE = re.compile("audio|path|file|utt|^id$|_id$", re.IGNORECASE)  # columns with a name
OTHER_COLUMN_RE = re.compile(
    "source|speaker|text|shard|lang|duration|format", re.IGNORECASE
)  # of others
AUDIO_RECORD_KEYS = {*KNOWN_COLUMNS["audio"], *CONVERSATION_KEYS} - {PREFERRED_NAME_COLUMN}
MAX_GRANARY_COLUMNS_SHOWN = 8  # columns in a message


def list_granary_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of its rows."""
    return make_single_shard(context, _read_granary_manifest)


def is_granary(root: Path) -> bool:
    """A list in JSON whose rows have a text and a name, and no recording."""
    if get_list_suffix(root) not in LIST_PARSERS or not root.is_file():
        return False
    row = read_first_record(root)
    return bool(
        _find_name_columns(row)
        and AUDIO_RECORD_KEYS.isdisjoint(row)
        and not row.keys().isdisjoint(TEXT_COLUMNS)
    )


@dataclass(frozen=True)
class _RecordingIndex:
    """What lies below a folder, by path and by name."""

    folder: Path
    paths: frozenset[str]
    by_stem: dict[str, list[str]]

    @classmethod
    def from_folder(cls, folder: Path) -> "_RecordingIndex":
        files = [path for path in list_files(folder).files if is_audio_file(path)]
        paths = [path.relative_to(folder).as_posix() for path in files]
        by_stem: dict[str, list[str]] = {}
        for path in paths:
            by_stem.setdefault(PurePosixPath(path).stem, []).append(path)
        return cls(folder, frozenset(paths), by_stem)

    def find_recording(self, name: str) -> str | None:
        """The recording at a path, or else of that name. Raises ClipError where there are two."""
        if name in self.paths:
            return name
        path = Path(name)
        found = self.by_stem.get(path.stem if is_audio_file(path) else path.name, [])
        if len(found) > 1:
            what = f"{found[0]} and {found[1]} have the name of its recording"
            raise DataError(what, hint="rename one, or write its path as audio_filepath")
        return found[0] if found else None


def _read_granary_manifest(context: SourceContext) -> Iterator[ReaderItem]:
    recordings = _RecordingIndex.from_folder(get_audio_dir(context))
    return parse_records(context, partial(_parse_granary_record, context, recordings, IdRegistry()))


def _parse_granary_record(
    context: SourceContext,
    recording_index: _RecordingIndex,
    ids: IdRegistry,
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    said = context.source.columns.get("audio")
    names = [
        name
        for key in ([said] if said else _find_name_columns(record))
        if (name := _get_recording_name(record, key))
    ]
    if not names:
        seen = (
            ", ".join(map(clean_column_name, list(record)[:MAX_GRANARY_COLUMNS_SHOWN])) or "nothing"
        )
        what = f"nothing in it names a recording: it has {seen}"
        raise DataError(what, hint="say which column does with columns: {audio: ...}")
    check_unique_id(ids, record, "utt_id" if "utt_id" in record else "id")
    found = next((path for name in names if (path := recording_index.find_recording(name))), None)
    if found is None:
        yield SkippedItem(names[0], "no recording")
        return
    yield make_nemo_example(
        context, record, AudioSegment(recording_index.folder / found, display_path=found), location
    )


def _find_name_columns(record: SourceRecord) -> list[str]:
    """The columns of a row that may name its recording, the likeliest first."""
    found = [
        key for key in record if NAME_COLUMN_RE.search(key) and not OTHER_COLUMN_RE.search(key)
    ]
    return sorted(found, key=lambda key: key != PREFERRED_NAME_COLUMN)


def _get_recording_name(record: SourceRecord, key: str) -> str | None:
    """What a column names; a number is a name where it is an id."""
    value = record.get(key)
    if isinstance(value, int) and key.endswith("id"):
        return str(value)
    return get_text(record, key) if isinstance(value, str) else None


RecordingsById = dict[
    str, AudioSegment | None
]  # recordings by id; nothing where one cannot be heard

SINGLE_CHANNEL_HINT = "save it as a recording of its own, with one channel"
START_TOLERANCE_SECONDS = 1e-3  # a supervision may begin this much before its recording


def list_lhotse_shards(context: SourceContext) -> list[SourceShard]:
    """All cuts of a file, or all supervisions of a folder."""
    return make_single_shard(context, _read_supervisions if context.root.is_dir() else _read_cuts)


def is_lhotse(root: Path) -> bool:
    """A list of cuts, or a folder with both manifests."""
    if root.is_dir():
        return bool(_find_manifest_pairs(root))
    row = (
        read_first_record(root) if get_list_suffix(root) in LIST_PARSERS and root.is_file() else {}
    )
    kind = row.get("type")
    cut = isinstance(kind, str) and kind.endswith("Cut")
    return cut or ("supervisions" in row and "recording" in row)


def _read_cuts(context: SourceContext) -> Iterator[ReaderItem]:
    return parse_records(context, partial(_parse_cut, context, IdRegistry()))


def _parse_cut(
    context: SourceContext, ids: IdRegistry, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    name, kind = get_text(record, "id") or location, get_text(record, "type") or "MonoCut"
    check_unique_id(ids, record)
    if kind not in ("MonoCut", "MultiCut"):
        raise DataError(f"a {kind} is not read", hint="write a MonoCut for each recording")
    said = _get_objects(record, "supervisions")
    recording = record.get("recording")
    if not said or not isinstance(recording, dict):
        yield SkippedItem(name, "no recording" if said else "no transcript")
        return
    _require_single_channel(record.get("channel"), "the cut")
    sound, start = _make_recording_segment(context, recording), get_seconds(record, "start") or 0.0
    for each in said:
        yield from _parse_supervision(context, each, sound, start, location)


def _parse_supervision(
    context: SourceContext, record: SourceRecord, segment: AudioSegment, start: float, location: str
) -> Iterator[ReaderItem]:
    """A clip, where there is a text."""
    text, seconds = get_text(record, "text"), get_seconds(record, "duration")
    if text is None:
        yield SkippedItem(get_text(record, "id") or location, "no transcript")
        return
    first = start + (get_seconds(record, "start") or 0.0)
    if seconds is None or seconds <= 0 or first < -START_TOLERANCE_SECONDS:
        raise DataError("a supervision has no span", hint="mend its start and duration")
    _require_single_channel(record.get("channel"), "a supervision")
    first = max(first, 0.0)
    span = AudioSegment(segment.path, first, first + seconds, display_path=segment.display_path)
    language = parse_language_code(record.get("language"))
    yield context.make_example(
        span, text, location, language=language, speaker=get_text(record, "speaker")
    )


def _make_recording_segment(context: SourceContext, recording: SourceRecord) -> AudioSegment:
    """The whole of a recording. Raises ClipError for one that is no plain file."""
    sources = _get_objects(recording, "sources")
    if len(sources) != 1:
        raise DataError(f"its recording has {len(sources)} sources", hint=SINGLE_CHANNEL_HINT)
    kind, written = get_text(sources[0], "type"), get_text(sources[0], "source")
    if kind != "file" or written is None:
        what = f"its recording is of type {kind}, and only files are read: no command is run"
        raise DataError(what, hint="save the recording in a file, and list that")
    _require_single_channel(sources[0].get("channels"), "its recording")
    if recording.get("transforms"):
        mend = "save what comes of it in a file, and list that"
        raise DataError("its recording is to be changed first (transforms)", hint=mend)
    folder = context.root if context.root.is_dir() else context.root.parent
    return AudioSegment(
        (context.audio_dir or folder) / require_local_path(written), display_path=written
    )


def _require_single_channel(channels: object, owner: str) -> None:
    """Refuse several channels: which of them is meant would be lost."""
    if isinstance(channels, list) and len(channels) != 1:
        raise DataError(f"{owner} has {len(channels)} channels", hint=SINGLE_CHANNEL_HINT)


def _get_objects(record: SourceRecord, key: str) -> list[SourceRecord]:
    value = record.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise DataError(f"{key} is not a list of objects", hint=f'write "{key}": [{{...}}]')
    return value


def _find_manifest_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The manifests of recordings in a folder, each with that of its supervisions."""
    files = [
        path for path in folder.glob("*recordings*.jsonl*") if get_list_suffix(path) == ".jsonl"
    ]
    others = [path.with_name(path.name.replace("recordings", "supervisions")) for path in files]
    return sorted(pair for pair in zip(files, others, strict=True) if pair[1].is_file())


def _select_manifest_pair(context: SourceContext) -> tuple[Path, Path]:
    """The two manifests that the source means."""
    pairs, split = _find_manifest_pairs(context.root), context.source.split
    if split is not None:
        pairs = [pair for pair in pairs if split in pair[0].name]
    if len(pairs) != 1:
        names = ", ".join(pair[0].name for pair in pairs) or "none"
        what = f"there is not one manifest of recordings and supervisions, but {names}"
        raise DataError(what, hint="say which with split: train, or name the folder of one")
    return pairs[0]


def _read_supervisions(context: SourceContext) -> Iterator[ReaderItem]:
    """The rows of a folder: what is wrong with a recording is told of it, not of each row."""
    first, second = _select_manifest_pair(context)
    known: RecordingsById = {}
    for row in read_records(first):
        yield from parse_record(
            row, partial(_register_recording, context, known), context.to_display_path(first)
        )
    yield from parse_records(
        context, partial(_parse_linked_supervision, context, known, IdRegistry()), path=second
    )


def _register_recording(
    context: SourceContext, recordings_by_id: RecordingsById, record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    """Remember a recording. Raises ClipError for one that cannot be heard."""
    name = get_text(record, "id")
    if name is None or name in recordings_by_id:
        what = "no id" if name is None else f"the id {name} comes twice"
        raise DataError(what, hint="give each recording an id of its own")
    recordings_by_id[name] = None
    recordings_by_id[name] = _make_recording_segment(context, record)
    return iter(())


def _parse_linked_supervision(
    context: SourceContext,
    recordings_by_id: RecordingsById,
    ids: IdRegistry,
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    name = get_text(record, "recording_id")
    check_unique_id(ids, record)
    if name is None or name not in recordings_by_id:
        what = f"the recording {name} is not in the manifest of recordings"
        what = "no recording_id" if name is None else what
        raise DataError(what, hint="add it there, or take the supervision out")
    sound = recordings_by_id[name]
    if sound is None:
        yield SkippedItem(name, "no recording")
    else:
        yield from _parse_supervision(context, record, sound, 0.0, location)
