"""The cues of subtitles: from when to when something is said, what, and by whom.

    1                                   .srt: a number, times, words, a blank line
    00:00:01,000 --> 00:00:04,000
    <i>Half past</i> four.

    00:01.000 --> 00:04.000 align:end   .vtt: hours and numbers may be missing, settings may follow
    <v Ann>Half past four.

Tags such as <i>, {\an8} and <00:02.500> are taken out, line ends within a cue are blanks.

A folder of recordings, each with what is said in it beside it, or one recording.

corpus/a.wav  + corpus/a.txt    a clip: what is said in a.wav stands in a.txt
corpus/b.mp3  + corpus/b.srt    a clip for each cue; .vtt does as well (cues.py)
corpus/c.flac                   no transcript: skipped, counted and said
corpus/notes.md                 not audio: skipped and counted

Where a recording has subtitles and a .txt, the .txt is read only if there are no cues.

A folder with a table of its recordings, as the hub's AudioFolder has it.

    corpus/
    ├── metadata.csv        file_name,text        or .jsonl, or .parquet
    ├── a.wav
    └── train/              or a table for each part, here or in data/
        ├── metadata.jsonl  {"file_name": "b.wav", "text": "..."}
        └── b.wav

A file_name is relative to its table and stays below it. Recordings that the table does not name are
skipped and counted.
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
from dlm.data.readers.parquet import read_parquet_records
from dlm.data.readers.records import (
    ColumnMapping,
    NumberedRecord,
    SourceRecord,
    get_text,
    read_records,
)
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

TIMESTAMP_PATTERN = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]\d)[,.](\d{1,3})"
CUE_TIMES_RE = re.compile(rf"\s*{TIMESTAMP_PATTERN}\s*-->\s*{TIMESTAMP_PATTERN}(?:\s.*)?")
CUE_ARROW = "-->"
VOICE_TAG_RE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
SUBTITLE_TAG_RE = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
NON_CUE_BLOCKS = ("WEBVTT", "NOTE", "STYLE", "REGION")
CUE_TIMES_HINT = "write it as 00:00:01,000 --> 00:00:04,000"

NumberedLines = list[tuple[int, str]]  # lines with their numbers


@dataclass(frozen=True)
class SubtitleCue:
    """What is said from `start` to `end`, in seconds. The words may be none."""

    start: float
    end: float
    text: str
    speaker: str | None


def parse_subtitles(text: str) -> Iterator[tuple[int, SubtitleCue | DataError]]:
    """Every cue of a subtitle's text and the line of its times, as far as it can be read."""
    vtt = text.startswith("WEBVTT")
    for block in _split_blocks(text):
        if vtt and block[0][1].startswith(NON_CUE_BLOCKS) and CUE_ARROW not in block[0][1]:
            continue
        at = next((at for at, (_, line) in enumerate(block[:2]) if CUE_ARROW in line), None)
        if at is None:
            mend = f"{CUE_TIMES_HINT}, or take out the blank line before it"
            yield block[0][0], DataError("words without times", hint=mend)
            continue
        line, written = block[at]
        try:
            start, end = _parse_cue_times(written)
            words = " ".join(words for _, words in block[at + 1 :])
            yield (
                line,
                SubtitleCue(
                    start, end, _strip_subtitle_tags(words, is_vtt=vtt), _find_speaker(words)
                ),
            )
        except DataError as error:
            yield line, error


def _split_blocks(text: str) -> Iterator[NumberedLines]:
    """Lines that lie together, between blank ones."""
    block: NumberedLines = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _parse_cue_times(line: str) -> tuple[float, float]:
    """The seconds that a line of times tells."""
    found = CUE_TIMES_RE.fullmatch(line)
    if found is None:
        raise DataError(f"times that cannot be read: {line.strip()}", hint=CUE_TIMES_HINT)
    start, end = _parse_timestamp(found.groups()[:4]), _parse_timestamp(found.groups()[4:])
    if not start < end:
        raise DataError(f"the cue ends at {end:g} s, and begins at {start:g} s", hint="mend it")
    return start, end


