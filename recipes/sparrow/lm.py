"""Sparrow's language model, before it hears anything.

    python recipes/sparrow/lm.py --work DIR --minutes 6

leaves `DIR/lm`, a folder that `AutoModelForCausalLM` opens. It learns from text alone, in the chat
form it will meet later. Where sound will stand, it reads letters as the encoder spells them: one
position for every 80 ms, holding none, one or two letters, some of them wrong. So it can tell words
from noisy letters, and answer questions about them, before the first sound.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from hearing import LETTERS
from questions import PROMPT, ask
from together import Twins, run
from tokenizer import AUDIO, LONGEST_TOKENS

PEAK_RATE, RISING_STEPS, TELL_STEPS = 2e-3, 100, 100
ROWS = 40  # in the batch of one process
TOKENS_PER_SECOND = 12.5
SECONDS_PER_LETTER = (0.05, 0.12)
WRONG, LOST = 0.05, 0.03  # shares of the letters
LATER_LETTERS = 0.6  # how much fainter the second letter of a position is than the first
ASKED, PROSE = 0.3, 0.1  # shares of the lessons
IGNORE = -100


@dataclass(frozen=True)
class Lesson:
    """Tokens, which of them carry loss, and the letters heard at each placeholder."""

    ids: list[int]
    labels: list[int]
    heard: list[list[int]]


class Reader(nn.Module):
    """A language model that reads letters where sound will stand."""

    def __init__(self, lm: Qwen3ForCausalLM, placeholder: int) -> None:
        super().__init__()
        self.lm, self.placeholder = lm, placeholder

    def forward(self, ids: torch.Tensor, labels: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """The mean loss; `heard` is (placeholders, letters), padded with -1."""
        words = self.lm.get_input_embeddings()
        fade = LATER_LETTERS ** torch.arange(heard.shape[1]) * (heard >= 0)
        sound = (words(heard.clamp(min=0)) * fade[..., None].to(words.weight.dtype)).sum(1)
        sound = nn.functional.rms_norm(sound, sound.shape[-1:], eps=1e-6)  # as a projector leaves
        embedded = words(ids).masked_scatter((ids == self.placeholder)[..., None], sound)
        hidden = self.lm.model(inputs_embeds=embedded).last_hidden_state
        told = labels[:, 1:] != IGNORE
        logits = self.lm.lm_head(hidden[:, :-1][told]).float()
        return nn.functional.cross_entropy(logits, labels[:, 1:][told])


def make_lm(work: Path, *, minutes: float, processes: int = 2, more: bool = False) -> None:
    """Train for `minutes` and save the folder; one that is there is only touched for `more`."""
    if more or not (work / "lm" / "config.json").exists():
        run(_train, processes, processes, work, minutes)


def lm_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    """About one million weights."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        intermediate_size=384,
        tie_word_embeddings=True,
        max_position_embeddings=LONGEST_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train(rank: int, processes: int, work: Path, minutes: float) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    lm = Qwen3ForCausalLM(lm_config(tokenizer))
    if (work / "lm" / "model.safetensors").exists():
        lm = Qwen3ForCausalLM.from_pretrained(work / "lm", dtype=torch.float32)
    twins = Twins(Reader(lm, tokenizer.convert_tokens_to_ids(AUDIO)))
    optimizer = torch.optim.AdamW(twins.weights, lr=0, betas=(0.9, 0.98), weight_decay=0.01)
    began, gone = time.monotonic(), 0.0
    for step, lessons in enumerate(_batches(work, tokenizer, seed=rank)):
        twins.refresh()
        loss = twins.fast(*_collate(lessons, tokenizer.pad_token_id))
        loss.backward()
        mean, gone = twins.average([float(loss.detach()), time.monotonic() - began])
        nn.utils.clip_grad_norm_(twins.weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, gone / (60 * minutes))
        optimizer.step()
        if rank == 0 and step % TELL_STEPS == 0:
            print(f"step {step}  {gone / 60:.1f} min  loss {mean:.3f}", flush=True)
        if gone >= 60 * minutes:
            break
    if rank == 0:
        lm.save_pretrained(work / "lm")


