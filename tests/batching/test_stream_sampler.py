"""Streamed batches: every clip once in a pass, near in length, the same from any cursor."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder, EncodedExample
from dlm.batching.collator import Batch
from dlm.batching.samplers import RankSpec
from dlm.batching.stream_sampler import (
    MIN_WINDOW_EXAMPLES,
    StreamBatchSampler,
    build_stream_batches,
)
from dlm.data.readers.base import ReaderItem, SourceShard
from dlm.data.streaming import StreamSource, StreamWorker
from dlm.data.types import AudioSegment, Example, Issue, Message
from dlm.errors import DataError, TrainingError
from dlm.features.extractor import AudioFeatureExtractor, AudioFeatures
from tests.batching.test_samplers import PAD, PLAN
from tests.tiny_models import make_example, make_tiny_spec, make_tiny_tokenizer, write_tone_examples

STREAM = replace(PLAN, skip_bad_examples=True)
COUNTS = some.lists(some.integers(0, 14), min_size=1, max_size=9).filter(any)


def clip(place: str) -> Example:
    return Example((Message("assistant", ("a word",)),), place, "text")


def rows(name: str, count: int) -> Iterator[ReaderItem]:
    yield from (clip(f"{name}/{row}") for row in range(count))


def feed(counts: list[int], name: str = "feed", **more: object) -> StreamSource:
    """Shards of so many clips each."""
    shards = [
        SourceShard.from_iterable(f"{name} {at}", partial(rows, f"{name} {at}", count))
        for at, count in enumerate(counts)
    ]
    return StreamSource(name, tuple(shards), lambda given: given, **more)


def sized(each: Example) -> tuple[EncodedExample, int]:
    """A row without sound, as long as its place draws."""
    length = random.Random(each.location).randint(5, 90)
    return EncodedExample((5,) * length, (5,) * length, (), each.location), length


def made(
    feeds: list[StreamSource], *, make: object = sized, listen: object = None, **plan: object
) -> StreamBatchSampler:
    return StreamBatchSampler(feeds, replace(STREAM, **plan), make, feature_fn=listen, padding=PAD)


def places(batches: list[Batch]) -> list[str]:
    return [place for batch in batches for place in batch.locations]


def passes(of: StreamBatchSampler, clips: int, share: RankSpec = (0, 1)) -> list[list[str]]:
    """The places of each step until so many clips were seen."""
    steps, seen = [], 0
    for batches in of.iter_batches(0, 1 << 20, share):
        steps.append(places(batches))
        seen += len(steps[-1])
        if seen >= clips:
            break
    return steps


def all_of(counts: list[int], name: str = "feed") -> list[str]:
    return sorted(f"{name} {at}/{row}" for at, many in enumerate(counts) for row in range(many))


@given(counts=COUNTS, per_step=some.integers(1, 9), per_batch=some.integers(1, 9))
def test_stream_epoch_contains_every_example_once(
    counts: list[int], per_step: int, per_batch: int
) -> None:
    of = made([feed(counts)], global_batch_size=per_step, micro_batch_size=per_batch)
    steps = passes(of, 3 * sum(counts))
    flat = [place for step in steps for place in step]
    for turn in range(3):
        assert sorted(flat[turn * sum(counts) : (turn + 1) * sum(counts)]) == all_of(counts)
    assert all(len(step) <= per_step for step in steps)


@given(counts=some.lists(some.integers(1, 9), min_size=4, max_size=12))
def test_ranks_and_workers_share_an_epoch(counts: list[int]) -> None:
    found = []
    for rank in range(2):
        mine = sum(1 for _ in hand_rows(counts, rank))
        found += [each for step in passes(made([feed(counts)]), mine, (rank, 2)) for each in step]
    assert sorted(found) == all_of(counts)


def hand_rows(counts: list[int], rank: int) -> Iterator[ReaderItem]:
    """What the two workers of one rank of two have in the first pass."""
    for number in (2 * rank, 2 * rank + 1):
        yield from (
            each for _, each in feed(counts).iter_items(StreamWorker(number, 4), seed=STREAM.seed)
        )


@given(
    counts=some.lists(some.integers(4, 60), min_size=2, max_size=8),
    ranks=some.integers(1, 2),
    per_step=some.integers(2, 9),
    cut=some.integers(1, 29),
)
def test_stream_resumes_from_any_step(
    counts: list[int], ranks: int, per_step: int, cut: int
) -> None:
    several = [feed(counts), feed([9, 2], "other", weight=0.5)]
    for rank in range(ranks):
        whole = made(several, global_batch_size=per_step)
        walked, cursor = [], ()
        for done, batches in enumerate(whole.iter_batches(0, 30, (rank, ranks)), start=1):
            walked.append(places(batches))
            if done == cut:
                cursor = whole.get_cursor(done)
        later = made(several, global_batch_size=per_step)
        went_on = list(map(places, later.iter_batches(cut, 30, (rank, ranks), cursor)))
        assert went_on == walked[cut:]
        assert later.get_cursor(30) == whole.get_cursor(30)
        assert later.num_bad_and_seen == whole.num_bad_and_seen


def test_stream_without_cursor_skips_earlier_steps() -> None:
    walked = list(map(places, made([feed([20, 9])]).iter_batches(0, 9)))
    assert list(map(places, made([feed([20, 9])]).iter_batches(5, 9))) == walked[5:]
    assert list(made([feed([20, 9])]).iter_batches(3, 3)) == []


def test_sources_are_drawn_by_weight_without_duplicates_in_a_window() -> None:
    large, small = feed([4000, 4000], "large", weight=3), feed([30], "small", weight=1)
    even = feed([4000], "even", weight=2)
    of = made([large, even, small])
    steps = [places(batches) for batches in of.iter_batches(0, 3 * MIN_WINDOW_EXAMPLES // 8)]
    names = Counter(place.split()[0] for step in steps for place in step)
    assert names["large"] / names["even"] == pytest.approx(1.5, rel=0.05)
    first = Counter(place for step in steps[:40] for place in step)
    assert names["small"] >= 60 and max(first.values()) == 1


def test_stream_padding_is_small_and_steps_are_not_sorted() -> None:
    used = padded = 0
    means = []
    for batches in islice(made([feed([900] * 6)]).iter_batches(0, 400), 400):
        (batch,) = batches
        used, padded = used + int(batch.attention_mask.sum()), padded + batch.attention_mask.numel()
        means.append(float(batch.attention_mask.sum()))
    assert 1 - used / padded < 0.05, f"{1 - used / padded:.1%} padding"
    rising = sum(one < other for one, other in zip(means, means[1:], strict=False))
    assert 0.35 < rising / len(means) < 0.65


def test_stream_reads_only_a_few_windows_ahead() -> None:
    read = []

    def endless() -> Iterator[ReaderItem]:
        for row in range(1 << 40):
            read.append(row)
            yield clip(f"feed/{row}")

    of = made(
        [StreamSource("feed", (SourceShard.from_iterable("feed", endless),), lambda given: given)]
    )
    next(of.iter_batches(0, 1 << 30))
    assert 0 < len(read) <= 4 * 2 * MIN_WINDOW_EXAMPLES


def test_stream_order_follows_from_the_seed() -> None:
    one, other, same = (
        [places(each) for each in made([feed([9] * 9)], seed=seed).iter_batches(0, 9)]
        for seed in (1, 2, 1)
    )
    assert one == same != other


def bad(every: int, each: Example) -> tuple[EncodedExample, int]:
    if int(each.location.rpartition("/")[2]) % every == 0:
        raise DataError("unusable", where=each.location, code="data.no_labels")
    return sized(each)


def test_unusable_stream_examples_are_left_out_and_counted() -> None:
    of = made([feed([100, 100])], make=partial(bad, 50))
    seen = [place for step in of.iter_batches(0, 25) for place in places(step)]
    assert len(set(seen)) == len(seen) == 196
    assert of.num_bad_and_seen == (4, 200)
    assert len(list(of.iter_batches(0, 50))) == 50 and of.num_bad_and_seen == (8, 400)
    (*_, last) = of.bad_examples.issues.values()
    assert last.code == "data.no_labels"


def test_too_many_unusable_stream_examples_end_the_run() -> None:
    with pytest.raises(DataError) as caught:
        list(made([feed([100, 100])], make=partial(bad, 10)).iter_batches(0, 9))
    assert caught.value.code == "data.too_many_bad"
    assert "feed " in str(caught.value)


def test_first_unusable_stream_example_ends_a_strict_run() -> None:
    with pytest.raises(DataError) as caught:
        list(
            made([feed([100, 100])], make=partial(bad, 50), skip_bad_examples=False).iter_batches(
                0, 9
            )
        )
    assert caught.value.code == "data.no_labels"


def test_empty_stream_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        next(made([feed([0, 0])]).iter_batches(0, 1))
    assert caught.value.code == "data.empty_stream"
    broken = SourceShard.from_iterable(
        "list", lambda: [Issue("list:1", "not JSON", "mend it", fatal=True)]
    )
    with pytest.raises(DataError, match=r"list:1: not JSON; mend it"):
        next(made([StreamSource("list", (broken,), lambda given: given)]).iter_batches(0, 1))


def test_cursor_of_other_sources_is_refused() -> None:
    of = made([feed([9])])
    next(of.iter_batches(0, 1))
    with pytest.raises(TrainingError) as caught:
        next(made([feed([9]), feed([9], "more")]).iter_batches(1, 2, (0, 1), of.get_cursor(1)))
    assert caught.value.code == "training.other_sources"


def heard(clips: list[Example], listen: object, **plan: object) -> StreamBatchSampler:
    """Batches of clips with sound, by the real chat form."""
    of = StreamSource(
        "feed", (SourceShard.from_iterable("feed", lambda: clips),), lambda given: given
    )
    chat = ChatEncoder(make_tiny_tokenizer(), make_tiny_spec())
    return build_stream_batches([of], replace(STREAM, **plan), chat, listen, lambda each: each)


def test_several_workers_give_the_same_features(tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 9)
    one, other = (
        list(
            heard(
                clips, AudioFeatureExtractor(make_tiny_spec(), auto_resample=False, memory_bytes=0)
            ).iter_batches(0, 6)
        )
        for _ in range(2)
    )
    for mine, theirs in zip(one, other, strict=True):
        for first, second in zip(mine, theirs, strict=True):
            assert first.locations == second.locations and torch.equal(
                first.audio_features, second.audio_features
            )
    assert {place for step in one for place in places(step)} == {each.location for each in clips}


def test_filtered_examples_do_not_come(tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 6)
    of = StreamSource(
        "feed", (SourceShard.from_iterable("feed", lambda: clips),), lambda given: given
    )
    chat, ear = (
        ChatEncoder(make_tiny_tokenizer(), make_tiny_spec()),
        AudioFeatureExtractor(make_tiny_spec(), auto_resample=False),
    )
    made = build_stream_batches(
        [of], STREAM, chat, ear, lambda each: each if each.location != "2.wav" else None
    )
    seen = [place for step in made.iter_batches(0, 3) for place in places(step)]
    assert sorted(set(seen)) == ["0.wav", "1.wav", "3.wav", "4.wav", "5.wav"]
    assert made.num_bad_and_seen == (0, 15)


def failing(
    names: set[str], ear: AudioFeatureExtractor, sound: AudioSegment
) -> tuple[AudioFeatures, ...]:
    if sound.path.name in names:
        raise DataError("it is damaged", where=sound.name, hint="copy it again")
    return ear(sound)


def test_undecodable_stream_example_is_left_out(tmp_path: Path) -> None:
    clips, ear = (
        write_tone_examples(tmp_path, 6),
        AudioFeatureExtractor(make_tiny_spec(), auto_resample=False),
    )
    of = heard(clips, partial(failing, {"1.wav"}, ear), global_batch_size=4, micro_batch_size=2)
    steps = [places(each) for each in of.iter_batches(0, 2)]
    assert sorted(place for step in steps for place in step) == [
        "0.wav",
        "2.wav",
        "3.wav",
        "4.wav",
        "5.wav",
    ]
    assert of.num_bad_and_seen == (1, 6) and "it is damaged" in str(of.bad_examples.issues["1.wav"])
    again = heard(clips, partial(failing, {"1.wav"}, ear), global_batch_size=4, micro_batch_size=2)
    assert (
        list(map(places, again.iter_batches(2, 5, (0, 1), of.get_cursor(2))))
        == list(map(places, of.iter_batches(0, 5)))[2:]
    )
    assert again.num_bad_and_seen == of.num_bad_and_seen == (3, 18)
    alone = heard([make_example(tmp_path / "1.wav", "one")], partial(failing, {"1.wav"}, ear))
    ((batch,),) = alone.iter_batches(0, 1)
    assert batch.num_label_tokens == 0 and bool((batch.labels == IGNORE_INDEX).all())
    with pytest.raises(DataError, match="it is damaged"):
        list(
            heard(clips, partial(failing, {"1.wav"}, ear), skip_bad_examples=False).iter_batches(
                0, 2
            )
        )
