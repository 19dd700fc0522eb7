"""Datasets in .parquet or .arrow files: one file, a folder of them, or what `save_to_disk` wrote.

    data/
    ├── train-00000-of-00002.parquet      audio {bytes, path}, or bytes, or a path; text; ...
    ├── train-00001-of-00002.parquet      splits by the names of files, or of their folders
    └── test-00000-of-00001.arrow         stream or file form

    test.arrow    audio {bytes, path}    text
                  fLaC......   a.flac    "..."       byte_range: first byte in test.arrow, and bytes
                  (none)       b.flac    "..."       another file

An .arrow is mapped, not read: recordings are decoded from their bytes in it. A compressed one is an
error. A .parquet is compressed, so `datasets` writes it once as .arrow in its cache
(HF_DATASETS_CACHE), which takes as many bytes again.
"""

import glob
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
from dlm.data.readers.columns import ColumnMapping, SourceRecord, find_column
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError, MissingExtra

DATASET_SUFFIXES = (".parquet", ".arrow")
DATASET_GLOBS = tuple(f"{parent}*{suffix}" for parent in ("", "*/") for suffix in DATASET_SUFFIXES)
# the table of an audiofolder, and what `map` of `datasets` leaves
NON_DATA_PREFIXES = ("metadata.parquet", "cache-", "indices")
AUDIO_COLUMNS = ("audio", "file", "path", "audio_path")
ARROW_FILE_MAGIC = b"ARROW1"  # of the file form
ARROW_SLICE_ROWS = 1024  # whose text is in memory at once
PARQUET_BATCH_ROWS = 1024
REWRITE_FILE_HINT = "copy it again, or write it again"

ArrowObject = Any  # of pyarrow, which has no type hints
ByteRange = tuple[int, int] | None  # first byte in the file, number of bytes


def is_parquet(root: Path) -> bool:
    """Whether a path is such a file, or a folder with one in it or one level below."""
    if not root.is_dir():
        return root.suffix.lower() in DATASET_SUFFIXES
    paths = (path for pattern in DATASET_GLOBS for path in root.glob(pattern))
    return any(not path.name.startswith(NON_DATA_PREFIXES) for path in paths)


def list_parquet_shards(context: SourceContext) -> list[SourceShard]:
    """One shard for each file. Raises DataError (`source.missing_file`, `source.no_split`)."""
    shards: dict[str, list[SourceShard]] = {}
    for path in _find_dataset_files(context.root):
        shard = SourceShard.from_iterable(
            context.to_display_path(path), partial(_read_dataset_file, context, path)
        )
        shards.setdefault(detect_file_split(context.root, path), []).append(shard)
    if not shards:
        what = f"no .parquet or .arrow in {context.name}"
        raise DataError(what, hint="correct the path", code="source.missing_file")
    return select_split_shards(context, shards)


def _find_dataset_files(root: Path) -> list[Path]:
    if not root.is_dir():
        return [root]
    paths = (path for path in list_files(root).files if path.suffix.lower() in DATASET_SUFFIXES)
    return [path for path in paths if not path.name.startswith(NON_DATA_PREFIXES)]


def _read_dataset_file(context: SourceContext, path: Path) -> Iterator[ReaderItem]:
    name, number = context.to_display_path(path), 1
    try:
        if path.exists() and not path.is_file():
            hint = "name an .arrow or a .parquet file"
            raise DataError("it is not a regular file", hint=hint, code="source.not_a_file")
        for arrow_path in [path] if path.suffix.lower() == ".arrow" else _convert_to_arrow(path):
            for item in read_arrow_examples(context, arrow_path, name, first_number=number):
                yield item
                number += 1
    except DataError as error:
        yield Issue.from_error(error, name)


def _convert_to_arrow(path: Path) -> list[Path]:
    """The .arrow files that `datasets` makes of a .parquet, or made before."""
    datasets = import_datasets()
    with convert_arrow_errors():
        from pyarrow.parquet import read_metadata

        metadata = read_metadata(path)  # a damaged file is an error before anything is written
        if metadata.num_rows == 0:
            return []
        try:
            dataset = datasets.Dataset.from_parquet(glob.escape(str(path)))
        except datasets.exceptions.DatasetsError as error:
            reason = " ".join(str(error.__cause__ or error).split())
            what = f"it cannot be read as Parquet ({reason})"
            raise DataError(what, hint="copy it again", code="source.damaged") from error
        return [Path(file["filename"]) for file in dataset.cache_files]


def read_arrow_examples(
    context: SourceContext, arrow_path: Path, name: str, *, first_number: int = 1
) -> Iterator[Example | Issue]:
    """Yield the example of each row of an .arrow, located as `name:number`.

    Raises:
        DataError: the file cannot be read, or lacks a column (`source.*`).
    """
    with convert_arrow_errors():
        buffer = _memory_map(arrow_path)
        reader = _open_arrow_reader(buffer)
        names = list(reader.schema.names)
    audio_column = find_column(context, "audio", AUDIO_COLUMNS, names)
    if audio_column is None:
        what = f"no column of recordings: it has {', '.join(names)}"
        hint = "name it with columns: {audio: ...}"
        raise DataError(what, hint=hint, code="source.no_column")
    columns = ColumnMapping.from_names(context, names)
    rows = _iter_arrow_rows(reader, buffer, audio_column, columns.column_names)
    for number, (record, byte_range, audio_path) in enumerate(rows, start=first_number):
        location = f"{name}:{number}"
        try:
            if byte_range is None:
                segment = _make_path_segment(context, audio_path)
            else:
                display_path = f"{location} {audio_path or ''}".rstrip()
                segment = AudioSegment(arrow_path, byte_range=byte_range, display_path=display_path)
            yield columns.make_example(segment, record, location)
        except DataError as error:
            yield Issue.from_error(error, location)


