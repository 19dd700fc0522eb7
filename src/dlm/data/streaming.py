"""Sources that are read while training (`stream: true`): shards dealt to workers, resumable.

    StreamSource   a source: its shards, its weight
    epoch          all of its shards, in an order drawn from the seed; each example comes once
    StreamWorker   one reader of several: it has every n-th shard of the epoch, or every n-th item
                   of each shard where there are fewer shards than workers
    StreamReader   the workers of one process; they begin the next epoch together
    StreamCursor   the position of a reader, from which it continues exactly

In memory is the item at hand of each open shard, however many there are.
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

END_OF_SHARDS = -1  # shard index of a worker whose epoch is over

ItemT = TypeVar("ItemT")
TransformFn = Callable[[Example], ItemT | None]  # None skips; a DataError becomes an issue


@dataclass(frozen=True)
class StreamWorker:
    """One reader of several.

    Attributes:
        index: from 0.
        num_workers: over all processes.
    """

    index: int
    num_workers: int


@dataclass(frozen=True)
class WorkerCursor:
    """The position of a worker in its epoch.

    Attributes:
        shard_index: among the shards that it reads, or END_OF_SHARDS.
        item_index: the first item that was not read.
        num_examples: given so far.
    """

    shard_index: int = 0
    item_index: int = 0
    num_examples: int = 0


@dataclass(frozen=True)
class StreamCursor:
    """The position of a reader: its epoch, and that of each worker."""

    epoch: int
    worker_cursors: tuple[WorkerCursor, ...]

    @property
    def state_values(self) -> tuple[int, ...]:
        """The cursor as plain numbers, for a checkpoint."""
        values = [self.epoch]
        for cursor in self.worker_cursors:
            values += (cursor.shard_index, cursor.item_index, cursor.num_examples)
        return tuple(values)

    @classmethod
    def from_state_values(cls, values: Sequence[int]) -> "StreamCursor":
        """Make the cursor that `state_values` was of."""
        epoch, *rest = values
        starts = range(0, len(rest), 3)
        return cls(epoch, tuple(WorkerCursor(*rest[start : start + 3]) for start in starts))


@dataclass(frozen=True)
class StreamSource:
    """A source as it is read.

    Attributes:
        name: as its author writes it; part of the seed of its order.
        shards: what can be read by itself.
        rules_fn: what the source makes of an item of its reader.
        weight: how often its examples are drawn, against other sources.
        max_examples: of an epoch; None for all. The shards are then read in their own order.
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
        """Yield the items of a worker in an epoch, from a cursor on, with the cursor after each."""
        cursor = cursor or WorkerCursor()
        shard_order = self._shuffle_shards(epoch, seed)
        has_whole_shards = len(shard_order) >= worker.num_workers
        if has_whole_shards:
            shard_order = shard_order[worker.index :: worker.num_workers]
        max_examples = None
        if self.max_examples is not None:
            max_examples = len(range(worker.index, self.max_examples, worker.num_workers))
        num_examples = cursor.num_examples
        for position in range(cursor.shard_index, len(shard_order)):
            shard_id = shard_order[position]
            start = cursor.item_index if position == cursor.shard_index else 0
            for item_index, raw_item in _iter_shard_items(self.shards[shard_id], start):
                if max_examples is not None and num_examples >= max_examples:
                    return
                owner = (item_index + shard_id) % worker.num_workers
                if has_whole_shards or owner == worker.index:
                    item = self.rules_fn(raw_item)
                    num_examples += isinstance(item, Example)
                    yield WorkerCursor(position, item_index + 1, num_examples), item

    def _shuffle_shards(self, epoch: int, seed: int) -> list[int]:
        order = list(range(len(self.shards)))
        if self.max_examples is None:
            random.Random(f"{seed}/{self.name}/{epoch}").shuffle(order)
        return order


@dataclass
class DrawResult(Generic[ItemT]):
    """What was drawn from a stream.

    Attributes:
        items: what `transform_fn` made of the examples.
        num_seen: examples that were transformed or found bad.
        issues: what is wrong with the bad ones.
    """

    items: list[ItemT] = field(default_factory=list)
    num_seen: int = 0
    issues: list[Issue] = field(default_factory=list)

    def merge_result(self, other: "DrawResult[ItemT]") -> None:
        """Add what another worker has drawn."""
        self.items += other.items
        self.num_seen += other.num_seen
        self.issues += other.issues


