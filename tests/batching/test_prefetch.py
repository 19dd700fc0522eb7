"""Prefetching: results in order, no further ahead than there are workers, no thread left."""

import threading
from functools import partial
from itertools import count

import pytest
import torch

from dlm.batching.samplers import choose_num_prefetch_workers, prefetch_results


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_order_with_limited_prefetch(num_workers: int) -> None:
    begun, threads = [], threading.active_count()

    def task(number: int) -> int:
        begun.append(number)
        return number

    made = prefetch_results((partial(task, number) for number in count()), num_workers)
    assert [next(made) for _ in range(20)] == list(range(20))
    assert len(begun) <= 20 + num_workers
    made.close()
    assert threading.active_count() == threads


def test_error_is_raised_at_its_result() -> None:
    made = prefetch_results([lambda: 1, lambda: 1 // 0, lambda: 2], num_workers=2)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_prefetch_workers_use_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(prefetch_results([torch.get_num_threads] * 3, 2)) == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert choose_num_prefetch_workers() >= 1
