"""Pretrain sparrow's language model on text, with noisy letters in place of audio embeddings.

    python recipes/sparrow/pretrain_lm.py --work DIR --minutes 6

writes `DIR/lm`, a folder that `AutoModelForCausalLM` opens. Prompts have the chat template of later
training. At the audio placeholders the model reads letters as the CTC encoder writes them: one
position for every 80 ms, with none, one or two letters, some of them wrong. So it recovers words
from noisy letters, and answers questions about them, before it is given audio.
"""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from data_parallel import MixedPrecisionModel, compute_learning_rate, run_data_parallel
from dlm.batching.chat_template import IGNORE_INDEX
from mel_features import LETTERS
from questions import TRANSCRIBE_PROMPT, draw_question
from synthesize_speech import ManifestRow, read_manifest
from train_tokenizer import AUDIO_TOKEN, MAX_TOKENS

PEAK_RATE, FLOOR_FRACTION, WARMUP_STEPS, LOG_STEPS = 2e-3, 0.05, 100, 100
BATCH_SIZE = 40  # of one process
POSITIONS_PER_SECOND = 12.5
SECONDS_PER_LETTER = (0.05, 0.12)
SUBSTITUTION_RATE, DELETION_RATE = 0.05, 0.03  # of letters
LETTER_DECAY = 0.6  # weight of a position's next letter over the one before
QUESTION_PROBABILITY, PROSE_PROBABILITY = 0.3, 0.1  # the others are transcriptions


@dataclass(frozen=True)
class LetterExample:
    """A text example whose placeholders are letters.

    Attributes:
        input_ids: token ids.
        labels: the ids that carry loss, IGNORE_INDEX elsewhere.
        letter_ids: token ids of the letters at each placeholder.
    """

    input_ids: list[int]
    labels: list[int]
    letter_ids: list[list[int]]


class LetterReader(nn.Module):
    """A language model whose audio embeddings are the weighted embeddings of letters."""

    def __init__(self, lm: Qwen3ForCausalLM, audio_token_id: int) -> None:
        super().__init__()
        self.lm, self.audio_token_id = lm, audio_token_id

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, letter_ids: torch.Tensor
    ) -> torch.Tensor:
        """Compute the mean loss.

        Args:
            input_ids: (batch, tokens).
            labels: (batch, tokens), IGNORE_INDEX where there is no loss.
            letter_ids: (placeholders, letters), padded with -1.
        """
        embed_tokens = self.lm.get_input_embeddings()
        letters = combine_letters(embed_tokens(letter_ids.clamp(min=0)), letter_ids >= 0)
        is_audio = (input_ids == self.audio_token_id)[..., None]
        embeddings = embed_tokens(input_ids).masked_scatter(is_audio, letters)
        hidden = self.lm.model(inputs_embeds=embeddings)
        has_label = labels[:, 1:] != IGNORE_INDEX
        logits = self.lm.lm_head(hidden.last_hidden_state[:, :-1][has_label]).float()
        return nn.functional.cross_entropy(logits, labels[:, 1:][has_label])


def combine_letters(embeddings: torch.Tensor, letter_mask: torch.Tensor) -> torch.Tensor:
    """Combine the letters of each position to one embedding, normalized as the projector's output.

    Args:
        embeddings: (positions, letters, hidden_size).
        letter_mask: (positions, letters) whether a letter is there.
    """
    weights = LETTER_DECAY ** torch.arange(letter_mask.shape[1]) * letter_mask
    combined = (embeddings * weights[..., None].to(embeddings.dtype)).sum(1)
    return nn.functional.rms_norm(combined, combined.shape[-1:], eps=1e-6)


