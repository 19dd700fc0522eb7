"""A ModelSpec composed of an encoder, a projector and a language model, without loading them.

    component      from a composed model   from an audio LM    from its own model   from_scratch
    encoder        its encoder             its audio_config    itself               random weights
    lm             its language model      its text_config     itself               random weights

    encoders    input and rates; the first sets the rate      plan/encoder_lm_specs.py
    projector   frames per token, its own size                plan/projector_spec.py
    lm          shape, vocabulary, tokenizer, chat format     plan/encoder_lm_specs.py

Refuses an encoder and a language model that are swapped, classes that are not supported, a
tokenizer of another vocabulary, and `chat: template` without one. Configs and the headers of weight
files say all of it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dlm.config.model_schema import (
    ComposedModelConfig,
    EncoderConfig,
    LanguageModelConfig,
    ProjectorConfig,
)
from dlm.errors import ModelError
from dlm.legacy import AUDIO_SPEC
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.encoder_lm_specs import (
    ENCODER_MODEL_TYPES,
    LM_DEFAULTS,
    MEL_ENCODER_DEFAULTS,
    W2V_BERT_MODEL_TYPE,
    AudioEncoderSpec,
    LanguageModelSpec,
    count_encoder_parameters,
    count_lm_parameters,
    derive_encoder_spec,
    derive_lm_spec,
    get_config_int,
)
from dlm.plan.hub import download_tokenizer, find_local_model
from dlm.plan.model_ref import (
    COMPONENT_PATTERNS,
    LM_CLASS_SUFFIXES,
    TOKENIZER_FILE,
    HfConfig,
    ModelRef,
    derive_spec_from_checkpoint,
    find_family_spec,
    get_architecture_name,
    get_model_family,
    get_subconfig,
    inherit_components,
    resolve_model_ref,
)
from dlm.plan.model_spec import (
    MODEL_CATALOG,
    ComponentRef,
    CompositionSpec,
    ModelSpec,
    ParameterCounts,
    TransformerShape,
)
from dlm.plan.projector_spec import (
    ProjectorDims,
    compute_projector_strides,
    count_projector_parameters,
    get_projector_learning_rate,
    resolve_projector_options,
)
from dlm.plan.safetensors_index import (
    count_tensor_bytes,
    iter_tensor_infos,
    make_damaged_checkpoint_error,
    read_json_object,
)

ChatFormat = Literal["template", "plain"]

BYTE_TOKENIZER = "bytes"
OWN_TOKENIZER = "own"
BYTE_VOCAB_SIZE = 260  # 256 bytes, end of text, both ends of a turn, audio
SPECIAL_TOKEN_ID_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")  # the tokenizer has them
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
SCRATCH_KEY_PREFIX = "new-"  # in keys: before the model type of a component with random weights
AUDIO_LM_FAMILIES = {  # a Whisper is an encoder here: its decoder is no language model by itself
    spec.family
    for spec in MODEL_CATALOG.values()
    if spec.kind == "native" and not spec.is_encoder_decoder
}
TEXT_MODEL_TYPES = {  # of the language model inside an audio LM
    "audioflamingo3": "qwen2",
    "glmasr": "llama",
    "qwen2_audio": "qwen2",
    "qwen3_asr": "qwen3",
    "voxtral": "llama",
}

DEFAULT_AUDIO_TOKEN = "<|audio|>"
DEFAULT_AUDIO_PROMPT = "Transcribe the audio."
DEFAULT_AUDIO_PREFIX = "Listen: "
DEFAULT_AUDIO_SUFFIX = "\n"
DEFAULT_COMPOSED_EPOCHS = 10
DEFAULT_PROJECTOR_KIND = "mlp"  # the kind whose loss falls first
PROJECTOR_BYTES_PER_PARAMETER = 4  # of a new projector


@dataclass(frozen=True, kw_only=True)
class ModelComponent:
    """An encoder or a language model of a composed model.

    Attributes:
        component_ref: its source and config.
        key: its name in the composed model's key.
        license: as its model card names it.
        num_bytes: of its weight files.
    """

    component_ref: ComponentRef
    key: str
    license: str = ""
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class LanguageModelComponent(ModelComponent):
    """The language model of a composed model.

    Attributes:
        lm_spec: its shape and vocabulary.
        tokenizer: as CompositionSpec.tokenizer.
        chat_format: its template, or plain text.
        source_spec: the spec of the composed model that it is from.
    """

    lm_spec: LanguageModelSpec
    tokenizer: str = OWN_TOKENIZER
    chat_format: ChatFormat = "template"
    source_spec: ModelSpec | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderComponent(ModelComponent):
    """An encoder of a composed model.

    Attributes:
        encoder_spec: its input, rates and shape.
        counts_padding: whether silence up to a whole window has tokens.
    """

    encoder_spec: AudioEncoderSpec
    counts_padding: bool = False


@dataclass(frozen=True)
class ProjectorComponent:
    """The projector of a composed model.

    Attributes:
        options: as CompositionSpec.projector.
        weights_revision: of its weights; "" for new ones.
        audio_spec: the rates of the encoders and of the projector.
        num_parameters: its parameters.
    """

    options: dict[str, Any]
    weights_revision: str
    audio_spec: AudioTokenizerSpec
    num_parameters: int


@dataclass(frozen=True)
class _TokenizerSpec:
    tokenizer: str
    has_chat_template: bool
    default_chat_format: ChatFormat
    vocab_size: int = 0  # 0: not counted


def compose_model_spec(config: ComposedModelConfig, folder: Path) -> ModelSpec:
    """Return the spec of a model composed of the components of a config.

    Args:
        config: `base_model` of a document.
        folder: what paths are relative to.

    Raises:
        ModelError: a component is missing, of another kind, or does not fit (`model.*`, `hub.*`).
    """
    config = inherit_components(config, folder)
    encoders = tuple(_build_encoder_component(encoder, folder) for encoder in config.encoders)
    lm = _build_lm_component(config.lm or LanguageModelConfig(), config.chat, folder)
    projector = _build_projector_component(config.projector, encoders, lm, folder)
    composition = CompositionSpec(
        encoders=tuple(encoder.component_ref for encoder in encoders),
        projector=projector.options,
        lm=lm.component_ref,
        tokenizer=lm.tokenizer,
    )
    prefix, suffix, prompt = _get_default_texts(lm)
    spec = ModelSpec(
        key="+".join([*(encoder.key for encoder in encoders), projector.options["kind"], lm.key]),
        kind="stitched",
        family="stitched",
        source="",
        revision=None,
        license=_combine_licenses(encoders, lm),
        audio_spec=projector.audio_spec,
        num_mel_bins=max(encoder.encoder_spec.num_mel_bins for encoder in encoders),
        mel_before_chunking=True,
        placeholder=lm.source_spec.placeholder if lm.source_spec else DEFAULT_AUDIO_TOKEN,
        audio_prefix=prefix if config.before is None else config.before,
        audio_suffix=suffix if config.after is None else config.after,
        default_prompt=prompt if config.prompt is None else config.prompt,
        chat_format=lm.chat_format,
        sizes=ParameterCounts(
            encoder=_combine_encoder_shapes(encoders),
            projector=projector.num_parameters,
            lm=lm.lm_spec.shape,
            embedding=lm.lm_spec.embedding,
            vocab_size=lm.lm_spec.vocab_size,
        ),
        megabytes=_compute_megabytes(encoders, lm, projector),
        context_length=lm.lm_spec.context_length,
        default_adapter="projector" if lm.component_ref.source else "full",
        default_learning_rate=get_projector_learning_rate(projector.options),
        default_epochs=DEFAULT_COMPOSED_EPOCHS,
        encoder_input="wave" if len(encoders) > 1 else encoders[0].encoder_spec.encoder_input,
        composition=composition,
    )
    revision = _compute_composed_revision(spec, composition, projector.weights_revision)
    return replace(spec, revision=revision)


def _get_default_texts(lm: LanguageModelComponent) -> tuple[str, str, str]:
    """Audio prefix, audio suffix and prompt of a config that gives none."""
    if lm.source_spec:
        spec = lm.source_spec
        return spec.audio_prefix, spec.audio_suffix, spec.default_prompt
    # A projector may begin at zeros. Where a model normalizes its embeddings, zeros from the first
    # token on have no gradient, and plain text has no other token before them.
    prefix = DEFAULT_AUDIO_PREFIX if lm.chat_format == "plain" else ""
    return prefix, DEFAULT_AUDIO_SUFFIX, DEFAULT_AUDIO_PROMPT


def is_audio_lm_config(config: Mapping[str, Any]) -> bool:
    """Tell whether a config is that of an audio language model."""
    return get_model_family(dict(config)) in AUDIO_LM_FAMILIES


def _build_lm_component(
    lm_config: LanguageModelConfig, chat_format: ChatFormat | None, folder: Path
) -> LanguageModelComponent:
    """The language model of a config, with its own chat format where `chat_format` is None."""
    model_ref = resolve_model_ref(lm_config.source, folder) if lm_config.source else None
    tokenizer_spec = _resolve_tokenizer(lm_config, model_ref, folder)
    lm = (
        _make_pretrained_lm(model_ref)
        if model_ref
        else _make_scratch_lm(dict(lm_config.from_scratch or {}), tokenizer_spec.vocab_size)
    )
    if chat_format == "template" and not tokenizer_spec.has_chat_template:
        own = model_ref and tokenizer_spec.tokenizer == OWN_TOKENIZER
        raise ModelError(
            "has no chat template",
            where=model_ref.name if model_ref and own else lm_config.tokenizer,
            hint="take base_model.chat out for plain text, or name an instruct model",
            code="model.no_chat_template",
        )
    chat_format = chat_format or tokenizer_spec.default_chat_format
    return replace(lm, tokenizer=tokenizer_spec.tokenizer, chat_format=chat_format)


def _resolve_tokenizer(
    lm_config: LanguageModelConfig, model_ref: ModelRef | None, folder: Path
) -> _TokenizerSpec:
    """The tokenizer that a config names, or the one of the model."""
    if lm_config.tokenizer not in (None, BYTE_TOKENIZER):
        return _resolve_named_tokenizer(str(lm_config.tokenizer), folder)
    if lm_config.tokenizer == BYTE_TOKENIZER or model_ref is None:
        return _TokenizerSpec(BYTE_TOKENIZER, True, "plain", BYTE_VOCAB_SIZE)
    has_template = any(map(model_ref.find_file, CHAT_TEMPLATE_FILES))
    if not has_template and (config_path := model_ref.find_file(TOKENIZER_CONFIG_FILE)):
        has_template = "chat_template" in read_json_object(config_path)
    if model_ref.spec is not None and model_ref.spec.chat_format == "plain":
        return _TokenizerSpec(OWN_TOKENIZER, has_template, "plain")
    return _TokenizerSpec(OWN_TOKENIZER, has_template, "template" if has_template else "plain")


def _resolve_named_tokenizer(name: str, folder: Path) -> _TokenizerSpec:
    """A tokenizer in a folder of this machine, or of another model."""
    path = (folder / Path(name).expanduser()).absolute()
    if not path.is_dir():
        model_ref = resolve_model_ref(name, folder)
        source, revision = model_ref.source, model_ref.revision
        path = find_local_model(source, revision) or download_tokenizer(source, revision)
    config_path, tokenizer_path = path / TOKENIZER_CONFIG_FILE, path / TOKENIZER_FILE
    if not (config_path.is_file() or tokenizer_path.is_file()):
        raise ModelError(
            "holds no tokenizer",
            where=name,
            hint="name a folder that save_pretrained wrote, or bytes",
            code="model.no_tokenizer",
        )
    has_template = any((path / filename).is_file() for filename in CHAT_TEMPLATE_FILES)
    if not has_template and config_path.is_file():
        has_template = "chat_template" in read_json_object(config_path)
    return _TokenizerSpec(
        str(path),
        has_template,
        "template" if has_template else "plain",
        _count_vocabulary(tokenizer_path) if tokenizer_path.is_file() else 0,
    )


def _count_vocabulary(tokenizer_path: Path) -> int:
    """How many token ids a tokenizer.json needs, those of added tokens included."""
    tokenizer = read_json_object(tokenizer_path)
    vocabulary = get_subconfig(tokenizer, "model").get("vocab") or {}  # a list of Unigram models
    try:
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added_ids = (token["id"] for token in tokenizer.get("added_tokens", ()))
        return 1 + max(map(int, (*ids, *added_ids)), default=-1)
    except (TypeError, ValueError, KeyError) as error:
        raise make_damaged_checkpoint_error("is not a tokenizer", tokenizer_path) from error


def _make_scratch_lm(config: HfConfig, vocab_size: int) -> LanguageModelComponent:
    """A language model of random weights, with the tokenizer's vocabulary unless it has its own."""
    model_type = config["model_type"]
    where = f"from_scratch: {model_type}"
    _check_is_language_model(config, where, check_architecture=False)
    if vocab_size:
        config = {"vocab_size": vocab_size, **config}
    config_vocab_size = get_config_int(config, ("vocab_size",), vocab_size)
    if config_vocab_size < vocab_size - 1:  # the placeholder has no embedding
        raise ModelError(
            f"has {config_vocab_size} tokens, and its tokenizer {vocab_size}",
            where=where,
            hint="take vocab_size out",
            code="model.vocab_mismatch",
        )
    config = {**dict.fromkeys(SPECIAL_TOKEN_ID_KEYS), **config}
    return LanguageModelComponent(
        component_ref=ComponentRef("", None, config),
        key=SCRATCH_KEY_PREFIX + model_type,
        lm_spec=derive_lm_spec(config, where=where),
    )


