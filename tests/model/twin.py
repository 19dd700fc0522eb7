"""What the tests of models share: a tiny base, clips, and the batch they make."""

from pathlib import Path

import torch

from dlm.batches.collate import Batch, Padding, collate
from dlm.batches.forms import chat_of
from dlm.clips.clip import Clip, Turn
from dlm.features.ear import Ear
from dlm.model.face import Model
from dlm.plan.plan import Adapter, AdapterKind
from tests.tiny import RATE, spoken, tone

SAMPLES = [1, 2400, 9601, 16_000, 40_000]  # one sample to beyond the window


def clips_in(folder: Path) -> list[Clip]:
    """A clip of each length, one with two sounds and one with none."""
    made = [
        spoken(tone(folder / f"{n}.wav", hertz=150 + n % 700, seconds=n / RATE), f"clip {n}")
        for n in SAMPLES
    ]
    pair = (*made[1].sounds, "and", *made[3].sounds)
    both = Clip((Turn("user", pair), Turn("assistant", ("yes",))), "two", "answer")
    prose = Clip((Turn("assistant", ("prose",)),), "prose", "text")
    return [*made, both, prose]


def batch_of(model: Model, clips: list[Clip], *, left: bool = False) -> Batch:
    """The batch of these clips, in this order."""
    chat = chat_of(model.tokenizer, model.base)
    ear = Ear(model.base, auto_resample=False)
    rows = [chat.row(clip) for clip in clips]
    return collate(rows, ear, Padding(chat.pad, chat.placeholder, left=left))


@torch.no_grad()
def logits_of(model: Model, batch: Batch) -> torch.Tensor:
    """Logits at every position: (rows, tokens, words)."""
    return model.speak(model.think(model.merge(batch), batch.attention))


def adapter(
    kind: AdapterKind, *where: str, targets: tuple[str, ...] | None = None, dropout: float = 0.0
) -> Adapter:
    """An adapter of rank 4."""
    return Adapter(kind, 4, 8, dropout, where or ("lm",), targets)
