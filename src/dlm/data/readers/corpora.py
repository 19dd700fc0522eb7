"""The folders of LibriSpeech, Common Voice and Kaldi, and of corpora laid out as they are.

    LibriSpeech/
    ├── train-clean-100/                          a subset: `split` names one, or train for all
    │   └── 84/121123/                            speaker, chapter
    │       ├── 84-121123.trans.txt               84-121123-0000 GO DO YOU HEAR
    │       └── 84-121123-0000.flac
    └── test-clean/                               a test split of a benchmark

    cv-corpus-23.0/fr/                            or the folder above, with one for each language
    ├── train.tsv                                 client_id, path, sentence, locale; one a split
    ├── dev.tsv  test.tsv  validated.tsv  invalidated.tsv  other.tsv
    └── clips/*.mp3

    kaldi/
    ├── wav.scp                                   reco1 wav/1.flac
    ├── segments                                  utt1 reco1 0.50 2.75, or each recording as a whole
    ├── text                                      utt1 half past four
    └── utt2spk  utt2lang                         utt1 ann; may be missing

No command in a wav.scp (`sph2pipe ... |`) is ever run: it is an error. Recordings without text and
text without a recording are skipped and counted. Sentences of Common Voice are read as its tables
have been written over the years: in quotes or not, with "" for a quote or not.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from dlm.data.contamination import find_test_benchmark
from dlm.data.file_globs import is_audio_file
from dlm.data.readers.base import (
    IdRegistry,
    ReaderItem,
    SkippedItem,
    SourceContext,
    SourceShard,
    detect_split,
    select_split_shards,
)
from dlm.data.readers.columns import parse_language_code
from dlm.data.readers.folders import make_unreadable_folder_issue, require_relative_path
from dlm.data.readers.records import make_single_shard
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

LIBRISPEECH_NAME = "LibriSpeech"
TRANSCRIPT_SUFFIX = ".trans.txt"
COMMONVOICE_AUDIO_DIR = "clips"
COMMONVOICE_TABLES = ("train", "dev", "test", "validated", "invalidated", "other")
COMMONVOICE_COLUMNS = {"client_id", "path", "sentence"}
COMMONVOICE_SUFFIX = ".mp3"  # early tables leave it out
LANGUAGE_DIR_RE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")  # en, sv-SE, nan-tw
KALDI_WAV_SCP_FILE, KALDI_SEGMENTS_FILE, KALDI_TEXT_FILE = "wav.scp", "segments", "text"
KALDI_ARK_RE = re.compile(r"\.ark:\d+$")
KALDI_END_OF_RECORDING = -1.0  # an end in segments
KALDI_SEGMENT_HINT = "write utterance, recording, start and end, in seconds"

KaldiSpan = tuple[str, float | None, float | None]  # recording, start and end in seconds


def is_librispeech(root: Path) -> bool:
    """Whether a path has subsets, or is one, with a transcript where LibriSpeech has it."""
    pattern = f"*/*/*{TRANSCRIPT_SUFFIX}"
    return any(
        detect_split(subset.name) and next(subset.glob(pattern), None) is not None
        for subset in _find_subsets(root)
    )


def list_librispeech_shards(context: SourceContext) -> list[SourceShard]:
    """One shard for each speaker of each subset. Raises DataError (`source.no_split`)."""
    shards = {
        subset.name: [
            SourceShard.from_iterable(
                context.to_display_path(speaker_dir),
                partial(_read_speaker_dir, context, speaker_dir),
                test_benchmark=find_test_benchmark(LIBRISPEECH_NAME, subset.name),
            )
            for speaker_dir in _list_dirs(subset)
        ]
        for subset in _find_subsets(context.root)
    }
    return select_split_shards(context, shards)


def _find_subsets(root: Path) -> list[Path]:
    """The subsets below a folder, below LibriSpeech in it, or the folder itself."""
    for parent in (root, root / LIBRISPEECH_NAME):
        if subsets := [path for path in _list_dirs(parent) if detect_split(path.name)]:
            return subsets
    return [root] if root.is_dir() else []


def _list_dirs(root: Path) -> list[Path]:
    """The folders in a folder; none where it cannot be listed."""
    with suppress(OSError):
        return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    return []


def _read_speaker_dir(context: SourceContext, speaker_dir: Path) -> Iterator[ReaderItem]:
    for chapter in _list_dirs(speaker_dir):
        try:
            paths = sorted(path for path in chapter.iterdir() if path.name[0] != ".")
        except OSError:
            yield make_unreadable_folder_issue(context, chapter)
            continue
        recordings = {path.stem: path for path in paths if is_audio_file(path)}
        for path in paths:
            if path.name.endswith(TRANSCRIPT_SUFFIX):
                yield from _read_chapter(context, path, recordings, speaker_dir.name)
        for path in recordings.values():
            yield SkippedItem(context.to_display_path(path), "data.no_transcript")


def _read_chapter(
    context: SourceContext, transcript: Path, recordings: dict[str, Path], speaker: str
) -> Iterator[ReaderItem]:
    """The examples of a chapter, whose recordings are taken out of `recordings`."""
    ids = IdRegistry()
    for line in _read_id_lines(transcript, context.to_display_path(transcript)):
        if isinstance(line, Issue):
            yield line
            continue
        location, utterance_id, text = line
        try:
            ids.register_id(utterance_id)
            path = recordings.pop(utterance_id, None)
            if path is None:
                yield SkippedItem(utterance_id, "data.no_recording")
                continue
            segment = AudioSegment(path, display_path=context.to_display_path(path))
            yield context.make_example(segment, text, location, speaker=speaker)
        except DataError as error:
            yield Issue.from_error(error, location)


def _read_id_lines(path: Path, name: str) -> Iterator[tuple[str, str, str] | Issue]:
    """The location, the id and the rest of each line that begins with an id."""
    for line in _read_lines(path, name):
        if isinstance(line, Issue):
            yield line
        else:
            record_id, *rest = line[1].split(None, 1)
            yield line[0], record_id, "".join(rest).strip()


def _read_lines(path: Path, name: str) -> Iterator[tuple[str, str] | Issue]:
    """The location and text of each line that is not blank; none where there is no file."""
    if not path.is_file():
        if path.exists():
            what, hint = "it is not a regular file", "write it as text"
            yield Issue(name, what, hint, fatal=True, code="source.not_a_file")
        return
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig").rstrip("\r\n")
                except UnicodeDecodeError:
                    location, what = f"{name}:{number}", "the line is not UTF-8"
                    yield Issue(
                        location, what, "save it as UTF-8", fatal=True, code="data.not_utf8"
                    )
                    continue
                if text.strip():
                    yield f"{name}:{number}", text
    except OSError:
        what, hint = "it cannot be read", "allow it to be read"
        yield Issue(name, what, hint, fatal=True, code="source.unreadable")


def is_commonvoice(root: Path) -> bool:
    """Whether a path has clips/ and a table with its columns, or folders of languages with them."""
    for folder in _find_language_dirs(root):
        for split in COMMONVOICE_TABLES:
            header = next(_read_lines(folder / f"{split}.tsv", split), None)
            if isinstance(header, tuple) and set(header[1].split("\t")) >= COMMONVOICE_COLUMNS:
                return True
    return False


def list_commonvoice_shards(context: SourceContext) -> list[SourceShard]:
    """One shard for each table of each language. Raises DataError (`source.no_split`)."""
    shards: dict[str, list[SourceShard]] = {}
    for folder in _find_language_dirs(context.root):
        for split in COMMONVOICE_TABLES:
            table = folder / f"{split}.tsv"
            if table.is_file():
                shard = SourceShard.from_iterable(
                    context.to_display_path(table),
                    partial(_read_commonvoice_table, context, table),
                    test_benchmark=find_test_benchmark("common_voice", split),
                )
                shards.setdefault(split, []).append(shard)
    return select_split_shards(context, shards)


def _find_language_dirs(root: Path) -> list[Path]:
    """The folders that have recordings: this one, or one for each language."""
    if (root / COMMONVOICE_AUDIO_DIR).is_dir():
        return [root]
    named = (path for path in _list_dirs(root) if LANGUAGE_DIR_RE.fullmatch(path.name))
    return [path for path in named if (path / COMMONVOICE_AUDIO_DIR).is_dir()]


def _read_commonvoice_table(context: SourceContext, table: Path) -> Iterator[ReaderItem]:
    ids, header = IdRegistry(), list[str]()
    for line in _read_lines(table, context.to_display_path(table)):
        if isinstance(line, Issue):
            yield line
            continue
        location, text = line
        cells = text.split("\t")
        try:
            if header:
                yield _make_commonvoice_example(context, table.parent, header, cells, ids, location)
            elif missing := COMMONVOICE_COLUMNS - set(cells):
                what = f"the table has no column {min(missing)}"
                hint = "name its columns in the first line"
                yield Issue(location, what, hint, fatal=True, code="source.no_column")
                return
            header = header or cells
        except DataError as error:
            yield Issue.from_error(error, location)


def _make_commonvoice_example(
    context: SourceContext,
    folder: Path,
    header: list[str],
    cells: list[str],
    ids: IdRegistry,
    location: str,
) -> Example:
    if len(cells) != len(header):
        what = f"{len(cells)} cells, and the table has {len(header)} columns"
        hint = "put a tab between two cells, and none within"
        raise DataError(what, hint=hint, code="data.bad_cell_count")
    record = dict(zip(header, cells, strict=True))
    ids.register_id(record["path"])
    name = require_relative_path(record["path"])
    name = name if Path(name).suffix else f"{name}{COMMONVOICE_SUFFIX}"
    path = folder / COMMONVOICE_AUDIO_DIR / name
    segment = AudioSegment(path, display_path=context.to_display_path(path))
    language = parse_language_code(record.get("locale")) or parse_language_code(folder.name)
    text, speaker = _unquote_sentence(record["sentence"].strip()), record["client_id"] or None
    return context.make_example(segment, text, location, language=language, speaker=speaker)


def _unquote_sentence(text: str) -> str:
    """A sentence as it was before it was written in a table."""
    inner = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inner.replace('""', ""):
        text = inner
    return text.replace('""', '"')


def is_kaldi(root: Path) -> bool:
    """Whether a path is a folder with wav.scp and text."""
    return (root / KALDI_WAV_SCP_FILE).is_file() and (root / KALDI_TEXT_FILE).is_file()


def list_kaldi_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of `text`. Raises DataError (`source.missing_file`)."""
    for name in (KALDI_WAV_SCP_FILE, KALDI_TEXT_FILE):
        if not (context.root / name).exists():
            what, hint = f"no {name} in {context.name}", "write it, or correct the path"
            raise DataError(what, hint=hint, code="source.missing_file")
    return make_single_shard(context, _read_kaldi_dir)


