"""What the config of an encoder tells: what it takes, how fast it reads, how large it is.

    mel    Whisper and the towers built like it    a window of so many positions, 2 mel frames each
    wave   wav2vec 2.0 and its kin                 convolutions without padding, any length
    wave   w2v-BERT                                25 ms frames every 10 ms, two side by side

A wave is heard in windows of 30 s, as Whisper's mel is.

What the config of a language model tells: its shape, its words, how long a row it knows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dlm.errors import ModelError
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.hub import TensorIndex
from dlm.plan.model_spec import LayerSelection, TransformerShape

HfConfigMapping = Mapping[str, Any]

ENCODER_SAMPLE_RATE, MEL_HOP_LENGTH = (
    16_000,
    160,
)  # samples per second, and per mel frame, of every Whisper
MEL_ENCODER_STRIDE = 2  # mel frames per frame of Whisper's encoder
WAVEFORM_WINDOW_SAMPLES = 30 * ENCODER_SAMPLE_RATE
W2V_BERT_CONV_LAYERS = (
    (400, 160),
    (2, 2),
)  # frames of w2v-BERT, then two side by side (Barrault et al. 2023)
W2V_BERT_MODEL_TYPE = "wav2vec2-bert"

WAV2VEC2_CONV_KERNELS, WAV2VEC2_CONV_STRIDES = (
    (10, 3, 3, 3, 3, 2, 2),
    (5, 2, 2, 2, 2, 2, 2),
)  # wav2vec 2.0 (Baevski et al. 2020)

WHISPER_TINY_SHAPE = TransformerShape(
    0, num_layers=4, hidden_size=384, intermediate_size=1536, num_heads=6, num_kv_heads=6
)
WHISPER_LARGE_SHAPE = TransformerShape(
    0, num_layers=32, hidden_size=1280, intermediate_size=5120, num_heads=20, num_kv_heads=20
)
WAV2VEC2_BASE_SHAPE = TransformerShape(
    0, num_layers=12, hidden_size=768, intermediate_size=3072, num_heads=12, num_kv_heads=12
)
MEL_ENCODER_DEFAULTS = {  # what each is when its config says nothing
    "whisper": (WHISPER_TINY_SHAPE, 80),
    "qwen2_audio_encoder": (WHISPER_LARGE_SHAPE, 128),
    "voxtral_encoder": (WHISPER_LARGE_SHAPE, 128),
    "audioflamingo3_encoder": (WHISPER_LARGE_SHAPE, 128),
}
WAVEFORM_ENCODER_DEFAULTS = {
    **dict.fromkeys(
        ("wav2vec2", "hubert", "unispeech", "unispeech-sat", "wavlm"), WAV2VEC2_BASE_SHAPE
    ),
    **dict.fromkeys(("data2vec-audio", "wav2vec2-conformer"), WAV2VEC2_BASE_SHAPE),
    W2V_BERT_MODEL_TYPE: TransformerShape(
        0, num_layers=24, hidden_size=1024, intermediate_size=4096, num_heads=16, num_kv_heads=16
    ),
}
ENCODER_MODEL_TYPES = (*MEL_ENCODER_DEFAULTS, *WAVEFORM_ENCODER_DEFAULTS)

ENCODER_CONFIG_KEYS = {
    "num_layers": ("encoder_layers", "num_hidden_layers"),
    "hidden_size": ("d_model", "hidden_size"),
    "intermediate_size": ("encoder_ffn_dim", "intermediate_size"),
    "num_heads": ("encoder_attention_heads", "num_attention_heads"),
}
NON_ENCODER_KEY_RE = re.compile(  # of a checkpoint, which are not the encoder's
    r"(^|\.)(decoder|proj_out|lm_head|quantizer|project_(hid|q)|classifier|projector|adapter|"
    r"language_model|multi_modal_projector|final_proj|label_embs_concat)(\.|$)"
)


@dataclass(frozen=True)
class AudioEncoderSpec:
    """What an encoder takes and gives; `states` is how many hidden states of a frame are heard.

    The parameters of `tower` are those of random weights of its config: to the last one for
    Whisper, wav2vec 2.0, HuBERT and WavLM, nearly for the others.
    """

    encoder_input: Literal["mel", "wave"]
    audio_spec: AudioTokenizerSpec
    num_mel_bins: int
    shape: TransformerShape
    num_hidden_states: int


def derive_encoder_spec(
    config: HfConfigMapping, layer: LayerSelection, *, where: str
) -> AudioEncoderSpec:
    """What an encoder of this config hears. Raises BaseError for a layer that it does not have."""
    kind = config["model_type"]
    found = (
        _derive_mel_encoder_spec(config, *MEL_ENCODER_DEFAULTS[kind])
        if kind in MEL_ENCODER_DEFAULTS
        else _derive_waveform_encoder_spec(config, WAVEFORM_ENCODER_DEFAULTS[kind])
    )
    layers = found.shape.num_layers
    if isinstance(layer, int) and layer > layers:
        mend = f"set layer to last, weighted_sum or 1 to {layers}"
        raise ModelError(f"has no layer {layer}", where=where, hint=mend)
    return replace(found, num_hidden_states=layers + 1 if layer == "weighted_sum" else 1)


def count_encoder_parameters(tensor_index: TensorIndex) -> int:
    """Parameters of the encoder among the tensors of a checkpoint."""
    tensors = ((key, each) for file in tensor_index.values() for key, each in file.items())
    return sum(each.num_elements for key, each in tensors if not NON_ENCODER_KEY_RE.search(key))


def get_config_int(config: HfConfigMapping, keys: tuple[str, ...], default: int) -> int:
    """The first of these that a config tells."""
    return next((config[name] for name in keys if isinstance(config.get(name), int)), default)


def _derive_mel_encoder_spec(
    config: HfConfigMapping, defaults: TransformerShape, num_mel_bins: int
) -> AudioEncoderSpec:
    positions = get_config_int(config, ("max_source_positions",), 1500)
    tower = _read_encoder_shape(config, defaults)
    num_mel_bins = get_config_int(config, ("num_mel_bins",), num_mel_bins)
    width, inner = tower.hidden_size, tower.intermediate_size
    ends = (
        3 * num_mel_bins * width + width + 3 * width * width + width + positions * width + 2 * width
    )
    layer = 4 * width * width + 3 * width + 2 * width * inner + inner + width + 4 * width
    window = positions * MEL_ENCODER_STRIDE * MEL_HOP_LENGTH
    strides = AudioTokenizerSpec(
        sample_rate=ENCODER_SAMPLE_RATE,
        hop_length=MEL_HOP_LENGTH,
        encoder_stride=MEL_ENCODER_STRIDE,
        projector_stride=1,
        window_samples=window,
    )
    return AudioEncoderSpec(
        "mel", strides, num_mel_bins, _with_encoder_parameters(tower, ends, layer), 1
    )


def _derive_waveform_encoder_spec(
    config: HfConfigMapping, defaults: TransformerShape
) -> AudioEncoderSpec:
    tower, convs = _read_encoder_shape(config, defaults), _get_conv_layers(config)
    width, inner = tower.hidden_size, tower.intermediate_size
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    if config["model_type"] in (W2V_BERT_MODEL_TYPE, "wav2vec2-conformer"):
        layer *= 2  # about: it has two feed-forward parts and a convolution
    if config["model_type"] == "wavlm":
        layer += tower.num_heads + 8 * (
            width // tower.num_heads + 1
        )  # how far apart two frames are
    least = 1
    for kernel, step in reversed(convs):
        least = (least - 1) * step + kernel
    strides = AudioTokenizerSpec(
        sample_rate=ENCODER_SAMPLE_RATE,
        hop_length=1,
        encoder_stride=math.prod(step for _, step in convs),
        projector_stride=1,
        window_samples=WAVEFORM_WINDOW_SAMPLES,
        min_samples=least,
        conv_layers=convs,
    )
    return AudioEncoderSpec(
        "wave",
        strides,
        0,
        _with_encoder_parameters(tower, _count_frontend_parameters(config, tower), layer),
        1,
    )


def _get_conv_layers(config: HfConfigMapping) -> tuple[tuple[int, int], ...]:
    if config["model_type"] == W2V_BERT_MODEL_TYPE:
        return W2V_BERT_CONV_LAYERS
    kernels, steps = (
        config.get("conv_kernel") or WAV2VEC2_CONV_KERNELS,
        config.get("conv_stride") or WAV2VEC2_CONV_STRIDES,
    )
    return tuple(zip(kernels, steps, strict=True))


def _count_frontend_parameters(config: HfConfigMapping, shape: TransformerShape) -> int:
    """Parameters before the layers: convolutions, their projection, positions, a norm."""
    width = shape.hidden_size
    if config["model_type"] == W2V_BERT_MODEL_TYPE:
        return (
            get_config_int(config, ("feature_projection_input_dim",), 160) * (width + 2) + 4 * width
        )
    convs = _get_conv_layers(config)
    widths: tuple[int, ...] = tuple(config.get("conv_dim") or (512,) * len(convs))
    into = (1, *widths)
    every = config.get("feat_extract_norm") == "layer"
    bias = bool(config.get("conv_bias"))
    count = sum(
        kernel * taken * given + bias * given
        for (kernel, _), taken, given in zip(convs, into[:-1], widths, strict=True)
    )
    count += 2 * (sum(widths) if every else widths[0])
    span = get_config_int(config, ("num_conv_pos_embeddings",), 128)
    groups = get_config_int(config, ("num_conv_pos_embedding_groups",), 16)
    positions = span * (width // groups) * width + width + span
    if config["model_type"] == "wavlm":
        count += get_config_int(config, ("num_buckets",), 320) * shape.num_heads
    return count + 2 * widths[-1] + widths[-1] * width + width + positions + 2 * width


def _read_encoder_shape(config: HfConfigMapping, defaults: TransformerShape) -> TransformerShape:
    shape = {
        name: get_config_int(config, keys, vars(defaults)[name])
        for name, keys in ENCODER_CONFIG_KEYS.items()
    }
    return replace(defaults, **shape, num_kv_heads=shape["num_heads"])


def _with_encoder_parameters(
    shape: TransformerShape, num_outer_parameters: int, num_layer_parameters: int
) -> TransformerShape:
    return replace(
        shape, num_parameters=num_outer_parameters + shape.num_layers * num_layer_parameters
    )


LM_CONFIG_KEYS = {  # what classes of transformers call it
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "inner": ("intermediate_size", "n_inner", "ffn_dim"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_width": ("head_dim",),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len"),
}
QWEN_DEFAULTS = {"layers": 32, "width": 4096, "inner": 22_016, "heads": 32, "kv_heads": 32}
QWEN_DEFAULTS |= {"vocabulary": 151_936, "context": 32_768}
LLAMA_DEFAULTS = {"layers": 32, "width": 4096, "inner": 11_008, "heads": 32}
LLAMA_DEFAULTS |= {"vocabulary": 32_000, "context": 2048}
GPT2_DEFAULTS = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50_257, "context": 1024}
LM_DEFAULTS = {  # what classes that are often made from nothing are when their config says nothing
    "nanochat": {**GPT2_DEFAULTS, "inner": 8192, "heads": 6, "vocabulary": 50_304, "context": 2048},
    "gpt2": GPT2_DEFAULTS,
    "llama": LLAMA_DEFAULTS,
    "mistral": {**LLAMA_DEFAULTS, "inner": 14_336, "kv_heads": 8, "context": 131_072},
    "qwen2": QWEN_DEFAULTS,
    "qwen3": {**QWEN_DEFAULTS, "head_width": 128},
}
UNGATED_MLP_MODEL_TYPES = (
    "nanochat",
    "gpt2",
)  # two matrices in the feed-forward part, where others have three
EMBEDDING_KEY_RE = re.compile(
    r"embed_tokens|lm_head|(^|\.)(wte|wpe|embed_in|embed_out|word_embeddings)\."
)


@dataclass(frozen=True)
class LanguageModelSpec:
    """The shape of a language model; `words` are the parameters of embeddings and head.

    The parameters are those of random weights of its config, until they are counted.
    """

    shape: TransformerShape
    embedding: int
    vocab_size: int
    context_length: int


def derive_lm_spec(config: HfConfigMapping, *, where: str) -> LanguageModelSpec:
    """The shape that a config tells. Raises BaseError naming what it does not tell."""
    known = LM_DEFAULTS.get(config["model_type"], {})
    shape = {name: _get_lm_config_int(config, name, known, where) for name in LM_CONFIG_KEYS}
    heads = shape["heads"]
    tower = TransformerShape(
        num_parameters=0,
        num_layers=shape["layers"],
        hidden_size=shape["width"],
        intermediate_size=shape["inner"] or 4 * shape["width"],
        num_heads=heads,
        num_kv_heads=shape["kv_heads"] or heads,
        head_dim=shape["head_width"],
    )
    return LanguageModelSpec(
        shape=_with_lm_parameters(config, tower),
        embedding=_count_embedding_parameters(config, tower.hidden_size, shape),
        vocab_size=shape["vocabulary"],
        context_length=shape["context"],
    )


def count_lm_parameters(tensor_index: TensorIndex) -> tuple[int, int]:
    """Parameters of the layers among the tensors of a checkpoint, and those of its words."""
    counts = {True: 0, False: 0}
    for file in tensor_index.values():
        for key, each in file.items():
            counts[bool(EMBEDDING_KEY_RE.search(key))] += each.num_elements
    return counts[False], counts[True]


def _get_lm_config_int(
    config: HfConfigMapping, field_name: str, defaults: Mapping[str, int], where: str
) -> int:
    """What a config says; what it may leave out is 0."""
    for key in LM_CONFIG_KEYS[field_name]:
        if type(config.get(key)) is int:
            return int(config[key])
    if field_name in defaults or field_name in ("inner", "kv_heads", "head_width"):
        return defaults.get(field_name, 0)
    what = f"its config does not tell its {LM_CONFIG_KEYS[field_name][0]}"
    raise ModelError(what, where=where, hint=f"add '{LM_CONFIG_KEYS[field_name][0]}: ...' to it")


def _count_embedding_parameters(
    config: HfConfigMapping, hidden_size: int, values: Mapping[str, int]
) -> int:
    gpt2 = config["model_type"] == "gpt2"
    tied = config.get("tie_word_embeddings", gpt2)
    positions = values["context"] * hidden_size if gpt2 else 0
    return values["vocabulary"] * hidden_size * (1 if tied else 2) + positions


def _with_lm_parameters(config: HfConfigMapping, shape: TransformerShape) -> TransformerShape:
    """The tower with its parameters: attention, feed-forward part, norms and biases."""
    kind, width, inner = config["model_type"], shape.hidden_size, shape.intermediate_size
    head = shape.head_dim or width // shape.num_heads
    query, pair = shape.num_heads * head, shape.num_kv_heads * head
    layer = (
        2 * width * (query + pair) + (2 if kind in UNGATED_MLP_MODEL_TYPES else 3) * width * inner
    )
    norms = {"nanochat": 0, "gpt2": 4 * width, "qwen3": 2 * width + 2 * head}.get(kind, 2 * width)
    biases = {"gpt2": query + 2 * pair + 2 * width + inner, "qwen2": query + 2 * pair}.get(kind, 0)
    last = {"nanochat": 0, "gpt2": 2 * width}.get(kind, width)
    count = shape.num_layers * (layer + norms + biases) + last
    return TransformerShape(**{**vars(shape), "num_parameters": count})
