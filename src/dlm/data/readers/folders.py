r"""Folders of recordings: with text or subtitles beside each, or with a metadata table.

    corpus/                 format `folder`, or one recording
    ├── a.wav  a.txt        an example: a.txt is what is said in a.wav
    ├── b.mp3  b.srt        an example for each cue; .vtt too; b.txt is read where there are none
    ├── c.flac              no transcript: skipped and counted
    └── notes.md            not audio: skipped and counted

    b.srt  1                                   a number, times, text, a blank line
           00:00:01,000 --> 00:00:04,000
           <i>Half past</i> four.
    b.vtt  00:01.000 --> 00:04.000 align:end   hours and numbers may be missing, settings may follow
           <v Ann>Half past four.

Tags such as <i>, {\an8} and <00:02.500> are taken out; line ends within a cue become blanks.

    corpus/                 format `audiofolder`, as `datasets` has it
    ├── metadata.csv        file_name,text         or .jsonl, or .parquet
    ├── a.wav
    └── train/              or a table for each split, here or in data/
        ├── metadata.jsonl  {"file_name": "b.wav", "text": "..."}
        └── b.wav

A file_name is relative to its table and stays below it. Recordings that no table names are skipped
and counted.
"""

import html
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from dlm.data.file_globs import PYAV_SUFFIXES, is_audio_file, list_files
from dlm.data.readers.base import (
    EMPTY_TRANSCRIPT,
    ReaderItem,
    SkippedItem,
    SourceContext,
    SourceShard,
    detect_split,
    select_split_shards,
)
from dlm.data.readers.columns import ColumnMapping, SourceRecord, get_text
from dlm.data.readers.parquet import read_parquet_records
from dlm.data.readers.records import make_single_shard, read_records
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

SUBTITLE_SUFFIXES = (".srt", ".vtt")
SIDECAR_SUFFIXES = (*SUBTITLE_SUFFIXES, ".txt")
TIMESTAMP_PATTERN = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]\d)[,.](\d{1,3})"
CUE_TIMES_RE = re.compile(rf"\s*{TIMESTAMP_PATTERN}\s*-->\s*{TIMESTAMP_PATTERN}(?:\s.*)?")
CUE_ARROW = "-->"
CUE_TIMES_HINT = "write it as 00:00:01,000 --> 00:00:04,000"
VOICE_TAG_RE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
SUBTITLE_TAG_RE = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
NON_CUE_BLOCKS = ("WEBVTT", "NOTE", "STYLE", "REGION")
MAX_CUE_OVERLAP_SECONDS = 0.1  # of two cues; less is how subtitles are cut
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME_COLUMNS = ("file_name", "audio_file_name", "file_names", "audio_file_names")
FILE_NAME_COLUMN_SUFFIXES = ("_file_name", "_file_names")

SidecarFiles = dict[str, Path]  # the files beside a recording, by suffix


def is_folder(root: Path) -> bool:
    """Whether a path is a folder, or one recording."""
    return root.is_dir() or is_audio_file(root)


