"""Rows and their sounds, padded into the tensors of one batch.

ids, attention, labels   (rows, tokens)
sounds                   (windows, bins, frames) mel, or (windows, frames, width) features
frames                   (windows,) true length of each, in mel or encoder frames
spans                    (windows,) tokens each stands for in the text

A sound is one window, or several in a row when it is longer than the base hears at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dlm.batching.chat_template import IGNORE_INDEX, EncodedExample
from dlm.data.types import AudioSegment
from dlm.features.extractor import AudioFeatures
from dlm.plan.audio_lengths import ceil_div

FeatureFn = Callable[[AudioSegment], tuple[AudioFeatures, ...]]


@dataclass(frozen=True)
class Batch:
    """What a model takes at once; the legend of the shapes is at the top of this file."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    audio_features: torch.Tensor | None
    audio_lengths: torch.Tensor
    audio_token_counts: torch.Tensor
    is_encoded: bool  # sounds are features: the encoder has heard them already
    locations: tuple[str, ...]
    windows_per_example: tuple[int, ...]
    num_audio_samples: int
    teacher_examples: tuple[EncodedExample | None, ...]  # what a teacher reads of each row

    @property
    def num_label_tokens(self) -> int:
        """Tokens that carry loss; the first token of a row has nothing to predict it."""
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
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
    """What rows are padded with, on which side: left to answer, right to learn.

    Their length is a whole `multiple`, but for rows close to the `longest`.
    """

    pad_token_id: int
    audio_token_id: int
    pad_left: bool = False
    pad_to_multiple_of: int = 1
    max_length: int = 0

    def compute_padded_length(self, sequences: list[list[int]]) -> int:
        """The length that all rows are padded to."""
        longest = max(len(row) for row in sequences)
        return max(
            longest,
            min(
                ceil_div(longest, self.pad_to_multiple_of) * self.pad_to_multiple_of,
                self.max_length,
            ),
        )


def collate(examples: list[EncodedExample], feature_fn: FeatureFn, padding: PaddingSpec) -> Batch:
    """Pad rows and what is heard of their sounds into one batch."""
    heard = [[feature_fn(sound) for sound in row.audio_segments] for row in examples]
    spread = [
        _expand_placeholders(
            row,
            [sum(each.num_tokens for each in sound) for sound in sounds],
            padding.audio_token_id,
        )
        for row, sounds in zip(examples, heard, strict=True)
    ]
    flat = [each for sounds in heard for sound in sounds for each in sound]
    attention = [[1] * len(ids) for ids, _ in spread]
    return Batch(
        input_ids=_pad_sequences([ids for ids, _ in spread], padding.pad_token_id, padding),
        attention_mask=_pad_sequences(attention, 0, padding),
        labels=_pad_sequences([labels for _, labels in spread], IGNORE_INDEX, padding),
        audio_features=_stack_features(flat) if flat else None,
        audio_lengths=torch.tensor([each.num_frames for each in flat], dtype=torch.long),
        audio_token_counts=torch.tensor([each.num_tokens for each in flat], dtype=torch.long),
        is_encoded=bool(flat) and flat[0].is_encoded,
        locations=tuple(row.location for row in examples),
        windows_per_example=tuple(sum(map(len, sounds)) for sounds in heard),
        num_audio_samples=sum(each.num_samples for each in flat),
        teacher_examples=tuple(row.teacher_example for row in examples),
    )


def _expand_placeholders(
    example: EncodedExample, token_counts: list[int], audio_token_id: int
) -> tuple[list[int], list[int]]:
    """Repeat each placeholder as often as its sound has tokens."""
    left = iter(token_counts)
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        times = next(left) if token == audio_token_id else 1
        ids += [token] * times
        labels += [label] * times
    return ids, labels


def _pad_sequences(sequences: list[list[int]], value: int, padding: PaddingSpec) -> torch.Tensor:
    width = padding.compute_padded_length(sequences)
    fill = [[value] * (width - len(row)) for row in sequences]
    both = (
        zip(fill, sequences, strict=True) if padding.pad_left else zip(sequences, fill, strict=True)
    )
    return torch.tensor([one + other for one, other in both], dtype=torch.long)


def _stack_features(features: list[AudioFeatures]) -> torch.Tensor:
    """Sounds one above the other, zero where they have ended."""
    shapes = torch.tensor([each.values.shape for each in features])
    stacked = features[0].values.new_zeros((len(features), *shapes.amax(dim=0).tolist()))
    for target, each in zip(stacked, features, strict=True):
        rows, columns = each.values.shape
        target[:rows, :columns] = each.values
    return stacked
