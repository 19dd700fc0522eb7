"""Batches of a stream: each example once in an epoch, near in length, the same from any cursor."""

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
from hypothesis import strategies as st

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
COUNTS = st.lists(st.integers(0, 14), min_size=1, max_size=9).filter(any)


def make_text_example(location: str) -> Example:
    return Example((Message("assistant", ("a word",)),), location, "text")


def iter_examples(name: str, count: int) -> Iterator[ReaderItem]:
    yield from (make_text_example(f"{name}/{index}") for index in range(count))


def make_source(counts: list[int], name: str = "feed", **more: object) -> StreamSource:
    """Shards of so many examples each."""
    shards = [
        SourceShard.from_iterable(f"{name} {at}", partial(iter_examples, f"{name} {at}", count))
        for at, count in enumerate(counts)
    ]
    return StreamSource(name, tuple(shards), lambda item: item, **more)


def encode_example(each: Example) -> tuple[EncodedExample, int]:
    """An encoded text; its location decides its length."""
    length = random.Random(each.location).randint(5, 90)
    return EncodedExample((5,) * length, (5,) * length, (), each.location), length


def make_sampler(
    sources: list[StreamSource],
    *,
    encode_fn: object = encode_example,
    feature_fn: object = None,
    **plan: object,
) -> StreamBatchSampler:
    return StreamBatchSampler(
        sources, replace(STREAM, **plan), encode_fn, feature_fn=feature_fn, padding=PAD
    )


def get_locations(batches: list[Batch]) -> list[str]:
    return [location for batch in batches for location in batch.locations]


def read_steps(
    sampler: StreamBatchSampler, examples: int, rank_spec: RankSpec = (0, 1)
) -> list[list[str]]:
    """The locations of each step, until so many examples were seen."""
    steps, seen = [], 0
    for batches in sampler.iter_batches(0, 1 << 20, rank_spec):
        steps.append(get_locations(batches))
        seen += len(steps[-1])
        if seen >= examples:
            break
    return steps


def list_locations(counts: list[int], name: str = "feed") -> list[str]:
    return sorted(f"{name} {at}/{index}" for at, many in enumerate(counts) for index in range(many))


@given(counts=COUNTS, per_step=st.integers(1, 9), per_batch=st.integers(1, 9))
def test_stream_epoch_contains_every_example_once(
    counts: list[int], per_step: int, per_batch: int
) -> None:
    sampler = make_sampler(
        [make_source(counts)], global_batch_size=per_step, micro_batch_size=per_batch
    )
    steps = read_steps(sampler, 3 * sum(counts))
    flat = [location for step in steps for location in step]
    for epoch in range(3):
        assert sorted(flat[epoch * sum(counts) : (epoch + 1) * sum(counts)]) == list_locations(
            counts
        )
    assert all(len(step) <= per_step for step in steps)


@given(counts=st.lists(st.integers(1, 9), min_size=4, max_size=12))
def test_ranks_and_workers_share_an_epoch(counts: list[int]) -> None:
    locations = []
    for rank in range(2):
        num_items = sum(1 for _ in iter_rank_items(counts, rank))
        locations += [
            each
            for step in read_steps(make_sampler([make_source(counts)]), num_items, (rank, 2))
            for each in step
        ]
    assert sorted(locations) == list_locations(counts)


def iter_rank_items(counts: list[int], rank: int) -> Iterator[ReaderItem]:
    """The items of the two workers of one rank of two in the first epoch."""
    for number in (2 * rank, 2 * rank + 1):
        yield from (
            each
            for _, each in make_source(counts).iter_items(StreamWorker(number, 4), seed=STREAM.seed)
        )


@given(
    counts=st.lists(st.integers(4, 60), min_size=2, max_size=8),
    ranks=st.integers(1, 2),
    per_step=st.integers(2, 9),
    cut=st.integers(1, 29),
)
def test_stream_resumes_from_any_step(
    counts: list[int], ranks: int, per_step: int, cut: int
) -> None:
    sources = [make_source(counts), make_source([9, 2], "other", weight=0.5)]
    for rank in range(ranks):
        whole = make_sampler(sources, global_batch_size=per_step)
        first_run, cursor = [], ()
        for done, batches in enumerate(whole.iter_batches(0, 30, (rank, ranks)), start=1):
            first_run.append(get_locations(batches))
            if done == cut:
                cursor = whole.get_cursor(done)
        resumed = make_sampler(sources, global_batch_size=per_step)
        resumed_run = list(map(get_locations, resumed.iter_batches(cut, 30, (rank, ranks), cursor)))
        assert resumed_run == first_run[cut:]
        assert resumed.get_cursor(30) == whole.get_cursor(30)
        assert resumed.num_bad_and_seen == whole.num_bad_and_seen


