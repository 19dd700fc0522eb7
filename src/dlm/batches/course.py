"""The batches of a run in stages, one after the other, by the step of the run."""

from collections.abc import Iterator, Sequence

from dlm.batches.bucket import WHOLE, Batches, Cursor, Share
from dlm.batches.buffered import Buffered
from dlm.batches.collate import Batch
from dlm.clips.clip import Problem


class Course:
    """Several sets of batches, each for so many steps; every set begins with its first epoch."""

    def __init__(self, parts: Sequence[tuple[Batches | Buffered, int]]) -> None:
        """`parts`: the batches of each stage, and its steps."""
        self._parts = tuple(parts)

    @property
    def left_out(self) -> dict[str, Problem]:
        """What is wrong with the clips that were left out so far, by their places."""
        found: dict[str, Problem] = {}
        for batches, _ in self._parts:
            found |= batches.left_out.problems
        return found

    @property
    def came(self) -> tuple[int, int]:
        """Of a stream: the clips that could not be used so far, and all that came."""
        counts = [batches.counts for batches, _ in self._parts if isinstance(batches, Buffered)]
        return sum(bad for bad, _ in counts), sum(seen for _, seen in counts)

    def stream(
        self, start: int, stop: int, share: Share = WHOLE, cursor: Cursor = ()
    ) -> Iterator[list[Batch]]:
        """Steps `start` to `stop` of the run; `cursor` is that of `start`."""
        begins = 0
        for batches, steps in self._parts:
            low, high = max(start - begins, 0), min(stop - begins, steps)
            if low < high:
                yield from batches.stream(low, high, share, cursor if low else ())
            begins += steps

    def cursor(self, done: int) -> Cursor:
        """Where the data stand after so many steps of the run."""
        for batches, steps in self._parts:
            if done <= steps:
                return batches.cursor(done)
            done -= steps
        return ()
