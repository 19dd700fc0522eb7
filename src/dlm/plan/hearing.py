"""What the config of an encoder tells: what it takes, how fast it reads, how large it is.

    mel    Whisper and the towers built like it    a window of so many positions, 2 mel frames each
    wave   wav2vec 2.0 and its kin                 convolutions without padding, any length
    wave   w2v-BERT                                25 ms frames every 10 ms, two side by side

A wave is heard in windows of 30 s, as Whisper's mel is.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dlm.errors import BaseError
from dlm.plan.bases import Layer, Tower
from dlm.plan.frames import Strides
from dlm.plan.weights import Weights

Config = Mapping[str, Any]

RATE, HOP = 16_000, 160  # samples per second, and per mel frame, of every Whisper
STRIDE = 2  # mel frames per frame of Whisper's encoder
WINDOW = 30 * RATE
FBANK = ((400, 160), (2, 2))  # frames of w2v-BERT, then two side by side (Barrault et al. 2023)
BERT = "wav2vec2-bert"

KERNELS, STEPS = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # wav2vec 2.0 (Baevski et al. 2020)

WHISPER = Tower(0, layers=4, width=384, inner=1536, heads=6, kv_heads=6)
LARGE = Tower(0, layers=32, width=1280, inner=5120, heads=20, kv_heads=20)
BASE = Tower(0, layers=12, width=768, inner=3072, heads=12, kv_heads=12)
MELS = {  # what each is when its config says nothing
    "whisper": (WHISPER, 80),
    "qwen2_audio_encoder": (LARGE, 128),
    "voxtral_encoder": (LARGE, 128),
    "audioflamingo3_encoder": (LARGE, 128),
}
WAVES = {
    **dict.fromkeys(("wav2vec2", "hubert", "unispeech", "unispeech-sat", "wavlm"), BASE),
    **dict.fromkeys(("data2vec-audio", "wav2vec2-conformer"), BASE),
    BERT: Tower(0, layers=24, width=1024, inner=4096, heads=16, kv_heads=16),
}
ENCODERS = (*MELS, *WAVES)

SHAPE = {
    "layers": ("encoder_layers", "num_hidden_layers"),
    "width": ("d_model", "hidden_size"),
    "inner": ("encoder_ffn_dim", "intermediate_size"),
    "heads": ("encoder_attention_heads", "num_attention_heads"),
}
OTHER_PARTS = re.compile(  # of a checkpoint, which are not the encoder's
    r"(^|\.)(decoder|proj_out|lm_head|quantizer|project_(hid|q)|classifier|projector|adapter|"
    r"language_model|multi_modal_projector|final_proj|label_embs_concat)(\.|$)"
)


@dataclass(frozen=True)
class Hearing:
    """What an encoder takes and gives; `states` is how many hidden states of a frame are heard.

    The parameters of `tower` are those of random weights of its config: to the last one for
    Whisper, wav2vec 2.0, HuBERT and WavLM, nearly for the others.
    """

    ear: Literal["mel", "wave"]
    strides: Strides
    bins: int
    tower: Tower
    states: int


def hearing_of(config: Config, layer: Layer, *, where: str) -> Hearing:
    """What an encoder of this config hears. Raises BaseError for a layer that it does not have."""
    kind = config["model_type"]
    found = _mel(config, *MELS[kind]) if kind in MELS else _wave(config, WAVES[kind])
    layers = found.tower.layers
    if isinstance(layer, int) and layer > layers:
        mend = f"set layer to last, weighted_sum or 1 to {layers}"
        raise BaseError(f"has no layer {layer}", where=where, mend=mend)
    return replace(found, states=layers + 1 if layer == "weighted_sum" else 1)


def encoder_parameters(weights: Weights) -> int:
    """Parameters of the encoder among the tensors of a checkpoint."""
    tensors = ((key, each) for file in weights.values() for key, each in file.items())
    return sum(each.count for key, each in tensors if not OTHER_PARTS.search(key))


def number_of(config: Config, names: tuple[str, ...], otherwise: int) -> int:
    """The first of these that a config tells."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), otherwise)


def _mel(config: Config, usual: Tower, bins: int) -> Hearing:
    positions = number_of(config, ("max_source_positions",), 1500)
    tower = _shaped(config, usual)
    bins = number_of(config, ("num_mel_bins",), bins)
    width, inner = tower.width, tower.inner
    ends = 3 * bins * width + width + 3 * width * width + width + positions * width + 2 * width
    layer = 4 * width * width + 3 * width + 2 * width * inner + inner + width + 4 * width
    window = positions * STRIDE * HOP
    strides = Strides(rate=RATE, hop=HOP, encoder=STRIDE, projector=1, window=window)
    return Hearing("mel", strides, bins, _counted(tower, ends, layer), 1)


def _wave(config: Config, usual: Tower) -> Hearing:
    tower, convs = _shaped(config, usual), _convs(config)
    width, inner = tower.width, tower.inner
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    if config["model_type"] in (BERT, "wav2vec2-conformer"):
        layer *= 2  # about: it has two feed-forward parts and a convolution
    if config["model_type"] == "wavlm":
        layer += tower.heads + 8 * (width // tower.heads + 1)  # how far apart two frames are
    least = 1
    for kernel, step in reversed(convs):
        least = (least - 1) * step + kernel
    strides = Strides(
        rate=RATE,
        hop=1,
        encoder=math.prod(step for _, step in convs),
        projector=1,
        window=WINDOW,
        least=least,
        convs=convs,
    )
    return Hearing("wave", strides, 0, _counted(tower, _front(config, tower), layer), 1)


def _convs(config: Config) -> tuple[tuple[int, int], ...]:
    if config["model_type"] == BERT:
        return FBANK
    kernels, steps = config.get("conv_kernel") or KERNELS, config.get("conv_stride") or STEPS
    return tuple(zip(kernels, steps, strict=True))


def _front(config: Config, tower: Tower) -> int:
    """Parameters before the layers: convolutions, their projection, positions, a norm."""
    width = tower.width
    if config["model_type"] == BERT:
        return number_of(config, ("feature_projection_input_dim",), 160) * (width + 2) + 4 * width
    convs = _convs(config)
    widths: tuple[int, ...] = tuple(config.get("conv_dim") or (512,) * len(convs))
    into = (1, *widths)
    every = config.get("feat_extract_norm") == "layer"
    bias = bool(config.get("conv_bias"))
    count = sum(
        kernel * taken * given + bias * given
        for (kernel, _), taken, given in zip(convs, into[:-1], widths, strict=True)
    )
    count += 2 * (sum(widths) if every else widths[0])
    span = number_of(config, ("num_conv_pos_embeddings",), 128)
    groups = number_of(config, ("num_conv_pos_embedding_groups",), 16)
    positions = span * (width // groups) * width + width + span
    if config["model_type"] == "wavlm":
        count += number_of(config, ("num_buckets",), 320) * tower.heads
    return count + 2 * widths[-1] + widths[-1] * width + width + positions + 2 * width


def _shaped(config: Config, usual: Tower) -> Tower:
    shape = {name: number_of(config, keys, vars(usual)[name]) for name, keys in SHAPE.items()}
    return replace(usual, **shape, kv_heads=shape["heads"])


def _counted(tower: Tower, ends: int, layer: int) -> Tower:
    return replace(tower, parameters=ends + tower.layers * layer)
