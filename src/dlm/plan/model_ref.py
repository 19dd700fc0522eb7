"""What a model's name or folder refers to, and its ModelSpec derived from its own files.

    sparrow                  a key of the catalog        config.json    class, shapes, mel bins,
    hf:org/name[@revision]   a model on the hub                         window, context length
    ms:org/name[@revision]   a model on ModelScope       safetensors    parameters per component
    ./folder                 on this machine             README.md      licence

`ModelRef` is the source, revision and config of a model before its weights are downloaded.
`derive_spec_from_checkpoint` starts from the catalog's spec of the same family.
`inherit_components` resolves `base_model: {like: ...}`: components that a document does not give
are those of the model it names.

    {like: sparrow, projector: mlp}        sparrow's encoder and language model, a new projector
    {like: sparrow, encoder: {layer: 2}}   all of sparrow, with the encoder's second layer
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from dlm.config.base_config import BaseConfig
from dlm.config.model_schema import (
    ComposedModelConfig,
    EncoderConfig,
    LanguageModelConfig,
    ProjectorConfig,
    WeightSource,
)
from dlm.errors import ModelError, suggest_name
from dlm.io import read_regular_file
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.encoder_lm_specs import ENCODER_CONFIG_KEYS, get_config_int
from dlm.plan.hub import (
    HF_PREFIX,
    MODEL_CARD_FILE,
    MODELSCOPE_PREFIX,
    download_hub_file,
    fetch_tensor_index,
    find_local_model,
    resolve_snapshot_dir,
)
from dlm.plan.model_spec import (
    COMPOSED_MODEL_CONFIGS,
    DEFAULT_AUDIO_MODEL,
    MODEL_CATALOG,
    MODEL_SPEC_FILE,
    LayerSelection,
    ModelSpec,
    ParameterCounts,
    TransformerShape,
    list_whisper_languages,
    read_model_spec,
)
from dlm.plan.safetensors_index import (
    HF_CONFIG_FILE,
    TensorIndex,
    count_tensor_bytes,
    find_other_format,
    fingerprint_checkpoint,
    iter_tensor_infos,
    make_damaged_checkpoint_error,
    read_json_object,
    read_tensor_index,
)

HfConfig = dict[str, Any]  # a config.json of transformers


@dataclass(frozen=True)
class _EncoderEntry:
    config: HfConfig
    layer: LayerSelection


@dataclass(frozen=True)
class _ComposedModelEntries:
    """The config.json of a composed model."""

    encoders: Annotated[list[_EncoderEntry], Field(min_length=1)]
    projector: HfConfig
    lm: HfConfig


_COMPOSED_CONFIG_TYPE_ADAPTER = TypeAdapter(_ComposedModelEntries)

GENERATION_CONFIG_FILE = "generation_config.json"  # tokens that are never generated, and languages
TOKENIZER_FILE, TOKENIZER_VOCAB_FILE = "tokenizer.json", "vocab.json"  # the second is older
THINKER_SUFFIX = "_thinker"  # the half of an Omni model that takes audio; its config is a subconfig
LM_CLASS_SUFFIXES = ("ForCausalLM", "LMHeadModel")  # how classes of language models end
COMPONENT_PATTERNS = {  # by the names of tensors; the first that matches
    "other": re.compile(r"^(talker|token2wav|code2wav)\."),  # speech output, which is not loaded
    "projector": re.compile(r"multi_modal_projector|audio_tower\.proj\d?\."),
    # vision is frozen, as the encoder is; the last is Whisper's
    "encoder": re.compile(r"audio_tower|(^|\.)visual\.|^model\.encoder\."),
    "embedding": re.compile(r"embed_tokens|lm_head|proj_out"),
    "lm": re.compile(""),
}
SHAPE_CONFIG_KEYS = {**ENCODER_CONFIG_KEYS, "head_dim": ("head_dim",)}


def read_hf_config(folder: Path) -> HfConfig:
    """Read the config.json beside weights.

    Raises:
        ModelError: there is none (`model.no_config`, `model.other_format`), it cannot be read
            (`model.damaged_checkpoint`), or its weights are quantized (`model.quantized`).
    """
    path = folder / HF_CONFIG_FILE
    if not path.is_file():
        raise find_other_format(folder) or ModelError(
            f"no {HF_CONFIG_FILE} in this folder",
            where=str(folder),
            hint="name a folder that transformers' save_pretrained wrote, or one of `dlm export`",
            code="model.no_config",
        )
    config = read_json_object(path)
    if "quantization_config" in config:
        raise ModelError(
            "its weights are quantized already",
            where=str(path),
            hint="name the model it was made from; training.adapter: qlora quantizes it as it is"
            " loaded",
            code="model.quantized",
        )
    return config


def get_model_family(config: HfConfig) -> str:
    """Return the model type of a config, as ModelSpec.family has it."""
    return str(config.get("model_type", "unknown")).removesuffix(THINKER_SUFFIX)


def get_architecture_name(config: Mapping[str, Any]) -> str:
    """Return the class that a config names; "" where it names none."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def get_subconfig(config: HfConfig, name: str) -> HfConfig:
    """Return the config inside a config; empty where there is none."""
    subconfig = config.get(name)
    return subconfig if isinstance(subconfig, dict) else {}