def _make_pretrained_lm(model_ref: ModelRef) -> LanguageModelComponent:
    if model_ref.spec is not None:
        return LanguageModelComponent(
            component_ref=ComponentRef(
                model_ref.source, model_ref.revision, model_ref.config["lm"]
            ),
            key=model_ref.key,
            lm_spec=_get_lm_spec(model_ref.spec),
            license=model_ref.license,
            num_bytes=model_ref.spec.megabytes * 10**6,
            source_spec=model_ref.spec,
        )
    tensor_index, config = model_ref.tensor_index, model_ref.config
    if is_audio_lm_config(config):
        family_spec = find_family_spec(config, model_ref.name)
        lm_spec = _get_lm_spec(derive_spec_from_checkpoint(family_spec, config, tensor_index))
        config = _extract_text_config(model_ref, lm_spec)
    else:
        _check_is_language_model(config, model_ref.name)
        layer_parameters, embedding = count_lm_parameters(tensor_index)
        lm_spec = derive_lm_spec(config, where=model_ref.name)
        shape = replace(lm_spec.shape, num_parameters=layer_parameters)
        lm_spec = replace(lm_spec, shape=shape, embedding=embedding)
    return LanguageModelComponent(
        component_ref=ComponentRef(model_ref.source, model_ref.revision, config),
        key=model_ref.key,
        lm_spec=lm_spec,
        license=model_ref.license,
        num_bytes=count_tensor_bytes(tensor_index),
    )


