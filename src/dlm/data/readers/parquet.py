"""The rows of an Arrow file, and where in it their recordings lie.

    data.arrow    audio {bytes, path}    text
                  fLaC......   a.flac    "..."       inside: its first byte in data.arrow, and bytes
                  (none)       b.flac    "..."       path: another file

The file is mapped, not read: a recording's bytes lie in it as they were, one after the other, and
are heard from there. Both of Arrow's forms are read, the stream and the file.

Datasets in files: .parquet or .arrow, a folder of them, or what `save_to_disk` wrote.

    data/
    ├── train-00000-of-00002.parquet      audio {bytes, path}, or a path; text; ...
    ├── train-00001-of-00002.parquet      parts by the names of the files, or of their folders
    └── test-00000-of-00001.parquet

Recordings in an .arrow stay there. A .parquet is packed, so `datasets` writes it once as .arrow in
its cache: as many bytes again, in the folder that HF_DATASETS_CACHE names.
"""

import glob
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlm.data.file_globs import list_files
from dlm.data.readers.base import (
    ReaderItem,
    SourceContext,
    SourceShard,
    detect_file_split,
    select_split_shards,
)
from dlm.data.readers.records import ColumnMapping, SourceRecord, find_column
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError, MissingExtra

ARROW_FILE_MAGIC = b"ARROW1"  # of the form that is a file
ARROW_SLICE_ROWS = 1024  # whose words are held at once
REWRITE_FILE_HINT = "copy it again, or write it again"

ArrowObject = Any  # of pyarrow, which has no type hints
ArrowByteRange = tuple[int, int] | None
ArrowRecordingRef = tuple[ArrowByteRange, str | None]


@dataclass(frozen=True, slots=True)
class ArrowRecord:
    """What a row says, and its recording: a part of the file, another file, or neither."""

    fields: SourceRecord
    byte_range: ArrowByteRange
    audio_path: str | None


def read_arrow_columns(path: Path) -> list[str]:
    """The names of a file's columns. Raises ClipError for what is not Arrow."""
    with convert_arrow_errors():
        return list(_open_arrow_reader(_memory_map(path)).schema.names)


def read_arrow_records(
    path: Path, audio_column: str, other_columns: Sequence[str]
) -> Iterator[ArrowRecord]:
    """Every row: its recording under `audio`, and what stands under `others`."""
    with convert_arrow_errors():
        mapped = _memory_map(path)
        whole = _iter_batches(_open_arrow_reader(mapped))
        parts = (
            each.slice(at, ARROW_SLICE_ROWS)
            for each in whole
            for at in range(0, each.num_rows, ARROW_SLICE_ROWS)
        )
        for batch in parts:
            words = batch.select(list(other_columns))
            words.validate(full=True)
            heard = _locate_recordings(batch.column(audio_column), audio_column, mapped)
            for row, (inside, file) in zip(words.to_pylist(), heard, strict=True):
                yield ArrowRecord(row, inside, file)


