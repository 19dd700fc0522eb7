"""The tree of LibriSpeech, and of what is laid out as it is.

    LibriSpeech/
    ├── train-clean-100/                          a subset: `split` names one, or train for all
    │   └── 84/121123/                            speaker, chapter
    │       ├── 84-121123.trans.txt               84-121123-0000 GO DO YOU HEAR
    │       └── 84-121123-0000.flac
    └── test-clean/                               for tests: models are compared on it

A line of a .trans.txt without a recording beside it, and the reverse, are skipped and counted.

The tree of Common Voice: tables of sentences, and one folder of recordings.

    cv-corpus-23.0/fr/       or the folder above it, with a folder for each language
    ├── train.tsv            client_id, path, sentence, locale and more; `split` names a table
    ├── dev.tsv  test.tsv  validated.tsv  invalidated.tsv  other.tsv
    └── clips/*.mp3

A text in quotes is read as the tables have been written over the years: with "" for a quote, in
quotes or not.

A directory of Kaldi: recordings, what is said in them, and when.

    wav.scp    reco1 wav/1.flac            a command such as `sph2pipe ... |` is never run: refused
    segments   utt1 reco1 0.50 2.75        without it an utterance is all of the recording's
    text       utt1 half past four
    utt2spk    utt1 ann                    may be missing, as may utt2lang

Paths are relative to the directory, or to the source's `audio`.
"""

import math
import re
from collections.abc import Iterator
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
from dlm.data.readers.folders import require_relative_path
from dlm.data.readers.records import parse_language_code
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError

LIBRISPEECH_NAME = "LibriSpeech"
TRANSCRIPT_SUFFIX = ".trans.txt"


def list_librispeech_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each speaker of each subset."""
    shards = {
        subset.name: [
            SourceShard.from_iterable(
                context.to_display_path(speaker),
                partial(_read_speaker_dir, context, speaker),
                test_benchmark=find_test_benchmark(LIBRISPEECH_NAME, subset.name),
            )
            for speaker in _list_dirs(subset)
        ]
        for subset in _find_subsets(context.root)
    }
    return select_split_shards(context, shards)


def is_librispeech(root: Path) -> bool:
    """A folder of subsets, or one subset, with a transcript where they have it."""
    subsets = [subset for subset in _find_subsets(root) if detect_split(subset.name)]
    pattern = f"*/*/*{TRANSCRIPT_SUFFIX}"
    return any(next(subset.glob(pattern), None) is not None for subset in subsets)


def _find_subsets(root: Path) -> list[Path]:
    """The subsets: below the folder, below LibriSpeech in it, or the folder itself."""
    for base in (root, root / LIBRISPEECH_NAME):
        with suppress(OSError):
            below = sorted(path for path in base.iterdir() if detect_split(path.name))
            if found := [path for path in below if path.is_dir()]:
                return found
    return [root] if root.is_dir() else []


def _list_dirs(root: Path) -> list[Path]:
    """The folders in a folder; none where it cannot be listed."""
    with suppress(OSError):
        return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    return []


def _read_speaker_dir(context: SourceContext, speaker_dir: Path) -> Iterator[ReaderItem]:
    for chapter in _list_dirs(speaker_dir):
        try:
            files = sorted(path for path in chapter.iterdir() if path.name[0] != ".")
        except OSError:
            mend = "allow it to be read, or exclude it"
            name = context.to_display_path(chapter)
            yield Issue(name, "the folder cannot be listed", mend, fatal=False)
            continue
        heard = {path.stem: path for path in files if is_audio_file(path)}
        for transcript in (path for path in files if path.name.endswith(TRANSCRIPT_SUFFIX)):
            yield from _read_chapter(context, transcript, heard)
        yield from (
            SkippedItem(context.to_display_path(path), "no transcript") for path in heard.values()
        )


def _read_chapter(
    context: SourceContext, transcript: Path, recordings: dict[str, Path]
) -> Iterator[ReaderItem]:
    """What is said in the recordings of a chapter, which are taken out of `heard`."""
    name, ids = context.to_display_path(transcript), IdRegistry()
    try:
        lines = transcript.read_bytes().splitlines() if transcript.is_file() else []
    except OSError:
        yield Issue(name, "it cannot be read", "allow it to be read", fatal=True)
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{name}:{number}"
            try:
                utterance, words = _parse_transcript_line(line)
                ids.register_id(utterance)
                file = recordings.pop(utterance, None)
                if file is None:
                    yield SkippedItem(utterance, "no recording")
                    continue
                sound = AudioSegment(file, display_path=context.to_display_path(file))
                yield context.make_example(
                    sound, words, place, speaker=transcript.parent.parent.name
                )
            except DataError as error:
                yield Issue.from_error(error, place)


def _parse_transcript_line(line: bytes) -> tuple[str, str]:
    """The name of an utterance, and what is said in it."""
    try:
        words = line.decode("utf-8-sig").split(None, 1)
    except UnicodeDecodeError as error:
        raise DataError("the line is not UTF-8", hint="save it as UTF-8") from error
    if not words:  # but blanks that are none to bytes
        raise DataError("the line names no recording", hint="take it out")
    return words[0], "".join(words[1:])


COMMONVOICE_AUDIO_DIR = "clips"
COMMONVOICE_TABLES = ("train", "dev", "test", "validated", "invalidated", "other")
COMMONVOICE_COLUMNS = {"client_id", "path", "sentence"}
LANGUAGE_DIR_RE = re.compile(
    r"[a-z]{2,3}(-[A-Za-z0-9]+)*"
)  # as its folder is called: en, sv-SE, nan-tw
COMMONVOICE_SUFFIX = ".mp3"  # early tables leave it out


def list_commonvoice_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each table of each language."""
    shards: dict[str, list[SourceShard]] = {}
    for folder in _find_language_dirs(context.root):
        for part in COMMONVOICE_TABLES:
            table = folder / f"{part}.tsv"
            if table.is_file():
                rows = partial(_read_commonvoice_table, context, table)
                test = find_test_benchmark("common_voice", part)
                shards.setdefault(part, []).append(
                    SourceShard.from_iterable(
                        context.to_display_path(table), rows, test_benchmark=test
                    )
                )
    return select_split_shards(context, shards)


