"""Native bases: released models that hear, run part by part behind the four questions.

Whether a checkpoint is what it should be: nothing missing, nothing random, every number finite.

    config.json    the class that the base's row names
    safetensors    whole files, each tensor in its place and finite

Nothing else is read: no pickle, and no code that lies beside the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    BitsAndBytesConfig,
    GlmAsrForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioForConditionalGeneration,
    Qwen3ASRForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    VoxtralForConditionalGeneration,
)
from transformers.utils import logging

from dlm.batching.chat_template import get_audio_token_id, load_pretrained_tokenizer
from dlm.errors import ModelError
from dlm.models.audio_lm import AudioLanguageModel, EncoderOutput, get_eos_token_ids
from dlm.models.encoders import run_qwen2_audio_encoder
from dlm.models.inspect_checkpoint import check_finite_weights
from dlm.plan.audio_lengths import mel_frames_to_audio_tokens
from dlm.plan.model_ref import get_model_family, read_hf_config
from dlm.plan.model_spec import ComponentName, ModelSpec
from dlm.plan.safetensors_index import make_damaged_checkpoint_error, read_tensor_index


class PretrainedAudioLM(AudioLanguageModel):
    """One of transformers' own classes: `whole`, and where its parts are in it."""

    architecture: ClassVar[type[PreTrainedModel]]
    module_paths: ClassVar[dict[str, str]] = {
        "encoder": "model.audio_tower",
        "projector": "model.multi_modal_projector",
        "decoder": "model.language_model",
        "head": "lm_head",
    }

    def __init__(self, spec: ModelSpec, hf_model: PreTrainedModel, checkpoint_dir: Path) -> None:
        super().__init__()
        self.spec, self.whole = spec, hf_model
        self.tokenizer = load_pretrained_tokenizer(checkpoint_dir, spec)
        self.audio_token_id = get_audio_token_id(self.tokenizer, spec)

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        """How the names of the parameters of each part begin."""
        at = {part: f"whole.{place}." for part, place in self.module_paths.items()}
        return {
            "encoder": (at["encoder"],),
            "projector": (at["projector"],),
            "lm": (at["decoder"], at["head"]),
        }

    def get_component(self, component: str) -> nn.Module:
        """A part of the whole."""
        return self.whole.get_submodule(self.module_paths[component])

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        return self.get_component("decoder")

    @property
    def lm_head(self) -> nn.Module:
        """The language model's head."""
        return self.get_component("head")

    @property
    def embed_tokens(self) -> nn.Module:
        """The table of text embeddings."""
        table: nn.Module = self.whole.get_input_embeddings()
        return table

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens at which the released model stops, besides the end of a turn."""
        return get_eos_token_ids(self.whole)

    @property
    def projector(self) -> nn.Module:
        """What turns features into audio embeddings."""
        return self.get_component("projector")

    def project_audio(self, encoder_output: EncoderOutput) -> torch.Tensor:
        """Audio embeddings of all windows, one after the other."""
        projection = self.projector
        weights = next(projection.parameters())
        values = encoder_output.hidden_states.to(weights.device, weights.dtype)
        steps = torch.arange(values.shape[1], device=values.device)
        kept = steps < encoder_output.lengths.to(values.device)[:, None]
        projected: torch.Tensor = projection(values[kept])
        return projected

    def compute_output_lengths(self, feature_lengths: torch.Tensor) -> torch.Tensor:
        """Features that windows of `frames` mel frames become."""
        strides = self.spec.audio_spec
        return feature_lengths.new_tensor(
            [mel_frames_to_audio_tokens(each, strides) for each in feature_lengths.tolist()]
        )

    def to_encoder_input(self, input_features: torch.Tensor) -> torch.Tensor:
        """The mel where the encoder is, in its format."""
        weights = next(self.get_component("encoder").parameters())
        return input_features.to(weights.device, weights.dtype)


class Qwen2Audio(PretrainedAudioLM):
    """Qwen2-Audio (Chu et al. 2024): a Whisper-like encoder, a linear map, a Qwen LM."""

    architecture: ClassVar[type[PreTrainedModel]] = Qwen2AudioForConditionalGeneration

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """The encoder at true length, pooled to 25 frames per second."""
        tower: Any = self.get_component("encoder")
        return EncoderOutput(
            run_qwen2_audio_encoder(tower, input_features, feature_lengths),
            self.compute_output_lengths(feature_lengths),
        )


class AudioFlamingo3(Qwen2Audio):
    """Audio Flamingo 3 (Goel et al. 2025): Qwen2-Audio's encoder, a two-layer map, a Qwen LM."""

    architecture = AudioFlamingo3ForConditionalGeneration


