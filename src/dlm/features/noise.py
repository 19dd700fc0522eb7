"""Noise that is made up: hiss, rumble, hum and the murmur of a room full of people.

white     the same power at every frequency
pink      power falls as 1 / f
brown     power falls as 1 / f squared
hum       a mains frequency, 50 or 60 Hz, and its harmonics, over a faint hiss
babble    several voices of noise and pulses, shaped as speech is in the long run
"""

import math
from collections.abc import Callable

import numpy as np

from dlm.clips.reader import Wave

CHUNK = 4096  # samples: lengths that are whole multiples are transformed fast
LOWEST_HERTZ = 20.0
MAINS_HERTZ = (50, 60)
HARMONICS = 12
HISS = 0.1  # of the hum, by its amplitude
VOICES = (4, 8)
PITCH_HERTZ = (85.0, 255.0)  # of men and women, speaking
SYLLABLES_PER_SECOND = 4.0  # the peak of speech's modulation (Houtgast & Steeneken 1985)
KNEE_HERTZ = 500.0  # speech is flat up to here and then falls (Byrne et al. 1994), about
FALL = 1.5  # powers of the frequency by which its amplitude falls: 9 dB an octave
BREATH = 0.3  # of a voice that is noise

Chance = np.random.Generator


def _white(samples: int, rate: int, chance: Chance) -> Wave:
    return chance.standard_normal(samples, dtype=np.float32)


def _pink(samples: int, rate: int, chance: Chance) -> Wave:
    return _falling(samples, rate, chance, power=0.5)


def _brown(samples: int, rate: int, chance: Chance) -> Wave:
    return _falling(samples, rate, chance, power=1.0)


def _falling(samples: int, rate: int, chance: Chance, *, power: float) -> Wave:
    """White noise whose amplitude falls with so many powers of the frequency."""
    return shaped(
        _white(samples, rate, chance), rate, lambda hertz: np.maximum(hertz, LOWEST_HERTZ) ** -power
    )


def _hum(samples: int, rate: int, chance: Chance) -> Wave:
    mains = MAINS_HERTZ[int(chance.integers(len(MAINS_HERTZ)))]
    turns = np.arange(rate // math.gcd(rate, mains)) * (2 * np.pi * mains / rate)  # some whole ones
    phases = chance.uniform(0, 2 * np.pi, HARMONICS)
    tones = [np.sin(at * turns + phase) / at for at, phase in enumerate(phases, start=1)]
    hum: Wave = np.resize(np.sum(tones, axis=0).astype(np.float32), samples)
    return hum + HISS * _white(samples, rate, chance)


def _babble(samples: int, rate: int, chance: Chance) -> Wave:
    wave = np.zeros(samples, np.float32)
    for _ in range(chance.integers(*VOICES, endpoint=True)):
        wave += _voice(samples, rate, chance)
    return shaped(wave, rate, lambda hertz: np.maximum(hertz / KNEE_HERTZ, 1.0) ** -FALL)


def _voice(samples: int, rate: int, chance: Chance) -> Wave:
    """Pulses of a wandering pitch, with some breath, that swell and fade with the syllables."""
    seconds = samples / rate
    syllables = int(seconds * SYLLABLES_PER_SECOND) + 2
    marks = np.linspace(0, seconds, syllables)
    time = np.arange(samples) / rate
    centre = chance.uniform(*PITCH_HERTZ)
    pitch = np.interp(time, marks, centre * chance.uniform(0.8, 1.2, syllables))
    beats = np.floor(np.cumsum(pitch) / rate)
    pulses = np.diff(beats, prepend=0.0) * np.sqrt(rate / centre)
    swell = np.interp(time, marks, chance.uniform(0, 1, syllables) ** 2)
    breath = BREATH * chance.standard_normal(samples)
    voice: Wave = ((pulses + breath) * swell).astype(np.float32)
    return voice


def shaped(wave: Wave, rate: int, amplitude: Callable[[np.ndarray], np.ndarray]) -> Wave:
    """The same wave, each frequency times what `amplitude` says of it; nothing is delayed."""
    length = -(-len(wave) // CHUNK) * CHUNK
    spectrum = np.fft.rfft(wave, length)
    spectrum *= amplitude(np.fft.rfftfreq(length, 1 / rate))
    filtered: Wave = np.fft.irfft(spectrum, length)[: len(wave)].astype(np.float32)
    return filtered


KINDS: dict[str, Callable[[int, int, Chance], Wave]] = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "babble": _babble,
}


def synthetic(samples: int, rate: int, chance: Chance) -> Wave:
    """Noise (samples,) of a kind that is drawn, as loud as it comes."""
    return list(KINDS.values())[int(chance.integers(len(KINDS)))](samples, rate, chance)
