"""The batch sampler of streamed data: one window of examples at a time, sorted as it is read.

    sources, by weight -> window of examples -> shuffled -> sorted by length
                       -> cut into steps -> steps shuffled -> cut into micro batches

A window is a function of the seed, its index and the positions at which it begins. A checkpoint
holds these for the window it is in: a resumed run reads that window again, skips the steps that
were taken, and gets the batches it would have got.

    data cursor     examples that could not be decoded, then a window cursor
    window cursor   index, first step, examples seen and bad before it, a cursor for each source
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder, EncodedExample
from dlm.batching.collator import Batch, FeatureFn, PaddingSpec, collate, select_feature_fn
from dlm.batching.samplers import (
    SINGLE_RANK,
    DataCursor,
    RankSpec,
    choose_num_prefetch_workers,
    encode_trainable_example,
    make_train_padding,
    prefetch_results,
    split_into_chunks,
)
from dlm.data.bad_examples import (
    MIN_EXAMPLES_TO_SKIP_BAD,
    BadExampleCounter,
    exceeds_bad_fraction,
    make_too_many_bad_issue,
)
from dlm.data.streaming import (
    DrawResult,
    StreamCursor,
    StreamReader,
    StreamSource,
    StreamWorker,
    TransformFn,
)
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError, TrainingError
from dlm.features.extractor import AudioFeatures, AugmentedExtractor
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.types import BatchPlan

NUM_STREAM_WORKERS = 2  # readers in each process: one reads while the other waits for the disk
MIN_WINDOW_STEPS, MIN_WINDOW_EXAMPLES = 16, 512
WORKER_CURSOR_SIZE = 3  # integers of the cursor of a reader
MAX_REPORTED_ISSUES = 100  # bad examples that are named; the rest are counted

SizedExample = tuple[EncodedExample, int]  # an example, and its length in tokens
ExampleFilterFn = Callable[[Example], Example | None]  # the example to train on, or None


@dataclass(frozen=True)
class WindowCursor:
    """Where a window begins.

    Attributes:
        window_index: counted from 0.
        first_step: the first step of the window.
        num_seen: examples read before it.
        num_bad: examples before it that could not be used.
        stream_cursors: the position in each source.
    """

    window_index: int
    first_step: int
    num_seen: int
    num_bad: int
    stream_cursors: tuple[StreamCursor, ...]

    @property
    def data_cursor(self) -> DataCursor:
        """The integers that a checkpoint stores."""
        positions = (value for cursor in self.stream_cursors for value in cursor.state_values)
        return (self.window_index, self.first_step, self.num_seen, self.num_bad, *positions)

    @classmethod
    def from_data_cursor(cls, data_cursor: DataCursor, num_workers: int) -> "WindowCursor":
        """Read the integers of a checkpoint."""
        window_index, first_step, num_seen, num_bad, *rest = data_cursor
        streams = split_into_chunks(rest, 1 + WORKER_CURSOR_SIZE * num_workers)
        cursors = tuple(map(StreamCursor.from_state_values, streams))
        return cls(window_index, first_step, num_seen, num_bad, cursors)


@dataclass(frozen=True)
class _Window:
    """The steps of a window, where the next one begins in each source, and what was read."""

    steps: list[list[EncodedExample]]
    stream_cursors: tuple[StreamCursor, ...]
    num_seen: int
    issues: list[Issue]


class StreamBatchSampler:
    """The batches of a run on streamed sources, by step.

    Args:
        sources: what is read, with weights.
        batch_plan: sizes and limits; with `skip_bad_examples`, examples that cannot be used are
            left out and counted.
        transform_fn: encodes an example; None skips it, DataError says why it cannot be used.
        feature_fn: features of a segment, or of a segment in an epoch.
        padding: how sequences are padded.
        num_workers: readers in this process.
    """

    def __init__(
        self,
        sources: Sequence[StreamSource],
        batch_plan: BatchPlan,
        transform_fn: TransformFn[SizedExample],
        *,
        feature_fn: FeatureFn | AugmentedExtractor,
        padding: PaddingSpec,
        num_workers: int = NUM_STREAM_WORKERS,
    ) -> None:
        self._sources, self._batch_plan, self._transform_fn = sources, batch_plan, transform_fn
        self._feature_fn, self._padding, self._num_workers = feature_fn, padding, num_workers
        self._window_cursors: deque[WindowCursor] = deque()  # of windows that steps are taken from
        self._num_seen, self._num_bad = 0, 0  # in those windows and before
        self._num_undecodable = 0
        self.bad_examples = BadExampleCounter(0, skip_bad_examples=batch_plan.skip_bad_examples)

    def iter_batches(
        self,
        start_step: int,
        stop_step: int,
        rank_spec: RankSpec = SINGLE_RANK,
        cursor: DataCursor = (),
    ) -> Iterator[list[Batch]]:
        """Yield the micro batches of each step, prepared while earlier ones are trained on.

        Args:
            start_step: the first step, counted from 0.
            stop_step: the step after the last.
            rank_spec: this process, and how many there are.
            cursor: that of `start_step`; without it all that comes before is read and skipped.

        Raises:
            DataError: an example cannot be used, too many cannot, or there is none.
            TrainingError: the cursor is of other sources (`training.other_sources`).
        """
        self._window_cursors.clear()
        window_cursor = self._parse_cursor(cursor)
        self._num_undecodable = cursor[0] if cursor else 0
        drawer = _WindowDrawer(
            self._open_readers(rank_spec, window_cursor),
            self._batch_plan,
            self._transform_fn,
            rank_spec=rank_spec,
            window_cursor=window_cursor,
        )
        with closing(prefetch_results(repeat(drawer.draw_window))) as windows:
            steps = self._iter_steps(windows, window_cursor, start_step, stop_step)
            tasks = (partial(self._collate_step, index, examples) for index, examples in steps)
            with closing(prefetch_results(tasks, choose_num_prefetch_workers())) as results:
                for batches, issues in results:
                    self._num_undecodable += len(issues)
                    self._record_issues(issues)
                    yield batches

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Return the position in the data after so many steps."""
        while len(self._window_cursors) > 1 and self._window_cursors[1].first_step <= num_steps:
            self._window_cursors.popleft()
        return (self._num_undecodable, *self._window_cursors[0].data_cursor)

    @property
    def num_bad_and_seen(self) -> tuple[int, int]:
        """Examples that could not be used, and all that were read."""
        return self._num_bad + self._num_undecodable, self._num_seen

    def _parse_cursor(self, cursor: DataCursor) -> WindowCursor:
        """The window cursor of a checkpoint, or that of the beginning."""
        size = 5 + len(self._sources) * (1 + WORKER_CURSOR_SIZE * self._num_workers)
        if cursor and len(cursor) != size:
            raise TrainingError(
                "the saved state belongs to a stream of other sources",
                hint="start over with --fresh",
                code="training.other_sources",
            )
        values = cursor[1:] or (0,) * (size - 1)
        return WindowCursor.from_data_cursor(values, self._num_workers)

    def _open_readers(self, rank_spec: RankSpec, window_cursor: WindowCursor) -> list[StreamReader]:
        """Every source as this process reads it."""
        rank, num_ranks = rank_spec
        total = num_ranks * self._num_workers
        first = rank * self._num_workers
        workers = [StreamWorker(first + index, total) for index in range(self._num_workers)]
        return [
            StreamReader(source, workers, seed=self._batch_plan.seed, cursor=cursor)
            for source, cursor in zip(self._sources, window_cursor.stream_cursors, strict=True)
        ]

    def _iter_steps(
        self,
        windows: Iterator[_Window],
        window_cursor: WindowCursor,
        start_step: int,
        stop_step: int,
    ) -> Iterator[tuple[int, list[EncodedExample]]]:
        """The index of the window and the examples of each step from `start_step` on."""
        while window_cursor.first_step < stop_step:
            window = next(windows)
            self._window_cursors.append(window_cursor)
            self._num_seen = window_cursor.num_seen + window.num_seen
            self._num_bad = window_cursor.num_bad + len(window.issues)
            self._record_issues(window.issues)
            for step, examples in enumerate(window.steps, window_cursor.first_step):
                if start_step <= step < stop_step:
                    yield window_cursor.window_index, examples
            window_cursor = WindowCursor(
                window_cursor.window_index + 1,
                window_cursor.first_step + len(window.steps),
                self._num_seen,
                self._num_bad,
                window.stream_cursors,
            )

    def _record_issues(self, issues: list[Issue]) -> None:
        """Remember what could not be used. Raises DataError where that ends the run."""
        if issues and not self._batch_plan.skip_bad_examples:
            raise _to_data_error(issues[0])
        reported = self.bad_examples.issues
        reported |= {each.where: each for each in issues[: MAX_REPORTED_ISSUES - len(reported)]}
        num_bad, num_seen = self.num_bad_and_seen
        if num_seen >= MIN_EXAMPLES_TO_SKIP_BAD and exceeds_bad_fraction(num_bad, num_seen):
            where = ", ".join(source.name for source in self._sources)
            raise _to_data_error(
                make_too_many_bad_issue(reported.values(), num_bad, num_seen, where=where)
            )

    def _collate_step(
        self, window_index: int, examples: list[EncodedExample]
    ) -> tuple[list[Batch], list[Issue]]:
        """The micro batches of a step, without the examples that cannot be decoded."""
        feature_fn = select_feature_fn(self._feature_fn, window_index)
        features: dict[AudioSegment, tuple[AudioFeatures, ...]] = {}
        decodable, issues = [], []
        for example in examples:
            try:
                features.update((each, feature_fn(each)) for each in example.audio_segments)
                decodable.append(example)
            except DataError as error:
                issues.append(Issue.from_error(error, example.location))
        if not decodable:  # an example without audio and without loss stands for the step
            padding, ignored = (self._padding.pad_token_id,) * 2, (IGNORE_INDEX,) * 2
            decodable = [EncodedExample(padding, ignored, (), examples[0].location)]
        micro_batches = split_into_chunks(decodable, self._batch_plan.micro_batch_size)
        return [
            collate(each, features.__getitem__, self._padding) for each in micro_batches
        ], issues