def _get_lm_spec(spec: ModelSpec) -> LanguageModelSpec:
    sizes = spec.sizes
    return LanguageModelSpec(sizes.lm, sizes.embedding, sizes.vocab_size, spec.context_length)


def _extract_text_config(model_ref: ModelRef, lm_spec: LanguageModelSpec) -> HfConfig:
    """The config of the language model inside an audio LM."""
    family = get_model_family(model_ref.config)
    if family not in TEXT_MODEL_TYPES:
        raise ModelError(
            f"the language model of {family} cannot be taken out of it",
            where=model_ref.name,
            hint="name a language model by itself",
            code="model.unsupported_class",
        )
    tied = lm_spec.embedding == lm_spec.vocab_size * lm_spec.shape.hidden_size
    return {
        "model_type": TEXT_MODEL_TYPES[family],
        **get_subconfig(model_ref.config, "text_config"),
        "tie_word_embeddings": tied,
    }


def _check_is_language_model(
    config: Mapping[str, Any], where: str, *, check_architecture: bool = True
) -> None:
    """Refuse other classes; a config of random weights names no architecture to check."""
    model_type = str(config.get("model_type", "unknown"))
    if model_type in ENCODER_MODEL_TYPES or "encoder_layers" in config:
        raise ModelError(
            f"is an encoder ({model_type}), not a language model",
            where=where,
            hint="name it under encoder: the two are swapped",
            code="model.not_a_language_model",
        )
    architecture = get_architecture_name(config)
    known = model_type in LM_DEFAULTS or architecture.endswith(LM_CLASS_SUFFIXES)
    if check_architecture and not known:
        raise ModelError(
            f"is not a language model ({model_type}, {architecture or 'no class'})",
            where=where,
            hint="name one that continues text, such as hf:Qwen/Qwen3-4B",
            code="model.not_a_language_model",
        )