def list_folder_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of the paths."""
    return make_single_shard(context, _read_folder)


def _read_folder(context: SourceContext) -> Iterator[ReaderItem]:
    listing = list_files(context.root)
    for folder in listing.unreadable_folders:
        yield make_unreadable_folder_issue(context, folder)
    sidecars = _find_sidecars(listing.files)
    audio_stems = {_strip_suffix(path) for path in listing.files if is_audio_file(path)}
    for path in listing.files:
        stem, suffix = _strip_suffix(path), path.suffix.lower()
        if is_audio_file(path):
            yield from _read_audio_file(context, path, sidecars.get(stem, {}))
        elif suffix not in SIDECAR_SUFFIXES or stem not in audio_stems:
            is_unread, name = suffix in PYAV_SUFFIXES, context.to_display_path(path)
            yield SkippedItem(name, "audio.unknown_format" if is_unread else "data.not_audio")


def make_unreadable_folder_issue(context: SourceContext, folder: Path) -> Issue:
    """Make the issue of a folder whose files the system does not list."""
    what, hint = "the folder cannot be listed", "allow it to be read, or exclude it"
    name = context.to_display_path(folder)
    return Issue(name, what, hint, fatal=False, code="source.unreadable")


def _find_sidecars(paths: tuple[Path, ...]) -> dict[str, SidecarFiles]:
    """Every sidecar, by the stem of its path."""
    if len(paths) == 1:  # the source may be one recording, whose folder is not listed
        suffixes = [case for suffix in SIDECAR_SUFFIXES for case in (suffix.upper(), suffix)]
        paths = tuple(filter(os.path.lexists, map(paths[0].with_suffix, suffixes)))
    sidecars: dict[str, SidecarFiles] = {}
    for path in paths:
        if (suffix := path.suffix.lower()) in SIDECAR_SUFFIXES:
            sidecars.setdefault(_strip_suffix(path), {})[suffix] = path
    return sidecars


def _strip_suffix(path: Path) -> str:
    return str(path).rpartition(".")[0]


def _read_audio_file(
    context: SourceContext, path: Path, sidecars: SidecarFiles
) -> Iterator[ReaderItem]:
    name = context.to_display_path(path)
    below = path.name if path == context.root else path.relative_to(context.root).as_posix()
    segment = AudioSegment(path, display_path=name)
    subtitles = next((sidecars[suffix] for suffix in SUBTITLE_SUFFIXES if suffix in sidecars), None)
    if not context.matches_path(below):
        yield SkippedItem(name, "data.excluded")
    elif not sidecars:
        yield SkippedItem(name, "data.no_transcript")
    elif subtitles is not None:
        yield from _read_subtitles(context, segment, subtitles, sidecars.get(".txt"))
    else:
        yield _make_sidecar_example(context, segment, sidecars[".txt"])


def _make_sidecar_example(
    context: SourceContext, segment: AudioSegment, sidecar: Path
) -> ReaderItem:
    try:
        text = _read_sidecar_text(sidecar).strip()
        if not text:
            hint = "write what is said, or remove the file to skip it"
            raise DataError(EMPTY_TRANSCRIPT, hint=hint, code="data.empty_transcript")
        return context.make_example(segment, text, segment.name)
    except DataError as error:
        return Issue.from_error(error, _format_sidecar_path(segment, sidecar))


def _read_subtitles(
    context: SourceContext, segment: AudioSegment, sidecar: Path, text_file: Path | None
) -> Iterator[ReaderItem]:
    """An example for each cue; one of the whole recording from its .txt where there are none."""
    name, last_end, num_cues = _format_sidecar_path(segment, sidecar), 0.0, 0
    try:
        for line, cue in parse_subtitles(_read_sidecar_text(sidecar)):
            location, num_cues = f"{name}:{line}", num_cues + 1
            if isinstance(cue, DataError):
                yield Issue.from_error(cue, location)
                continue
            if not cue.text:
                what, hint = "the cue has no text", "take it out"
                yield Issue(location, what, hint, fatal=False, code="data.empty_cue")
                continue
            overlap = last_end - cue.start
            if overlap > MAX_CUE_OVERLAP_SECONDS:
                what = f"the cue begins {overlap:.1f} s before the last one ends"
                hint = "check its times"
                yield Issue(location, what, hint, fatal=False, code="data.overlapping_cues")
            last_end = max(last_end, cue.end)
            span = AudioSegment(segment.path, cue.start, cue.end, display_path=segment.name)
            yield context.make_example(span, cue.text, location, speaker=cue.speaker)
        if not num_cues and text_file is None:
            hint = "write what is said when, or remove the file"
            raise DataError("no cues", hint=hint, code="data.no_cues")
        if not num_cues and text_file is not None:
            yield _make_sidecar_example(context, segment, text_file)
    except DataError as error:
        yield Issue.from_error(error, name)


def _format_sidecar_path(segment: AudioSegment, sidecar: Path) -> str:
    return Path(segment.name).with_name(sidecar.name).as_posix()


def _read_sidecar_text(sidecar: Path) -> str:
    try:
        if not sidecar.is_file():
            what, hint = "the transcript is not a regular file", "write it in a text file"
            raise DataError(what, hint=hint, code="source.not_a_file")
        return sidecar.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the transcript is not UTF-8 (byte {error.start + 1})"
        hint = "save it as UTF-8: `iconv -f latin1 -t utf-8 in.txt > out.txt`"
        raise DataError(what, hint=hint, code="data.not_utf8") from error
    except OSError as error:
        what, hint = "the transcript cannot be read", "allow it to be read"
        raise DataError(what, hint=hint, code="source.unreadable") from error


@dataclass(frozen=True)
class SubtitleCue:
    """What is said in a span.

    Attributes:
        start, end: seconds from the beginning of the recording.
        text: may be empty.
        speaker: the voice of the cue, where it has exactly one.
    """

    start: float
    end: float
    text: str
    speaker: str | None


def parse_subtitles(text: str) -> Iterator[tuple[int, SubtitleCue | DataError]]:
    """Yield every cue of a .srt or .vtt with the line of its times, or why it cannot be read."""
    is_vtt = text.startswith("WEBVTT")
    for block in _split_blocks(text):
        first_line, first_text = block[0]
        if is_vtt and first_text.startswith(NON_CUE_BLOCKS) and CUE_ARROW not in first_text:
            continue
        index = next((at for at, (_, line) in enumerate(block[:2]) if CUE_ARROW in line), None)
        if index is None:
            hint = f"{CUE_TIMES_HINT}, or take out the blank line before it"
            yield first_line, DataError("text without times", hint=hint, code="data.bad_cue")
            continue
        number, times = block[index]
        try:
            start, end = _parse_cue_times(times)
        except DataError as error:
            yield number, error
            continue
        raw_text = " ".join(line for _, line in block[index + 1 :])
        speakers = {speaker.strip() for speaker in VOICE_TAG_RE.findall(raw_text)}
        plain_text = SUBTITLE_TAG_RE.sub("", raw_text)
        plain_text = html.unescape(plain_text) if is_vtt else plain_text
        speaker = speakers.pop() if len(speakers) == 1 else None
        yield number, SubtitleCue(start, end, " ".join(plain_text.split()), speaker)


def _split_blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Blocks of lines with their numbers, between blank ones."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", f"{text}\n"), start=1):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []


def _parse_cue_times(line: str) -> tuple[float, float]:
    """Start and end of a cue, in seconds."""
    match = CUE_TIMES_RE.fullmatch(line)
    if match is None:
        what = f"times that cannot be read: {line.strip()}"
        raise DataError(what, hint=CUE_TIMES_HINT, code="data.bad_cue")
    start, end = _parse_timestamp(*match.groups()[:4]), _parse_timestamp(*match.groups()[4:])
    if not start < end:
        what = f"the cue ends at {end:g} s, and begins at {start:g} s"
        raise DataError(what, hint="correct it", code="data.bad_span")
    return start, end


def _parse_timestamp(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + int(fraction.ljust(3, "0")) / 1000


def is_audiofolder(root: Path) -> bool:
    """Whether a path is a folder with a metadata table, or with one for a split."""
    return root.is_dir() and bool(_find_metadata_files(root))


def list_audiofolder_shards(context: SourceContext) -> list[SourceShard]:
    """One shard for each table. Raises DataError where there is none (`source.missing_file`)."""
    shards = {
        split: [
            SourceShard.from_iterable(
                context.to_display_path(path), partial(_read_audiofolder, context, path)
            )
            for path in paths
        ]
        for split, paths in _find_metadata_files(context.root).items()
    }
    if not shards:
        what, hint = f"no {METADATA_FILES[0]} in {context.name}", "write file_name,text in one"
        raise DataError(what, hint=hint, code="source.missing_file")
    return select_split_shards(context, shards)


def require_relative_path(name: str) -> str:
    """Return the name of a file below a list.

    Raises:
        DataError: it leads elsewhere (`data.outside_folder`).
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "://" in name:
        what = f"{name} leads out of the folder of its list"
        hint = "name it relative to its list, in its folder or below"
        raise DataError(what, hint=hint, code="data.outside_folder")
    return name


