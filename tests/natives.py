"""Tiny random checkpoints of transformers' own audio classes: real class, processor, tokenizer.

Each is written as the released one lies on the hub. `inputs` is what the class's own feature
extractor makes of sounds, for its own forward.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from dlm.plan.model_spec import MODEL_CATALOG, ModelSpec, ParameterCounts, TransformerShape
from tests.tiny import RATE, tiny_tokenizer
from tests.voxtral import build_voxtral

Inputs = dict[str, torch.Tensor]
VOXTRAL_SECONDS = 2  # the released ones hear 30 at once

EAR = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
LM = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
EYES = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
MIXED = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
ANSWER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
HELPFUL = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
PARTS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'audio' %}SOUND"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
)
GLM = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content %}{% if part.type == 'text' %}{{ part.text }}{% else %}"
    "<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n{% endif %}{% endfor %}{% endif %}"
    "{% endmacro %}{% for message in messages %}<|{{ message.role }}|>\n"
    "{{ said(message.content) | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ASR = (
    "{% set asked = namespace(system='', sounds='') %}{% for message in messages %}"
    "{% for part in message.content %}{% if part.type == 'audio' %}"
    "{% set asked.sounds = asked.sounds + '<|audio_start|><|audio_pad|><|audio_end|>' %}"
    "{% elif message.role == 'system' %}{% set asked.system = asked.system + part.text %}"
    "{% endif %}{% endfor %}{% endfor %}"
    "<|im_start|>system\n{{ asked.system }}<|im_end|>\n"
    "<|im_start|>user\n{{ asked.sounds }}<|im_end|>\n"
    "{% for message in messages %}{% if message.role == 'assistant' %}<|im_start|>assistant\n"
    "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}" + ANSWER
)


@dataclass(frozen=True)
class Made:
    """What a builder makes; the Omni's processor needs torchvision, so theirs is the extractor."""

    whole: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    processor: Any


def build(key: str, folder: Path) -> Path:
    """Write the checkpoint of a catalogue key or a family into `folder` and return it."""
    family = MODEL_CATALOG[key].family if key in MODEL_CATALOG else key
    if family == "voxtral":
        return build_voxtral(folder, seconds=VOXTRAL_SECONDS)
    torch.manual_seed(0)
    made = BUILDERS[family]()
    with torch.no_grad():
        for each in made.whole.parameters():  # so large that a wrong token is seen in the logits
            each.add_(0.05 * torch.randn_like(each))
    made.whole.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)  # the released ones hold the template in both
    if family in ("qwen2_5_omni", "qwen3_omni_moe"):
        _wrap_thinker(folder, family)
    return folder


def row(key: str, folder: Path, **strides: int) -> ModelSpec:
    """The catalogue's row for a small checkpoint in `folder`."""
    base = MODEL_CATALOG[key]
    tiny = TransformerShape(
        40_000, num_layers=2, hidden_size=32, intermediate_size=64, num_heads=2, num_kv_heads=2
    )
    return replace(
        base,
        source=str(folder),
        revision="test",
        sizes=ParameterCounts(tiny, 2_000, tiny, embedding=20_000, vocab_size=300),
        audio_spec=replace(base.audio_spec, **strides),
    )


def inputs(base: ModelSpec, sounds: list[np.ndarray]) -> Inputs:
    """What the class's own extractor makes of sounds (windows of them), for its own forward."""
    if base.family == "voxtral":
        return _whole_windows(base, sounds)
    mask, alone = EXTRACTORS[base.family]
    if alone is not None:
        return _alone(alone, mask, sounds)
    seconds = base.audio_spec.window_samples // RATE
    ear = WhisperFeatureExtractor(feature_size=128, chunk_length=seconds)
    heard = ear(sounds, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
    return {"input_features": heard.input_features, mask: heard.attention_mask}


def _wrap_thinker(folder: Path, family: str) -> None:
    """Lay the thinker out as the released Omni models: under its name, beside a talker."""
    thinker = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({"model_type": family, "thinker_config": thinker, "dtype": "float32"})
    )
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("thinker."): each for name, each in tensors.items()}
    voice = "token2wav.conv.weight" if family == "qwen2_5_omni" else "code2wav.conv.weight"
    mouth = {name: torch.zeros(2, 2) for name in ("talker.codec_head.weight", voice)}
    released = {f"thinker.{name}": each for name, each in bare.items()} | mouth
    save_file(released, folder / "model.safetensors", metadata={"format": "pt"})


def _qwen2_audio() -> Made:
    tokenizer = tiny_tokenizer(("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"))
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer)
    tokenizer.chat_template = processor.chat_template
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", "num_mel_bins": 128, **EAR},
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **LM},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    return Made(Qwen2AudioForConditionalGeneration(config), tokenizer, processor)


def _audio_flamingo() -> Made:
    tokenizer = tiny_tokenizer(("<sound>",))
    tokenizer.chat_template = HELPFUL + PARTS.replace("SOUND", "<sound>") + ANSWER
    processor = AudioFlamingo3Processor(
        WhisperFeatureExtractor(feature_size=128, return_attention_mask=True),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    config = AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder", **EAR},
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **LM},
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    return Made(AudioFlamingo3ForConditionalGeneration(config), tokenizer, processor)


