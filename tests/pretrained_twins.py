"""Tiny random checkpoints of transformers' audio classes, each laid out as the released one.

The class, its processor and its tokenizer are transformers' own, to compare with.
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
    GenerationConfig,
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
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from dlm.plan.model_spec import MODEL_CATALOG, ModelSpec, ParameterCounts, TransformerShape
from tests.tiny_models import SAMPLE_RATE, make_tiny_tokenizer
from tests.tiny_voxtral import write_tiny_voxtral

Inputs = dict[str, torch.Tensor]
VOXTRAL_WINDOW_SECONDS = 2  # the released ones hear 30 at once
WHISPER_WINDOW_SECONDS = 2
WHISPER_LANGUAGES = ("<|en|>", "<|fr|>", "<|zh|>")
WHISPER_TOKENS = (
    *("<|startoftranscript|>", *WHISPER_LANGUAGES, "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    *(f"<|{0.02 * step:.2f}|>" for step in range(50 * WHISPER_WINDOW_SECONDS + 1)),
)

ENCODER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
LANGUAGE_MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
GENERATION_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SYSTEM_PROMPT = (
    "{% if messages[0].role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
CONTENT_PARTS_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'audio' %}AUDIO_TOKEN"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
)
GLM_TEMPLATE = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for part in content %}{% if part.type == 'text' %}{{ part.text }}{% else %}"
    "<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n{% endif %}{% endfor %}{% endif %}"
    "{% endmacro %}{% for message in messages %}<|{{ message.role }}|>\n"
    "{{ said(message.content) | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ASR_TEMPLATE = (
    "{% set asked = namespace(system='', sounds='') %}{% for message in messages %}"
    "{% for part in message.content %}{% if part.type == 'audio' %}"
    "{% set asked.sounds = asked.sounds + '<|audio_start|><|audio_pad|><|audio_end|>' %}"
    "{% elif message.role == 'system' %}{% set asked.system = asked.system + part.text %}"
    "{% endif %}{% endfor %}{% endfor %}"
    "<|im_start|>system\n{{ asked.system }}<|im_end|>\n"
    "<|im_start|>user\n{{ asked.sounds }}<|im_end|>\n"
    "{% for message in messages %}{% if message.role == 'assistant' %}<|im_start|>assistant\n"
    "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}" + GENERATION_PROMPT
)


@dataclass(frozen=True)
class PretrainedTwin:
    """Model, tokenizer, processor; Omni's processor needs torchvision: here it is the extractor."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    processor: Any


def write_pretrained_twin(key: str, folder: Path) -> Path:
    """Write the checkpoint of a catalogue key or a family into `folder`, and return the folder."""
    family = MODEL_CATALOG[key].family if key in MODEL_CATALOG else key
    if family == "voxtral":
        return write_tiny_voxtral(folder, window_seconds=VOXTRAL_WINDOW_SECONDS)
    torch.manual_seed(0)
    twin = _build_whisper(()) if key.endswith(".en") else TWIN_BUILDERS[family]()
    with torch.no_grad():
        for parameter in twin.model.parameters():  # so large that a wrong token shows in the logits
            parameter.add_(0.05 * torch.randn_like(parameter))
    twin.model.save_pretrained(folder)
    twin.processor.save_pretrained(folder)
    twin.tokenizer.save_pretrained(folder)  # the released ones hold the template in both
    if family in ("qwen2_5_omni", "qwen3_omni_moe"):
        _wrap_thinker(folder, family)
    return folder


def make_twin_spec(key: str, folder: Path, **audio_spec: int) -> ModelSpec:
    """Make the catalogue's spec for a small checkpoint in `folder`."""
    spec = MODEL_CATALOG[key]
    shape = TransformerShape(
        40_000, num_layers=2, hidden_size=32, intermediate_size=64, num_heads=2, num_kv_heads=2
    )
    return replace(
        spec,
        source=str(folder),
        revision="test",
        sizes=ParameterCounts(shape, 2_000, shape, embedding=20_000, vocab_size=300),
        audio_spec=replace(spec.audio_spec, **audio_spec),
    )


def extract_reference_inputs(spec: ModelSpec, waveforms: list[np.ndarray]) -> Inputs:
    """Extract with the class's own extractor what its own forward takes."""
    if spec.family in ("voxtral", "whisper"):
        return _extract_whole_windows(spec, waveforms)
    mask_name, extractor = MASK_NAMES_AND_EXTRACTORS[spec.family]
    if extractor is not None:
        return _extract_unpadded(extractor, mask_name, waveforms)
    seconds = spec.audio_spec.window_samples // SAMPLE_RATE
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=seconds)
    features = extractor(
        waveforms, sampling_rate=SAMPLE_RATE, return_attention_mask=True, return_tensors="pt"
    )
    return {"input_features": features.input_features, mask_name: features.attention_mask}


