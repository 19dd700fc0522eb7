"""Sampling by weight: which examples come in an epoch."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.sampling import count_epoch_examples, count_examples_by_weight, draw_epoch_indices


def test_without_weights_every_example_comes_once() -> None:
    assert draw_epoch_indices([1.0] * 5, 3, 7) == [0, 1, 2, 3, 4]
    assert count_epoch_examples([1.0] * 5) == 5 and count_epoch_examples([]) == 0


def test_weight_two_draws_twice() -> None:
    assert Counter(draw_epoch_indices([2.0, 1.0, 2.0], 0, 7)) == {0: 2, 1: 1, 2: 2}


def test_weight_two_and_a_half_draws_half_of_the_examples_a_third_time() -> None:
    for epoch in range(4):
        counts = Counter(draw_epoch_indices([2.5] * 10, epoch, 7))
        assert sorted(counts.values()) == [2] * 5 + [3] * 5
    both = Counter(draw_epoch_indices([2.5] * 10, 0, 7) + draw_epoch_indices([2.5] * 10, 1, 7))
    assert set(both.values()) == {5}


def test_weight_one_half_draws_each_example_in_every_other_epoch() -> None:
    epochs = [set(draw_epoch_indices([0.5] * 10, epoch, 7)) for epoch in range(3)]
    assert [len(drawn) for drawn in epochs] == [5, 5, 5]
    assert not epochs[0] & epochs[1] and epochs[0] == epochs[2]


def test_the_seed_decides_which_examples_come_first() -> None:
    halves = {tuple(draw_epoch_indices([0.5] * 10, 0, seed)) for seed in range(5)}
    assert len(halves) > 1
    assert draw_epoch_indices([0.5] * 10, 0, 1) == draw_epoch_indices([0.5] * 10, 0, 1)


def test_a_tiny_weight_draws_at_least_one_example() -> None:
    draws = [draw_epoch_indices([0.01] * 3, epoch, 7) for epoch in range(3)]
    assert [len(drawn) for drawn in draws] == [1, 1, 1]
    assert {index for drawn in draws for index in drawn} == {0, 1, 2}


def test_examples_and_draws_are_counted_by_weight() -> None:
    assert count_examples_by_weight([1.0, 2.5, 1.0, 2.5, 2.5, 2.5]) == [(1.0, 2, 2), (2.5, 4, 10)]


@given(
    weights=st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.75]), min_size=1),
    epoch=st.integers(0, 20),
    seed=st.integers(0, 5),
)
def test_every_epoch_has_the_same_number_of_examples(
    weights: list[float], epoch: int, seed: int
) -> None:
    assert len(draw_epoch_indices(weights, epoch, seed)) == count_epoch_examples(weights)
    counts = Counter(draw_epoch_indices(weights, epoch, seed))
    for index, weight in enumerate(weights):
        minimum = int(weight) if weights.count(weight) * weight >= 1 else 0
        assert minimum <= counts[index] <= int(weight) + 1


@pytest.mark.parametrize("weight", [0.5, 0.3, 1.7])
def test_over_many_epochs_each_example_comes_by_its_weight(weight: float) -> None:
    counts = Counter(
        index for epoch in range(100) for index in draw_epoch_indices([weight] * 10, epoch, 3)
    )
    assert set(counts.values()) == {round(weight * 100)}
