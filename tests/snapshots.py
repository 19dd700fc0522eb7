"""Token ids and logits of a snapshot's README, run as it is, and of dlm for the same question."""

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

IdsAndLogits = tuple[list[int], torch.Tensor]  # token ids; logits (tokens, vocabulary)


@torch.no_grad()
def run_with_dlm(
    spec: ModelSpec, version_dir: Path | None, system_prompt: str | None = None
) -> IdsAndLogits:
    """Ask dlm the README's question about the README's clip, in the working directory."""
    model = load_version(spec, version_dir, device="cpu")
    chat_encoder = build_chat_encoder(model.tokenizer, spec)
    messages = build_prompt_messages(
        get_example_question(spec), [Path(EXAMPLE_AUDIO_FILE)], spec, system_prompt
    )
    language = spec.languages[0] if spec.languages else None
    prompt = chat_encoder.encode_prompt(messages, "the question", language)
    padding = PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id)
    batch = collate([prompt], AudioFeatureExtractor(spec, auto_resample=False), padding)
    hidden = model.forward_lm(*model.make_lm_inputs(batch))
    return batch.input_ids[0].tolist(), model.compute_logits(hidden[0])


@torch.no_grad()
def run_readme() -> IdsAndLogits:
    """Run the Python code of the README in the working directory."""
    variables: dict = {}
    readme = Path("README.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S):
        exec(code, variables)
    inputs = variables["inputs"]
    token_ids = inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"]
    return token_ids[0].tolist(), variables["model"](**inputs).logits[0]
