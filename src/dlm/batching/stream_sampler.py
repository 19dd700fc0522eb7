"""Which clips of a stream ride together: a window of rows at a time, sorted as it comes.

    feeds --draw by weight--> window of rows --> shuffle it --> sort it by length
                              --> cut into steps --> shuffle the steps --> cut into batches

A window is a function of the seed, its number and the places where it begins. The cursor of a run
says so much of the window it is in: a run that goes on reads that window again, passes over the
steps it has taken, and sees exactly what it would have seen.

    cursor    clips that could not be decoded, then a mark
    mark      window, its first step, clips seen and bad before it, the place of every feed
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder, EncodedExample
from dlm.batching.collator import Batch, FeatureFn, PaddingSpec, collate
from dlm.batching.samplers import (
    SINGLE_RANK,
    TOKEN_PAD_MULTIPLE,
    DataCursor,
    RankSpec,
    choose_num_prefetch_workers,
    encode_trainable_example,
    prefetch_results,
)
from dlm.data.load import (
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

NUM_STREAM_WORKERS = 2  # that read, in each process: one while the other waits for the disk
MIN_WINDOW_STEPS, MIN_WINDOW_EXAMPLES = 16, 512  # at least so many of both in a window
WORKER_CURSOR_SIZE = 3  # numbers of a hand's spot
MAX_REPORTED_ISSUES = 100  # clips that could not be used are named, the rest are counted

SizedExample = tuple[EncodedExample, int]  # a row, and its length in tokens
ExampleFilterFn = Callable[
    [Example], Example | None
]  # a clip as it is learned, None for one that is not


@dataclass(frozen=True)
class WindowCursor:
    """Where a window begins."""

    window_index: int
    first_step: int
    num_seen: int
    num_bad: int
    stream_cursors: tuple[StreamCursor, ...]

    @property
    def data_cursor(self) -> DataCursor:
        """The same, for a state that is kept."""
        places = (each for place in self.stream_cursors for each in place.state_values)
        return (self.window_index, self.first_step, self.num_seen, self.num_bad, *places)

    @classmethod
    def from_data_cursor(cls, data_cursor: DataCursor, num_workers: int) -> "WindowCursor":
        """What `numbers` said."""
        window, step, seen, bad, *rest = data_cursor
        size = 1 + WORKER_CURSOR_SIZE * num_workers
        cuts = (rest[at : at + size] for at in range(0, len(rest), size))
        return cls(window, step, seen, bad, tuple(map(StreamCursor.from_state_values, cuts)))


@dataclass(frozen=True)
class _Window:
    """The steps of a window, where the next one begins in each feed, and what came up."""

    steps: list[list[EncodedExample]]
    stream_cursors: tuple[StreamCursor, ...]
    num_seen: int
    issues: list[Issue]


class StreamBatchSampler:
    """The batches of a run that streams, by step."""

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
        """`make` gives the row of a clip, and raises ClipError for one that cannot be learned."""
        self._sources, self._batch_plan, self._transform_fn = sources, batch_plan, transform_fn
        self._feature_fn, self._padding, self._num_workers = feature_fn, padding, num_workers
        self._window_cursors: deque[WindowCursor] = (
            deque()
        )  # of the windows that steps are taken from
        self._num_seen_and_bad = (0, 0)  # clips that were seen in them, and those that were bad
        self._num_undecodable = 0  # clips that could not be decoded
        self.bad_examples = BadExampleCounter(
            0, skip_bad_examples=batch_plan.skip_bad_examples
        )  # the first few

    def iter_batches(
        self,
        start_step: int,
        stop_step: int,
        rank_spec: RankSpec = SINGLE_RANK,
        cursor: DataCursor = (),
    ) -> Iterator[list[Batch]]:
        """Steps `start` to `stop`, made ready while those before them are learned.

        `cursor` is that of `start`; without it all that comes before is read and passed over.
        """
        self._window_cursors.clear()
        mark = self._parse_cursor(cursor)
        self._num_undecodable = cursor[0] if cursor else 0
        draw = _WindowDrawer(
            self._open_readers(rank_spec, mark),
            self._batch_plan,
            self._transform_fn,
            rank_spec=rank_spec,
            window_cursor=mark,
        )
        with closing(prefetch_results(repeat(draw.draw_window))) as windows:
            steps = self._iter_steps(windows, mark, start_step, stop_step)
            tasks = (partial(self._collate_step, window, rows) for window, rows in steps)
            with closing(prefetch_results(tasks, choose_num_prefetch_workers())) as ready:
                for batches, problems in ready:
                    self._num_undecodable += len(problems)
                    self._record_issues(problems)
                    yield batches

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Where the data stand after so many steps."""
        while len(self._window_cursors) > 1 and self._window_cursors[1].first_step <= num_steps:
            self._window_cursors.popleft()
        return (self._num_undecodable, *self._window_cursors[0].data_cursor)

    @property
    def num_bad_and_seen(self) -> tuple[int, int]:
        """The clips that could not be used, and all that came."""
        seen, bad = self._num_seen_and_bad
        return bad + self._num_undecodable, seen

    def _parse_cursor(self, cursor: DataCursor) -> WindowCursor:
        """The mark that a cursor holds, or the beginning. Raises TrainingError for another's."""
        size = 5 + len(self._sources) * (1 + WORKER_CURSOR_SIZE * self._num_workers)
        if cursor and len(cursor) != size:
            what = "the state is of a stream of other sources"
            raise TrainingError(what, hint="start over with --fresh")
        none = (0,) * (size - 1)
        return WindowCursor.from_data_cursor(cursor[1:] or none, self._num_workers)

    def _open_readers(self, rank_spec: RankSpec, window_cursor: WindowCursor) -> list[StreamReader]:
        """Every feed as this rank reads it."""
        rank, ranks = rank_spec
        of = ranks * self._num_workers
        hands = [
            StreamWorker(rank * self._num_workers + each, of) for each in range(self._num_workers)
        ]
        return [
            StreamReader(feed, hands, seed=self._batch_plan.seed, cursor=place)
            for feed, place in zip(self._sources, window_cursor.stream_cursors, strict=True)
        ]

    def _iter_steps(
        self,
        windows: Iterator[_Window],
        window_cursor: WindowCursor,
        start_step: int,
        stop_step: int,
    ) -> Iterator[tuple[int, list[EncodedExample]]]:
        """The rows of each step from `start` on, and their window."""
        while window_cursor.first_step < stop_step:
            window = next(windows)
            self._window_cursors.append(window_cursor)
            self._num_seen_and_bad = (
                window_cursor.num_seen + window.num_seen,
                window_cursor.num_bad + len(window.issues),
            )
            self._record_issues(window.issues)
            for number, rows in enumerate(window.steps, window_cursor.first_step):
                if start_step <= number < stop_step:
                    yield window_cursor.window_index, rows
            step = window_cursor.first_step + len(window.steps)
            window_cursor = WindowCursor(
                window_cursor.window_index + 1, step, *self._num_seen_and_bad, window.stream_cursors
            )

    def _record_issues(self, issues: list[Issue]) -> None:
        """Remember what could not be used. Raises ClipError where that ends the run."""
        if issues and not self._batch_plan.skip_bad_examples:
            raise _to_data_error(issues[0])
        told = self.bad_examples.issues
        told |= {each.where: each for each in issues[: MAX_REPORTED_ISSUES - len(told)]}
        bad, seen = self.num_bad_and_seen
        if seen >= MIN_EXAMPLES_TO_SKIP_BAD and exceeds_bad_fraction(bad, seen):
            raise _to_data_error(
                make_too_many_bad_issue(
                    told.values(), bad, seen, where=_format_source_names(self._sources)
                )
            )

    def _collate_step(
        self, window_index: int, examples: list[EncodedExample]
    ) -> tuple[list[Batch], list[Issue]]:
        """The batches of a step, without the clips that cannot be decoded."""
        listen = (
            self._feature_fn.for_epoch(window_index)
            if isinstance(self._feature_fn, AugmentedExtractor)
            else self._feature_fn
        )
        heard: dict[AudioSegment, tuple[AudioFeatures, ...]] = {}
        fine, problems = [], []
        for row in examples:
            try:
                heard.update((sound, listen(sound)) for sound in row.audio_segments)
                fine.append(row)
            except DataError as error:
                problems.append(Issue.from_error(error, row.location))
        fine = fine or [_make_zero_loss_example(examples[0], self._padding)]
        size = self._batch_plan.micro_batch_size
        cuts = (fine[at : at + size] for at in range(0, len(fine), size))
        return [collate(each, heard.__getitem__, self._padding) for each in cuts], problems


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
        rank, ranks = rank_spec
        self._readers, self._transform_fn, self._window_index = (
            readers,
            transform_fn,
            window_cursor.window_index,
        )
        self._examples_per_step = len(range(rank, batch_plan.global_batch_size, ranks)) or 1
        self._seed = f"{batch_plan.seed}/{rank}"
        self._examples_per_window = self._examples_per_step * max(
            MIN_WINDOW_STEPS, ceil_div(MIN_WINDOW_EXAMPLES, self._examples_per_step)
        )

    def draw_window(self) -> _Window:
        """The next one. Raises ClipError where there is nothing to learn."""
        chance = random.Random(f"{self._seed}/{self._window_index}")
        self._window_index += 1
        drawn: DrawResult[SizedExample] = DrawResult()
        whole = sum(tap.weight for tap in self._readers)
        for tap in self._readers:
            exact = self._examples_per_window * tap.weight / whole
            drawn.merge_result(
                tap.draw_items(int(exact) + (chance.random() < exact % 1), self._transform_fn)
            )
        if all(tap.is_exhausted for tap in self._readers):
            raise _make_empty_stream_error(drawn.issues)
        chance.shuffle(drawn.items)
        rows = [row for row, _ in sorted(drawn.items, key=lambda each: each[1])]
        steps = [
            rows[at : at + self._examples_per_step]
            for at in range(0, len(rows), self._examples_per_step)
        ]
        chance.shuffle(steps)
        places = tuple(tap.cursor for tap in self._readers)
        return _Window(steps, places, drawn.num_seen, drawn.issues)


