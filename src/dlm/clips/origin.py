"""What a format is asked, and what it gives: shards of rows, each a clip, a skip or a problem.

    Origin   a source and where it lies: names as the author writes them, its columns, its patterns
    Shard    a part of it that can be read by itself, from any row on
    Given    Clip        what can be learned
             Skipped     what is passed over, and counted
             Problem     what is wrong with a row, with its line

Nothing is opened before a shard is read, and no more of it is held than the row at hand.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from dlm.clips.clip import Clip, Problem, Sound, Turn
from dlm.clips.walk import matches
from dlm.document.document import Document
from dlm.document.sources import Source
from dlm.errors import ClipError

EMPTY_TRANSCRIPT = "AUDIO section has empty transcript"

Why = Literal["no transcript", "no recording", "not audio", "not read", "excluded", "other split"]


@dataclass(frozen=True)
class Skipped:
    """What is passed over, by the name its author knows it by."""

    name: str
    why: Why


Given = Clip | Skipped | Problem
Rows = Callable[[], Iterable[Given]]


@dataclass(frozen=True)
class Shard:
    """Rows that lie together. `read` gives them in order, without the first so many.

    `test_of` names the benchmark whose test split they are.
    """

    name: str
    read: Callable[[int], Iterator[Given]]
    test_of: str | None = None

    @classmethod
    def of(cls, name: str, rows: Rows, *, test_of: str | None = None) -> "Shard":
        """A shard whose rows are passed over by reading them."""
        return cls(name, partial(_after, rows), test_of)


@dataclass(frozen=True)
class Origin:
    """A source and where it lies; `audio` is where its recordings are, if not beside the list."""

    root: Path
    source: Source
    audio: Path | None = None

    @classmethod
    def of(cls, document: Document, source: Source) -> "Origin":
        """Where a source of the document leads."""
        audio = source.audio
        return cls(
            located(document, source.path), source, located(document, audio) if audio else None
        )

    @property
    def name(self) -> str:
        """The source, as its author writes it."""
        return Path(self.source.path).as_posix()

    def named(self, path: Path) -> str:
        """A path below the source, as its author would write it: relative to the document."""
        return Path(self.source.path, path.relative_to(self.root)).as_posix()

    def column(self, ours: str) -> str:
        """What the source calls a column of ours."""
        return self.source.columns.get(ours, ours)

    def means(self, path: str) -> bool:
        """Whether its patterns mean a path, which is relative to the source or its list."""
        path = path.lstrip("/")
        patterns = self.source.include or ("**",)
        plain = patterns == ("**/*",) and not self.source.exclude
        return plain or (matches(path, patterns) and not matches(path, self.source.exclude))

    def clip(
        self,
        sound: Sound,
        text: str | None,
        place: str,
        *,
        language: str | None = None,
        speaker: str | None = None,
        prompt: str | None = None,
    ) -> Clip:
        """A recording and what is said of it. Raises ClipError where that is nothing."""
        if text is None or not text.strip():
            raise ClipError(EMPTY_TRANSCRIPT, mend="write what is said as text")
        asked = prompt or self.source.prompt
        parts = (sound, asked) if asked and asked.strip() else (sound,)
        turns = (Turn("user", parts), Turn("assistant", (text.strip(),)))
        task, spoken = self.source.task or "transcribe", language or self.source.language
        return Clip(turns, place, task, spoken, speaker)


class Ids:
    """The ids that were taken so far; a row that comes twice is told."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, name: str) -> None:
        """Raises ClipError for an id that another row has."""
        if hash(name) in self._taken:
            mend = "give each row an id of its own, or take one of them out"
            raise ClipError(f"the id {name} comes twice", mend=mend)
        self._taken.add(hash(name))


def located(document: Document, written: str | Path) -> Path:
    """Where a path in the document leads."""
    path = Path(written)
    if path.parts[:1] == ("~",):
        path = Path.home().joinpath(*path.parts[1:])
    return document.folder / path


def _after(rows: Rows, first: int) -> Iterator[Given]:
    return islice(iter(rows()), first, None)
