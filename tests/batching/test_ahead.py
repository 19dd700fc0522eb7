"""What is made ready beforehand: in order, no further ahead than there are hands, nothing left."""

import threading
from functools import partial
from itertools import count

import pytest
import torch

from dlm.batching.samplers import choose_num_prefetch_workers, prefetch_results


@pytest.mark.parametrize("hands", [1, 3])
def test_results_come_in_order_and_few_are_begun_beforehand(hands: int) -> None:
    begun = []

    def task(number: int) -> int:
        begun.append(number)
        return number

    made = prefetch_results((partial(task, number) for number in count()), hands)
    assert [next(made) for _ in range(20)] == list(range(20))
    assert len(begun) <= 20 + hands
    made.close()
    assert threading.active_count() == 1


def test_a_failure_comes_where_its_result_would() -> None:
    made = prefetch_results([lambda: 1, lambda: 1 // 0, lambda: 2], num_workers=2)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_each_hand_works_on_one_core() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(prefetch_results([torch.get_num_threads] * 3, 2)) == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert choose_num_prefetch_workers() >= 1
