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

from dlm.batches.bucket import Share
from dlm.batches.buffered import WINDOW_CLIPS, Buffered, buffer
from dlm.batches.chat import IGNORE, Chat, Row
from dlm.batches.collate import Batch
from dlm.clips.clip import Clip, Problem, Sound, Turn
from dlm.clips.origin import Given, Shard
from dlm.clips.streams import Feed, Hand
from dlm.errors import ClipError, TrainingError
from dlm.features.ear import Ear, Heard
from tests.batches.test_bucket import PAD, PLAN
from tests.tiny import spoken, tiny_base, tiny_tokenizer, tones

STREAM = replace(PLAN, skips=True)
COUNTS = some.lists(some.integers(0, 14), min_size=1, max_size=9).filter(any)


def clip(place: str) -> Clip:
    return Clip((Turn("assistant", ("a word",)),), place, "text")


def rows(name: str, count: int) -> Iterator[Given]:
    yield from (clip(f"{name}/{row}") for row in range(count))


def feed(counts: list[int], name: str = "feed", **more: object) -> Feed:
    """Shards of so many clips each."""
    shards = [
        Shard.of(f"{name} {at}", partial(rows, f"{name} {at}", count))
        for at, count in enumerate(counts)
    ]
    return Feed(name, tuple(shards), lambda given: given, **more)


def sized(each: Clip) -> tuple[Row, int]:
    """A row without sound, as long as its place draws."""
    length = random.Random(each.place).randint(5, 90)
    return Row((5,) * length, (5,) * length, (), each.place), length


def made(
    feeds: list[Feed], *, make: object = sized, listen: object = None, **plan: object
) -> Buffered:
    return Buffered(feeds, replace(STREAM, **plan), make, listen=listen, pad=PAD)


def places(batches: list[Batch]) -> list[str]:
    return [place for batch in batches for place in batch.places]


def passes(of: Buffered, clips: int, share: Share = (0, 1)) -> list[list[str]]:
    """The places of each step until so many clips were seen."""
    steps, seen = [], 0
    for batches in of.stream(0, 1 << 20, share):
        steps.append(places(batches))
        seen += len(steps[-1])
        if seen >= clips:
            break
    return steps


def all_of(counts: list[int], name: str = "feed") -> list[str]:
    return sorted(f"{name} {at}/{row}" for at, many in enumerate(counts) for row in range(many))


@given(counts=COUNTS, per_step=some.integers(1, 9), per_batch=some.integers(1, 9))
def test_a_pass_covers_every_clip_once(counts: list[int], per_step: int, per_batch: int) -> None:
    of = made([feed(counts)], clips_per_step=per_step, clips_per_batch=per_batch)
    steps = passes(of, 3 * sum(counts))
    flat = [place for step in steps for place in step]
    for turn in range(3):
        assert sorted(flat[turn * sum(counts) : (turn + 1) * sum(counts)]) == all_of(counts)
    assert all(len(step) <= per_step for step in steps)


@given(counts=some.lists(some.integers(1, 9), min_size=4, max_size=12))
def test_ranks_and_workers_share_a_pass(counts: list[int]) -> None:
    found = []
    for rank in range(2):
        mine = sum(1 for _ in hand_rows(counts, rank))
        found += [each for step in passes(made([feed(counts)]), mine, (rank, 2)) for each in step]
    assert sorted(found) == all_of(counts)


def hand_rows(counts: list[int], rank: int) -> Iterator[Given]:
    """What the two workers of one rank of two have in the first pass."""
    for number in (2 * rank, 2 * rank + 1):
        yield from (each for _, each in feed(counts).read(Hand(number, 4), seed=STREAM.seed))