class Voxtral(PretrainedAudioLM):
    """Voxtral (Mistral 2025): Whisper's encoder on full windows, four frames a token, a Llama."""

    architecture: ClassVar[type[PreTrainedModel]] = VoxtralForConditionalGeneration

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """The encoder on windows that silence has completed, four frames side by side."""
        values = self.get_component("encoder")(
            self.to_encoder_input(input_features)
        ).last_hidden_state
        stride = self.spec.audio_spec.projector_stride
        joined = values.unflatten(1, (-1, stride)).flatten(2)  # (windows, tokens, 4 * width)
        return EncoderOutput(joined, self.compute_output_lengths(feature_lengths))


class GlmAsr(Voxtral):
    """GLM-ASR (Z.ai 2025): as Voxtral, with rotary positions; the silence is heard, not told."""

    architecture = GlmAsrForConditionalGeneration


class Qwen3Asr(PretrainedAudioLM):
    """Qwen3-ASR (Qwen 2026): convolutions second by second, attention over eight seconds."""

    architecture: ClassVar[type[PreTrainedModel]] = Qwen3ASRForConditionalGeneration

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """The encoder, with each window completed to a whole second."""
        input_features = nn.functional.pad(
            self.to_encoder_input(input_features),
            (0, -input_features.shape[-1] % self.spec.audio_spec.chunk_frames),
        )
        steps = torch.arange(input_features.shape[-1], device=input_features.device)
        mask = steps < feature_lengths.to(input_features.device)[:, None]
        flat = self.get_component("encoder")(
            input_features, input_features_mask=mask.long()
        ).last_hidden_state
        return self.unpack_windows(flat, feature_lengths)

    def unpack_windows(
        self, packed_states: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """Features of windows that lie one after the other, (all frames, width)."""
        heard = self.compute_output_lengths(feature_lengths)
        windows = packed_states[: int(heard.sum())].split(heard.tolist())
        return EncoderOutput(nn.utils.rnn.pad_sequence(windows, batch_first=True), heard)


class OmniThinkerLM(Qwen3Asr):
    """The half of an Omni model that thinks; the layers that project end its encoder."""

    projector_module_names: ClassVar[tuple[str, ...]]

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        """How the names of the parameters of each part begin."""
        tower = f"whole.{self.module_paths['encoder']}."
        ear = [name for name, _ in self.get_component("encoder").named_children()]
        return {
            **super().param_prefixes,
            "encoder": tuple(
                f"{tower}{name}" for name in ear if name not in self.projector_module_names
            ),
            "projector": tuple(f"{tower}{name}" for name in self.projector_module_names),
        }

    @property
    def projector(self) -> nn.Module:
        """The last layers of the encoder."""
        tower = self.get_component("encoder")
        return nn.Sequential(*(tower.get_submodule(name) for name in self.projector_module_names))

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """The encoder up to where it projects."""
        tower, caught = self.get_component("encoder"), list[torch.Tensor]()
        input_features = self.to_encoder_input(input_features)
        windows = [
            window[:, :count]
            for window, count in zip(input_features, feature_lengths.tolist(), strict=True)
        ]
        if (
            self.spec.audio_spec.chunk_frames
        ):  # its convolutions look as far as the longest chunk of a batch
            windows.append(
                input_features.new_zeros(input_features.shape[1], self.spec.audio_spec.chunk_frames)
            )
        lengths = feature_lengths.new_tensor([window.shape[1] for window in windows])
        hook = tower.get_submodule("ln_post").register_forward_hook(
            lambda module, given, normed: caught.append(normed)
        )
        try:
            tower(torch.cat(windows, dim=1), feature_lens=lengths.to(input_features.device))
        finally:
            hook.remove()
        return self.unpack_windows(caught[0], feature_lengths)


class Qwen25Omni(OmniThinkerLM):
    """The thinker of Qwen2.5-Omni (Xu et al. 2025): attention over two seconds of sound."""

    architecture = Qwen2_5OmniThinkerForConditionalGeneration
    module_paths: ClassVar[dict[str, str]] = {
        **PretrainedAudioLM.module_paths,
        "projector": "model.audio_tower.proj",
    }
    projector_module_names = ("proj",)


class Qwen3Omni(OmniThinkerLM):
    """The thinker of Qwen3-Omni (Xu et al. 2025): Qwen3-ASR's encoder, a mixture of experts."""

    architecture = Qwen3OmniMoeThinkerForConditionalGeneration
    module_paths: ClassVar[dict[str, str]] = {
        **PretrainedAudioLM.module_paths,
        "projector": "model.audio_tower.proj2",
    }
    projector_module_names = ("proj1", "act", "proj2")


MODEL_FAMILIES: dict[str, type[PretrainedAudioLM]] = {
    "qwen2_audio": Qwen2Audio,
    "audioflamingo3": AudioFlamingo3,
    "voxtral": Voxtral,
    "glmasr": GlmAsr,
    "qwen3_asr": Qwen3Asr,
    "qwen2_5_omni": Qwen25Omni,
    "qwen3_omni_moe": Qwen3Omni,
}


AUDIO_TOKEN_CONFIG_KEYS = (
    "audio_token_id",
    "audio_token_index",
)  # what configs call the placeholder
LOADING_INFO_LABELS = {
    "missing_keys": "missing",
    "unexpected_keys": "unknown",
    "mismatched_keys": "of another shape",
    "error_msgs": "not placed",
}


def load_pretrained_audio_lm(
    checkpoint_dir: Path,
    spec: ModelSpec,
    *,
    dtype: torch.dtype,
    quantization_config: BitsAndBytesConfig | None = None,
    device_map: str | None = None,
) -> PretrainedAudioLM:
    """Load a released model from its folder, in evaluation mode.

    Raises BaseError for another class, and naming the first tensor that is missing, unknown,
    misshapen or not finite.
    """
    kind = MODEL_FAMILIES[spec.family]
    _check_model_family(checkpoint_dir, spec)
    check_finite_weights(checkpoint_dir, read_tensor_index(checkpoint_dir))
    how = {"dtype": dtype, "quantization_config": quantization_config, "device_map": device_map}
    model = kind(
        spec, from_pretrained_strict(kind.architecture, checkpoint_dir, how), checkpoint_dir
    ).eval()
    _check_audio_token(checkpoint_dir, model)
    return model


def _check_model_family(checkpoint_dir: Path, spec: ModelSpec) -> None:
    """Refuse the weights of another class than the row's."""
    family = get_model_family(read_hf_config(checkpoint_dir))
    if family != spec.family:
        what = f"is of class {family}, and {spec.key} is of class {spec.family}"
        raise ModelError(
            what, where=str(checkpoint_dir), hint="name it in base_model by its own name"
        )


def _check_audio_token(checkpoint_dir: Path, model: PretrainedAudioLM) -> None:
    """Refuse a tokenizer whose token for sound is not the class's own."""
    config = {
        **read_hf_config(checkpoint_dir),
        **read_hf_config(checkpoint_dir).get("thinker_config", {}),
    }
    named = [config[key] for key in AUDIO_TOKEN_CONFIG_KEYS if key in config]
    if named and named[0] != model.audio_token_id:
        what = f"its config says that token {named[0]} stands for sound, its tokenizer that"
        what += f" {model.audio_token_id} does ({model.spec.placeholder})"
        raise make_damaged_checkpoint_error(what, checkpoint_dir)


def from_pretrained_strict(
    architecture: Any, checkpoint_dir: Path, load_kwargs: dict[str, Any]
) -> PreTrainedModel:
    """The class with every tensor from the files, none of them random."""
    try:
        with _silence_transformers():
            loaded: Any = architecture.from_pretrained(
                checkpoint_dir,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are told with the others, below
                output_loading_info=True,
                **load_kwargs,
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as reason:
        told = next(iter(str(reason).splitlines()), type(reason).__name__)
        raise make_damaged_checkpoint_error(
            f"cannot be loaded ({told})", checkpoint_dir
        ) from reason
    whole: PreTrainedModel
    whole, report = loaded
    odd = {
        fault: sorted(map(_format_loading_issue, report[key]))
        for key, fault in LOADING_INFO_LABELS.items()
        if report[key]
    }
    if odd:
        told = "; ".join(f"{len(names)} {fault}, first {names[0]}" for fault, names in odd.items())
        raise make_damaged_checkpoint_error(
            f"these are not the weights of this class: {told}", checkpoint_dir
        )
    return whole


def _format_loading_issue(entry: str | tuple[Any, ...]) -> str:
    """A tensor as the report tells it, with both shapes where they differ."""
    if isinstance(entry, str):
        return entry
    name, found, wanted = entry
    return f"{name} ({list(found)}, not {list(wanted)})"


@contextmanager
def _silence_transformers() -> Iterator[None]:
    """No bar and no table on the way: what matters of them is told as an error."""
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
