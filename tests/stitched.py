"""Parts for stitched bases: tiny shapes of the real classes, with random weights."""

from pathlib import Path
from typing import Any

import yaml

from tests.tiny import WORDS, tone

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


def recipe(encoder: str = "whisper", projector: str = "stack", lm: str = "qwen3") -> dict[str, Any]:
    """What a document writes under base_model, of parts with random weights."""
    return {
        "encoder": {"from_scratch": ENCODERS[encoder]},
        "projector": PROJECTORS[projector],
        "lm": {"from_scratch": LMS[lm], "tokenizer": "bytes"},
    }


def write_stitched(
    folder: Path,
    base: dict[str, Any] | str,
    *,
    clips: int = 4,
    seconds: float = 0.7,
    **training: object,
) -> Path:
    """A document with `clips` tones whose base is stitched from `base`."""
    fences = []
    for number in range(clips):
        length = seconds + 0.1 * number
        tone(folder / f"clips/{number}.wav", hertz=200 + 150 * number, seconds=length)
        fences.append(f'::audio path="clips/{number}.wav" transcript="{WORDS[number % 8]}"::\n')
    front = {
        "dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "dlm_version": 15,
        "base_model": base,
        "training": {"precision": "fp32", "held_out": 0, **training},
    }
    folder.mkdir(exist_ok=True)
    path = folder / "my.dlm"
    path.write_text(f"---\n{yaml.safe_dump(front)}---\n\n" + "\n".join(fences), encoding="utf-8")
    return path
