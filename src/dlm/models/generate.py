"""Generation: greedy or sampled (temperature, top-k, top-p), streamed or for a batch.

The loop is here and not `GenerationMixin.generate`, which takes 17 to 45 % more CPU time a token
on small models (LOG.md), draws from torch's global generator, and streams from a thread only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from dlm.batching.chat_template import ChatEncoder, EncodedExample
from dlm.batching.collator import FeatureFn, PaddingSpec, collate
from dlm.models.audio_lm import AudioLanguageModel

STEPS_PER_LENGTH_CHECK = 8  # tokens between two looks at the length of a text


@dataclass(frozen=True)
class GenerationConfig:
    """How to choose tokens.

    Attributes:
        max_new_tokens: of an answer, at most.
        temperature: 0 always takes the likeliest token; 1 draws from the model's distribution.
        top_p: draw from the fewest tokens that have this probability in total.
        top_k: draw from so many of the likeliest tokens; None for all.
        seed: of the draws; the same seed gives the same answer.
        max_characters: of each answer of a batch, at most; empty for any number.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0
    max_characters: tuple[int, ...] = ()


def generate(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    examples: list[EncodedExample],
    feature_fn: FeatureFn,
    generation_config: GenerationConfig,
    *,
    on_cut: Callable[[int], None] | None = None,
) -> list[str]:
    """Generate the answers to several prompts in one batch.

    Args:
        on_cut: is called with the index of each answer that had not ended at its limit.
    """
    answers: list[list[int]] = [[] for _ in examples]
    limits, running = generation_config.max_characters, set(range(len(examples)))
    cut: set[int] = set()
    steps = _generate_token_ids(model, chat_encoder, examples, feature_fn, generation_config)
    for token_ids in steps:
        for index, (answer, token_id) in enumerate(zip(answers, token_ids, strict=True)):
            if token_id is None:
                running.discard(index)
            elif index in running:
                answer.append(token_id)
                is_checked = bool(limits) and len(answer) % STEPS_PER_LENGTH_CHECK == 0
                if is_checked and len(chat_encoder.decode(answer).strip()) > limits[index]:
                    running.discard(index)
                    cut.add(index)
        if not running:
            break
    for index in sorted(cut | running):
        if on_cut:
            on_cut(index)
    return [chat_encoder.decode(answer).strip() for answer in answers]


def generate_stream(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    example: EncodedExample,
    feature_fn: FeatureFn,
    generation_config: GenerationConfig,
) -> Iterator[str]:
    """Generate the answer to one prompt, and yield each piece of text once it cannot change."""
    answer: list[int] = []
    yielded = ""
    steps = _generate_token_ids(model, chat_encoder, [example], feature_fn, generation_config)
    for (token_id,) in steps:
        if token_id is not None:
            answer.append(token_id)
        text = chat_encoder.decode(answer).strip()  # a blank is yielded with what follows it
        if not text.endswith("\ufffd"):  # part of a character: wait for the rest
            yield text[len(yielded) :]
            yielded = text
    yield chat_encoder.decode(answer).strip()[len(yielded) :]


def _generate_token_ids(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    examples: list[EncodedExample],
    feature_fn: FeatureFn,
    generation_config: GenerationConfig,
) -> Iterator[list[int | None]]:
    """At each step one token for each example; None once its answer has ended."""
    padding = PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id, pad_left=True)
    batch = collate(examples, feature_fn, padding).to(str(model.device))
    rng = torch.Generator(model.device).manual_seed(generation_config.seed)
    cache, prompt_ids = model.make_cache(), batch.input_ids
    eos_ids = prompt_ids.new_tensor([*chat_encoder.end_token_ids, *model.eos_token_ids])
    with torch.inference_mode():
        embeddings, mask, audio_states = model.make_prompt_inputs(batch)
    is_running = torch.ones(len(examples), dtype=torch.bool, device=embeddings.device)
    answer_ids = prompt_ids[:, :0]
    max_new_tokens = generation_config.max_new_tokens
    # no position comes after the last that it learned
    max_new_tokens = min(max_new_tokens, max(model.spec.context_length - prompt_ids.shape[1], 1))
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            logits = model.compute_next_logits(embeddings, mask, cache, audio_states)
            logits = model.restrict_logits(logits, prompt_ids, answer_ids)
            tokens = _sample_next_token(logits, generation_config, rng)
            is_running &= ~torch.isin(tokens, eos_ids)
            embeddings = model.embed_input_ids(tokens[:, None])
            answer_ids = torch.cat([answer_ids, tokens[:, None]], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(examples), 1)], dim=1)
        if not is_running.any():
            yield [None] * len(examples)
            return
        pairs = zip(tokens.tolist(), is_running.tolist(), strict=True)
        yield [token_id if running else None for token_id, running in pairs]


def _sample_next_token(
    logits: torch.Tensor, generation_config: GenerationConfig, rng: torch.Generator
) -> torch.Tensor:
    """(batch, vocab_size) -> (batch,); top-k (Fan et al. 2018), then top-p (Holtzman 2020)."""
    if generation_config.temperature == 0:
        return logits.argmax(dim=-1)
    vocab_size = logits.shape[-1]
    num_candidates = min(generation_config.top_k or vocab_size, vocab_size)
    top_logits, token_ids = logits.float().topk(num_candidates)  # the likeliest first
    probs = (top_logits / generation_config.temperature).softmax(dim=-1)
    outside_nucleus = probs.cumsum(-1) - probs >= generation_config.top_p
    choice = torch.multinomial(probs.masked_fill(outside_nucleus, 0.0), 1, generator=rng)
    return token_ids.gather(-1, choice)[:, 0]
