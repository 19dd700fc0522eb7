"""The tree of Common Voice: tables of sentences, and one folder of recordings.

    cv-corpus-23.0/fr/       or the folder above it, with a folder for each language
    ├── train.tsv            client_id, path, sentence, locale and more; `split` names a table
    ├── dev.tsv  test.tsv  validated.tsv  invalidated.tsv  other.tsv
    └── clips/*.mp3

A text in quotes is read as the tables have been written over the years: with "" for a quote, in
quotes or not.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from dlm.clips.benchmarks import test_of
from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.formats.audiofolder import inside
from dlm.clips.formats.columns import language_code
from dlm.clips.formats.parts import parted
from dlm.clips.origin import Given, Ids, Origin, Shard
from dlm.errors import ClipError

RECORDINGS = "clips"
TABLES = ("train", "dev", "test", "validated", "invalidated", "other")
COLUMNS = {"client_id", "path", "sentence"}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")  # as its folder is called: en, sv-SE, nan-tw
SUFFIX = ".mp3"  # early tables leave it out


def commonvoice(origin: Origin) -> list[Shard]:
    """A shard for each table of each language."""
    shards: dict[str, list[Shard]] = {}
    for folder in _languages(origin.root):
        for part in TABLES:
            table = folder / f"{part}.tsv"
            if table.is_file():
                rows = partial(_rows, origin, table)
                test = test_of("common_voice", part)
                shards.setdefault(part, []).append(
                    Shard.of(origin.named(table), rows, test_of=test)
                )
    return parted(origin, shards)


def is_commonvoice(root: Path) -> bool:
    """A folder with clips and their tables, or folders of them."""
    tables = (folder / f"{part}.tsv" for folder in _languages(root) for part in TABLES)
    return any(set(_head(table)) >= COLUMNS for table in tables)


def _languages(root: Path) -> list[Path]:
    """The folders that have recordings: this one, or one for each language."""
    if (root / RECORDINGS).is_dir():
        return [root]
    with suppress(OSError):
        named = sorted(path for path in root.iterdir() if LANGUAGE.fullmatch(path.name))
        return [path for path in named if (path / RECORDINGS).is_dir()]
    return []


def _head(table: Path) -> list[str]:
    """The columns of a table; none where there is no table."""
    for _, cells in _lines(table):
        return [] if isinstance(cells, ClipError) else cells
    return []


def _rows(origin: Origin, table: Path) -> Iterator[Given]:
    name, ids, head = origin.named(table), Ids(), list[str]()
    for number, cells in _lines(table):
        place = f"{name}:{number}"
        try:
            if isinstance(cells, ClipError):
                raise cells
            if not head:
                head = cells
                missing = COLUMNS - set(head)
                if missing:
                    what = f"the table has no column {min(missing)}"
                    yield Problem(place, what, "name its columns in the first line", fatal=True)
                    return
                continue
            if len(cells) != len(head):
                what = f"{len(cells)} cells, and the table has {len(head)} columns"
                raise ClipError(what, mend="put a tab between two cells, and none within")
            row = dict(zip(head, cells, strict=True))
            ids.take(row["path"])
            yield _clip(origin, table.parent, row, place)
        except ClipError as error:
            yield Problem.of(error, place)


def _clip(origin: Origin, folder: Path, row: dict[str, str], place: str) -> Clip:
    written = inside(row["path"])
    file = folder / RECORDINGS / (written if Path(written).suffix else f"{written}{SUFFIX}")
    sound = Sound(file, written=origin.named(file))
    language = language_code(row.get("locale")) or language_code(folder.name)
    text = _unquoted(row["sentence"].strip())
    return origin.clip(sound, text, place, language=language, speaker=row["client_id"] or None)


def _unquoted(text: str) -> str:
    """A cell as it was before it was written in a table."""
    within = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in within.replace('""', ""):
        text = within
    return text.replace('""', '"')


def _lines(table: Path) -> Iterator[tuple[int, list[str] | ClipError]]:
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
                    yield number, ClipError("the line is not UTF-8", mend="save it as UTF-8")
    except OSError:
        yield 1, ClipError("the table cannot be read", mend="allow it to be read")