@given(
    counts=some.lists(some.integers(4, 60), min_size=2, max_size=8),
    ranks=some.integers(1, 2),
    per_step=some.integers(2, 9),
    cut=some.integers(1, 29),
)
def test_a_run_goes_on_from_any_step(
    counts: list[int], ranks: int, per_step: int, cut: int
) -> None:
    several = [feed(counts), feed([9, 2], "other", weight=0.5)]
    for rank in range(ranks):
        whole = made(several, clips_per_step=per_step)
        walked, cursor = [], ()
        for done, batches in enumerate(whole.stream(0, 30, (rank, ranks)), start=1):
            walked.append(places(batches))
            if done == cut:
                cursor = whole.cursor(done)
        later = made(several, clips_per_step=per_step)
        went_on = list(map(places, later.stream(cut, 30, (rank, ranks), cursor)))
        assert went_on == walked[cut:]
        assert later.cursor(30) == whole.cursor(30)
        assert later.counts == whole.counts


def test_without_a_cursor_what_came_before_is_passed_over() -> None:
    walked = list(map(places, made([feed([20, 9])]).stream(0, 9)))
    assert list(map(places, made([feed([20, 9])]).stream(5, 9))) == walked[5:]
    assert list(made([feed([20, 9])]).stream(3, 3)) == []


