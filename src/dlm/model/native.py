"""Native bases: released models that hear, run part by part behind the four questions."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    Qwen2AudioForConditionalGeneration,
    VoxtralForConditionalGeneration,
)
from transformers.utils import logging

from dlm.batches.chat import placeholder_of
from dlm.errors import BaseError
from dlm.model.encoder import hear_qwen2_audio
from dlm.model.face import Features, Model
from dlm.plan.bases import Base, Role


class Native(Model):
    """One of transformers' own classes: `whole`, and where its parts are in it."""

    architecture: ClassVar[type[PreTrainedModel]]
    places: ClassVar[dict[str, str]] = {
        "encoder": "model.audio_tower",
        "projector": "model.multi_modal_projector",
        "decoder": "model.language_model",
        "head": "lm_head",
    }

    def __init__(self, base: Base, whole: PreTrainedModel, folder: Path) -> None:
        super().__init__()
        self.base, self.whole = base, whole
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.placeholder = placeholder_of(self.tokenizer, base)

    @property
    def parts(self) -> dict[Role, tuple[str, ...]]:  # type: ignore[override]
        """How the names of the parameters of each part begin."""
        at = {part: f"whole.{place}." for part, place in self.places.items()}
        return {
            "encoder": (at["encoder"],),
            "projector": (at["projector"],),
            "lm": (at["decoder"], at["head"]),
        }

    def part(self, name: str) -> nn.Module:
        """A part of the whole."""
        return self.whole.get_submodule(self.places[name])

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.part("decoder")

    @property
    def head(self) -> nn.Module:
        """The language model's head."""
        return self.part("head")

    @property
    def words(self) -> nn.Module:
        """The table of text embeddings."""
        table: nn.Module = self.whole.get_input_embeddings()
        return table

    def project(self, features: Features) -> torch.Tensor:
        """Audio embeddings of all windows, one after the other."""
        projector = self.part("projector")
        weights = next(projector.parameters())
        values = features.values.to(weights.device, weights.dtype)
        steps = torch.arange(values.shape[1], device=values.device)
        kept = steps < features.frames.to(values.device)[:, None]
        projected: torch.Tensor = projector(values[kept])
        return projected


class Qwen2Audio(Native):
    """Qwen2-Audio (Chu et al. 2024): a Whisper-like encoder, a linear map, a Qwen LM."""

    architecture = Qwen2AudioForConditionalGeneration

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder at true length, pooled to 25 frames per second."""
        values = hear_qwen2_audio(self.part("encoder"), mel, frames)  # type: ignore[arg-type]
        return Features(values, (frames + 1) // 2 // self.base.strides.projector)


class Voxtral(Native):
    """Voxtral (Mistral 2025): Whisper's encoder on full windows, four frames a token, a Llama."""

    architecture = VoxtralForConditionalGeneration

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder on windows that silence has completed, four frames side by side."""
        values = self.part("encoder")(mel.to(self.device)).last_hidden_state
        stride = self.base.strides.projector
        joined = values.unflatten(1, (-1, stride)).flatten(2)  # (windows, tokens, 4 * width)
        return Features(joined, frames.new_full(frames.shape, joined.shape[1]))


FAMILIES: dict[str, type[Native]] = {"qwen2_audio": Qwen2Audio, "voxtral": Voxtral}


def load_native(folder: Path, base: Base, *, dtype: torch.dtype) -> Model:
    """Load a released model from its folder. Raises BaseError naming missing or extra tensors."""
    kind = FAMILIES[base.family]
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded: Any = kind.architecture.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as reason:
        first = str(reason).splitlines()[0]
        mend = "fetch the model again; only safetensors are read"
        raise BaseError(f"cannot be loaded ({first})", where=str(folder), mend=mend) from reason
    finally:
        if bar:
            logging.enable_progress_bar()
    whole, report = loaded
    odd = {key: sorted(map(str, names)) for key, names in report.items() if names}
    if odd:
        told = "; ".join(f"{len(names)} {key}, first {names[0]}" for key, names in odd.items())
        raise BaseError(f"tensors do not fit: {told}", where=str(folder), mend="fetch it again")
    return kind(base, whole, folder).eval()
