"""How often each clip comes in a pass."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlm.data.sampling import count_epoch_examples, count_examples_by_weight, draw_epoch_indices


def test_without_weights_every_clip_comes_once() -> None:
    assert draw_epoch_indices([1.0] * 5, 3, 7) == [0, 1, 2, 3, 4]
    assert count_epoch_examples([1.0] * 5) == 5 and count_epoch_examples([]) == 0


def test_twice_is_twice() -> None:
    assert Counter(draw_epoch_indices([2.0, 1.0, 2.0], 0, 7)) == {0: 2, 1: 1, 2: 2}


def test_two_and_a_half_is_twice_and_half_of_them_again() -> None:
    for number in range(4):
        counts = Counter(draw_epoch_indices([2.5] * 10, number, 7))
        assert sorted(counts.values()) == [2] * 5 + [3] * 5
    both = Counter(draw_epoch_indices([2.5] * 10, 0, 7) + draw_epoch_indices([2.5] * 10, 1, 7))
    assert set(both.values()) == {5}


def test_half_is_every_other_pass() -> None:
    passes = [set(draw_epoch_indices([0.5] * 10, number, 7)) for number in range(3)]
    assert [len(each) for each in passes] == [5, 5, 5]
    assert not passes[0] & passes[1] and passes[0] == passes[2]


def test_the_seed_says_whose_turn_it_is() -> None:
    halves = {tuple(draw_epoch_indices([0.5] * 10, 0, seed)) for seed in range(5)}
    assert len(halves) > 1
    assert draw_epoch_indices([0.5] * 10, 0, 1) == draw_epoch_indices([0.5] * 10, 0, 1)


def test_of_a_source_that_is_there_something_comes() -> None:
    assert [len(draw_epoch_indices([0.01] * 3, number, 7)) for number in range(3)] == [1, 1, 1]
    assert {each for number in range(3) for each in draw_epoch_indices([0.01] * 3, number, 7)} == {
        0,
        1,
        2,
    }


def test_shares_are_told_by_weight() -> None:
    assert count_examples_by_weight([1.0, 2.5, 1.0, 2.5, 2.5, 2.5]) == [(1.0, 2, 2), (2.5, 4, 10)]


@given(
    weights=some.lists(some.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.75]), min_size=1),
    number=some.integers(0, 20),
    seed=some.integers(0, 5),
)
def test_every_pass_has_as_many_clips(weights: list[float], number: int, seed: int) -> None:
    assert len(draw_epoch_indices(weights, number, seed)) == count_epoch_examples(weights)
    counts = Counter(draw_epoch_indices(weights, number, seed))
    for index, weight in enumerate(weights):
        least = int(weight) if weights.count(weight) * weight >= 1 else 0
        assert least <= counts[index] <= int(weight) + 1


@pytest.mark.parametrize("weight", [0.5, 0.3, 1.7])
def test_over_many_passes_each_clip_has_its_share(weight: float) -> None:
    counts = Counter(
        each for number in range(100) for each in draw_epoch_indices([weight] * 10, number, 3)
    )
    assert set(counts.values()) == {round(weight * 100)}
