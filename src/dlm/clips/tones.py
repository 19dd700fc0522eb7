"""Recordings that cost nothing: five tones, each told by a word, to see whether a model can hear.

    0000.wav  a deep tone    110 Hz        0003.wav  a high tone    880 Hz
    0001.wav  a low tone     220 Hz        0004.wav  a shrill tone  1760 Hz
    0002.wav  a middle tone  440 Hz        0005.wav  a deep tone    ...

No two clips of a word are alike: pitch, length, level, harmonics and noise are drawn from the seed
and the clip's number alone, so that a larger set begins with the smaller one.
"""

import wave
from pathlib import Path

import numpy as np

from dlm.clips.reader import Wave

RATE = 16_000  # Hz, what every encoder of speech takes
TONES = {"deep": 110.0, "low": 220.0, "middle": 440.0, "high": 880.0, "shrill": 1760.0}  # Hz

DETUNED = 0.03  # share of the pitch, either way
SECONDS = (0.8, 1.6)
LEVEL = (0.1, 0.4)  # peak of the tone, of full scale
HARMONICS = (2, 5)  # of the fundamental, it among them
NOISE_DB = (-40.0, -15.0)  # RMS, against the peak of the tone
FADE_SECONDS = 0.01


def write_tones(folder: Path, *, count: int, seed: int) -> None:
    """Write `count` recordings into `folder`, each with what is to be said of it beside it."""
    words = list(TONES)
    for number in range(count):
        word = words[number % len(words)]
        chance = np.random.default_rng((seed, number))
        _save(folder / f"{number:04}.wav", tone(TONES[word], chance))
        text = f"a {word} tone\n"
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8", newline="\n")


def tone(hertz: float, chance: np.random.Generator) -> Wave:
    """A tone of about `hertz` with harmonics and noise: (samples,) between -1 and 1."""
    pitch = hertz * chance.uniform(1 - DETUNED, 1 + DETUNED)
    time = np.arange(round(chance.uniform(*SECONDS) * RATE)) / RATE
    made = np.zeros_like(time)
    for harmonic in range(1, chance.integers(*HARMONICS, endpoint=True) + 1):
        weight = chance.uniform(0.3, 1.0) / harmonic if harmonic > 1 else 1.0
        phase = chance.uniform(0, 2 * np.pi)
        made += weight * np.sin(2 * np.pi * harmonic * pitch * time + phase)
    edge = np.minimum(time, time[::-1]) / FADE_SECONDS
    made *= chance.uniform(*LEVEL) / np.abs(made).max() * np.minimum(edge, 1)
    noise = 10 ** (chance.uniform(*NOISE_DB) / 20) * np.abs(made).max()
    made += chance.normal(0, noise, len(made))
    sound: Wave = np.clip(made, -1, 1).astype(np.float32)
    return sound


def _save(path: Path, samples: Wave) -> None:
    """Write samples (samples,) as a wav of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
