"""What a room, a microphone and a line do to clean speech, drawn at random per clip."""

import numpy as np

RATE = 16_000


def rough_up(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """`samples` as some other microphone might have heard them."""
    for share, change in (
        (0.5, _speed),
        (0.35, _room),
        (0.35, _band_limit),
        (0.65, _noise),
        (0.1, _mu_law),
        (1.0, _gain),
    ):
        if chance.random() < share:
            samples = change(samples, chance)
    return np.clip(samples, -1.0, 1.0).astype(np.float32)


def _speed(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """A little faster and higher, or slower and lower."""
    wanted = int(len(samples) * chance.uniform(0.92, 1.09))
    places = np.linspace(0, len(samples) - 1, wanted)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


def _room(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Noise that dies away exponentially stands for the echoes of a small room."""
    seconds = chance.uniform(0.08, 0.35)
    steps = np.arange(int(RATE * seconds))
    echo = chance.standard_normal(len(steps)) * np.exp(-6.9 * steps / len(steps))
    echo *= chance.uniform(0.15, 0.6) / np.sqrt((echo**2).sum())
    echo[0] = 1.0
    size = _fast_size(len(samples) + len(echo))
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(echo, size), size)
    return wet[: len(samples)].astype(np.float32)


def _band_limit(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The highest and the lowest tones lost."""
    size = _fast_size(len(samples))
    tones = np.fft.rfftfreq(size, 1 / RATE)
    low, high = chance.uniform(20, 300), chance.uniform(3_000, 7_000)
    keep = 1 / (1 + (tones / high) ** 12) * (tones / low) ** 4 / (1 + (tones / low) ** 4)
    return np.fft.irfft(np.fft.rfft(samples, size) * keep, size)[: len(samples)].astype(np.float32)


def _noise(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """White, pink or brown noise, 10 to 30 dB below the speech."""
    size = _fast_size(len(samples))
    spectrum = np.fft.rfft(chance.standard_normal(size, dtype=np.float32))
    slope = chance.choice([0.0, 0.5, 1.0])
    spectrum /= np.maximum(np.arange(len(spectrum)), 8) ** slope
    noise = np.fft.irfft(spectrum, size)[: len(samples)]
    below = 10 ** (-chance.uniform(10, 30) / 20)
    return (samples + noise * (_level(samples) / _level(noise) * below)).astype(np.float32)


def _mu_law(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The 256 steps of a telephone line."""
    del chance
    folded = np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256)
    folded = np.round(folded * 127) / 127
    return (np.sign(folded) * (256 ** np.abs(folded) - 1) / 255).astype(np.float32)


def _gain(samples: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    peak = max(float(np.abs(samples).max()), 1e-4)
    return samples * np.float32(chance.uniform(0.1, 0.98) / peak)


def _level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) + 1e-6


def _fast_size(samples: int) -> int:
    """The next length that a fast Fourier transform likes."""
    unit = 1 << max(0, samples.bit_length() - 4)
    return -(-samples // unit) * unit
