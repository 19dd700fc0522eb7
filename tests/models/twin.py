"""What the tests of models share: a tiny base, clips, and the batch they make."""

from pathlib import Path

import torch

from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.audio_lm import AudioLanguageModel
from dlm.plan.types import AdapterKind, AdapterSpec
from tests.tiny import RATE, spoken, tone

SAMPLES = [1, 2400, 9601, 16_000, 40_000]  # one sample to beyond the window


def clips_in(folder: Path) -> list[Example]:
    """A clip of each length, one with two sounds and one with none."""
    made = [
        spoken(tone(folder / f"{n}.wav", hertz=150 + n % 700, seconds=n / RATE), f"clip {n}")
        for n in SAMPLES
    ]
    pair = (*made[1].audio_segments, "and", *made[3].audio_segments)
    both = Example((Message("user", pair), Message("assistant", ("yes",))), "two", "answer")
    prose = Example((Message("assistant", ("prose",)),), "prose", "text")
    return [*made, both, prose]


def batch_of(model: AudioLanguageModel, clips: list[Example], *, left: bool = False) -> Batch:
    """The batch of these clips, in this order."""
    chat = build_chat_encoder(model.tokenizer, model.spec)
    ear = AudioFeatureExtractor(model.spec, auto_resample=False)
    rows = [chat.encode_example(clip) for clip in clips]
    return collate(rows, ear, PaddingSpec(chat.pad_token_id, chat.audio_token_id, pad_left=left))


@torch.no_grad()
def logits_of(model: AudioLanguageModel, batch: Batch) -> torch.Tensor:
    """Logits at every position: (rows, tokens, words)."""
    return model.compute_logits(
        model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    )


def adapter(
    kind: AdapterKind, *where: str, targets: tuple[str, ...] | None = None, dropout: float = 0.0
) -> AdapterSpec:
    """An adapter of rank 4."""
    return AdapterSpec(kind, 4, 8, dropout, where or ("lm",), targets)