def _glm_asr() -> Made:
    marks = ("<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>", "<|user|>", "<|assistant|>")
    tokenizer = tiny_tokenizer((*marks, "<|system|>"))
    tokenizer.chat_template, tokenizer.eos_token = GLM, "<|endoftext|>"
    processor = GlmAsrProcessor(
        WhisperFeatureExtractor(feature_size=128), tokenizer, chat_template=GLM
    )
    ear = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = GlmAsrConfig(
        audio_config={"model_type": "glmasr_encoder", "intermediate_size": 64, **ear},
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **LM},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
    )
    config.text_config.eos_token_id = tokenizer.eos_token_id
    return Made(GlmAsrForConditionalGeneration(config), tokenizer, processor)


def _qwen3_asr() -> Made:
    tokenizer = _omni_tokenizer(ASR, "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=ASR)
    config = Qwen3ASRConfig(
        audio_config={"downsample_hidden_size": 8, "output_dim": 32, **EAR},
        text_config={"model_type": "qwen3", "vocab_size": len(tokenizer), "head_dim": 16, **LM},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return Made(Qwen3ASRForConditionalGeneration(config), tokenizer, processor)


def _qwen25_omni() -> Made:
    marks = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
    template = HELPFUL + PARTS.replace("SOUND", "".join(marks)) + ANSWER
    tokenizer = _omni_tokenizer(template, *marks)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={"output_dim": 32, **EAR},
        text_config={"vocab_size": len(tokenizer), "rope_parameters": MIXED, **LM},
        vision_config={"out_hidden_size": 32, "fullatt_block_indexes": [0], **EYES},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        audio_start_token_id=tokenizer.convert_tokens_to_ids("<|audio_bos|>"),
        vision_start_token_id=3,
    )
    whole = Qwen2_5OmniThinkerForConditionalGeneration(config)
    return Made(whole, tokenizer, WhisperFeatureExtractor(feature_size=128, chunk_length=300))


def _qwen3_omni() -> Made:
    marks = ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")
    tokenizer = _omni_tokenizer(PARTS.replace("SOUND", "".join(marks)) + ANSWER, *marks)
    experts = {"num_experts": 3, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={"downsample_hidden_size": 8, "output_dim": 32, **EAR},
        text_config={
            "vocab_size": len(tokenizer),
            "rope_parameters": MIXED,
            "head_dim": 16,
            **experts,
            **LM,
        },
        vision_config={"out_hidden_size": 32, "deepstack_visual_indexes": [0], **EYES},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
    )
    config.audio_start_token_id = tokenizer.convert_tokens_to_ids("<|audio_start|>")
    config.vision_start_token_id = 3
    whole = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    return Made(whole, tokenizer, WhisperFeatureExtractor(feature_size=128, chunk_length=300))


def _omni_tokenizer(template: str, begin: str, sound: str, end: str) -> PreTrainedTokenizerFast:
    """Qwen's tokenizers name the tokens of sound, and the processors ask for the names."""
    plain = tiny_tokenizer((begin, sound, end))
    named = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "audio_bos_token": begin,
            "audio_token": sound,
            "audio_eos_token": end,
        },
    )
    named.chat_template = template
    return named


def _whole_windows(base: ModelSpec, sounds: list[np.ndarray]) -> Inputs:
    """As VoxtralProcessor does: each sound filled up to whole windows, its mel cut into them."""
    size = base.audio_spec.window_samples
    ear = WhisperFeatureExtractor(feature_size=128, chunk_length=size // RATE)
    how = {"sampling_rate": RATE, "padding": True, "truncation": False, "return_tensors": "pt"}
    heard = [ear(each, pad_to_multiple_of=size, **how).input_features[0] for each in sounds]
    cut = [
        window for mel in heard for window in mel.split(size // base.audio_spec.hop_length, dim=1)
    ]
    return {"input_features": torch.stack(cut)}


def _alone(ear: Any, mask: str, sounds: list[np.ndarray]) -> Inputs:
    """Each sound as it is when it comes alone: padded to nothing, as Qwen3's processors do."""
    how = {"sampling_rate": RATE, "return_attention_mask": True, "return_tensors": "pt"}
    heard = [ear(sound, padding=True, truncation=False, **how) for sound in sounds]
    names = {"input_features": "input_features", "attention_mask": mask}
    width = max(each.attention_mask.shape[-1] for each in heard)
    pad = torch.nn.functional.pad
    return {
        name: torch.cat([pad(each[key], (0, width - each[key].shape[-1])) for each in heard])
        for key, name in names.items()
    }


BUILDERS: dict[str, Callable[[], Made]] = {
    "qwen2_audio": _qwen2_audio,
    "audioflamingo3": _audio_flamingo,
    "glmasr": _glm_asr,
    "qwen3_asr": _qwen3_asr,
    "qwen2_5_omni": _qwen25_omni,
    "qwen3_omni_moe": _qwen3_omni,
}

# The name of the mask, and the extractor of the classes that pad a sound to nothing.
EXTRACTORS: dict[str, tuple[str, Any]] = {
    "qwen2_audio": ("feature_attention_mask", None),
    "audioflamingo3": ("input_features_mask", None),
    "glmasr": ("input_features_mask", None),
    "qwen3_asr": ("input_features_mask", Qwen3ASRFeatureExtractor()),
    "qwen2_5_omni": ("feature_attention_mask", None),
    "qwen3_omni_moe": ("feature_attention_mask", WhisperFeatureExtractor(feature_size=128)),
}