def is_composed_config(config: HfConfig) -> bool:
    """Tell whether a config is that of a composed model that dlm wrote."""
    return "model_type" not in config and "encoders" in config


def _read_composed_spec(folder: Path, config: HfConfig) -> ModelSpec:
    """The spec beside a composed model's weights, its config.json checked."""
    try:
        _COMPOSED_CONFIG_TYPE_ADAPTER.validate_python(config)
    except ValidationError as error:
        what = "is not the config of a composed model"
        raise make_damaged_checkpoint_error(what, folder / HF_CONFIG_FILE) from error
    return read_model_spec(folder)


def find_family_spec(config: HfConfig, where: str, source: str = "") -> ModelSpec:
    """Return the catalog's spec of a model: that of its source, or the first of its family.

    Args:
        config: the model's config.json.
        where: the model, as errors name it.
        source: its repository on a hub.

    Raises:
        ModelError: it is a text model (`model.text_only`) or of a class that is not supported
            (`model.unsupported_class`).
    """
    family = get_model_family(config)
    family_specs = [spec for spec in MODEL_CATALOG.values() if spec.family == family]
    if family_specs:
        same_source = (spec for spec in family_specs if spec.source == source)
        return next(same_source, family_specs[0])
    architecture = get_architecture_name(config)
    if architecture.endswith(LM_CLASS_SUFFIXES):
        raise ModelError(
            f"is a text model ({family})",
            where=where,
            hint=f"pick --base {DEFAULT_AUDIO_MODEL}",
            code="model.text_only",
        )
    supported = sorted({spec.family for spec in MODEL_CATALOG.values() if spec.kind == "native"})
    raise ModelError(
        f"is of a class that is not supported ({family}, {architecture or 'no class'})",
        where=where,
        hint=f"supported are {', '.join(supported)}",
        code="model.unsupported_class",
    )


def derive_spec_from_checkpoint(
    spec: ModelSpec, config: HfConfig, tensor_index: TensorIndex
) -> ModelSpec:
    """Return a family's spec with what a checkpoint's config and weight files say otherwise."""
    config = get_subconfig(config, "thinker_config") or config
    if spec.is_encoder_decoder:
        return _derive_encoder_decoder_spec(spec, config, tensor_index)
    encoder_config = get_subconfig(config, "audio_config")
    text_config = get_subconfig(config, "text_config")
    max_positions = get_config_int(text_config, ("max_position_embeddings",), spec.context_length)
    return replace(
        spec,
        audio_spec=_derive_audio_spec(spec.audio_spec, encoder_config),
        num_mel_bins=get_config_int(encoder_config, ("num_mel_bins",), spec.num_mel_bins),
        sizes=_derive_parameter_counts(spec.sizes, encoder_config, text_config, tensor_index),
        megabytes=max(1, round(count_tensor_bytes(tensor_index) / 1e6)),
        context_length=min(spec.context_length, max_positions),
    )


