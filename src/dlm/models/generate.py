"""What a model says: greedy or sampled, for one question as it is spoken or for many at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.batching.collator import FeatureFn, PaddingSpec, collate
from dlm.models.audio_lm import AudioLanguageModel


@dataclass(frozen=True)
class GenerationConfig:
    """How to choose words. At temperature 0 the likeliest word is always taken.

    Otherwise one is drawn by its share: of all words, or of the `top_k` likeliest, and of these of
    as few as make up `top_p`. Temperature 1 draws as the model says it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0


def generate(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    examples: list[EncodedExample],
    feature_fn: FeatureFn,
    generation_config: GenerationConfig,
) -> list[str]:
    """The answers to several questions, heard together."""
    spoken: list[list[int]] = [[] for _ in examples]
    for words in _generate_token_ids(model, chat_encoder, examples, feature_fn, generation_config):
        for said, word in zip(spoken, words, strict=True):
            if word is not None:
                said.append(word)
    return [chat_encoder.decode(said).strip() for said in spoken]


def generate_stream(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    example: EncodedExample,
    feature_fn: FeatureFn,
    generation_config: GenerationConfig,
) -> Iterator[str]:
    """The answer to one question, piece by piece, as soon as each piece is sure."""
    said: list[int] = []
    told = ""
    for (word,) in _generate_token_ids(
        model, chat_encoder, [example], feature_fn, generation_config
    ):
        if word is not None:
            said.append(word)
        text = chat_encoder.decode(said).strip()  # a blank is told once something follows it
        if not text.endswith("\ufffd"):  # half of a character: wait for the rest
            yield text[len(told) :]
            told = text
    yield chat_encoder.decode(said).strip()[len(told) :]


def _generate_token_ids(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    examples: list[EncodedExample],
    feature_fn: FeatureFn,
    generation_config: GenerationConfig,
) -> Iterator[list[int | None]]:
    """One token for each row at a time; None once a row has ended."""
    padding = PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id, pad_left=True)
    batch = collate(examples, feature_fn, padding).to(str(model.device))
    chance = torch.Generator(model.device).manual_seed(generation_config.seed)
    cache = DynamicCache()
    attention = batch.attention_mask
    with torch.inference_mode():
        embedded = model.merge_audio_embeddings(batch)
    ends = batch.input_ids.new_tensor([chat_encoder.eos_token_id, *model.eos_token_ids])
    running = torch.ones(len(examples), dtype=torch.bool, device=embedded.device)
    for _ in range(generation_config.max_new_tokens):
        with torch.inference_mode():
            chosen = _sample_next_token(
                model.compute_next_logits(embedded, attention, cache), generation_config, chance
            )
            running &= ~torch.isin(chosen, ends)
            embedded = model.embed_input_ids(chosen[:, None])
            attention = torch.cat([attention, attention.new_ones(len(examples), 1)], dim=1)
        if not running.any():
            return
        yield [
            word if alive else None
            for word, alive in zip(chosen.tolist(), running.tolist(), strict=True)
        ]


def _sample_next_token(
    logits: torch.Tensor, generation_config: GenerationConfig, rng: torch.Generator
) -> torch.Tensor:
    """One token of each row: top-k (Fan et al. 2018), then the nucleus (Holtzman et al. 2020)."""
    if generation_config.temperature == 0:
        return logits.argmax(dim=-1)
    words = logits.shape[-1]
    likely, order = logits.float().topk(
        min(generation_config.top_k or words, words)
    )  # the likeliest first
    ranked = (likely / generation_config.temperature).softmax(dim=-1)
    outside = ranked.cumsum(-1) - ranked >= generation_config.top_p
    picked = torch.multinomial(ranked.masked_fill(outside, 0.0), 1, generator=rng)
    return order.gather(-1, picked)[:, 0]