def _wrap_thinker(folder: Path, family: str) -> None:
    """Lay the thinker out as the released Omni models do: under its name, beside a talker."""
    thinker = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({"model_type": family, "thinker_config": thinker, "dtype": "float32"})
    )
    tensors = load_file(folder / "model.safetensors")
    thinker_tensors = {
        f"thinker.{name.removeprefix('thinker.')}": tensor for name, tensor in tensors.items()
    }
    vocoder = "token2wav.conv.weight" if family == "qwen2_5_omni" else "code2wav.conv.weight"
    talker_tensors = {name: torch.zeros(2, 2) for name in ("talker.codec_head.weight", vocoder)}
    save_file(
        thinker_tensors | talker_tensors, folder / "model.safetensors", metadata={"format": "pt"}
    )


def _build_qwen2_audio() -> PretrainedTwin:
    tokenizer = make_tiny_tokenizer(("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"))
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer)
    tokenizer.chat_template = processor.chat_template
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", "num_mel_bins": 128, **ENCODER},
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **LANGUAGE_MODEL},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    return PretrainedTwin(Qwen2AudioForConditionalGeneration(config), tokenizer, processor)


def _build_audio_flamingo() -> PretrainedTwin:
    tokenizer = make_tiny_tokenizer(("<sound>",))
    tokenizer.chat_template = (
        SYSTEM_PROMPT + CONTENT_PARTS_TEMPLATE.replace("AUDIO_TOKEN", "<sound>") + GENERATION_PROMPT
    )
    processor = AudioFlamingo3Processor(
        WhisperFeatureExtractor(feature_size=128, return_attention_mask=True),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    config = AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder", **ENCODER},
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), **LANGUAGE_MODEL},
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    return PretrainedTwin(AudioFlamingo3ForConditionalGeneration(config), tokenizer, processor)


def _build_glm_asr() -> PretrainedTwin:
    audio_tokens = (
        "<|pad|>",
        "<|begin_of_audio|>",
        "<|end_of_audio|>",
        "<|user|>",
        "<|assistant|>",
    )
    tokenizer = make_tiny_tokenizer((*audio_tokens, "<|system|>"))
    tokenizer.chat_template, tokenizer.eos_token = GLM_TEMPLATE, "<|endoftext|>"
    processor = GlmAsrProcessor(
        WhisperFeatureExtractor(feature_size=128), tokenizer, chat_template=GLM_TEMPLATE
    )
    encoder = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = GlmAsrConfig(
        audio_config={"model_type": "glmasr_encoder", "intermediate_size": 64, **encoder},
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **LANGUAGE_MODEL},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
    )
    config.text_config.eos_token_id = tokenizer.eos_token_id
    return PretrainedTwin(GlmAsrForConditionalGeneration(config), tokenizer, processor)


def _build_qwen3_asr() -> PretrainedTwin:
    tokenizer = _make_omni_tokenizer(
        ASR_TEMPLATE, "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"
    )
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=ASR_TEMPLATE)
    config = Qwen3ASRConfig(
        audio_config={"downsample_hidden_size": 8, "output_dim": 32, **ENCODER},
        text_config={
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            **LANGUAGE_MODEL,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return PretrainedTwin(Qwen3ASRForConditionalGeneration(config), tokenizer, processor)


def _build_qwen25_omni() -> PretrainedTwin:
    audio_tokens = ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>")
    template = (
        SYSTEM_PROMPT
        + CONTENT_PARTS_TEMPLATE.replace("AUDIO_TOKEN", "".join(audio_tokens))
        + GENERATION_PROMPT
    )
    tokenizer = _make_omni_tokenizer(template, *audio_tokens)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={"output_dim": 32, **ENCODER},
        text_config={"vocab_size": len(tokenizer), "rope_parameters": MROPE, **LANGUAGE_MODEL},
        vision_config={"out_hidden_size": 32, "fullatt_block_indexes": [0], **VISION},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        audio_start_token_id=tokenizer.convert_tokens_to_ids("<|audio_bos|>"),
        vision_start_token_id=3,
    )
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    return PretrainedTwin(
        model, tokenizer, WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    )


def _build_qwen3_omni() -> PretrainedTwin:
    audio_tokens = ("<|audio_start|>", "<|audio_pad|>", "<|audio_end|>")
    tokenizer = _make_omni_tokenizer(
        CONTENT_PARTS_TEMPLATE.replace("AUDIO_TOKEN", "".join(audio_tokens)) + GENERATION_PROMPT,
        *audio_tokens,
    )
    experts = {"num_experts": 3, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={"downsample_hidden_size": 8, "output_dim": 32, **ENCODER},
        text_config={
            "vocab_size": len(tokenizer),
            "rope_parameters": MROPE,
            "head_dim": 16,
            **experts,
            **LANGUAGE_MODEL,
        },
        vision_config={"out_hidden_size": 32, "deepstack_visual_indexes": [0], **VISION},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
    )
    config.audio_start_token_id = tokenizer.convert_tokens_to_ids("<|audio_start|>")
    config.vision_start_token_id = 3
    model = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    return PretrainedTwin(
        model, tokenizer, WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    )


def _build_whisper(languages: tuple[str, ...] = WHISPER_LANGUAGES) -> PretrainedTwin:
    """Multilingual with three languages, or English-only without any."""
    tokens = [
        token for token in WHISPER_TOKENS if token not in WHISPER_LANGUAGES or token in languages
    ]
    tokenizer = WhisperTokenizer(
        tokenizer_object=make_tiny_tokenizer(tuple(tokens)).backend_tokenizer,
        **dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "<|endoftext|>"),
    )
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WHISPER_WINDOW_SECONDS)
    to_id, end_id = tokenizer.convert_tokens_to_ids, tokenizer.eos_token_id
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        max_source_positions=50 * WHISPER_WINDOW_SECONDS,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        decoder_start_token_id=to_id("<|startoftranscript|>"),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_id),
        **ENCODER,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        begin_suppress_tokens=[to_id("#"), end_id],  # one byte, and the end
        suppress_tokens=[to_id("("), *map(to_id, tokens[: tokens.index("<|notimestamps|>")])],
        no_timestamps_token_id=to_id("<|notimestamps|>"),
        is_multilingual=bool(languages),
        decoder_start_token_id=config.decoder_start_token_id,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_id),
    )
    if languages:
        tasks = ("transcribe", "translate")
        model.generation_config.lang_to_id = {token: to_id(token) for token in languages}
        model.generation_config.task_to_id = {name: to_id(f"<|{name}|>") for name in tasks}
    return PretrainedTwin(model, tokenizer, WhisperProcessor(extractor, tokenizer))


