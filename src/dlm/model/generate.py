"""What a model says: greedy or sampled, for one question as it is spoken or for many at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from dlm.batches.chat import Chat, Row
from dlm.batches.collate import Listen, Padding, collate
from dlm.model.face import Model


@dataclass(frozen=True)
class Decoding:
    """How to choose words. At temperature 0 the likeliest word is always taken.

    Otherwise one is drawn by its share: of all words, or of the `top_k` likeliest, and of these of
    as few as make up `top_p`. Temperature 1 draws as the model says it.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0


def say(model: Model, chat: Chat, rows: list[Row], listen: Listen, how: Decoding) -> list[str]:
    """The answers to several questions, heard together."""
    spoken: list[list[int]] = [[] for _ in rows]
    for words in _words(model, chat, rows, listen, how):
        for said, word in zip(spoken, words, strict=True):
            if word is not None:
                said.append(word)
    return [chat.decode(said).strip() for said in spoken]


def stream(model: Model, chat: Chat, row: Row, listen: Listen, how: Decoding) -> Iterator[str]:
    """The answer to one question, piece by piece, as soon as each piece is sure."""
    said: list[int] = []
    told = ""
    for (word,) in _words(model, chat, [row], listen, how):
        if word is not None:
            said.append(word)
        text = chat.decode(said).strip()  # a blank is told once something follows it
        if not text.endswith("\ufffd"):  # half of a character: wait for the rest
            yield text[len(told) :]
            told = text
    yield chat.decode(said).strip()[len(told) :]


def _words(
    model: Model, chat: Chat, rows: list[Row], listen: Listen, how: Decoding
) -> Iterator[list[int | None]]:
    """One token for each row at a time; None once a row has ended."""
    padding = Padding(chat.pad, chat.placeholder, left=True)
    batch = collate(rows, listen, padding).to(str(model.device))
    chance = torch.Generator(model.device).manual_seed(how.seed)
    cache = DynamicCache()
    attention = batch.attention
    with torch.inference_mode():
        embedded = model.merge(batch)
    ends = batch.ids.new_tensor([chat.end, *model.ends])
    running = torch.ones(len(rows), dtype=torch.bool, device=embedded.device)
    for _ in range(how.max_tokens):
        with torch.inference_mode():
            chosen = _choose(model.next_logits(embedded, attention, cache), how, chance)
            running &= ~torch.isin(chosen, ends)
            embedded = model.embed(chosen[:, None])
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
        if not running.any():
            return
        yield [
            word if alive else None
            for word, alive in zip(chosen.tolist(), running.tolist(), strict=True)
        ]


def _choose(logits: torch.Tensor, how: Decoding, chance: torch.Generator) -> torch.Tensor:
    """One token of each row: top-k (Fan et al. 2018), then the nucleus (Holtzman et al. 2020)."""
    if how.temperature == 0:
        return logits.argmax(dim=-1)
    words = logits.shape[-1]
    likely, order = logits.float().topk(min(how.top_k or words, words))  # the likeliest first
    ranked = (likely / how.temperature).softmax(dim=-1)
    outside = ranked.cumsum(-1) - ranked >= how.top_p
    picked = torch.multinomial(ranked.masked_fill(outside, 0.0), 1, generator=chance)
    return order.gather(-1, picked)[:, 0]