def is_commonvoice(root: Path) -> bool:
    """A folder with clips and their tables, or folders of them."""
    tables = (
        folder / f"{part}.tsv"
        for folder in _find_language_dirs(root)
        for part in COMMONVOICE_TABLES
    )
    return any(set(_read_tsv_header(table)) >= COMMONVOICE_COLUMNS for table in tables)


def _find_language_dirs(root: Path) -> list[Path]:
    """The folders that have recordings: this one, or one for each language."""
    if (root / COMMONVOICE_AUDIO_DIR).is_dir():
        return [root]
    with suppress(OSError):
        named = sorted(path for path in root.iterdir() if LANGUAGE_DIR_RE.fullmatch(path.name))
        return [path for path in named if (path / COMMONVOICE_AUDIO_DIR).is_dir()]
    return []


def _read_tsv_header(table: Path) -> list[str]:
    """The columns of a table; none where there is no table."""
    for _, cells in _read_tsv_lines(table):
        return [] if isinstance(cells, DataError) else cells
    return []


def _read_commonvoice_table(context: SourceContext, table: Path) -> Iterator[ReaderItem]:
    name, ids, head = context.to_display_path(table), IdRegistry(), list[str]()
    for number, cells in _read_tsv_lines(table):
        place = f"{name}:{number}"
        try:
            if isinstance(cells, DataError):
                raise cells
            if not head:
                head = cells
                missing = COMMONVOICE_COLUMNS - set(head)
                if missing:
                    what = f"the table has no column {min(missing)}"
                    yield Issue(place, what, "name its columns in the first line", fatal=True)
                    return
                continue
            if len(cells) != len(head):
                what = f"{len(cells)} cells, and the table has {len(head)} columns"
                raise DataError(what, hint="put a tab between two cells, and none within")
            row = dict(zip(head, cells, strict=True))
            ids.register_id(row["path"])
            yield _make_commonvoice_example(context, table.parent, row, place)
        except DataError as error:
            yield Issue.from_error(error, place)