def _derive_encoder_decoder_spec(
    spec: ModelSpec, config: HfConfig, tensor_index: TensorIndex
) -> ModelSpec:
    """The spec of a Whisper, whose config holds encoder and decoder side by side."""
    decoder_config = {
        "num_hidden_layers": config.get("decoder_layers"),
        "hidden_size": config.get("d_model"),
        "intermediate_size": config.get("decoder_ffn_dim"),
        "num_attention_heads": config.get("decoder_attention_heads"),
        "vocab_size": config.get("vocab_size"),
    }
    sizes = _derive_parameter_counts(spec.sizes, config, decoder_config, tensor_index)
    return replace(
        spec,
        audio_spec=_derive_audio_spec(spec.audio_spec, config),
        num_mel_bins=get_config_int(config, ("num_mel_bins",), spec.num_mel_bins),
        sizes=sizes,
        megabytes=max(1, round(count_tensor_bytes(tensor_index) / 1e6)),
        context_length=get_config_int(config, ("max_target_positions",), spec.context_length),
        languages=list_whisper_languages(sizes.vocab_size),
    )


def _derive_audio_spec(
    audio_spec: AudioTokenizerSpec, encoder_config: HfConfig
) -> AudioTokenizerSpec:
    """The window has as many frames as the encoder has positions, if those span a window."""
    positions = get_config_int(encoder_config, ("max_source_positions",), 0)
    if audio_spec.chunk_frames or not positions:
        return audio_spec
    samples_per_position = audio_spec.encoder_stride * audio_spec.hop_length
    return replace(audio_spec, window_samples=positions * samples_per_position)


def _derive_parameter_counts(
    defaults: ParameterCounts,
    encoder_config: HfConfig,
    text_config: HfConfig,
    tensor_index: TensorIndex,
) -> ParameterCounts:
    counts: Counter[str] = Counter()
    for name, tensor in iter_tensor_infos(tensor_index):
        matches = (key for key, pattern in COMPONENT_PATTERNS.items() if pattern.search(name))
        counts[next(matches)] += tensor.num_elements
    return ParameterCounts(
        encoder=_derive_shape(defaults.encoder, encoder_config, counts["encoder"]),
        projector=counts["projector"],
        lm=_derive_shape(defaults.lm, text_config, counts["lm"]),
        embedding=counts["embedding"],
        vocab_size=get_config_int(text_config, ("vocab_size",), defaults.vocab_size),
    )


def _derive_shape(
    defaults: TransformerShape, config: HfConfig, num_parameters: int
) -> TransformerShape:
    """What a config leaves out is a default of its class, which the released model has too."""
    shape: dict[str, Any] = {
        field: get_config_int(config, keys, vars(defaults)[field])
        for field, keys in SHAPE_CONFIG_KEYS.items()
    }
    same_heads = shape["num_heads"] == defaults.num_heads
    default_kv_heads = defaults.num_kv_heads if same_heads else shape["num_heads"]
    num_kv_heads = get_config_int(config, ("num_key_value_heads",), default_kv_heads)
    return replace(defaults, num_parameters=num_parameters, num_kv_heads=num_kv_heads, **shape)


def read_license(folder: Path) -> str:
    """Return the licence that the model card beside weights names, or "unknown"."""
    try:
        text = read_regular_file(folder / MODEL_CARD_FILE).decode()
        metadata = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, RecursionError, yaml.YAMLError):
        return "unknown"
    if not isinstance(metadata, dict):
        return "unknown"
    return str(metadata.get("license_name") or metadata.get("license") or "unknown")