class StreamReader:
    """Reads one source with the workers of one process.

    Args:
        source: what is read.
        workers: those of this process.
        seed: draws the order of shards.
        cursor: where to continue; None begins the first epoch.

    Attributes:
        is_exhausted: a whole epoch gave nothing.
    """

    def __init__(
        self,
        source: StreamSource,
        workers: Sequence[StreamWorker],
        *,
        seed: int,
        cursor: StreamCursor | None = None,
    ) -> None:
        self._source, self._workers, self._seed = source, workers, seed
        self.weight, self.is_exhausted = source.weight, False
        self._start_epoch(cursor or StreamCursor(0, (WorkerCursor(),) * len(workers)))

    @property
    def cursor(self) -> StreamCursor:
        """The position after what was drawn."""
        return StreamCursor(self._epoch, tuple(reader.cursor for reader in self._readers))

    def draw_items(self, num_items: int, transform_fn: TransformFn[ItemT]) -> DrawResult[ItemT]:
        """Draw the next items; fewer where the epoch ends, so that none comes twice in a draw."""
        result = self._draw_from_epoch(num_items, transform_fn)
        if not result.items and num_items and not self.is_exhausted:
            self._start_epoch(StreamCursor(self._epoch + 1, (WorkerCursor(),) * len(self._workers)))
            result.merge_result(self._draw_from_epoch(num_items, transform_fn))
            self.is_exhausted = not result.items
        return result

    def _draw_from_epoch(
        self, num_items: int, transform_fn: TransformFn[ItemT]
    ) -> DrawResult[ItemT]:
        result: DrawResult[ItemT] = DrawResult()
        draw = partial(_draw_worker_items, transform_fn=transform_fn)
        with ThreadPoolExecutor(len(self._workers)) as pool:
            while num_missing := num_items - len(result.items):
                readers = [reader for reader in self._readers if not reader.is_finished]
                if not readers:
                    break
                counts = [
                    len(range(index, num_missing, len(readers))) for index in range(len(readers))
                ]
                for drawn in pool.map(draw, readers, counts):
                    result.merge_result(drawn)
        return result

    def _start_epoch(self, cursor: StreamCursor) -> None:
        self._epoch = cursor.epoch
        self._readers = [
            _WorkerReader(
                self._source.iter_items(
                    worker, epoch=cursor.epoch, seed=self._seed, cursor=worker_cursor
                ),
                worker_cursor,
            )
            for worker, worker_cursor in zip(self._workers, cursor.worker_cursors, strict=True)
        ]


@dataclass
class _WorkerReader:
    """A worker in the middle of its epoch."""

    items: Iterator[tuple[WorkerCursor, ReaderItem]]
    cursor: WorkerCursor

    @property
    def is_finished(self) -> bool:
        """Whether its epoch is over."""
        return self.cursor.shard_index == END_OF_SHARDS


def open_stream_sources(document: Document) -> tuple[StreamSource, ...]:
    """Open all that a document gives to train on: its own sections first, then its sources.

    Raises:
        DataError: a source cannot be read at all.
    """
    name = document.path.name
    sections = SourceShard.from_iterable(name, partial(iter_document_examples, document))
    sources: list[StreamSource] = []
    if any(sections.read(0)):
        sources.append(StreamSource(name, (sections,), lambda item: item))
    for source, is_held_out in iter_sources(document.config.training):
        if is_held_out:
            continue
        context = resolve_source(document, source)
        shards = tuple(find_reader(context).list_shards(context))
        rules_fn = partial(apply_source_rules, document, context)
        sources.append(
            StreamSource(context.name, shards, rules_fn, source.weight, source.max_files)
        )
    return tuple(sources)


def _iter_shard_items(shard: SourceShard, start: int) -> Iterator[tuple[int, ReaderItem]]:
    """Yield the items of a shard with their indices; the last may be why it cannot be read."""
    index = start
    try:
        for item in shard.read(start):
            yield index, item
            index += 1
    except DataError as error:
        yield index, Issue.from_error(error, shard.name)


def _draw_worker_items(
    reader: _WorkerReader, num_items: int, transform_fn: TransformFn[ItemT]
) -> DrawResult[ItemT]:
    """Draw the next items of a worker; fewer where its epoch ends."""
    result: DrawResult[ItemT] = DrawResult()
    while len(result.items) < num_items:
        entry = next(reader.items, None)
        if entry is None:
            reader.cursor = replace(reader.cursor, shard_index=END_OF_SHARDS)
            break
        reader.cursor, item = entry
        transformed = _transform_item(item, transform_fn)
        if isinstance(transformed, Issue):
            result.issues.append(transformed)
        elif transformed is not None:
            result.items.append(transformed)
    result.num_seen = len(result.items) + len(result.issues)
    return result


def _transform_item(item: ReaderItem, transform_fn: TransformFn[ItemT]) -> ItemT | Issue | None:
    """What is made of an item, or what is wrong with it; None where it is skipped."""
    if isinstance(item, Issue):
        return item if item.fatal else None
    if not isinstance(item, Example):
        return None
    try:
        return transform_fn(item)
    except DataError as error:
        return Issue.from_error(error, item.location)
