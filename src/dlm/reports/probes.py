"""Probes of a model's audio: embeddings beside text on a PCA map, attention, nearest text tokens.

example --merge--> embeddings (tokens, hidden_size) --decoder--> attention (heads, tokens, tokens)
                   of audio tokens, beside the table of text embeddings
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
from dlm.batching.collator import Batch
from dlm.data.types import Example
from dlm.inference.engine import InferenceEngine
from dlm.models.audio_lm import AudioLanguageModel

MAX_LABEL_COLORS = 8  # texts up to which they are the colors; more are colored by example
MAX_TEXT_POINTS = 40  # text tokens on a map
MAX_AUDIO_POINTS = 1500  # audio tokens on a map
MAX_ATTENTION_TOKENS = 2048  # of an example: attention grows with their square
WHITESPACE_SIGNS = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})
EMBEDDING_CHUNK_SIZE = 1 << 14  # text tokens compared at once


@dataclass(frozen=True)
class EmbeddingMap:
    """Audio and text embeddings on their first two principal axes.

    Attributes:
        example_points: mean of each example's audio tokens, (examples, 2).
        example_groups: color of each: number of a label, or of the example.
        audio_points: single audio tokens, (tokens, 2).
        audio_groups: color of each.
        text_points: mean of each label's tokens, or the most frequent text tokens, (texts, 2).
        text_labels: the text of each.
        is_labeled: whether the texts are whole answers, few enough to be the colors.
        explained_variance: fraction of the variance along each axis.
        norm_ratio: mean norm of audio tokens over that of the answers' text tokens.
    """

    example_points: torch.Tensor
    example_groups: tuple[int, ...]
    audio_points: torch.Tensor
    audio_groups: tuple[int, ...]
    text_points: torch.Tensor
    text_labels: tuple[str, ...]
    is_labeled: bool
    explained_variance: tuple[float, float]
    norm_ratio: float


@dataclass(frozen=True)
class AudioAttention:
    """The fraction of attention on audio, at positions that predict the answer.

    Attributes:
        per_head: by layer and head.
        uniform_baseline: the fraction if every visible token got the same.
        num_examples: that were measured.
    """

    per_head: tuple[tuple[float, ...], ...]
    uniform_baseline: float
    num_examples: int

    @property
    def per_layer(self) -> tuple[float, ...]:
        """The mean over the heads of each layer."""
        return tuple(sum(heads) / len(heads) for heads in self.per_head)


def make_example_batch(engine: InferenceEngine, example: Example) -> Batch:
    """Make a batch of one example on the model's device. Raises DataError."""
    batch = engine.make_batch([engine.chat_encoder.encode_example(example)])
    return batch.to(str(engine.model.device))


@torch.no_grad()
def compute_audio_embeddings(engine: InferenceEngine, example: Example) -> torch.Tensor:
    """Compute the embeddings of an example's audio: (audio tokens, hidden_size), fp32.

    Raises:
        DataError: it cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    batch = make_example_batch(engine, example)
    merged = engine.model.merge_audio_embeddings(batch)
    return merged[batch.input_ids == engine.model.audio_token_id].float().cpu()


def compute_embedding_map(
    engine: InferenceEngine, examples: list[Example], audio_embeddings: list[torch.Tensor]
) -> EmbeddingMap:
    """Map the audio embeddings of examples, (audio tokens, hidden_size) each, beside their answers.

    All points share their axes, so that what lies apart there is apart for the model.
    """
    model = engine.model
    answers = [example.target.strip() for example in examples]
    labels = list(dict.fromkeys(answers))
    is_labeled = len(labels) <= MAX_LABEL_COLORS
    label_ids = {label: _tokenize_text(model, label) for label in labels}
    text_ids = list(chain.from_iterable(label_ids.values()))
    texts = label_ids
    if not is_labeled:
        most_common = Counter(text_ids).most_common(MAX_TEXT_POINTS)
        texts = {format_token(engine, token_id): [token_id] for token_id, _ in most_common}
    groups = [labels.index(answer) for answer in answers] if is_labeled else range(len(examples))
    group_sizes = torch.tensor([len(embeddings) for embeddings in audio_embeddings])
    audio_groups = torch.tensor(groups).repeat_interleave(group_sizes)
    audio_tokens = torch.cat(audio_embeddings)
    num_shown = min(MAX_AUDIO_POINTS, len(audio_tokens))
    shown = torch.linspace(0, len(audio_tokens) - 1, num_shown).round().long()
    means = torch.stack([embeddings.mean(dim=0) for embeddings in audio_embeddings])
    text_means = torch.stack([_embed_tokens(model, ids).mean(dim=0) for ids in texts.values()])
    points, variance = project_to_pca(torch.cat([means, audio_tokens[shown], text_means]))
    example_points, audio_points, text_points = points.split(
        [len(means), num_shown, len(text_means)]
    )
    text_norm = _embed_tokens(model, text_ids).norm(dim=1).mean()
    return EmbeddingMap(
        example_points=example_points,
        example_groups=tuple(groups),
        audio_points=audio_points,
        audio_groups=tuple(audio_groups[shown].tolist()),
        text_points=text_points,
        text_labels=tuple(texts),
        is_labeled=is_labeled,
        explained_variance=variance,
        norm_ratio=float(audio_tokens.norm(dim=1).mean() / text_norm),
    )


def project_to_pca(points: torch.Tensor) -> tuple[torch.Tensor, tuple[float, float]]:
    """Project points (points, hidden_size) on their first two principal axes (Pearson 1901).

    An axis points to where its largest weight is, so that equal points give equal maps.

    Returns:
        (points, 2), and the fraction of the variance along each axis.
    """
    centered = (points - points.mean(dim=0)).double()
    _, singular_values, axes = torch.linalg.svd(centered, full_matrices=False)
    signs = axes[:2].gather(1, axes[:2].abs().argmax(dim=1, keepdim=True)).sign()
    variances = singular_values.square()
    total = variances.sum().clamp_min(torch.finfo(torch.double).tiny)
    return centered @ (axes[:2] * signs).T, (
        float(variances[0] / total),
        float(variances[1] / total),
    )


@torch.no_grad()
def find_nearest_tokens(
    model: AudioLanguageModel,
    audio_embeddings: torch.Tensor,
    k: int,
    *,
    chunk_size: int = EMBEDDING_CHUNK_SIZE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the text tokens of the largest cosine similarity to each audio embedding.

    Args:
        model: with the table of text embeddings.
        audio_embeddings: (audio tokens, hidden_size).
        k: text tokens for each.
        chunk_size: text tokens compared at once.

    Returns:
        Cosines and token ids, (audio tokens, k) each, nearest first.
    """
    table = model.embed_tokens.get_parameter("weight")
    queries = nn.functional.normalize(audio_embeddings.to(table.device), dim=1)
    chunk_cosines, chunk_ids = [], []
    for start in range(0, len(table), chunk_size):
        chunk = nn.functional.normalize(table[start : start + chunk_size].float(), dim=1)
        cosines, ids = (queries @ chunk.T).topk(min(k, len(chunk)), dim=1)
        chunk_cosines.append(cosines)
        chunk_ids.append(ids + start)
    cosines, order = torch.cat(chunk_cosines, dim=1).topk(min(k, len(table)), dim=1)
    return cosines.cpu(), torch.cat(chunk_ids, dim=1).gather(1, order).cpu()


