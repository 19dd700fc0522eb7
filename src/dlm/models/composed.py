"""A stitched base: encoders, a projector and a language model, joined by us.

folder/
  dlm_base.json       its row of the catalogue
  config.json         {encoders: [{config: {...}, layer: last}], projector: {...}, lm: {...}}
  model.safetensors   encoder.* (encoder.0.*, encoder.1.* where there are two), projector.*, lm.*
  tokenizer.json ...  the language model's own

From a recipe to a base: each part with its own weights, and a fresh projector between them.

    source of a part    sparrow, or another stitched base    its tensors of that part
                        a released model                     as transformers loads it
                        ""                                   random, the same each time

A projector may be a saved one, too: that of a base, or of a version that learned it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from dlm.batching.byte_tokenizer import build_tokenizer
from dlm.batching.chat_template import get_audio_token_id, load_pretrained_tokenizer
from dlm.errors import ModelError
from dlm.models.adapters import read_adapter_tensors
from dlm.models.audio_lm import AudioLanguageModel, EncoderOutput, get_eos_token_ids
from dlm.models.encoders import build_encoder, get_encoder_dims, load_encoder, run_encoder
from dlm.models.inspect_checkpoint import check_finite_weights
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
from dlm.plan.safetensors_index import read_tensor_index

COMPOSED_WEIGHTS_FILE = "model.safetensors"
COMPOSED_CONFIG_FILE = "config.json"


class ComposedAudioLM(AudioLanguageModel):
    """Encoders, projector and LM behind the four questions."""

    def __init__(
        self,
        spec: ModelSpec,
        config: dict[str, Any],
        tokenizer: Any,
        lm: PreTrainedModel | None = None,
    ) -> None:
        """Build the parts with random weights, in fp32, but for an `lm` that has its own."""
        super().__init__()
        self.spec, self.config, self.tokenizer = spec, config, tokenizer
        self.audio_token_id = get_audio_token_id(tokenizer, spec)
        ears = [build_encoder(part["config"]) for part in config["encoders"]]
        self.encoder: Any = ears[0] if len(ears) == 1 else nn.ModuleList(ears)
        self.lm = lm or AutoModelForCausalLM.from_config(AutoConfig.for_model(**config["lm"]))
        heard = zip(ears, config["encoders"], strict=True)
        self.projector = build_projector(
            config["projector"],
            encoder_dims=tuple(get_encoder_dims(ear, part["layer"]) for ear, part in heard),
            audio_spec=spec.audio_spec,
            out_features=self.embed_tokens.get_parameter("weight").shape[1],
        )

    @property
    def encoders(self) -> list[PreTrainedModel]:
        """The encoders, of which the first sets the rate."""
        several = isinstance(self.encoder, nn.ModuleList)
        found: list[PreTrainedModel] = list(self.encoder) if several else [self.encoder]
        return found

    @property
    def param_prefixes(self) -> dict[ComponentName, tuple[str, ...]]:
        """How the names of the parameters of each part begin."""
        return {"encoder": ("encoder.",), "projector": ("projector.",), "lm": ("lm.",)}

    def encode_audio(
        self, input_features: torch.Tensor, feature_lengths: torch.Tensor
    ) -> EncoderOutput:
        """What each encoder hears at true length, side by side."""
        pairs = zip(self.encoders, self.config["encoders"], strict=True)
        first, *others = [
            run_encoder(
                ear,
                input_features,
                feature_lengths,
                layer=part["layer"],
                encoder_input=self.spec.encoder_input,
            )
            for ear, part in pairs
        ]
        return _align_and_concat(first, others) if others else first

    def project_audio(self, encoder_output: EncoderOutput) -> torch.Tensor:
        """Audio embeddings of all windows, one after the other."""
        weights = next(self.projector.parameters())
        values = encoder_output.hidden_states.to(weights.device, weights.dtype)
        projected: torch.Tensor = self.projector(EncoderOutput(values, encoder_output.lengths))
        return projected

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Text embeddings; the placeholder needs no row of the table, for sound takes its place."""
        return super().embed_input_ids(input_ids.masked_fill(input_ids == self.audio_token_id, 0))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens at which the language model stops, besides the end of a turn."""
        return get_eos_token_ids(self.lm)

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        inner: nn.Module = self.lm.base_model
        return inner

    @property
    def lm_head(self) -> nn.Module:
        """The language model's head."""
        head: nn.Module = self.lm.get_output_embeddings()
        return head

    @property
    def embed_tokens(self) -> nn.Module:
        """The table of text embeddings."""
        table: nn.Module = self.lm.get_input_embeddings()
        return table


