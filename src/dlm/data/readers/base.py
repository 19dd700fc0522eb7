"""What a reader gets and what it yields: the context of a source, its shards, and their items.

    SourceContext            where a source lies, with its columns, patterns and split
    └── SourceShard          one file or folder of it, read from any item on
        ├── Example          what can be trained on
        ├── SkippedItem      what is left out, counted by its code
        └── Issue            what is wrong with a record, with its line

Nothing is opened before a shard is read, and one record is in memory at a time.

Splits go by the names of folders and files; a source without `split` takes train:

    train        training, train-clean-100, train.360
    validation   valid, val, dev, eval, dev-other
    test         testing, test-clean
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
SPLIT_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
SPLIT_SEPARATOR_RE = re.compile(r"[-_.]")  # behind the alias: test-clean
SHARD_SUFFIX_RE = re.compile(r"[-_.]\d+(?:-of-\d+.*)?$")  # of a file: train-00000-of-00002

UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

SkipCode = Literal[
    "data.no_transcript",
    "data.no_recording",
    "data.not_audio",
    "data.excluded",
    "data.other_split",
    "data.over_max_files",
    "audio.unknown_format",
]


@dataclass(frozen=True)
class SkippedItem:
    """What is left out, by the name its author knows it by."""

    name: str
    code: SkipCode


ReaderItem = Example | SkippedItem | Issue


@dataclass(frozen=True)
class SourceShard:
    """Items that are read in order.

    Attributes:
        name: the file or folder, as the author of the source writes it.
        read: yields the items, without the first so many.
        test_benchmark: the benchmark whose test split they are, if they are one.
    """

    name: str
    read: Callable[[int], Iterator[ReaderItem]]
    test_benchmark: str | None = None

    @classmethod
    def from_iterable(
        cls,
        name: str,
        read_items: Callable[[], Iterable[ReaderItem]],
        *,
        test_benchmark: str | None = None,
    ) -> "SourceShard":
        """Make a shard whose first items are passed over by reading them."""
        return cls(name, lambda start: islice(iter(read_items()), start, None), test_benchmark)


@dataclass(frozen=True)
class SourceContext:
    """A source of a document and where it lies.

    Attributes:
        root: its file or folder; for a dataset of the hub, a path that does not exist.
        source: its fields in the document.
        audio_dir: the folder of its recordings, where they are not beside the list.
    """

    root: Path
    source: SourceConfig
    audio_dir: Path | None = None

    @classmethod
    def from_source(cls, document: Document, source: SourceConfig) -> "SourceContext":
        """Resolve the paths of a source against the folder of its document."""
        audio_dir = resolve_path(document, source.audio) if source.audio else None
        return cls(resolve_path(document, source.path), source, audio_dir)

    @property
    def name(self) -> str:
        """The source, as its author writes it."""
        return Path(self.source.path).as_posix()

    def to_display_path(self, path: Path) -> str:
        """Write a path below the source as its author would: relative to the document."""
        return Path(self.source.path, path.relative_to(self.root)).as_posix()

    def column_name(self, field_name: str) -> str:
        """Return what the source calls a field; the field's own name by default."""
        return self.source.columns.get(field_name, field_name)

    def matches_path(self, path: str) -> bool:
        """Whether `include` and `exclude` select a path, relative to the source or its list."""
        include, exclude = self.source.include or ("**",), self.source.exclude
        if include == ("**/*",) and not exclude:
            return True
        path = path.lstrip("/")
        return matches_glob(path, include) and not matches_glob(path, exclude)

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
        """Make the example of a recording and its text.

        What the record leaves open, the source says: task, language, prompt.

        Raises:
            DataError: there is no text (`data.empty_transcript`).
        """
        if text is None or not text.strip():
            hint = "write what is said as text"
            raise DataError(EMPTY_TRANSCRIPT, hint=hint, code="data.empty_transcript")
        prompt = prompt or self.source.prompt
        content = (segment, prompt) if prompt and prompt.strip() else (segment,)
        messages = (Message("user", content), Message("assistant", (text.strip(),)))
        task, language = self.source.task or "transcribe", language or self.source.language
        return Example(messages, location, task, language, speaker)


