"""A row for a checkpoint: that of its family, with what its own files tell.

config.json    the class, shapes, mel bins, window, context
safetensors    parameters by part, bytes
README.md      the licence

What lies at a source, before any of it is fetched: its class, its revision, its licence.

sparrow                  a key of the catalogue
hf:org/name[@revision]   a model on the hub
ms:org/name[@revision]   a model on ModelScope
./folder                 on this machine

A base that is like another: the parts of that one, where none is given.

{like: sparrow, projector: mlp}     sparrow's encoder and language model, a fresh projector
{like: sparrow, encoder: {layer: 2}}     all of sparrow, whose second layer is heard
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dlm.config.base_config import BaseConfig
from dlm.config.model_schema import (
    ComposedModelConfig,
    EncoderConfig,
    LanguageModelConfig,
    ProjectorConfig,
    WeightSource,
)
from dlm.errors import ModelError
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.hub import (
    HF_CONFIG_FILE,
    HF_PREFIX,
    MODEL_CARD_FILE,
    MODELSCOPE_PREFIX,
    TensorIndex,
    download_hub_file,
    download_hub_file_if_exists,
    fetch_tensor_index,
    find_local_model,
    fingerprint_checkpoint,
    make_damaged_checkpoint_error,
    read_tensor_index,
    resolve_snapshot_dir,
)
from dlm.plan.model_spec import (
    COMPOSED_MODEL_CONFIGS,
    DEFAULT_AUDIO_MODEL,
    MODEL_CATALOG,
    MODEL_SPEC_FILE,
    ModelSpec,
    ParameterCounts,
    TransformerShape,
    read_model_spec,
)

HfConfig = dict[str, Any]

THINKER_SUFFIX = (
    "_thinker"  # the half of an Omni model that hears; its config is one of the whole's
)
COMPONENT_PATTERNS = {  # by the names of tensors; the first that fits
    "other": re.compile(r"^(talker|token2wav|code2wav)\."),  # what speaks is not loaded
    "projector": re.compile(r"multi_modal_projector|audio_tower\.proj\d?\."),
    "encoder": re.compile(r"audio_tower|(^|\.)visual\."),  # eyes stay as they are, as an ear does
    "words": re.compile(r"embed_tokens|lm_head"),
    "lm": re.compile(""),
}
SHAPE_CONFIG_KEYS = {
    "num_layers": ("encoder_layers", "num_hidden_layers"),
    "hidden_size": ("d_model", "hidden_size"),
    "intermediate_size": ("encoder_ffn_dim", "intermediate_size"),
    "num_heads": ("encoder_attention_heads", "num_attention_heads"),
    "head_dim": ("head_dim",),
}


def read_hf_config(folder: Path) -> HfConfig:
    """The config beside the weights. Raises BaseError where it is none, or tells of packed ones."""
    path = folder / HF_CONFIG_FILE
    if not path.is_file():
        mend = "name a folder that transformers' save_pretrained wrote, or one of `dlm export`"
        raise ModelError(f"no {HF_CONFIG_FILE} in this folder", where=str(folder), hint=mend)
    config = read_json_object(path)
    if "quantization_config" in config:
        mend = "name the model it was made from; training.adapter: qlora packs it as it is loaded"
        raise ModelError("its weights are packed already", where=str(path), hint=mend)
    return config


def read_json_object(path: Path) -> HfConfig:
    """What a file of settings says. Raises BaseError where it is none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        told = " ".join(str(reason).split())
        raise make_damaged_checkpoint_error(f"cannot be read ({told})", path) from reason
    if not isinstance(read, dict):
        raise make_damaged_checkpoint_error("is no config of a model", path)
    return read


def get_model_family(config: HfConfig) -> str:
    """The class that a config names, as the rows call it."""
    return str(config.get("model_type", "unknown")).removesuffix(THINKER_SUFFIX)


def find_family_spec(config: HfConfig, where: str, source: str = "") -> ModelSpec:
    """The row to begin with: that of `source`, or of its family. Raises BaseError without one."""
    family = get_model_family(config)
    rows = [base for base in MODEL_CATALOG.values() if base.family == family]
    if rows:
        return next((base for base in rows if base.source == source), rows[0])
    classes = config.get("architectures")
    named = str(classes[0]) if isinstance(classes, list) and classes else "no class"
    if named.endswith(("ForCausalLM", "LMHeadModel")):
        raise ModelError(
            f"is a text model ({family})", where=where, hint=f"pick --base {DEFAULT_AUDIO_MODEL}"
        )
    known = sorted({base.family for base in MODEL_CATALOG.values() if base.kind == "native"})
    what = f"is of a class that is not known to hear ({family}, {named})"
    raise ModelError(what, where=where, hint=f"known ones: {', '.join(known)}")


