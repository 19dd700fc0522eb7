"""Encoders run at a clip's true length, padding masked: a batch hears what one clip hears."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from dlm.model.face import Features
from dlm.plan.bases import Layer

MULTIPLE = 128  # mel frames: a processor compiles its products anew for every length it meets


def build(config: dict[str, Any]) -> PreTrainedModel:
    """An encoder with random weights, in fp32, from the config of its class."""
    return WhisperEncoder(WhisperConfig(**config))


def shape_of(encoder: PreTrainedModel, layer: Layer) -> tuple[int, int]:
    """How many hidden states of a frame are heard, and the width of each."""
    return 1, encoder.config.d_model


def hear(
    encoder: Any, sounds: torch.Tensor, frames: torch.Tensor, *, layer: Layer, takes: str
) -> Features:
    """What an encoder hears at true length: (clips, encoder frames, layers x width).

    `sounds` are mels (clips, bins, frames), or waves (clips, 1, samples) where it `takes` those;
    `frames` (clips,) is the true length of each.
    """
    return Features(hear_whisper(encoder, sounds, frames), (frames + 1) // 2)


def hear_whisper(encoder: WhisperEncoder, mel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Whisper's encoder without the 30 s pad.

    `mel` is (clips, bins, frames) and `frames` (clips,) the true number of mel frames of each.
    Returns (clips, encoder frames, width); rows past a clip's length are zero. At full length it
    equals `WhisperEncoder.forward`.
    """
    weights = encoder.conv1.weight
    mel = mel.to(device=weights.device, dtype=weights.dtype)
    frames = frames.to(weights.device)
    heard = (frames + 1) // 2  # conv2 has stride 2 and rounds up
    ragged = bool((frames != mel.shape[-1]).any())

    hidden = nn.functional.gelu(encoder.conv1(_keep(mel, frames) if ragged else mel))
    hidden = nn.functional.gelu(encoder.conv2(_keep(hidden, frames) if ragged else hidden))
    hidden = hidden.transpose(1, 2)  # (clips, encoder frames, width)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]].to(hidden.dtype)
    mask = _attention_mask(heard, hidden) if ragged else None
    for layer in encoder.layers:
        hidden = layer(hidden, mask)
    hidden = encoder.layer_norm(hidden)
    return _keep(hidden.transpose(1, 2), heard).transpose(1, 2) if ragged else hidden


def hear_qwen2_audio(
    encoder: Qwen2AudioEncoder, mel: torch.Tensor, frames: torch.Tensor
) -> torch.Tensor:
    """Qwen2-Audio's encoder without the 30 s pad: equal to its own forward with a feature mask.

    Its convolutions look two frames past a clip's end, its attention does not: `mel` holds those
    two frames, `frames` does not count them. Returns (clips, pooled frames, width).
    """
    weights = encoder.conv1.weight
    frames = frames.to(weights.device)
    mel = nn.functional.pad(mel.to(weights.device), (0, -mel.shape[-1] % MULTIPLE))
    mel = mel[..., : 2 * encoder.max_source_positions]
    heard = (frames + 1) // 2
    hidden = nn.functional.gelu(encoder.conv1(mel.to(weights.dtype)))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    mask = _attention_mask(heard, hidden)
    for layer in encoder.layers:
        hidden = layer(hidden, mask)
    pooled = encoder.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
    normed: torch.Tensor = encoder.layer_norm(pooled)
    return normed


def _keep(wide: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Zero what lies past each row's length; `wide` is (rows, channels, steps)."""
    steps = torch.arange(wide.shape[-1], device=wide.device)
    return wide * (steps < lengths[:, None])[:, None, :].to(wide.dtype)


def _attention_mask(lengths: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Which keys may be attended to, as (rows, 1, steps, steps), added to the scores."""
    steps = torch.arange(hidden.shape[1], device=hidden.device)
    padded = (steps >= lengths[:, None])[:, None, None, :]
    mask = torch.zeros(padded.shape, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(padded, torch.finfo(hidden.dtype).min)
    return mask.expand(-1, -1, hidden.shape[1], -1)


def load_encoder(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    """H1 completes this."""
    return build(config)