def _build_encoder_component(encoder_config: EncoderConfig, folder: Path) -> EncoderComponent:
    """The encoder of a config, with its layer and its padding."""
    if encoder_config.from_scratch is not None:
        config = encoder_config.from_scratch
        where = f"from_scratch: {config['model_type']}"
        _check_is_encoder(config, where)
        encoder = EncoderComponent(
            component_ref=ComponentRef("", None, config, encoder_config.layer),
            key=SCRATCH_KEY_PREFIX + config["model_type"],
            encoder_spec=derive_encoder_spec(config, encoder_config.layer, where=where),
        )
    else:
        model_ref = resolve_model_ref(str(encoder_config.source), folder)
        encoder = _make_pretrained_encoder(model_ref, encoder_config)
    if encoder_config.pad:
        _check_padding(encoder)
        return replace(encoder, counts_padding=True)
    return encoder


def _make_pretrained_encoder(
    model_ref: ModelRef, encoder_config: EncoderConfig
) -> EncoderComponent:
    if model_ref.spec is not None:
        return _make_encoder_from_composed(model_ref, model_ref.spec, encoder_config)
    tensor_index, config = model_ref.tensor_index, model_ref.config
    if is_audio_lm_config(config):
        config = _extract_audio_config(config, model_ref.name)
        num_parameters = sum(
            tensor.num_elements
            for name, tensor in iter_tensor_infos(tensor_index)
            if COMPONENT_PATTERNS["encoder"].search(name)
        )
    else:
        num_parameters = count_encoder_parameters(tensor_index)
    _check_is_encoder(config, model_ref.name)
    if config.get("model_type") not in (*MEL_ENCODER_DEFAULTS, W2V_BERT_MODEL_TYPE):
        config = {**config, **_read_normalization_config(model_ref)}
    encoder_spec = derive_encoder_spec(config, encoder_config.layer, where=model_ref.name)
    shape = replace(encoder_spec.shape, num_parameters=num_parameters)
    return EncoderComponent(
        component_ref=ComponentRef(
            model_ref.source, model_ref.revision, config, encoder_config.layer
        ),
        key=model_ref.key,
        encoder_spec=replace(encoder_spec, shape=shape),
        license=model_ref.license,
        num_bytes=count_tensor_bytes(tensor_index),
    )