def derive_spec_from_checkpoint(
    spec: ModelSpec, config: HfConfig, weights: TensorIndex
) -> ModelSpec:
    """`row`, with what a checkpoint's config and the heads of its weights say otherwise."""
    whole = get_subconfig(config, "thinker_config") or config
    ear, text = get_subconfig(whole, "audio_config"), get_subconfig(whole, "text_config")
    size = sum(tensor.end - tensor.start for file in weights.values() for tensor in file.values())
    return replace(
        spec,
        audio_spec=_derive_audio_spec(spec.audio_spec, ear),
        num_mel_bins=_get_config_int(ear, ("num_mel_bins",), spec.num_mel_bins),
        sizes=_derive_parameter_counts(spec.sizes, ear, text, weights),
        megabytes=max(1, round(size / 1e6)),
        context_length=min(
            spec.context_length,
            _get_config_int(text, ("max_position_embeddings",), spec.context_length),
        ),
    )


def read_license(folder: Path) -> str:
    """The licence that the README beside the weights names."""
    try:
        text = (folder / MODEL_CARD_FILE).read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return "unknown"
    if not isinstance(front, dict):
        return "unknown"
    return str(front.get("license_name") or front.get("license") or "unknown")


def _derive_audio_spec(
    audio_spec: AudioTokenizerSpec, encoder_config: HfConfig
) -> AudioTokenizerSpec:
    """The window is as long as the encoder has positions, where it has them for a whole one."""
    positions = _get_config_int(encoder_config, ("max_source_positions",), 0)
    if audio_spec.chunk_frames or not positions:
        return audio_spec
    return replace(
        audio_spec, window_samples=positions * audio_spec.encoder_stride * audio_spec.hop_length
    )


def _derive_parameter_counts(
    defaults: ParameterCounts, encoder_config: HfConfig, text_config: HfConfig, weights: TensorIndex
) -> ParameterCounts:
    counted: Counter[str] = Counter()
    for name, tensor in ((name, each) for file in weights.values() for name, each in file.items()):
        counted[next(part for part, form in COMPONENT_PATTERNS.items() if form.search(name))] += (
            tensor.num_elements
        )
    return ParameterCounts(
        encoder=_derive_transformer_shape(defaults.encoder, encoder_config, counted["encoder"]),
        projector=counted["projector"],
        lm=_derive_transformer_shape(defaults.lm, text_config, counted["lm"]),
        embedding=counted["words"],
        vocab_size=_get_config_int(text_config, ("vocab_size",), defaults.vocab_size),
    )


def _derive_transformer_shape(
    defaults: TransformerShape, config: HfConfig, num_parameters: int
) -> TransformerShape:
    """What a config leaves out is as in the released model, from which the class has it."""
    shape = {
        name: _get_config_int(config, keys, vars(defaults)[name])
        for name, keys in SHAPE_CONFIG_KEYS.items()
    }
    same = defaults.num_kv_heads if shape["num_heads"] == defaults.num_heads else shape["num_heads"]
    kv_heads = _get_config_int(config, ("num_key_value_heads",), same)
    return replace(defaults, num_parameters=num_parameters, num_kv_heads=kv_heads, **shape)


def get_subconfig(config: HfConfig, name: str) -> HfConfig:
    """The config inside a config, empty where there is none."""
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _get_config_int(config: HfConfig, keys: tuple[str, ...], default: int) -> int:
    return next((config[name] for name in keys if isinstance(config.get(name), int)), default)


@dataclass(frozen=True)
class ModelRef:
    """What a source names: `named` as it was written, `key` in short, `config` beside its weights.

    `source` is as a Part has it. `facts` are those of a stitched base.
    """

    name: str
    key: str
    source: str
    revision: str
    config: HfConfig
    license: str
    spec: ModelSpec | None = None

    @property
    def tensor_index(self) -> TensorIndex:
        """Its tensors; of what is not here yet, only the heads of the files are fetched."""
        place = find_local_model(self.source, self.revision)
        return read_tensor_index(place) if place else fetch_tensor_index(self.source, self.revision)

    def find_file(self, name: str) -> Path | None:
        """One small file of it, if it has one."""
        place = find_local_model(self.source, self.revision)
        if place is None:
            return download_hub_file_if_exists(self.source, self.revision, name)
        return place / name if (place / name).is_file() else None


def find_catalog_spec(name: str) -> ModelSpec:
    """The row called `name`. Raises BaseError with the nearest key when there is none."""
    if name in MODEL_CATALOG:
        return MODEL_CATALOG[name]
    near = get_close_matches(name, MODEL_CATALOG, n=1)
    known = ", ".join(sorted(MODEL_CATALOG))
    mend = (
        f"known bases: {known}, {HF_PREFIX}org/name, {MODELSCOPE_PREFIX}org/name, or a local folder"
    )
    if near:
        mend = f"did you mean {near[0]}?"
    elif name.count("/") == 1 and name[0].isalnum():
        mend = f"did you mean {HF_PREFIX}{name}?"
    raise ModelError(f"unknown base '{name}'", hint=mend)