@dataclass(frozen=True)
class ModelRef:
    """A model that a name refers to, its weights not downloaded yet.

    Attributes:
        name: as it was written.
        key: its short name, of which a composed model's key is made.
        source: as ModelSpec.source.
        revision: the commit, or a fingerprint of a folder.
        config: its config.json.
        license: as its card names it.
        spec: its dlm_base.json, of a composed model.
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
        """Read the headers of its weight files, here or on the hub."""
        folder = find_local_model(self.source, self.revision)
        if folder is None:
            return fetch_tensor_index(self.source, self.revision)
        return read_tensor_index(folder)

    def find_file(self, filename: str) -> Path | None:
        """Return one small file of it, if it has one."""
        folder = find_local_model(self.source, self.revision)
        if folder is None:
            return download_hub_file(self.source, self.revision, filename)
        return folder / filename if (folder / filename).is_file() else None


def read_languages(model_ref: ModelRef, spec: ModelSpec) -> tuple[str, ...]:
    """Return the languages of an encoder-decoder model: of its generation config, if it lists them.

    Raises:
        ModelError: the folder has no generation config (`model.no_generation_config`) or no
            tokenizer (`model.no_tokenizer`), without which its tokens have no meaning.
    """
    path = model_ref.find_file(GENERATION_CONFIG_FILE)
    if path is None:
        raise ModelError(
            f"no {GENERATION_CONFIG_FILE} beside these weights",
            where=model_ref.source,
            hint=f"copy it from the model it was made from, such as {HF_PREFIX}{spec.source}",
            code="model.no_generation_config",
        )
    if not any(map(model_ref.find_file, (TOKENIZER_FILE, TOKENIZER_VOCAB_FILE))):
        raise ModelError(
            "holds no tokenizer",
            where=model_ref.source,
            hint=f"copy {TOKENIZER_FILE} from the model it was made from, such as "
            f"{HF_PREFIX}{spec.source}",
            code="model.no_tokenizer",
        )
    token_ids = read_json_object(path).get("lang_to_id")
    if not isinstance(token_ids, dict):
        return spec.languages
    return tuple(str(token).strip("<|>") for token in token_ids)


def is_hub_model_name(name: str) -> bool:
    """Tell whether a name is one of a hub: hf:org/name or ms:org/name."""
    return name.startswith((HF_PREFIX, MODELSCOPE_PREFIX))


def find_catalog_spec(name: str) -> ModelSpec:
    """Return the spec of a key. Raises ModelError with the closest key (`model.unknown`)."""
    if name in MODEL_CATALOG:
        return MODEL_CATALOG[name]
    if closest := suggest_name(name, MODEL_CATALOG):
        hint = f"did you mean {closest}?"
    elif name.count("/") == 1 and name[0].isalnum():
        hint = f"did you mean {HF_PREFIX}{name}?"
    else:
        keys = ", ".join(sorted(MODEL_CATALOG))
        hint = (
            f"known bases: {keys}, {HF_PREFIX}org/name, {MODELSCOPE_PREFIX}org/name, "
            "or a local folder"
        )
    raise ModelError(f"unknown base '{name}'", hint=hint, code="model.unknown")


def resolve_model_ref(name: str, folder: Path) -> ModelRef:
    """Return the model with weights of its own that a name refers to.

    Args:
        name: a key of the catalog, a name of a hub, or a path.
        folder: what a path is relative to.

    Raises:
        ModelError: there is none (`model.unknown`, `hub.*`), it cannot be read, or it is a
            catalog key that stands for several models (`model.composed`).
    """
    if is_hub_model_name(name):
        return _resolve_hub_ref(name)
    path = (folder / Path(name).expanduser()).absolute()
    if name not in MODEL_CATALOG and path.is_dir():
        return _resolve_local_ref(name, path)
    return _resolve_catalog_ref(find_catalog_spec(name))


def _resolve_hub_ref(name: str) -> ModelRef:
    """The model of a hub's name; its config is downloaded where the cache has none."""
    repo_id, _, requested = name.removeprefix(HF_PREFIX).partition("@")
    folder = resolve_snapshot_dir(repo_id, requested or None)
    revision, config, spec = folder.name, read_hf_config(folder), None
    if is_composed_config(config):
        download_hub_file(repo_id, revision, MODEL_SPEC_FILE)
        spec = _read_composed_spec(folder, config)
    return ModelRef(
        name=name,
        key=repo_id.rsplit("/", 1)[-1].lower(),
        source=repo_id,
        revision=revision,
        config=config,
        license=spec.license if spec else read_license(folder),
        spec=spec,
    )


