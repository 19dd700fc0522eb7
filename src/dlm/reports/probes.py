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

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.data.types import Example
from dlm.inference.engine import InferenceEngine
from dlm.models.audio_lm import AudioLanguageModel

MAX_LABEL_COLORS = 8  # transcripts up to which they are the colours; more are told apart by clip
MAX_TEXT_POINTS = 40  # text tokens of the transcripts, shown beside the sound
MAX_AUDIO_POINTS = 1500  # of sound, shown beside the words
MAX_ATTENTION_TOKENS = (
    2048  # tokens of a row whose attention is looked at: it grows with their square
)
WHITESPACE_SIGNS = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})
EMBEDDING_CHUNK_SIZE = 1 << 14  # rows of the table of embeddings looked at together


@dataclass(frozen=True)
class EmbeddingMap:
    """Sound and words as points on their first two principal axes.

    `clips` are means over each clip's sound, `tokens` single tokens of it, `group` and `of` what
    they are coloured by: the number of a label in `words`, or of the clip. `spots` are means over
    each label's tokens, or the text tokens that the transcripts hold most often.
    """

    example_points: torch.Tensor  # (clips, 2)
    example_groups: tuple[int, ...]
    audio_points: torch.Tensor  # (tokens, 2)
    audio_groups: tuple[int, ...]
    text_points: torch.Tensor  # (words, 2)
    text_labels: tuple[str, ...]
    is_labeled: bool
    explained_variance: tuple[float, float]  # the share of it along each axis
    norm_ratio: (
        float  # the mean length of a sound's token, in mean lengths of the answers' text tokens
    )


@dataclass(frozen=True)
class AudioAttention:
    """The share of attention that positions which predict the answer put on sound.

    `heads` by layer and head; `even` is what it would be if all they see had the same share.
    """

    per_head: tuple[tuple[float, ...], ...]
    uniform_baseline: float
    num_examples: int

    @property
    def per_layer(self) -> tuple[float, ...]:
        """The mean over the heads of each layer."""
        return tuple(sum(each) / len(each) for each in self.per_head)


def make_example_batch(engine: InferenceEngine, example: Example) -> Batch:
    """One clip as it is learned from, on the model's device."""
    padding = PaddingSpec(engine.chat_encoder.pad_token_id, engine.chat_encoder.audio_token_id)
    batch = collate([engine.chat_encoder.encode_example(example)], engine.extractor, padding)
    return batch.to(str(engine.model.device))


@torch.no_grad()
def compute_audio_embeddings(engine: InferenceEngine, example: Example) -> torch.Tensor:
    """The audio embeddings of a clip's sounds: (audio tokens, width), fp32."""
    batch = make_example_batch(engine, example)
    merged = engine.model.merge_audio_embeddings(batch)
    return merged[batch.input_ids == engine.model.audio_token_id].float().cpu()


def compute_embedding_map(
    engine: InferenceEngine, examples: list[Example], audio_embeddings: list[torch.Tensor]
) -> EmbeddingMap:
    """Where the sounds of clips, (audio tokens, width) each, lie among the words of their answers.

    All points share their axes, so that what lies apart there is apart for the model.
    """
    labels = list(dict.fromkeys(clip.target.strip() for clip in examples))
    labelled = len(labels) <= MAX_LABEL_COLORS
    said = list(chain.from_iterable(_tokenize_text(engine.model, label) for label in labels))
    spots = {label: _tokenize_text(engine.model, label) for label in labels}
    if not labelled:
        often = Counter(said).most_common(MAX_TEXT_POINTS)
        spots = {format_token(engine, token): [token] for token, _ in often}
    group = [
        labels.index(clip.target.strip()) if labelled else n for n, clip in enumerate(examples)
    ]
    means = torch.stack([sound.mean(dim=0) for sound in audio_embeddings])
    every = torch.cat(audio_embeddings)
    owners = torch.tensor(group).repeat_interleave(
        torch.tensor([len(each) for each in audio_embeddings])
    )
    kept = torch.linspace(0, len(every) - 1, min(MAX_AUDIO_POINTS, len(every))).round().long()
    among = torch.stack([_embed_tokens(engine.model, ids).mean(dim=0) for ids in spots.values()])
    points, variance = project_to_pca(torch.cat([means, every[kept], among]))
    at_clips, at_tokens, at_words = points.split([len(means), len(kept), len(among)])
    return EmbeddingMap(
        example_points=at_clips,
        example_groups=tuple(group),
        audio_points=at_tokens,
        audio_groups=tuple(owners[kept].tolist()),
        text_points=at_words,
        text_labels=tuple(spots),
        is_labeled=labelled,
        explained_variance=variance,
        norm_ratio=float(
            every.norm(dim=1).mean() / _embed_tokens(engine.model, said).norm(dim=1).mean()
        ),
    )


