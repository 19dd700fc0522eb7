"""What a format is asked, and what it gives: shards of rows, each a clip, a skip or a problem.

    Origin   a source and where it lies: names as the author writes them, its columns, its patterns
    Shard    a part of it that can be read by itself, from any row on
    Given    Clip        what can be learned
             Skipped     what is passed over, and counted
             Problem     what is wrong with a row, with its line

Nothing is opened before a shard is read, and no more of it is held than the row at hand.

The parts of a dataset: train, validation, test, what else they are called, and which is taken.

    train        training, train-clean-100, train.360
    validation   valid, val, dev, eval, dev-other
    test         testing, test-clean

A source takes the part that its `split` names; without one, what is for training.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from dlm.config.data_schema import SourceConfig
from dlm.config.parser import Document
from dlm.data.file_globs import matches_glob
from dlm.data.types import AudioSegment, Example, Issue, Message
from dlm.errors import DataError

EMPTY_TRANSCRIPT = "AUDIO section has empty transcript"

SkipReason = Literal[
    "no transcript", "no recording", "not audio", "not read", "excluded", "other split"
]


@dataclass(frozen=True)
class SkippedItem:
    """What is passed over, by the name its author knows it by."""

    name: str
    reason: SkipReason


ReaderItem = Example | SkippedItem | Issue
ReadItemsFn = Callable[[], Iterable[ReaderItem]]


@dataclass(frozen=True)
class SourceShard:
    """Rows that lie together. `read` gives them in order, without the first so many.

    `test_of` names the benchmark whose test split they are.
    """

    name: str
    read: Callable[[int], Iterator[ReaderItem]]
    test_benchmark: str | None = None

    @classmethod
    def from_iterable(
        cls, name: str, read_items: ReadItemsFn, *, test_benchmark: str | None = None
    ) -> "SourceShard":
        """A shard whose rows are passed over by reading them."""
        return cls(name, partial(_read_from, read_items), test_benchmark)


@dataclass(frozen=True)
class SourceContext:
    """A source and where it lies; `audio` is where its recordings are, if not beside the list."""

    root: Path
    source: SourceConfig
    audio_dir: Path | None = None

    @classmethod
    def from_source(cls, document: Document, source: SourceConfig) -> "SourceContext":
        """Where a source of the document leads."""
        audio = source.audio
        return cls(
            resolve_path(document, source.path),
            source,
            resolve_path(document, audio) if audio else None,
        )

    @property
    def name(self) -> str:
        """The source, as its author writes it."""
        return Path(self.source.path).as_posix()

    def to_display_path(self, path: Path) -> str:
        """A path below the source, as its author would write it: relative to the document."""
        return Path(self.source.path, path.relative_to(self.root)).as_posix()

    def column_name(self, field_name: str) -> str:
        """What the source calls a column of ours."""
        return self.source.columns.get(field_name, field_name)

    def matches_path(self, path: str) -> bool:
        """Whether its patterns mean a path, which is relative to the source or its list."""
        path = path.lstrip("/")
        patterns = self.source.include or ("**",)
        plain = patterns == ("**/*",) and not self.source.exclude
        return plain or (
            matches_glob(path, patterns) and not matches_glob(path, self.source.exclude)
        )

    def make_example(
        self,
        segment: AudioSegment,
        text: str | None,
        location: str,
        *,
        language: str | None = None,
        speaker: str | None = None,
        prompt: str | None = None,
    ) -> Example:
        """A recording and what is said of it. Raises ClipError where that is nothing."""
        if text is None or not text.strip():
            raise DataError(EMPTY_TRANSCRIPT, hint="write what is said as text")
        asked = prompt or self.source.prompt
        parts = (segment, asked) if asked and asked.strip() else (segment,)
        turns = (Message("user", parts), Message("assistant", (text.strip(),)))
        task, spoken = self.source.task or "transcribe", language or self.source.language
        return Example(turns, location, task, spoken, speaker)


class IdRegistry:
    """The ids that were taken so far; a row that comes twice is told."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def register_id(self, record_id: str) -> None:
        """Raises ClipError for an id that another row has."""
        if hash(record_id) in self._seen:
            mend = "give each row an id of its own, or take one of them out"
            raise DataError(f"the id {record_id} comes twice", hint=mend)
        self._seen.add(hash(record_id))


def resolve_path(document: Document, raw_path: str | Path) -> Path:
    """Where a path in the document leads."""
    path = Path(raw_path)
    if path.parts[:1] == ("~",):
        path = Path.home().joinpath(*path.parts[1:])
    return document.folder / path


def _read_from(read_items: ReadItemsFn, start: int) -> Iterator[ReaderItem]:
    return islice(iter(read_items()), start, None)


SPLIT_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
SPLIT_SEPARATORS = "-_."  # of the word that tells it
SHARD_SUFFIX_RE = re.compile(r"[-_.]\d+(?:-of-\d+.*)?$")  # of a file, where a part has several


def detect_split(name: str) -> str | None:
    """What a folder or a file holds, by its name; None for a name that does not tell."""
    word = name.lower()
    for end in SPLIT_SEPARATORS:
        word = word.partition(end)[0]
    return next((part for part, names in SPLIT_ALIASES.items() if word in names), None)


def detect_file_split(root: Path, file: Path) -> str:
    """The part that a file is of: its own name says so, or a folder's on the way to it."""
    above = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    names = (SHARD_SUFFIX_RE.sub("", file.stem), *reversed(above))
    return next((name for name in names if detect_split(name)), "train")


def select_split_shards(
    context: SourceContext, shards: Mapping[str, Sequence[SourceShard]]
) -> list[SourceShard]:
    """The shards of the part that is taken; those of the others are passed over, and counted."""
    taken = resolve_splits(context, shards.keys())
    return [
        shard if part in taken else SourceShard(shard.name, partial(_skip_other_split, shard))
        for part, found in shards.items()
        for shard in found
    ]


def resolve_splits(context: SourceContext, splits: Collection[str]) -> list[str]:
    """Which of the parts a source takes. Raises ClipError where it names another."""
    there, said = ", ".join(sorted(splits)), context.source.split
    if said is None and len(splits) == 1:
        return list(splits)
    wanted = detect_split(said or "train")
    taken = [part for part in splits if part == said]
    plain = said is None or said.lower() in {
        name for names in SPLIT_ALIASES.values() for name in names
    }
    if not taken and wanted is not None and plain:
        taken = [part for part in splits if detect_split(part) == wanted]
    if not taken:
        what = f"no split {said}" if said else "no split for training"
        raise DataError(f"{what}: it has {there or 'none'}", hint="say which with split:")
    return taken


def _skip_other_split(shard: SourceShard, start: int) -> Iterator[ReaderItem]:
    """Every clip of a shard that is not taken, by its name alone."""
    for given in shard.read(start):
        if isinstance(given, Example):
            yield SkippedItem(given.location, "other split")
