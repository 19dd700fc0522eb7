"""The collator: encoded examples and their audio features, padded into the tensors of one batch.

    input_ids, attention_mask, labels   (examples, tokens)
    audio_features       (windows, num_mel_bins, frames) log-mel, (windows, 1, samples) waveform,
                         or (windows, frames, hidden_size) encoder output
    audio_lengths        (windows,) true length of each, in frames or samples
    audio_token_counts   (windows,) tokens each takes in the text

An audio segment is one window, or several when it is longer than the encoder's window.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dlm.batching.chat_template import IGNORE_INDEX, EncodedExample
from dlm.data.types import AudioSegment
from dlm.features.extractor import AudioFeatures, AugmentedExtractor
from dlm.plan.audio_lengths import ceil_div

FeatureFn = Callable[[AudioSegment], tuple[AudioFeatures, ...]]


@dataclass(frozen=True)
class Batch:
    """What a model takes at once.

    Attributes:
        input_ids: (examples, tokens).
        attention_mask: (examples, tokens), 0 for padding.
        labels: (examples, tokens), IGNORE_INDEX where there is no loss.
        audio_features: of all windows, (windows, ...); None without audio.
        audio_lengths: (windows,) frames that hold audio; samples of waveforms.
        audio_token_counts: (windows,) placeholders of each window.
        is_encoded: whether `audio_features` are encoder output.
        locations: where each example was written.
        windows_per_example: number of windows of each example.
        num_audio_samples: samples of audio in all examples.
        transcript_mask: whether the labels of each example are what is said.
        teacher_examples: what a distillation teacher reads for each example.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    audio_features: torch.Tensor | None
    audio_lengths: torch.Tensor
    audio_token_counts: torch.Tensor
    is_encoded: bool
    locations: tuple[str, ...]
    windows_per_example: tuple[int, ...]
    num_audio_samples: int
    transcript_mask: tuple[bool, ...]
    teacher_examples: tuple[EncodedExample | None, ...]

    @property
    def num_label_tokens(self) -> int:
        """Tokens that carry loss; nothing predicts the first token of an example."""
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())

    def to(self, device: str) -> "Batch":
        """Return the batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
            audio_features=None if self.audio_features is None else self.audio_features.to(device),
            audio_lengths=self.audio_lengths.to(device),
            audio_token_counts=self.audio_token_counts.to(device),
        )


@dataclass(frozen=True)
class PaddingSpec:
    """How sequences are padded.

    Attributes:
        pad_token_id: id of the padding token.
        audio_token_id: id of the placeholder.
        pad_left: on the left, to generate; on the right, to train.
        pad_to_multiple_of: sequences have a length that is a multiple of it, up to `max_length`.
        max_length: longest sequence, in tokens, that is padded further.
    """

    pad_token_id: int
    audio_token_id: int
    pad_left: bool = False
    pad_to_multiple_of: int = 1
    max_length: int = 0

    def compute_padded_length(self, sequences: list[list[int]]) -> int:
        """Compute the length that all sequences are padded to."""
        longest = max(len(sequence) for sequence in sequences)
        rounded = ceil_div(longest, self.pad_to_multiple_of) * self.pad_to_multiple_of
        return max(longest, min(rounded, self.max_length))


def select_feature_fn(feature_fn: FeatureFn | AugmentedExtractor, epoch: int) -> FeatureFn:
    """Return the feature function of an epoch: the same for all but an AugmentedExtractor."""
    return feature_fn.for_epoch(epoch) if isinstance(feature_fn, AugmentedExtractor) else feature_fn


def collate(examples: list[EncodedExample], feature_fn: FeatureFn, padding: PaddingSpec) -> Batch:
    """Make one batch of examples. Raises AudioError where audio cannot be decoded."""
    features = [[feature_fn(segment) for segment in example.audio_segments] for example in examples]
    windows = [window for segments in features for segment in segments for window in segment]
    sequences = []
    for example, segments in zip(examples, features, strict=True):
        token_counts = [sum(window.num_tokens for window in segment) for segment in segments]
        sequences.append(_expand_placeholders(example, token_counts, padding.audio_token_id))
    input_ids = [ids for ids, _ in sequences]
    attention_mask = [[1] * len(ids) for ids in input_ids]
    return Batch(
        input_ids=_pad_sequences(input_ids, padding.pad_token_id, padding),
        attention_mask=_pad_sequences(attention_mask, 0, padding),
        labels=_pad_sequences([labels for _, labels in sequences], IGNORE_INDEX, padding),
        audio_features=_stack_features(windows) if windows else None,
        audio_lengths=torch.tensor([each.num_frames for each in windows], dtype=torch.long),
        audio_token_counts=torch.tensor([each.num_tokens for each in windows], dtype=torch.long),
        is_encoded=bool(windows) and windows[0].is_encoded,
        locations=tuple(example.location for example in examples),
        windows_per_example=tuple(sum(map(len, segments)) for segments in features),
        num_audio_samples=sum(window.num_samples for window in windows),
        transcript_mask=tuple(example.is_transcript for example in examples),
        teacher_examples=tuple(example.teacher_example for example in examples),
    )


def mask_all_labels(example: EncodedExample) -> EncodedExample:
    """Return the example without loss, for a step that has none of its own."""
    return replace(example, labels=(IGNORE_INDEX,) * len(example.input_ids), teacher_example=None)


def _expand_placeholders(
    example: EncodedExample, token_counts: list[int], audio_token_id: int
) -> tuple[list[int], list[int]]:
    """Ids and labels with each placeholder repeated as often as its segment has tokens."""
    counts = iter(token_counts)
    input_ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        times = next(counts) if token == audio_token_id else 1
        input_ids += [token] * times
        labels += [label] * times
    return input_ids, labels


def _pad_sequences(sequences: list[list[int]], value: int, padding: PaddingSpec) -> torch.Tensor:
    length = padding.compute_padded_length(sequences)
    padded = []
    for sequence in sequences:
        fill = [value] * (length - len(sequence))
        padded.append(fill + sequence if padding.pad_left else sequence + fill)
    return torch.tensor(padded, dtype=torch.long)


def _stack_features(windows: list[AudioFeatures]) -> torch.Tensor:
    """The values of all windows, (windows, ...), padded with zeros."""
    shapes = torch.tensor([window.values.shape for window in windows])
    stacked = windows[0].values.new_zeros((len(windows), *shapes.amax(dim=0).tolist()))
    for target, window in zip(stacked, windows, strict=True):
        height, width = window.values.shape
        target[:height, :width] = window.values
    return stacked