def test_a_source_is_drawn_by_its_weight_and_no_clip_twice_at_once() -> None:
    large, small = feed([4000, 4000], "large", weight=3), feed([30], "small", weight=1)
    even = feed([4000], "even", weight=2)
    of = made([large, even, small])
    steps = [places(batches) for batches in of.stream(0, 3 * WINDOW_CLIPS // 8)]
    names = Counter(place.split()[0] for step in steps for place in step)
    assert names["large"] / names["even"] == pytest.approx(1.5, rel=0.05)
    first = Counter(place for step in steps[:40] for place in step)
    assert names["small"] >= 60 and max(first.values()) == 1


def test_padding_is_small_and_steps_are_not_in_order_of_length() -> None:
    used = padded = 0
    means = []
    for batches in islice(made([feed([900] * 6)]).stream(0, 400), 400):
        (batch,) = batches
        used, padded = used + int(batch.attention.sum()), padded + batch.attention.numel()
        means.append(float(batch.attention.sum()))
    assert 1 - used / padded < 0.05, f"{1 - used / padded:.1%} padding"
    rising = sum(one < other for one, other in zip(means, means[1:], strict=False))
    assert 0.35 < rising / len(means) < 0.65


def test_no_more_is_read_than_a_few_windows() -> None:
    read = []

    def endless() -> Iterator[Given]:
        for row in range(1 << 40):
            read.append(row)
            yield clip(f"feed/{row}")

    of = made([Feed("feed", (Shard.of("feed", endless),), lambda given: given)])
    next(of.stream(0, 1 << 30))
    assert 0 < len(read) <= 4 * 2 * WINDOW_CLIPS


def test_seeds_differ() -> None:
    one, other, same = (
        [places(each) for each in made([feed([9] * 9)], seed=seed).stream(0, 9)]
        for seed in (1, 2, 1)
    )
    assert one == same != other


def bad(every: int, each: Clip) -> tuple[Row, int]:
    if int(each.place.rpartition("/")[2]) % every == 0:
        raise ClipError("no token of it would be learned", where=each.place, mend="write more")
    return sized(each)


def test_clips_that_cannot_be_learned_are_left_out_and_counted() -> None:
    of = made([feed([100, 100])], make=partial(bad, 50))
    seen = [place for step in of.stream(0, 25) for place in places(step)]
    assert len(set(seen)) == len(seen) == 196
    assert of.counts == (4, 200)
    assert len(list(of.stream(0, 50))) == 50 and of.counts == (8, 400)
    (*_, last) = of.left_out.problems.values()
    assert str(last).endswith("no token of it would be learned; write more")


def test_too_many_of_them_end_the_run() -> None:
    with pytest.raises(ClipError, match=r"cannot be used, more than 5%: feed "):
        list(made([feed([100, 100])], make=partial(bad, 10)).stream(0, 9))


def test_the_first_of_them_ends_the_run_where_none_is_to_be_left_out() -> None:
    with pytest.raises(ClipError, match=r"^feed [01]/[05]0?: no token of it would be learned"):
        list(made([feed([100, 100])], make=partial(bad, 50), skips=False).stream(0, 9))


def test_a_stream_of_nothing_is_told() -> None:
    with pytest.raises(ClipError, match="gives this process no clip to learn from"):
        next(made([feed([0, 0])]).stream(0, 1))
    broken = Shard.of("list", lambda: [Problem("list:1", "not JSON", "mend it", fatal=True)])
    with pytest.raises(ClipError, match=r"list:1: not JSON; mend it"):
        next(made([Feed("list", (broken,), lambda given: given)]).stream(0, 1))


def test_a_cursor_of_other_sources_is_refused() -> None:
    of = made([feed([9])])
    next(of.stream(0, 1))
    with pytest.raises(TrainingError, match=r"other sources; start over with --fresh"):
        next(made([feed([9]), feed([9], "more")]).stream(1, 2, (0, 1), of.cursor(1)))


def heard(clips: list[Clip], listen: object, **plan: object) -> Buffered:
    """Batches of clips with sound, by the real chat form."""
    of = Feed("feed", (Shard.of("feed", lambda: clips),), lambda given: given)
    chat = Chat(tiny_tokenizer(), tiny_base())
    return buffer([of], replace(STREAM, **plan), chat, listen, lambda each: each)


def test_rows_are_heard_by_several_hands_to_the_same_bits(tmp_path: Path) -> None:
    clips = tones(tmp_path, 9)
    one, other = (
        list(heard(clips, Ear(tiny_base(), auto_resample=False, memory_bytes=0)).stream(0, 6))
        for _ in range(2)
    )
    for mine, theirs in zip(one, other, strict=True):
        for first, second in zip(mine, theirs, strict=True):
            assert first.places == second.places and torch.equal(first.sounds, second.sounds)
    assert {place for step in one for place in places(step)} == {each.place for each in clips}


def test_what_is_not_wanted_does_not_come(tmp_path: Path) -> None:
    clips = tones(tmp_path, 6)
    of = Feed("feed", (Shard.of("feed", lambda: clips),), lambda given: given)
    chat, ear = Chat(tiny_tokenizer(), tiny_base()), Ear(tiny_base(), auto_resample=False)
    made = buffer([of], STREAM, chat, ear, lambda each: each if each.place != "2.wav" else None)
    seen = [place for step in made.stream(0, 3) for place in places(step)]
    assert sorted(set(seen)) == ["0.wav", "1.wav", "3.wav", "4.wav", "5.wav"]
    assert made.counts == (0, 15)


def failing(names: set[str], ear: Ear, sound: Sound) -> tuple[Heard, ...]:
    if sound.path.name in names:
        raise ClipError("it is damaged", where=sound.name, mend="copy it again")
    return ear(sound)


def test_a_clip_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    clips, ear = tones(tmp_path, 6), Ear(tiny_base(), auto_resample=False)
    of = heard(clips, partial(failing, {"1.wav"}, ear), clips_per_step=4, clips_per_batch=2)
    steps = [places(each) for each in of.stream(0, 2)]
    assert sorted(place for step in steps for place in step) == [
        "0.wav",
        "2.wav",
        "3.wav",
        "4.wav",
        "5.wav",
    ]
    assert of.counts == (1, 6) and "it is damaged" in str(of.left_out.problems["1.wav"])
    again = heard(clips, partial(failing, {"1.wav"}, ear), clips_per_step=4, clips_per_batch=2)
    assert (
        list(map(places, again.stream(2, 5, (0, 1), of.cursor(2))))
        == list(map(places, of.stream(0, 5)))[2:]
    )
    assert again.counts == of.counts == (3, 18)
    alone = heard([spoken(tmp_path / "1.wav", "one")], partial(failing, {"1.wav"}, ear))
    ((batch,),) = alone.stream(0, 1)
    assert batch.label_tokens == 0 and bool((batch.labels == IGNORE).all())
    with pytest.raises(ClipError, match="it is damaged"):
        list(heard(clips, partial(failing, {"1.wav"}, ear), skips=False).stream(0, 2))
