"""What encoders that take waves hear: wav2vec 2.0 and its kin, and w2v-BERT.

    wave --zero mean, unit variance--> convolutions --> layers    wav2vec 2.0, HuBERT, WavLM, ...
    wave --fbank, two frames side by side--> layers               w2v-BERT

Where padding would be heard, clips are heard one by one; elsewhere it is masked.
"""

from functools import lru_cache
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, PreTrainedModel, SeamlessM4TFeatureExtractor

from dlm.model.face import Features
from dlm.plan.bases import Layer
from dlm.plan.frames import convolved
from dlm.plan.hearing import BERT

MASKED = ("wav2vec2", "hubert", "unispeech", "unispeech-sat")  # which hear no padding behind it
RATE = 16_000  # samples per second, of all of them
STACKED = 2  # fbank frames that w2v-BERT takes side by side (Barrault et al. 2023, section 3)
VARIANCE_FLOOR = 1e-7  # transformers' Wav2Vec2FeatureExtractor
PLAIN = {
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "add_adapter": False,
    "use_intermediate_ffn_before_adapter": False,
}


def build_waves(config: dict[str, Any]) -> PreTrainedModel:
    """An encoder with random weights that drops no layer, masks nothing and skips no frame."""
    plain = AutoConfig.for_model(**{**config, **PLAIN})
    encoder: Any = AutoModel.from_config(plain, dtype=torch.float32)
    if config["model_type"] != BERT:
        encoder.feature_extractor._requires_grad = False  # of the wave, which nobody asks for
    built: PreTrainedModel = encoder
    return built


def hear_waves(
    encoder: PreTrainedModel, waves: torch.Tensor, samples: torch.Tensor, layer: Layer
) -> Features:
    """What is heard in `waves` (clips, samples), each as long as `samples` (clips,) says."""
    weights = next(encoder.parameters())
    clips = [
        _prepared(encoder, wave[:length].float())
        for wave, length in zip(waves, samples.tolist(), strict=True)
    ]
    clips = [clip.to(weights) for clip in clips]
    together = _ignores_padding(encoder.config) or len(clips) == 1
    rows = _masked(encoder, clips, layer) if together else _one_by_one(encoder, clips, layer)
    frames = torch.tensor([len(row) for row in rows], device=samples.device)
    return Features(pad_sequence(rows, batch_first=True), frames)


def _prepared(encoder: PreTrainedModel, wave: torch.Tensor) -> torch.Tensor:
    """What the encoder takes of one wave (samples,): itself, or its fbank (frames, values)."""
    config = encoder.config
    if config.model_type == BERT:
        fbank = _fbank(config.feature_projection_input_dim // STACKED)
        taken = fbank(
            wave.cpu().numpy(), sampling_rate=RATE, pad_to_multiple_of=None, return_tensors="pt"
        )
        features: torch.Tensor = taken["input_features"][0]
        return features
    if not vars(config).get("do_normalize", _norm(config) == "layer"):
        return wave
    return (wave - wave.mean()) / (wave.var(correction=0) + VARIANCE_FLOOR).sqrt()


@lru_cache(maxsize=1)
def _fbank(bins: int) -> SeamlessM4TFeatureExtractor:
    return SeamlessM4TFeatureExtractor(bins, RATE, bins, stride=STACKED)


def _norm(config: Any) -> str:
    """Over what the convolutions norm: the channels, or with "group" the time of a clip."""
    norm: str = vars(config).get("feat_extract_norm", "layer")
    return norm


def _ignores_padding(config: Any) -> bool:
    """Whether masks hide padding: a norm over time, or of padding itself, lets it be heard."""
    if config.model_type == BERT:
        return True
    over_time = _norm(config) == "group" or vars(config).get("conv_pos_batch_norm")
    return config.model_type in MASKED and not over_time


def _one_by_one(
    encoder: PreTrainedModel, clips: list[torch.Tensor], layer: Layer
) -> list[torch.Tensor]:
    return [_masked(encoder, [clip], layer)[0] for clip in clips]


def _masked(
    encoder: PreTrainedModel, clips: list[torch.Tensor], layer: Layer
) -> list[torch.Tensor]:
    """What is heard in each clip, (frames, layers x width), all of them at once."""
    lengths = torch.tensor([len(clip) for clip in clips])
    steps = torch.arange(int(lengths.max()))
    mask = (steps < lengths[:, None]).long().to(clips[0].device)
    heard = encoder(
        pad_sequence(clips, batch_first=True),
        attention_mask=None if bool(mask.all()) else mask,
        output_hidden_states=layer != "last",
    )
    if layer == "last":
        hidden = heard.last_hidden_state
    elif layer == "weighted_sum":
        hidden = torch.cat(heard.hidden_states, dim=2)
    else:
        hidden = heard.hidden_states[layer]
    frames = [_frames(encoder.config, len(clip)) for clip in clips]
    return [row[:count] for row, count in zip(hidden, frames, strict=True)]


def _frames(config: Any, steps: int) -> int:
    """Encoder frames of a clip of so many samples, or fbank frames."""
    if config.model_type == BERT:
        return steps
    return convolved(steps, tuple(zip(config.conv_kernel, config.conv_stride, strict=True)))