def _make_path_segment(context: SourceContext, path: str | None) -> AudioSegment:
    """A recording beside the file."""
    if not path:
        hint = "give its bytes or its path, or take the row out"
        raise DataError("no recording", hint=hint, code="data.no_audio_path")
    if "://" in path:
        what, hint = f"{path} is not on this machine", "download the recording first"
        raise DataError(what, hint=hint, code="data.remote_audio")
    folder = context.audio_dir or (context.root if context.root.is_dir() else context.root.parent)
    return AudioSegment(folder / path, display_path=path)


def _iter_arrow_rows(
    reader: ArrowObject, buffer: ArrowObject, audio_column: str, other_columns: Sequence[str]
) -> Iterator[tuple[SourceRecord, ByteRange, str | None]]:
    """The other columns of each row, and the byte range and the path of its recording."""
    with convert_arrow_errors():
        for batch in _iter_batches(reader):
            fields = batch.select(list(other_columns))
            fields.validate(full=True)
            recordings = _locate_recordings(batch.column(audio_column), audio_column, buffer)
            for record, recording in zip(fields.to_pylist(), recordings, strict=True):
                yield record, *recording


@contextmanager
def convert_arrow_errors() -> Iterator[None]:
    """Turn the errors of pyarrow into DataError (`source.damaged`), its absence too."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", "data") from error
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        what = f"it cannot be read as Arrow or Parquet ({reason})"
        raise DataError(what, hint=REWRITE_FILE_HINT, code="source.damaged") from error


def _memory_map(path: Path) -> ArrowObject:
    """All bytes of a file, none of them read."""
    import pyarrow

    if not path.is_file():
        hint = "name an .arrow or a .parquet file"
        raise DataError("it is not a regular file", hint=hint, code="source.not_a_file")
    with pyarrow.memory_map(str(path)) as file:
        return file.read_buffer()


def _open_arrow_reader(buffer: ArrowObject) -> ArrowObject:
    from pyarrow import ipc

    is_file_form = buffer.slice(0, len(ARROW_FILE_MAGIC)).to_pybytes() == ARROW_FILE_MAGIC
    return ipc.open_file(buffer) if is_file_form else ipc.open_stream(buffer)


def _iter_batches(reader: ArrowObject) -> Iterator[ArrowObject]:
    """The batches of a file, in slices of at most ARROW_SLICE_ROWS."""
    from pyarrow import ipc

    batches = reader
    if isinstance(reader, ipc.RecordBatchFileReader):
        batches = map(reader.get_batch, range(reader.num_record_batches))
    for batch in batches:
        for start in range(0, batch.num_rows, ARROW_SLICE_ROWS):
            yield batch.slice(start, ARROW_SLICE_ROWS)


def _locate_recordings(
    column: ArrowObject, name: str, buffer: ArrowObject
) -> Iterator[tuple[ByteRange, str | None]]:
    """The byte range and the path of each recording of a batch."""
    from pyarrow import types

    column_type, nones = column.type, [None] * len(column)
    is_struct = types.is_struct(column_type)
    keys = {field.name for field in column_type} if is_struct else set[str]()
    if types.is_string(column_type) or types.is_large_string(column_type):
        yield from zip(nones, column.to_pylist(), strict=True)
    elif types.is_binary(column_type) or types.is_large_binary(column_type):
        yield from zip(_locate_values(column, buffer), nones, strict=True)
    elif keys & {"bytes", "path"}:
        column.validate()
        ranges = _locate_values(column.field("bytes"), buffer) if "bytes" in keys else nones
        paths = column.field("path").to_pylist() if "path" in keys else nones
        for is_valid, byte_range, path in zip(
            column.is_valid().to_pylist(), ranges, paths, strict=True
        ):
            yield (byte_range, path or None) if is_valid else (None, None)
    else:
        what = f"column {name} holds no recordings but {column_type}"
        hint = "name that column with columns: {audio: ...}"
        raise DataError(what, hint=hint, code="source.no_column")


def _locate_values(column: ArrowObject, buffer: ArrowObject) -> Iterator[ByteRange]:
    """Where each value of a binary column is in the file; None for one that is empty."""
    column.validate()
    _, offsets, data = column.buffers()
    if data is None or data.size == 0:
        yield from [None] * len(column)
        return
    first = data.address - buffer.address
    if not 0 <= first <= buffer.size - data.size:
        hint = "write it without: `pyarrow.feather.write_feather(..., compression='uncompressed')`"
        raise DataError("the file is compressed", hint=hint, code="source.compressed")
    offset_type = np.int64 if "large" in str(column.type) else np.int32
    edges = np.frombuffer(offsets, offset_type)[column.offset : column.offset + len(column) + 1]
    if edges[0] < 0 or edges[-1] > data.size or (np.diff(edges) < 0).any():
        what = "the file is damaged: its recordings lie outside of it"
        raise DataError(what, hint=REWRITE_FILE_HINT, code="source.damaged")
    is_valid = column.is_valid().to_pylist()
    for start, end, valid in zip(edges[:-1], edges[1:], is_valid, strict=True):
        yield (first + int(start), int(end - start)) if valid and end > start else None


def read_parquet_records(path: Path) -> Iterator[tuple[int, SourceRecord]]:
    """Yield the rows of a .parquet without recordings, numbered from 1. Raises DataError."""
    with convert_arrow_errors():
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=PARQUET_BATCH_ROWS)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def import_datasets() -> Any:
    """Import `datasets`, quiet but for progress bars on a terminal. Raises MissingExtra."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data") from error
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised anyway
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
