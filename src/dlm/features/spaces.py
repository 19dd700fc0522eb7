"""What a sound passes through: a room, a telephone, a narrow channel.

room         the sound, its first echoes, and a tail that falls by 60 dB in a time that is drawn
mulaw        quantised to 8 bits on the curve of G.711
telephone    300 to 3,400 Hz, then mulaw
lowpass      nothing above a frequency that is drawn
"""

import numpy as np

from dlm.clips.reader import Wave
from dlm.features.noise import CHUNK, Chance, shaped

SOUND_METRES_PER_SECOND = 343.0  # in air, at 20 degrees
WALLS_METRES = (2.0, 17.0)  # how much farther an early echo came
ECHOES = 8
DIRECT_DB = (0.0, 12.0)  # how far all the echoes lie below the direct sound
MU = 255  # of G.711's mu-law
TELEPHONE_HERTZ = (300.0, 3400.0)  # the voice band (ITU-T G.712)
LOWPASS_HERTZ = (2000.0, 7000.0)
EDGE = 0.1  # of a corner's frequency: how wide it is


def in_room(wave: Wave, rate: int, rt60_seconds: float, chance: Chance) -> Wave:
    """The same wave as it sounds in a made-up room, as long and as loud as it was."""
    response = _response(rate, rt60_seconds, chance)
    length = -(-(len(wave) + len(response)) // CHUNK) * CHUNK
    spectrum = np.fft.rfft(wave, length) * np.fft.rfft(response, length)
    heard = np.fft.irfft(spectrum, length)[: len(wave)]
    loudness = rms(heard)
    same: Wave = (heard * (rms(wave) / loudness if loudness else 1.0)).astype(np.float32)
    return same


def _response(rate: int, rt60_seconds: float, chance: Chance) -> np.ndarray:
    """What a clap leaves in a room: itself, ECHOES, and noise that decays (Polack 1988).

    An amplitude of exp(-6.91 t / RT60) has fallen by 60 dB at t = RT60.
    """
    time = np.arange(max(round(rt60_seconds * rate), 1)) / rate
    fall = np.exp(-np.log(1000.0) * time / rt60_seconds)
    farther = chance.uniform(*WALLS_METRES, ECHOES) / SOUND_METRES_PER_SECOND
    at = np.minimum((farther * rate).astype(int), len(time) - 1)
    echoes, tail = np.zeros(len(time)), chance.standard_normal(len(time)) * fall
    np.add.at(echoes, at, fall[at] * chance.choice([-1.0, 1.0], ECHOES))
    tail[time < farther.max()] = 0.0
    both = _of_energy(echoes, 0.5) + _of_energy(tail, 0.5)
    both *= 10 ** (-chance.uniform(*DIRECT_DB) / 20)
    both[0] = 1.0
    return np.asarray(both)


def _of_energy(wave: np.ndarray, energy: float) -> np.ndarray:
    """The same wave with so much energy, if it has any."""
    has = float(np.sum(wave**2))
    return np.asarray(wave * np.sqrt(energy / has)) if has else wave


def through(wave: Wave, rate: int, codec: str, chance: Chance) -> Wave:
    """The same wave at the other end of a codec."""
    if codec == "none":
        return wave
    if codec == "lowpass":
        return band(wave, rate, 0.0, chance.uniform(*LOWPASS_HERTZ))
    return mulaw(band(wave, rate, *TELEPHONE_HERTZ) if codec == "telephone" else wave)


def band(wave: Wave, rate: int, low: float, high: float) -> Wave:
    """What lies between two frequencies; a corner is half a cosine wide."""

    def passes(hertz: np.ndarray) -> np.ndarray:
        above = _step(hertz, low) if low else 1.0
        kept: np.ndarray = above * (1.0 - _step(hertz, high))
        return kept

    return shaped(wave, rate, passes)


def _step(hertz: np.ndarray, corner: float) -> np.ndarray:
    """From 0 to 1 around a corner, at which it is a half."""
    way = np.clip((hertz / corner - 1.0) / EDGE + 0.5, 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * way))


def mulaw(wave: Wave) -> Wave:
    """Through 8 bits and back (ITU-T G.711): F(x) = sgn(x) ln(1 + mu |x|) / ln(1 + mu).

    What is louder than 1 is cut there.
    """
    loud = np.minimum(np.abs(wave), 1.0)
    level = np.round(np.log1p(MU * loud) / np.log1p(MU) * (MU // 2))
    back = np.expm1(level / (MU // 2) * np.log1p(MU)) / MU
    coded: Wave = (np.sign(wave) * back).astype(np.float32)
    return coded


def rms(wave: np.ndarray) -> float:
    """The root of the mean square: how loud a wave is."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
