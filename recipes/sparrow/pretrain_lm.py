"""Pretrain sparrow's language model on text, with the projector's vectors in place of audio.

    python recipes/sparrow/pretrain_lm.py --work DIR --whisper FOLDER --minutes 20

writes `DIR/lm`, a folder that `AutoModelForCausalLM` opens. Prompts have the chat template of later
training. At the audio placeholders the model reads the outputs of the projector for a clip, or,
for sentences that no clip says, outputs put together from them: of each token of the sentence one
that was read as that token, some of them wrong, and blanks between. So it recovers words from noisy
tokens, and answers questions about them, before it is given audio.
"""

import argparse
import math
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.plan.hardware import detect_hardware
from encoder_features import load_features, load_rows
from questions import TRANSCRIBE_PROMPT, can_be_asked, draw_question
from sentences import iter_sentences, list_wordnet_texts
from synthesize_speech import FIRST_SENTENCE, SEED, ManifestRow
from train_encoder import LM_HIDDEN_SIZE, CtcModel, load_ctc_model
from train_tokenizer import AUDIO_TOKEN, MAX_TOKENS

PEAK_RATE, FLOOR_FRACTION, WARMUP_STEPS = 2e-3, 0.05, 100
LOG_STEPS, SAVE_STEPS = 50, 500
BATCH_TOKENS = 2_000  # of a batch, padding not counted
POOL_SIZE = 400  # examples that are sorted by length together
SHORT_LETTERS, CURRICULUM_FRACTION = 10, 0.5  # longest text at first, and until when it grows
NUM_CLIP_ROWS = 12_000  # whose outputs are kept in memory
NUM_SENTENCES = 90_000  # of the stream that the clips are taken from
MAX_TEXT_LETTERS = 90
POSITIONS_PER_SECOND = 12.5
SECONDS_PER_LETTER = (0.05, 0.11)
SUBSTITUTION_RATE, DELETION_RATE = 0.06, 0.03  # of tokens
QUESTION_PROBABILITY, PROSE_PROBABILITY = 0.12, 0.05  # the others are transcriptions


@dataclass(frozen=True)
class TextExample:
    """A text example whose audio is vectors.

    Attributes:
        input_ids: token ids.
        labels: the ids that carry loss, IGNORE_INDEX elsewhere.
        audio: (placeholders, hidden_size), float32.
    """

    input_ids: list[int]
    labels: list[int]
    audio: np.ndarray


class ProjectorOutputs:
    """The outputs of the projector for training rows, by row and by token.

    Args:
        work_dir: of the hidden states.
        model: of train_encoder.py.
        rows: whose outputs are computed.
    """

    @torch.no_grad()
    def __init__(self, work_dir: Path, model: CtcModel, rows: list[ManifestRow]) -> None:
        self._blank_id = model.blank_id
        self._embeddings = model.embeddings.detach().numpy()
        outputs = [
            model.project(torch.from_numpy(values)[None].float(), torch.tensor([len(values)]))[0]
            for values in load_features(work_dir, rows)
        ]
        ends = np.cumsum([len(output) for output in outputs])
        self._spans = {
            row["features"]: (end - len(output), end)
            for row, output, end in zip(rows, outputs, ends, strict=True)
        }
        joined = torch.cat(outputs)
        tokens = torch.cat([model.score(part).argmax(-1) for part in joined.split(4_096)]).numpy()
        self._outputs = joined.half().numpy()
        order = np.argsort(tokens, kind="stable")
        bounds = np.searchsorted(tokens[order], np.arange(len(self._embeddings) + 1))
        self._by_token = [order[bounds[i] : bounds[i + 1]] for i in range(len(self._embeddings))]

    def get_row(self, row: ManifestRow) -> np.ndarray:
        """The outputs for a row: (positions, hidden_size)."""
        start, end = self._spans[row["features"]]
        return self._outputs[start:end].astype(np.float32)

    def simulate(
        self, text: str, token_ids: list[int], letters: list[int], noise: float
    ) -> np.ndarray:
        """Put outputs together as for a clip that says a sentence: (positions, hidden_size).

        Args:
            text: the sentence.
            token_ids: its tokens.
            letters: of each token.
            noise: from 0, every token is there and its embedding, to 1, as the projector writes.
        """
        seconds_per_letter, seconds = random.uniform(*SECONDS_PER_LETTER), random.uniform(0, 0.3)
        end = seconds + 1.3 * seconds_per_letter * len(text) + random.uniform(0, 0.3)
        num_positions = max(int(end * POSITIONS_PER_SECOND) + 1, len(token_ids))
        positions = [self._blank_id] * num_positions
        last = -1
        for token_id, num_letters in zip(token_ids, letters, strict=True):
            position = max(int(seconds * POSITIONS_PER_SECOND), last + 1)
            seconds += num_letters * seconds_per_letter * random.uniform(0.7, 1.4)
            draw = random.random() / max(noise, 1e-9)
            position = min(position, len(positions) - 1)
            if draw < DELETION_RATE:
                continue
            if draw < DELETION_RATE + SUBSTITUTION_RATE:
                token_id = random.randrange(len(self._embeddings))
            positions[position] = token_id
            last = position
        return np.stack([self._draw(token_id, noise) for token_id in positions])

    def _draw(self, token_id: int, noise: float) -> np.ndarray:
        """An output that was read as a token; its embedding where there is no noise, or none."""
        known = self._by_token[token_id]
        if not len(known) or random.random() >= noise:
            return self._embeddings[token_id]
        return self._outputs[known[random.randrange(len(known))]].astype(np.float32)