def _resolve_catalog_ref(spec: ModelSpec) -> ModelRef:
    if spec.key in COMPOSED_MODEL_CONFIGS:
        raise ModelError(
            f"{spec.key} is composed of several models as it is loaded",
            hint=f"name one of them, or begin with it: like: {spec.key}",
            code="model.composed",
        )
    bundled = spec.kind == "stitched"
    folder = (
        find_local_model(spec.source, None)
        if bundled
        else resolve_snapshot_dir(spec.source, spec.revision)
    )
    return ModelRef(
        name=spec.key,
        key=spec.key,
        source=spec.source,
        revision=str(spec.revision),
        config=read_hf_config(folder) if folder else {},
        license=spec.license,
        spec=spec if bundled else None,
    )


def _resolve_local_ref(name: str, path: Path) -> ModelRef:
    config = read_hf_config(path)
    spec = _read_composed_spec(path, config) if is_composed_config(config) else None
    return ModelRef(
        name=name,
        key=path.resolve().name.lower(),
        source=str(path),
        revision=fingerprint_checkpoint(path, read_tensor_index(path)),
        config=config,
        license=spec.license if spec else read_license(path),
        spec=spec,
    )


WeightSourceT = TypeVar("WeightSourceT", bound=WeightSource)
ConfigT = TypeVar("ConfigT", bound=BaseConfig)


def inherit_components(config: ComposedModelConfig, folder: Path) -> ComposedModelConfig:
    """Return a config whose missing components are those of the model that `like` names.

    Raises:
        ModelError: that model has no projector to inherit (`model.no_projector`).
    """
    if config.like is None:
        return config
    inherited = _get_composition_config(config.like, folder)
    given_fields = config.model_fields_set - {"like", "encoder", "projector", "lm"}
    changes = {field: value for field, value in config if field in given_fields}
    if isinstance(config.encoder, EncoderConfig) and isinstance(inherited.encoder, EncoderConfig):
        changes["encoder"] = _override_weight_source(inherited.encoder, config.encoder)
    elif config.encoder is not None:
        changes["encoder"] = config.encoder
    if config.projector is not None:
        is_other = config.projector.kind or config.projector.source
        changes["projector"] = (
            config.projector
            if is_other
            else _override_fields(inherited.projector, config.projector)
        )
    if config.lm is not None:
        changes["lm"] = _override_weight_source(inherited.lm, config.lm)
    complete = inherited.model_copy(update=changes)
    if complete.projector is None:
        raise ModelError(
            f"{config.like} has no projector to inherit",
            where="base_model",
            hint="add 'projector: mlp'",
            code="model.no_projector",
        )
    return complete


def _get_composition_config(name: str, folder: Path) -> ComposedModelConfig:
    """A model as a config of its components."""
    if name in COMPOSED_MODEL_CONFIGS:
        return COMPOSED_MODEL_CONFIGS[name]
    spec = resolve_model_ref(name, folder).spec
    encoder, lm = EncoderConfig(source=name), LanguageModelConfig(source=name)
    if spec is None:
        return ComposedModelConfig(encoder=encoder, lm=lm)
    return ComposedModelConfig(
        encoder=encoder,
        projector=ProjectorConfig(source=name),
        lm=lm,
        prompt=spec.default_prompt or None,
        before=spec.audio_prefix,
        after=spec.audio_suffix,
    )


def _override_weight_source(
    inherited: WeightSourceT | None, override: WeightSourceT
) -> WeightSourceT:
    """A component of other weights, or the inherited one with other settings."""
    is_other = override.source or override.from_scratch
    return override if is_other else _override_fields(inherited, override)


def _override_fields(inherited: ConfigT | None, override: ConfigT) -> ConfigT:
    if inherited is None:
        return override
    given = override.model_fields_set
    return inherited.model_copy(update={name: value for name, value in override if name in given})
