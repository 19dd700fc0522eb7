"""Work that is done while what came before it is used: a few things ahead, never all of them.

Which clips ride together: every step a pure function of the seed and its number.

    draw the epoch by the clips' weights
                      --> shuffle it --> windows of 8 to 24 steps --> sort each window by length
                      --> cut into steps --> shuffle the steps --> cut into batches

A run that goes on from step n therefore sees exactly what it would have seen.
"""

import os
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder, EncodedExample
from dlm.batching.collator import Batch, FeatureFn, PaddingSpec, collate
from dlm.data.audio_io import read_audio_info
from dlm.data.load import BadExampleCounter
from dlm.data.sampling import count_epoch_examples, draw_epoch_indices
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError
from dlm.features.extractor import AugmentedExtractor
from dlm.plan.audio_lengths import AudioTokenizerSpec, ceil_div, count_audio_tokens
from dlm.plan.types import TOO_LONG_HINT, AugmentationSpec, BatchPlan

MAX_PREFETCH_WORKERS = 4  # each holds a step that is being made ready

ResultT = TypeVar("ResultT")


def prefetch_results(
    tasks: Iterable[Callable[[], ResultT]], num_workers: int = 1
) -> Generator[ResultT, None, None]:
    """What each task comes to, in order; as many are begun beforehand as there are hands."""
    with ThreadPoolExecutor(num_workers, initializer=_use_single_thread) as pool:
        begun: deque[Future[ResultT]] = deque()
        try:
            for task in tasks:
                begun.append(pool.submit(task))
                if len(begun) > num_workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def choose_num_prefetch_workers() -> int:
    """How many hands there are beside the one that learns."""
    return max(1, min((os.cpu_count() or 1) - 1, MAX_PREFETCH_WORKERS))


def _use_single_thread() -> None:
    """Work on one core: a second team of threads would stand in the way of the first."""
    torch.set_num_threads(1)


BUCKET_WINDOW_STEPS = (
    8,
    24,
)  # sorted together: under 5 % padding in a large set, chance in a small one
TOKEN_PAD_MULTIPLE = 16  # tokens: a processor compiles its products anew for every length it meets

RankSpec = tuple[int, int]  # which rank, of how many
SINGLE_RANK: RankSpec = (0, 1)
DataCursor = tuple[int, ...]  # where the data stand, beyond what the step says