def _find_metadata_files(root: Path) -> dict[str, list[Path]]:
    """The tables of each split; one above the folders of splits is for training."""
    folders = [(root, "train")]
    for parent in (root, root / "data"):
        with suppress(OSError):
            named = sorted(path for path in parent.iterdir() if detect_split(path.name))
            folders += [(path, path.name) for path in named if path.is_dir()]
    tables: dict[str, list[Path]] = {}
    for folder, split in folders:
        paths = (folder / name for name in METADATA_FILES)
        if (path := next(filter(Path.is_file, paths), None)) is not None:
            tables.setdefault(split, []).append(path)
    return tables


def _read_audiofolder(context: SourceContext, path: Path) -> Iterator[ReaderItem]:
    name, listed_paths = context.to_display_path(path), set[int]()
    columns: ColumnMapping | None = None
    try:
        is_parquet = path.suffix == ".parquet"
        for line, record in read_parquet_records(path) if is_parquet else read_records(path):
            location = f"{name}:{line}"
            if isinstance(record, DataError):
                yield Issue.from_error(record, location)
                continue
            columns = columns or ColumnMapping.from_names(context, record)
            try:
                yield _make_metadata_example(columns, record, path.parent, listed_paths, location)
            except DataError as error:
                yield Issue.from_error(error, location)
        yield from _find_unlisted_audio(context, path.parent, listed_paths)
    except DataError as error:
        yield Issue.from_error(error, name)