def build_stream_batches(
    sources: Sequence[StreamSource],
    batch_plan: BatchPlan,
    chat_encoder: ChatEncoder,
    feature_fn: FeatureFn | AugmentedExtractor,
    filter_fn: ExampleFilterFn,
) -> StreamBatchSampler:
    """The batches of all clips of a stream that are `wanted`."""
    pad = PaddingSpec(
        chat_encoder.pad_token_id,
        chat_encoder.audio_token_id,
        pad_to_multiple_of=TOKEN_PAD_MULTIPLE,
        max_length=batch_plan.max_tokens,
    )
    return StreamBatchSampler(
        sources,
        batch_plan,
        partial(_encode_if_wanted, chat_encoder, batch_plan, filter_fn),
        feature_fn=feature_fn,
        padding=pad,
    )


def _encode_if_wanted(
    chat_encoder: ChatEncoder, batch_plan: BatchPlan, filter_fn: ExampleFilterFn, example: Example
) -> SizedExample | None:
    """The row of a clip and its length. Raises ClipError for one that cannot be learned."""
    learned = filter_fn(example)
    return None if learned is None else encode_trainable_example(learned, batch_plan, chat_encoder)


def _make_zero_loss_example(example: EncodedExample, padding: PaddingSpec) -> EncodedExample:
    """A row that stands for a step of which nothing can be heard."""
    return EncodedExample((padding.pad_token_id,) * 2, (IGNORE_INDEX,) * 2, (), example.location)


def _make_empty_stream_error(issues: list[Issue]) -> DataError:
    if issues:
        return _to_data_error(issues[0])
    return DataError(
        "the stream gives this process no clip to learn from",
        hint="look at its sources with dlm check, and start no more processes than it has clips",
    )


def _to_data_error(issue: Issue) -> DataError:
    return DataError(issue.what, where=issue.where, hint=issue.hint)


def _format_source_names(sources: Sequence[StreamSource]) -> str:
    return ", ".join(feed.name for feed in sources)