def project_to_pca(points: torch.Tensor) -> tuple[torch.Tensor, tuple[float, float]]:
    """Points (points, width) on their first two principal axes (Pearson 1901): (points, 2).

    With the share of the variance along each. An axis points to where its largest weight is.
    """
    centred = (points - points.mean(dim=0)).double()
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    two = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(dim=1, keepdim=True)).sign()
    shares = lengths[:2].square() / lengths.square().sum().clamp_min(torch.finfo(torch.double).tiny)
    return centred @ two.T, (float(shares[0]), float(shares[1]))


@torch.no_grad()
def find_nearest_tokens(
    model: AudioLanguageModel,
    audio_embeddings: torch.Tensor,
    k: int,
    *,
    chunk_size: int = EMBEDDING_CHUNK_SIZE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each audio embedding the `count` text tokens of the largest cosine, and these cosines.

    (audio tokens, width) -> cosines and token ids, (audio tokens, count) each, nearest first;
    `chunk` rows of the table are compared at once.
    """
    table = model.embed_tokens.get_parameter("weight")
    looking = nn.functional.normalize(audio_embeddings.to(table.device), dim=1)
    best, which = [], []
    for start in range(0, len(table), chunk_size):
        rows = nn.functional.normalize(table[start : start + chunk_size].float(), dim=1)
        cosines, ids = (looking @ rows.T).topk(min(k, len(rows)), dim=1)
        best.append(cosines)
        which.append(ids + start)
    cosines, order = torch.cat(best, dim=1).topk(min(k, len(table)), dim=1)
    return cosines.cpu(), torch.cat(which, dim=1).gather(1, order).cpu()


@torch.no_grad()
def compute_audio_attention(
    engine: InferenceEngine, examples: list[Example]
) -> AudioAttention | None:
    """How much of what the answer reads is sound; None where no clip or no layer can tell."""
    batches = [make_example_batch(engine, clip) for clip in examples if clip.audio_segments]
    batches = [each for each in batches if each.input_ids.shape[1] <= MAX_ATTENTION_TOKENS]
    whole: list[torch.Tensor] = []
    positions, even = 0, 0.0
    for batch in batches:
        asks = batch.labels[0, 1:] != IGNORE_INDEX  # the positions that predict a label
        sound = batch.input_ids[0] == engine.model.audio_token_id
        layers = _sum_audio_attention(engine, batch, asks, sound)
        whole = [one + other for one, other in zip(whole, layers, strict=True)] if whole else layers
        seen = sound.cumsum(0) / torch.arange(1, len(sound) + 1, device=sound.device)
        positions, even = positions + int(asks.sum()), even + float(seen[:-1][asks].sum())
    if not whole or not positions:
        return None
    heads = tuple(tuple((each / positions).tolist()) for each in whole)
    return AudioAttention(heads, even / positions, len(batches))


def _sum_audio_attention(
    engine: InferenceEngine, batch: Batch, label_mask: torch.Tensor, audio_mask: torch.Tensor
) -> list[torch.Tensor]:
    """Attention on sound summed over the positions that `asks` marks: (heads,) for each layer."""
    summed: list[torch.Tensor] = []
    length = batch.input_ids.shape[1]

    def add(module: nn.Module, given: Any, said: Any) -> None:
        for each in said if isinstance(said, tuple) else ():
            if isinstance(each, torch.Tensor) and each.shape[2:] == (length, length):
                rows = each[0, :, :-1].float()[:, label_mask.to(each.device)]
                summed.append(rows[..., audio_mask.to(each.device)].sum(dim=(1, 2)).cpu())

    with _eager_attention(engine.model.decoder):
        hooks = [each.register_forward_hook(add) for each in engine.model.decoder.modules()]
        try:
            engine.model.forward_lm(
                engine.model.merge_audio_embeddings(batch), batch.attention_mask
            )
        finally:
            for hook in hooks:
                hook.remove()
    return summed


@contextmanager
def _eager_attention(decoder: nn.Module) -> Iterator[None]:
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


def format_token(engine: InferenceEngine, token_id: int) -> str:
    """A text token as one can see it: spaces and ends of line by a sign."""
    return engine.chat_encoder.decode_raw([token_id]).translate(WHITESPACE_SIGNS) or f"#{token_id}"


def _tokenize_text(model: AudioLanguageModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def _embed_tokens(model: AudioLanguageModel, token_ids: list[int]) -> torch.Tensor:
    """The embeddings of text tokens: (tokens, width), fp32."""
    return model.embed_input_ids(torch.tensor([token_ids], device=model.device))[0].float().cpu()
