"""Native bases: released models that hear, run part by part behind the four questions."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    GlmAsrForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioForConditionalGeneration,
    Qwen3ASRForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    VoxtralForConditionalGeneration,
)

from dlm.batches.chat import placeholder_of, tokenizer_in
from dlm.model.encoder import hear_qwen2_audio
from dlm.model.face import Features, Model, ends_of
from dlm.plan.bases import Base, Role
from dlm.plan.frames import tokens_of_mel


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
        self.tokenizer = tokenizer_in(folder, base)
        self.placeholder = placeholder_of(self.tokenizer, base)

    @property
    def parts(self) -> dict[Role, tuple[str, ...]]:
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

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens at which the released model stops, besides the end of a turn."""
        return ends_of(self.whole)

    @property
    def projection(self) -> nn.Module:
        """What turns features into audio embeddings."""
        return self.part("projector")

    def project(self, features: Features) -> torch.Tensor:
        """Audio embeddings of all windows, one after the other."""
        projection = self.projection
        weights = next(projection.parameters())
        values = features.values.to(weights.device, weights.dtype)
        steps = torch.arange(values.shape[1], device=values.device)
        kept = steps < features.frames.to(values.device)[:, None]
        projected: torch.Tensor = projection(values[kept])
        return projected

    def heard(self, frames: torch.Tensor) -> torch.Tensor:
        """Features that windows of `frames` mel frames become."""
        strides = self.base.strides
        return frames.new_tensor([tokens_of_mel(each, strides) for each in frames.tolist()])

    def ready(self, mel: torch.Tensor) -> torch.Tensor:
        """The mel where the encoder is, in its format."""
        weights = next(self.part("encoder").parameters())
        return mel.to(weights.device, weights.dtype)


class Qwen2Audio(Native):
    """Qwen2-Audio (Chu et al. 2024): a Whisper-like encoder, a linear map, a Qwen LM."""

    architecture: ClassVar[type[PreTrainedModel]] = Qwen2AudioForConditionalGeneration

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder at true length, pooled to 25 frames per second."""
        tower: Any = self.part("encoder")
        return Features(hear_qwen2_audio(tower, mel, frames), self.heard(frames))


class AudioFlamingo3(Qwen2Audio):
    """Audio Flamingo 3 (Goel et al. 2025): Qwen2-Audio's encoder, a two-layer map, a Qwen LM."""

    architecture = AudioFlamingo3ForConditionalGeneration


class Voxtral(Native):
    """Voxtral (Mistral 2025): Whisper's encoder on full windows, four frames a token, a Llama."""

    architecture: ClassVar[type[PreTrainedModel]] = VoxtralForConditionalGeneration

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder on windows that silence has completed, four frames side by side."""
        values = self.part("encoder")(self.ready(mel)).last_hidden_state
        stride = self.base.strides.projector
        joined = values.unflatten(1, (-1, stride)).flatten(2)  # (windows, tokens, 4 * width)
        return Features(joined, self.heard(frames))


class GlmAsr(Voxtral):
    """GLM-ASR (Z.ai 2025): as Voxtral, with rotary positions; the silence is heard, not told."""

    architecture = GlmAsrForConditionalGeneration


class Qwen3Asr(Native):
    """Qwen3-ASR (Qwen 2026): convolutions second by second, attention over eight seconds."""

    architecture: ClassVar[type[PreTrainedModel]] = Qwen3ASRForConditionalGeneration

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder, with each window completed to a whole second."""
        mel = nn.functional.pad(self.ready(mel), (0, -mel.shape[-1] % self.base.strides.chunk))
        steps = torch.arange(mel.shape[-1], device=mel.device)
        mask = steps < frames.to(mel.device)[:, None]
        flat = self.part("encoder")(mel, input_features_mask=mask.long()).last_hidden_state
        return self.cut(flat, frames)

    def cut(self, flat: torch.Tensor, frames: torch.Tensor) -> Features:
        """Features of windows that lie one after the other, (all frames, width)."""
        heard = self.heard(frames)
        windows = flat[: int(heard.sum())].split(heard.tolist())
        return Features(nn.utils.rnn.pad_sequence(windows, batch_first=True), heard)


class Thinker(Qwen3Asr):
    """The half of an Omni model that thinks; the layers that project end its encoder."""

    projections: ClassVar[tuple[str, ...]]

    @property
    def parts(self) -> dict[Role, tuple[str, ...]]:
        """How the names of the parameters of each part begin."""
        tower = f"whole.{self.places['encoder']}."
        ear = [name for name, _ in self.part("encoder").named_children()]
        return {
            **super().parts,
            "encoder": tuple(f"{tower}{name}" for name in ear if name not in self.projections),
            "projector": tuple(f"{tower}{name}" for name in self.projections),
        }

    @property
    def projection(self) -> nn.Module:
        """The last layers of the encoder."""
        tower = self.part("encoder")
        return nn.Sequential(*(tower.get_submodule(name) for name in self.projections))

    def hear(self, mel: torch.Tensor, frames: torch.Tensor) -> Features:
        """The encoder up to where it projects."""
        tower, caught = self.part("encoder"), list[torch.Tensor]()
        mel = self.ready(mel)
        windows = [window[:, :count] for window, count in zip(mel, frames.tolist(), strict=True)]
        if self.base.strides.chunk:  # its convolutions look as far as the longest chunk of a batch
            windows.append(mel.new_zeros(mel.shape[1], self.base.strides.chunk))
        lengths = frames.new_tensor([window.shape[1] for window in windows])
        hook = tower.get_submodule("ln_post").register_forward_hook(
            lambda module, given, normed: caught.append(normed)
        )
        try:
            tower(torch.cat(windows, dim=1), feature_lens=lengths.to(mel.device))
        finally:
            hook.remove()
        return self.cut(caught[0], frames)


class Qwen25Omni(Thinker):
    """The thinker of Qwen2.5-Omni (Xu et al. 2025): attention over two seconds of sound."""

    architecture = Qwen2_5OmniThinkerForConditionalGeneration
    places: ClassVar[dict[str, str]] = {**Native.places, "projector": "model.audio_tower.proj"}
    projections = ("proj",)


class Qwen3Omni(Thinker):
    """The thinker of Qwen3-Omni (Xu et al. 2025): Qwen3-ASR's encoder, a mixture of experts."""

    architecture = Qwen3OmniMoeThinkerForConditionalGeneration
    places: ClassVar[dict[str, str]] = {**Native.places, "projector": "model.audio_tower.proj2"}
    projections = ("proj1", "act", "proj2")


FAMILIES: dict[str, type[Native]] = {
    "qwen2_audio": Qwen2Audio,
    "audioflamingo3": AudioFlamingo3,
    "voxtral": Voxtral,
    "glmasr": GlmAsr,
    "qwen3_asr": Qwen3Asr,
    "qwen2_5_omni": Qwen25Omni,
    "qwen3_omni_moe": Qwen3Omni,
}
