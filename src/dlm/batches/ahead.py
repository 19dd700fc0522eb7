"""Work that is done while what came before it is used: a few things ahead, never all of them."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

MOST_HANDS = 4  # each holds a step that is being made ready

Done = TypeVar("Done")


def ahead(tasks: Iterable[Callable[[], Done]], hands: int = 1) -> Generator[Done, None, None]:
    """What each task comes to, in order; as many are begun beforehand as there are hands."""
    with ThreadPoolExecutor(hands, initializer=_alone) as pool:
        begun: deque[Future[Done]] = deque()
        try:
            for task in tasks:
                begun.append(pool.submit(task))
                if len(begun) > hands:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def spare_hands() -> int:
    """How many hands there are beside the one that learns."""
    return max(1, min((os.cpu_count() or 1) - 1, MOST_HANDS))


def _alone() -> None:
    """Work on one core: a second team of threads would stand in the way of the first."""
    torch.set_num_threads(1)
