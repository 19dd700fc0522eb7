"""The rows of an Arrow file, and where in it their recordings lie.

    data.arrow    audio {bytes, path}    text
                  fLaC......   a.flac    "..."       inside: its first byte in data.arrow, and bytes
                  (none)       b.flac    "..."       path: another file

The file is mapped, not read: a recording's bytes lie in it as they were, one after the other, and
are heard from there. Both of Arrow's forms are read, the stream and the file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlm.clips.formats.rows import Fields
from dlm.errors import ClipError, MissingExtra

MAGIC = b"ARROW1"  # of the form that is a file
ROWS = 1024  # whose words are held at once
AGAIN = "copy it again, or write it again"

Arrow = Any  # of pyarrow, which has no type hints
Span = tuple[int, int] | None
Recording = tuple[Span, str | None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a row says, and its recording: a part of the file, another file, or neither."""

    fields: Fields
    inside: Span
    path: str | None


def arrow_columns(path: Path) -> list[str]:
    """The names of a file's columns. Raises ClipError for what is not Arrow."""
    with arrow_errors():
        return list(_reader(_mapped(path)).schema.names)


def arrow_rows(path: Path, audio: str, others: Sequence[str]) -> Iterator[Kept]:
    """Every row: its recording under `audio`, and what stands under `others`."""
    with arrow_errors():
        mapped = _mapped(path)
        whole = _batches(_reader(mapped))
        parts = (each.slice(at, ROWS) for each in whole for at in range(0, each.num_rows, ROWS))
        for batch in parts:
            words = batch.select(list(others))
            words.validate(full=True)
            heard = _recordings(batch.column(audio), audio, mapped)
            for row, (inside, file) in zip(words.to_pylist(), heard, strict=True):
                yield Kept(row, inside, file)


@contextmanager
def arrow_errors() -> Iterator[None]:
    """What pyarrow finds wrong with a file is a ClipError; so is pyarrow, if it is not there."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", "data") from error
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # of a column, say
        told = " ".join(str(error).split())
        raise ClipError(f"it cannot be read as Arrow or Parquet ({told})", mend=AGAIN) from error


def _mapped(path: Path) -> Arrow:
    """All bytes of a file, none of them read."""
    import pyarrow

    if not path.is_file():
        raise ClipError("it is not a regular file", mend="name an .arrow or a .parquet file")
    with pyarrow.memory_map(str(path)) as file:
        return file.read_buffer()


def _reader(mapped: Arrow) -> Arrow:
    from pyarrow import ipc

    filed = mapped.slice(0, len(MAGIC)).to_pybytes() == MAGIC
    return ipc.open_file(mapped) if filed else ipc.open_stream(mapped)


def _batches(reader: Arrow) -> Iterator[Arrow]:
    from pyarrow import ipc

    if isinstance(reader, ipc.RecordBatchFileReader):
        yield from (reader.get_batch(at) for at in range(reader.num_record_batches))
    else:
        yield from reader


def _recordings(column: Arrow, name: str, mapped: Arrow) -> Iterator[Recording]:
    """Where each recording of a batch lies."""
    from pyarrow import types

    kind, none = column.type, [None] * len(column)
    held = {field.name for field in kind} if types.is_struct(kind) else set[str]()
    if types.is_string(kind) or types.is_large_string(kind):
        yield from zip(none, column.to_pylist(), strict=True)
    elif types.is_binary(kind) or types.is_large_binary(kind):
        yield from zip(_spans(column, mapped), none, strict=True)
    elif held & {"bytes", "path"}:
        column.validate()
        spans = _spans(column.field("bytes"), mapped) if "bytes" in held else none
        paths = column.field("path").to_pylist() if "path" in held else none
        for span, path, there in zip(spans, paths, column.is_valid().to_pylist(), strict=True):
            yield (span, path or None) if there else (None, None)
    else:
        mend = "say which column does with columns: {audio: ...}"
        raise ClipError(f"column {name} holds no recordings but {kind}", mend=mend)


def _spans(column: Arrow, mapped: Arrow) -> Iterator[Span]:
    """The first byte and the number of bytes of each value, in the file."""
    column.validate()
    _, ends, data = column.buffers()
    if data is None or data.size == 0:
        yield from [None] * len(column)
        return
    first = data.address - mapped.address
    if not 0 <= first <= mapped.size - data.size:
        mend = "write it without: `pyarrow.feather.write_feather(..., compression='uncompressed')`"
        raise ClipError("the file is compressed", mend=mend)
    width = np.int64 if "large" in str(column.type) else np.int32
    edges = np.frombuffer(ends, width)[column.offset : column.offset + len(column) + 1]
    if edges[0] < 0 or edges[-1] > data.size or (np.diff(edges) < 0).any():
        raise ClipError("the file is damaged: its recordings lie outside of it", mend=AGAIN)
    for start, end, there in zip(edges[:-1], edges[1:], column.is_valid().to_pylist(), strict=True):
        yield (first + int(start), int(end - start)) if there and end > start else None
