"""Recordings that cost nothing: five tones, each told by a word, to see whether a model can hear.

    0000.wav  a deep tone    110 Hz        0003.wav  a high tone    880 Hz
    0001.wav  a low tone     220 Hz        0004.wav  a shrill tone  1760 Hz
    0002.wav  a middle tone  440 Hz        0005.wav  a deep tone    ...

No two clips of a word are alike: pitch, length, level, harmonics and noise are drawn from the seed
and the clip's number alone, so that a larger set begins with the smaller one.

Which recordings of noise a document mixes in: those below the folder it names, in order.
"""

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlm.config.data_schema import SYNTHETIC_NOISE
from dlm.config.parser import Document
from dlm.data.audio_file import Waveform
from dlm.data.audio_io import open_audio
from dlm.data.file_globs import (
    is_audio_file,
    is_inside_folder,
    list_files,
    make_outside_folder_error,
)
from dlm.data.readers.base import resolve_path
from dlm.data.types import AudioSegment
from dlm.errors import DataError

TONE_SAMPLE_RATE = 16_000  # Hz, what every encoder of speech takes
TONE_FREQUENCIES = {
    "deep": 110.0,
    "low": 220.0,
    "middle": 440.0,
    "high": 880.0,
    "shrill": 1760.0,
}  # Hz

MAX_TONE_DETUNE = 0.03  # share of the pitch, either way
TONE_SECONDS = (0.8, 1.6)
TONE_LEVELS = (0.1, 0.4)  # peak of the tone, of full scale
TONE_HARMONICS = (2, 5)  # of the fundamental, it among them
TONE_NOISE_DB = (-40.0, -15.0)  # RMS, against the peak of the tone
TONE_FADE_SECONDS = 0.01


def write_tones(folder: Path, *, num_recordings: int, seed: int) -> None:
    """Write `count` recordings into `folder`, each with what is to be said of it beside it."""
    words = list(TONE_FREQUENCIES)
    for number in range(num_recordings):
        word = words[number % len(words)]
        chance = np.random.default_rng((seed, number))
        _write_wav(folder / f"{number:04}.wav", synthesize_tone(TONE_FREQUENCIES[word], chance))
        text = f"a {word} tone\n"
        (folder / f"{number:04}.txt").write_text(text, encoding="utf-8", newline="\n")


def synthesize_tone(frequency: float, rng: np.random.Generator) -> Waveform:
    """A tone of about `hertz` with harmonics and noise: (samples,) between -1 and 1."""
    pitch = frequency * rng.uniform(1 - MAX_TONE_DETUNE, 1 + MAX_TONE_DETUNE)
    time = np.arange(round(rng.uniform(*TONE_SECONDS) * TONE_SAMPLE_RATE)) / TONE_SAMPLE_RATE
    made = np.zeros_like(time)
    for harmonic in range(1, rng.integers(*TONE_HARMONICS, endpoint=True) + 1):
        weight = rng.uniform(0.3, 1.0) / harmonic if harmonic > 1 else 1.0
        phase = rng.uniform(0, 2 * np.pi)
        made += weight * np.sin(2 * np.pi * harmonic * pitch * time + phase)
    edge = np.minimum(time, time[::-1]) / TONE_FADE_SECONDS
    made *= rng.uniform(*TONE_LEVELS) / np.abs(made).max() * np.minimum(edge, 1)
    noise = 10 ** (rng.uniform(*TONE_NOISE_DB) / 20) * np.abs(made).max()
    made += rng.normal(0, noise, len(made))
    sound: Waveform = np.clip(made, -1, 1).astype(np.float32)
    return sound


def _write_wav(path: Path, samples: Waveform) -> None:
    """Write samples (samples,) as a wav of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(TONE_SAMPLE_RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


@dataclass(frozen=True)
class NoiseRecording:
    """A recording of noise by its name in the folder, how long it lasts, and its own rate."""

    name: str
    segment: AudioSegment
    seconds: float
    rate: int


def list_noise_recordings(document: Document) -> tuple[NoiseRecording, ...]:
    """The recordings of noise, each looked at; none where noise is made up or not wanted.

    Raises ClipError for a folder without any, one out of bounds, and for what is no sound.
    """
    asked = document.config.training
    written = asked.audio.augment.noise
    if written is None or written == SYNTHETIC_NOISE or not asked.audio.augment.is_enabled:
        return ()
    folder = resolve_path(document, written)
    if not folder.exists():
        mend = "make the folder, mend its path, or write noise: synthetic"
        raise DataError(f"noise not found: {written}", hint=mend)
    files = [path for path in list_files(folder).files if is_audio_file(path)]
    if not files:
        mend = "put recordings of noise there, or write noise: synthetic"
        raise DataError(f"no recordings of noise in {written}", hint=mend)
    home = document.folder if asked.sources_policy == "strict" else None
    if home and not all(is_inside_folder(home, path) for path in (folder, *files)):
        raise make_outside_folder_error(written)
    return tuple(_make_noise_recording(path, folder, written) for path in files)


def _make_noise_recording(path: Path, folder: Path, raw_folder: str) -> NoiseRecording:
    name = path.relative_to(folder).as_posix() if path != folder else path.name
    sound = AudioSegment(
        path, display_path=str(Path(raw_folder, name)) if path != folder else raw_folder
    )
    with open_audio(sound) as span:
        return NoiseRecording(name, sound, span.info.seconds, span.info.sample_rate)
