"""Fit sparrow's projector to the embeddings of the letters that the CTC encoder writes.

    python recipes/sparrow/fit_projector.py --work DIR

writes `DIR/projector.safetensors`, the weights of `dlm.models.projectors.ConcatProjector`. Four
encoder frames, 80 ms, are mapped to what the language model reads at that position, so that the
composed model transcribes before its components are trained as one.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from decode_ctc import HIDDEN_SIZE, NUM_FEATURE_CLIPS, STRIDE
from dlm.models.audio_lm import EncoderOutput
from dlm.models.projectors import build_projector
from dlm.plan.model_ref import find_catalog_spec
from pretrain_lm import combine_letters, encode_letters
from synthesize_speech import read_manifest

PROJECTOR_CONFIG = {"kind": "concat", "hidden": 192, "activation": "gelu", "norm": True}
NUM_STEPS, BATCH_SIZE, PEAK_RATE = 2_000, 1_024, 2e-3
LOG_STEPS = 250


def fit_projector(work_dir: Path, *, num_threads: int = 2) -> None:
    """Fit the projector with mean squared error, and save it."""
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    features = torch.from_numpy(np.load(work_dir / "encoder_output.npy"))
    targets = _compute_targets(work_dir)
    projector = build_projector(
        PROJECTOR_CONFIG,
        encoder_dims=((1, HIDDEN_SIZE),),
        audio_spec=find_catalog_spec("sparrow").audio_spec,
        out_features=targets.shape[1],
    )
    optimizer = torch.optim.AdamW(projector.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, NUM_STEPS)
    lengths = torch.full((BATCH_SIZE,), STRIDE)
    for step in range(NUM_STEPS):
        rows = torch.randint(len(features), (BATCH_SIZE,))
        frames = features[rows].float().view(-1, STRIDE, HIDDEN_SIZE)
        loss = nn.functional.mse_loss(projector(EncoderOutput(frames, lengths)), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % LOG_STEPS == 0:
            print(f"step {step}  loss {float(loss.detach()):.3f}", flush=True)
    save_file(projector.state_dict(), work_dir / "projector.safetensors")


@torch.no_grad()
def _compute_targets(work_dir: Path) -> torch.Tensor:
    """Return what the language model reads at every position: (positions, hidden_size)."""
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    lm = AutoModelForCausalLM.from_pretrained(work_dir / "lm", dtype=torch.float32)
    letter_ids = nn.utils.rnn.pad_sequence(
        [
            torch.tensor(encode_letters(letters, tokenizer))
            for row in read_manifest(work_dir / "ctc_letters.jsonl")[:NUM_FEATURE_CLIPS]
            for letters in row["letters"]
        ],
        batch_first=True,
        padding_value=-1,
    )
    embeddings = lm.get_input_embeddings()(letter_ids.clamp(min=0))
    return combine_letters(embeddings, letter_ids >= 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    fit_projector(parser.parse_args().work)