def _make_omni_tokenizer(
    template: str, bos_token: str, audio_token: str, eos_token: str
) -> PreTrainedTokenizerFast:
    """A tokenizer that names its audio tokens, which Qwen's processors look up by name."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tiny_tokenizer((bos_token, audio_token, eos_token)).backend_tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "audio_bos_token": bos_token,
            "audio_token": audio_token,
            "audio_eos_token": eos_token,
        },
    )
    tokenizer.chat_template = template
    return tokenizer


def _extract_whole_windows(spec: ModelSpec, waveforms: list[np.ndarray]) -> Inputs:
    """As VoxtralProcessor: each waveform padded to whole windows, its log-mel cut into them."""
    window = spec.audio_spec.window_samples
    extractor = WhisperFeatureExtractor(
        feature_size=spec.num_mel_bins, chunk_length=window // SAMPLE_RATE
    )
    log_mels = [
        extractor(
            waveform,
            sampling_rate=SAMPLE_RATE,
            padding=True,
            truncation=False,
            pad_to_multiple_of=window,
            return_tensors="pt",
        ).input_features[0]
        for waveform in waveforms
    ]
    window_frames = window // spec.audio_spec.hop_length
    return {
        "input_features": torch.stack(
            [part for log_mel in log_mels for part in log_mel.split(window_frames, dim=1)]
        )
    }


def _extract_unpadded(extractor: Any, mask_name: str, waveforms: list[np.ndarray]) -> Inputs:
    """As Qwen3's processors: each waveform by itself, then padded on the right."""
    features = [
        extractor(
            waveform,
            sampling_rate=SAMPLE_RATE,
            padding=True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        for waveform in waveforms
    ]
    frames = max(item.attention_mask.shape[-1] for item in features)
    names = {"input_features": "input_features", "attention_mask": mask_name}
    pad = torch.nn.functional.pad
    return {
        name: torch.cat([pad(item[key], (0, frames - item[key].shape[-1])) for item in features])
        for key, name in names.items()
    }


TWIN_BUILDERS: dict[str, Callable[[], PretrainedTwin]] = {
    "qwen2_audio": _build_qwen2_audio,
    "audioflamingo3": _build_audio_flamingo,
    "glmasr": _build_glm_asr,
    "qwen3_asr": _build_qwen3_asr,
    "qwen2_5_omni": _build_qwen25_omni,
    "qwen3_omni_moe": _build_qwen3_omni,
    "whisper": _build_whisper,
}

# The name of the mask, and the extractor of the classes that do not pad to a window.
MASK_NAMES_AND_EXTRACTORS: dict[str, tuple[str, Any]] = {
    "qwen2_audio": ("feature_attention_mask", None),
    "audioflamingo3": ("input_features_mask", None),
    "glmasr": ("input_features_mask", None),
    "qwen3_asr": ("input_features_mask", Qwen3ASRFeatureExtractor()),
    "qwen2_5_omni": ("feature_attention_mask", None),
    "qwen3_omni_moe": ("feature_attention_mask", WhisperFeatureExtractor(feature_size=128)),
}
