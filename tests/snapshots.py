"""What a snapshot's README comes to, and what dlm says of the same question."""

import re
from pathlib import Path

import torch

from dlm.batches.collate import Padding, collate
from dlm.batches.forms import chat_of
from dlm.features.ear import Ear
from dlm.model.load import load_version
from dlm.plan.bases import Base
from dlm.use.prompt import turns_of
from dlm.use.readme import CLIP, question

Said = tuple[list[int], torch.Tensor]  # token ids, and logits (tokens, words)


@torch.no_grad()
def dlm_says(base: Base, version: Path | None, system: str | None = None) -> Said:
    """The README's question about the README's clip, in the working directory, asked of dlm."""
    model = load_version(base, version, device="cpu")
    chat = chat_of(model.tokenizer, base)
    row = chat.question(turns_of(question(base), [Path(CLIP)], base, system), "the question")
    padding = Padding(chat.pad, chat.placeholder)
    batch = collate([row], Ear(base, auto_resample=False), padding)
    hidden = model.think(model.merge(batch), batch.attention)
    return batch.ids[0].tolist(), model.speak(hidden[0])


@torch.no_grad()
def readme_says() -> Said:
    """The lines of the README in the working directory, run as they stand."""
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), re.M | re.S):
        exec(block, names)
    inputs = names["inputs"]
    return inputs["input_ids"][0].tolist(), names["model"](**inputs).logits[0]