def _align_and_concat(first: EncoderOutput, others: list[EncoderOutput]) -> EncoderOutput:
    """Channels side by side, at the frames of the first: each of its frames takes the nearest."""
    steps, lengths = first.hidden_states.shape[1], first.lengths
    joined = [first.hidden_states]
    for other in others:
        values = other.hidden_states.to(first.hidden_states)
        longest = values.shape[1] - 1
        at = torch.arange(steps, device=values.device) * other.lengths[:, None] // lengths[:, None]
        nearest = at.clamp(max=longest)[..., None].expand(-1, -1, values.shape[2])
        joined.append(values.gather(1, nearest))
    return EncoderOutput(torch.cat(joined, dim=2), lengths)


def load_composed_model(model_dir: Path, spec: ModelSpec | None = None) -> ComposedAudioLM:
    """Load a folder. Raises BaseError naming what is missing, extra or damaged."""
    spec = spec or read_model_spec(model_dir)
    try:
        config = json.loads((model_dir / COMPOSED_CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(model_dir / COMPOSED_WEIGHTS_FILE)
        model = ComposedAudioLM(spec, config, load_pretrained_tokenizer(model_dir, spec))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as reason:
        told = " ".join(f"{type(reason).__name__}: {reason}".split())
        mend = "copy or make the folder again"
        raise ModelError(f"cannot be read ({told})", where=str(model_dir), hint=mend) from reason
    load_tensors_strict(model, tensors, str(model_dir / COMPOSED_WEIGHTS_FILE))
    return model.eval()


def read_composed_tensors(model_dir: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder, by their names in the model. Raises BaseError."""
    try:
        return load_file(model_dir / COMPOSED_WEIGHTS_FILE)
    except (OSError, SafetensorError) as reason:
        told = " ".join(str(reason).split())
        mend = "copy or make the folder again"
        where = str(model_dir / COMPOSED_WEIGHTS_FILE)
        raise ModelError(f"cannot be read ({told})", where=where, hint=mend) from reason


def load_tensors_strict(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
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
            raise ModelError(what, where=where, hint="these weights belong to another base")
    model.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)


def save_composed_model(
    model: ComposedAudioLM, model_dir: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write the folder that `load_stitched` reads."""
    model_dir.mkdir(parents=True, exist_ok=True)
    write_model_spec(model.spec, model_dir)
    (model_dir / COMPOSED_CONFIG_FILE).write_text(
        json.dumps(model.config, indent=2) + "\n", encoding="utf-8"
    )
    weights = model.state_dict()
    if model.lm.config.tie_word_embeddings:
        weights.pop("lm.lm_head.weight", None)
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()
    }
    save_file(tensors, model_dir / COMPOSED_WEIGHTS_FILE, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(model_dir)


COMPOSITION_SEED = 0  # of what has no weights yet: the same recipe is the same base


def compose_model(
    spec: ModelSpec, composition: CompositionSpec, *, dtype: torch.dtype = torch.float32
) -> ComposedAudioLM:
    """The base that a recipe describes, in evaluation mode; a released LM is read in `dtype`.

    Raises BaseError naming what is missing, misshapen or not finite.
    """
    config = {
        "encoders": [{"config": part.config, "layer": part.layer} for part in composition.encoders],
        "projector": {
            name: each for name, each in composition.projector.items() if name != "source"
        },
        "lm": composition.lm.config,
    }
    lm = _load_component_lm(composition.lm, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(COMPOSITION_SEED)
        model = ComposedAudioLM(spec, config, load_composed_tokenizer(spec, composition), lm)
    for ear, part in zip(model.encoders, composition.encoders, strict=True):
        _load_encoder_weights(ear, part)
    saved = composition.projector.get("source")
    if saved:
        _load_component_weights(model.projector, _get_projector_dir(saved), "projector.")
    else:
        calibrate_output_scale(model.projector, model.embed_tokens.get_parameter("weight"))
    return model.eval()


def load_composed_tokenizer(
    spec: ModelSpec, composition: CompositionSpec
) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe; no weights are fetched for it."""
    part = composition.lm
    if composition.tokenizer == BYTE_TOKENIZER:
        return build_tokenizer(spec, None)
    if composition.tokenizer != OWN_TOKENIZER:
        return build_tokenizer(spec, Path(composition.tokenizer))
    return build_tokenizer(
        spec, _find_component_dir(part) or download_tokenizer(part.source, part.revision)
    )


def _get_projector_dir(source: str) -> Path:
    """The folder of a saved projector."""
    name, _, revision = (source, "", "") if Path(source).is_absolute() else source.partition("@")
    return find_local_model(name, revision or None) or download_model(name, revision or None)


def _find_component_dir(component_ref: ComponentRef) -> Path | None:
    return find_local_model(component_ref.source, component_ref.revision)


def _fetch_component(component_ref: ComponentRef) -> Path:
    """Where a part's weights lie, fetched when they are not here yet."""
    return _find_component_dir(component_ref) or download_model(
        component_ref.source, component_ref.revision
    )


def _load_component_lm(component_ref: ComponentRef, dtype: torch.dtype) -> PreTrainedModel | None:
    """The language model with its weights; None for a random one."""
    if not component_ref.source:
        return None
    folder = _fetch_component(component_ref)
    if (folder / MODEL_SPEC_FILE).is_file():
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**component_ref.config)
        )
        _load_component_weights(lm, folder, "lm.")
        return lm
    if is_audio_lm_config(read_hf_config(folder)):
        return _extract_pretrained_lm(folder, component_ref, dtype)
    check_finite_weights(folder, read_tensor_index(folder))
    return from_pretrained_strict(AutoModelForCausalLM, folder, {"dtype": dtype})


def _extract_pretrained_lm(
    checkpoint_dir: Path, component_ref: ComponentRef, dtype: torch.dtype
) -> PreTrainedModel:
    """The language model of a released model that hears, by itself."""
    whole = load_pretrained_audio_lm(
        checkpoint_dir,
        find_family_spec(read_hf_config(checkpoint_dir), str(checkpoint_dir)),
        dtype=dtype,
    )
    lm: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**component_ref.config))
    lm.base_model.load_state_dict(whole.decoder.state_dict())
    lm.get_output_embeddings().load_state_dict(whole.lm_head.state_dict())
    alone: PreTrainedModel = lm.to(dtype)
    return alone


def _load_encoder_weights(encoder: nn.Module, component_ref: ComponentRef) -> None:
    """Put an encoder's weights into it, where it has any."""
    if not component_ref.source:
        return
    folder = _fetch_component(component_ref)
    if (folder / MODEL_SPEC_FILE).is_file():
        _load_component_weights(encoder, folder, "encoder.")
    else:
        encoder.load_state_dict(load_encoder(folder, component_ref.config).state_dict())


def _load_component_weights(module: nn.Module, checkpoint_dir: Path, prefix: str) -> None:
    """The tensors of one part of a stitched base, or of a version that learned it."""
    whole = (checkpoint_dir / COMPOSED_WEIGHTS_FILE).is_file()
    every = read_composed_tensors(checkpoint_dir) if whole else read_adapter_tensors(checkpoint_dir)
    tensors = {
        name.removeprefix(prefix): each for name, each in every.items() if name.startswith(prefix)
    }
    if not tensors:
        raise ModelError(
            f"holds no {prefix[:-1]}", where=str(checkpoint_dir), hint="name another folder"
        )
    load_tensors_strict(module, tensors, str(checkpoint_dir))
