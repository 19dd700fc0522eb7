"""Streams: each worker has its share of an epoch, and continues from any item."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.load import MAX_STREAM_SAMPLE_EXAMPLES, load_examples
from dlm.data.readers.base import ReaderItem, SkippedItem, SourceShard
from dlm.data.streaming import (
    StreamCursor,
    StreamReader,
    StreamSource,
    StreamWorker,
    WorkerCursor,
    open_stream_sources,
)
from dlm.data.types import Example, Issue, Message
from dlm.errors import DataError
from tests.data.readers.format_fixtures import FORMAT_FIXTURES
from tests.data.recordings import create_document, save_audio, save_with_transcript

SHARDS = st.lists(st.integers(0, 9), min_size=1, max_size=12)
NUM_WORKERS = st.integers(1, 6)


def make_example(location: str) -> Example:
    return Example((Message("assistant", ("a word",)),), location, "text")


def iter_items(shard: int, count: int) -> Iterator[ReaderItem]:
    """Clips, and between them what is none."""
    for row in range(count):
        if row % 4 == 3:
            yield SkippedItem(f"{shard}/{row}", "data.not_audio")
        yield make_example(f"{shard}/{row}")


def make_source(counts: list[int], **more: object) -> StreamSource:
    """Shards of so many clips each."""
    shards = [
        SourceShard.from_iterable(f"shard {at}", partial(iter_items, at, count))
        for at, count in enumerate(counts)
    ]
    return StreamSource("source", tuple(shards), lambda given: given, **more)


def all_locations(counts: list[int]) -> list[str]:
    return sorted(f"{at}/{row}" for at, count in enumerate(counts) for row in range(count))


def read_worker(
    source: StreamSource, worker: StreamWorker, epoch: int, cursor: WorkerCursor | None = None
) -> list[tuple[WorkerCursor, str]]:
    items = source.iter_items(worker, epoch=epoch, seed=1, cursor=cursor)
    return [
        (cursor_after, each.location) for cursor_after, each in items if isinstance(each, Example)
    ]


@given(counts=SHARDS, num_workers=NUM_WORKERS, epoch=st.integers(0, 3))
def test_each_example_of_an_epoch_is_given_to_one_worker(
    counts: list[int], num_workers: int, epoch: int
) -> None:
    dealt = [
        read_worker(make_source(counts), StreamWorker(number, num_workers), epoch)
        for number in range(num_workers)
    ]
    assert sorted(location for each in dealt for _, location in each) == all_locations(counts)


@given(counts=SHARDS, num_workers=NUM_WORKERS, data=st.data())
def test_a_worker_continues_from_any_cursor(
    counts: list[int], num_workers: int, data: st.DataObject
) -> None:
    worker = StreamWorker(data.draw(st.integers(0, num_workers - 1)), num_workers)
    source = make_source(counts, max_examples=data.draw(st.none() | st.integers(1, 20)))
    whole = read_worker(source, worker, 2)
    if whole:
        at = data.draw(st.integers(0, len(whole) - 1))
        assert read_worker(source, worker, 2, whole[at][0]) == whole[at + 1 :]


@given(counts=SHARDS, num_workers=NUM_WORKERS, max_examples=st.integers(1, 30))
def test_an_epoch_gives_no_more_than_max_examples(
    counts: list[int], num_workers: int, max_examples: int
) -> None:
    source = make_source(counts, max_examples=max_examples)
    epochs = [
        sorted(
            location
            for number in range(num_workers)
            for _, location in read_worker(source, StreamWorker(number, num_workers), epoch)
        )
        for epoch in range(2)
    ]
    assert len(epochs[0]) <= max_examples and len(set(epochs[0])) == len(epochs[0])
    assert epochs[0] == epochs[1]


def test_shards_come_in_another_order_in_each_epoch() -> None:
    orders = [
        [location for _, location in read_worker(make_source([1] * 20), StreamWorker(0, 1), epoch)]
        for epoch in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]
    reader = StreamReader(make_source([1] * 20), [StreamWorker(0, 1)], seed=1)
    epochs = [
        [each.location for each in reader.draw_items(20, lambda each: each).items] for _ in range(2)
    ]
    assert epochs == orders[:2]


@given(
    counts=SHARDS.filter(any),
    num_workers=st.integers(1, 4),
    draws=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    cut=st.integers(0, 11),
)
def test_epochs_follow_one_another_and_continue_from_any_cursor(
    counts: list[int], num_workers: int, draws: list[int], cut: int
) -> None:
    def make_reader(location: StreamCursor | None = None) -> StreamReader:
        return StreamReader(
            make_source(counts),
            [StreamWorker(at, num_workers) for at in range(num_workers)],
            seed=1,
            cursor=location,
        )

    whole, seen, cursors = make_reader(), [], []
    for wanted in draws:
        cursors.append(StreamCursor.from_state_values(whole.cursor.state_values))
        seen.append([each.location for each in whole.draw_items(wanted, lambda each: each).items])
    assert all(0 < len(each) <= wanted for each, wanted in zip(seen, draws, strict=True))
    flat = [location for each in seen for location in each]
    every = all_locations(counts)
    for at in range(0, len(flat), len(every)):
        several = flat[at : at + len(every)]
        assert sorted(several) == every if len(several) == len(every) else len(set(several))
    cut = min(cut, len(draws) - 1)
    again = make_reader(cursors[cut])
    for wanted, before in zip(draws[cut:], seen[cut:], strict=True):
        assert [
            each.location for each in again.draw_items(wanted, lambda each: each).items
        ] == before


def test_a_source_that_gives_nothing_is_exhausted() -> None:
    reader = StreamReader(make_source([3]), [StreamWorker(0, 1)], seed=1)
    assert reader.draw_items(5, lambda each: None).items == []
    assert reader.is_exhausted


def test_bad_examples_are_reported_and_the_rest_is_drawn(tmp_path: Path) -> None:
    def make(each: Example) -> str:
        if each.location == "0/1":
            raise DataError("it cannot be learned", hint="mend it", code="data.test")
        return each.location

    def broken() -> Iterator[ReaderItem]:
        yield make_example("whole")
        yield Issue("list:2", "not JSON", "mend it", fatal=True, code="data.test")
        yield Issue("list:3", "odd", "look at it", fatal=False, code="data.test")
        raise DataError("the file ends", where="list:4", hint="copy it again", code="data.test")

    shards = (*make_source([3]).shards, SourceShard.from_iterable("list", broken))
    drawn = StreamReader(
        StreamSource("source", shards, lambda given: given), [StreamWorker(0, 1)], seed=1
    ).draw_items(10, make)
    assert sorted(drawn.items) == ["0/0", "0/2", "whole"]
    assert sorted(map(str, drawn.issues)) == [
        "0/1: it cannot be learned; mend it",
        "list: list:4: the file ends; copy it again",
        "list:2: not JSON; mend it",
    ]
    assert drawn.num_seen == 6


HEAD = """system_prompt: Listen.
training:
  sources_policy: strict
  sources:
    - {path: lists, format: folder, exclude: ["b*"], weight: 2}
    - {path: list.jsonl, stream: true, max_files: 4}
    - {path: kept}
  held_out: kept
