"""Datasets in files: .parquet or .arrow, a folder of them, or what `save_to_disk` wrote.

    data/
    ├── train-00000-of-00002.parquet      audio {bytes, path}, or a path; text; ...
    ├── train-00001-of-00002.parquet      parts by the names of the files, or of their folders
    └── test-00000-of-00001.parquet

Recordings in an .arrow stay there. A .parquet is packed, so `datasets` writes it once as .arrow in
its cache: as many bytes again, in the folder that HF_DATASETS_CACHE names.
"""

import glob
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.formats.arrows import Kept, arrow_columns, arrow_errors, arrow_rows
from dlm.clips.formats.columns import Columns, column_of
from dlm.clips.formats.parts import part_of_file, parted
from dlm.clips.formats.rows import Fields
from dlm.clips.origin import Given, Origin, Shard
from dlm.clips.walk import walk
from dlm.errors import ClipError, MissingExtra

SUFFIXES = (".parquet", ".arrow")
PATTERNS = tuple(f"{below}*{suffix}" for below in ("", "*/") for suffix in SUFFIXES)
NOT_DATA = ("metadata.parquet", "cache-", "indices")  # a table of files, and what `map` leaves
AUDIO = ("audio", "file", "path", "audio_path")
BATCH_ROWS = 1024


def parquet(origin: Origin) -> list[Shard]:
    """A shard for each file."""
    shards: dict[str, list[Shard]] = {}
    for file in _files(origin.root):
        rows = partial(_rows, origin, file)
        shards.setdefault(part_of_file(origin.root, file), []).append(
            Shard.of(origin.named(file), rows)
        )
    if not shards:
        raise ClipError(f"no .parquet or .arrow in {origin.name}", mend="mend the path")
    return parted(origin, shards)


def is_parquet(root: Path) -> bool:
    """Such a file, or a folder with one, or with folders that have one."""
    if root.is_dir():
        found = (file for pattern in PATTERNS for file in root.glob(pattern))
        return any(not file.name.startswith(NOT_DATA) for file in found)
    return root.suffix.lower() in SUFFIXES


def clips_of(origin: Origin, arrow: Path, name: str, *, first: int = 1) -> Iterator[Clip | Problem]:
    """The rows of an .arrow, named `name` for people; its first row is their number `first`."""
    there = arrow_columns(arrow)
    audio = column_of(origin, "audio", AUDIO, there)
    if audio is None:
        mend = "say which it is with columns: {audio: ...}"
        raise ClipError(f"no column of recordings: it has {', '.join(there)}", mend=mend)
    columns = Columns.of(origin, there)
    for number, row in enumerate(arrow_rows(arrow, audio, columns.names), start=first):
        place = f"{name}:{number}"
        try:
            yield columns.clip(_sound(origin, arrow, row, place), row.fields, place)
        except ClipError as error:
            yield Problem.of(error, place)


def library() -> Any:
    """`datasets`, which shows how far it is where someone watches. Raises MissingExtra."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data") from error
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is told by us, once
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def unpacked(path: Path) -> bool:
    """Whether a file is one that `datasets` made of a .parquet, in its cache."""
    with suppress(ImportError):
        if path.suffix == ".arrow":
            from datasets import config

            return path.is_relative_to(config.HF_DATASETS_CACHE)
    return False


def packed_rows(path: Path) -> Iterator[tuple[int, Fields]]:
    """The rows of a .parquet that holds words alone, with their numbers."""
    with arrow_errors():
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=BATCH_ROWS)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        return [root]
    found = (file for file in walk(root).files if file.suffix.lower() in SUFFIXES)
    return [file for file in found if not file.name.startswith(NOT_DATA)]


def _rows(origin: Origin, file: Path) -> Iterator[Given]:
    name, first = origin.named(file), 1
    try:
        for arrow in [file] if file.suffix.lower() == ".arrow" else _unpack(file):
            for given in clips_of(origin, arrow, name, first=first):
                yield given
                first += 1
    except ClipError as error:
        yield Problem.of(error, name)


def _unpack(file: Path) -> list[Path]:
    """The .arrow files that `datasets` makes of a .parquet, or made before."""
    datasets = library()
    with arrow_errors():
        from pyarrow.parquet import read_metadata

        read_metadata(file)  # what is damaged is told before anything is written
        try:
            found = datasets.Dataset.from_parquet(glob.escape(str(file)))
        except datasets.exceptions.DatasetsError as error:
            told = " ".join(str(error.__cause__ or error).split())
            raise ClipError(
                f"it cannot be read as Parquet ({told})", mend="copy it again"
            ) from error
        return [Path(each["filename"]) for each in found.cache_files]


def _sound(origin: Origin, arrow: Path, row: Kept, place: str) -> Sound:
    """The recording of a row: in the file, or beside it."""
    if row.inside is not None:
        return Sound(arrow, inside=row.inside, written=f"{place} {row.path or ''}".rstrip())
    if not row.path:
        raise ClipError("no recording", mend="give its bytes or its path, or take the row out")
    if "://" in row.path:
        raise ClipError(f"{row.path} is not on this machine", mend="fetch the recording first")
    folder = origin.audio or (origin.root if origin.root.is_dir() else origin.root.parent)
    return Sound(folder / row.path, written=row.path)