def _make_encoder_from_composed(
    model_ref: ModelRef, spec: ModelSpec, encoder_config: EncoderConfig
) -> EncoderComponent:
    """The encoder of a composed model, with the layer and padding it has there."""
    encoders = model_ref.config["encoders"]
    if len(encoders) != 1:
        raise ModelError(
            "has two encoders, which cannot be taken apart",
            where=model_ref.name,
            hint="name the two by their own sources",
            code="model.two_encoders",
        )
    config, layer = encoders[0]["config"], encoders[0]["layer"]
    if "layer" in encoder_config.model_fields_set:
        layer = encoder_config.layer
    encoder_spec = derive_encoder_spec(config, layer, where=model_ref.name)
    shape = replace(encoder_spec.shape, num_parameters=spec.sizes.encoder.num_parameters)
    return EncoderComponent(
        component_ref=ComponentRef(model_ref.source, model_ref.revision, config, layer),
        key=model_ref.key,
        encoder_spec=replace(encoder_spec, shape=shape),
        counts_padding=spec.audio_spec.pad_mode == "counted",
        license=model_ref.license,
        num_bytes=spec.megabytes * 10**6,
    )


def _extract_audio_config(config: HfConfig, where: str) -> HfConfig:
    """The config of the encoder inside an audio LM."""
    family = get_model_family(config)
    config = get_subconfig(config, "thinker_config") or config
    encoder_config = {"model_type": f"{family}_encoder", **get_subconfig(config, "audio_config")}
    if encoder_config["model_type"] not in ENCODER_MODEL_TYPES:
        raise ModelError(
            f"the encoder of {family} cannot be taken out of it",
            where=where,
            hint=f"known encoders are {', '.join(ENCODER_MODEL_TYPES)}",
            code="model.unsupported_class",
        )
    return encoder_config