"""


def write_sources(folder: Path) -> Path:
    for name in "abc":
        save_with_transcript(folder / f"lists/{name}.wav", f"it is {name}")
    save_with_transcript(folder / "kept/d.wav", "it is d")
    save_audio(folder / "e.wav")
    lines = [
        json.dumps({"audio": "e.wav", "text": f"row {row}"})
        for row in range(2 * MAX_STREAM_SAMPLE_EXAMPLES)
    ]
    (folder / "list.jsonl").write_text("\n".join(["no row", *lines]))
    return folder


def test_sections_and_each_source_of_a_document_are_streams(tmp_path: Path) -> None:
    source = open_stream_sources(
        create_document(write_sources(tmp_path), "A word of its own.\n", head=HEAD)
    )
    assert [(each.name, each.weight, each.max_examples) for each in source] == [
        ("my.dlm", 1.0, None),
        ("lists", 2.0, None),
        ("list.jsonl", 1.0, 4),
    ]
    given = [
        [each for _, each in make_source.iter_items(StreamWorker(0, 1))] for make_source in source
    ]
    assert [type(each) for each in given[0]] == [Example]
    cursors = [each for each in given[1] if isinstance(each, Example)]
    assert [each.target for each in cursors] == ["it is a", "it is c"]
    assert cursors[0].messages[0] == Message("system", ("Listen.",))
    assert Counter(type(each).__name__ for each in given[2]) == {"Example": 4, "Issue": 1}


def test_no_more_than_a_sample_of_a_stream_is_listed(tmp_path: Path) -> None:
    made = write_sources(tmp_path)
    items = load_examples(create_document(made, head=HEAD.replace(", max_files: 4", "")))
    assert [each.audio_count for each in items.sources] == [2, MAX_STREAM_SAMPLE_EXAMPLES - 1, 1]
    assert [each.target for each in items.held_out_examples] == ["it is d"]


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source not found: nowhere; make the folder"):
        open_stream_sources(
            create_document(tmp_path, head="training: {sources: [{path: nowhere, stream: true}]}\n")
        )


@pytest.mark.parametrize("name", sorted(FORMAT_FIXTURES))
def test_every_format_can_be_streamed(name: str, tmp_path: Path) -> None:
    source = {**FORMAT_FIXTURES[name](tmp_path), "stream": True}
    head = yaml.safe_dump({"training": {"sources": [source]}}, allow_unicode=True)
    made = create_document(tmp_path, head=head)
    listed = Counter(load_examples(made).examples)
    (source,) = open_stream_sources(made)
    for num_workers in (1, 3):
        dealt = [
            each
            for number in range(num_workers)
            for _, each in source.iter_items(StreamWorker(number, num_workers))
        ]
        assert Counter(each for each in dealt if isinstance(each, Example)) == listed
    for shard in source.shards:
        whole = list(shard.read(0))
        assert all(list(shard.read(at)) == whole[at:] for at in range(len(whole) + 1))
