"""The batches of a run in stages, one after the other, by the step of the run."""

from collections.abc import Iterator, Sequence

from dlm.batching.collator import Batch
from dlm.batching.samplers import SINGLE_RANK, BucketBatchSampler, DataCursor, RankSpec
from dlm.batching.stream_sampler import StreamBatchSampler
from dlm.data.types import Issue


class StagedLoader:
    """Several sets of batches, each for so many steps; every set begins with its first epoch."""

    def __init__(
        self, stages: Sequence[tuple[BucketBatchSampler | StreamBatchSampler, int]]
    ) -> None:
        """`parts`: the batches of each stage, and its steps."""
        self._stages = tuple(stages)

    @property
    def skipped_issues(self) -> dict[str, Issue]:
        """What is wrong with the clips that were left out so far, by their places."""
        found: dict[str, Issue] = {}
        for batches, _ in self._stages:
            found |= batches.bad_examples.issues
        return found

    @property
    def num_bad_and_seen(self) -> tuple[int, int]:
        """Of a stream: the clips that could not be used so far, and all that came."""
        counts = [
            batches.num_bad_and_seen
            for batches, _ in self._stages
            if isinstance(batches, StreamBatchSampler)
        ]
        return sum(bad for bad, _ in counts), sum(seen for _, seen in counts)

    def iter_batches(
        self,
        start_step: int,
        stop_step: int,
        rank_spec: RankSpec = SINGLE_RANK,
        cursor: DataCursor = (),
    ) -> Iterator[list[Batch]]:
        """Steps `start` to `stop` of the run; `cursor` is that of `start`."""
        begins = 0
        for batches, steps in self._stages:
            low, high = max(start_step - begins, 0), min(stop_step - begins, steps)
            if low < high:
                yield from batches.iter_batches(low, high, rank_spec, cursor if low else ())
            begins += steps

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Where the data stand after so many steps of the run."""
        for batches, steps in self._stages:
            if num_steps <= steps:
                return batches.get_cursor(num_steps)
            num_steps -= steps
        return ()