def _rate(step: int, share: float) -> float:
    falling = 0.05 + 0.95 * (1 + math.cos(math.pi * min(share, 1))) / 2
    return PEAK_RATE * min(1.0, (step + 1) / RISING_STEPS) * falling


def _batches(
    work: Path, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> Iterator[list[Lesson]]:
    """Lessons from the training sentences, without end."""
    chance = random.Random(seed)
    lines, heard = _manifest(work / "train.jsonl"), _manifest(work / "letters.jsonl")
    while True:
        picked = chance.sample(heard, ROWS * 12) + chance.sample(lines, ROWS * 8)
        picked.sort(key=lambda line: len(line["text"]))
        starts = list(range(0, len(picked), ROWS))
        chance.shuffle(starts)
        for start in starts:
            yield [_lesson(line, tokenizer, chance) for line in picked[start : start + ROWS]]


def _manifest(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _lesson(
    line: dict[str, Any], tokenizer: PreTrainedTokenizerBase, chance: random.Random
) -> Lesson:
    """A transcription, a question, or plain prose."""

    def encode(words: str) -> list[int]:
        return tokenizer(words, add_special_tokens=False)["input_ids"]

    kind = chance.random()
    if kind < PROSE:
        ids = [*encode(line["text"]), tokenizer.eos_token_id]
        return Lesson(ids, ids, [])
    question, answer = PROMPT, line["text"]
    if kind < PROSE + ASKED:
        question, answer = ask(line, seed=chance.getrandbits(32))
    spelled = line["heard"] if "heard" in line else _misspelled(line["text"], chance)
    heard = [tokenizer.convert_tokens_to_ids(_tokens(letters)) for letters in spelled]
    user = [{"role": "user", "content": AUDIO * len(heard) + "\n" + question}]
    asked = encode(tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True))
    said = [*encode(answer), tokenizer.eos_token_id]
    return Lesson(asked + said, [IGNORE] * len(asked) + said, heard)


def _tokens(letters: str) -> list[str]:
    """The tokens of a position: its letters, or the placeholder where there are none."""
    return list(letters.replace(" ", "Ġ")) or [AUDIO]


def _misspelled(said: str, chance: random.Random) -> list[str]:
    """The letters of each 80 ms of a sentence, as an encoder might hear them."""
    pace, now = chance.uniform(*SECONDS_PER_LETTER), chance.uniform(0, 0.3)
    seconds = now + 2 * pace * len(said)
    positions = [""] * int(seconds * TOKENS_PER_SECOND + 1)
    for letter in said:
        now += pace * chance.uniform(0.4, 1.6)
        fate = chance.random()
        if fate >= LOST:
            heard = chance.choice(LETTERS) if fate < LOST + WRONG else letter
            positions[int(now * TOKENS_PER_SECOND)] += heard
    return positions[: int((now + chance.uniform(0, 0.3)) * TOKENS_PER_SECOND) + 1]


def _collate(lessons: list[Lesson], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    longest = max(len(lesson.ids) for lesson in lessons)
    ids = torch.full((len(lessons), longest), pad)
    labels = torch.full((len(lessons), longest), IGNORE)
    for row, lesson in enumerate(lessons):
        ids[row, : len(lesson.ids)] = torch.tensor(lesson.ids)
        labels[row, : len(lesson.labels)] = torch.tensor(lesson.labels)
    positions = [position for lesson in lessons for position in lesson.heard]
    widest = max((len(position) for position in positions), default=1)
    heard = torch.full((len(positions), widest), -1)
    for row, position in enumerate(positions):
        heard[row, : len(position)] = torch.tensor(position)
    return ids, labels, heard


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--more", action="store_true", help="go on with a folder that is there")
    wanted = parser.parse_args()
    make_lm(wanted.work, minutes=wanted.minutes, more=wanted.more)
