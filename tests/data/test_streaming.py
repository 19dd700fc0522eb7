"""Clips that are not listed: each hand has its share of a pass, and goes on from any row."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

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
from tests.data.keepers import KEEPERS
from tests.data.sounds import document, pair, save

SHARDS = some.lists(some.integers(0, 9), min_size=1, max_size=12)
HANDS = some.integers(1, 6)


def clip(place: str) -> Example:
    return Example((Message("assistant", ("a word",)),), place, "text")


def rows(shard: int, count: int) -> Iterator[ReaderItem]:
    """Clips, and between them what is none."""
    for row in range(count):
        if row % 4 == 3:
            yield SkippedItem(f"{shard}/{row}", "not audio")
        yield clip(f"{shard}/{row}")


def feed(counts: list[int], **more: object) -> StreamSource:
    """Shards of so many clips each."""
    shards = [
        SourceShard.from_iterable(f"shard {at}", partial(rows, at, count))
        for at, count in enumerate(counts)
    ]
    return StreamSource("feed", tuple(shards), lambda given: given, **more)


def places(counts: list[int]) -> list[str]:
    return sorted(f"{at}/{row}" for at, count in enumerate(counts) for row in range(count))


def read(
    of: StreamSource, hand: StreamWorker, turn: int, spot: WorkerCursor | None = None
) -> list[tuple[WorkerCursor, str]]:
    found = of.iter_items(hand, epoch=turn, seed=1, cursor=spot)
    return [(after, each.location) for after, each in found if isinstance(each, Example)]


@given(counts=SHARDS, hands=HANDS, turn=some.integers(0, 3))
def test_each_clip_of_a_pass_falls_to_one_hand(counts: list[int], hands: int, turn: int) -> None:
    dealt = [read(feed(counts), StreamWorker(number, hands), turn) for number in range(hands)]
    assert sorted(place for each in dealt for _, place in each) == places(counts)


@given(counts=SHARDS, hands=HANDS, data=some.data())
def test_a_hand_goes_on_from_any_spot(counts: list[int], hands: int, data: some.DataObject) -> None:
    hand = StreamWorker(data.draw(some.integers(0, hands - 1)), hands)
    of = feed(counts, max_examples=data.draw(some.none() | some.integers(1, 20)))
    whole = read(of, hand, 2)
    if whole:
        at = data.draw(some.integers(0, len(whole) - 1))
        assert read(of, hand, 2, whole[at][0]) == whole[at + 1 :]


@given(counts=SHARDS, hands=HANDS, most=some.integers(1, 30))
def test_no_more_clips_of_a_pass_are_given_than_asked(
    counts: list[int], hands: int, most: int
) -> None:
    of = feed(counts, max_examples=most)
    passes = [
        sorted(
            place
            for number in range(hands)
            for _, place in read(of, StreamWorker(number, hands), turn)
        )
        for turn in range(2)
    ]
    assert len(passes[0]) <= most and len(set(passes[0])) == len(passes[0])
    assert passes[0] == passes[1]


def test_shards_come_in_another_order_in_each_pass() -> None:
    orders = [
        [place for _, place in read(feed([1] * 20), StreamWorker(0, 1), turn)] for turn in (0, 1, 0)
    ]
    assert orders[0] == orders[2] != orders[1]
    tap = StreamReader(feed([1] * 20), [StreamWorker(0, 1)], seed=1)
    passes = [
        [each.location for each in tap.draw_items(20, lambda each: each).items] for _ in range(2)
    ]
    assert passes == orders[:2]


@given(
    counts=SHARDS.filter(any),
    hands=some.integers(1, 4),
    draws=some.lists(some.integers(1, 20), min_size=1, max_size=12),
    cut=some.integers(0, 11),
)
def test_passes_follow_one_another_and_go_on_from_any_place(
    counts: list[int], hands: int, draws: list[int], cut: int
) -> None:
    def tap(place: StreamCursor | None = None) -> StreamReader:
        return StreamReader(
            feed(counts), [StreamWorker(at, hands) for at in range(hands)], seed=1, cursor=place
        )

    whole, seen, kept = tap(), [], []
    for wanted in draws:
        kept.append(StreamCursor.from_state_values(whole.cursor.state_values))
        seen.append([each.location for each in whole.draw_items(wanted, lambda each: each).items])
    assert all(0 < len(each) <= wanted for each, wanted in zip(seen, draws, strict=True))
    flat = [place for each in seen for place in each]
    every = places(counts)
    for at in range(0, len(flat), len(every)):
        several = flat[at : at + len(every)]
        assert sorted(several) == every if len(several) == len(every) else len(set(several))
    cut = min(cut, len(draws) - 1)
    again = tap(kept[cut])
    for wanted, before in zip(draws[cut:], seen[cut:], strict=True):
        assert [
            each.location for each in again.draw_items(wanted, lambda each: each).items
        ] == before


def test_a_feed_that_gives_nothing_is_dry() -> None:
    tap = StreamReader(feed([3]), [StreamWorker(0, 1)], seed=1)
    assert tap.draw_items(5, lambda each: None).items == []
    assert tap.is_exhausted


def test_what_is_wrong_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    def make(each: Example) -> str:
        if each.location == "0/1":
            raise DataError("it cannot be learned", hint="mend it")
        return each.location

    def broken() -> Iterator[ReaderItem]:
        yield clip("whole")
        yield Issue("list:2", "not JSON", "mend it", fatal=True)
        yield Issue("list:3", "odd", "look at it", fatal=False)
        raise DataError("the file ends", where="list:4", hint="copy it again")

    shards = (*feed([3]).shards, SourceShard.from_iterable("list", broken))
    drawn = StreamReader(
        StreamSource("feed", shards, lambda given: given), [StreamWorker(0, 1)], seed=1
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


def written(folder: Path) -> Path:
    for name in "abc":
        pair(folder / f"lists/{name}.wav", f"it is {name}")
    pair(folder / "kept/d.wav", "it is d")
    save(folder / "e.wav")
    lines = [
        json.dumps({"audio": "e.wav", "text": f"row {row}"})
        for row in range(2 * MAX_STREAM_SAMPLE_EXAMPLES)
    ]
    (folder / "list.jsonl").write_text("\n".join(["no row", *lines]))
    return folder


def test_every_source_of_a_document_is_a_feed(tmp_path: Path) -> None:
    of = open_stream_sources(document(written(tmp_path), "A word of its own.\n", head=HEAD))
    assert [(each.name, each.weight, each.max_examples) for each in of] == [
        ("my.dlm", 1.0, None),
        ("lists", 2.0, None),
        ("list.jsonl", 1.0, 4),
    ]
    given = [[each for _, each in feed.iter_items(StreamWorker(0, 1))] for feed in of]
    assert [type(each) for each in given[0]] == [Example]
    kept = [each for each in given[1] if isinstance(each, Example)]
    assert [each.target for each in kept] == ["it is a", "it is c"]
    assert kept[0].messages[0] == Message("system", ("Listen.",))
    assert Counter(type(each).__name__ for each in given[2]) == {"Example": 4, "Issue": 1}


def test_no_more_than_a_sample_of_a_stream_is_listed(tmp_path: Path) -> None:
    made = written(tmp_path)
    found = load_examples(document(made, head=HEAD.replace(", max_files: 4", "")))
    assert [each.audio_count for each in found.sources] == [2, MAX_STREAM_SAMPLE_EXAMPLES - 1, 1]
    assert [each.target for each in found.held_out_examples] == ["it is d"]


def test_a_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source not found: nowhere; make the folder"):
        open_stream_sources(
            document(tmp_path, head="training: {sources: [{path: nowhere, stream: true}]}\n")
        )


@pytest.mark.parametrize("name", sorted(KEEPERS))
def test_every_format_can_be_streamed(name: str, tmp_path: Path) -> None:
    source = {**KEEPERS[name](tmp_path), "stream": True}
    head = yaml.safe_dump({"training": {"sources": [source]}}, allow_unicode=True)
    made = document(tmp_path, head=head)
    listed = Counter(load_examples(made).examples)
    (of,) = open_stream_sources(made)
    for hands in (1, 3):
        dealt = [
            each
            for number in range(hands)
            for _, each in of.iter_items(StreamWorker(number, hands))
        ]
        assert Counter(each for each in dealt if isinstance(each, Example)) == listed
    for shard in of.shards:
        whole = list(shard.read(0))
        assert all(list(shard.read(at)) == whole[at:] for at in range(len(whole) + 1))