class AudioReader(nn.Module):
    """A language model that reads vectors at the placeholders."""

    def __init__(self, lm: Qwen3ForCausalLM, audio_token_id: int) -> None:
        super().__init__()
        self.lm, self.audio_token_id = lm, audio_token_id

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, audio: torch.Tensor
    ) -> torch.Tensor:
        """Compute the mean loss.

        Args:
            input_ids: (batch, tokens).
            labels: (batch, tokens), IGNORE_INDEX where there is no loss.
            audio: (placeholders, hidden_size).
        """
        is_audio = (input_ids == self.audio_token_id)[..., None]
        embeddings = self.lm.get_input_embeddings()(input_ids).masked_scatter(is_audio, audio)
        hidden = self.lm.model(inputs_embeds=embeddings)
        has_label = labels[:, 1:] != IGNORE_INDEX
        logits = self.lm.lm_head(hidden.last_hidden_state[:, :-1][has_label]).float()
        return nn.functional.cross_entropy(logits, labels[:, 1:][has_label])


def _make_lm_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    """Return the config of two million parameters."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=LM_HIDDEN_SIZE,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        intermediate_size=512,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def pretrain_lm(work_dir: Path, whisper_dir: Path, *, minutes: float, num_threads: int = 2) -> None:
    """Train for `minutes`, from the weights that are there if there are any."""
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    random.seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    lm = Qwen3ForCausalLM(_make_lm_config(tokenizer))
    ctc_model = load_ctc_model(work_dir, whisper_dir, tokenizer)
    lm.get_input_embeddings().weight.data.copy_(ctc_model.embeddings.detach())
    if (work_dir / "lm" / "model.safetensors").exists():
        lm = Qwen3ForCausalLM.from_pretrained(work_dir / "lm", dtype=torch.float32)
    model = AudioReader(lm, tokenizer.convert_tokens_to_ids(AUDIO_TOKEN))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.01)
    corpus = TextCorpus(work_dir, tokenizer, ctc_model)
    use_bf16 = detect_hardware(work_dir).amx
    start = time.monotonic()

    def get_progress() -> float:
        return (time.monotonic() - start) / (60 * minutes)

    for step, examples in enumerate(corpus.iter_batches(get_progress)):
        progress = get_progress()
        cosine = (1 + math.cos(math.pi * min(progress, 1))) / 2
        decay = FLOOR_FRACTION + (1 - FLOOR_FRACTION) * cosine
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * decay
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            loss = model(*_collate(examples, tokenizer.pad_token_id))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % LOG_STEPS == 0:
            print(f"lm: step {step}  {progress:.0%}  loss {float(loss.detach()):.3f}", flush=True)
        if step and step % SAVE_STEPS == 0 or progress >= 1:
            lm.save_pretrained(work_dir / "lm")
        if progress >= 1:
            break


class TextCorpus:
    """The clips and sentences that the language model is trained on."""

    def __init__(
        self, work_dir: Path, tokenizer: PreTrainedTokenizerBase, ctc_model: CtcModel
    ) -> None:
        first = FIRST_SENTENCE["train"]
        self._sentences = [
            *islice(iter_sentences(SEED), first, first + NUM_SENTENCES),
            *random.sample(list_wordnet_texts()[1], NUM_SENTENCES // 3),
        ]
        self._tokenizer = tokenizer
        rows = load_rows(work_dir, "train")
        rows = random.sample(rows, min(len(rows), NUM_CLIP_ROWS))
        self._outputs = ProjectorOutputs(work_dir, ctc_model, rows)
        self._clips = sorted(rows, key=lambda row: len(row["text"]))
        self._clip_letters = [len(row["text"]) for row in self._clips]

    def iter_batches(self, get_progress: Callable[[], float]) -> Iterator[list[TextExample]]:
        """Yield batches without end, half clips and half sentences, of similar length together."""
        while True:
            growth = min(get_progress() / CURRICULUM_FRACTION, 1.0)
            num_clip_rows = int(growth * POOL_SIZE / 2)  # none at first
            max_letters = int(SHORT_LETTERS + growth * (MAX_TEXT_LETTERS - SHORT_LETTERS))
            num_clips = bisect_right(self._clip_letters, max_letters)
            rows = random.choices(self._clips[:num_clips], k=num_clip_rows)
            rows += [
                {"text": _shorten(text, max_letters)}
                for text in random.sample(self._sentences, POOL_SIZE - num_clip_rows)
            ]
            rows.sort(key=lambda row: len(row["text"]))
            examples = [
                _make_text_example(row, self._tokenizer, self._outputs, noise=growth)
                for row in rows
            ]
            batches = _split_batches(examples)
            random.shuffle(batches)
            yield from batches


def _shorten(text: str, max_letters: int) -> str:
    """Some words of a text in a row, of at most `max_letters` letters; one word if it is longer."""
    words = text.split()
    first = random.randrange(len(words))
    shortened = words[first]
    for word in words[first + 1 :]:
        if len(shortened) + 1 + len(word) > max_letters:
            break
        shortened += " " + word
    return text if len(text) <= max_letters else shortened


def _split_batches(examples: list[TextExample]) -> list[list[TextExample]]:
    batches: list[list[TextExample]] = [[]]
    num_tokens = 0
    for example in examples:
        num_tokens += len(example.input_ids)
        if num_tokens > BATCH_TOKENS and batches[-1]:
            batches.append([])
            num_tokens = len(example.input_ids)
        batches[-1].append(example)
    return batches


def _make_text_example(
    row: ManifestRow,
    tokenizer: PreTrainedTokenizerBase,
    outputs: ProjectorOutputs,
    *,
    noise: float,
) -> TextExample:
    """Make a transcription, a question or prose of a manifest row."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    kind = random.random()
    answer_ids = [*encode(row["text"]), tokenizer.eos_token_id]
    if kind < PROSE_PROBABILITY:
        return TextExample(answer_ids, answer_ids, np.zeros((0, LM_HIDDEN_SIZE), np.float32))
    question = TRANSCRIBE_PROMPT
    if "features" in row:
        audio = outputs.get_row(row)
        if kind < PROSE_PROBABILITY + QUESTION_PROBABILITY and can_be_asked(row):
            question, answer = draw_question(row, seed=random.getrandbits(32))
            answer_ids = [*encode(answer), tokenizer.eos_token_id]
    else:
        letters = [len(token) for token in tokenizer.convert_ids_to_tokens(answer_ids[:-1])]
        audio = outputs.simulate(row["text"], answer_ids[:-1], letters, noise)
    messages = [{"role": "user", "content": AUDIO_TOKEN * len(audio) + "\n" + question}]
    prompt_ids = encode(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )
    labels = [IGNORE_INDEX] * len(prompt_ids) + answer_ids
    return TextExample(prompt_ids + answer_ids, labels, audio)


def _collate(
    examples: list[TextExample], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return input ids and labels (batch, tokens), and audio (placeholders, hidden_size)."""
    return (
        _pad_rows([example.input_ids for example in examples], pad_token_id),
        _pad_rows([example.labels for example in examples], IGNORE_INDEX),
        torch.from_numpy(np.concatenate([example.audio for example in examples])),
    )


def _pad_rows(rows: list[list[int]], padding: int) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=padding
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    args = parser.parse_args()
    pretrain_lm(args.work, args.whisper, minutes=args.minutes)
