"""The log-mel spectrogram of a clip at its true length.

Equal to `transformers`' WhisperFeatureExtractor (padded to its window) on the frames that hold
sound: reflected on the left, followed by silence on the right, which ends at the window as in a
mirror. Qwen3 hears a clip by itself: without the silence.
"""

from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from dlm.plan.frames import ceil_div

FFT_SAMPLES = 400  # 25 ms at 16 kHz (Radford et al. 2022, whisper/audio.py)
DYNAMIC_RANGE = 8.0  # log10 units kept below the loudest bin (same source)


def log_mel(
    samples: np.ndarray, *, rate: int, hop: int, bins: int, tail: int = 0, edge: int | None = None
) -> torch.Tensor:
    """Log-mel spectrogram of mono float32 `samples` (samples,) -> (bins, frames), fp32.

    `frames` is `ceil(samples / hop)`, the last one completed with silence, and `tail` more. The
    wave is mirrored at sample `edge`, and has no frame for a part of a hop before it.
    """
    frames = ceil_div(len(samples), hop) + tail
    half = FFT_SAMPLES // 2
    if edge is None:
        edge = frames * hop + half
    frames = min(frames, edge // hop + tail)
    wave = torch.zeros(max(frames * hop, len(samples), half + 1) + half)
    wave[: len(samples)] = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
    beyond = min(len(wave) - edge, edge - 1)
    if beyond > 0:
        wave[edge : edge + beyond] = wave[edge - 1 - beyond : edge - 1].flip(0)
    wave = torch.cat([wave[1 : half + 1].flip(0), wave])
    spectrum = torch.stft(
        wave, FFT_SAMPLES, hop, window=_window(), center=False, return_complex=True
    )
    power = (spectrum[:, :frames].abs() ** 2).contiguous()  # (bins of the FFT, frames)
    mel = torch.clamp(_filters(rate, bins) @ power, min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - DYNAMIC_RANGE) + 4.0) / 4.0


@lru_cache(maxsize=1)
def _window() -> torch.Tensor:
    return torch.hann_window(FFT_SAMPLES)


@lru_cache(maxsize=4)
def _filters(rate: int, bins: int) -> torch.Tensor:
    """Slaney mel filters as (bins, bins of the FFT)."""
    bank = mel_filter_bank(
        num_frequency_bins=FFT_SAMPLES // 2 + 1,
        num_mel_filters=bins,
        min_frequency=0.0,
        max_frequency=rate / 2,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank.T.copy()).float()
