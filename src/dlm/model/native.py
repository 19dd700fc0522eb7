"""Native bases: released models that hear, run part by part behind the four questions."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, Qwen2AudioForConditionalGeneration
from transformers.utils import logging

from dlm.batches.chat import placeholder_of
from dlm.errors import BaseError
from dlm.model.encoder import hear_qwen2_audio
from dlm.model.face import Features, Model
from dlm.plan.bases import Base, Role


class Qwen2Audio(Model):
    """Qwen2-Audio (Chu et al. 2024): a Whisper-like encoder, a linear map, a Qwen LM."""

    parts: dict[Role, tuple[str, ...]] = {
        "encoder": ("whole.model.audio_tower.",),
        "projector": ("whole.model.multi_modal_projector.",),
        "lm": ("whole.model.language_model.", "whole.lm_head."),
    }

    def __init__(self, base: Base, whole: Qwen2AudioForConditionalGeneration, folder: Path) -> None:
        super().__init__()
        self.base, self.whole = base, whole
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.placeholder = placeholder_of(self.tokenizer, base)

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder at true length, pooled to 25 frames per second."""
        values = hear_qwen2_audio(self.whole.model.audio_tower, mel, frames)
        return Features(values, (frames + 1) // 2 // self.base.strides.projector)

    def project(self, features: Features) -> torch.Tensor:
        """Audio embeddings of all sounds, one after the other."""
        linear = self.whole.model.multi_modal_projector.linear
        values = features.values.to(linear.weight.device, linear.weight.dtype)
        steps = torch.arange(values.shape[1], device=values.device)
        kept = steps < features.frames.to(values.device)[:, None]
        projected: torch.Tensor = linear(values[kept])
        return projected

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        inner: nn.Module = self.whole.model.language_model
        return inner

    @property
    def head(self) -> nn.Module:
        """The language model's head."""
        head: nn.Module = self.whole.lm_head
        return head

    @property
    def words(self) -> nn.Module:
        """The table of text embeddings."""
        table: nn.Module = self.whole.get_input_embeddings()
        return table


def load_native(folder: Path, base: Base, *, dtype: torch.dtype) -> Model:
    """Load a released model from its folder. Raises BaseError naming missing or extra tensors."""
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded: Any = Qwen2AudioForConditionalGeneration.from_pretrained(
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
    return Qwen2Audio(base, whole, folder).eval()