class BucketBatchSampler:
    """The batches of a run, by step. What cannot be heard is left out, if the plan says so."""

    def __init__(
        self,
        examples: list[EncodedExample],
        lengths: list[int],
        batch_plan: BatchPlan,
        *,
        feature_fn: FeatureFn | AugmentedExtractor,
        padding: PaddingSpec,
        sampling_weights: Sequence[float] = (),
    ) -> None:
        """`lengths`: tokens per row, placeholders spread; `weights`: how often each row comes."""
        self._examples, self._lengths, self._batch_plan = examples, lengths, batch_plan
        self._feature_fn, self._padding = feature_fn, padding
        self._sampling_weights = sampling_weights or [1.0] * len(examples)
        self._epoch_order = (-1, [[0]])
        self.steps_per_epoch = ceil_div(
            count_epoch_examples(self._sampling_weights), batch_plan.global_batch_size
        )
        self.bad_examples = BadExampleCounter(
            len(examples), skip_bad_examples=batch_plan.skip_bad_examples
        )

    def get_step_batches(self, step: int, rank_spec: RankSpec = SINGLE_RANK) -> list[Batch]:
        """The batches of step `number`, counted from 0."""
        return self._collate_step(step, self.get_step_examples(step, rank_spec))

    def _collate_step(self, step: int, micro_batches: list[list[EncodedExample]]) -> list[Batch]:
        listen = self._feature_fn
        if isinstance(listen, AugmentedExtractor):
            listen = listen.for_epoch(step // self.steps_per_epoch)
        made = [self._collate_decodable(each, listen) for each in micro_batches]
        return [batch for batch in made if batch] or [self._make_zero_loss_batch(listen)]

    def _collate_decodable(
        self, examples: list[EncodedExample], feature_fn: FeatureFn
    ) -> Batch | None:
        """A batch of the rows that can be heard, if there are any."""
        try:
            return collate(examples, feature_fn, self._padding)
        except DataError:
            heard = [row for row in examples if self._is_decodable(row, feature_fn)]
        return collate(heard, feature_fn, self._padding) if heard else None

    def _is_decodable(self, example: EncodedExample, feature_fn: FeatureFn) -> bool:
        """Whether a row can be heard; one that cannot is left out, or ends the run."""
        try:
            for sound in example.audio_segments:
                feature_fn(sound)
        except DataError as error:
            self.bad_examples.record_error(error, example.location)
            return False
        return True

    def _make_zero_loss_batch(self, feature_fn: FeatureFn) -> Batch:
        """A batch that carries no loss, of the first row that can be heard."""
        batches = (
            self._collate_decodable([_mask_all_labels(row)], feature_fn) for row in self._examples
        )
        return next(batch for batch in batches if batch)

    def get_step_examples(
        self, step: int, rank_spec: RankSpec = SINGLE_RANK
    ) -> list[list[EncodedExample]]:
        """The rows of step `number` that fall to one rank, cut into batches of like length.

        They come by their length, so the last of a batch is as long as all are padded to.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch_order[0] != epoch:
            self._epoch_order = (epoch, self._make_epoch_order(epoch))
        rank, ranks = rank_spec
        chosen = self._epoch_order[1][place]
        if rank >= len(chosen):  # every rank takes part in every step
            return [[_mask_all_labels(self._examples[chosen[0]])]]
        cut: list[list[EncodedExample]] = [[]]
        labels = 0
        for index in chosen[rank::ranks]:
            row = self._examples[index]
            labels += len(row.label_ids)
            if cut[-1] and not self._fits_in_batch(len(cut[-1]) + 1, self._lengths[index], labels):
                cut.append([])
                labels = len(row.label_ids)
            cut[-1].append(row)
        return cut

    def _fits_in_batch(self, num_examples: int, max_length: int, num_labels: int) -> bool:
        """Whether a batch may have so many rows: as many as planned, or more that are short."""
        plan = self._batch_plan
        if num_examples <= plan.micro_batch_size:
            return True
        tokens = num_examples * ceil_div(max_length, TOKEN_PAD_MULTIPLE) * TOKEN_PAD_MULTIPLE
        return tokens <= plan.max_batch_tokens and num_labels <= plan.max_batch_labels

    def iter_batches(
        self,
        start_step: int,
        stop_step: int,
        rank_spec: RankSpec = SINGLE_RANK,
        cursor: DataCursor = (),
    ) -> Iterator[list[Batch]]:
        """Steps `start` to `stop`, made ready while those before them are learned."""
        numbers = range(start_step, stop_step)
        tasks = (
            partial(self._collate_step, number, self.get_step_examples(number, rank_spec))
            for number in numbers
        )
        yield from prefetch_results(
            tasks, 1 if self._batch_plan.use_cached_features else choose_num_prefetch_workers()
        )

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Nothing: the step alone says where the data stand."""
        return ()

    def _make_epoch_order(self, epoch: int) -> list[list[int]]:
        """The indices of an epoch, step by step."""
        chance = random.Random(f"{self._batch_plan.seed}/{epoch}")
        shuffled = draw_epoch_indices(self._sampling_weights, epoch, self._batch_plan.seed)
        chance.shuffle(shuffled)
        size, steps = self._batch_plan.global_batch_size, []
        least, most = BUCKET_WINDOW_STEPS
        wide = min(max(self.steps_per_epoch // 4, least), most)
        for window in _split_into_chunks(shuffled, size * wide):
            steps += _split_into_chunks(sorted(window, key=self._lengths.__getitem__), size)
        chance.shuffle(steps)
        return steps


def build_batches(
    examples: list[Example],
    batch_plan: BatchPlan,
    chat_encoder: ChatEncoder,
    feature_fn: FeatureFn | AugmentedExtractor,
) -> BucketBatchSampler:
    """Render every clip and make the batches ready.

    Raises ClipError for a row too long, or one of which no token is learned, unless the plan leaves
    such out.
    """
    tally = BadExampleCounter(len(examples), skip_bad_examples=batch_plan.skip_bad_examples)
    kept: list[tuple[EncodedExample, int, float]] = []
    for clip in examples:
        try:
            kept.append((*encode_trainable_example(clip, batch_plan, chat_encoder), clip.weight))
        except DataError as error:
            tally.record_error(error, clip.location)
    rows, lengths, weights = (list(each) for each in zip(*kept, strict=True))
    pad = PaddingSpec(
        chat_encoder.pad_token_id,
        chat_encoder.audio_token_id,
        pad_to_multiple_of=TOKEN_PAD_MULTIPLE,
        max_length=batch_plan.max_tokens,
    )
    batches = BucketBatchSampler(
        rows, lengths, batch_plan, feature_fn=feature_fn, padding=pad, sampling_weights=weights
    )
    batches.bad_examples = tally
    return batches


def encode_trainable_example(
    example: Example, batch_plan: BatchPlan, chat_encoder: ChatEncoder
) -> tuple[EncodedExample, int]:
    """The row of a clip and its tokens, placeholders spread. Raises ClipError where it is none."""
    row = (
        chat_encoder.encode_with_teacher(example)
        if batch_plan.distill
        else chat_encoder.encode_example(example)
    )
    sounds = (
        count_segment_tokens(
            each, batch_plan.spec.audio_spec, batch_plan.max_windows, batch_plan.augmentation
        )
        for each in row.audio_segments
    )
    length = len(row.input_ids) + sum(each - 1 for each in sounds)
    length = max(length, len(row.teacher_example.input_ids) if row.teacher_example else 0)
    if not row.label_ids:
        mend = "write what is to be said, or take it out"
        raise DataError("no token of it would be learned", where=row.location, hint=mend)
    if length > batch_plan.max_tokens:
        what = f"{length} tokens, and training.sequence_len is {batch_plan.max_tokens}"
        raise DataError(what, where=row.location, hint=TOO_LONG_HINT)
    return row, length


def count_segment_tokens(
    segment: AudioSegment,
    audio_spec: AudioTokenizerSpec,
    max_windows: int | None,
    augmentation: AugmentationSpec | None = None,
) -> int:
    """Tokens that a sound takes, by its header, when at most so many windows of it are heard.

    With `changes`, those of its longest version.
    """
    header = read_audio_info(*segment.recording)
    end = header.num_samples / header.sample_rate if segment.end is None else segment.end
    seconds = end - (segment.start or 0.0)
    samples = round(seconds * audio_spec.sample_rate)
    longest = (
        augmentation.compute_max_samples(samples, audio_spec.window_samples)
        if augmentation
        else samples
    )
    return count_audio_tokens(longest, audio_spec, max_windows)


def _mask_all_labels(example: EncodedExample) -> EncodedExample:
    """A row that carries no loss, for a rank without one of its own."""
    return replace(example, labels=(IGNORE_INDEX,) * len(example.input_ids), teacher_example=None)


def _split_into_chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
