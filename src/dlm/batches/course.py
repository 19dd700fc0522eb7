"""The batches of a run in stages, one after the other, by the step of the run."""

from collections.abc import Iterator, Sequence

from dlm.batches.bucket import WHOLE, Batches, Share
from dlm.batches.collate import Batch


class Course:
    """Several sets of batches, each for so many steps; every set begins with its first epoch."""

    def __init__(self, parts: Sequence[tuple[Batches, int]]) -> None:
        """`parts`: the batches of each stage, and its steps."""
        self._parts = tuple(parts)

    def stream(self, start: int, stop: int, share: Share = WHOLE) -> Iterator[list[Batch]]:
        """Steps `start` to `stop` of the run."""
        begins = 0
        for batches, steps in self._parts:
            low, high = max(start - begins, 0), min(stop - begins, steps)
            if low < high:
                yield from batches.stream(low, high, share)
            begins += steps
