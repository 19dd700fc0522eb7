"""Which clips ride together: everything once, near in length, the same from wherever one starts."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

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


def silent(lengths: list[int], weights: Sequence[float] = (), **plan: object) -> BucketBatchSampler:
    """Batches of rows without sound, of these lengths."""
    rows = [EncodedExample((5,) * n, (5,) * n, (), f"row {at}") for at, n in enumerate(lengths)]
    plan = replace(PLAN, **plan)
    return BucketBatchSampler(
        rows, lengths, plan, feature_fn=lambda sound: None, padding=PAD, sampling_weights=weights
    )


def places(rows: list[list[EncodedExample]]) -> list[str]:
    return [row.location for batch in rows for row in batch]


@given(
    count=some.integers(1, 60),
    per_step=some.integers(1, 9),
    per_batch=some.integers(1, 9),
    epoch=some.integers(0, 3),
)
def test_epoch_contains_every_example_once(
    count: int, per_step: int, per_batch: int, epoch: int
) -> None:
    made = silent([5] * count, global_batch_size=per_step, micro_batch_size=per_batch)
    first = epoch * made.steps_per_epoch
    steps = [made.get_step_examples(first + step) for step in range(made.steps_per_epoch)]
    assert sorted(place for step in steps for place in places(step)) == sorted(
        f"row {at}" for at in range(count)
    )
    assert all(len(batch) <= per_batch for step in steps for batch in step)
    assert all(len(places(step)) <= per_step for step in steps)


def test_steps_do_not_depend_on_earlier_steps() -> None:
    lengths = [random.Random(1).randint(5, 90) for _ in range(70)]
    walked, jumped = silent(lengths), silent(lengths)
    seen = [walked.get_step_examples(number) for number in range(30)]
    for number in (29, 0, 17, 9, 8, 10, 17):
        assert (
            silent(lengths).get_step_examples(number)
            == jumped.get_step_examples(number)
            == seen[number]
        )


def test_epochs_have_different_orders() -> None:
    made = silent([7] * 64)
    one, other = (
        [places(made.get_step_examples(8 * epoch + step)) for step in range(8)] for epoch in (0, 1)
    )
    assert one != other


def test_order_follows_from_the_seed() -> None:
    orders = [
        [places(silent([7] * 64, seed=seed).get_step_examples(step)) for step in range(8)]
        for seed in (1, 2, 1)
    ]
    assert orders[0] == orders[2] != orders[1]


def speech_lengths() -> list[int]:
    """Tokens of 2,000 clips of speech: log-normal around four seconds, and their words."""
    chance = random.Random(0)
    seconds = [min(max(chance.lognormvariate(1.4, 0.5), 0.5), 30) for _ in range(2000)]
    return [round(12.5 * each + 3.5 * each) + 30 for each in seconds]


@pytest.mark.parametrize("per_batch", [4, 8])
def test_padding_is_under_five_percent(per_batch: int) -> None:
    lengths = speech_lengths()
    made = silent(lengths, micro_batch_size=per_batch)
    used = padded = 0
    for step in range(made.steps_per_epoch):
        for batch in made.get_step_examples(step):
            sizes = [len(row.input_ids) for row in batch]
            used, padded = used + sum(sizes), padded + max(sizes) * len(sizes)
    assert used == sum(lengths)
    assert 1 - used / padded < 0.05, f"{1 - used / padded:.1%} padding"


def test_steps_are_not_sorted_by_length() -> None:
    made = silent(speech_lengths())
    means = [
        sum(len(row.input_ids) for row in batch) / len(batch)
        for step in range(made.steps_per_epoch)
        for batch in made.get_step_examples(step)
    ]
    rising = sum(one < other for one, other in zip(means, means[1:], strict=False))
    assert 0.35 < rising / len(means) < 0.65


@given(count=some.integers(1, 30), ranks=some.integers(1, 4), per_batch=some.integers(1, 5))
def test_ranks_share_a_step_without_overlap(count: int, ranks: int, per_batch: int) -> None:
    made = silent(list(range(5, 5 + count)), micro_batch_size=per_batch)
    for number in range(made.steps_per_epoch):
        whole = sorted(places(made.get_step_examples(number)))
        shares = [made.get_step_examples(number, (rank, ranks)) for rank in range(ranks)]
        learned = [
            row.location
            for share in shares
            for batch in share
            for row in batch
            if set(row.labels) != {IGNORE_INDEX}
        ]
        assert sorted(learned) == whole
        assert all(any(batch for batch in share) for share in shares), "every rank takes part"


def test_rank_without_example_carries_no_loss() -> None:
    made = silent([5])
    ((row,),) = made.get_step_examples(0, (1, 2))
    assert set(row.labels) == {IGNORE_INDEX}
    assert made.get_step_batches(0, (1, 2))[0].num_label_tokens == 0


def test_iter_batches_yields_each_step() -> None:
    made = silent([5, 6, 7] * 10)
    streamed = list(made.iter_batches(2, 9))
    assert len(streamed) == 7
    for number, step in enumerate(streamed, start=2):
        for one, other in zip(step, silent([5, 6, 7] * 10).get_step_batches(number), strict=True):
            assert one.locations == other.locations and torch.equal(one.input_ids, other.input_ids)
    assert list(made.iter_batches(3, 3)) == []


def test_decoding_error_reaches_the_caller(tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 2)
    made = packed(clips, global_batch_size=1, micro_batch_size=1)
    clips[1].audio_segments[0].path.unlink()
    with pytest.raises(DataError, match="1.wav"):
        list(made.iter_batches(0, 4))


def test_too_long_example_is_refused_with_its_location(tmp_path: Path) -> None:
    clips = [
        *write_tone_examples(tmp_path, 2),
        make_example(write_tone(tmp_path / "long.wav", hertz=99), "x" * 60),
    ]
    with pytest.raises(DataError) as caught:
        packed(clips, max_tokens=100)
    assert str(caught.value).startswith("long.wav: ")
    assert caught.value.code == "data.too_long"
    packed(clips, max_tokens=200)


def test_length_limit_counts_audio_tokens(tmp_path: Path) -> None:
    clips = [make_example(write_tone(tmp_path / "a.wav", hertz=99, seconds=1.9), "x")]
    (batch,) = packed(clips).get_step_batches(0)
    length = int(batch.attention_mask.sum())
    packed(clips, max_tokens=length)
    with pytest.raises(DataError) as caught:
        packed(clips, max_tokens=length - 1)
    assert caught.value.code == "data.too_long"
    assert f"{length} tokens" in str(caught.value)


def test_lengths_from_headers_equal_those_of_the_batch(tmp_path: Path) -> None:
    """Spans, resampling and several sounds: what is foreseen is what comes."""
    path = write_tone(tmp_path / "a.wav", hertz=300, sample_rate=22_050, seconds=1.7)
    (one,) = make_example(path, "", start=0.25, end=1.0).audio_segments
    (other,) = make_example(path, "", start=1.2).audio_segments
    clip = Example((Message("user", (one, other)), Message("assistant", ("yes",))), "two", "answer")
    plan = {"auto_resample": True}
    length = int(packed([clip], **plan).get_step_batches(0)[0].attention_mask.sum())
    packed([clip], **plan, max_tokens=length)
    with pytest.raises(DataError):
        packed([clip], **plan, max_tokens=length - 1)


def test_every_example_gets_its_own_audio(tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 5)
    made = packed(clips, global_batch_size=3, micro_batch_size=2)
    ear = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)
    by_place = {clip.location: ear(clip.audio_segments[0])[0].values for clip in clips}
    for batch in (batch for step in made.iter_batches(0, made.steps_per_epoch) for batch in step):
        for place, sound, frames in zip(
            batch.locations, batch.audio_features, batch.audio_lengths, strict=True
        ):
            assert torch.equal(sound[:, :frames], by_place[place])


def packed(clips: list[Example], **plan: object) -> BucketBatchSampler:
    plan = replace(PLAN, **plan)
    ear = AudioFeatureExtractor(plan.spec, auto_resample=plan.auto_resample)
    return build_batches(clips, plan, ChatEncoder(make_tiny_tokenizer(), plan.spec), ear)


def test_rows_are_padded_to_multiples(tmp_path: Path) -> None:
    """Whole multiples of 16, but never beyond the longest row there may be."""
    clips = write_tone_examples(tmp_path, 6)
    widths = {
        batch.input_ids.shape[1] for batch in packed(clips, micro_batch_size=1).get_step_batches(0)
    }
    assert all(width % 16 == 0 for width in widths)
    exact = max(
        int(batch.attention_mask.sum())
        for batch in packed(clips, micro_batch_size=1).get_step_batches(0)
    )
    close = packed(clips, micro_batch_size=1, max_tokens=exact).get_step_batches(0)
    assert max(batch.input_ids.shape[1] for batch in close) == exact


def test_prefetching_leaves_cores_to_the_trainer(tmp_path: Path) -> None:
    cores = torch.get_num_threads()
    made = packed(write_tone_examples(tmp_path, 3), global_batch_size=1)
    assert len(list(made.iter_batches(0, 3))) == 3
    assert torch.get_num_threads() == cores


def test_weights_set_how_often_an_example_comes() -> None:
    weights = [2.0] * 10 + [2.5] * 10 + [0.5] * 10
    made = silent(list(range(5, 35)), weights, global_batch_size=7)
    assert made.steps_per_epoch == 8  # 20, 25 and 5 rows
    for epoch in range(3):
        first = epoch * made.steps_per_epoch
        counts = Counter(
            place for n in range(8) for place in places(made.get_step_examples(first + n))
        )
        found = [
            sum(counts[f"row {at}"] for at in range(start, start + 10)) for start in (0, 10, 20)
        ]
        assert found == [20, 25, 5]
        assert {counts[f"row {at}"] for at in range(10)} == {2}


def test_weighted_steps_do_not_depend_on_earlier_steps() -> None:
    weights = [random.Random(2).choice([0.5, 1.0, 1.7]) for _ in range(70)]
    walked = silent([5] * 70, weights)
    seen = [walked.get_step_examples(number) for number in range(40)]
    for number in (39, 0, 17, 9, 8):
        assert silent([5] * 70, weights).get_step_examples(number) == seen[number]


def test_unit_weights_change_nothing() -> None:
    plain, weighted = silent([7] * 64), silent([7] * 64, [1.0] * 64)
    assert [plain.get_step_examples(n) for n in range(20)] == [
        weighted.get_step_examples(n) for n in range(20)
    ]


def test_build_batches_uses_example_weights(tmp_path: Path) -> None:
    one, other = write_tone_examples(tmp_path, 2)
    made = packed([one, replace(other, weight=3.0)], global_batch_size=4)
    assert sorted(places(made.get_step_examples(0))) == ["0.wav", "1.wav", "1.wav", "1.wav"]


def test_missing_recordings_are_left_out_of_their_step(tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 40)
    made = packed(clips, skip_bad_examples=True, global_batch_size=8, micro_batch_size=4)
    clips[3].audio_segments[0].path.unlink()
    for epoch in range(2):
        steps = made.iter_batches(epoch * 5, epoch * 5 + 5)
        told = [place for step in steps for batch in step for place in batch.locations]
        assert sorted(told) == sorted({clip.location for clip in clips} - {"3.wav"})
    assert list(made.bad_examples.issues) == ["3.wav"]
    assert "audio not found" in str(made.bad_examples.issues["3.wav"])


def test_step_without_decodable_example_carries_no_loss(tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 40)
    made = packed(clips, skip_bad_examples=True, global_batch_size=1, micro_batch_size=1)
    number = next(n for n in range(40) if places(made.get_step_examples(n)) == ["3.wav"])
    clips[3].audio_segments[0].path.unlink()
    (batch,) = made.get_step_batches(number)
    assert batch.num_label_tokens == 0 and batch.locations != ("3.wav",)
    assert list(made.bad_examples.issues) == ["3.wav"]


def test_too_many_missing_recordings_end_the_run(tmp_path: Path) -> None:
    clips = write_tone_examples(tmp_path, 40)
    made = packed(clips, skip_bad_examples=True, global_batch_size=8)
    for clip in clips[:3]:
        clip.audio_segments[0].path.unlink()
    with pytest.raises(DataError) as caught:
        list(made.iter_batches(0, 5))
    assert caught.value.code == "data.too_many_bad"
    assert "3 of 40 clips" in str(caught.value)


def test_example_without_labels_is_left_out(tmp_path: Path) -> None:
    clips = [
        *write_tone_examples(tmp_path, 20),
        make_example(write_tone(tmp_path / "long.wav", hertz=99), "x" * 60),
    ]
    made = packed(clips, max_tokens=100, skip_bad_examples=True)
    assert list(made.bad_examples.issues) == ["long.wav"]
    assert "training.sequence_len is 100" in str(made.bad_examples.issues["long.wav"])
    told = [
        place for n in range(made.steps_per_epoch) for place in places(made.get_step_examples(n))
    ]
    assert len(told) == 20 and "long.wav" not in told


@given(
    lengths=some.lists(some.integers(2, 200), min_size=1, max_size=40),
    per_batch=some.integers(1, 4),
    tokens=some.integers(0, 600),
    rank=some.integers(0, 1),
)
def test_short_rows_fill_a_batch_up_to_its_token_budget(
    lengths: list[int], per_batch: int, tokens: int, rank: int
) -> None:
    full = {"max_batch_tokens": tokens, "max_batch_labels": 10_000}
    made = silent(lengths, global_batch_size=16, micro_batch_size=per_batch, **full)
    for step in range(made.steps_per_epoch):
        batches = made.get_step_examples(step, (rank, 2))
        assert all(batches)
        for batch in batches:
            padded = len(batch) * -(-max(len(row.input_ids) for row in batch) // 16) * 16
            assert len(batch) <= per_batch or padded <= tokens
        plain = silent(lengths, global_batch_size=16, micro_batch_size=per_batch)
        assert places(batches) == places(plain.get_step_examples(step, (rank, 2)))
        assert len(batches) <= len(plain.get_step_examples(step, (rank, 2)))


def test_batches_respect_the_label_budget() -> None:
    full = {"max_batch_tokens": 1_000, "max_batch_labels": 30}
    made = silent([11] * 12, global_batch_size=12, micro_batch_size=1, **full)
    assert [len(batch) for batch in made.get_step_examples(0)] == [
        3,
        3,
        3,
        3,
    ]  # ten learned tokens a row
