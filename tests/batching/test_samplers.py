"""Batches of listed data: each example once, near in length, the same from any step."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder, EncodedExample
from dlm.batching.collator import PaddingSpec
from dlm.batching.samplers import BucketBatchSampler, build_batches
from dlm.data.types import Example, Message
from dlm.errors import DataError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.plan.types import BatchPlan
from tests.tiny_models import (
    make_example,
    make_tiny_spec,
    make_tiny_tokenizer,
    write_tone,
    write_tone_examples,
)

PAD = PaddingSpec(0, 3)
PLAN = BatchPlan(
    spec=make_tiny_spec(),
    global_batch_size=8,
    micro_batch_size=8,
    max_tokens=2048,
    auto_resample=False,
    max_windows=None,
    use_cached_features=False,
    seed=1,
)


def make_text_sampler(
    lengths: list[int], weights: Sequence[float] = (), **plan: object
) -> BucketBatchSampler:
    """Batches of texts of these lengths."""
    examples = [
        EncodedExample((5,) * n, (5,) * n, (), f"example {at}") for at, n in enumerate(lengths)
    ]
    plan = replace(PLAN, **plan)
    return BucketBatchSampler(
        examples,
        lengths,
        plan,
        feature_fn=lambda segment: None,
        padding=PAD,
        sampling_weights=weights,
    )


def get_locations(examples: list[list[EncodedExample]]) -> list[str]:
    return [example.location for batch in examples for example in batch]


@given(
    count=st.integers(1, 60),
    per_step=st.integers(1, 9),
    per_batch=st.integers(1, 9),
    epoch=st.integers(0, 3),
)
def test_epoch_contains_every_example_once(
    count: int, per_step: int, per_batch: int, epoch: int
) -> None:
    sampler = make_text_sampler([5] * count, global_batch_size=per_step, micro_batch_size=per_batch)
    first = epoch * sampler.steps_per_epoch
    steps = [sampler.get_step_examples(first + step) for step in range(sampler.steps_per_epoch)]
    assert sorted(location for step in steps for location in get_locations(step)) == sorted(
        f"example {at}" for at in range(count)
    )
    assert all(len(batch) <= per_batch for step in steps for batch in step)
    assert all(len(get_locations(step)) <= per_step for step in steps)


def test_steps_do_not_depend_on_earlier_steps() -> None:
    lengths = [random.Random(1).randint(5, 90) for _ in range(70)]
    first, jumped = make_text_sampler(lengths), make_text_sampler(lengths)
    steps = [first.get_step_examples(number) for number in range(30)]
    for number in (29, 0, 17, 9, 8, 10, 17):
        assert (
            make_text_sampler(lengths).get_step_examples(number)
            == jumped.get_step_examples(number)
            == steps[number]
        )


def test_epochs_have_different_orders() -> None:
    sampler = make_text_sampler([7] * 64)
    one, other = (
        [get_locations(sampler.get_step_examples(8 * epoch + step)) for step in range(8)]
        for epoch in (0, 1)
    )
    assert one != other


def test_order_follows_from_the_seed() -> None:
    orders = [
        [
            get_locations(make_text_sampler([7] * 64, seed=seed).get_step_examples(step))
            for step in range(8)
        ]
        for seed in (1, 2, 1)
    ]
    assert orders[0] == orders[2] != orders[1]


def speech_lengths() -> list[int]:
    """Tokens of 2,000 examples of speech: log-normal around four seconds, and their transcripts."""
    rng = random.Random(0)
    seconds = [min(max(rng.lognormvariate(1.4, 0.5), 0.5), 30) for _ in range(2000)]
    return [round(12.5 * each + 3.5 * each) + 30 for each in seconds]


@pytest.mark.parametrize("per_batch", [4, 8])
def test_padding_is_under_five_percent(per_batch: int) -> None:
    lengths = speech_lengths()
    sampler = make_text_sampler(lengths, micro_batch_size=per_batch)
    used = padded = 0
    for step in range(sampler.steps_per_epoch):
        for batch in sampler.get_step_examples(step):
            sizes = [len(example.input_ids) for example in batch]
            used, padded = used + sum(sizes), padded + max(sizes) * len(sizes)
    assert used == sum(lengths)
    assert 1 - used / padded < 0.05, f"{1 - used / padded:.1%} padding"


def test_steps_are_not_sorted_by_length() -> None:
    sampler = make_text_sampler(speech_lengths())
    means = [
        sum(len(example.input_ids) for example in batch) / len(batch)
        for step in range(sampler.steps_per_epoch)
        for batch in sampler.get_step_examples(step)
    ]
    rising = sum(one < other for one, other in zip(means, means[1:], strict=False))
    assert 0.35 < rising / len(means) < 0.65


@given(count=st.integers(1, 30), ranks=st.integers(1, 4), per_batch=st.integers(1, 5))
def test_ranks_share_a_step_without_overlap(count: int, ranks: int, per_batch: int) -> None:
    sampler = make_text_sampler(list(range(5, 5 + count)), micro_batch_size=per_batch)
    for number in range(sampler.steps_per_epoch):
        whole = sorted(get_locations(sampler.get_step_examples(number)))
        rank_batches = [sampler.get_step_examples(number, (rank, ranks)) for rank in range(ranks)]
        trained_locations = [
            example.location
            for batches in rank_batches
            for batch in batches
            for example in batch
            if set(example.labels) != {IGNORE_INDEX}
        ]
        assert sorted(trained_locations) == whole
        assert all(any(batch for batch in batches) for batches in rank_batches), (
            "every rank takes part"
        )


def test_rank_without_example_carries_no_loss() -> None:
    sampler = make_text_sampler([5])
    ((example,),) = sampler.get_step_examples(0, (1, 2))
    assert set(example.labels) == {IGNORE_INDEX}
    assert sampler.get_step_batches(0, (1, 2))[0].num_label_tokens == 0


def test_iter_batches_yields_each_step() -> None:
    sampler = make_text_sampler([5, 6, 7] * 10)
    streamed = list(sampler.iter_batches(2, 9))
    assert len(streamed) == 7
    for number, step in enumerate(streamed, start=2):
        for one, other in zip(
            step, make_text_sampler([5, 6, 7] * 10).get_step_batches(number), strict=True
        ):
            assert one.locations == other.locations and torch.equal(one.input_ids, other.input_ids)
    assert list(sampler.iter_batches(3, 3)) == []


def test_decoding_error_reaches_the_caller(tmp_path: Path) -> None:
    audio_examples = write_tone_examples(tmp_path, 2)
    sampler = make_audio_sampler(audio_examples, global_batch_size=1, micro_batch_size=1)
    audio_examples[1].audio_segments[0].path.unlink()
    with pytest.raises(DataError, match="1.wav"):
        list(sampler.iter_batches(0, 4))


def test_too_long_example_is_refused_with_its_location(tmp_path: Path) -> None:
    audio_examples = [
        *write_tone_examples(tmp_path, 2),
        make_example(write_tone(tmp_path / "long.wav", hertz=99), "x" * 60),
    ]
    with pytest.raises(DataError) as caught:
        make_audio_sampler(audio_examples, max_tokens=100)
    assert str(caught.value).startswith("long.wav: ")
    assert caught.value.code == "data.too_long"
    make_audio_sampler(audio_examples, max_tokens=200)


def test_length_limit_counts_audio_tokens(tmp_path: Path) -> None:
    audio_examples = [make_example(write_tone(tmp_path / "a.wav", hertz=99, seconds=1.9), "x")]
    (batch,) = make_audio_sampler(audio_examples).get_step_batches(0)
    length = int(batch.attention_mask.sum())
    make_audio_sampler(audio_examples, max_tokens=length)
    with pytest.raises(DataError) as caught:
        make_audio_sampler(audio_examples, max_tokens=length - 1)
    assert caught.value.code == "data.too_long"
    assert f"{length} tokens" in str(caught.value)


def test_lengths_from_headers_equal_those_of_the_batch(tmp_path: Path) -> None:
    """Spans, resampling and several sounds: what is foreseen is what comes."""
    path = write_tone(tmp_path / "a.wav", hertz=300, sample_rate=22_050, seconds=1.7)
    (one,) = make_example(path, "", start=0.25, end=1.0).audio_segments
    (other,) = make_example(path, "", start=1.2).audio_segments
    clip = Example((Message("user", (one, other)), Message("assistant", ("yes",))), "two", "answer")
    plan = {"auto_resample": True}
    length = int(make_audio_sampler([clip], **plan).get_step_batches(0)[0].attention_mask.sum())
    make_audio_sampler([clip], **plan, max_tokens=length)
    with pytest.raises(DataError):
        make_audio_sampler([clip], **plan, max_tokens=length - 1)


def test_every_example_gets_its_own_audio(tmp_path: Path) -> None:
    audio_examples = write_tone_examples(tmp_path, 5)
    sampler = make_audio_sampler(audio_examples, global_batch_size=3, micro_batch_size=2)
    extractor = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)
    features_by_location = {
        clip.location: extractor(clip.audio_segments[0])[0].values for clip in audio_examples
    }
    for batch in (
        batch for step in sampler.iter_batches(0, sampler.steps_per_epoch) for batch in step
    ):
        for location, segment, frames in zip(
            batch.locations, batch.audio_features, batch.audio_lengths, strict=True
        ):
            assert torch.equal(segment[:, :frames], features_by_location[location])


def make_audio_sampler(audio_examples: list[Example], **plan: object) -> BucketBatchSampler:
    plan = replace(PLAN, **plan)
    extractor = AudioFeatureExtractor(plan.spec, auto_resample=plan.auto_resample)
    return build_batches(
        audio_examples, plan, ChatEncoder(make_tiny_tokenizer(), plan.spec), extractor
    )


def test_sequences_are_padded_to_multiples(tmp_path: Path) -> None:
    """Whole multiples of 16, but never beyond the longest sequence there may be."""
    audio_examples = write_tone_examples(tmp_path, 6)
    widths = {
        batch.input_ids.shape[1]
        for batch in make_audio_sampler(audio_examples, micro_batch_size=1).get_step_batches(0)
    }
    assert all(width % 16 == 0 for width in widths)
    exact = max(
        int(batch.attention_mask.sum())
        for batch in make_audio_sampler(audio_examples, micro_batch_size=1).get_step_batches(0)
    )
    close = make_audio_sampler(
        audio_examples, micro_batch_size=1, max_tokens=exact
    ).get_step_batches(0)
    assert max(batch.input_ids.shape[1] for batch in close) == exact


def test_prefetching_leaves_cores_to_the_trainer(tmp_path: Path) -> None:
    cores = torch.get_num_threads()
    sampler = make_audio_sampler(write_tone_examples(tmp_path, 3), global_batch_size=1)
    assert len(list(sampler.iter_batches(0, 3))) == 3
    assert torch.get_num_threads() == cores


def test_weights_set_how_often_an_example_comes() -> None:
    weights = [2.0] * 10 + [2.5] * 10 + [0.5] * 10
    sampler = make_text_sampler(list(range(5, 35)), weights, global_batch_size=7)
    assert sampler.steps_per_epoch == 8  # 20, 25 and 5 examples
    for epoch in range(3):
        first = epoch * sampler.steps_per_epoch
        counts = Counter(
            location
            for n in range(8)
            for location in get_locations(sampler.get_step_examples(first + n))
        )
        results = [
            sum(counts[f"example {at}"] for at in range(start, start + 10)) for start in (0, 10, 20)
        ]
        assert results == [20, 25, 5]
        assert {counts[f"example {at}"] for at in range(10)} == {2}


def test_weighted_steps_do_not_depend_on_earlier_steps() -> None:
    weights = [random.Random(2).choice([0.5, 1.0, 1.7]) for _ in range(70)]
    first = make_text_sampler([5] * 70, weights)
    steps = [first.get_step_examples(number) for number in range(40)]
    for number in (39, 0, 17, 9, 8):
        assert make_text_sampler([5] * 70, weights).get_step_examples(number) == steps[number]


def test_unit_weights_change_nothing() -> None:
    plain, weighted = make_text_sampler([7] * 64), make_text_sampler([7] * 64, [1.0] * 64)
    assert [plain.get_step_examples(n) for n in range(20)] == [
        weighted.get_step_examples(n) for n in range(20)
    ]


def test_build_batches_uses_example_weights(tmp_path: Path) -> None:
    one, other = write_tone_examples(tmp_path, 2)
    sampler = make_audio_sampler([one, replace(other, weight=3.0)], global_batch_size=4)
    assert sorted(get_locations(sampler.get_step_examples(0))) == [
        "0.wav",
        "1.wav",
        "1.wav",
        "1.wav",
    ]


def test_missing_recordings_are_left_out_of_their_step(tmp_path: Path) -> None:
    audio_examples = write_tone_examples(tmp_path, 40)
    sampler = make_audio_sampler(
        audio_examples, skip_bad_examples=True, global_batch_size=8, micro_batch_size=4
    )
    audio_examples[3].audio_segments[0].path.unlink()
    for epoch in range(2):
        steps = sampler.iter_batches(epoch * 5, epoch * 5 + 5)
        lines = [location for step in steps for batch in step for location in batch.locations]
        assert sorted(lines) == sorted({clip.location for clip in audio_examples} - {"3.wav"})
    assert list(sampler.bad_examples.issues) == ["3.wav"]
    assert "audio not found" in str(sampler.bad_examples.issues["3.wav"])


def test_step_without_decodable_example_carries_no_loss(tmp_path: Path) -> None:
    audio_examples = write_tone_examples(tmp_path, 40)
    sampler = make_audio_sampler(
        audio_examples, skip_bad_examples=True, global_batch_size=1, micro_batch_size=1
    )
    number = next(n for n in range(40) if get_locations(sampler.get_step_examples(n)) == ["3.wav"])
    audio_examples[3].audio_segments[0].path.unlink()
    (batch,) = sampler.get_step_batches(number)
    assert batch.num_label_tokens == 0 and batch.locations != ("3.wav",)
    assert list(sampler.bad_examples.issues) == ["3.wav"]


def test_too_many_missing_recordings_end_the_run(tmp_path: Path) -> None:
    audio_examples = write_tone_examples(tmp_path, 40)
    sampler = make_audio_sampler(audio_examples, skip_bad_examples=True, global_batch_size=8)
    for clip in audio_examples[:3]:
        clip.audio_segments[0].path.unlink()
    with pytest.raises(DataError) as caught:
        list(sampler.iter_batches(0, 5))
    assert caught.value.code == "data.too_many_bad"
    assert "3 of 40 clips" in str(caught.value)


def test_example_without_labels_is_left_out(tmp_path: Path) -> None:
    audio_examples = [
        *write_tone_examples(tmp_path, 20),
        make_example(write_tone(tmp_path / "long.wav", hertz=99), "x" * 60),
    ]
    sampler = make_audio_sampler(audio_examples, max_tokens=100, skip_bad_examples=True)
    assert list(sampler.bad_examples.issues) == ["long.wav"]
    assert "training.sequence_len is 100" in str(sampler.bad_examples.issues["long.wav"])
    lines = [
        location
        for n in range(sampler.steps_per_epoch)
        for location in get_locations(sampler.get_step_examples(n))
    ]
    assert len(lines) == 20 and "long.wav" not in lines


@given(
    lengths=st.lists(st.integers(2, 200), min_size=1, max_size=40),
    per_batch=st.integers(1, 4),
    tokens=st.integers(0, 600),
    rank=st.integers(0, 1),
)
def test_short_examples_fill_a_batch_up_to_its_token_budget(
    lengths: list[int], per_batch: int, tokens: int, rank: int
) -> None:
    full = {"max_batch_tokens": tokens, "max_batch_labels": 10_000}
    sampler = make_text_sampler(lengths, global_batch_size=16, micro_batch_size=per_batch, **full)
    for step in range(sampler.steps_per_epoch):
        batches = sampler.get_step_examples(step, (rank, 2))
        assert all(batches)
        for batch in batches:
            padded = len(batch) * -(-max(len(example.input_ids) for example in batch) // 16) * 16
            assert len(batch) <= per_batch or padded <= tokens
        plain = make_text_sampler(lengths, global_batch_size=16, micro_batch_size=per_batch)
        assert get_locations(batches) == get_locations(plain.get_step_examples(step, (rank, 2)))
        assert len(batches) <= len(plain.get_step_examples(step, (rank, 2)))


def test_batches_respect_the_label_budget() -> None:
    full = {"max_batch_tokens": 1_000, "max_batch_labels": 30}
    sampler = make_text_sampler([11] * 12, global_batch_size=12, micro_batch_size=1, **full)
    assert [len(batch) for batch in sampler.get_step_examples(0)] == [
        3,
        3,
        3,
        3,
    ]  # ten label tokens an example
