"""Examples, batches and adapters that the tests of models share."""

from pathlib import Path

import torch

from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.audio_lm import AudioLanguageModel
from dlm.plan.types import AdapterKind, AdapterSpec
from tests.tiny_models import SAMPLE_RATE, make_example, write_tone

NUM_SAMPLES = [1, 2400, 9601, 16_000, 40_000]  # from one sample to beyond the window


def write_examples(folder: Path) -> list[Example]:
    """Write an example of each length, one with two audio segments and one with none."""
    examples = [
        make_example(
            write_tone(folder / f"{n}.wav", hertz=150 + n % 700, seconds=n / SAMPLE_RATE),
            f"clip {n}",
        )
        for n in NUM_SAMPLES
    ]
    content = (*examples[1].audio_segments, "and", *examples[3].audio_segments)
    pair = Example((Message("user", content), Message("assistant", ("yes",))), "two", "answer")
    prose = Example((Message("assistant", ("prose",)),), "prose", "text")
    return [*examples, pair, prose]


def make_batch(
    model: AudioLanguageModel, examples: list[Example], *, pad_left: bool = False
) -> Batch:
    """Make the batch of these examples, in this order."""
    encoder = build_chat_encoder(model.tokenizer, model.spec)
    extractor = AudioFeatureExtractor(model.spec, auto_resample=False)
    encoded = [encoder.encode_example(example) for example in examples]
    padding = PaddingSpec(encoder.pad_token_id, encoder.audio_token_id, pad_left=pad_left)
    return collate(encoded, extractor, padding)


@torch.no_grad()
def compute_all_logits(model: AudioLanguageModel, batch: Batch) -> torch.Tensor:
    """Compute the logits of every position: (batch, tokens, vocab_size)."""
    return model.compute_logits(
        model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    )


def make_adapter_spec(
    kind: AdapterKind,
    *components: str,
    targets: tuple[str, ...] | None = None,
    dropout: float = 0.0,
) -> AdapterSpec:
    """Make an adapter of rank 4."""
    return AdapterSpec(kind, 4, 8, dropout, components or ("lm",), targets)
