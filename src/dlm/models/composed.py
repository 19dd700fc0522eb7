"""Composed models: encoders, projector and language model put together by a document.

    config.json         {encoders: [{config: {...}, layer: last}], projector: {...}, lm: {...}}
    model.safetensors   encoder.* (encoder.0.*, encoder.1.* for two), projector.*, lm.*
    dlm_base.json       the spec; tokenizer.json ... the language model's own

Each component takes its weights from a source: another composed model (its tensors of that
component), a pretrained model (as transformers loads it), or none (random, the same every time).
A projector may also come from a version that trained one. Tensors that are missing, unknown, of
another shape or not finite are refused.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from dlm.batching.byte_tokenizer import build_tokenizer
from dlm.batching.chat_template import get_audio_token_id, load_pretrained_tokenizer
from dlm.errors import ModelError
from dlm.io import read_regular_file
from dlm.models.adapters import read_adapter_tensors
from dlm.models.audio_lm import AudioLanguageModel, EncoderOutput, get_eos_token_ids
from dlm.models.encoders import build_encoder, get_encoder_dims, load_encoder, run_encoder
from dlm.models.inspect_checkpoint import check_finite_weights, is_finite
from dlm.models.pretrained import from_pretrained_strict, load_pretrained_audio_lm
from dlm.models.projectors import build_projector, calibrate_output_scale
from dlm.plan.components import BYTE_TOKENIZER, OWN_TOKENIZER, is_audio_lm_config
from dlm.plan.hub import download_model, download_tokenizer, find_local_model
from dlm.plan.model_ref import find_family_spec, read_hf_config
from dlm.plan.model_spec import (
    MODEL_SPEC_FILE,
    ComponentName,
    ComponentRef,
    CompositionSpec,
    ModelSpec,
    read_model_spec,
    write_model_spec,
)
from dlm.plan.safetensors_index import make_damaged_checkpoint_error, read_tensor_index

COMPOSED_WEIGHTS_FILE = "model.safetensors"
COMPOSED_CONFIG_FILE = "config.json"
COMPOSITION_SEED = 0  # of components without weights: the same composition is the same model


class ComposedAudioLM(AudioLanguageModel):
    """Encoders, a projector and a language model."""

    def __init__(
        self,
        spec: ModelSpec,
        config: dict[str, Any],
        tokenizer: Any,
        lm: PreTrainedModel | None = None,
    ) -> None:
        """Build the components in fp32 with random weights, except an `lm` that has its own."""
        super().__init__()
        self.spec, self.config, self.tokenizer = spec, config, tokenizer
        self.audio_token_id = get_audio_token_id(tokenizer, spec)
        encoders = [build_encoder(encoder["config"]) for encoder in config["encoders"]]
        self.encoder: Any = encoders[0] if len(encoders) == 1 else nn.ModuleList(encoders)
        self.lm = lm or _build_lm(config["lm"])
        layers = [encoder["layer"] for encoder in config["encoders"]]
        self.projector = build_projector(
            config["projector"],
            encoder_dims=tuple(map(get_encoder_dims, encoders, layers)),
            audio_spec=spec.audio_spec,
            out_features=self.embed_tokens.get_parameter("weight").shape[1],
        )

    @property
    def encoders(self) -> list[PreTrainedModel]:
        """The encoders; the first sets the frame rate."""
        is_list = isinstance(self.encoder, nn.ModuleList)
        encoders: list[PreTrainedModel] = list(self.encoder) if is_list else [self.encoder]
        return encoders

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        return {"encoder": ("encoder.",), "projector": ("projector.",), "lm": ("lm.",)}

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        outputs = [
            run_encoder(
                encoder,
                input_features,
                feature_lengths,
                layer=config["layer"],
                encoder_input=self.spec.encoder_input,
            )
            for encoder, config in zip(self.encoders, self.config["encoders"], strict=True)
        ]
        return align_and_concat(outputs)

    def project_audio(self, encoder_output: EncoderOutput) -> torch.Tensor:
        weight = next(self.projector.parameters())
        hidden = encoder_output.hidden_states.to(weight.device, weight.dtype)
        embeddings: torch.Tensor = self.projector(EncoderOutput(hidden, encoder_output.lengths))
        return embeddings

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """As for every model; the placeholder may lie outside the table, as audio replaces it."""
        return super().embed_input_ids(input_ids.masked_fill(input_ids == self.audio_token_id, 0))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return get_eos_token_ids(self.lm)

    @property
    def decoder(self) -> nn.Module:
        decoder: nn.Module = self.lm.base_model
        return decoder

    @property
    def lm_head(self) -> nn.Module:
        head: nn.Module = self.lm.get_output_embeddings()
        return head

    @property
    def embed_tokens(self) -> nn.Module:
        table: nn.Module = self.lm.get_input_embeddings()
        return table


def _build_lm(config: dict[str, Any]) -> PreTrainedModel:
    """A language model with random weights in fp32, whatever dtype its config names.

    What it computes at the start would be rounded too: Gemma's factor of embeddings is 25.25 in
    bf16 and 25.30 in fp32.
    """
    hf_config = AutoConfig.for_model(**config)
    lm: PreTrainedModel = AutoModelForCausalLM.from_config(hf_config, dtype=torch.float32)
    return lm


def align_and_concat(outputs: list[EncoderOutput]) -> EncoderOutput:
    """Concatenate encoders' channels at the frames of the first, each taking the nearest frame.

    Returns:
        (windows, frames of the first, sum of hidden sizes).
    """
    first, *others = outputs
    if not others:
        return first
    num_frames, lengths = first.hidden_states.shape[1], first.lengths
    aligned = [first.hidden_states]
    for other in others:
        hidden = other.hidden_states.to(first.hidden_states)
        frames = torch.arange(num_frames, device=hidden.device)
        nearest = (frames * other.lengths[:, None] // lengths[:, None]).clamp(
            max=hidden.shape[1] - 1
        )
        indices = nearest[..., None].expand(-1, -1, hidden.shape[2])
        aligned.append(hidden.gather(1, indices))
    return EncoderOutput(torch.cat(aligned, dim=2), lengths)


def load_composed_model(model_dir: Path, spec: ModelSpec | None = None) -> ComposedAudioLM:
    """Load a composed model from its folder, in evaluation mode.

    Raises:
        ModelError: a file cannot be read, or its tensors are not those of the config
            (`model.damaged_checkpoint`).
    """
    spec = spec or read_model_spec(model_dir)
    try:
        config = json.loads(read_regular_file(model_dir / COMPOSED_CONFIG_FILE))
        model = ComposedAudioLM(spec, config, load_pretrained_tokenizer(model_dir, spec))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise make_damaged_checkpoint_error(f"cannot be read ({reason})", model_dir) from error
    tensors = read_composed_tensors(model_dir)
    load_tensors_strict(model, tensors, str(model_dir / COMPOSED_WEIGHTS_FILE))
    return model.eval()


def read_composed_tensors(model_dir: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a folder, by their names in the model.

    Raises:
        ModelError: the file cannot be read (`model.damaged_checkpoint`).
    """
    path = model_dir / COMPOSED_WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise make_damaged_checkpoint_error(f"cannot be read ({reason})", path) from error


