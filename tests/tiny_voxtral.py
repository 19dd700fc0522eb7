"""A tiny Voxtral with random weights and a real tekken tokenizer of two thousand tokens."""

import json
from pathlib import Path
from typing import Any

import mistral_common
import torch
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers import (
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)
from transformers.tokenization_mistral_common import MistralCommonBackend

BUNDLED_TOKENIZER = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
NUM_SPECIAL_TOKENS, NUM_TEXT_TOKENS = 64, 1936
AUDIO_TOKENS = {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}  # as in the released ones
NEWER_TOKENS = {32: "[ARGS]", 33: "[CALL_ID]", 35: "[THINK]", 36: "[/THINK]"}


def write_tiny_voxtral(folder: Path, *, window_seconds: int = 30, hidden_size: int = 32) -> Path:
    """Write the checkpoint and its processor; `window_seconds` is one encoder window."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tekken(folder / "tekken.json", window_seconds=window_seconds)
    torch.manual_seed(0)
    VoxtralForConditionalGeneration(_make_config(window_seconds, hidden_size)).save_pretrained(
        folder
    )
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=window_seconds)
    VoxtralProcessor(extractor, MistralCommonBackend(folder / "tekken.json")).save_pretrained(
        folder
    )
    return folder


def load_voxtral_processor(folder: Path) -> VoxtralProcessor:
    """Load the class's own processor from the folder."""
    return VoxtralProcessor.from_pretrained(folder)


def write_tekken(path: Path, *, window_seconds: int = 30, version: str = "v7") -> Path:
    """Write the bundled vocabulary cut to its most frequent tokens, with the audio settings."""
    tekken = json.loads(BUNDLED_TOKENIZER.read_text(encoding="utf-8"))
    tekken["vocab"] = tekken["vocab"][:NUM_TEXT_TOKENS]
    sizes = {
        "default_vocab_size": NUM_SPECIAL_TOKENS + NUM_TEXT_TOKENS,
        "default_num_special_tokens": NUM_SPECIAL_TOKENS,
    }
    tekken["config"] |= {"version": version, "num_vocab_tokens": NUM_TEXT_TOKENS, **sizes}
    tekken["special_tokens"] = [
        {"rank": rank, "token_str": token, "is_control": True}
        for rank, token in enumerate(_list_special_tokens())
    ]
    tekken["audio"] = {
        "sampling_rate": 16_000,
        "frame_rate": 12.5,
        "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        "chunk_length_s": float(window_seconds),
    }
    path.write_text(json.dumps(tekken), encoding="utf-8")
    return path


def _list_special_tokens() -> list[str]:
    known = {
        token["rank"]: str(token["token_str"]) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS
    }
    names = {**known, **AUDIO_TOKENS, **NEWER_TOKENS}
    return [names.get(rank, f"<SPECIAL_{rank}>") for rank in range(NUM_SPECIAL_TOKENS)]


def _make_config(window_seconds: int, hidden_size: int) -> VoxtralConfig:
    """The projector takes four frames side by side, so `intermediate_size` is 4 x `hidden_size`."""
    shared: dict[str, Any] = {"hidden_size": hidden_size, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": hidden_size // 2}
    window = {"num_mel_bins": 128, "max_source_positions": 50 * window_seconds}
    encoder = {"num_attention_heads": 2, "intermediate_size": 4 * hidden_size, **shared, **window}
    lm = {
        "vocab_size": NUM_SPECIAL_TOKENS + NUM_TEXT_TOKENS,
        "intermediate_size": 2 * hidden_size,
        **heads,
        **shared,
    }
    return VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **encoder},
        text_config={"model_type": "llama", **lm},
        audio_token_id=24,
    )