class _WindowDrawer:
    """Draws one window after the other for a rank."""

    def __init__(
        self,
        readers: list[StreamReader],
        batch_plan: BatchPlan,
        transform_fn: TransformFn[SizedExample],
        *,
        rank_spec: RankSpec,
        window_cursor: WindowCursor,
    ) -> None:
        rank, num_ranks = rank_spec
        self._readers, self._transform_fn = readers, transform_fn
        self._window_index = window_cursor.window_index
        self._seed = f"{batch_plan.seed}/{rank}"
        self._step_size = len(range(rank, batch_plan.global_batch_size, num_ranks)) or 1
        self._window_size = self._step_size * max(
            MIN_WINDOW_STEPS, ceil_div(MIN_WINDOW_EXAMPLES, self._step_size)
        )

    def draw_window(self) -> _Window:
        """Read the next window. Raises DataError where no source has an example."""
        rng = random.Random(f"{self._seed}/{self._window_index}")
        self._window_index += 1
        drawn: DrawResult[SizedExample] = DrawResult()
        total_weight = sum(reader.weight for reader in self._readers)
        for reader in self._readers:
            exact = self._window_size * reader.weight / total_weight
            num_items = int(exact) + (rng.random() < exact % 1)
            drawn.merge_result(reader.draw_items(num_items, self._transform_fn))
        if all(reader.is_exhausted for reader in self._readers):
            raise _make_empty_stream_error(drawn.issues)
        rng.shuffle(drawn.items)
        examples = [example for example, _ in sorted(drawn.items, key=lambda each: each[1])]
        steps = split_into_chunks(examples, self._step_size)
        rng.shuffle(steps)
        cursors = tuple(reader.cursor for reader in self._readers)
        return _Window(steps, cursors, drawn.num_seen, drawn.issues)


def build_stream_batches(
    sources: Sequence[StreamSource],
    batch_plan: BatchPlan,
    chat_encoder: ChatEncoder,
    feature_fn: FeatureFn | AugmentedExtractor,
    filter_fn: ExampleFilterFn,
) -> StreamBatchSampler:
    """Make the sampler of streamed sources, of the examples that `filter_fn` keeps."""

    def encode_if_wanted(example: Example) -> SizedExample | None:
        wanted = filter_fn(example)
        if wanted is None:
            return None
        return encode_trainable_example(wanted, batch_plan, chat_encoder)

    return StreamBatchSampler(
        sources,
        batch_plan,
        encode_if_wanted,
        feature_fn=feature_fn,
        padding=make_train_padding(chat_encoder, batch_plan),
    )


def _make_empty_stream_error(issues: list[Issue]) -> DataError:
    if issues:
        return _to_data_error(issues[0])
    return DataError(
        "the stream has no clip to train on for this process",
        hint="run dlm check on its sources, and start no more processes than it has clips",
        code="data.empty_stream",
    )


def _to_data_error(issue: Issue) -> DataError:
    return DataError(issue.what, where=issue.where, hint=issue.hint, code=issue.code)