def _check_is_encoder(config: Mapping[str, Any], where: str) -> None:
    """Refuse a language model; `derive_encoder_spec` refuses other classes."""
    model_type = str(config.get("model_type", "unknown"))
    if model_type in LM_DEFAULTS or get_architecture_name(config).endswith(LM_CLASS_SUFFIXES):
        raise ModelError(
            f"is a language model ({model_type}), not an audio encoder",
            where=where,
            hint="name it under lm: the two are swapped",
            code="model.not_an_encoder",
        )


def _read_normalization_config(model_ref: ModelRef) -> HfConfig:
    """Whether waveforms are normalized to mean 0 and variance 1, where the checkpoint says it."""
    path = model_ref.find_file("preprocessor_config.json")
    value = read_json_object(path).get("do_normalize") if path else None
    return {"do_normalize": value} if isinstance(value, bool) else {}


def _check_padding(encoder: EncoderComponent) -> None:
    """Refuse padding to 30 s where an encoder has no window of 30 s."""
    window_seconds = encoder.encoder_spec.audio_spec.window_seconds
    if encoder.encoder_spec.encoder_input != "mel" or window_seconds != 30:
        raise ModelError(
            f"takes audio at its own length, or {window_seconds:g} s at once, not 30 s",
            where=encoder.key,
            hint="take encoder.pad out",
            code="model.bad_pad",
        )


def _build_projector_component(
    projector_config: ProjectorConfig | None,
    encoders: tuple[EncoderComponent, ...],
    lm: LanguageModelComponent,
    folder: Path,
) -> ProjectorComponent:
    """The projector of a config, at the rate of the first encoder."""
    config = projector_config or ProjectorConfig()
    if not (config.kind or config.source):
        config = config.model_copy(update={"kind": DEFAULT_PROJECTOR_KIND})
    audio_spec, out_features = _combine_audio_specs(encoders), lm.lm_spec.shape.hidden_size
    encoder_dims = tuple(
        (encoder.encoder_spec.num_hidden_states, encoder.encoder_spec.shape.hidden_size)
        for encoder in encoders
    )
    samples_per_frame = audio_spec.hop_length * audio_spec.encoder_stride
    frames_per_second = audio_spec.sample_rate / samples_per_frame
    dims = ProjectorDims(encoder_dims, out_features, frames_per_second)
    options, weights_revision = resolve_projector_options(config, dims, folder)
    stride, num_queries = compute_projector_strides(options, frames_per_second)
    return ProjectorComponent(
        options=options,
        weights_revision=weights_revision,
        audio_spec=replace(audio_spec, projector_stride=stride, num_queries=num_queries),
        num_parameters=count_projector_parameters(
            options, encoder_dims, stride=stride, out_features=out_features
        ),
    )


