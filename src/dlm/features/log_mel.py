"""The log-mel spectrogram of audio at its true length.

Equal to `WhisperFeatureExtractor` of transformers (which pads to the encoder's window) on the
frames that hold audio: the waveform is reflected on the left and followed by silence on the right;
at the end of the window it is reflected again. Qwen3's encoder reflects at the end of the audio.
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
    """Compute a log-mel spectrogram as Whisper does (Radford et al. 2022, whisper/audio.py).

    Args:
        waveform: mono float32, (samples,).
        rate: samples per second.
        hop_length: samples per frame.
        num_mel_bins: mel bins per frame.
        right_context: frames past the end of the audio that the encoder's convolutions need.
        reflect_at: sample at which the waveform is reflected on the right; there is no frame for a
            part of a hop before it. None reflects nowhere: silence follows.

    Returns:
        (num_mel_bins, ceil(samples / hop_length) + right_context), float32.
    """
    num_frames = ceil_div(len(waveform), hop_length) + right_context
    half = N_FFT // 2
    if reflect_at is None:
        reflect_at = num_frames * hop_length + half
    num_frames = min(num_frames, reflect_at // hop_length + right_context)
    padded = torch.zeros(max(num_frames * hop_length, len(waveform), half + 1) + half)
    padded[: len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    reflected = min(len(padded) - reflect_at, reflect_at - 1)
    if reflected > 0:
        mirror = padded[reflect_at - 1 - reflected : reflect_at - 1].flip(0)
        padded[reflect_at : reflect_at + reflected] = mirror
    padded = torch.cat([padded[1 : half + 1].flip(0), padded])
    spectrum = torch.stft(
        padded, N_FFT, hop_length, window=_get_hann_window(), center=False, return_complex=True
    )
    power = (spectrum[:, :num_frames].abs() ** 2).contiguous()  # (n_fft / 2 + 1, frames)
    log_mel = torch.clamp(_get_mel_filters(rate, num_mel_bins) @ power, min=1e-10).log10()
    return (torch.maximum(log_mel, log_mel.max() - DYNAMIC_RANGE) + 4.0) / 4.0


@lru_cache(maxsize=1)
def _get_hann_window() -> torch.Tensor:
    return torch.hann_window(N_FFT)


@lru_cache(maxsize=4)
def _get_mel_filters(rate: int, num_mel_bins: int) -> torch.Tensor:
    """Slaney mel filters, (num_mel_bins, n_fft / 2 + 1)."""
    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=rate / 2,
        sampling_rate=rate,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.T.copy()).float()
