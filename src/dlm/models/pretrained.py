"""Pretrained audio language models: transformers' classes, and strict loading of checkpoints.

One class for each family (Qwen2-Audio, Audio Flamingo 3, Voxtral, GLM-ASR, Qwen3-ASR, Qwen2.5-Omni,
Qwen3-Omni, Whisper) runs its encoder and projector apart from the language model. A checkpoint is
refused if its class or placeholder differs from the spec, or a tensor is missing, unknown, of
another shape or not finite. Only safetensors are read: no pickles, no code from the folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    BitsAndBytesConfig,
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    GlmAsrForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioForConditionalGeneration,
    Qwen3ASRForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    VoxtralForConditionalGeneration,
    WhisperForConditionalGeneration,
)
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.utils import logging

from dlm.batching.chat_template import get_audio_token_id, load_pretrained_tokenizer
from dlm.batching.collator import Batch
from dlm.batching.whisper_chat import NO_TIMESTAMPS, START_OF_TRANSCRIPT
from dlm.errors import DataError, ModelError
from dlm.models.audio_lm import AudioLanguageModel, EncoderOutput, LMInputs, get_eos_token_ids
from dlm.models.encoders import run_qwen2_audio_encoder, run_whisper_encoder
from dlm.models.inspect_checkpoint import check_finite_weights
from dlm.plan.audio_lengths import mel_frames_to_audio_tokens
from dlm.plan.model_ref import get_model_family, read_hf_config
from dlm.plan.model_spec import ComponentName, ModelSpec
from dlm.plan.safetensors_index import make_damaged_checkpoint_error, read_tensor_index

AUDIO_TOKEN_CONFIG_KEYS = ("audio_token_id", "audio_token_index")  # of the placeholder
LOADING_INFO_LABELS = {
    "missing_keys": "missing",
    "unexpected_keys": "unknown",
    "mismatched_keys": "of another shape",
    "error_msgs": "not placed",
}


class PretrainedAudioLM(AudioLanguageModel):
    """A model of one of transformers' classes, which is its only submodule.

    Attributes:
        whole: the model; adapters on disk name their tensors by this attribute.
        architecture: its class.
        module_paths: where encoder, projector, decoder and head are in it.
    """

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
        prefixes = {name: f"whole.{path}." for name, path in self.module_paths.items()}
        return {
            "encoder": (prefixes["encoder"],),
            "projector": (prefixes["projector"],),
            "lm": (prefixes["decoder"], prefixes["head"]),
        }

    def get_component(self, name: str) -> nn.Module:
        """Return the encoder, projector, decoder or head."""
        return self.whole.get_submodule(self.module_paths[name])

    @property
    def decoder(self) -> nn.Module:
        return self.get_component("decoder")

    @property
    def lm_head(self) -> nn.Module:
        return self.get_component("head")

    @property
    def embed_tokens(self) -> nn.Module:
        table: nn.Module = self.whole.get_input_embeddings()
        return table

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return get_eos_token_ids(self.whole)

    @property
    def projector(self) -> nn.Module:
        """The module from encoder frames to audio embeddings."""
        return self.get_component("projector")

    def project_audio(self, encoder_output: EncoderOutput) -> torch.Tensor:
        projector = self.projector
        weight = next(projector.parameters())
        hidden = encoder_output.hidden_states.to(weight.device, weight.dtype)
        frames = torch.arange(hidden.shape[1], device=hidden.device)
        is_audio = frames < encoder_output.lengths.to(hidden.device)[:, None]
        embeddings: torch.Tensor = projector(hidden[is_audio])
        return embeddings

    def compute_output_lengths(self, feature_lengths: torch.Tensor) -> torch.Tensor:
        """Compute how many tokens windows of so many mel frames become: (windows,)."""
        audio_spec = self.spec.audio_spec
        return feature_lengths.new_tensor(
            [mel_frames_to_audio_tokens(length, audio_spec) for length in feature_lengths.tolist()]
        )

    def to_encoder_input(self, input_features: torch.Tensor) -> torch.Tensor:
        """Move log-mels to the encoder's device and dtype."""
        weight = next(self.get_component("encoder").parameters())
        return input_features.to(weight.device, weight.dtype)


class Qwen2Audio(PretrainedAudioLM):
    """Qwen2-Audio (Chu et al. 2024): a Whisper-like encoder, a linear projector, a Qwen LM."""

    architecture: ClassVar[type[PreTrainedModel]] = Qwen2AudioForConditionalGeneration

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """As every model; without padding to 30 s, pooled to 25 frames per second."""
        encoder: Any = self.get_component("encoder")
        hidden = run_qwen2_audio_encoder(encoder, input_features, feature_lengths)
        return EncoderOutput(hidden, self.compute_output_lengths(feature_lengths))


