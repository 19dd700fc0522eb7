"""Waveform augmentation of clean speech, drawn per clip.

Speed, reverberation, band limit, noise, mu-law and gain.
"""

import numpy as np

SAMPLE_RATE = 16_000


def augment_waveform(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply each augmentation with its probability: float32 (samples,), in [-1, 1]."""
    for probability, augment_fn in (
        (0.5, _change_speed),
        (0.35, _add_reverberation),
        (0.35, _limit_band),
        (0.65, _add_noise),
        (0.1, _quantize_mu_law),
        (1.0, _change_gain),
    ):
        if rng.random() < probability:
            waveform = augment_fn(waveform, rng)
    return np.clip(waveform, -1.0, 1.0).astype(np.float32)


def _change_speed(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the speed and, with it, the pitch."""
    num_samples = int(len(waveform) * rng.uniform(0.92, 1.09))
    positions = np.linspace(0, len(waveform) - 1, num_samples)
    return np.interp(positions, np.arange(len(waveform)), waveform).astype(np.float32)


def _add_reverberation(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolve with noise that decays exponentially, an impulse response of a small room."""
    seconds = rng.uniform(0.08, 0.35)
    samples = np.arange(int(SAMPLE_RATE * seconds))
    impulse_response = rng.standard_normal(len(samples)) * np.exp(-6.9 * samples / len(samples))
    impulse_response *= rng.uniform(0.15, 0.6) / np.sqrt((impulse_response**2).sum())
    impulse_response[0] = 1.0
    fft_size = _choose_fft_size(len(waveform) + len(impulse_response))
    spectrum = np.fft.rfft(waveform, fft_size) * np.fft.rfft(impulse_response, fft_size)
    return np.fft.irfft(spectrum, fft_size)[: len(waveform)].astype(np.float32)


def _limit_band(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Attenuate the lowest and the highest frequencies."""
    fft_size = _choose_fft_size(len(waveform))
    hertz = np.fft.rfftfreq(fft_size, 1 / SAMPLE_RATE)
    low, high = rng.uniform(20, 300), rng.uniform(3_000, 7_000)
    response = 1 / (1 + (hertz / high) ** 12) * (hertz / low) ** 4 / (1 + (hertz / low) ** 4)
    spectrum = np.fft.rfft(waveform, fft_size) * response
    return np.fft.irfft(spectrum, fft_size)[: len(waveform)].astype(np.float32)


def _add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add white, pink or brown noise, 10 to 30 dB below the speech."""
    fft_size = _choose_fft_size(len(waveform))
    spectrum = np.fft.rfft(rng.standard_normal(fft_size, dtype=np.float32))
    slope = rng.choice([0.0, 0.5, 1.0])
    spectrum /= np.maximum(np.arange(len(spectrum)), 8) ** slope
    noise = np.fft.irfft(spectrum, fft_size)[: len(waveform)]
    gain = 10 ** (-rng.uniform(10, 30) / 20)
    scale = _compute_rms(waveform) / _compute_rms(noise) * gain
    return (waveform + noise * scale).astype(np.float32)


def _quantize_mu_law(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Quantize to 8 bits with mu-law (G.711)."""
    del rng
    encoded = np.sign(waveform) * np.log1p(255 * np.abs(waveform)) / np.log(256)
    encoded = np.round(encoded * 127) / 127
    return (np.sign(encoded) * (256 ** np.abs(encoded) - 1) / 255).astype(np.float32)


def _change_gain(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale to a random peak."""
    peak = max(float(np.abs(waveform).max()), 1e-4)
    return waveform * np.float32(rng.uniform(0.1, 0.98) / peak)


def _compute_rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform)))) + 1e-6


def _choose_fft_size(num_samples: int) -> int:
    """Return the next length that has a fast Fourier transform."""
    unit = 1 << max(0, num_samples.bit_length() - 4)
    return -(-num_samples // unit) * unit