def test_stream_without_cursor_skips_earlier_steps() -> None:
    first_run = list(map(get_locations, make_sampler([make_source([20, 9])]).iter_batches(0, 9)))
    assert (
        list(map(get_locations, make_sampler([make_source([20, 9])]).iter_batches(5, 9)))
        == first_run[5:]
    )
    assert list(make_sampler([make_source([20, 9])]).iter_batches(3, 3)) == []


def test_sources_are_drawn_by_weight_without_duplicates_in_a_window() -> None:
    large, small = (
        make_source([4000, 4000], "large", weight=3),
        make_source([30], "small", weight=1),
    )
    even = make_source([4000], "even", weight=2)
    sampler = make_sampler([large, even, small])
    steps = [
        get_locations(batches) for batches in sampler.iter_batches(0, 3 * MIN_WINDOW_EXAMPLES // 8)
    ]
    names = Counter(location.split()[0] for step in steps for location in step)
    assert names["large"] / names["even"] == pytest.approx(1.5, rel=0.05)
    first = Counter(location for step in steps[:40] for location in step)
    assert names["small"] >= 60 and max(first.values()) == 1


def test_stream_padding_is_small_and_steps_are_not_sorted() -> None:
    used = padded = 0
    means = []
    for batches in islice(make_sampler([make_source([900] * 6)]).iter_batches(0, 400), 400):
        (batch,) = batches
        used, padded = used + int(batch.attention_mask.sum()), padded + batch.attention_mask.numel()
        means.append(float(batch.attention_mask.sum()))
    assert 1 - used / padded < 0.05, f"{1 - used / padded:.1%} padding"
    rising = sum(one < other for one, other in zip(means, means[1:], strict=False))
    assert 0.35 < rising / len(means) < 0.65


def test_stream_reads_only_a_few_windows_ahead() -> None:
    num_read = []

    def endless() -> Iterator[ReaderItem]:
        for index in range(1 << 40):
            num_read.append(index)
            yield make_text_example(f"feed/{index}")

    sampler = make_sampler(
        [StreamSource("feed", (SourceShard.from_iterable("feed", endless),), lambda item: item)]
    )
    next(sampler.iter_batches(0, 1 << 30))
    assert 0 < len(num_read) <= 4 * 2 * MIN_WINDOW_EXAMPLES


def test_stream_order_follows_from_the_seed() -> None:
    one, other, same = (
        [
            get_locations(each)
            for each in make_sampler([make_source([9] * 9)], seed=seed).iter_batches(0, 9)
        ]
        for seed in (1, 2, 1)
    )
    assert one == same != other


def bad(every: int, each: Example) -> tuple[EncodedExample, int]:
    if int(each.location.rpartition("/")[2]) % every == 0:
        raise DataError("unusable", where=each.location, code="data.no_labels")
    return encode_example(each)


def test_unusable_stream_examples_are_left_out_and_counted() -> None:
    sampler = make_sampler([make_source([100, 100])], encode_fn=partial(bad, 50))
    seen = [location for step in sampler.iter_batches(0, 25) for location in get_locations(step)]
    assert len(set(seen)) == len(seen) == 196
    assert sampler.num_bad_and_seen == (4, 200)
    assert len(list(sampler.iter_batches(0, 50))) == 50 and sampler.num_bad_and_seen == (8, 400)
    (*_, last) = sampler.bad_examples.issues.values()
    assert last.code == "data.no_labels"


def test_too_many_unusable_stream_examples_end_the_run() -> None:
    with pytest.raises(DataError) as caught:
        list(make_sampler([make_source([100, 100])], encode_fn=partial(bad, 10)).iter_batches(0, 9))
    assert caught.value.code == "data.too_many_bad"
    assert "feed " in str(caught.value)


def test_first_unusable_stream_example_ends_a_strict_run() -> None:
    with pytest.raises(DataError) as caught:
        list(
            make_sampler(
                [make_source([100, 100])], encode_fn=partial(bad, 50), skip_bad_examples=False
            ).iter_batches(0, 9)
        )
    assert caught.value.code == "data.no_labels"


def test_empty_stream_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        next(make_sampler([make_source([0, 0])]).iter_batches(0, 1))
    assert caught.value.code == "data.empty_stream"
    broken = SourceShard.from_iterable(
        "list", lambda: [Issue("list:1", "not JSON", "correct it", fatal=True, code="data.test")]
    )
    with pytest.raises(DataError, match=r"list:1: not JSON; correct it"):
        next(make_sampler([StreamSource("list", (broken,), lambda item: item)]).iter_batches(0, 1))


def test_cursor_of_other_sources_is_refused() -> None:
    sampler = make_sampler([make_source([9])])
    next(sampler.iter_batches(0, 1))
    with pytest.raises(TrainingError) as caught:
        next(
            make_sampler([make_source([9]), make_source([9], "more")]).iter_batches(
                1, 2, (0, 1), sampler.get_cursor(1)
            )
        )
    assert caught.value.code == "training.other_sources"


def make_audio_sampler(
    examples: list[Example], feature_fn: object, **plan: object
) -> StreamBatchSampler:
    """Batches of examples with audio, by the real chat encoder."""
    sampler = StreamSource(
        "feed", (SourceShard.from_iterable("feed", lambda: examples),), lambda item: item
    )
    chat = ChatEncoder(make_tiny_tokenizer(), make_tiny_spec())
    return build_stream_batches(
        [sampler], replace(STREAM, **plan), chat, feature_fn, lambda each: each
    )


def test_several_workers_give_the_same_features(tmp_path: Path) -> None:
    examples = write_tone_examples(tmp_path, 9)
    one, other = (
        list(
            make_audio_sampler(
                examples,
                AudioFeatureExtractor(make_tiny_spec(), auto_resample=False, memory_bytes=0),
            ).iter_batches(0, 6)
        )
        for _ in range(2)
    )
    for num_items, theirs in zip(one, other, strict=True):
        for first, second in zip(num_items, theirs, strict=True):
            assert first.locations == second.locations and torch.equal(
                first.audio_features, second.audio_features
            )
    assert {location for step in one for location in get_locations(step)} == {
        each.location for each in examples
    }


def test_filtered_examples_do_not_come(tmp_path: Path) -> None:
    examples = write_tone_examples(tmp_path, 6)
    sampler = StreamSource(
        "feed", (SourceShard.from_iterable("feed", lambda: examples),), lambda item: item
    )
    chat, extractor = (
        ChatEncoder(make_tiny_tokenizer(), make_tiny_spec()),
        AudioFeatureExtractor(make_tiny_spec(), auto_resample=False),
    )
    make_sampler = build_stream_batches(
        [sampler], STREAM, chat, extractor, lambda each: each if each.location != "2.wav" else None
    )
    seen = [
        location for step in make_sampler.iter_batches(0, 3) for location in get_locations(step)
    ]
    assert sorted(set(seen)) == ["0.wav", "1.wav", "3.wav", "4.wav", "5.wav"]
    assert make_sampler.num_bad_and_seen == (0, 15)


def failing(
    names: set[str], extractor: AudioFeatureExtractor, segment: AudioSegment
) -> tuple[AudioFeatures, ...]:
    if segment.path.name in names:
        raise DataError("it is damaged", where=segment.name, hint="copy it again", code="data.test")
    return extractor(segment)


def test_undecodable_stream_example_is_left_out(tmp_path: Path) -> None:
    examples, extractor = (
        write_tone_examples(tmp_path, 6),
        AudioFeatureExtractor(make_tiny_spec(), auto_resample=False),
    )
    sampler = make_audio_sampler(
        examples, partial(failing, {"1.wav"}, extractor), global_batch_size=4, micro_batch_size=2
    )
    steps = [get_locations(each) for each in sampler.iter_batches(0, 2)]
    assert sorted(location for step in steps for location in step) == [
        "0.wav",
        "2.wav",
        "3.wav",
        "4.wav",
        "5.wav",
    ]
    assert sampler.num_bad_and_seen == (1, 6) and "it is damaged" in str(
        sampler.bad_examples.issues["1.wav"]
    )
    resumed = make_audio_sampler(
        examples, partial(failing, {"1.wav"}, extractor), global_batch_size=4, micro_batch_size=2
    )
    assert (
        list(map(get_locations, resumed.iter_batches(2, 5, (0, 1), sampler.get_cursor(2))))
        == list(map(get_locations, sampler.iter_batches(0, 5)))[2:]
    )
    assert resumed.num_bad_and_seen == sampler.num_bad_and_seen == (3, 18)
    alone = make_audio_sampler(
        [make_example(tmp_path / "1.wav", "one")], partial(failing, {"1.wav"}, extractor)
    )
    ((batch,),) = alone.iter_batches(0, 1)
    assert batch.num_label_tokens == 0 and bool((batch.labels == IGNORE_INDEX).all())
    with pytest.raises(DataError, match="it is damaged"):
        list(
            make_audio_sampler(
                examples, partial(failing, {"1.wav"}, extractor), skip_bad_examples=False
            ).iter_batches(0, 2)
        )
