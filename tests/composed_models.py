"""Tiny configs of encoders, projectors and language models, and documents that compose them."""

from pathlib import Path
from typing import Any

import yaml

from tests.tiny_models import DLM_ID, TRANSCRIPTS, write_tone

ENCODERS: dict[str, dict[str, Any]] = {
    "whisper": {
        "model_type": "whisper",
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "num_mel_bins": 80,
        "max_source_positions": 100,
        "dropout": 0.0,
    },
    "wav2vec2": {
        "model_type": "wav2vec2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
    "wavlm": {
        "model_type": "wavlm",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "group",
    },
    "wav2vec2-bert": {
        "model_type": "wav2vec2-bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "feature_projection_input_dim": 160,
    },
}
HUBERT = {**ENCODERS["wavlm"], "model_type": "hubert"}

PROJECTORS: dict[str, dict[str, Any]] = {
    "pool": {"kind": "pool", "stride": 6},
    "mlp": {"kind": "mlp", "stride": 4, "hidden": 32},
    "stack": {"kind": "stack", "stride": 4, "hidden": 32},
    "concat": {"kind": "concat", "stride": 5, "hidden": 32},
    "conv": {"kind": "conv", "stride": 5, "hidden": 32},
    "qformer": {
        "kind": "qformer",
        "stride": 15,
        "queries": 3,
        "layers": 1,
        "hidden": 32,
        "heads": 2,
    },
}

LMS: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 260,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "vocab_size": 260,
        "n_positions": 512,
    },
    "nanochat": {
        "model_type": "nanochat",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 260,
        "max_position_embeddings": 512,
    },
}


def make_base_model_field(
    encoder: str = "whisper", projector: str = "stack", lm: str = "qwen3"
) -> dict[str, Any]:
    """Make the `base_model` of a document that composes components with random weights."""
    return {
        "encoder": {"from_scratch": ENCODERS[encoder]},
        "projector": PROJECTORS[projector],
        "lm": {"from_scratch": LMS[lm], "tokenizer": "bytes"},
    }


def write_composed_document(
    folder: Path,
    base_model: dict[str, Any] | str,
    *,
    num_clips: int = 4,
    seconds: float = 0.7,
    **training: object,
) -> Path:
    """Write a document with `num_clips` tones, of `seconds` and 0.1 s more each."""
    sections = []
    for number in range(num_clips):
        length = seconds + 0.1 * number
        write_tone(folder / f"clips/{number}.wav", hertz=200 + 150 * number, seconds=length)
        transcript = TRANSCRIPTS[number % 8]
        sections.append(f'::audio path="clips/{number}.wav" transcript="{transcript}"::\n')
    config = {
        "dlm_id": DLM_ID,
        "dlm_version": 15,
        "base_model": base_model,
        "training": {"precision": "fp32", "held_out": 0, **training},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "my.dlm"
    header = f"---\n{yaml.safe_dump(config)}---\n\n"
    path.write_text(header + "\n".join(sections), encoding="utf-8")
    return path
