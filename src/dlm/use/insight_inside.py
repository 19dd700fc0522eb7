"""What sound becomes inside a model: points beside words, attention to them, the words nearest.

    clip --merge--> embeddings (tokens, width) --think--> attention (heads, tokens, tokens) by layer
                    those of the sound, beside the table of text embeddings

What is the same for the model lies together: it knows sound only as points among its words.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from dlm.batches.chat import IGNORE
from dlm.batches.collate import Batch, Padding, collate
from dlm.clips.clip import Clip
from dlm.model.face import Model
from dlm.use.ready import Ready

LABELS = 8  # transcripts up to which they are the colours; more are told apart by clip
WORDS = 40  # text tokens of the transcripts, shown beside the sound
TOKENS = 1500  # of sound, shown beside the words
LONGEST = 2048  # tokens of a row whose attention is looked at: it grows with their square
UNSEEN = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})
CHUNK = 1 << 14  # rows of the table of embeddings looked at together


@dataclass(frozen=True)
class Map:
    """Sound and words as points on their first two principal axes.

    `clips` are means over each clip's sound, `tokens` single tokens of it, `group` and `of` what
    they are coloured by: the number of a label in `words`, or of the clip. `spots` are means over
    each label's tokens, or the text tokens that the transcripts hold most often.
    """

    clips: torch.Tensor  # (clips, 2)
    group: tuple[int, ...]
    tokens: torch.Tensor  # (tokens, 2)
    of: tuple[int, ...]
    spots: torch.Tensor  # (words, 2)
    words: tuple[str, ...]
    labelled: bool
    variance: tuple[float, float]  # the share of it along each axis
    times: float  # the mean length of a sound's token, in mean lengths of the answers' text tokens


@dataclass(frozen=True)
class Attention:
    """The share of attention that positions which predict the answer put on sound.

    `heads` by layer and head; `even` is what it would be if all they see had the same share.
    """

    heads: tuple[tuple[float, ...], ...]
    even: float
    clips: int

    @property
    def layers(self) -> tuple[float, ...]:
        """The mean over the heads of each layer."""
        return tuple(sum(each) / len(each) for each in self.heads)


def batch_of(using: Ready, clip: Clip) -> Batch:
    """One clip as it is learned from, on the model's device."""
    padding = Padding(using.chat.pad, using.chat.placeholder)
    batch = collate([using.chat.row(clip)], using.ear, padding)
    return batch.to(str(using.model.device))


@torch.no_grad()
def projected(using: Ready, clip: Clip) -> torch.Tensor:
    """The audio embeddings of a clip's sounds: (audio tokens, width), fp32."""
    batch = batch_of(using, clip)
    merged = using.model.merge(batch)
    return merged[batch.ids == using.model.placeholder].float().cpu()


def draw_map(using: Ready, clips: list[Clip], sounds: list[torch.Tensor]) -> Map:
    """Where the sounds of clips, (audio tokens, width) each, lie among the words of their answers.

    All points share their axes, so that what lies apart there is apart for the model.
    """
    labels = list(dict.fromkeys(clip.target.strip() for clip in clips))
    labelled = len(labels) <= LABELS
    said = list(chain.from_iterable(_ids(using.model, label) for label in labels))
    spots = {label: _ids(using.model, label) for label in labels}
    if not labelled:
        often = Counter(said).most_common(WORDS)
        spots = {spelled(using, token): [token] for token, _ in often}
    group = [labels.index(clip.target.strip()) if labelled else n for n, clip in enumerate(clips)]
    means = torch.stack([sound.mean(dim=0) for sound in sounds])
    every = torch.cat(sounds)
    owners = torch.tensor(group).repeat_interleave(torch.tensor([len(each) for each in sounds]))
    kept = torch.linspace(0, len(every) - 1, min(TOKENS, len(every))).round().long()
    among = torch.stack([_embedded(using.model, ids).mean(dim=0) for ids in spots.values()])
    points, variance = principal(torch.cat([means, every[kept], among]))
    at_clips, at_tokens, at_words = points.split([len(means), len(kept), len(among)])
    return Map(
        clips=at_clips,
        group=tuple(group),
        tokens=at_tokens,
        of=tuple(owners[kept].tolist()),
        spots=at_words,
        words=tuple(spots),
        labelled=labelled,
        variance=variance,
        times=float(every.norm(dim=1).mean() / _embedded(using.model, said).norm(dim=1).mean()),
    )


