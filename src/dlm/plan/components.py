"""What thinks in a stitched base: a language model, from its source or its config.

a stitched base      its language model
a model that hears   its language model (text_config)
a language model     itself
from_scratch         random weights of a config, with a tokenizer of bytes or another's

What hears in a stitched base: an encoder, from its source or its config.

a stitched base      its encoder
a model that hears   its tower (audio_config)
an encoder           itself
from_scratch         random weights of a config

A base from its parts: what each part tells, and what follows when they are joined.

    encoders    what they take, how fast they read: the first sets the rate    plan/parts.py
    projector   frames of a token, its own size                                plan/projectors.py
    lm          its shape, its words, its form of conversation                 plan/minds.py

Nothing is loaded here: config files and the heads of weight files tell all of it.
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
)
from dlm.plan.hub import TensorIndex, download_tokenizer, find_local_model
from dlm.plan.model_ref import (
    COMPONENT_PATTERNS,
    HfConfig,
    ModelRef,
    derive_spec_from_checkpoint,
    find_family_spec,
    get_model_family,
    get_subconfig,
    inherit_components,
    read_json_object,
    resolve_model_ref,
)
from dlm.plan.model_spec import (
    MODEL_CATALOG,
    ComponentRef,
    CompositionSpec,
    LayerSelection,
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

ChatFormat = Literal["template", "plain"]

BYTE_TOKENIZER = "bytes"
OWN_TOKENIZER = "own"
BYTE_VOCAB_SIZE = 260  # 256 bytes, the end of a text, both ends of a turn, sound
SPECIAL_TOKEN_ID_KEYS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)  # which are the tokenizer's to say
TEXT_MODEL_TYPES = {
    "audioflamingo3": "qwen2",
    "glmasr": "llama",
    "qwen2_audio": "qwen2",
    "voxtral": "llama",
}
TEXT_MODEL_TYPES |= {"qwen3_asr": "qwen3"}
TOKENIZER_CONFIG_FILE, TOKENIZER_FILE = "tokenizer_config.json", "tokenizer.json"
CHAT_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class LanguageModelComponent:
    """What thinks; `bytes` are those of its files, `facts` those of the stitched base it is from.

    `tokenizer` is as a Recipe has it.
    """

    component_ref: ComponentRef
    key: str
    lm_spec: LanguageModelSpec
    tokenizer: str
    chat_format: ChatFormat
    license: str = ""
    num_bytes: int = 0
    source_spec: ModelSpec | None = None


@dataclass(frozen=True)
class _TokenizerSpec:
    """A tokenizer: where it lies, whether it has a template, the form that is usual with it."""

    tokenizer: str
    has_chat_template: bool
    default_chat_format: ChatFormat | None
    vocab_size: int = 0  # 0: not counted


def build_lm_component(
    lm_config: LanguageModelConfig, chat_format: ChatFormat | None, folder: Path
) -> LanguageModelComponent:
    """What the plan needs of a language model that is to speak in this form, or in its own.

    Raises BaseError where it is none, or has not that form.
    """
    origin = resolve_model_ref(lm_config.source, folder) if lm_config.source else None
    words = _resolve_tokenizer(lm_config, origin, folder)
    mind = (
        _make_pretrained_lm(origin)
        if origin
        else _make_scratch_lm(dict(lm_config.from_scratch or {}), words.vocab_size)
    )
    form = chat_format or words.default_chat_format
    if form is None or (form == "template" and not words.has_chat_template):
        where = origin.name if origin and words.tokenizer == OWN_TOKENIZER else lm_config.tokenizer
        mend = "set base_model.chat to plain, or name an instruct model"
        raise ModelError("has no chat template", where=where, hint=mend)
    return replace(mind, tokenizer=words.tokenizer, chat_format=form)


def _resolve_tokenizer(
    lm_config: LanguageModelConfig, model_ref: ModelRef | None, folder: Path
) -> _TokenizerSpec:
    """The tokenizer that is asked for, or the one that goes with the model."""
    if lm_config.tokenizer == BYTE_TOKENIZER or (model_ref is None and lm_config.tokenizer is None):
        return _TokenizerSpec(BYTE_TOKENIZER, True, "plain", BYTE_VOCAB_SIZE)
    if lm_config.tokenizer is not None:
        return _resolve_named_tokenizer(lm_config.tokenizer, folder, from_scratch=model_ref is None)
    template = model_ref is not None and any(map(model_ref.find_file, CHAT_TEMPLATE_FILES))
    settings = model_ref.find_file(TOKENIZER_CONFIG_FILE) if model_ref and not template else None
    template = template or (settings is not None and "chat_template" in read_json_object(settings))
    plain = (
        model_ref is not None
        and model_ref.spec is not None
        and model_ref.spec.chat_format == "plain"
    )
    return _TokenizerSpec(
        OWN_TOKENIZER, template, "plain" if plain else "template" if template else None
    )


def _resolve_named_tokenizer(name: str, folder: Path, *, from_scratch: bool) -> _TokenizerSpec:
    """A tokenizer in a folder of this machine, or of a base that is here."""
    place = (folder / Path(name).expanduser()).absolute()
    if not place.is_dir():
        origin = resolve_model_ref(name, folder)
        place = find_local_model(origin.source, origin.revision) or download_tokenizer(
            origin.source, origin.revision
        )
    settings, vocabulary = place / TOKENIZER_CONFIG_FILE, place / TOKENIZER_FILE
    if not (settings.is_file() or vocabulary.is_file()):
        what = "holds no tokenizer"
        raise ModelError(
            what, where=name, hint="name a folder that save_pretrained wrote, or bytes"
        )
    template = any((place / each).is_file() for each in CHAT_TEMPLATE_FILES)
    template = template or (settings.is_file() and "chat_template" in read_json_object(settings))
    usual: ChatFormat | None = "template" if template else "plain" if from_scratch else None
    return _TokenizerSpec(str(place), template, usual, _count_tokenizer_tokens(vocabulary))


def _count_tokenizer_tokens(tokenizer_path: Path) -> int:
    """How many tokens a tokenizer.json holds, those that were added among them."""
    if not tokenizer_path.is_file():
        return 0
    read = read_json_object(tokenizer_path)
    own = get_subconfig(read, "model").get("vocab") or ()
    last: int = max(own.values(), default=-1) if isinstance(own, dict) else len(own) - 1
    added = (each["id"] for each in read.get("added_tokens", ()))
    most: int = max([last, *added])
    return most + 1


def _make_scratch_lm(config: HfConfig, vocab_size: int) -> LanguageModelComponent:
    """Random weights, with as many words as the tokenizer has where the config does not say."""
    kind = config["model_type"]
    where = f"from_scratch: {kind}"
    _check_is_language_model(config, where, check_architecture=False)
    if vocab_size:
        config = {"vocab_size": vocab_size, **config}
    if config.get("vocab_size", vocab_size) < vocab_size - 1:  # sound needs no row
        what = f"has {config['vocab_size']} words, and its tokenizer {vocab_size}"
        raise ModelError(what, where=where, hint="take vocab_size out")
    config = {**dict.fromkeys(SPECIAL_TOKEN_ID_KEYS), **config}
    part = ComponentRef("", None, config)
    return LanguageModelComponent(
        part,
        SCRATCH_KEY_PREFIX + kind,
        derive_lm_spec(config, where=where),
        BYTE_TOKENIZER,
        "plain",
    )


def _make_pretrained_lm(model_ref: ModelRef) -> LanguageModelComponent:
    """A language model with weights, in the shape that its files tell."""
    if model_ref.spec is not None:
        return _make_lm_from_composed(model_ref, model_ref.spec)
    weights, config = model_ref.tensor_index, model_ref.config
    if is_audio_lm_config(config):
        config, thinking = _extract_text_config(
            model_ref,
            derive_spec_from_checkpoint(find_family_spec(config, model_ref.name), config, weights),
        )
    else:
        _check_is_language_model(config, model_ref.name)
        own, words = count_lm_parameters(weights)
        thinking = derive_lm_spec(config, where=model_ref.name)
        tower = replace(thinking.shape, num_parameters=own)
        thinking = replace(thinking, shape=tower, embedding=words)
    return LanguageModelComponent(
        component_ref=ComponentRef(model_ref.source, model_ref.revision, config),
        key=model_ref.key,
        lm_spec=thinking,
        tokenizer=OWN_TOKENIZER,
        chat_format="template",
        license=model_ref.license,
        num_bytes=count_tensor_bytes(weights),
    )


def _make_lm_from_composed(model_ref: ModelRef, spec: ModelSpec) -> LanguageModelComponent:
    sizes = spec.sizes
    return LanguageModelComponent(
        component_ref=ComponentRef(model_ref.source, model_ref.revision, model_ref.config["lm"]),
        key=model_ref.key,
        lm_spec=LanguageModelSpec(sizes.lm, sizes.embedding, sizes.vocab_size, spec.context_length),
        tokenizer=OWN_TOKENIZER,
        chat_format="template",
        license=model_ref.license,
        num_bytes=spec.megabytes * 10**6,
        source_spec=spec,
    )


def _extract_text_config(
    model_ref: ModelRef, spec: ModelSpec
) -> tuple[HfConfig, LanguageModelSpec]:
    """What thinks in a model that does more, in the sizes of the whole."""
    family = get_model_family(model_ref.config)
    if family not in TEXT_MODEL_TYPES:
        what = f"the language model of {family} cannot be taken out of it"
        raise ModelError(what, where=model_ref.name, hint="name a language model by itself")
    text = {
        "model_type": TEXT_MODEL_TYPES[family],
        **get_subconfig(model_ref.config, "text_config"),
    }
    sizes = spec.sizes
    text["tie_word_embeddings"] = sizes.embedding == sizes.vocab_size * sizes.lm.hidden_size
    return text, LanguageModelSpec(sizes.lm, sizes.embedding, sizes.vocab_size, spec.context_length)


def _check_is_language_model(
    config: Mapping[str, Any], where: str, *, check_architecture: bool = True
) -> None:
    """Refuse what is no language model, by its name; one from nothing names no class."""
    kind = str(config.get("model_type", "unknown"))
    if kind in ENCODER_MODEL_TYPES or "encoder_layers" in config:
        what = f"is an encoder ({kind}), not a language model"
        raise ModelError(what, where=where, hint="name it under encoder: the two are swapped")
    if (
        kind in LM_DEFAULTS
        or not check_architecture
        or get_architecture_name(config).endswith(LM_CLASS_SUFFIXES)
    ):
        return
    what = f"is no language model ({kind}, {get_architecture_name(config) or 'no class'})"
    raise ModelError(what, where=where, hint="name one that goes on with text, as hf:Qwen/Qwen3-4B")


SCRATCH_KEY_PREFIX = (
    "new-"  # before the class of a part with random weights, in the key of its base
)
LM_CLASS_SUFFIXES = ("ForCausalLM", "LMHeadModel")  # how the classes of language models end
AUDIO_LM_FAMILIES = {base.family for base in MODEL_CATALOG.values() if base.kind == "native"}


@dataclass(frozen=True)
class EncoderComponent:
    """What hears; `bytes` are those of its files. `counted` when silence up to a window counts."""

    component_ref: ComponentRef
    key: str
    encoder_spec: AudioEncoderSpec
    counts_padding: bool = False
    license: str = ""
    num_bytes: int = 0


def build_encoder_component(encoder_config: EncoderConfig, folder: Path) -> EncoderComponent:
    """What the plan needs of an encoder. Raises BaseError where it is none."""
    if encoder_config.from_scratch is not None:
        kind = encoder_config.from_scratch["model_type"]
        where = f"from_scratch: {kind}"
        _check_is_encoder(encoder_config.from_scratch, where)
        hearing = derive_encoder_spec(
            encoder_config.from_scratch, encoder_config.layer, where=where
        )
        ear = EncoderComponent(
            ComponentRef("", None, encoder_config.from_scratch, encoder_config.layer),
            SCRATCH_KEY_PREFIX + kind,
            hearing,
        )
    else:
        ear = _make_pretrained_encoder(
            resolve_model_ref(str(encoder_config.source), folder), encoder_config
        )
    return _with_window_padding(ear) if encoder_config.pad else ear


def count_tensor_bytes(tensor_index: TensorIndex) -> int:
    """Bytes of all tensors."""
    return sum(each.end - each.start for file in tensor_index.values() for each in file.values())


def is_audio_lm_config(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a model that hears and thinks."""
    return get_model_family(dict(config)) in AUDIO_LM_FAMILIES


