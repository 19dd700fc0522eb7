"""The bucketed batch sampler of listed data, and prefetching: each step follows from seed and step.

    epoch, drawn by the weights of examples
        -> shuffled -> windows of 8 to 24 steps -> each sorted by length
        -> cut into steps -> steps shuffled -> cut into micro batches

A resumed run therefore gets the batches it would have got.
"""

import os
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.batching.collator import (
    Batch,
    FeatureFn,
    PaddingSpec,
    collate,
    mask_all_labels,
    select_feature_fn,
)
from dlm.data.audio_io import read_audio_info
from dlm.data.bad_examples import BadExampleCounter
from dlm.data.sampling import count_epoch_examples, draw_epoch_indices
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError
from dlm.features.extractor import AugmentedExtractor
from dlm.plan.audio_lengths import AudioTokenizerSpec, ceil_div, count_audio_tokens
from dlm.plan.types import TOO_LONG_HINT, AugmentationSpec, BatchPlan

MAX_PREFETCH_WORKERS = 4  # each holds a prepared step
# steps sorted together: under 5 % padding in a large set, random order in a small one
BUCKET_WINDOW_STEPS = (8, 24)
TOKEN_PAD_MULTIPLE = 16  # tokens: a CPU's library compiles a product for every new length

ResultT = TypeVar("ResultT")
RankSpec = tuple[int, int]  # rank, number of ranks
SINGLE_RANK: RankSpec = (0, 1)
DataCursor = tuple[int, ...]  # the position in the data, beyond what the step tells


def prefetch_results(
    tasks: Iterable[Callable[[], ResultT]], num_workers: int = 1
) -> Generator[ResultT, None, None]:
    """Yield the results of tasks in order; up to `num_workers` run ahead in threads."""
    # one core for each: a second team of threads would compete with the trainer's
    with ThreadPoolExecutor(num_workers, initializer=partial(torch.set_num_threads, 1)) as pool:
        pending: deque[Future[ResultT]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(task))
                if len(pending) > num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def choose_num_prefetch_workers() -> int:
    """Choose the number of threads beside the one that trains."""
    return max(1, min((os.cpu_count() or 1) - 1, MAX_PREFETCH_WORKERS))