def _read_kaldi_dir(context: SourceContext) -> Iterator[ReaderItem]:
    recordings: dict[str, str | None] = {}
    spans: dict[str, KaldiSpan] = {}

    def add_recording(recording_id: str, path: str) -> None:
        _require_new_id(recording_id, recordings)
        recordings[recording_id] = None  # of one that is not read
        _require_kaldi_path(recording_id, path)
        recordings[recording_id] = path

    def add_span(utterance_id: str, text: str) -> None:
        _require_new_id(utterance_id, spans)
        spans[utterance_id] = _parse_kaldi_span(text)

    yield from _read_kaldi_table(context, KALDI_WAV_SCP_FILE, add_recording)
    yield from _read_kaldi_table(context, KALDI_SEGMENTS_FILE, add_span)
    if not (context.root / KALDI_SEGMENTS_FILE).exists():
        spans = {recording_id: (recording_id, None, None) for recording_id in recordings}
    speakers, languages = (_read_utterance_map(context, name) for name in ("utt2spk", "utt2lang"))
    ids = IdRegistry()
    for line in _read_kaldi_lines(context, KALDI_TEXT_FILE):
        if isinstance(line, Issue):
            yield line
            continue
        location, utterance_id, text = line
        recording_id, start, end = spans.pop(utterance_id, ("", None, None))
        path = recordings.get(recording_id)
        try:
            ids.register_id(utterance_id)
            if path is None:
                is_known = recording_id in recordings
                yield SkippedItem(
                    utterance_id, "audio.unknown_format" if is_known else "data.no_recording"
                )
                continue
            folder = context.audio_dir or context.root
            segment = AudioSegment(folder / path, start, end, display_path=path)
            language = parse_language_code(languages.get(utterance_id))
            speaker = speakers.get(utterance_id)
            yield context.make_example(segment, text, location, language=language, speaker=speaker)
        except DataError as error:
            yield Issue.from_error(error, location)
    yield from (SkippedItem(utterance_id, "data.no_transcript") for utterance_id in spans)


