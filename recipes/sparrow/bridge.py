"""The projector's first lesson: to say in the language model's letters what the encoder spells.

    python recipes/sparrow/bridge.py --work DIR

leaves `DIR/projector.safetensors`, the weights of `dlm.models.projectors.Concat`. The encoder's
four frames of 80 ms become the embedding that the language model learned to read at that place, so
that the joined model transcribes before the three have learned together.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm.models.audio_lm import EncoderOutput
from dlm.models.projectors import Projector, build_projector
from dlm.plan.model_ref import find_catalog_spec
from letters import KEPT, STRIDE, WIDTH
from lm import LATER_LETTERS
from tokenizer import AUDIO

SHAPE = {"kind": "concat", "hidden": 192, "activation": "gelu", "norm": True}
STEPS, ROWS, PEAK_RATE = 2_000, 1_024, 2e-3


def build_bridge(work: Path, *, threads: int = 2) -> None:
    """Fit the projector and save it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    heard = torch.from_numpy(np.load(work / "features.npy"))  # (positions, STRIDE * WIDTH)
    wanted = _letters(work)  # (positions, width of the language model)
    strides = find_catalog_spec("sparrow").audio_spec
    projector = build_projector(
        SHAPE, encoder_dims=((1, WIDTH),), audio_spec=strides, out_features=wanted.shape[1]
    )
    optimizer = torch.optim.AdamW(projector.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, STEPS)
    for step in range(STEPS):
        rows = torch.randint(len(heard), (ROWS,))
        loss = nn.functional.mse_loss(_say(projector, heard[rows].float()), wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % 250 == 0:
            print(f"step {step}  loss {float(loss.detach()):.3f}", flush=True)
    save_file(projector.state_dict(), work / "projector.safetensors")


def _say(projector: Projector, stacked: torch.Tensor) -> torch.Tensor:
    frames = torch.full((len(stacked),), STRIDE)
    return projector(EncoderOutput(stacked.view(-1, STRIDE, WIDTH), frames))


@torch.no_grad()
def _letters(work: Path) -> torch.Tensor:
    """What the language model reads at every position of the clips whose features are kept."""
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    lm = AutoModelForCausalLM.from_pretrained(work / "lm", dtype=torch.float32)
    words = lm.get_input_embeddings().weight
    blank = tokenizer.convert_tokens_to_ids(AUDIO)
    lines = (work / "letters.jsonl").read_text(encoding="utf-8").splitlines()[:KEPT]
    made = []
    for letters in (each for line in lines for each in json.loads(line)["heard"]):
        tokens = tokenizer.convert_tokens_to_ids(list(letters.replace(" ", "Ġ"))) or [blank]
        fade = LATER_LETTERS ** torch.arange(len(tokens))
        made.append((words[tokens] * fade[:, None]).sum(0))
    return nn.functional.rms_norm(torch.stack(made), (words.shape[1],), eps=1e-6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    build_bridge(parser.parse_args().work)