def _make_pretrained_encoder(
    model_ref: ModelRef, encoder_config: EncoderConfig
) -> EncoderComponent:
    if model_ref.spec is not None:
        return _make_encoder_from_composed(model_ref, encoder_config)
    weights = model_ref.tensor_index
    if is_audio_lm_config(model_ref.config):
        config = _extract_audio_config(model_ref.config, model_ref.name)
        tensors = ((key, each) for file in weights.values() for key, each in file.items())
        count = sum(
            each.num_elements for key, each in tensors if COMPONENT_PATTERNS["encoder"].search(key)
        )
    else:
        config, count = model_ref.config, count_encoder_parameters(weights)
    _check_is_encoder(config, model_ref.name)
    if config["model_type"] not in (*MEL_ENCODER_DEFAULTS, W2V_BERT_MODEL_TYPE):
        config = {**config, **_read_normalization_config(model_ref)}
    found = derive_encoder_spec(config, encoder_config.layer, where=model_ref.name)
    return EncoderComponent(
        component_ref=ComponentRef(
            model_ref.source, model_ref.revision, config, encoder_config.layer
        ),
        key=model_ref.key,
        encoder_spec=replace(found, shape=replace(found.shape, num_parameters=count)),
        license=model_ref.license,
        num_bytes=count_tensor_bytes(weights),
    )