def principal(points: torch.Tensor) -> tuple[torch.Tensor, tuple[float, float]]:
    """Points (points, width) on their first two principal axes (Pearson 1901): (points, 2).

    With the share of the variance along each. An axis points to where its largest weight is.
    """
    centred = (points - points.mean(dim=0)).double()
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    two = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(dim=1, keepdim=True)).sign()
    shares = lengths[:2].square() / lengths.square().sum().clamp_min(torch.finfo(torch.double).tiny)
    return centred @ two.T, (float(shares[0]), float(shares[1]))


@torch.no_grad()
def nearest(
    model: Model, sound: torch.Tensor, count: int, *, chunk: int = CHUNK
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each audio embedding the `count` text tokens of the largest cosine, and these cosines.

    (audio tokens, width) -> cosines and token ids, (audio tokens, count) each, nearest first;
    `chunk` rows of the table are compared at once.
    """
    table = model.words.get_parameter("weight")
    looking = nn.functional.normalize(sound.to(table.device), dim=1)
    best, which = [], []
    for start in range(0, len(table), chunk):
        rows = nn.functional.normalize(table[start : start + chunk].float(), dim=1)
        cosines, ids = (looking @ rows.T).topk(min(count, len(rows)), dim=1)
        best.append(cosines)
        which.append(ids + start)
    cosines, order = torch.cat(best, dim=1).topk(min(count, len(table)), dim=1)
    return cosines.cpu(), torch.cat(which, dim=1).gather(1, order).cpu()


@torch.no_grad()
def attention(using: Ready, clips: list[Clip]) -> Attention | None:
    """How much of what the answer reads is sound; None where no clip or no layer can tell."""
    batches = [batch_of(using, clip) for clip in clips if clip.sounds]
    batches = [each for each in batches if each.ids.shape[1] <= LONGEST]
    whole: list[torch.Tensor] = []
    positions, even = 0, 0.0
    for batch in batches:
        asks = batch.labels[0, 1:] != IGNORE  # the positions that predict a label
        sound = batch.ids[0] == using.model.placeholder
        layers = _on_sound(using, batch, asks, sound)
        whole = [one + other for one, other in zip(whole, layers, strict=True)] if whole else layers
        seen = sound.cumsum(0) / torch.arange(1, len(sound) + 1, device=sound.device)
        positions, even = positions + int(asks.sum()), even + float(seen[:-1][asks].sum())
    if not whole or not positions:
        return None
    heads = tuple(tuple((each / positions).tolist()) for each in whole)
    return Attention(heads, even / positions, len(batches))


def _on_sound(
    using: Ready, batch: Batch, asks: torch.Tensor, sound: torch.Tensor
) -> list[torch.Tensor]:
    """Attention on sound summed over the positions that `asks` marks: (heads,) for each layer."""
    summed: list[torch.Tensor] = []
    length = batch.ids.shape[1]

    def add(module: nn.Module, given: Any, said: Any) -> None:
        for each in said if isinstance(said, tuple) else ():
            if isinstance(each, torch.Tensor) and each.shape[2:] == (length, length):
                rows = each[0, :, :-1].float()[:, asks.to(each.device)]
                summed.append(rows[..., sound.to(each.device)].sum(dim=(1, 2)).cpu())

    with _eager(using.model.decoder):
        hooks = [each.register_forward_hook(add) for each in using.model.decoder.modules()]
        try:
            using.model.think(using.model.merge(batch), batch.attention)
        finally:
            for hook in hooks:
                hook.remove()
    return summed


@contextmanager
def _eager(decoder: nn.Module) -> Iterator[None]:
    """Inside, the decoder's layers say their attention; faster ways of it never hold it whole."""
    if not isinstance(decoder, PreTrainedModel):
        yield
        return
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


def spelled(using: Ready, token: int) -> str:
    """A text token as one can see it: spaces and ends of line by a sign."""
    return using.chat.spell([token]).translate(UNSEEN) or f"#{token}"


def _ids(model: Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def _embedded(model: Model, ids: list[int]) -> torch.Tensor:
    """The embeddings of text tokens: (tokens, width), fp32."""
    return model.embed(torch.tensor([ids], device=model.device))[0].float().cpu()
