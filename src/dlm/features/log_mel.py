"""The log-mel spectrogram of a clip at its true length.

Equal to `transformers`' WhisperFeatureExtractor (padded to its window) on the frames that hold
sound: reflected on the left, followed by silence on the right, which ends at the window as in a
mirror. Qwen3 hears a clip by itself: without the silence.
"""

from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from dlm.plan.audio_lengths import ceil_div

N_FFT = 400  # 25 ms at 16 kHz (Radford et al. 2022, whisper/audio.py)
DYNAMIC_RANGE = 8.0  # log10 units kept below the loudest bin (same source)


def compute_log_mel(
    waveform: np.ndarray,
    *,
    rate: int,
    hop_length: int,
    num_mel_bins: int,
    right_context: int = 0,
    reflect_at: int | None = None,
) -> torch.Tensor:
    """Log-mel spectrogram of mono float32 `samples` (samples,) -> (bins, frames), fp32.

    `frames` is `ceil(samples / hop)`, the last one completed with silence, and `tail` more. The
    wave is mirrored at sample `edge`, and has no frame for a part of a hop before it.
    """
    frames = ceil_div(len(waveform), hop_length) + right_context
    half = N_FFT // 2
    if reflect_at is None:
        reflect_at = frames * hop_length + half
    frames = min(frames, reflect_at // hop_length + right_context)
    wave = torch.zeros(max(frames * hop_length, len(waveform), half + 1) + half)
    wave[: len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    beyond = min(len(wave) - reflect_at, reflect_at - 1)
    if beyond > 0:
        wave[reflect_at : reflect_at + beyond] = wave[
            reflect_at - 1 - beyond : reflect_at - 1
        ].flip(0)
    wave = torch.cat([wave[1 : half + 1].flip(0), wave])
    spectrum = torch.stft(
        wave, N_FFT, hop_length, window=_get_hann_window(), center=False, return_complex=True
    )
    power = (spectrum[:, :frames].abs() ** 2).contiguous()  # (bins of the FFT, frames)
    mel = torch.clamp(_get_mel_filters(rate, num_mel_bins) @ power, min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - DYNAMIC_RANGE) + 4.0) / 4.0


@lru_cache(maxsize=1)
def _get_hann_window() -> torch.Tensor:
    return torch.hann_window(N_FFT)


@lru_cache(maxsize=4)
def _get_mel_filters(rate: int, num_mel_bins: int) -> torch.Tensor:
    """Slaney mel filters as (bins, bins of the FFT)."""
    bank = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=rate / 2,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(bank.T.copy()).float()
