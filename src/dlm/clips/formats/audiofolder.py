"""A folder with a table of its recordings, as the hub's AudioFolder has it.

    corpus/
    ├── metadata.csv        file_name,text        or .jsonl, or .parquet
    ├── a.wav
    └── train/              or a table for each part, here or in data/
        ├── metadata.jsonl  {"file_name": "b.wav", "text": "..."}
        └── b.wav

A file_name is relative to its table and stays below it. Recordings that the table does not name are
skipped and counted.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.formats.columns import Columns
from dlm.clips.formats.parquet import packed_rows
from dlm.clips.formats.parts import part_of, parted
from dlm.clips.formats.rows import Fields, Row, read_rows, text_of
from dlm.clips.origin import Given, Origin, Shard, Skipped
from dlm.clips.walk import is_audio, walk
from dlm.errors import ClipError

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILES = ("file_name", "audio_file_name", "file_names", "audio_file_names")
ENDS = ("_file_name", "_file_names")


def audiofolder(origin: Origin) -> list[Shard]:
    """A shard for each table."""
    shards = {
        part: [Shard.of(origin.named(path), partial(_rows, origin, path)) for path in tables]
        for part, tables in _tables(origin.root).items()
    }
    if not shards:
        raise ClipError(f"no {TABLES[0]} in {origin.name}", mend="write file_name,text in one")
    return parted(origin, shards)


def is_audiofolder(root: Path) -> bool:
    """A folder with a table of its own, or one for a part."""
    return root.is_dir() and bool(_tables(root))


def inside(name: str) -> str:
    """The name of a file below a list. Raises ClipError for one that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "://" in name:
        mend = "name it relative to its list, in its folder or below"
        raise ClipError(f"{name} leads out of the folder of its list", mend=mend)
    return name


def _tables(root: Path) -> dict[str, list[Path]]:
    """The tables of each part; one that stands above the parts is for training."""
    folders = [(root, "train")]
    for base in (root, root / "data"):
        with suppress(OSError):
            below = sorted(path for path in base.iterdir() if part_of(path.name))
            folders += [(path, path.name) for path in below if path.is_dir()]
    tables: dict[str, list[Path]] = {}
    for folder, part in folders:
        there = next((folder / name for name in TABLES if (folder / name).is_file()), None)
        if there is not None:
            tables.setdefault(part, []).append(there)
    return tables


def _rows(origin: Origin, path: Path) -> Iterator[Given]:
    name, named = origin.named(path), set[int]()
    columns: Columns | None = None
    try:
        for line, row in _read(path):
            place = f"{name}:{line}"
            if isinstance(row, ClipError):
                yield Problem.of(row, place)
                continue
            columns = columns or Columns.of(origin, row)
            try:
                yield _clip(columns, row, path, named, place)
            except ClipError as error:
                yield Problem.of(error, place)
        yield from _untold(origin, path.parent, named)
    except ClipError as error:
        yield Problem.of(error, name)


def _read(path: Path) -> Iterator[Row]:
    return packed_rows(path) if path.suffix == ".parquet" else read_rows(path)


def _clip(columns: Columns, row: Fields, path: Path, named: set[int], place: str) -> Clip:
    """What a row says of its recording, or of several that are heard one after the other."""
    files = [inside(name) for name in _files(columns.origin, row)]
    again = next((name for name in files if hash(path.parent / name) in named), None)
    if again is not None:
        raise ClipError(f"{again} comes twice", mend="keep one of its rows")
    named.update(hash(path.parent / name) for name in files)
    first, *rest = (
        Sound(path.parent / name, written=columns.origin.named(path.parent / name))
        for name in files
    )
    clip = columns.clip(first, row, place)
    asked, said = clip.turns
    return replace(clip, turns=(replace(asked, parts=(first, *rest, *asked.parts[1:])), said))


def _files(origin: Origin, row: Fields) -> list[str]:
    """The names of the recordings of a row."""
    said = origin.source.columns.get("audio")
    known = (*FILES, *(key for key in row if key.endswith(ENDS)))
    key = said or next((key for key in known if key in row), "file_name")
    value = row.get(key)
    listed = value if isinstance(value, list) else [value]
    names = [name for each in listed if (name := text_of({key: each}, key))]
    if not names:
        raise ClipError(f"no {key}", mend="name the recording, relative to the table")
    return names


def _untold(origin: Origin, folder: Path, named: set[int]) -> Iterator[Skipped]:
    """Recordings beside a table that it does not name, as far as no other table is theirs."""
    others = {
        table.parent
        for tables in _tables(origin.root).values()
        for table in tables
        if table.parent != folder
    }
    for file in walk(folder).files:
        other = any(above in others for above in file.parents)
        if is_audio(file) and hash(file) not in named and not other:
            yield Skipped(origin.named(file), "no transcript")
