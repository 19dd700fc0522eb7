"""Encoders run at a clip's true length, padding masked: a batch hears what one clip hears.

mel   --> Whisper, and the towers that are built like it
wave  --> wav2vec 2.0 and its kin (model/waves.py), and Whisper by a mel of its own
"""

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, PreTrainedModel
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder
from transformers.models.whisper.configuration_whisper import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from dlm.errors import BaseError
from dlm.features.mel import log_mel
from dlm.model.face import Features
from dlm.model.waves import build_waves, hear_waves
from dlm.plan.bases import Layer
from dlm.plan.hearing import ENCODERS, WAVES

MULTIPLE = 128  # mel frames: a processor compiles its products anew for every length it meets
RATE, HOP = 16_000, 160  # samples per second, and per mel frame, of every Whisper


def build(config: dict[str, Any]) -> PreTrainedModel:
    """An encoder with random weights, in fp32, from the config of its class.

    The towers of models that hear are Whisper's without their pooling. Raises BaseError for a class
    that is not known, or numbers that it cannot have.
    """
    kind = config.get("model_type")
    if kind not in ENCODERS:
        what = f"{kind} is not the class of an encoder that is known"
        raise BaseError(what, mend=f"set encoder to one of {', '.join(ENCODERS)}")
    try:
        return build_waves(config) if kind in WAVES else WhisperEncoder(_whisper(config))
    except (TypeError, ValueError, StrictDataclassError) as reason:
        told = " ".join(str(reason).split())
        raise BaseError(f"not the config of a {kind} ({told})", mend="mend encoder") from reason


def shape_of(encoder: PreTrainedModel, layer: Layer) -> tuple[int, int]:
    """How many hidden states of a frame are heard, and the width of each.

    With weighted_sum that is what goes into the first layer, and what leaves each (SUPERB, Yang et
    al. 2021). Raises BaseError for a layer that the encoder does not have.
    """
    config = encoder.config
    if isinstance(layer, int) and not 1 <= layer <= config.num_hidden_layers:
        what = f"this encoder ({config.model_type}) has no layer {layer}"
        mend = f"set layer to last, weighted_sum, or 1 to {config.num_hidden_layers}"
        raise BaseError(what, mend=mend)
    return config.num_hidden_layers + 1 if layer == "weighted_sum" else 1, config.hidden_size


def hear(
    encoder: Any,
    sounds: torch.Tensor,
    frames: torch.Tensor,
    *,
    layer: Layer,
    takes: str,
) -> Features:
    """What an encoder hears at true length: (clips, encoder frames, layers x width).

    `sounds` are mels (clips, bins, frames), or waves (clips, 1, samples) where it `takes` those;
    `frames` (clips,) is the true length of each. Layers are counted as transformers counts
    its hidden states; what lies past a clip's length is zero.
    """
    if not isinstance(encoder, WhisperEncoder):
        return hear_waves(encoder, sounds[:, 0], frames, layer)
    if takes == "wave":
        sounds, frames = _mels(encoder, sounds[:, 0], frames)
    return Features(hear_whisper(encoder, sounds, frames, layer), (frames + 1) // 2)


def hear_whisper(
    encoder: WhisperEncoder, mel: torch.Tensor, frames: torch.Tensor, layer: Layer = "last"
) -> torch.Tensor:
    """Whisper's encoder without the 30 s pad.

    `mel` is (clips, bins, frames) and `frames` (clips,) the true number of mel frames of each.
    Returns (clips, encoder frames, layers x width); rows past a clip's length are zero. At full
    length it equals `WhisperEncoder.forward`.
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
    hidden = _layers(encoder, hidden, _attention_mask(heard, hidden) if ragged else None, layer)
    return _keep(hidden.transpose(1, 2), heard).transpose(1, 2) if ragged else hidden


def _layers(
    encoder: WhisperEncoder, hidden: torch.Tensor, mask: torch.Tensor | None, layer: Layer
) -> torch.Tensor:
    """The hidden states that are heard, side by side; the last of them is normed."""
    last = len(encoder.layers)
    wanted = range(last + 1) if layer == "weighted_sum" else (last if layer == "last" else layer,)
    kept = [hidden] if 0 in wanted else []
    for number, each in enumerate(encoder.layers[: wanted[-1]], start=1):
        hidden = each(hidden, mask)
        if number == last:
            hidden = encoder.layer_norm(hidden)
        if number in wanted:
            kept.append(hidden)
    return torch.cat(kept, dim=2) if len(kept) > 1 else kept[0]


def _mels(
    encoder: WhisperEncoder, waves: torch.Tensor, samples: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mels (clips, bins, frames) of `waves` (clips, samples), and how long each is."""
    config = encoder.config
    edge = 2 * HOP * config.max_source_positions  # samples: its window ends as in a mirror
    mels = [
        log_mel(
            wave[:length].cpu().numpy(), rate=RATE, hop=HOP, bins=config.num_mel_bins, edge=edge
        )
        for wave, length in zip(waves, samples.tolist(), strict=True)
    ]
    frames = torch.tensor([mel.shape[1] for mel in mels], device=samples.device)
    return pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2), frames


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


def _whisper(config: dict[str, Any]) -> WhisperConfig:
    """Whisper's config, or the one that gives its encoder a tower's shape."""
    if config["model_type"] == "whisper":
        return WhisperConfig(**config)
    tower: Any = AutoConfig.for_model(**config)
    return WhisperConfig(
        d_model=tower.d_model,
        encoder_layers=tower.encoder_layers,
        encoder_attention_heads=tower.encoder_attention_heads,
        encoder_ffn_dim=tower.encoder_ffn_dim,
        num_mel_bins=tower.num_mel_bins,
        max_source_positions=tower.max_source_positions,
        activation_function=tower.activation_function,
        dropout=tower.dropout,
        attention_dropout=tower.attention_dropout,
        activation_dropout=tower.activation_dropout,
    )
