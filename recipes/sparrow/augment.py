"""Waveform augmentation of clean speech, drawn per clip, and backgrounds without speech.

Speed, reverberation, band limit (a telephone's among them), noise, mu-law and gain.
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
    low, high = rng.uniform(20, 350), rng.uniform(2_900, 7_000)
    response = 1 / (1 + (hertz / high) ** 12) * (hertz / low) ** 4 / (1 + (hertz / low) ** 4)
    spectrum = np.fft.rfft(waveform, fft_size) * response
    return np.fft.irfft(spectrum, fft_size)[: len(waveform)].astype(np.float32)


def _add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add white, pink or brown noise, 10 to 30 dB below the speech."""
    noise = _make_noise(len(waveform), rng)
    gain = 10 ** (-rng.uniform(10, 30) / 20)
    scale = _compute_rms(waveform) / _compute_rms(noise) * gain
    return (waveform + noise * scale).astype(np.float32)


def _make_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """White, pink or brown noise, float32 (num_samples,)."""
    fft_size = _choose_fft_size(num_samples)
    spectrum = np.fft.rfft(rng.standard_normal(fft_size, dtype=np.float32))
    slope = rng.choice([0.0, 0.5, 1.0])
    spectrum /= np.maximum(np.arange(len(spectrum)), 8) ** slope
    return np.fft.irfft(spectrum, fft_size)[:num_samples].astype(np.float32)


def make_background(rng: np.random.Generator) -> np.ndarray:
    """Make a clip without speech: float32 (samples,), 0.5 to 10 seconds, in [-1, 1].

    Digital silence, faint noise, noise, a steady tone or hum, clicks, or simple music.
    """
    num_samples = int(SAMPLE_RATE * rng.uniform(0.5, 10))
    kind = rng.integers(6)
    if kind == 0:
        return np.zeros(num_samples, np.float32)
    noise = _make_noise(num_samples, rng)
    noise /= _compute_rms(noise)
    level = 10 ** rng.uniform(-4, -0.8)
    if kind <= 2:
        waveform = noise
    elif kind == 3:
        hertz = rng.choice([50.0, 60.0, 440.0, 1_000.0, rng.uniform(80, 3_000)])
        waveform = _make_tone(hertz, num_samples, rng) + noise * rng.uniform(0, 0.1)
    elif kind == 4:
        waveform = noise * 0.01
        waveform[rng.integers(0, num_samples, size=rng.integers(1, 20))] += 20
    else:
        waveform = _make_music(num_samples, rng) + noise * rng.uniform(0, 0.05)
    return np.clip(waveform * level, -1.0, 1.0).astype(np.float32)


def _make_tone(hertz: float, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A tone with a few overtones, of an RMS of about 1."""
    phase = 2 * np.pi * hertz * np.arange(num_samples) / SAMPLE_RATE
    overtones = range(1, int(rng.integers(2, 8)))
    return sum(np.sin(n * phase + rng.uniform(0, 6)) * rng.uniform(0.2, 1) / n for n in overtones)


def _make_music(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Chords or a melody of decaying tones, in a scale."""
    waveform = np.zeros(num_samples)
    note_samples = int(SAMPLE_RATE * rng.uniform(0.15, 0.8))
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12]) + rng.integers(-12, 12)
    for start in range(0, num_samples, note_samples):
        length = min(2 * note_samples, num_samples - start)
        decay = np.exp(-np.arange(length) / SAMPLE_RATE * rng.uniform(1, 6))
        for step in rng.choice(scale, size=rng.integers(1, 4)):
            tone = _make_tone(440 * 2 ** (step / 12), length, rng)
            waveform[start : start + length] += tone * decay
    return waveform / _compute_rms(waveform)


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