def _parse_timestamp(groups: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, rest = (part or "0" for part in groups)
    whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + int(rest.ljust(3, "0")) / 1000


def _strip_subtitle_tags(text: str, *, is_vtt: bool) -> str:
    """Words without tags; in .vtt an ampersand begins a name such as &amp;."""
    plain = SUBTITLE_TAG_RE.sub("", text)
    return " ".join((html.unescape(plain) if is_vtt else plain).split())


def _find_speaker(text: str) -> str | None:
    """The voice of a cue, where there is one alone."""
    voices = {voice.strip() for voice in VOICE_TAG_RE.findall(text)}
    return voices.pop() if len(voices) == 1 else None


SUBTITLE_SUFFIXES = (".srt", ".vtt")
SIDECAR_SUFFIXES = (*SUBTITLE_SUFFIXES, ".txt")
MAX_CUE_OVERLAP_SECONDS = 0.1  # of two cues: what is cut a little late is no matter

SidecarFiles = dict[str, Path]  # what lies beside a recording, by its suffix


def list_folder_shards(context: SourceContext) -> list[SourceShard]:
    """All of it is one shard, in the order of the paths."""
    return [SourceShard.from_iterable(context.name, lambda: _read_folder(context))]


def is_folder(root: Path) -> bool:
    """A folder, or one recording."""
    return root.is_dir() or is_audio_file(root)


def _read_folder(context: SourceContext) -> Iterator[ReaderItem]:
    found = list_files(context.root)
    for closed in found.unreadable_folders:
        mend = "allow it to be read, or exclude it"
        what = "the folder cannot be listed"
        yield Issue(context.to_display_path(closed), what, mend, fatal=False)
    beside = _find_sidecars(found.files)
    heard = {_strip_suffix(file) for file in found.files if is_audio_file(file)}
    for file in found.files:
        if is_audio_file(file):
            yield from _read_audio_file(context, file, beside.get(_strip_suffix(file), {}))
        elif file.suffix.lower() not in SIDECAR_SUFFIXES or _strip_suffix(file) not in heard:
            foreign = file.suffix.lower() in PYAV_SUFFIXES
            yield SkippedItem(context.to_display_path(file), "not read" if foreign else "not audio")


def _find_sidecars(files: tuple[Path, ...]) -> dict[str, SidecarFiles]:
    """Every sidecar, by the stem of its path."""
    if len(files) == 1:  # it may be the source itself
        named = (
            files[0].with_suffix(each) for low in SIDECAR_SUFFIXES for each in (low.upper(), low)
        )
        files = tuple(each for each in named if os.path.lexists(each))
    beside: dict[str, SidecarFiles] = {}
    for file in files:
        if (suffix := file.suffix.lower()) in SIDECAR_SUFFIXES:
            beside.setdefault(_strip_suffix(file), {})[suffix] = file
    return beside


def _read_audio_file(
    context: SourceContext, file: Path, sidecars: SidecarFiles
) -> Iterator[ReaderItem]:
    """One audio file becomes clips, a skip or a problem."""
    name = context.to_display_path(file)
    below = file.name if file == context.root else file.relative_to(context.root).as_posix()
    subtitle = next((sidecars[suffix] for suffix in SUBTITLE_SUFFIXES if suffix in sidecars), None)
    if not context.matches_path(below):
        yield SkippedItem(name, "excluded")
    elif not sidecars:
        yield SkippedItem(name, "no transcript")
    elif subtitle is not None:
        yield from _read_cues(
            context, AudioSegment(file, display_path=name), subtitle, sidecars.get(".txt")
        )
    else:
        yield _make_sidecar_example(
            context, AudioSegment(file, display_path=name), sidecars[".txt"]
        )


def _make_sidecar_example(
    context: SourceContext, segment: AudioSegment, sidecar: Path
) -> ReaderItem:
    """The recording, with the words of its sidecar."""
    try:
        text = _read_sidecar_text(sidecar).strip()
        if not text:
            mend = "write what is said, or remove the file to skip it"
            raise DataError(EMPTY_TRANSCRIPT, hint=mend)
        return context.make_example(segment, text, segment.name)
    except DataError as error:
        return Issue.from_error(error, _format_sidecar_path(segment, sidecar))


def _read_cues(
    context: SourceContext, segment: AudioSegment, sidecar: Path, text_file: Path | None
) -> Iterator[ReaderItem]:
    """A clip for each cue; all of the recording with its .txt where there are none."""
    name, until, none = _format_sidecar_path(segment, sidecar), 0.0, True
    try:
        for line, cue in parse_subtitles(_read_sidecar_text(sidecar)):
            place, none = f"{name}:{line}", False
            if isinstance(cue, DataError):
                yield Issue.from_error(cue, place)
                continue
            if not cue.text:
                yield Issue(place, "the cue says nothing", "take it out", fatal=False)
                continue
            if cue.start < until - MAX_CUE_OVERLAP_SECONDS:
                what = f"the cue begins {until - cue.start:.1f} s before the last one ends"
                yield Issue(place, what, "check its times", fatal=False)
            until = max(until, cue.end)
            sound = AudioSegment(segment.path, cue.start, cue.end, display_path=segment.name)
            yield context.make_example(sound, cue.text, place, speaker=cue.speaker)
        if none and text_file is not None:
            yield _make_sidecar_example(context, segment, text_file)
        elif none:
            raise DataError("no cues", hint="write what is said when, or remove the file")
    except DataError as error:
        yield Issue.from_error(error, name)


def _strip_suffix(file: Path) -> str:
    return str(file).rpartition(".")[0]


def _format_sidecar_path(segment: AudioSegment, sidecar: Path) -> str:
    return Path(segment.name).with_name(sidecar.name).as_posix()


def _read_sidecar_text(sidecar: Path) -> str:
    """All that a sidecar holds."""
    try:
        if not sidecar.is_file():
            raise DataError("the transcript is not a regular file", hint="write it in a text file")
        return sidecar.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"the transcript is not UTF-8 (byte {error.start + 1})"
        mend = "save it as UTF-8: `iconv -f latin1 -t utf-8 in.txt > out.txt`"
        raise DataError(what, hint=mend) from error
    except OSError as error:
        mend = "allow it to be read"
        raise DataError("the transcript cannot be read", hint=mend) from error


METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME_COLUMNS = ("file_name", "audio_file_name", "file_names", "audio_file_names")
FILE_NAME_COLUMN_SUFFIXES = ("_file_name", "_file_names")


def list_audiofolder_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each table."""
    shards = {
        part: [
            SourceShard.from_iterable(
                context.to_display_path(path), partial(_read_audiofolder, context, path)
            )
            for path in tables
        ]
        for part, tables in _find_metadata_files(context.root).items()
    }
    if not shards:
        raise DataError(
            f"no {METADATA_FILES[0]} in {context.name}", hint="write file_name,text in one"
        )
    return select_split_shards(context, shards)


def is_audiofolder(root: Path) -> bool:
    """A folder with a table of its own, or one for a part."""
    return root.is_dir() and bool(_find_metadata_files(root))


def require_relative_path(name: str) -> str:
    """The name of a file below a list. Raises ClipError for one that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "://" in name:
        mend = "name it relative to its list, in its folder or below"
        raise DataError(f"{name} leads out of the folder of its list", hint=mend)
    return name


def _find_metadata_files(root: Path) -> dict[str, list[Path]]:
    """The tables of each part; one that stands above the parts is for training."""
    folders = [(root, "train")]
    for base in (root, root / "data"):
        with suppress(OSError):
            below = sorted(path for path in base.iterdir() if detect_split(path.name))
            folders += [(path, path.name) for path in below if path.is_dir()]
    tables: dict[str, list[Path]] = {}
    for folder, part in folders:
        there = next((folder / name for name in METADATA_FILES if (folder / name).is_file()), None)
        if there is not None:
            tables.setdefault(part, []).append(there)
    return tables


def _read_audiofolder(context: SourceContext, path: Path) -> Iterator[ReaderItem]:
    name, named = context.to_display_path(path), set[int]()
    columns: ColumnMapping | None = None
    try:
        for line, row in _read_metadata(path):
            place = f"{name}:{line}"
            if isinstance(row, DataError):
                yield Issue.from_error(row, place)
                continue
            columns = columns or ColumnMapping.from_names(context, row)
            try:
                yield _make_metadata_example(columns, row, path, named, place)
            except DataError as error:
                yield Issue.from_error(error, place)
        yield from _find_unlisted_audio(context, path.parent, named)
    except DataError as error:
        yield Issue.from_error(error, name)


def _read_metadata(path: Path) -> Iterator[NumberedRecord]:
    return read_parquet_records(path) if path.suffix == ".parquet" else read_records(path)


def _make_metadata_example(
    columns: ColumnMapping, record: SourceRecord, path: Path, listed_files: set[int], location: str
) -> Example:
    """What a row says of its recording, or of several that are heard one after the other."""
    files = [require_relative_path(name) for name in _get_file_names(columns.context, record)]
    again = next((name for name in files if hash(path.parent / name) in listed_files), None)
    if again is not None:
        raise DataError(f"{again} comes twice", hint="keep one of its rows")
    listed_files.update(hash(path.parent / name) for name in files)
    first, *rest = (
        AudioSegment(
            path.parent / name, display_path=columns.context.to_display_path(path.parent / name)
        )
        for name in files
    )
    clip = columns.make_example(first, record, location)
    asked, said = clip.messages
    return replace(
        clip, messages=(replace(asked, content=(first, *rest, *asked.content[1:])), said)
    )


def _get_file_names(context: SourceContext, record: SourceRecord) -> list[str]:
    """The names of the recordings of a row."""
    said = context.source.columns.get("audio")
    known = (
        *FILE_NAME_COLUMNS,
        *(key for key in record if key.endswith(FILE_NAME_COLUMN_SUFFIXES)),
    )
    key = said or next((key for key in known if key in record), "file_name")
    value = record.get(key)
    listed = value if isinstance(value, list) else [value]
    names = [name for each in listed if (name := get_text({key: each}, key))]
    if not names:
        raise DataError(f"no {key}", hint="name the recording, relative to the table")
    return names


def _find_unlisted_audio(
    context: SourceContext, folder: Path, listed_files: set[int]
) -> Iterator[SkippedItem]:
    """Recordings beside a table that it does not name, as far as no other table is theirs."""
    others = {
        table.parent
        for tables in _find_metadata_files(context.root).values()
        for table in tables
        if table.parent != folder
    }
    for file in list_files(folder).files:
        other = any(above in others for above in file.parents)
        if is_audio_file(file) and hash(file) not in listed_files and not other:
            yield SkippedItem(context.to_display_path(file), "no transcript")