def _make_encoder_from_composed(
    model_ref: ModelRef, encoder_config: EncoderConfig
) -> EncoderComponent:
    """The encoder of a stitched base, heard as it was there."""
    parts, facts = model_ref.config["encoders"], model_ref.spec
    if len(parts) != 1 or facts is None:
        what = "has two encoders, which cannot be taken apart"
        raise ModelError(what, where=model_ref.name, hint="name the two by their own sources")
    (part,) = parts
    layer: LayerSelection = (
        encoder_config.layer if "layer" in encoder_config.model_fields_set else part["layer"]
    )
    found = derive_encoder_spec(part["config"], layer, where=model_ref.name)
    tower = replace(found.shape, num_parameters=facts.sizes.encoder.num_parameters)
    return EncoderComponent(
        component_ref=ComponentRef(model_ref.source, model_ref.revision, part["config"], layer),
        key=model_ref.key,
        encoder_spec=replace(found, shape=tower),
        counts_padding=facts.audio_spec.pad_mode == "counted",
        license=model_ref.license,
        num_bytes=facts.megabytes * 10**6,
    )


def _extract_audio_config(config: HfConfig, where: str) -> HfConfig:
    """The config of what hears in a model that does more."""
    family = get_model_family(config)
    whole = get_subconfig(config, "thinker_config") or config
    tower = {"model_type": f"{family}_encoder", **get_subconfig(whole, "audio_config")}
    if tower["model_type"] not in ENCODER_MODEL_TYPES:
        what = f"the encoder of {family} cannot be taken out of it"
        raise ModelError(
            what, where=where, hint=f"known encoders are {', '.join(ENCODER_MODEL_TYPES)}"
        )
    return tower


