"""Folders of recordings: with text or subtitles beside each, or with a metadata table.

    corpus/                 format `folder`, or one recording
    ├── a.wav  a.txt        an example: a.txt is what is said in a.wav
    ├── b.mp3  b.srt        an example for each cue; .vtt too; b.txt is read where there are none
    ├── c.opus c.en.vtt     the same, and its language
    ├── d.wav  d.txt        an example for each label, where d.txt has labels of Audacity
    ├── e.flac              no transcript: skipped and counted
    └── notes.md            not audio: skipped and counted

    corpus/                 format `audiofolder`, as `datasets` has it
    ├── metadata.csv        file_name,text         or .jsonl, or .parquet
    ├── a.wav
    └── train/              or a table for each split, here or in data/
        ├── metadata.jsonl  {"file_name": "b.wav", "text": "..."}
        └── b.wav

A file_name is relative to its table and stays below it. Recordings that no table names are skipped
and counted.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from dlm.data.file_globs import PYAV_SUFFIXES, find_spelling, is_audio_file, list_files
from dlm.data.readers.base import (
    EMPTY_TRANSCRIPT,
    ReaderItem,
    SkippedItem,
    SourceContext,
    SourceShard,
    decode_text,
    detect_split,
    select_split_shards,
)
from dlm.data.readers.columns import ColumnMapping, SourceRecord, get_text
from dlm.data.readers.parquet import read_parquet_records
from dlm.data.readers.records import make_single_shard, read_records
from dlm.data.readers.subtitles import NumberedCue, has_cues, parse_cues
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

SUBTITLE_SUFFIXES = (".srt", ".vtt")
SIDECAR_SUFFIXES = (*SUBTITLE_SUFFIXES, ".txt")
LANGUAGE_SUFFIX_RE = re.compile(r"(?P<stem>.+)\.(?P<language>[a-z]{2})(?:[-_]\w+)*")  # a.en-US
UNREAD_TRANSCRIPTS = {  # by suffix: texts with times that are exported as subtitles elsewhere
    ".textgrid": "a TextGrid of Praat",
    ".eaf": "annotations of ELAN",
    ".ass": "subtitles of SubStation",
    ".ssa": "subtitles of SubStation",
    ".sbv": "captions of YouTube",
    ".ttml": "TTML",
    ".lrc": "lyrics",
}
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
    sidecar_paths = {path for files in sidecars.values() for path in files.paths}
    for path in listing.files:
        suffix = path.suffix.lower()
        if is_audio_file(path):
            yield from _read_audio_file(context, path, sidecars[_strip_suffix(path)])
        elif path not in sidecar_paths:
            is_unread, name = suffix in PYAV_SUFFIXES, context.to_display_path(path)
            yield SkippedItem(name, "audio.unknown_format" if is_unread else "data.not_audio")


def make_unreadable_folder_issue(context: SourceContext, folder: Path) -> Issue:
    """Make the issue of a folder whose files the system does not list."""
    what, hint = "the folder cannot be listed", "allow it to be read, or exclude it"
    name = context.to_display_path(folder)
    return Issue(name, what, hint, fatal=False, code="source.unreadable")


@dataclass
class _Sidecars:
    """The files beside a recording, by suffix.

    Attributes:
        files: those of its own name.
        files_by_language: those with a language between, as in a.en.srt.
        unread: the path of a transcript in a format that is not read.
    """

    files: SidecarFiles = field(default_factory=dict)
    files_by_language: dict[str, SidecarFiles] = field(default_factory=dict)
    unread: Path | None = None

    @property
    def paths(self) -> Iterator[Path]:
        """All that are read."""
        yield from self.files.values()
        for files in self.files_by_language.values():
            yield from files.values()

    def add_file(self, path: Path, language: str | None) -> None:
        """Note a file beside the recording."""
        suffix = path.suffix.lower()
        if suffix in UNREAD_TRANSCRIPTS:
            self.unread = self.unread or path
        elif suffix in SIDECAR_SUFFIXES:
            files = self.files_by_language.setdefault(language, {}) if language else self.files
            files[suffix] = path

    def select_files(self, requested: str | None) -> tuple[SidecarFiles, str | None]:
        """Return the files to read and their language, where their names say one.

        Raises:
            DataError: they are in several languages (`data.several_languages`).
        """
        if self.files or not self.files_by_language:
            return self.files, None
        languages = sorted(self.files_by_language)
        if requested not in languages and len(languages) > 1:
            what = f"it has transcripts in several languages: {', '.join(languages)}"
            hint = f"choose one with language: {languages[0]} in the source"
            raise DataError(what, hint=hint, code="data.several_languages")
        language = requested if requested in languages else languages[0]
        return self.files_by_language[str(language)], language


def _find_sidecars(paths: tuple[Path, ...]) -> dict[str, _Sidecars]:
    """What lies beside each recording, by the stem of its path.

    Two names are one if they are the same in NFC: macOS writes names in NFD.
    """
    sidecars = {_strip_suffix(path): _Sidecars() for path in paths if is_audio_file(path)}
    sidecars_by_nfc = {normalize("NFC", stem): each for stem, each in sidecars.items()}
    if len(paths) == 1:  # the source may be one recording, whose folder is not listed
        paths = tuple(sorted(paths[0].parent.glob(f"{glob.escape(paths[0].stem)}.*")))
    for path in paths:
        stem = _strip_suffix(path)
        match = LANGUAGE_SUFFIX_RE.fullmatch(stem)
        for name, language in ((stem, None), *([match.groups()] if match else ())):
            found = sidecars.get(name) or sidecars_by_nfc.get(normalize("NFC", name))
            if found is not None:
                found.add_file(path, language)
                break
    return sidecars


def _strip_suffix(path: Path) -> str:
    return str(path).rpartition(".")[0]


def _read_audio_file(
    context: SourceContext, path: Path, sidecars: _Sidecars
) -> Iterator[ReaderItem]:
    name = context.to_display_path(path)
    below = path.name if path == context.root else path.relative_to(context.root).as_posix()
    segment = AudioSegment(path, display_path=name)
    if not context.matches_path(below):
        yield SkippedItem(name, "data.excluded")
        return
    try:
        files, language = sidecars.select_files(context.source.language)
    except DataError as error:
        yield Issue.from_error(error, name)
        return
    if not files:
        if sidecars.unread:
            yield _make_unread_issue(segment, sidecars.unread)
        yield SkippedItem(name, "data.no_transcript")
        return
    yield from _read_transcript(context, segment, files, language)


def _make_unread_issue(segment: AudioSegment, path: Path) -> Issue:
    what = f"{UNREAD_TRANSCRIPTS[path.suffix.lower()]}, which is not read"
    name, hint = _format_sidecar_path(segment, path), "export it as subtitles: .srt or .vtt"
    return Issue(name, what, hint, fatal=False, code="data.unread_transcript")


def _read_transcript(
    context: SourceContext, segment: AudioSegment, files: SidecarFiles, language: str | None
) -> Iterator[ReaderItem]:
    """An example for each cue; one of the whole recording from its .txt where there are none."""
    subtitles = next((files[suffix] for suffix in SUBTITLE_SUFFIXES if suffix in files), None)
    sidecar = subtitles or files[".txt"]
    name = _format_sidecar_path(segment, sidecar)
    try:
        text = _read_sidecar_text(sidecar)
        cues = list(parse_cues(text)) if subtitles or has_cues(text) else []
        if cues:
            yield from _make_cue_examples(context, segment, name, cues, language)
        elif subtitles is None:
            yield _make_text_example(context, segment, text, language)
        elif ".txt" in files:
            yield from _read_transcript(context, segment, {".txt": files[".txt"]}, language)
        else:
            hint = "write what is said when, or remove the file"
            raise DataError("no cues", hint=hint, code="data.no_cues")
    except DataError as error:
        yield Issue.from_error(error, name)


def _make_text_example(
    context: SourceContext, segment: AudioSegment, text: str, language: str | None
) -> Example:
    if not text.strip():
        hint = "write what is said, or remove the file to skip it"
        raise DataError(EMPTY_TRANSCRIPT, hint=hint, code="data.empty_transcript")
    return context.make_example(segment, text, segment.name, language=language)


def _make_cue_examples(
    context: SourceContext,
    segment: AudioSegment,
    name: str,
    cues: Sequence[NumberedCue],
    language: str | None,
) -> Iterator[ReaderItem]:
    last_end = 0.0
    num_repeats = sum(not isinstance(cue, DataError) and cue.is_repeat for _, cue in cues)
    if num_repeats:
        what = f"{num_repeats:,} of {len(cues):,} cues only repeat the line before"
        hint = "each line is learned once, from the cue that shows it first"
        yield Issue(name, what, hint, fatal=False, code="data.rolling_captions")
    for line, cue in cues:
        location = f"{name}:{line}"
        if isinstance(cue, DataError):
            yield Issue.from_error(cue, location)
        elif cue.is_repeat:
            continue
        elif not cue.text:
            what, hint = "the cue has no text", "take it out"
            yield Issue(location, what, hint, fatal=False, code="data.empty_cue")
        else:
            overlap = last_end - cue.start
            if overlap > MAX_CUE_OVERLAP_SECONDS:
                what = f"the cue begins {overlap:.1f} s before the last one ends"
                hint = "check its times"
                yield Issue(location, what, hint, fatal=False, code="data.overlapping_cues")
            last_end = max(last_end, cue.end)
            span = AudioSegment(segment.path, cue.start, cue.end, display_path=segment.name)
            yield context.make_example(
                span, cue.text, location, language=language, speaker=cue.speaker
            )


def _format_sidecar_path(segment: AudioSegment, sidecar: Path) -> str:
    return Path(segment.name).with_name(sidecar.name).as_posix()


def _read_sidecar_text(sidecar: Path) -> str:
    try:
        if not sidecar.is_file():
            what, hint = "the transcript is not a regular file", "write it in a text file"
            raise DataError(what, hint=hint, code="source.not_a_file")
        return decode_text(sidecar.read_bytes(), "the transcript")
    except OSError as error:
        what, hint = "the transcript cannot be read", "allow it to be read"
        raise DataError(what, hint=hint, code="source.unreadable") from error


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
    paths = [find_spelling(folder / name) for name in names]
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