def encode_letters(letters: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of a position's letters, or the placeholder where there are none."""
    return tokenizer.convert_tokens_to_ids(list(letters.replace(" ", "Ġ")) or [AUDIO_TOKEN])


def pretrain_lm(
    work_dir: Path, *, minutes: float, num_processes: int = 2, continue_training: bool = False
) -> None:
    """Train for `minutes`; a model that exists is trained only with `continue_training`."""
    if continue_training or not (work_dir / "lm" / "config.json").exists():
        run_data_parallel(_train, num_processes, work_dir, minutes)


def _make_lm_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    """Return the config of about one million parameters."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        intermediate_size=384,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train(rank: int, work_dir: Path, minutes: float) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    lm = Qwen3ForCausalLM(_make_lm_config(tokenizer))
    if (work_dir / "lm" / "model.safetensors").exists():
        lm = Qwen3ForCausalLM.from_pretrained(work_dir / "lm", dtype=torch.float32)
    model = MixedPrecisionModel(LetterReader(lm, tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)))
    optimizer = torch.optim.AdamW(model.parameters, lr=0, betas=(0.9, 0.98), weight_decay=0.01)
    start, seconds = time.monotonic(), 0.0
    for step, examples in enumerate(_iter_batches(work_dir, tokenizer, seed=rank)):
        model.sync_weights()
        loss = model.bf16_model(*_collate(examples, tokenizer.pad_token_id))
        loss.backward()
        mean_loss, seconds = model.all_reduce_gradients(
            [float(loss.detach()), time.monotonic() - start]
        )
        progress = seconds / (60 * minutes)
        learning_rate = compute_learning_rate(
            step, progress, PEAK_RATE, FLOOR_FRACTION, WARMUP_STEPS
        )
        model.apply_step(optimizer, learning_rate)
        if rank == 0 and step % LOG_STEPS == 0:
            print(f"step {step}  {seconds / 60:.1f} min  loss {mean_loss:.3f}", flush=True)
        if seconds >= 60 * minutes:
            break
    if rank == 0:
        lm.save_pretrained(work_dir / "lm")


def _iter_batches(
    work_dir: Path, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> Iterator[list[LetterExample]]:
    """Yield batches of the training sentences without end, examples of similar length together."""
    rng = random.Random(seed)
    manifest = read_manifest(work_dir / "train.jsonl")
    decoded = read_manifest(work_dir / "ctc_letters.jsonl")
    while True:
        rows = rng.sample(decoded, BATCH_SIZE * 12) + rng.sample(manifest, BATCH_SIZE * 8)
        rows.sort(key=lambda row: len(row["text"]))
        starts = list(range(0, len(rows), BATCH_SIZE))
        rng.shuffle(starts)
        for start in starts:
            batch = rows[start : start + BATCH_SIZE]
            yield [_make_example(row, tokenizer, rng) for row in batch]


def _make_example(
    row: ManifestRow, tokenizer: PreTrainedTokenizerBase, rng: random.Random
) -> LetterExample:
    """Make a transcription, a question or prose of a manifest row."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    kind = rng.random()
    if kind < PROSE_PROBABILITY:
        input_ids = [*encode(row["text"]), tokenizer.eos_token_id]
        return LetterExample(input_ids, input_ids, [])
    question, answer = TRANSCRIBE_PROMPT, row["text"]
    if kind < PROSE_PROBABILITY + QUESTION_PROBABILITY:
        question, answer = draw_question(row, seed=rng.getrandbits(32))
    positions = row["letters"] if "letters" in row else _simulate_ctc(row["text"], rng)
    letter_ids = [encode_letters(letters, tokenizer) for letters in positions]
    messages = [{"role": "user", "content": AUDIO_TOKEN * len(letter_ids) + "\n" + question}]
    prompt_ids = encode(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )
    answer_ids = [*encode(answer), tokenizer.eos_token_id]
    labels = [IGNORE_INDEX] * len(prompt_ids) + answer_ids
    return LetterExample(prompt_ids + answer_ids, labels, letter_ids)


def _simulate_ctc(text: str, rng: random.Random) -> list[str]:
    """Return the letters of each position of a sentence, as a CTC encoder could write them."""
    seconds_per_letter, seconds = rng.uniform(*SECONDS_PER_LETTER), rng.uniform(0, 0.3)
    max_seconds = seconds + 2 * seconds_per_letter * len(text)
    positions = [""] * int(max_seconds * POSITIONS_PER_SECOND + 1)
    for letter in text:
        seconds += seconds_per_letter * rng.uniform(0.4, 1.6)
        draw = rng.random()
        if draw >= DELETION_RATE:
            is_wrong = draw < DELETION_RATE + SUBSTITUTION_RATE
            written = rng.choice(LETTERS) if is_wrong else letter
            positions[int(seconds * POSITIONS_PER_SECOND)] += written
    return positions[: int((seconds + rng.uniform(0, 0.3)) * POSITIONS_PER_SECOND) + 1]


def _collate(
    examples: list[LetterExample], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return input ids and labels (batch, tokens), and letter ids (placeholders, letters)."""
    positions = [position for example in examples for position in example.letter_ids] or [[-1]]
    return (
        _pad_rows([example.input_ids for example in examples], pad_token_id),
        _pad_rows([example.labels for example in examples], IGNORE_INDEX),
        _pad_rows(positions, -1),
    )


def _pad_rows(rows: list[list[int]], padding: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=padding
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--more", action="store_true", help="train the existing model further")
    args = parser.parse_args()
    pretrain_lm(args.work, minutes=args.minutes, continue_training=args.more)
