"""Encoders that take waves, of the real classes, random and so small that they hear in no time."""

from typing import Any

from transformers import PreTrainedModel

from dlm.models.encoders import build_encoder
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.encoder_lm_specs import derive_encoder_spec

CONVS = {
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
NORMED = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "wav2vec2": {"model_type": "wav2vec2", **NORMED},
    "wav2vec2_group": {"model_type": "wav2vec2"},
    "hubert": {"model_type": "hubert", **NORMED},
    "hubert_group": {"model_type": "hubert"},
    "wavlm": {"model_type": "wavlm", **NORMED},
    "unispeech": {"model_type": "unispeech", **NORMED},
    "unispeech-sat": {"model_type": "unispeech-sat", **NORMED},
    "data2vec-audio": {"model_type": "data2vec-audio", "conv_pos_kernel_size": 3},
    "wav2vec2-conformer": {"model_type": "wav2vec2-conformer", "conv_depthwise_kernel_size": 5},
    "wav2vec2-bert": {
        "model_type": "wav2vec2-bert",
        "conv_depthwise_kernel_size": 5,
        "left_max_position_embeddings": 8,
        "right_max_position_embeddings": 4,
    },
}
FAMILIES = tuple(SHAPES)


def wave_config(family: str) -> dict[str, Any]:
    """The config of a tiny encoder."""
    front = {} if family == "wav2vec2-bert" else CONVS
    return {**LAYERS, **front, **SHAPES[family]}


def wave_strides(family: str) -> AudioTokenizerSpec:
    """How fast it hears."""
    return derive_encoder_spec(wave_config(family), "last", where="test").audio_spec


def wave_encoder(family: str) -> PreTrainedModel:
    """A random one, in evaluation mode."""
    return build_encoder(wave_config(family)).eval()