@contextmanager
def convert_arrow_errors() -> Iterator[None]:
    """What pyarrow finds wrong with a file is a ClipError; so is pyarrow, if it is not there."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", "data") from error
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # of a column, say
        told = " ".join(str(error).split())
        raise DataError(
            f"it cannot be read as Arrow or Parquet ({told})", hint=REWRITE_FILE_HINT
        ) from error


def _memory_map(path: Path) -> ArrowObject:
    """All bytes of a file, none of them read."""
    import pyarrow

    if not path.is_file():
        raise DataError("it is not a regular file", hint="name an .arrow or a .parquet file")
    with pyarrow.memory_map(str(path)) as file:
        return file.read_buffer()


def _open_arrow_reader(buffer: ArrowObject) -> ArrowObject:
    from pyarrow import ipc

    filed = buffer.slice(0, len(ARROW_FILE_MAGIC)).to_pybytes() == ARROW_FILE_MAGIC
    return ipc.open_file(buffer) if filed else ipc.open_stream(buffer)


def _iter_batches(reader: ArrowObject) -> Iterator[ArrowObject]:
    from pyarrow import ipc

    if isinstance(reader, ipc.RecordBatchFileReader):
        yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
    else:
        yield from reader


def _locate_recordings(
    column: ArrowObject, name: str, buffer: ArrowObject
) -> Iterator[ArrowRecordingRef]:
    """Where each recording of a batch lies."""
    from pyarrow import types

    kind, none = column.type, [None] * len(column)
    held = {field.name for field in kind} if types.is_struct(kind) else set[str]()
    if types.is_string(kind) or types.is_large_string(kind):
        yield from zip(none, column.to_pylist(), strict=True)
    elif types.is_binary(kind) or types.is_large_binary(kind):
        yield from zip(_locate_values(column, buffer), none, strict=True)
    elif held & {"bytes", "path"}:
        column.validate()
        spans = _locate_values(column.field("bytes"), buffer) if "bytes" in held else none
        paths = column.field("path").to_pylist() if "path" in held else none
        for span, path, there in zip(spans, paths, column.is_valid().to_pylist(), strict=True):
            yield (span, path or None) if there else (None, None)
    else:
        mend = "say which column does with columns: {audio: ...}"
        raise DataError(f"column {name} holds no recordings but {kind}", hint=mend)


def _locate_values(column: ArrowObject, buffer: ArrowObject) -> Iterator[ArrowByteRange]:
    """The first byte and the number of bytes of each value, in the file."""
    column.validate()
    _, ends, data = column.buffers()
    if data is None or data.size == 0:
        yield from [None] * len(column)
        return
    first = data.address - buffer.address
    if not 0 <= first <= buffer.size - data.size:
        mend = "write it without: `pyarrow.feather.write_feather(..., compression='uncompressed')`"
        raise DataError("the file is compressed", hint=mend)
    width = np.int64 if "large" in str(column.type) else np.int32
    edges = np.frombuffer(ends, width)[column.offset : column.offset + len(column) + 1]
    if edges[0] < 0 or edges[-1] > data.size or (np.diff(edges) < 0).any():
        raise DataError(
            "the file is damaged: its recordings lie outside of it", hint=REWRITE_FILE_HINT
        )
    for start, end, there in zip(edges[:-1], edges[1:], column.is_valid().to_pylist(), strict=True):
        yield (first + int(start), int(end - start)) if there and end > start else None


DATASET_SUFFIXES = (".parquet", ".arrow")
DATASET_GLOBS = tuple(f"{below}*{suffix}" for below in ("", "*/") for suffix in DATASET_SUFFIXES)
NON_DATA_PREFIXES = (
    "metadata.parquet",
    "cache-",
    "indices",
)  # a table of files, and what `map` leaves
AUDIO_COLUMNS = ("audio", "file", "path", "audio_path")
PARQUET_BATCH_ROWS = 1024


def list_parquet_shards(context: SourceContext) -> list[SourceShard]:
    """A shard for each file."""
    shards: dict[str, list[SourceShard]] = {}
    for file in _find_dataset_files(context.root):
        rows = partial(_read_dataset_file, context, file)
        shards.setdefault(detect_file_split(context.root, file), []).append(
            SourceShard.from_iterable(context.to_display_path(file), rows)
        )
    if not shards:
        raise DataError(f"no .parquet or .arrow in {context.name}", hint="mend the path")
    return select_split_shards(context, shards)


def is_parquet(root: Path) -> bool:
    """Such a file, or a folder with one, or with folders that have one."""
    if root.is_dir():
        found = (file for pattern in DATASET_GLOBS for file in root.glob(pattern))
        return any(not file.name.startswith(NON_DATA_PREFIXES) for file in found)
    return root.suffix.lower() in DATASET_SUFFIXES


def read_arrow_examples(
    context: SourceContext, arrow_path: Path, name: str, *, first_number: int = 1
) -> Iterator[Example | Issue]:
    """The rows of an .arrow, named `name` for people; its first row is their number `first`."""
    there = read_arrow_columns(arrow_path)
    audio = find_column(context, "audio", AUDIO_COLUMNS, there)
    if audio is None:
        mend = "say which it is with columns: {audio: ...}"
        raise DataError(f"no column of recordings: it has {', '.join(there)}", hint=mend)
    columns = ColumnMapping.from_names(context, there)
    for number, row in enumerate(
        read_arrow_records(arrow_path, audio, columns.column_names), start=first_number
    ):
        place = f"{name}:{number}"
        try:
            yield columns.make_example(
                _make_arrow_segment(context, arrow_path, row, place), row.fields, place
            )
        except DataError as error:
            yield Issue.from_error(error, place)


def import_datasets() -> Any:
    """`datasets`, which shows how far it is where someone watches. Raises MissingExtra."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data") from error
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is told by us, once
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def is_datasets_cache_file(path: Path) -> bool:
    """Whether a file is one that `datasets` made of a .parquet, in its cache."""
    with suppress(ImportError):
        if path.suffix == ".arrow":
            from datasets import config

            return path.is_relative_to(config.HF_DATASETS_CACHE)
    return False


def read_parquet_records(path: Path) -> Iterator[tuple[int, SourceRecord]]:
    """The rows of a .parquet that holds words alone, with their numbers."""
    with convert_arrow_errors():
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=PARQUET_BATCH_ROWS)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _find_dataset_files(root: Path) -> list[Path]:
    if not root.is_dir():
        return [root]
    found = (file for file in list_files(root).files if file.suffix.lower() in DATASET_SUFFIXES)
    return [file for file in found if not file.name.startswith(NON_DATA_PREFIXES)]


def _read_dataset_file(context: SourceContext, file: Path) -> Iterator[ReaderItem]:
    name, first = context.to_display_path(file), 1
    try:
        for arrow in [file] if file.suffix.lower() == ".arrow" else _convert_to_arrow(file):
            for given in read_arrow_examples(context, arrow, name, first_number=first):
                yield given
                first += 1
    except DataError as error:
        yield Issue.from_error(error, name)


def _convert_to_arrow(file: Path) -> list[Path]:
    """The .arrow files that `datasets` makes of a .parquet, or made before."""
    datasets = import_datasets()
    with convert_arrow_errors():
        from pyarrow.parquet import read_metadata

        read_metadata(file)  # what is damaged is told before anything is written
        try:
            found = datasets.Dataset.from_parquet(glob.escape(str(file)))
        except datasets.exceptions.DatasetsError as error:
            told = " ".join(str(error.__cause__ or error).split())
            raise DataError(
                f"it cannot be read as Parquet ({told})", hint="copy it again"
            ) from error
        return [Path(each["filename"]) for each in found.cache_files]


def _make_arrow_segment(
    context: SourceContext, arrow_path: Path, record: ArrowRecord, location: str
) -> AudioSegment:
    """The recording of a row: in the file, or beside it."""
    if record.byte_range is not None:
        return AudioSegment(
            arrow_path,
            byte_range=record.byte_range,
            display_path=f"{location} {record.audio_path or ''}".rstrip(),
        )
    if not record.audio_path:
        raise DataError("no recording", hint="give its bytes or its path, or take the row out")
    if "://" in record.audio_path:
        raise DataError(
            f"{record.audio_path} is not on this machine", hint="fetch the recording first"
        )
    folder = context.audio_dir or (context.root if context.root.is_dir() else context.root.parent)
    return AudioSegment(folder / record.audio_path, display_path=record.audio_path)