def resolve_model_ref(name: str, folder: Path) -> ModelRef:
    """What `name` names; a path is relative to `folder`. Raises BaseError where it is nothing."""
    if name.startswith((HF_PREFIX, MODELSCOPE_PREFIX)):
        repository, _, revision = name.removeprefix(HF_PREFIX).partition("@")
        return _resolve_hub_ref(name, repository, revision or None)
    if name in MODEL_CATALOG:
        return _resolve_catalog_ref(MODEL_CATALOG[name])
    place = (folder / Path(name).expanduser()).absolute()
    return (
        _resolve_local_ref(name, place)
        if place.is_dir()
        else _resolve_catalog_ref(find_catalog_spec(name))
    )


def is_composed_config(config: HfConfig) -> bool:
    """Whether a config is that of a stitched base."""
    return "model_type" not in config and "encoders" in config


def _resolve_hub_ref(name: str, repository: str, requested: str | None) -> ModelRef:
    folder = resolve_snapshot_dir(repository, requested)
    revision, config = folder.name, read_hf_config(folder)
    facts = None
    if is_composed_config(config):
        facts = read_model_spec(download_hub_file(repository, revision, MODEL_SPEC_FILE).parent)
    return ModelRef(
        name=name,
        key=repository.rsplit("/", 1)[-1].lower(),
        source=repository,
        revision=revision,
        config=config,
        license=facts.license if facts else read_license(folder),
        spec=facts,
    )


def _resolve_catalog_ref(spec: ModelSpec) -> ModelRef:
    if spec.key in COMPOSED_MODEL_CONFIGS:
        mend = "name its parts, or begin with it: like: " + spec.key
        raise ModelError(f"{spec.key} is stitched from parts as it is loaded", hint=mend)
    embedded = spec.kind == "stitched"
    place = (
        find_local_model(spec.source, None)
        if embedded
        else resolve_snapshot_dir(spec.source, spec.revision)
    )
    return ModelRef(
        name=spec.key,
        key=spec.key,
        source=spec.source,
        revision=str(spec.revision),
        config=read_hf_config(place) if place else {},
        license=spec.license,
        spec=spec if embedded else None,
    )


def _resolve_local_ref(name: str, path: Path) -> ModelRef:
    config = read_hf_config(path)
    facts = read_model_spec(path) if is_composed_config(config) else None
    return ModelRef(
        name=name,
        key=path.resolve().name.lower(),
        source=str(path),
        revision=fingerprint_checkpoint(path, read_tensor_index(path)),
        config=config,
        license=facts.license if facts else read_license(path),
        spec=facts,
    )


WeightSourceT = TypeVar("WeightSourceT", bound=WeightSource)
ConfigGroupT = TypeVar("ConfigGroupT", bound=BaseConfig)


def inherit_components(config: ComposedModelConfig, folder: Path) -> ComposedModelConfig:
    """The parts, with those of the base it is like where none is given.

    Raises BaseError where that base has none to give.
    """
    if config.like is None:
        return config
    like = get_composition_config(config.like, folder)
    asked = config.model_fields_set - {"like", "encoder", "projector", "lm"}
    changed = {name: value for name, value in config if name in asked}
    if isinstance(config.encoder, EncoderConfig) and isinstance(like.encoder, EncoderConfig):
        changed["encoder"] = _override_weight_source(like.encoder, config.encoder)
    elif config.encoder is not None:
        changed["encoder"] = config.encoder
    mine, theirs = config.projector, like.projector
    if mine is not None:
        changed["projector"] = mine if mine.kind or mine.source else _override_fields(theirs, mine)
    if config.lm is not None:
        changed["lm"] = _override_weight_source(like.lm, config.lm)
    whole = like.model_copy(update=changed)
    if whole.projector is None:
        what = f"{config.like} has no projector that can be taken"
        raise ModelError(what, where="base_model", hint="add 'projector: mlp'")
    return whole


def get_composition_config(name: str, folder: Path) -> ComposedModelConfig:
    """A base as the parts it is stitched from; `folder` is what a path is relative to."""
    if name in COMPOSED_MODEL_CONFIGS:
        return COMPOSED_MODEL_CONFIGS[name]
    origin = resolve_model_ref(name, folder)
    facts, encoder, lm = origin.spec, EncoderConfig(source=name), LanguageModelConfig(source=name)
    if facts is None:
        return ComposedModelConfig(encoder=encoder, lm=lm)
    return ComposedModelConfig(
        encoder=encoder,
        projector=ProjectorConfig(source=name),
        lm=lm,
        prompt=facts.default_prompt or None,
        before=facts.audio_prefix,
        after=facts.audio_suffix,
    )


def _override_weight_source(
    inherited: WeightSourceT | None, override: WeightSourceT
) -> WeightSourceT:
    """A part that comes from elsewhere, or the one it is like with other settings."""
    return (
        override
        if override.source or override.from_scratch
        else _override_fields(inherited, override)
    )


def _override_fields(inherited: ConfigGroupT | None, override: ConfigGroupT) -> ConfigGroupT:
    if inherited is None:
        return override
    named = override.model_fields_set
    return inherited.model_copy(update={name: value for name, value in override if name in named})