class IdRegistry:
    """The ids of the records so far, as hashes."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def register_id(self, record_id: str) -> None:
        """Note an id. Raises DataError where another record has it (`data.duplicate_id`)."""
        if hash(record_id) in self._hashes:
            what = f"the id {record_id} appears twice"
            hint = "give each record an id of its own, or take one of them out"
            raise DataError(what, hint=hint, code="data.duplicate_id")
        self._hashes.add(hash(record_id))


def resolve_path(document: Document, raw_path: str | Path) -> Path:
    """Resolve a path of the document against its folder; `~` is the home folder."""
    path = Path(raw_path)
    if path.parts[:1] == ("~",):
        path = Path.home().joinpath(*path.parts[1:])
    return document.folder / path


def decode_text(data: bytes, name: str) -> str:
    """Decode the bytes of a text in UTF-8, with or without its byte order mark.

    Args:
        data: all of them.
        name: what they are, for the error.

    Raises:
        DataError: they are UTF-16 or another encoding (`data.not_utf8`), or no text
            (`data.bad_characters`).
    """
    if data[:2] in UTF16_BOMS or data.count(0) > len(data) // 4:  # half of Latin in UTF-16 is zero
        what, hint = (
            f"{name} is not UTF-8 (byte 1): it is UTF-16",
            "save it as UTF-8: `iconv -f utf-16 -t utf-8 in > out`",
        )
        raise DataError(what, hint=hint, code="data.not_utf8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{name} is not UTF-8 (byte {error.start + 1})"
        hint = "save it as UTF-8: `iconv -f latin1 -t utf-8 in.txt > out.txt`"
        raise DataError(what, hint=hint, code="data.not_utf8") from error
    if "\0" in text:
        what, hint = f"{name} holds a zero byte: it is no text", "write it as UTF-8 text"
        raise DataError(what, hint=hint, code="data.bad_characters")
    return text


def detect_split(name: str) -> str | None:
    """Return train, validation or test where the name of a folder or file begins with an alias."""
    alias = SPLIT_SEPARATOR_RE.split(name.lower(), maxsplit=1)[0]
    return next((split for split, names in SPLIT_ALIASES.items() if alias in names), None)


def detect_file_split(root: Path, file: Path) -> str:
    """Return the first name with an alias: the file's, or a folder's from it up to `root`."""
    folders = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    names = (SHARD_SUFFIX_RE.sub("", file.stem), *reversed(folders))
    return next((name for name in names if detect_split(name)), "train")


def select_split_shards(
    context: SourceContext, shards: Mapping[str, Sequence[SourceShard]]
) -> list[SourceShard]:
    """Keep the shards of the source's split; the examples of the others are skipped and counted.

    Raises:
        DataError: there is no such split (`source.no_split`).
    """
    selected = resolve_splits(context, shards.keys())
    return [
        shard if split in selected else SourceShard(shard.name, partial(_skip_other_split, shard))
        for split, split_shards in shards.items()
        for shard in split_shards
    ]


def resolve_splits(context: SourceContext, splits: Collection[str]) -> list[str]:
    """Return the splits that the source takes: the one of that name, or all of that kind.

    Raises:
        DataError: there is none (`source.no_split`).
    """
    requested = context.source.split
    if requested is None and len(splits) == 1:
        return list(splits)
    if requested is not None and requested in splits:
        return [requested]
    kind = detect_split(requested or "train")
    # `dev` stands for all of its kind; `dev-other` means only itself
    if kind is not None and (requested is None or requested.lower() in SPLIT_ALIASES[kind]):
        selected = [split for split in splits if detect_split(split) == kind]
        if selected:
            return selected
    what = f"no split {requested}" if requested else "no split for training"
    raise DataError(
        f"{what}: it has {', '.join(sorted(splits)) or 'none'}",
        hint="choose one with split:",
        code="source.no_split",
    )


def _skip_other_split(shard: SourceShard, start: int) -> Iterator[ReaderItem]:
    for item in shard.read(start):
        if isinstance(item, Example):
            yield SkippedItem(item.location, "data.other_split")