def _make_commonvoice_example(
    context: SourceContext, folder: Path, record: dict[str, str], location: str
) -> Example:
    written = require_relative_path(record["path"])
    file = (
        folder
        / COMMONVOICE_AUDIO_DIR
        / (written if Path(written).suffix else f"{written}{COMMONVOICE_SUFFIX}")
    )
    sound = AudioSegment(file, display_path=context.to_display_path(file))
    language = parse_language_code(record.get("locale")) or parse_language_code(folder.name)
    text = _unquote_text(record["sentence"].strip())
    return context.make_example(
        sound, text, location, language=language, speaker=record["client_id"] or None
    )


def _unquote_text(text: str) -> str:
    """A cell as it was before it was written in a table."""
    within = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in within.replace('""', ""):
        text = within
    return text.replace('""', '"')


def _read_tsv_lines(table: Path) -> Iterator[tuple[int, list[str] | DataError]]:
    """The cells of each line, with its number."""
    if not table.is_file():
        return
    try:
        with table.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield number, line.decode("utf-8-sig").rstrip("\r\n").split("\t")
                except UnicodeDecodeError:
                    yield number, DataError("the line is not UTF-8", hint="save it as UTF-8")
    except OSError:
        yield 1, DataError("the table cannot be read", hint="allow it to be read")


KALDI_WAV_SCP_FILE, KALDI_SEGMENTS_FILE, KALDI_TEXT_FILE = "wav.scp", "segments", "text"
KALDI_ARK_RE = re.compile(r"\.ark:\d+$")
KALDI_END_OF_RECORDING = -1.0  # how segments writes an end that is the recording's
KALDI_DUPLICATE_ID_HINT = "keep one of its lines"

KaldiLine = tuple[int, str, str]  # its number, its first word and the rest
KaldiSegment = tuple[str, float | None, float | None]  # of a recording, in seconds


