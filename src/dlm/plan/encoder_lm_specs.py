"""What the config of an encoder or a language model says: input, rates, shape, parameter counts.

    encoder   mel    Whisper and the encoders built like it   2 mel frames per position
              wave   wav2vec 2.0, HuBERT, WavLM and others    convolutions without padding
              wave   w2v-BERT                                 25 ms frames every 10 ms, in pairs
    lm        class, layers, vocabulary, context length

Waveforms are cut into windows of 30 s, as Whisper's mel is. Parameters are counted by formulas, not
by building a model on torch's meta device, because the plan is made without torch.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dlm.errors import ModelError
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.model_spec import LayerSelection, TransformerShape
from dlm.plan.safetensors_index import TensorIndex, iter_tensor_infos

HfConfigMapping = Mapping[str, Any]

ENCODER_SAMPLE_RATE = 16_000  # of every encoder known here
MEL_HOP_LENGTH = 160  # samples per mel frame of Whisper
MEL_ENCODER_STRIDE = 2  # mel frames per frame of Whisper's encoder
WAVEFORM_WINDOW_SAMPLES = 30 * ENCODER_SAMPLE_RATE
# (kernel, stride): mel frames of w2v-BERT, then pairs of them (Barrault et al. 2023)
W2V_BERT_CONV_LAYERS = ((400, 160), (2, 2))
W2V_BERT_MODEL_TYPE = "wav2vec2-bert"
# of wav2vec 2.0 (Baevski et al. 2020)
WAV2VEC2_CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
WAV2VEC2_CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)

WHISPER_TINY_SHAPE = TransformerShape(
    0, num_layers=4, hidden_size=384, intermediate_size=1536, num_heads=6, num_kv_heads=6
)
WHISPER_LARGE_SHAPE = TransformerShape(
    0, num_layers=32, hidden_size=1280, intermediate_size=5120, num_heads=20, num_kv_heads=20
)
WAV2VEC2_BASE_SHAPE = TransformerShape(
    0, num_layers=12, hidden_size=768, intermediate_size=3072, num_heads=12, num_kv_heads=12
)
MEL_ENCODER_DEFAULTS = {  # shape and mel bins that transformers' class has without a config
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

ENCODER_CONFIG_KEYS = {  # field of TransformerShape -> names in configs
    "num_layers": ("encoder_layers", "num_hidden_layers"),
    "hidden_size": ("d_model", "hidden_size"),
    "intermediate_size": ("encoder_ffn_dim", "intermediate_size"),
    "num_heads": ("encoder_attention_heads", "num_attention_heads"),
}
NON_ENCODER_KEY_RE = re.compile(  # tensors of a checkpoint that are not the encoder's
    r"(^|\.)(decoder|proj_out|lm_head|quantizer|project_(hid|q)|classifier|projector|adapter|"
    r"language_model|multi_modal_projector|final_proj|label_embs_concat)(\.|$)"
)


@dataclass(frozen=True)
class AudioEncoderSpec:
    """What an encoder takes and returns.

    Attributes:
        encoder_input: log-mel, or the waveform.
        audio_spec: its rates; `projector_stride` is 1.
        num_mel_bins: of a log-mel; 0 for a waveform.
        shape: its layers. Parameters are those of random weights of its config: exact for Whisper,
            wav2vec 2.0, HuBERT and WavLM, approximate for the others.
        num_hidden_states: hidden states per frame that the projector gets.
    """

    encoder_input: Literal["mel", "wave"]
    audio_spec: AudioTokenizerSpec
    num_mel_bins: int
    shape: TransformerShape
    num_hidden_states: int


def derive_encoder_spec(
    config: HfConfigMapping, layer: LayerSelection, *, where: str
) -> AudioEncoderSpec:
    """Return the spec of an encoder from its config.

    Args:
        config: of transformers' class, `model_type` among its keys.
        layer: the layer whose hidden state is used.
        where: the encoder, as errors name it.

    Raises:
        ModelError: its class is not supported (`model.unsupported_class`), it has no such layer
            (`model.no_such_layer`), or its convolutions do not match (`model.bad_config`).
    """
    model_type = str(config.get("model_type", "unknown"))
    if model_type not in ENCODER_MODEL_TYPES:
        raise ModelError(
            f"is of a class that is not supported as an encoder ({model_type})",
            where=where,
            hint=f"known encoders are {', '.join(ENCODER_MODEL_TYPES)}",
            code="model.unsupported_class",
        )
    if model_type in MEL_ENCODER_DEFAULTS:
        encoder_spec = _derive_mel_encoder_spec(config, *MEL_ENCODER_DEFAULTS[model_type])
    else:
        _check_conv_layers(config, where)
        encoder_spec = _derive_waveform_encoder_spec(config, WAVEFORM_ENCODER_DEFAULTS[model_type])
    num_layers = encoder_spec.shape.num_layers
    if isinstance(layer, int) and layer > num_layers:
        raise ModelError(
            f"has no layer {layer}",
            where=where,
            hint=f"set layer to last, weighted_sum or 1 to {num_layers}",
            code="model.no_such_layer",
        )
    if layer == "weighted_sum":
        return replace(encoder_spec, num_hidden_states=num_layers + 1)
    return encoder_spec


def count_encoder_parameters(tensor_index: TensorIndex) -> int:
    """Return the parameters of the encoder among the tensors of a checkpoint."""
    return sum(
        tensor.num_elements
        for name, tensor in iter_tensor_infos(tensor_index)
        if not NON_ENCODER_KEY_RE.search(name)
    )


def get_config_int(config: HfConfigMapping, keys: tuple[str, ...], default: int) -> int:
    """Return the first positive integer under these keys, or the default."""
    values = (config[key] for key in keys if type(config.get(key)) is int)
    return next((value for value in values if value > 0), default)


def _derive_mel_encoder_spec(
    config: HfConfigMapping, defaults: TransformerShape, default_mel_bins: int
) -> AudioEncoderSpec:
    max_positions = get_config_int(config, ("max_source_positions",), 1500)
    num_mel_bins = get_config_int(config, ("num_mel_bins",), default_mel_bins)
    shape = _read_encoder_shape(config, defaults)
    width, inner = shape.hidden_size, shape.intermediate_size
    convolutions = 3 * num_mel_bins * width + width + 3 * width * width + width
    positions_and_norm = max_positions * width + 2 * width
    attention = 4 * width * width + 3 * width  # keys have no bias
    per_layer = attention + 2 * width * inner + inner + width + 4 * width
    num_parameters = convolutions + positions_and_norm + shape.num_layers * per_layer
    return AudioEncoderSpec(
        encoder_input="mel",
        audio_spec=AudioTokenizerSpec(
            sample_rate=ENCODER_SAMPLE_RATE,
            hop_length=MEL_HOP_LENGTH,
            encoder_stride=MEL_ENCODER_STRIDE,
            projector_stride=1,
            window_samples=max_positions * MEL_ENCODER_STRIDE * MEL_HOP_LENGTH,
        ),
        num_mel_bins=num_mel_bins,
        shape=replace(shape, num_parameters=num_parameters),
        num_hidden_states=1,
    )


def _derive_waveform_encoder_spec(
    config: HfConfigMapping, defaults: TransformerShape
) -> AudioEncoderSpec:
    shape, conv_layers = _read_encoder_shape(config, defaults), _get_conv_layers(config)
    width, inner = shape.hidden_size, shape.intermediate_size
    per_layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    if config["model_type"] in (W2V_BERT_MODEL_TYPE, "wav2vec2-conformer"):
        per_layer *= 2  # approximately: two feed-forward modules and a convolution
    if config["model_type"] == "wavlm":  # gates of the relative positions
        per_layer += shape.num_heads + 8 * (width // shape.num_heads + 1)
    num_parameters = _count_frontend_parameters(config, shape) + shape.num_layers * per_layer
    min_samples = 1
    for kernel, stride in reversed(conv_layers):
        min_samples = (min_samples - 1) * stride + kernel
    return AudioEncoderSpec(
        encoder_input="wave",
        audio_spec=AudioTokenizerSpec(
            sample_rate=ENCODER_SAMPLE_RATE,
            hop_length=1,
            encoder_stride=math.prod(stride for _, stride in conv_layers),
            projector_stride=1,
            window_samples=WAVEFORM_WINDOW_SAMPLES,
            min_samples=min_samples,
            conv_layers=conv_layers,
        ),
        num_mel_bins=0,
        shape=replace(shape, num_parameters=num_parameters),
        num_hidden_states=1,
    )


def _check_conv_layers(config: HfConfigMapping, where: str) -> None:
    keys = ("conv_kernel", "conv_stride", "conv_dim")
    lists = [config.get(key) or WAV2VEC2_CONV_KERNELS for key in keys]
    numbers = all(
        isinstance(values, list | tuple) and all(type(n) is int and n > 0 for n in values)
        for values in lists
    )
    if not numbers or len({len(values) for values in lists}) > 1:
        raise ModelError(
            f"its {', '.join(keys)} are not lists of as many positive numbers",
            where=where,
            hint=f"give a number for each convolution, {len(WAV2VEC2_CONV_KERNELS)} by default",
            code="model.bad_config",
        )


def _get_conv_layers(config: HfConfigMapping) -> tuple[tuple[int, int], ...]:
    """The (kernel, stride) of each convolution."""
    if config["model_type"] == W2V_BERT_MODEL_TYPE:
        return W2V_BERT_CONV_LAYERS
    kernels = config.get("conv_kernel") or WAV2VEC2_CONV_KERNELS
    strides = config.get("conv_stride") or WAV2VEC2_CONV_STRIDES
    return tuple(zip(kernels, strides, strict=True))


def _count_frontend_parameters(config: HfConfigMapping, shape: TransformerShape) -> int:
    """Parameters before the layers: convolutions, projection, positions, a norm."""
    width = shape.hidden_size
    if config["model_type"] == W2V_BERT_MODEL_TYPE:
        input_dim = get_config_int(config, ("feature_projection_input_dim",), 160)
        return input_dim * (width + 2) + 4 * width
    conv_layers = _get_conv_layers(config)
    channels: tuple[int, ...] = tuple(config.get("conv_dim") or (512,) * len(conv_layers))
    bias = bool(config.get("conv_bias"))
    convolutions = sum(
        kernel * in_channels * out_channels + bias * out_channels
        for (kernel, _), in_channels, out_channels in zip(
            conv_layers, (1, *channels[:-1]), channels, strict=True
        )
    )
    normed_channels = channels if config.get("feat_extract_norm") == "layer" else channels[:1]
    projection = 2 * channels[-1] + channels[-1] * width + width  # a norm before it
    kernel = get_config_int(config, ("num_conv_pos_embeddings",), 128)
    groups = get_config_int(config, ("num_conv_pos_embedding_groups",), 16)
    positions = kernel * (width // groups) * width + width + kernel
    if config["model_type"] == "wavlm":
        positions += get_config_int(config, ("num_buckets",), 320) * shape.num_heads
    return convolutions + 2 * sum(normed_channels) + projection + positions + 2 * width


def _read_encoder_shape(config: HfConfigMapping, defaults: TransformerShape) -> TransformerShape:
    shape: dict[str, Any] = {
        field: get_config_int(config, keys, vars(defaults)[field])
        for field, keys in ENCODER_CONFIG_KEYS.items()
    }
    return replace(defaults, **shape, num_kv_heads=shape["num_heads"])


LM_CONFIG_KEYS = {  # field of TransformerShape or LanguageModelSpec -> names in configs
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "num_heads": ("num_attention_heads", "n_head"),
    "num_kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "vocab_size": ("vocab_size",),
    "context_length": ("max_position_embeddings", "n_positions", "max_seq_len"),
}
OPTIONAL_LM_FIELDS = ("intermediate_size", "num_kv_heads", "head_dim")  # 0: derived from the others
QWEN_DEFAULTS = {
    **{"num_layers": 32, "hidden_size": 4096, "intermediate_size": 22_016, "num_heads": 32},
    **{"num_kv_heads": 32, "vocab_size": 151_936, "context_length": 32_768},
}
LLAMA_DEFAULTS = {
    **{"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11_008, "num_heads": 32},
    **{"vocab_size": 32_000, "context_length": 2048},
}
GPT2_DEFAULTS = {
    **{"num_layers": 12, "hidden_size": 768, "num_heads": 12},
    **{"vocab_size": 50_257, "context_length": 1024},
}
LM_DEFAULTS = {  # what transformers' class has without a config
    "nanochat": {
        **GPT2_DEFAULTS,
        **{"intermediate_size": 8192, "num_heads": 6},
        **{"vocab_size": 50_304, "context_length": 2048},
    },
    "gpt2": GPT2_DEFAULTS,
    "llama": LLAMA_DEFAULTS,
    "mistral": {
        **LLAMA_DEFAULTS,
        **{"intermediate_size": 14_336, "num_kv_heads": 8, "context_length": 131_072},
    },
    "qwen2": QWEN_DEFAULTS,
    "qwen3": {**QWEN_DEFAULTS, "head_dim": 128},
}
UNGATED_MLP_MODEL_TYPES = ("nanochat", "gpt2")  # two matrices in the MLP, where others have three
EMBEDDING_KEY_RE = re.compile(
    r"embed_tokens|lm_head|(^|\.)(wte|wpe|embed_in|embed_out|word_embeddings)\."
)


@dataclass(frozen=True)
class LanguageModelSpec:
    """The shape of a language model.

    Attributes:
        shape: its layers; parameters are those of its config until they are counted in its files.
        embedding: parameters of the embeddings and the head.
        vocab_size: tokens that have an embedding.
        context_length: longest sequence, in tokens.
    """

    shape: TransformerShape
    embedding: int
    vocab_size: int
    context_length: int


def derive_lm_spec(config: HfConfigMapping, *, where: str) -> LanguageModelSpec:
    """Return the spec of a language model from its config.

    Raises:
        ModelError: the config lacks a number (`model.incomplete_config`).
    """
    model_type = str(config.get("model_type"))
    defaults = LM_DEFAULTS.get(model_type, {})
    fields = {field: get_config_int(config, keys, 0) for field, keys in LM_CONFIG_KEYS.items()}
    for field, value in fields.items():
        fields[field] = value or defaults.get(field, 0)
        if not fields[field] and field not in OPTIONAL_LM_FIELDS:
            key = LM_CONFIG_KEYS[field][0]
            raise ModelError(
                f"its config does not give its {key}",
                where=where,
                hint=f"add '{key}: ...' to it",
                code="model.incomplete_config",
            )
    vocab_size, context_length = fields.pop("vocab_size"), fields.pop("context_length")
    fields["intermediate_size"] = fields["intermediate_size"] or 4 * fields["hidden_size"]
    fields["num_kv_heads"] = fields["num_kv_heads"] or fields["num_heads"]
    shape = TransformerShape(num_parameters=0, **dict[str, Any](fields))
    is_gpt2 = model_type == "gpt2"
    tables = 1 if config.get("tie_word_embeddings", is_gpt2) else 2
    num_positions = context_length if is_gpt2 else 0
    return LanguageModelSpec(
        shape=replace(shape, num_parameters=_count_layer_parameters(model_type, shape)),
        embedding=(tables * vocab_size + num_positions) * shape.hidden_size,
        vocab_size=vocab_size,
        context_length=context_length,
    )


def count_lm_parameters(tensor_index: TensorIndex) -> tuple[int, int]:
    """Return the parameters of layers and of embeddings among the tensors of a checkpoint."""
    counts = {True: 0, False: 0}
    for name, tensor in iter_tensor_infos(tensor_index):
        counts[bool(EMBEDDING_KEY_RE.search(name))] += tensor.num_elements
    return counts[False], counts[True]


def _count_layer_parameters(model_type: str, shape: TransformerShape) -> int:
    """Parameters of attention, MLP, norms and biases of all layers, and of the last norm."""
    width, inner = shape.hidden_size, shape.intermediate_size
    head_dim = shape.head_dim or width // shape.num_heads
    query, key_value = shape.num_heads * head_dim, shape.num_kv_heads * head_dim
    mlp_matrices = 2 if model_type in UNGATED_MLP_MODEL_TYPES else 3
    matrices = 2 * width * (query + key_value) + mlp_matrices * width * inner
    norms = {"nanochat": 0, "gpt2": 4 * width, "qwen3": 2 * width + 2 * head_dim}
    biases = {"gpt2": query + 2 * key_value + 2 * width + inner, "qwen2": query + 2 * key_value}
    per_layer = matrices + norms.get(model_type, 2 * width) + biases.get(model_type, 0)
    last_norm = {"nanochat": 0, "gpt2": 2 * width}.get(model_type, width)
    return shape.num_layers * per_layer + last_norm