class AudioFlamingo3(Qwen2Audio):
    """Audio Flamingo 3 (Goel et al. 2025): Qwen2-Audio's encoder, a two-layer MLP, a Qwen LM."""

    architecture = AudioFlamingo3ForConditionalGeneration


class Voxtral(PretrainedAudioLM):
    """Voxtral (Mistral 2025): Whisper's encoder on 30 s windows, four frames a token, a Llama."""

    architecture: ClassVar[type[PreTrainedModel]] = VoxtralForConditionalGeneration

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """As every model, on windows padded with silence; concatenates each four frames."""
        encoder = self.get_component("encoder")
        hidden = encoder(self.to_encoder_input(input_features)).last_hidden_state
        stride = self.spec.audio_spec.projector_stride
        stacked = hidden.unflatten(1, (-1, stride)).flatten(2)  # (windows, tokens, 4 * hidden_size)
        return EncoderOutput(stacked, self.compute_output_lengths(feature_lengths))


class GlmAsr(Voxtral):
    """GLM-ASR (Z.ai 2025): as Voxtral, with rotary positions; tokens of the silence are dropped."""

    architecture = GlmAsrForConditionalGeneration


class Qwen3Asr(PretrainedAudioLM):
    """Qwen3-ASR (Qwen 2026): convolutions on chunks of 1 s, attention over 8 s."""

    architecture: ClassVar[type[PreTrainedModel]] = Qwen3ASRForConditionalGeneration

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """As every model; windows are padded to whole chunks."""
        padding = -input_features.shape[-1] % self.spec.audio_spec.chunk_frames
        features = nn.functional.pad(self.to_encoder_input(input_features), (0, padding))
        frames = torch.arange(features.shape[-1], device=features.device)
        mask = (frames < feature_lengths.to(features.device)[:, None]).long()
        output = self.get_component("encoder")(features, input_features_mask=mask)
        return self.unpack_windows(output.last_hidden_state, feature_lengths)

    def unpack_windows(
        self, packed_states: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """Split (frames of all windows, hidden_size) into padded windows."""
        lengths = self.compute_output_lengths(feature_lengths)
        windows = packed_states[: int(lengths.sum())].split(lengths.tolist())
        return EncoderOutput(nn.utils.rnn.pad_sequence(windows, batch_first=True), lengths)


class OmniThinkerLM(Qwen3Asr):
    """The thinker of an Omni model; the last layers of its encoder are the projector."""

    projector_module_names: ClassVar[tuple[str, ...]]

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        prefix = f"whole.{self.module_paths['encoder']}."
        names = [name for name, _ in self.get_component("encoder").named_children()]
        encoder_names = [name for name in names if name not in self.projector_module_names]
        return {
            **super().param_prefixes,
            "encoder": tuple(prefix + name for name in encoder_names),
            "projector": tuple(prefix + name for name in self.projector_module_names),
        }

    @property
    def projector(self) -> nn.Module:
        encoder = self.get_component("encoder")
        return nn.Sequential(*map(encoder.get_submodule, self.projector_module_names))

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """As every model: the encoder's states before its projector."""
        encoder, states = self.get_component("encoder"), list[torch.Tensor]()
        features = self.to_encoder_input(input_features)
        windows = [
            window[:, :length]
            for window, length in zip(features, feature_lengths.tolist(), strict=True)
        ]
        if chunk_frames := self.spec.audio_spec.chunk_frames:
            # the convolutions pad to the longest chunk of a batch: let that be a whole one
            windows.append(features.new_zeros(features.shape[1], chunk_frames))
        lengths = feature_lengths.new_tensor([window.shape[1] for window in windows])
        hook = encoder.get_submodule("ln_post").register_forward_hook(
            lambda module, args, output: states.append(output)
        )
        try:
            encoder(torch.cat(windows, dim=1), feature_lens=lengths.to(features.device))
        finally:
            hook.remove()
        return self.unpack_windows(states[0], feature_lengths)


class Qwen25Omni(OmniThinkerLM):
    """The thinker of Qwen2.5-Omni (Xu et al. 2025): attention over 2 s of audio."""

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


class Whisper(PretrainedAudioLM):
    """Whisper (Radford et al. 2022): its decoder attends to the encoder's output; no projector.

    Its class has no mask for that attention, because all windows are of one length. Where the spec
    does not complete them, the rows of a batch are: with zeros, which a hook masks.
    """

    architecture = WhisperForConditionalGeneration
    module_paths: ClassVar[dict[str, str]] = {
        "encoder": "model.encoder",
        "decoder": "model.decoder",
        "head": "proj_out",
    }

    def __init__(self, spec: ModelSpec, hf_model: PreTrainedModel, checkpoint_dir: Path) -> None:
        super().__init__(spec, hf_model, checkpoint_dir)
        if spec.audio_spec.pad_mode == "none":
            layers: Any = self.decoder.get_submodule("layers")
            for layer in layers:
                layer.register_forward_pre_hook(_mask_zero_states, with_kwargs=True)

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        return {
            "encoder": ("whole.model.encoder.",),
            "projector": (),
            "lm": ("whole.model.decoder.", "whole.proj_out."),
        }

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """As every model, on windows padded with silence, as the released models heard them."""
        encoder: Any = self.get_component("encoder")
        hidden = run_whisper_encoder(encoder, input_features, feature_lengths)
        return EncoderOutput(hidden, self.compute_output_lengths(feature_lengths))

    def compute_output_lengths(self, feature_lengths: torch.Tensor) -> torch.Tensor:
        """Compute the encoder frames of windows of so many mel frames: (windows,)."""
        stride = self.spec.audio_spec.encoder_stride
        return (feature_lengths + stride - 1) // stride

    def project_audio(self, encoder_output: EncoderOutput) -> torch.Tensor:
        """Return the frames of all windows in a row: the decoder takes them as they are."""
        weight = self.embed_tokens.get_parameter("weight")
        hidden = encoder_output.hidden_states.to(weight.device, weight.dtype)
        frames = torch.arange(hidden.shape[1], device=hidden.device)
        return hidden[frames < encoder_output.lengths.to(hidden.device)[:, None]]

    def make_lm_inputs(self, batch: Batch) -> LMInputs:
        """Embed a batch, the audio of each row beside its text.

        Raises:
            DataError: a row has not one window of audio (`data.not_one_window`).
        """
        for location, num_windows in zip(batch.locations, batch.windows_per_example, strict=True):
            if num_windows != 1:
                raise DataError(
                    f"{num_windows} windows of audio, and {self.spec.key} takes one at a time",
                    where=location,
                    hint="cut the clip with start= and end=; `dlm transcribe` takes any length",
                    code="data.not_one_window",
                )
        embeddings, states = self.embed_input_ids(batch.input_ids), None
        if batch.audio_features is not None:
            audio = self.embed_audio(batch.audio_features, batch)
            lengths = batch.audio_lengths
            if not batch.is_encoded:
                lengths = self.compute_output_lengths(lengths)
            states = nn.utils.rnn.pad_sequence(audio.split(lengths.tolist()), batch_first=True)
        return LMInputs(embeddings, batch.attention_mask, states)

    def make_prompt_inputs(self, batch: Batch) -> LMInputs:
        """Embed prompts; where one leaves its language open, the most likely one stands there."""
        inputs = self.make_lm_inputs(batch)
        is_open = (batch.input_ids == self.tokenizer.eos_token_id) & batch.attention_mask.bool()
        if inputs.audio_states is None or not is_open.any():
            return inputs
        languages = self._detect_language_ids(inputs.audio_states[is_open.any(dim=1)])
        input_ids = batch.input_ids.masked_scatter(is_open, languages)
        return inputs._replace(inputs_embeds=self.embed_input_ids(input_ids))

    def _detect_language_ids(self, audio_states: torch.Tensor) -> torch.Tensor:
        """The language tokens that are likeliest after the start token alone: (rows,)."""
        names = [START_OF_TRANSCRIPT, *(f"<|{code}|>" for code in self.spec.languages)]
        token_ids = torch.tensor(self.tokenizer.convert_tokens_to_ids(names), device=self.device)
        language_ids = token_ids[1:]
        starts = token_ids[:1].expand(len(audio_states), 1)
        embeddings = self.embed_input_ids(starts)
        hidden = self.forward_lm(embeddings, torch.ones_like(starts), audio_states)
        return language_ids[self.compute_logits(hidden[:, 0])[:, language_ids].argmax(dim=1)]

    def make_cache(self) -> Cache:
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def restrict_logits(
        self, logits: torch.Tensor, prompt_ids: torch.Tensor, answer_ids: torch.Tensor
    ) -> torch.Tensor:
        """Exclude the tokens that its generation config names, some only at the beginning.

        Where the prompt asks for timestamps, those that come in pairs and do not go back are left
        (Radford et al. 2022, section 4.5).
        """
        config: Any = self.whole.generation_config
        excluded = list(config.suppress_tokens or ())
        if not answer_ids.shape[1]:
            excluded += config.begin_suppress_tokens or ()
        logits[:, excluded] = -torch.inf
        no_timestamps_id = self.tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS)
        if int(prompt_ids[0, -1]) == no_timestamps_id:
            return logits
        config.no_timestamps_token_id = no_timestamps_id  # not in all generation configs
        rules = WhisperTimeStampLogitsProcessor(config, begin_index=prompt_ids.shape[1])
        return cast(torch.Tensor, rules(torch.cat([prompt_ids, answer_ids], dim=1), logits))