def load_tensors_strict(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Load every weight of a model, as fp32.

    Raises:
        ModelError: tensors are missing, unknown, of another shape or not finite
            (`model.damaged_checkpoint`).
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    stored = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    misshapen = sorted(
        name for name in shapes.keys() & tensors.keys() if tensors[name].shape != shapes[name]
    )
    problems = {
        "missing": sorted((shapes.keys() & stored) - tensors.keys()),  # tied ones are stored once
        "unknown": sorted(tensors.keys() - shapes.keys()),
        "of another shape": misshapen,
        "not finite": sorted(name for name, tensor in tensors.items() if not is_finite(tensor)),
    }
    for problem, names in problems.items():
        if names:
            first = names[0]
            what = f"{len(names)} tensors are {problem}, first {first}"
            if names is misshapen:
                what += f", {list(tensors[first].shape)} where {list(shapes[first])} is needed"
            hint = "these weights belong to another base"
            raise ModelError(what, where=where, hint=hint, code="model.damaged_checkpoint")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)


def save_composed_model(
    model: ComposedAudioLM, model_dir: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write the folder that `load_composed_model` reads."""
    model_dir.mkdir(parents=True, exist_ok=True)
    write_model_spec(model.spec, model_dir)
    text = json.dumps(model.config, indent=2) + "\n"
    (model_dir / COMPOSED_CONFIG_FILE).write_text(text, encoding="utf-8")
    weights = model.state_dict()
    if model.lm.config.tie_word_embeddings:
        weights.pop("lm.lm_head.weight", None)
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()
    }
    save_file(tensors, model_dir / COMPOSED_WEIGHTS_FILE, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(model_dir)


def compose_model(
    spec: ModelSpec, composition: CompositionSpec, *, dtype: torch.dtype = torch.float32
) -> ComposedAudioLM:
    """Put a model together from its components, in evaluation mode.

    Args:
        spec: of the whole.
        composition: configs and sources of the components.
        dtype: that a pretrained language model is read in.

    Raises:
        ModelError: a component cannot be read, does not fit or is not finite (`model.*`).
    """
    projector_config = dict(composition.projector)
    projector_source = projector_config.pop("source", None)
    config = {
        "encoders": [
            {"config": encoder.config, "layer": encoder.layer} for encoder in composition.encoders
        ],
        "projector": projector_config,
        "lm": composition.lm.config,
    }
    lm = _load_component_lm(composition.lm, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(COMPOSITION_SEED)
        model = ComposedAudioLM(spec, config, load_composed_tokenizer(spec, composition), lm)
    for encoder, component_ref in zip(model.encoders, composition.encoders, strict=True):
        _load_encoder_weights(encoder, component_ref)
    if projector_source:
        _load_component_weights(model.projector, _get_projector_dir(projector_source), "projector.")
    else:
        calibrate_output_scale(model.projector, _look_up_embeddings(model))
    return model.eval()


@torch.no_grad()
def _look_up_embeddings(model: ComposedAudioLM) -> torch.Tensor | None:
    """All text embeddings as the language model reads them, where a projector is scaled to them.

    They are not the table where a model multiplies what it looks up: Gemma by the square root of
    its width.
    """
    if model.projector.scale != "embeddings":
        return None
    num_embeddings = len(model.embed_tokens.get_parameter("weight"))
    return model.embed_input_ids(torch.arange(num_embeddings, device=model.device))


def load_composed_tokenizer(
    spec: ModelSpec, composition: CompositionSpec
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a composed model; no weights are fetched for it."""
    lm = composition.lm
    if composition.tokenizer == BYTE_TOKENIZER:
        return build_tokenizer(spec, None)
    if composition.tokenizer != OWN_TOKENIZER:
        return build_tokenizer(spec, Path(composition.tokenizer))
    tokenizer_dir = find_local_model(lm.source, lm.revision)
    return build_tokenizer(spec, tokenizer_dir or download_tokenizer(lm.source, lm.revision))


def _get_projector_dir(source: str) -> Path:
    """The folder of a saved projector: an absolute path, or name@revision."""
    name, _, revision = (source, "", "") if Path(source).is_absolute() else source.partition("@")
    return _fetch_weights(name, revision or None)


def _fetch_weights(source: str, revision: str | None) -> Path:
    return find_local_model(source, revision) or download_model(source, revision)


def _load_component_lm(component_ref: ComponentRef, dtype: torch.dtype) -> PreTrainedModel | None:
    """The language model with its weights; None for a random one."""
    if not component_ref.source:
        return None
    folder = _fetch_weights(component_ref.source, component_ref.revision)
    if not (folder / MODEL_SPEC_FILE).is_file() and not is_audio_lm_config(read_hf_config(folder)):
        check_finite_weights(folder, read_tensor_index(folder))
        return from_pretrained_strict(AutoModelForCausalLM, folder, {"dtype": dtype})
    lm: Any = _build_lm(component_ref.config)
    if (folder / MODEL_SPEC_FILE).is_file():
        _load_component_weights(lm, folder, "lm.")
        return cast(PreTrainedModel, lm)
    audio_spec = find_family_spec(read_hf_config(folder), str(folder))
    audio_lm = load_pretrained_audio_lm(folder, audio_spec, dtype=dtype)
    lm.base_model.load_state_dict(audio_lm.decoder.state_dict())
    lm.get_output_embeddings().load_state_dict(audio_lm.lm_head.state_dict())
    return cast(PreTrainedModel, lm.to(dtype))


def _load_encoder_weights(encoder: nn.Module, component_ref: ComponentRef) -> None:
    """Load an encoder's weights, unless it has no source."""
    if not component_ref.source:
        return
    folder = _fetch_weights(component_ref.source, component_ref.revision)
    if (folder / MODEL_SPEC_FILE).is_file():
        _load_component_weights(encoder, folder, "encoder.")
    else:
        encoder.load_state_dict(load_encoder(folder, component_ref.config).state_dict())


def _load_component_weights(module: nn.Module, checkpoint_dir: Path, prefix: str) -> None:
    """Load the tensors of one component of a composed model, or of a version that trained it."""
    is_model = (checkpoint_dir / COMPOSED_WEIGHTS_FILE).is_file()
    read_tensors = read_composed_tensors if is_model else read_adapter_tensors
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_tensors(checkpoint_dir).items()
        if name.startswith(prefix)
    }
    if not tensors:
        raise ModelError(
            f"holds no {prefix[:-1]}",
            where=str(checkpoint_dir),
            hint="name another folder",
            code="model.no_component",
        )
    load_tensors_strict(module, tensors, str(checkpoint_dir))
