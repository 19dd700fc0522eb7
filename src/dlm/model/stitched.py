"""A stitched base: an encoder, a projector and a language model, joined by us.

folder/
  dlm_base.json       its row of the catalogue
  config.json         {encoder: {...}, projector: {...}, lm: {...}}
  model.safetensors   encoder.*, projector.*, lm.*
  tokenizer.json ...  the language model's own
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from dlm.errors import BaseError
from dlm.model.encoder import hear_whisper
from dlm.model.face import Features, Model
from dlm.model.projector import PROJECTORS
from dlm.plan.bases import Base, Role, read_facts, write_facts
from dlm.plan.frames import ceil_div

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class Stitched(Model):
    """Encoder, projector and LM behind the four questions."""

    parts: dict[Role, str] = {"encoder": "encoder.", "projector": "projector.", "lm": "lm."}

    def __init__(self, base: Base, config: dict[str, Any], tokenizer: Any) -> None:
        """Build the parts with random weights, in fp32."""
        super().__init__()
        self.base, self.config, self.tokenizer = base, config, tokenizer
        self.placeholder = tokenizer.convert_tokens_to_ids(base.placeholder)
        self.encoder = WhisperEncoder(WhisperConfig(**config["encoder"]))
        self.lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config["lm"]))
        shape = dict(config["projector"])
        self.projector = PROJECTORS[shape.pop("kind")](
            **shape,
            width=self.encoder.config.d_model,
            stride=base.strides.projector,
            out=self.lm.config.hidden_size,
        )

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """Whisper at true length; sound over the window is heard window by window."""
        window = self.base.strides.window // self.base.strides.hop  # mel frames
        heard = -(-frames // self.base.strides.encoder)
        if mel.shape[-1] <= window:
            return Features(hear_whisper(self.encoder, mel, frames), heard)
        pieces = ceil_div(mel.shape[-1], window)
        padded = nn.functional.pad(mel, (0, pieces * window - mel.shape[-1]))
        windows = padded.unflatten(2, (pieces, window)).transpose(1, 2).flatten(0, 1)
        starts = torch.arange(pieces, device=frames.device) * window
        lengths = (frames[:, None] - starts).clamp(0, window).flatten()
        values = hear_whisper(self.encoder, windows, lengths.clamp(min=1))
        joined = values.unflatten(0, (len(mel), pieces)).flatten(1, 2)
        return Features(joined[:, : int(heard.max())], heard)

    def project(self, features: Features) -> torch.Tensor:
        """Audio embeddings of all sounds, one after the other."""
        weights = next(self.projector.parameters())
        values = features.values.to(weights.device, weights.dtype)
        projected: torch.Tensor = self.projector(Features(values, features.frames))
        return projected

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings of (rows, tokens)."""
        embedded: torch.Tensor = self.lm.get_input_embeddings()(ids)
        return embedded

    def think(self, embedded: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """Hidden states of merged embeddings."""
        hidden: torch.Tensor = self.lm.model(
            inputs_embeds=embedded, attention_mask=attention, use_cache=False
        ).last_hidden_state
        return hidden

    def speak(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of chosen hidden states."""
        logits: torch.Tensor = self.lm.lm_head(hidden)
        return logits

    def next_logits(
        self, embedded: torch.Tensor, attention: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Logits of the word after `embedded`."""
        positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, -embedded.shape[1] :]
        hidden = self.lm.model(
            inputs_embeds=embedded,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self.speak(hidden[:, -1])


def load_stitched(folder: Path, base: Base | None = None) -> Stitched:
    """Load a folder. Raises BaseError naming what is missing, extra or damaged."""
    base = base or read_facts(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as reason:
        mend = "copy or make the folder again"
        raise BaseError(f"cannot be read ({reason})", where=str(folder), mend=mend) from reason
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = Stitched(base, config, tokenizer)
    place_tensors(model, tensors, str(folder / WEIGHTS))
    return model.eval()


def place_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Fill every weight of `model`; missing, extra, misshapen or non-finite ones are refused."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    tied = {name for name in shapes if name.endswith("lm_head.weight")} - tensors.keys()
    missing = sorted(shapes.keys() - tensors.keys() - tied)
    extra = sorted(tensors.keys() - shapes.keys())
    odd = sorted(
        name for name in shapes.keys() & tensors.keys() if tensors[name].shape != shapes[name]
    )
    broken = sorted(name for name, value in tensors.items() if not value.isfinite().all())
    faults = {"missing": missing, "unknown": extra, "of another shape": odd, "not finite": broken}
    for fault, names in faults.items():
        if names:
            what = f"{len(names)} tensors are {fault}, first {names[0]}"
            raise BaseError(what, where=where, mend="these weights belong to another base")
    model.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)


def save_stitched(model: Stitched, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder that `load_stitched` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_facts(model.base, folder)
    (folder / CONFIG).write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
    weights = model.state_dict()
    if model.lm.config.tie_word_embeddings:
        weights.pop("lm.lm_head.weight", None)
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(folder)
