"""Fit sparrow's projector with CTC (Graves et al., 2006) on the language model's own tokens.

    python recipes/sparrow/fit_projector.py --work DIR --minutes 8

writes `DIR/projector.safetensors` (the weights of `dlm.models.projectors.ConcatProjector`),
`DIR/ctc_embeddings.safetensors` (an embedding for each token; the placeholder's is the blank's) and
`DIR/ctc_tokens.npz`: the projector's outputs for training rows, and the token that each is nearest
to. A position of 80 ms is scored against the embeddings of all tokens, so that the projector speaks
in embeddings, and the language model that starts from them can read it.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dlm.inference.metrics import compute_character_errors, compute_word_errors
from dlm.models.audio_lm import EncoderOutput
from dlm.models.projectors import Projector, build_projector
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.model_ref import find_catalog_spec
from encoder_features import HIDDEN_SIZE, load_features, load_rows
from synthesize_speech import ManifestRow
from train_tokenizer import AUDIO_TOKEN

LM_HIDDEN_SIZE = 192
PROJECTOR_CONFIG = {"kind": "concat", "hidden": 512, "activation": "gelu", "norm": True}
STRIDE = 4  # encoder frames of a position
PEAK_RATE, FLOOR_FRACTION, WARMUP_STEPS, LOG_STEPS = 2e-3, 0.03, 200, 100
BATCH_SIZE = 48
MASK_PROBABILITY, MAX_MASKED_FRAMES = 0.5, 20
NUM_SAVED_ROWS = 10_000


class CtcProjector(nn.Module):
    """The projector, and the embeddings that its outputs are scored against.

    Args:
        vocab_size: tokens, the placeholder among them.
        blank_id: the placeholder's id.
    """

    def __init__(self, vocab_size: int, blank_id: int) -> None:
        super().__init__()
        self.blank_id, self.temperature = blank_id, 1.0
        self.projector: Projector = build_projector(
            PROJECTOR_CONFIG,
            encoder_dims=((1, HIDDEN_SIZE),),
            audio_spec=find_catalog_spec("sparrow").audio_spec,
            out_features=LM_HIDDEN_SIZE,
        )
        self.embeddings = nn.Parameter(torch.randn(vocab_size, LM_HIDDEN_SIZE) * 0.05)

    def project(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Project rows of hidden states (frames, hidden_size) to (positions, LM_HIDDEN_SIZE)."""
        lengths = torch.tensor([len(values) for values in features])
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
        tokens = self.projector(EncoderOutput(padded, lengths))
        return list(tokens.split([ceil_div(len(values), STRIDE) for values in features]))

    def score(self, outputs: torch.Tensor) -> torch.Tensor:
        """Compute log probabilities of tokens: (..., LM_HIDDEN_SIZE) -> (..., vocab_size)."""
        return (self.temperature * outputs @ self.embeddings.T).log_softmax(-1)

    def save(self, work_dir: Path) -> None:
        """Write the projector and the embeddings."""
        embeddings = {
            "embeddings": self.embeddings.detach(),
            "temperature": torch.tensor(self.temperature),
        }
        save_file(embeddings, work_dir / "ctc_embeddings.safetensors")
        save_file(self.projector.state_dict(), work_dir / "projector.safetensors")

    def load(self, work_dir: Path) -> None:
        """Read what `save` wrote."""
        saved = load_file(work_dir / "ctc_embeddings.safetensors")
        self.embeddings.data.copy_(saved["embeddings"])
        self.temperature = float(saved["temperature"])
        self.projector.load_state_dict(load_file(work_dir / "projector.safetensors"))


