"""The batches of a run in stages: one sampler after the other, by the step of the run."""

from collections.abc import Iterator, Sequence

from dlm.batching.chat_template import EncodedExample
from dlm.batching.collator import Batch
from dlm.batching.samplers import SINGLE_RANK, BucketBatchSampler, DataCursor, RankSpec
from dlm.batching.stream_sampler import StreamBatchSampler
from dlm.data.types import Issue


class StagedLoader:
    """Several samplers, each for its number of steps; each begins with its first epoch.

    Args:
        stages: sampler and number of steps of each stage.
    """

    def __init__(
        self, stages: Sequence[tuple[BucketBatchSampler | StreamBatchSampler, int]]
    ) -> None:
        self._stages = tuple(stages)

    @property
    def skipped_issues(self) -> dict[str, Issue]:
        """What is wrong with the examples that were left out so far, by their locations."""
        issues: dict[str, Issue] = {}
        for sampler, _ in self._stages:
            issues |= sampler.bad_examples.issues
        return issues

    @property
    def num_bad_and_seen(self) -> tuple[int, int]:
        """Of streams: examples that could not be used so far, and all that were read."""
        counts = [
            sampler.num_bad_and_seen
            for sampler, _ in self._stages
            if isinstance(sampler, StreamBatchSampler)
        ]
        return sum(bad for bad, _ in counts), sum(seen for _, seen in counts)

    def iter_batches(
        self,
        start_step: int,
        stop_step: int,
        rank_spec: RankSpec = SINGLE_RANK,
        cursor: DataCursor = (),
    ) -> Iterator[list[Batch]]:
        """Yield the micro batches of each step of the run; `cursor` is that of `start_step`."""
        first = 0
        for sampler, num_steps in self._stages:
            start, stop = max(start_step - first, 0), min(stop_step - first, num_steps)
            if start < stop:
                yield from sampler.iter_batches(start, stop, rank_spec, cursor if start else ())
            first += num_steps

    def iter_examples(self) -> Iterator[EncodedExample]:
        """Yield the examples of every stage that are listed; what is streamed is not known."""
        for sampler, _ in self._stages:
            if isinstance(sampler, BucketBatchSampler):
                yield from sampler.examples

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Return the position in the data after so many steps of the run."""
        for sampler, stage_steps in self._stages:
            if num_steps <= stage_steps:
                return sampler.get_cursor(num_steps)
            num_steps -= stage_steps
        return ()