def list_kaldi_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of `text`."""
    missing = next(
        (
            each
            for each in (KALDI_WAV_SCP_FILE, KALDI_TEXT_FILE)
            if not (context.root / each).exists()
        ),
        None,
    )
    if missing:
        raise DataError(f"no {missing} in {context.name}", hint="write it, or mend the path")
    return [SourceShard.from_iterable(context.name, lambda: _read_kaldi_dir(context))]


def is_kaldi(root: Path) -> bool:
    """A directory with wav.scp and text."""
    return (root / KALDI_WAV_SCP_FILE).is_file() and (root / KALDI_TEXT_FILE).is_file()


def _read_kaldi_dir(context: SourceContext) -> Iterator[ReaderItem]:
    heard: dict[str, str | None] = {}  # where it lies; None for what is not read
    spans: dict[str, KaldiSegment] = {}
    yield from _read_wav_scp(context, heard)
    yield from _read_segments(context, spans)
    if not (context.root / KALDI_SEGMENTS_FILE).exists():
        spans = {name: (name, None, None) for name in heard}
    speakers, languages = (
        dict(_read_utterance_map(context, name)) for name in ("utt2spk", "utt2lang")
    )
    ids = IdRegistry()
    for line in _read_kaldi_lines(context, KALDI_TEXT_FILE):
        if isinstance(line, Issue):
            yield line
            continue
        number, name, words = line
        place, span = f"{context.name}/{KALDI_TEXT_FILE}:{number}", spans.pop(name, None)
        try:
            ids.register_id(name)
            if span is None or heard.get(span[0]) is None:
                yield SkippedItem(name, "not read" if span and span[0] in heard else "no recording")
                continue
            sound, language = (
                _make_kaldi_segment(context, heard, span),
                parse_language_code(languages.get(name)),
            )
            yield context.make_example(
                sound, words, place, language=language, speaker=speakers.get(name)
            )
        except DataError as error:
            yield Issue.from_error(error, place)
    yield from (SkippedItem(name, "no transcript") for name in spans)


def _make_kaldi_segment(
    context: SourceContext, recordings: dict[str, str | None], span: KaldiSegment
) -> AudioSegment:
    written = recordings[span[0]] or ""
    return AudioSegment(
        (context.audio_dir or context.root) / written, span[1], span[2], display_path=written
    )


def _read_wav_scp(context: SourceContext, recordings: dict[str, str | None]) -> Iterator[Issue]:
    """Fill in where each recording lies; what cannot be one is told."""
    for line in _read_kaldi_lines(context, KALDI_WAV_SCP_FILE):
        if isinstance(line, Issue):
            yield line
            continue
        number, name, written = line
        place = f"{context.name}/{KALDI_WAV_SCP_FILE}:{number}"
        what = mend = ""
        if name in recordings:
            what, mend = f"the id {name} comes twice", KALDI_DUPLICATE_ID_HINT
        elif written.endswith("|") or written.startswith("|") or written == "-":
            what = f"{name} is the output of a command, and none is run"
            mend = "run it once into a file, and name that file here"
        elif KALDI_ARK_RE.search(written):
            what = f"{name} lies in an archive of Kaldi, which is not read"
            mend = "write it to a file with `wav-copy`, and name that file here"
        elif not written:
            what, mend = f"{name} has no file", "write its path behind it"
        if what:
            yield Issue(place, what, mend, fatal=True)
            recordings.setdefault(name, None)
        else:
            recordings[name] = written


def _read_segments(context: SourceContext, spans: dict[str, KaldiSegment]) -> Iterator[Issue]:
    """Fill in the span of each utterance."""
    for line in _read_kaldi_lines(context, KALDI_SEGMENTS_FILE):
        if isinstance(line, Issue):
            yield line
            continue
        number, name, rest = line
        place = f"{context.name}/{KALDI_SEGMENTS_FILE}:{number}"
        try:
            if name in spans:
                raise DataError(f"the id {name} comes twice", hint=KALDI_DUPLICATE_ID_HINT)
            spans[name] = _parse_segment(rest)
        except DataError as error:
            yield Issue.from_error(error, place)


def _parse_segment(rest: str) -> KaldiSegment:
    """A recording, and from when to when it is heard."""
    mend = "write utterance, recording, start and end, in seconds"
    try:
        recording, *times = rest.split()
        start, end = (float(each) for each in times)
    except ValueError as error:
        raise DataError(f"no span: {rest}", hint=mend) from error
    if not (math.isfinite(start) and (end == KALDI_END_OF_RECORDING or start < end < math.inf)):
        raise DataError(f"it begins at {start:g} s and ends at {end:g} s", hint=mend)
    return recording, start, None if end == KALDI_END_OF_RECORDING else end


def _read_utterance_map(context: SourceContext, file_name: str) -> Iterator[tuple[str, str]]:
    """What an optional file says of each utterance; a line that cannot be read says nothing."""
    lines = (line for line in _read_kaldi_lines(context, file_name) if not isinstance(line, Issue))
    return ((first, rest) for _, first, rest in lines if rest)


def _read_kaldi_lines(context: SourceContext, file_name: str) -> Iterator[KaldiLine | Issue]:
    """The lines of a file that have something in them; none if it is not there."""
    path, shown = context.root / file_name, f"{context.name}/{file_name}"
    if not path.is_file():
        if path.exists():
            yield Issue(shown, "it is not a regular file", "write it as text", fatal=True)
        return
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    words = line.decode("utf-8-sig" if number == 1 else "utf-8").split(None, 1)
                except UnicodeDecodeError:
                    what, mend = "the line is not UTF-8", "save it as UTF-8"
                    yield Issue(f"{shown}:{number}", what, mend, fatal=True)
                    continue
                if words:
                    yield number, words[0], words[1].strip() if len(words) > 1 else ""
    except OSError:
        yield Issue(shown, "it cannot be read", "allow it to be read", fatal=True)