def _mask_zero_states(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Mask the frames of zeros in the cross-attention of one of Whisper's decoder layers."""
    _, _, states = args
    is_padding = (states == 0).all(dim=-1)  # (rows, frames); a norm's output is not all zero
    if is_padding.any():
        mask = torch.zeros(is_padding.shape, dtype=states.dtype, device=states.device)
        mask = mask.masked_fill(is_padding, torch.finfo(states.dtype).min)
        kwargs = {**kwargs, "encoder_attention_mask": mask[:, None, None]}
    return args, kwargs


MODEL_FAMILIES: dict[str, type[PretrainedAudioLM]] = {
    "qwen2_audio": Qwen2Audio,
    "audioflamingo3": AudioFlamingo3,
    "voxtral": Voxtral,
    "glmasr": GlmAsr,
    "qwen3_asr": Qwen3Asr,
    "qwen2_5_omni": Qwen25Omni,
    "qwen3_omni_moe": Qwen3Omni,
    "whisper": Whisper,
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

    Raises:
        ModelError: the folder holds another class (`model.other_class`), or weights or a tokenizer
            that do not fit it (`model.damaged_checkpoint`).
    """
    hf_config = read_hf_config(checkpoint_dir)
    family = get_model_family(hf_config)
    if family != spec.family:
        raise ModelError(
            f"is of class {family}, and {spec.key} is of class {spec.family}",
            where=str(checkpoint_dir),
            hint="name it in base_model by its own name",
            code="model.other_class",
        )
    check_finite_weights(checkpoint_dir, read_tensor_index(checkpoint_dir))
    model_class = MODEL_FAMILIES[family]
    load_kwargs = {
        "dtype": dtype,
        "quantization_config": quantization_config,
        "device_map": device_map,
    }
    hf_model = from_pretrained_strict(model_class.architecture, checkpoint_dir, load_kwargs)
    model = model_class(spec, hf_model, checkpoint_dir).eval()
    hf_config = {**hf_config, **hf_config.get("thinker_config", {})}
    token_ids = [hf_config[key] for key in AUDIO_TOKEN_CONFIG_KEYS if key in hf_config]
    if token_ids and token_ids[0] != model.audio_token_id:
        what = f"its config says that token {token_ids[0]} stands for audio, its tokenizer that"
        what += f" {model.audio_token_id} does ({spec.placeholder})"
        raise make_damaged_checkpoint_error(what, checkpoint_dir)
    return model


def from_pretrained_strict(
    architecture: Any, checkpoint_dir: Path, load_kwargs: dict[str, Any]
) -> PreTrainedModel:
    """Load a model of transformers with every tensor from the files, none of them random.

    Raises:
        ModelError: tensors are missing, unknown or of another shape, or a file cannot be read
            (`model.damaged_checkpoint`).
    """
    try:
        with silence_transformers():
            loaded: tuple[PreTrainedModel, Any] = architecture.from_pretrained(
                checkpoint_dir,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are reported with the others, below
                output_loading_info=True,
                **load_kwargs,
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        what = f"cannot be loaded ({reason})"
        raise make_damaged_checkpoint_error(what, checkpoint_dir) from error
    model, loading_info = loaded
    problems = []
    for key, label in LOADING_INFO_LABELS.items():
        if entries := sorted(map(_format_loading_entry, loading_info[key])):
            problems.append(f"{len(entries)} {label}, first {entries[0]}")
    if problems:
        what = f"these are not the weights of this class: {'; '.join(problems)}"
        raise make_damaged_checkpoint_error(what, checkpoint_dir)
    return model


def _format_loading_entry(entry: str | tuple[Any, ...]) -> str:
    """A tensor's name, with both shapes where they differ."""
    if isinstance(entry, str):
        return entry
    name, shape, expected = entry
    return f"{name} ({list(shape)}, not {list(expected)})"


@contextmanager
def silence_transformers() -> Iterator[None]:
    """No progress bar and no table of tensors: what matters of them becomes an error."""
    has_progress_bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_progress_bar:
            logging.enable_progress_bar()
