"""Tiny encoders with random weights that take waveforms: wav2vec 2.0 and its relatives."""

from typing import Any

from transformers import PreTrainedModel

from dlm.models.encoders import build_encoder
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.encoder_lm_specs import derive_encoder_spec

CONV_CONFIG = {
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LAYER_CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LAYER_NORM_CONFIG = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
WAVEFORM_CONFIGS: dict[str, dict[str, Any]] = {
    "wav2vec2": {"model_type": "wav2vec2", **LAYER_NORM_CONFIG},
    "wav2vec2_group": {"model_type": "wav2vec2"},
    "hubert": {"model_type": "hubert", **LAYER_NORM_CONFIG},
    "hubert_group": {"model_type": "hubert"},
    "wavlm": {"model_type": "wavlm", **LAYER_NORM_CONFIG},
    "unispeech": {"model_type": "unispeech", **LAYER_NORM_CONFIG},
    "unispeech-sat": {"model_type": "unispeech-sat", **LAYER_NORM_CONFIG},
    "data2vec-audio": {"model_type": "data2vec-audio", "conv_pos_kernel_size": 3},
    "wav2vec2-conformer": {"model_type": "wav2vec2-conformer", "conv_depthwise_kernel_size": 5},
    "wav2vec2-bert": {
        "model_type": "wav2vec2-bert",
        "conv_depthwise_kernel_size": 5,
        "left_max_position_embeddings": 8,
        "right_max_position_embeddings": 4,
    },
}
WAVEFORM_FAMILIES = tuple(WAVEFORM_CONFIGS)


def make_waveform_config(family: str) -> dict[str, Any]:
    """Make the config of a tiny encoder."""
    conv_config = {} if family == "wav2vec2-bert" else CONV_CONFIG
    return {**LAYER_CONFIG, **conv_config, **WAVEFORM_CONFIGS[family]}


def get_waveform_audio_spec(family: str) -> AudioTokenizerSpec:
    """Return the sample rate and strides of a tiny encoder."""
    return derive_encoder_spec(make_waveform_config(family), "last", where="test").audio_spec


def build_waveform_encoder(family: str) -> PreTrainedModel:
    """Build a random encoder, in evaluation mode."""
    return build_encoder(make_waveform_config(family)).eval()