def fit_projector(work_dir: Path, *, minutes: float, num_threads: int = 2) -> None:
    """Train for `minutes`, print the scores of greedy decoding, and save."""
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    rows = [row for row in load_rows(work_dir, "train") if (work_dir / row["features"]).exists()]
    random.Random(0).shuffle(rows)
    features = load_features(work_dir, rows)
    targets = [tokenizer(row["text"], add_special_tokens=False)["input_ids"] for row in rows]
    model = CtcProjector(len(tokenizer), tokenizer.convert_tokens_to_ids(AUDIO_TOKEN))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.01)
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        cosine = (1 + math.cos(math.pi * progress)) / 2
        decay = FLOOR_FRACTION + (1 - FLOOR_FRACTION) * cosine
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * decay
        drawn = random.sample(range(len(rows)), 4 * BATCH_SIZE)
        drawn.sort(key=lambda index: len(features[index]))
        first = random.randrange(4) * BATCH_SIZE
        batch = drawn[first : first + BATCH_SIZE]
        loss = compute_ctc_loss(
            model,
            [torch.from_numpy(features[i].astype(np.float32)) for i in batch],
            [targets[i] for i in batch],
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % LOG_STEPS == 0:
            print(f"ctc: step {step}  {progress:.0%}  loss {float(loss.detach()):.3f}", flush=True)
    _match_scale(model)
    for split in ("test", "unheard"):
        print_scores(model, tokenizer, work_dir, split)
    save_outputs(model, work_dir, rows)
    model.save(work_dir)


def compute_ctc_loss(
    model: CtcProjector, hidden: list[torch.Tensor], targets: list[list[int]]
) -> torch.Tensor:
    """Compute the CTC loss a token; half of the rows have a span of frames masked (SpecAugment).

    Args:
        model: scores the tokens.
        hidden: the encoder's output for each row, (frames, hidden_size).
        targets: token ids of each row.
    """
    masked = []
    for values in hidden:
        first, length = random.randrange(len(values)), random.randrange(MAX_MASKED_FRAMES)
        mask = torch.ones(len(values), 1)
        if random.random() < MASK_PROBABILITY:
            mask[first : first + length] = 0
        masked.append(values * mask)
    outputs = model.project(masked)
    log_probs = model.score(nn.utils.rnn.pad_sequence(outputs))
    loss: torch.Tensor = nn.functional.ctc_loss(
        log_probs,
        torch.tensor([token for target in targets for token in target], dtype=torch.long),
        torch.tensor([len(output) for output in outputs]),
        torch.tensor([len(target) for target in targets]),
        blank=model.blank_id,
        zero_infinity=True,
    )
    return loss


@torch.no_grad()
def _match_scale(model: CtcProjector) -> None:
    """Scale the projector's norm, so that its outputs have the RMS of the embeddings."""
    norm = model.projector.norm
    scale = model.embeddings.square().mean().sqrt() / norm.weight.square().mean().sqrt()
    norm.weight.mul_(scale)
    model.temperature = float(1 / scale)


@torch.no_grad()
def _project_one(model: CtcProjector, features: np.ndarray) -> torch.Tensor:
    return model.project([torch.from_numpy(features.astype(np.float32))])[0]


def merge_repeats(tokens: list[int], blank_id: int) -> list[int]:
    """Decode the best token of each position greedily: merge repetitions, drop blanks."""
    pairs = zip(tokens, [blank_id, *tokens], strict=False)
    return [token for token, before in pairs if token not in (before, blank_id)]


@torch.no_grad()
def print_scores(
    model: CtcProjector, tokenizer: PreTrainedTokenizerBase, work_dir: Path, split: str
) -> None:
    """Print CER and WER of greedy decoding by engine, with an example."""
    rows = load_rows(work_dir, split)
    texts = []
    for values in load_features(work_dir, rows):
        best = model.score(_project_one(model, values)).argmax(-1).tolist()
        texts.append(tokenizer.decode(merge_repeats(best, model.blank_id)))
    for engine in sorted({row["engine"] for row in rows}):
        pairs = [(r["text"], t) for r, t in zip(rows, texts, strict=True) if r["engine"] == engine]
        references, hypotheses = map(list, zip(*pairs, strict=True))
        rates = {
            "CER": compute_character_errors(references, hypotheses).rate,
            "WER": compute_word_errors(references, hypotheses).rate,
        }
        print(f"ctc: {split} {engine}: {json.dumps(rates)} {pairs[0]}", flush=True)


@torch.no_grad()
def save_outputs(model: CtcProjector, work_dir: Path, rows: list[ManifestRow]) -> None:
    """Save the outputs of the first rows, one after the other, with their best tokens."""
    rows = rows[:NUM_SAVED_ROWS]
    outputs = [_project_one(model, values) for values in load_features(work_dir, rows)]
    tokens = [model.score(output).argmax(-1).numpy() for output in outputs]
    np.savez(
        work_dir / "ctc_tokens.npz",
        names=np.array([row["features"] for row in rows]),
        lengths=np.array([len(output) for output in outputs]),
        outputs=torch.cat(outputs).half().numpy(),
        tokens=np.concatenate(tokens).astype(np.int16),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    fit_projector(args.work, minutes=args.minutes)