def _read_kaldi_table(
    context: SourceContext, file_name: str, add_fn: Callable[[str, str], None]
) -> Iterator[Issue]:
    """Give the function the id and the value of each line; the lines that it refuses are issues."""
    for line in _read_kaldi_lines(context, file_name):
        if isinstance(line, Issue):
            yield line
            continue
        location, record_id, value = line
        try:
            add_fn(record_id, value)
        except DataError as error:
            yield Issue.from_error(error, location)


def _require_kaldi_path(recording_id: str, path: str) -> None:
    """Refuse what is not the path of a recording: a command, an archive, nothing."""
    if path.endswith("|") or path.startswith("|") or path == "-":
        raise DataError(
            f"{recording_id} is the output of a command, and none is run",
            hint="run it once into a file, and name that file here",
            code="data.command",
        )
    if KALDI_ARK_RE.search(path):
        raise DataError(
            f"{recording_id} is in an archive of Kaldi, which is not read",
            hint="write it to a file with `wav-copy`, and name that file here",
            code="data.unsupported_recording",
        )
    if not path:
        hint = "write its path behind it"
        raise DataError(f"{recording_id} has no file", hint=hint, code="data.no_audio_path")


def _require_new_id(record_id: str, known_ids: Collection[str]) -> None:
    if record_id in known_ids:
        what = f"the id {record_id} appears twice"
        raise DataError(what, hint="keep one of its lines", code="data.duplicate_id")


def _parse_kaldi_span(text: str) -> KaldiSpan:
    try:
        recording_id, *times = text.split()
        start, end = map(float, times)
    except ValueError as error:
        what = f"no span: {text}"
        raise DataError(what, hint=KALDI_SEGMENT_HINT, code="data.bad_span") from error
    is_whole = end == KALDI_END_OF_RECORDING
    if not (math.isfinite(start) and (is_whole or start < end < math.inf)):
        what = f"it begins at {start:g} s and ends at {end:g} s"
        raise DataError(what, hint=KALDI_SEGMENT_HINT, code="data.bad_span")
    return recording_id, start, None if is_whole else end


def _read_utterance_map(context: SourceContext, file_name: str) -> dict[str, str]:
    """An optional file of a value for each utterance; a line that cannot be read is passed over."""
    lines = _read_kaldi_lines(context, file_name)
    return {line[1]: line[2] for line in lines if not isinstance(line, Issue) and line[2]}


def _read_kaldi_lines(
    context: SourceContext, file_name: str
) -> Iterator[tuple[str, str, str] | Issue]:
    return _read_id_lines(context.root / file_name, f"{context.name}/{file_name}")
