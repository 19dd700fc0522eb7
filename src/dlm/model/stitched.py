"""A stitched base: encoders, a projector and a language model, joined by us.

folder/
  dlm_base.json       its row of the catalogue
  config.json         {encoders: [{config: {...}, layer: last}], projector: {...}, lm: {...}}
  model.safetensors   encoder.* (encoder.0.*, encoder.1.* where there are two), projector.*, lm.*
  tokenizer.json ...  the language model's own
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from dlm.batches.chat import placeholder_of, tokenizer_in
from dlm.errors import BaseError
from dlm.model.encoder import build, hear, shape_of
from dlm.model.face import Features, Model, ends_of
from dlm.model.projector import projector_of
from dlm.plan.bases import Base, Role, read_facts, write_facts

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class Stitched(Model):
    """Encoders, projector and LM behind the four questions."""

    def __init__(
        self, base: Base, config: dict[str, Any], tokenizer: Any, lm: PreTrainedModel | None = None
    ) -> None:
        """Build the parts with random weights, in fp32, but for an `lm` that has its own."""
        super().__init__()
        self.base, self.config, self.tokenizer = base, config, tokenizer
        self.placeholder = placeholder_of(tokenizer, base)
        ears = [build(part["config"]) for part in config["encoders"]]
        self.encoder: Any = ears[0] if len(ears) == 1 else nn.ModuleList(ears)
        self.lm = lm or AutoModelForCausalLM.from_config(AutoConfig.for_model(**config["lm"]))
        heard = zip(ears, config["encoders"], strict=True)
        self.projector = projector_of(
            config["projector"],
            heard=tuple(shape_of(ear, part["layer"]) for ear, part in heard),
            strides=base.strides,
            out=self.words.get_parameter("weight").shape[1],
        )

    @property
    def ears(self) -> list[PreTrainedModel]:
        """The encoders, of which the first sets the rate."""
        several = isinstance(self.encoder, nn.ModuleList)
        found: list[PreTrainedModel] = list(self.encoder) if several else [self.encoder]
        return found

    @property
    def parts(self) -> dict[Role, tuple[str, ...]]:
        """How the names of the parameters of each part begin."""
        return {"encoder": ("encoder.",), "projector": ("projector.",), "lm": ("lm.",)}

    def hear(self, sounds: torch.Tensor, frames: torch.Tensor) -> Features:
        """What each encoder hears at true length, side by side."""
        pairs = zip(self.ears, self.config["encoders"], strict=True)
        first, *others = [
            hear(ear, sounds, frames, layer=part["layer"], takes=self.base.ear)
            for ear, part in pairs
        ]
        return _beside(first, others) if others else first

    def project(self, features: Features) -> torch.Tensor:
        """Audio embeddings of all windows, one after the other."""
        weights = next(self.projector.parameters())
        values = features.values.to(weights.device, weights.dtype)
        projected: torch.Tensor = self.projector(Features(values, features.frames))
        return projected

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings; the placeholder needs no row of the table, for sound takes its place."""
        return super().embed(ids.masked_fill(ids == self.placeholder, 0))

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens at which the language model stops, besides the end of a turn."""
        return ends_of(self.lm)

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        inner: nn.Module = self.lm.base_model
        return inner

    @property
    def head(self) -> nn.Module:
        """The language model's head."""
        head: nn.Module = self.lm.get_output_embeddings()
        return head

    @property
    def words(self) -> nn.Module:
        """The table of text embeddings."""
        table: nn.Module = self.lm.get_input_embeddings()
        return table


def _beside(first: Features, others: list[Features]) -> Features:
    """Channels side by side, at the frames of the first: each of its frames takes the nearest."""
    steps, lengths = first.values.shape[1], first.frames
    joined = [first.values]
    for other in others:
        values = other.values.to(first.values)
        longest = values.shape[1] - 1
        at = torch.arange(steps, device=values.device) * other.frames[:, None] // lengths[:, None]
        nearest = at.clamp(max=longest)[..., None].expand(-1, -1, values.shape[2])
        joined.append(values.gather(1, nearest))
    return Features(torch.cat(joined, dim=2), lengths)


def load_stitched(folder: Path, base: Base | None = None) -> Stitched:
    """Load a folder. Raises BaseError naming what is missing, extra or damaged."""
    base = base or read_facts(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        model = Stitched(base, config, tokenizer_in(folder, base))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as reason:
        told = " ".join(f"{type(reason).__name__}: {reason}".split())
        mend = "copy or make the folder again"
        raise BaseError(f"cannot be read ({told})", where=str(folder), mend=mend) from reason
    place_tensors(model, tensors, str(folder / WEIGHTS))
    return model.eval()


def read_stitched(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder, by their names in the model. Raises BaseError."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as reason:
        told = " ".join(str(reason).split())
        mend = "copy or make the folder again"
        where = str(folder / WEIGHTS)
        raise BaseError(f"cannot be read ({told})", where=where, mend=mend) from reason


def place_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Fill every weight of `model`; missing, extra, misshapen or non-finite ones are refused."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    own = dict([*model.named_parameters(), *model.named_buffers()])  # tied ones under one name
    missing = sorted((shapes.keys() & own.keys()) - tensors.keys())
    extra = sorted(tensors.keys() - shapes.keys())
    odd = sorted(
        name for name in shapes.keys() & tensors.keys() if tensors[name].shape != shapes[name]
    )
    broken = sorted(name for name, value in tensors.items() if not value.isfinite().all())
    faults = {"missing": missing, "unknown": extra, "of another shape": odd, "not finite": broken}
    for fault, names in faults.items():
        if names:
            what = f"{len(names)} tensors are {fault}, first {names[0]}"
            if names is odd:
                first = names[0]
                what += f", {list(tensors[first].shape)} where {list(shapes[first])} is needed"
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