@torch.no_grad()
def compute_audio_attention(
    engine: InferenceEngine, examples: list[Example]
) -> AudioAttention | None:
    """Measure the fraction of attention that the answers put on audio.

    Returns:
        None where no example is short enough and has audio, no layer returns its attention, or the
        decoder attends to audio beside the text, which takes no share from it (Whisper).

    Raises:
        DataError: an example cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    if engine.model.spec.is_encoder_decoder:
        return None
    batches = [make_example_batch(engine, each) for each in examples if each.audio_segments]
    batches = [batch for batch in batches if batch.input_ids.shape[1] <= MAX_ATTENTION_TOKENS]
    layer_sums: list[torch.Tensor] = []
    num_positions, uniform_sum = 0, 0.0
    for batch in batches:
        label_mask = batch.labels[0, 1:] != IGNORE_INDEX  # positions that predict a label
        audio_mask = batch.input_ids[0] == engine.model.audio_token_id
        layers = _sum_audio_attention(engine.model, batch, label_mask, audio_mask)
        layer_sums = list(map(torch.add, layer_sums, layers)) if layer_sums else layers
        num_visible = torch.arange(1, len(audio_mask) + 1, device=audio_mask.device)
        uniform_sum += float((audio_mask.cumsum(0) / num_visible)[:-1][label_mask].sum())
        num_positions += int(label_mask.sum())
    if not layer_sums or not num_positions:
        return None
    per_head = tuple(tuple((layer / num_positions).tolist()) for layer in layer_sums)
    return AudioAttention(per_head, uniform_sum / num_positions, len(batches))


def _sum_audio_attention(
    model: AudioLanguageModel, batch: Batch, label_mask: torch.Tensor, audio_mask: torch.Tensor
) -> list[torch.Tensor]:
    """Attention on audio, summed over the positions of `label_mask`: (heads,) for each layer."""
    layer_sums: list[torch.Tensor] = []
    length = batch.input_ids.shape[1]

    def collect_attention(module: nn.Module, args: Any, outputs: Any) -> None:
        for output in outputs if isinstance(outputs, tuple) else ():
            if isinstance(output, torch.Tensor) and output.shape[2:] == (length, length):
                at_labels = output[0, :, :-1].float()[:, label_mask.to(output.device)]
                on_audio = at_labels[..., audio_mask.to(output.device)]
                layer_sums.append(on_audio.sum(dim=(1, 2)).cpu())

    with _eager_attention(model.decoder):
        hooks = [
            module.register_forward_hook(collect_attention) for module in model.decoder.modules()
        ]
        try:
            model.forward_lm(*model.make_lm_inputs(batch))
        finally:
            for hook in hooks:
                hook.remove()
    return layer_sums


@contextmanager
def _eager_attention(decoder: nn.Module) -> Iterator[None]:
    """Inside, the decoder's layers return their attention; faster kernels never hold it whole."""
    if not isinstance(decoder, PreTrainedModel):
        yield
        return
    implementation = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(implementation)


def format_token(engine: InferenceEngine, token_id: int) -> str:
    """Format a text token so that spaces and line ends can be seen."""
    return engine.chat_encoder.decode_raw([token_id]).translate(WHITESPACE_SIGNS) or f"#{token_id}"


def _tokenize_text(model: AudioLanguageModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def _embed_tokens(model: AudioLanguageModel, token_ids: list[int]) -> torch.Tensor:
    """The embeddings of text tokens: (tokens, hidden_size), fp32."""
    return model.embed_input_ids(torch.tensor([token_ids], device=model.device))[0].float().cpu()