def _make_metadata_example(
    columns: ColumnMapping,
    record: SourceRecord,
    folder: Path,
    listed_paths: set[int],
    location: str,
) -> Example:
    """The example of a row, of one recording or of several in order."""
    context = columns.context
    names = [require_relative_path(name) for name in _get_file_names(context, record)]
    paths = [folder / name for name in names]
    for name, path in zip(names, paths, strict=True):
        if hash(path) in listed_paths:
            hint = "keep one of its rows"
            raise DataError(f"{name} appears twice", hint=hint, code="data.duplicate_id")
    listed_paths.update(map(hash, paths))
    segments = [AudioSegment(path, display_path=context.to_display_path(path)) for path in paths]
    example = columns.make_example(segments[0], record, location)
    user, assistant = example.messages
    user = replace(user, content=(*segments, *user.content[1:]))
    return replace(example, messages=(user, assistant))


def _get_file_names(context: SourceContext, record: SourceRecord) -> list[str]:
    """The names of the recordings of a row."""
    suffixed = (key for key in record if key.endswith(FILE_NAME_COLUMN_SUFFIXES))
    known = (key for key in (*FILE_NAME_COLUMNS, *suffixed) if key in record)
    key = context.source.columns.get("audio") or next(known, FILE_NAME_COLUMNS[0])
    value = record.get(key)
    values = value if isinstance(value, list) else [value]
    names = [name for value in values if (name := get_text({key: value}, key))]
    if not names:
        hint = "name the recording, relative to the table"
        raise DataError(f"no {key}", hint=hint, code="data.no_audio_path")
    return names


def _find_unlisted_audio(
    context: SourceContext, folder: Path, listed_paths: set[int]
) -> Iterator[SkippedItem]:
    """Recordings below a table that it does not name, but for those below another table."""
    tables = (path for paths in _find_metadata_files(context.root).values() for path in paths)
    other_folders = {path.parent for path in tables} - {folder}
    for path in list_files(folder).files:
        is_unlisted = is_audio_file(path) and hash(path) not in listed_paths
        if is_unlisted and other_folders.isdisjoint(path.parents):
            yield SkippedItem(context.to_display_path(path), "data.no_transcript")