def _combine_audio_specs(encoders: tuple[EncoderComponent, ...]) -> AudioTokenizerSpec:
    """The rates of the first encoder, in samples of the waveform where there are several."""
    audio_specs = [encoder.encoder_spec.audio_spec for encoder in encoders]
    audio_spec = audio_specs[0]
    if len(encoders) > 1 and encoders[0].encoder_spec.encoder_input == "mel":
        samples_per_frame = audio_spec.encoder_stride * audio_spec.hop_length
        audio_spec = replace(audio_spec, hop_length=1, encoder_stride=samples_per_frame)
    return replace(
        audio_spec,
        window_samples=min(spec.window_samples for spec in audio_specs),
        min_samples=max(spec.min_samples for spec in audio_specs),
        pad_mode="counted" if any(encoder.counts_padding for encoder in encoders) else "none",
    )


def _combine_encoder_shapes(encoders: tuple[EncoderComponent, ...]) -> TransformerShape:
    """The largest encoder, with the parameters of all."""
    shapes = [encoder.encoder_spec.shape for encoder in encoders]
    largest = max(shapes, key=lambda shape: shape.hidden_size * shape.num_layers)
    return replace(largest, num_parameters=sum(shape.num_parameters for shape in shapes))


def _combine_licenses(encoders: tuple[EncoderComponent, ...], lm: LanguageModelComponent) -> str:
    licenses = [*(encoder.license for encoder in encoders), lm.license]
    return " and ".join(dict.fromkeys(filter(None, licenses))) or "none"


def _compute_megabytes(
    encoders: tuple[EncoderComponent, ...],
    lm: LanguageModelComponent,
    projector: ProjectorComponent,
) -> int:
    """What is downloaded or on disk, a source of two components once, and the projector."""
    components: tuple[ModelComponent, ...] = (lm, *encoders)
    source_bytes = {component.component_ref.source: component.num_bytes for component in components}
    projector_bytes = projector.num_parameters * PROJECTOR_BYTES_PER_PARAMETER
    return max(1, round((sum(source_bytes.values()) + projector_bytes) / 1e6))


def _compute_composed_revision(
    spec: ModelSpec, composition: CompositionSpec, weights_revision: str
) -> str:
    """A hash of all components, their configs, the projector, the tokenizer and the chat format.

    Folders are left out, because they may be moved. The text that is hashed has the field names of
    dlm 0.1: a composed model keeps the revision that its versions were trained on.
    """
    audio_values = ", ".join(
        f"{old_name}={vars(spec.audio_spec)[name]!r}"
        for old_name, name in AUDIO_SPEC.items()
        if isinstance(name, str)
    )
    texts = (
        *(spec.placeholder, spec.audio_prefix, spec.audio_suffix),
        *(spec.chat_format, spec.encoder_input),
    )
    components = [
        [bool(component.source), component.revision, component.config, component.layer]
        for component in (*composition.encoders, composition.lm)
    ]
    tokenizer_path = Path(composition.tokenizer) / TOKENIZER_FILE
    tokenizer = (
        tokenizer_path.read_bytes() if tokenizer_path.is_file() else composition.tokenizer.encode()
    )
    projector = {name: value for name, value in composition.projector.items() if name != "source"}
    text = json.dumps(
        [components, projector, weights_revision, f"(Strides({audio_values}), {repr(texts)[1:]}"],
        sort_keys=True,
    )
    return hashlib.sha256(text.encode() + tokenizer).hexdigest()[:40]
