"""What a snapshot's README comes to, and what dlm says of the same question."""

import re
from pathlib import Path

import torch

from dlm.batching.collator import PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.exporters.model_card import EXAMPLE_AUDIO_FILE, get_example_question
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import build_prompt_messages
from dlm.models.load import load_version
from dlm.plan.model_spec import ModelSpec

Said = tuple[list[int], torch.Tensor]  # token ids, and logits (tokens, words)


@torch.no_grad()
def dlm_says(base: ModelSpec, version: Path | None, system: str | None = None) -> Said:
    """The README's question about the README's clip, in the working directory, asked of dlm."""
    model = load_version(base, version, device="cpu")
    chat = build_chat_encoder(model.tokenizer, base)
    row = chat.encode_prompt(
        build_prompt_messages(get_example_question(base), [Path(EXAMPLE_AUDIO_FILE)], base, system),
        "the question",
    )
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    batch = collate([row], AudioFeatureExtractor(base, auto_resample=False), padding)
    hidden = model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    return batch.input_ids[0].tolist(), model.compute_logits(hidden[0])


@torch.no_grad()
def readme_says() -> Said:
    """The lines of the README in the working directory, run as they stand."""
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), re.M | re.S):
        exec(block, names)
    inputs = names["inputs"]
    return inputs["input_ids"][0].tolist(), names["model"](**inputs).logits[0]
