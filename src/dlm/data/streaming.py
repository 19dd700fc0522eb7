"""Clips too many to list: dealt out to hands, and read row by row from any place on.

    Feed     a source as it is read: its shards, and how much of what is drawn comes from it
    pass     all of its shards, in an order that the seed draws; every clip comes once
    Hand     one reader of several: every so-manieth shard of the pass is its own, or, where there
             are fewer shards than hands, every so-manieth row of each
    Tap      a feed in one process: its hands go through a pass side by side, and begin the next
             one together
    Place    where a tap stands: all before it was given in this pass, all after it comes

What is held is the row at hand of each shard that is open, whatever their number.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from dlm.config.parser import Document
from dlm.data.load import apply_source_rules, iter_document_examples, iter_sources, resolve_source
from dlm.data.readers.base import ReaderItem, SourceShard
from dlm.data.readers.registry import find_reader
from dlm.data.types import Example, Issue
from dlm.errors import DataError

END_OF_SHARDS = -1  # no shard: the pass is over

ItemT = TypeVar("ItemT")
TransformFn = Callable[
    [Example], ItemT | None
]  # None passes a clip over, ClipError says what is wrong


@dataclass(frozen=True)
class StreamWorker:
    """Which reader, of how many."""

    index: int
    num_workers: int


@dataclass(frozen=True)
class WorkerCursor:
    """Where a hand stands in its pass."""

    shard_index: int = 0  # of those that it reads, or END
    item_index: int = 0  # the first that was not read
    num_examples: int = 0  # given so far


@dataclass(frozen=True)
class StreamCursor:
    """Where a tap stands: its pass, and the spot of each hand."""

    epoch: int
    worker_cursors: tuple[WorkerCursor, ...]

    @property
    def state_values(self) -> tuple[int, ...]:
        """The same, for a state that is kept."""
        return (self.epoch, *(each for spot in self.worker_cursors for each in vars(spot).values()))

    @classmethod
    def from_state_values(cls, values: Sequence[int]) -> "StreamCursor":
        """What `numbers` said."""
        turn, *rest = values
        return cls(turn, tuple(WorkerCursor(*rest[at : at + 3]) for at in range(0, len(rest), 3)))


@dataclass(frozen=True)
class StreamSource:
    """A source as it is read.

    `take` is what the source makes of a row; at most so many clips of a pass are given.
    """

    name: str
    shards: tuple[SourceShard, ...]
    rules_fn: Callable[[ReaderItem], ReaderItem]
    weight: float = 1.0
    max_examples: int | None = None

    def iter_items(
        self,
        worker: StreamWorker,
        *,
        epoch: int = 0,
        seed: int = 0,
        cursor: WorkerCursor | None = None,
    ) -> Iterator[tuple[WorkerCursor, ReaderItem]]:
        """What a hand has of a pass, from a spot on; with each, the spot after it."""
        cursor = cursor or WorkerCursor()
        order = self._shuffle_shards(epoch, seed)
        whole = len(order) >= worker.num_workers
        mine = order[worker.index :: worker.num_workers] if whole else order
        most = (
            None
            if self.max_examples is None
            else len(range(worker.index, self.max_examples, worker.num_workers))
        )
        clips = cursor.num_examples
        for at in range(cursor.shard_index, len(mine)):
            first = cursor.item_index if at == cursor.shard_index else 0
            for row, given in _iter_shard_items(self.shards[mine[at]], first):
                if most is not None and clips >= most:
                    return
                if whole or (row + mine[at]) % worker.num_workers == worker.index:
                    one = self.rules_fn(given)
                    clips += isinstance(one, Example)
                    yield WorkerCursor(at, row + 1, clips), one

    def _shuffle_shards(self, epoch: int, seed: int) -> list[int]:
        """Its shards as they come in a pass; as they are where only the first clips are asked."""
        order = list(range(len(self.shards)))
        if self.max_examples is None:
            random.Random(f"{seed}/{self.name}/{epoch}").shuffle(order)
        return order


@dataclass
class DrawResult(Generic[ItemT]):
    """What came of some rows: what was made of them, and of how many clips; what was wrong."""

    items: list[ItemT] = field(default_factory=list)
    num_seen: int = 0
    issues: list[Issue] = field(default_factory=list)

    def merge_result(self, other: "DrawResult[ItemT]") -> None:
        """Take in what another hand has drawn."""
        self.items += other.items
        self.num_seen += other.num_seen
        self.issues += other.issues


class StreamReader:
    """One feed, as the hands of one process read it."""

    def __init__(
        self,
        source: StreamSource,
        workers: Sequence[StreamWorker],
        *,
        seed: int,
        cursor: StreamCursor | None = None,
    ) -> None:
        """`place` is where it stood when it was left."""
        self._source, self._workers, self._seed = source, workers, seed
        self.weight, self.is_exhausted = source.weight, False
        self._start_epoch(cursor or StreamCursor(0, (WorkerCursor(),) * len(workers)))

    @property
    def cursor(self) -> StreamCursor:
        """Where it stands."""
        return StreamCursor(self._epoch, tuple(each.cursor for each in self._readers))

    def draw_items(self, num_items: int, transform_fn: TransformFn[ItemT]) -> DrawResult[ItemT]:
        """The next so many of what can be made of its clips, fewer where its pass ends.

        A clip never comes twice in what is drawn at once. It is `dry` once a pass gave nothing.
        """
        drawn = self._draw_from_epoch(num_items, transform_fn)
        if not drawn.items and num_items and not self.is_exhausted:
            self._start_epoch(StreamCursor(self._epoch + 1, (WorkerCursor(),) * len(self._workers)))
            drawn.merge_result(self._draw_from_epoch(num_items, transform_fn))
            self.is_exhausted = not drawn.items
        return drawn

    def _draw_from_epoch(
        self, num_items: int, transform_fn: TransformFn[ItemT]
    ) -> DrawResult[ItemT]:
        drawn: DrawResult[ItemT] = DrawResult()
        with ThreadPoolExecutor(len(self._workers)) as pool:
            while left := num_items - len(drawn.items):
                ready = [each for each in self._readers if not each.is_finished]
                if not ready:
                    break
                shares = [len(range(at, left, len(ready))) for at in range(len(ready))]
                for found in pool.map(
                    partial(_draw_worker_items, transform_fn=transform_fn), ready, shares
                ):
                    drawn.merge_result(found)
        return drawn

    def _start_epoch(self, cursor: StreamCursor) -> None:
        self._epoch = cursor.epoch
        self._readers = [
            _WorkerReader(
                self._source.iter_items(hand, epoch=cursor.epoch, seed=self._seed, cursor=spot),
                spot,
            )
            for hand, spot in zip(self._workers, cursor.worker_cursors, strict=True)
        ]


@dataclass
class _WorkerReader:
    """A hand in the middle of its pass."""

    items: Iterator[tuple[WorkerCursor, ReaderItem]]
    cursor: WorkerCursor

    @property
    def is_finished(self) -> bool:
        """Whether its pass has ended."""
        return self.cursor.shard_index == END_OF_SHARDS


def open_stream_sources(document: Document) -> tuple[StreamSource, ...]:
    """Everything the document gives, each source a feed, its own clips the first.

    Raises ClipError for a source that cannot be read at all.
    """
    own = SourceShard.from_iterable(document.path.name, partial(iter_document_examples, document))
    found = (
        [StreamSource(document.path.name, (own,), lambda given: given)] if any(own.read(0)) else []
    )
    for source, tested in iter_sources(document.config.training):
        if tested:
            continue
        origin = resolve_source(document, source)
        shards = tuple(find_reader(origin).list_shards(origin))
        take = partial(apply_source_rules, document, origin)
        found.append(StreamSource(origin.name, shards, take, source.weight, source.max_files))
    return tuple(found)


def _iter_shard_items(shard: SourceShard, start: int) -> Iterator[tuple[int, ReaderItem]]:
    """The rows of a shard with their numbers; why it cannot be read is a row too."""
    row = start
    try:
        for given in shard.read(start):
            yield row, given
            row += 1
    except DataError as error:
        yield row, Issue.from_error(error, shard.name)


def _draw_worker_items(
    reader: _WorkerReader, num_items: int, transform_fn: TransformFn[ItemT]
) -> DrawResult[ItemT]:
    """The next so many of what can be made of a reader's clips."""
    drawn: DrawResult[ItemT] = DrawResult()
    while len(drawn.items) < num_items:
        found = next(reader.items, None)
        if found is None:
            reader.cursor = replace(reader.cursor, shard_index=END_OF_SHARDS)
            break
        reader.cursor, given = found
        made = _transform_item(given, transform_fn)
        if isinstance(made, Issue):
            drawn.issues.append(made)
        elif made is not None:
            drawn.items.append(made)
    drawn.num_seen = len(drawn.items) + len(drawn.issues)
    return drawn


def _transform_item(item: ReaderItem, transform_fn: TransformFn[ItemT]) -> ItemT | Issue | None:
    """What is made of a row, or what is wrong with it; None where it is passed over."""
    if isinstance(item, Issue):
        return item if item.fatal else None
    if not isinstance(item, Example):
        return None
    try:
        return transform_fn(item)
    except DataError as error:
        return Issue.from_error(error, item.location)
