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

from dlm.batches.chat import IGNORE, Row
from dlm.clips.clip import Sound
from dlm.features.ear import Heard
from dlm.plan.frames import ceil_div

Listen = Callable[[Sound], tuple[Heard, ...]]


@dataclass(frozen=True)
class Batch:
    """What a model takes at once; the legend of the shapes is at the top of this file."""

    ids: torch.Tensor
    attention: torch.Tensor
    labels: torch.Tensor
    sounds: torch.Tensor | None
    frames: torch.Tensor
    spans: torch.Tensor
    encoded: bool  # sounds are features: the encoder has heard them already
    places: tuple[str, ...]
    windows_per_row: tuple[int, ...]
    audio_samples: int
    read: tuple[Row | None, ...]  # what a teacher reads of each row

    @property
    def label_tokens(self) -> int:
        """Tokens that carry loss; the first token of a row has nothing to predict it."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            ids=self.ids.to(device),
            attention=self.attention.to(device),
            labels=self.labels.to(device),
            sounds=None if self.sounds is None else self.sounds.to(device),
            frames=self.frames.to(device),
            spans=self.spans.to(device),
        )


@dataclass(frozen=True)
class Padding:
    """What rows are padded with, on which side: left to answer, right to learn.

    Their length is a whole `multiple`, but for rows close to the `longest`.
    """

    pad: int
    placeholder: int
    left: bool = False
    multiple: int = 1
    longest: int = 0

    def width(self, rows: list[list[int]]) -> int:
        """The length that all rows are padded to."""
        longest = max(len(row) for row in rows)
        return max(longest, min(ceil_div(longest, self.multiple) * self.multiple, self.longest))


def collate(rows: list[Row], listen: Listen, padding: Padding) -> Batch:
    """Pad rows and what is heard of their sounds into one batch."""
    heard = [[listen(sound) for sound in row.sounds] for row in rows]
    spread = [
        _spread(row, [sum(each.tokens for each in sound) for sound in sounds], padding.placeholder)
        for row, sounds in zip(rows, heard, strict=True)
    ]
    flat = [each for sounds in heard for sound in sounds for each in sound]
    attention = [[1] * len(ids) for ids, _ in spread]
    return Batch(
        ids=_pad([ids for ids, _ in spread], padding.pad, padding),
        attention=_pad(attention, 0, padding),
        labels=_pad([labels for _, labels in spread], IGNORE, padding),
        sounds=_stack(flat) if flat else None,
        frames=torch.tensor([each.frames for each in flat], dtype=torch.long),
        spans=torch.tensor([each.tokens for each in flat], dtype=torch.long),
        encoded=bool(flat) and flat[0].encoded,
        places=tuple(row.place for row in rows),
        windows_per_row=tuple(sum(map(len, sounds)) for sounds in heard),
        audio_samples=sum(each.samples for each in flat),
        read=tuple(row.read for row in rows),
    )


def _spread(row: Row, counts: list[int], placeholder: int) -> tuple[list[int], list[int]]:
    """Repeat each placeholder as often as its sound has tokens."""
    left = iter(counts)
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(row.ids, row.labels, strict=True):
        times = next(left) if token == placeholder else 1
        ids += [token] * times
        labels += [label] * times
    return ids, labels


def _pad(rows: list[list[int]], value: int, padding: Padding) -> torch.Tensor:
    width = padding.width(rows)
    fill = [[value] * (width - len(row)) for row in rows]
    both = zip(fill, rows, strict=True) if padding.left else zip(rows, fill, strict=True)
    return torch.tensor([one + other for one, other in both], dtype=torch.long)


def _stack(heard: list[Heard]) -> torch.Tensor:
    """Sounds one above the other, zero where they have ended."""
    shapes = torch.tensor([each.values.shape for each in heard])
    stacked = heard[0].values.new_zeros((len(heard), *shapes.amax(dim=0).tolist()))
    for target, each in zip(stacked, heard, strict=True):
        rows, columns = each.values.shape
        target[:rows, :columns] = each.values
    return stacked