def _check_is_encoder(config: Mapping[str, Any], where: str) -> None:
    """Refuse what is no encoder of sound, by its name."""
    kind = str(config.get("model_type", "unknown"))
    if kind in ENCODER_MODEL_TYPES:
        return
    if kind in LM_DEFAULTS or get_architecture_name(config).endswith(LM_CLASS_SUFFIXES):
        what = f"is a language model ({kind}), not an encoder of sound"
        raise ModelError(what, where=where, hint="name it under lm: the two are swapped")
    what = f"is of a class that is not known to hear ({kind})"
    raise ModelError(what, where=where, hint=f"known encoders are {', '.join(ENCODER_MODEL_TYPES)}")


def get_architecture_name(config: Mapping[str, Any]) -> str:
    """The class that a config says it is of, as far as it says so."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def _read_normalization_config(model_ref: ModelRef) -> HfConfig:
    """Whether a wave is brought to a mean of 0 and a variance of 1, where that is told."""
    path = model_ref.find_file("preprocessor_config.json")
    told = read_json_object(path) if path else {}
    return {key: told[key] for key in ("do_normalize",) if isinstance(told.get(key), bool)}


def _with_window_padding(component: EncoderComponent) -> EncoderComponent:
    """The same encoder, that hears every clip with silence up to 30 s."""
    strides = component.encoder_spec.audio_spec
    if component.encoder_spec.encoder_input != "mel":
        what = "hears a clip as long as it is, and takes no pad"
        raise ModelError(what, where=component.key, hint="take encoder.pad out")
    if strides.window_seconds != 30:
        what = f"hears {strides.window_seconds:g} s at once, not 30 s"
        raise ModelError(what, where=component.key, hint="take encoder.pad out")
    return replace(component, counts_padding=True)


DEFAULT_AUDIO_TOKEN = "<|audio|>"
DEFAULT_AUDIO_PROMPT = "Transcribe the audio."
DEFAULT_AUDIO_PREFIX = "Listen: "
DEFAULT_AUDIO_SUFFIX = "\n"
DEFAULT_COMPOSED_EPOCHS = 10
DEFAULT_PROJECTOR_KIND = "mlp"
PROJECTOR_BYTES_PER_PARAMETER = 4  # of a fresh projector


@dataclass(frozen=True)
class ProjectorComponent:
    """The projector between its parts: its shape, its strides, how many numbers it learns.

    `weights` says which those are, "" for fresh ones.
    """

    options: dict[str, Any]
    weights_revision: str
    audio_spec: AudioTokenizerSpec
    num_parameters: int


def compose_model_spec(config: ComposedModelConfig, folder: Path) -> ModelSpec:
    """The base that these parts make; paths are relative to `folder`.

    Raises BaseError for a part that is not there, is of another kind, or does not fit the others.
    """
    config = inherit_components(config, folder)
    ears = tuple(build_encoder_component(each, folder) for each in config.encoders)
    mind = build_lm_component(config.lm or LanguageModelConfig(), config.chat, folder)
    join = _build_projector_component(
        _choose_projector_kind(config.projector or ProjectorConfig()), ears, mind, folder
    )
    recipe = CompositionSpec(
        encoders=tuple(ear.component_ref for ear in ears),
        projector=join.options,
        lm=mind.component_ref,
        tokenizer=mind.tokenizer,
    )
    base = ModelSpec(
        key="+".join([*(ear.key for ear in ears), join.options["kind"], mind.key]),
        kind="stitched",
        family="stitched",
        source="",
        revision=None,
        license=_combine_licenses(ears, mind),
        audio_spec=join.audio_spec,
        num_mel_bins=max(ear.encoder_spec.num_mel_bins for ear in ears),
        mel_before_chunking=True,
        placeholder=mind.source_spec.placeholder if mind.source_spec else DEFAULT_AUDIO_TOKEN,
        audio_prefix=_value_or_default(config.before, _choose_audio_prefix(mind)),
        audio_suffix=_value_or_default(
            config.after,
            mind.source_spec.audio_suffix if mind.source_spec else DEFAULT_AUDIO_SUFFIX,
        ),
        default_prompt=_value_or_default(
            config.prompt,
            mind.source_spec.default_prompt if mind.source_spec else DEFAULT_AUDIO_PROMPT,
        ),
        chat_format=mind.chat_format,
        sizes=ParameterCounts(
            encoder=_combine_encoder_shapes(ears),
            projector=join.num_parameters,
            lm=mind.lm_spec.shape,
            embedding=mind.lm_spec.embedding,
            vocab_size=mind.lm_spec.vocab_size,
        ),
        megabytes=_compute_megabytes(ears, mind, join),
        context_length=mind.lm_spec.context_length,
        default_adapter="projector" if mind.component_ref.source else "full",
        default_learning_rate=get_projector_learning_rate(join.options),
        default_epochs=DEFAULT_COMPOSED_EPOCHS,
        encoder_input="wave" if len(ears) > 1 else ears[0].encoder_spec.encoder_input,
        composition=recipe,
    )
    return replace(base, revision=_compute_composed_revision(base, recipe, join.weights_revision))


def _choose_audio_prefix(lm: LanguageModelComponent) -> str:
    """What stands before a sound: something, for a projector may begin at nothing but zeros.

    Where a model normalises what it reads, zeros from the first token on have no gradient.
    """
    if lm.source_spec:
        return lm.source_spec.audio_prefix
    return DEFAULT_AUDIO_PREFIX if lm.chat_format == "plain" else ""


def _choose_projector_kind(projector_config: ProjectorConfig) -> ProjectorConfig:
    """The projector that is asked for; of no kind, that which was seen to listen soonest."""
    return (
        projector_config
        if projector_config.kind or projector_config.source
        else projector_config.model_copy(update={"kind": DEFAULT_PROJECTOR_KIND})
    )


def _build_projector_component(
    projector_config: ProjectorConfig,
    encoders: tuple[EncoderComponent, ...],
    lm: LanguageModelComponent,
    folder: Path,
) -> ProjectorComponent:
    """The projector that is asked for, at the rate of the first encoder."""
    heard = tuple(
        (ear.encoder_spec.num_hidden_states, ear.encoder_spec.shape.hidden_size) for ear in encoders
    )
    out, strides = lm.lm_spec.shape.hidden_size, _combine_audio_specs(encoders)
    frames_per_second = strides.sample_rate / (strides.hop_length * strides.encoder_stride)
    shape, weights = resolve_projector_options(
        projector_config, ProjectorDims(heard, out, frames_per_second), folder
    )
    stride, queries = compute_projector_strides(shape, frames_per_second)
    return ProjectorComponent(
        options=shape,
        weights_revision=weights,
        audio_spec=replace(strides, projector_stride=stride, num_queries=queries),
        num_parameters=count_projector_parameters(shape, heard, stride=stride, out_features=out),
    )


def _combine_audio_specs(encoders: tuple[EncoderComponent, ...]) -> AudioTokenizerSpec:
    """How the first encoder reads, by the wave where there are two; what both can hear at once."""
    first, all_of_them = encoders[0].encoder_spec, [ear.encoder_spec.audio_spec for ear in encoders]
    strides = first.audio_spec
    if len(encoders) > 1 and first.encoder_input == "mel":
        strides = replace(
            strides, hop_length=1, encoder_stride=strides.encoder_stride * strides.hop_length
        )
    return replace(
        strides,
        window_samples=min(each.window_samples for each in all_of_them),
        min_samples=max(each.min_samples for each in all_of_them),
        pad_mode="counted" if any(ear.counts_padding for ear in encoders) else "none",
    )


def _combine_encoder_shapes(encoders: tuple[EncoderComponent, ...]) -> TransformerShape:
    """The largest encoder, with the parameters of all."""
    towers = [ear.encoder_spec.shape for ear in encoders]
    largest = max(towers, key=lambda tower: tower.hidden_size * tower.num_layers)
    return replace(largest, num_parameters=sum(tower.num_parameters for tower in towers))


def _combine_licenses(encoders: tuple[EncoderComponent, ...], lm: LanguageModelComponent) -> str:
    named = [*(ear.license for ear in encoders), lm.license]
    return " and ".join(dict.fromkeys(each for each in named if each)) or "none"


def _compute_megabytes(
    encoders: tuple[EncoderComponent, ...],
    lm: LanguageModelComponent,
    projector: ProjectorComponent,
) -> int:
    """What is fetched or lies on disk, a source of two parts once, and the projector."""
    sources = {
        lm.component_ref.source: lm.num_bytes,
        **{ear.component_ref.source: ear.num_bytes for ear in encoders},
    }
    return max(
        1,
        round(
            (sum(sources.values()) + projector.num_parameters * PROJECTOR_BYTES_PER_PARAMETER) / 1e6
        ),
    )


def _value_or_default(value: str | None, default: str) -> str:
    return default if value is None else value


def _compute_composed_revision(
    spec: ModelSpec, composition: CompositionSpec, weights_revision: str
) -> str:
    """Another one when any part, its config, the projector or the form is another.

    Where a part lies is no part of it: a folder may be moved.
    """
    spelled = ", ".join(
        f"{old}={vars(spec.audio_spec)[new]!r}"
        for old, new in AUDIO_SPEC.items()
        if isinstance(new, str)
    )
    texts = (
        spec.placeholder,
        spec.audio_prefix,
        spec.audio_suffix,
        spec.chat_format,
        spec.encoder_input,
    )
    parts = [
        [bool(part.source), part.revision, part.config, part.layer]
        for part in (*composition.encoders, composition.lm)
    ]
    vocabulary = Path(composition.tokenizer) / TOKENIZER_FILE
    words = vocabulary.read_bytes() if vocabulary.is_file() else composition.tokenizer.encode()
    projector = {name: each for name, each in composition.projector.items() if name != "source"}
    told = json.dumps(
        [parts, projector, weights_revision, f"(Strides({spelled}), {repr(texts)[1:]}"],
        sort_keys=True,
    )
    return hashlib.sha256(told.encode() + words).hexdigest()[:40]
