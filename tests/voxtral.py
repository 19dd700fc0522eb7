"""A random Voxtral of the real classes, with a real tekken tokenizer of two thousand words."""

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

BUNDLED = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
SPECIALS, WORDS = 64, 1936
SOUND = {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}  # as in the released ones
NEWER = {32: "[ARGS]", 33: "[CALL_ID]", 35: "[THINK]", 36: "[/THINK]"}


def build_voxtral(folder: Path, *, seconds: int = 30, width: int = 32) -> Path:
    """Write the checkpoint and its processor; `seconds` is the window it hears at once."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tekken(folder / "tekken.json", seconds=seconds)
    torch.manual_seed(0)
    VoxtralForConditionalGeneration(_config(seconds, width)).save_pretrained(folder)
    ear = WhisperFeatureExtractor(feature_size=128, chunk_length=seconds)
    VoxtralProcessor(ear, MistralCommonBackend(folder / "tekken.json")).save_pretrained(folder)
    return folder


def processor_of(folder: Path) -> VoxtralProcessor:
    """The released processor, which reads the folder as the hub's."""
    return VoxtralProcessor.from_pretrained(folder)


def write_tekken(path: Path, *, seconds: int = 30, version: str = "v7") -> Path:
    """The bundled vocabulary cut to its most frequent words, with the settings for sound."""
    facts = json.loads(BUNDLED.read_text(encoding="utf-8"))
    facts["vocab"] = facts["vocab"][:WORDS]
    sizes = {"default_vocab_size": SPECIALS + WORDS, "default_num_special_tokens": SPECIALS}
    facts["config"] |= {"version": version, "num_vocab_tokens": WORDS, **sizes}
    facts["special_tokens"] = [
        {"rank": rank, "token_str": token, "is_control": True}
        for rank, token in enumerate(_specials())
    ]
    facts["audio"] = {
        "sampling_rate": 16_000,
        "frame_rate": 12.5,
        "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        "chunk_length_s": float(seconds),
    }
    path.write_text(json.dumps(facts), encoding="utf-8")
    return path


def _specials() -> list[str]:
    known = {each["rank"]: str(each["token_str"]) for each in Tekkenizer.DEPRECATED_SPECIAL_TOKENS}
    names = {**known, **SOUND, **NEWER}
    return [names.get(rank, f"<SPECIAL_{rank}>") for rank in range(SPECIALS)]


def _config(seconds: int, width: int) -> VoxtralConfig:
    """The projector takes four frames side by side, so `intermediate_size` is 4 x `hidden_size`."""
    shared: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": width // 2}
    window = {"num_mel_bins": 128, "max_source_positions": 50 * seconds}
    ear = {"num_attention_heads": 2, "intermediate_size": 4 * width, **shared, **window}
    lm = {"vocab_size": SPECIALS + WORDS, "intermediate_size": 2 * width, **heads, **shared}
    return VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **ear},
        text_config={"model_type": "llama", **lm},
        audio_token_id=24,
    )