class BucketBatchSampler:
    """The batches of a run, by step; examples of like length share a batch.

    Args:
        examples: all encoded examples.
        lengths: tokens of each, with placeholders expanded.
        batch_plan: sizes and limits; with `skip_bad_examples`, audio that cannot be decoded is
            left out and counted in `bad_examples`.
        feature_fn: features of a segment, or of a segment in an epoch.
        padding: how sequences are padded.
        sampling_weights: how often each example comes in an epoch.

    Attributes:
        examples: all encoded examples.
    """

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
        self.examples, self._lengths, self._batch_plan = examples, lengths, batch_plan
        self._feature_fn, self._padding = feature_fn, padding
        self._sampling_weights = sampling_weights or [1.0] * len(examples)
        self._epoch_order = (-1, [[0]])
        self.steps_per_epoch = ceil_div(
            count_epoch_examples(self._sampling_weights), batch_plan.global_batch_size
        )
        self.bad_examples = BadExampleCounter(
            len(examples), skip_bad_examples=batch_plan.skip_bad_examples
        )

    def iter_batches(
        self,
        start_step: int,
        stop_step: int,
        rank_spec: RankSpec = SINGLE_RANK,
        cursor: DataCursor = (),
    ) -> Iterator[list[Batch]]:
        """Yield the micro batches of each step, prepared while earlier ones are trained on.

        Raises:
            DataError: an example cannot be used, or too many cannot.
        """
        tasks = (
            partial(self._collate_step, step, self.get_step_examples(step, rank_spec))
            for step in range(start_step, stop_step)
        )
        cached = self._batch_plan.use_cached_features
        yield from prefetch_results(tasks, 1 if cached else choose_num_prefetch_workers())

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Return nothing: the step alone tells the position in the data."""
        return ()

    def get_step_batches(self, step: int, rank_spec: RankSpec = SINGLE_RANK) -> list[Batch]:
        """Return the micro batches of one step, counted from 0."""
        return self._collate_step(step, self.get_step_examples(step, rank_spec))

    def get_step_examples(
        self, step: int, rank_spec: RankSpec = SINGLE_RANK
    ) -> list[list[EncodedExample]]:
        """Return the examples of one step for one rank, cut into micro batches.

        They are sorted by length, so the last of a batch is the longest.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch_order[0] != epoch:
            self._epoch_order = (epoch, self._make_epoch_order(epoch))
        rank, num_ranks = rank_spec
        indices = self._epoch_order[1][position]
        if rank >= len(indices):  # every rank takes part in every step
            return [[mask_all_labels(self.examples[indices[0]])]]
        micro_batches: list[list[EncodedExample]] = [[]]
        num_labels = 0
        for index in indices[rank::num_ranks]:
            example = self.examples[index]
            num_labels += len(example.label_ids)
            size = len(micro_batches[-1]) + 1
            if size > 1 and not self._fits_in_batch(size, self._lengths[index], num_labels):
                micro_batches.append([])
                num_labels = len(example.label_ids)
            micro_batches[-1].append(example)
        return micro_batches

    def _fits_in_batch(self, num_examples: int, max_length: int, num_labels: int) -> bool:
        """Whether a batch may have so many examples: as planned, or more that are short."""
        plan = self._batch_plan
        if num_examples <= plan.micro_batch_size:
            return True
        num_tokens = num_examples * ceil_div(max_length, TOKEN_PAD_MULTIPLE) * TOKEN_PAD_MULTIPLE
        return num_tokens <= plan.max_batch_tokens and num_labels <= plan.max_batch_labels

    def _make_epoch_order(self, epoch: int) -> list[list[int]]:
        """The indices of the examples of an epoch, by step."""
        seed, size = self._batch_plan.seed, self._batch_plan.global_batch_size
        rng = random.Random(f"{seed}/{epoch}")
        indices = draw_epoch_indices(self._sampling_weights, epoch, seed)
        rng.shuffle(indices)
        min_steps, max_steps = BUCKET_WINDOW_STEPS
        window_steps = min(max(self.steps_per_epoch // 4, min_steps), max_steps)
        steps: list[list[int]] = []
        for window in split_into_chunks(indices, size * window_steps):
            steps += split_into_chunks(sorted(window, key=self._lengths.__getitem__), size)
        rng.shuffle(steps)
        return steps

    def _collate_step(self, step: int, micro_batches: list[list[EncodedExample]]) -> list[Batch]:
        feature_fn = select_feature_fn(self._feature_fn, step // self.steps_per_epoch)
        batches = [self._collate_decodable(each, feature_fn) for each in micro_batches]
        decodable = [batch for batch in batches if batch]
        if decodable:
            return decodable
        masked = ([mask_all_labels(example)] for example in self.examples)
        spare = (self._collate_decodable(each, feature_fn) for each in masked)
        return [next(batch for batch in spare if batch)]

    def _collate_decodable(
        self, examples: list[EncodedExample], feature_fn: FeatureFn
    ) -> Batch | None:
        """A batch of the examples whose audio can be decoded, if there are any."""
        try:
            return collate(examples, feature_fn, self._padding)
        except DataError:
            decodable = [each for each in examples if self._is_decodable(each, feature_fn)]
        return collate(decodable, feature_fn, self._padding) if decodable else None

    def _is_decodable(self, example: EncodedExample, feature_fn: FeatureFn) -> bool:
        """Whether the audio can be decoded; if not, that is counted, or ends the run."""
        try:
            for segment in example.audio_segments:
                feature_fn(segment)
        except DataError as error:
            self.bad_examples.record_error(error, example.location)
            return False
        return True


def build_batches(
    examples: list[Example],
    batch_plan: BatchPlan,
    chat_encoder: ChatEncoder,
    feature_fn: FeatureFn | AugmentedExtractor,
) -> BucketBatchSampler:
    """Encode all examples and make their sampler.

    Raises:
        DataError: an example is too long or has no label, unless the plan skips such
            (`data.too_long`, `data.no_labels`).
    """
    counter = BadExampleCounter(len(examples), skip_bad_examples=batch_plan.skip_bad_examples)
    encoded, lengths, weights = [], [], []
    for example in examples:
        try:
            encoded_example, length = encode_trainable_example(example, batch_plan, chat_encoder)
        except DataError as error:
            counter.record_error(error, example.location)
            continue
        encoded.append(encoded_example)
        lengths.append(length)
        weights.append(example.weight)
    sampler = BucketBatchSampler(
        encoded,
        lengths,
        batch_plan,
        feature_fn=feature_fn,
        padding=make_train_padding(chat_encoder, batch_plan),
        sampling_weights=weights,
    )
    sampler.bad_examples = counter
    return sampler


def make_train_padding(chat_encoder: ChatEncoder, batch_plan: BatchPlan) -> PaddingSpec:
    """Return how sequences are padded in training."""
    return PaddingSpec(
        chat_encoder.pad_token_id,
        chat_encoder.audio_token_id,
        pad_to_multiple_of=TOKEN_PAD_MULTIPLE,
        max_length=batch_plan.max_tokens,
    )


def encode_trainable_example(
    example: Example, batch_plan: BatchPlan, chat_encoder: ChatEncoder
) -> tuple[EncodedExample, int]:
    """Encode an example; return it with its length in tokens, placeholders expanded.

    Raises:
        DataError: it has no label (`data.no_labels`), is longer than the plan allows
            (`data.too_long`), or as the chat encoder raises.
    """
    encode = chat_encoder.encode_with_teacher if batch_plan.distill else chat_encoder.encode_example
    encoded = encode(example)
    length = len(encoded.input_ids)
    for segment in encoded.audio_segments:
        length += -1 + count_segment_tokens(
            segment,
            batch_plan.spec.audio_spec,
            batch_plan.max_windows,
            batch_plan.augmentation,
        )
    if encoded.teacher_example:
        length = max(length, len(encoded.teacher_example.input_ids))
    if not encoded.label_ids:
        raise DataError(
            "none of its tokens carries loss",
            where=encoded.location,
            hint="write an answer or a transcript, or take it out",
            code="data.no_labels",
        )
    if length > batch_plan.max_tokens:
        context_length = batch_plan.spec.context_length
        limit, hint = f"training.sequence_len is {batch_plan.max_tokens}", TOO_LONG_HINT
        if batch_plan.max_tokens == context_length:
            limit = f"the context of {batch_plan.spec.key} is {context_length}"
            hint = "cut the clip and its text with start= and end="
        raise DataError(
            f"{length} tokens, and {limit}",
            where=encoded.location,
            hint=hint,
            code="data.too_long",
        )
    return encoded, length


def count_segment_tokens(
    segment: AudioSegment,
    audio_spec: AudioTokenizerSpec,
    max_windows: int | None,
    augmentation: AugmentationSpec | None = None,
) -> int:
    """Count the tokens of an audio segment from its header; with augmentation, of its longest."""
    info = segment.recording or read_audio_info(*segment.recording_key)
    end = info.num_samples / info.sample_rate if segment.end is None else segment.end
    num_samples = round((end - (segment.start or 0.0)) * audio_spec.sample_rate)
    if augmentation:
        num_samples = augmentation.compute_max_samples(num_samples, audio_spec.window_samples)
    return count_audio_tokens(num_samples, audio_spec, max_windows)


def split_into_chunks(items: list[ResultT], size: int) -> list[list[ResultT]]:
    """Cut a list into lists of up to `size` items."""
    return [items[start : start + size] for start in range(0, len(items), size)]
