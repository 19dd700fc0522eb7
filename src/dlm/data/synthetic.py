"""Audio that no source provides: a synthetic corpus of five tones, recordings of noise to mix in.

    0000.wav  a deep tone    110 Hz        0003.wav  a high tone    880 Hz
    0001.wav  a low tone     220 Hz        0004.wav  a shrill tone  1760 Hz
    0002.wav  a middle tone  440 Hz        0005.wav  a deep tone    ...

No two recordings of a word are alike: pitch, length, level, harmonics and noise follow from the
seed and the number of the recording, so a larger corpus begins with the smaller one.

The smoke test is five recordings of five seconds, with a second harmonic and 1 % of noise:

    0000.wav  low tone      220 Hz         0003.wav  mid high tone  660 Hz
    0001.wav  mid low tone  330 Hz         0004.wav  high tone      880 Hz
    0002.wav  middle tone   440 Hz
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

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

TONE_SAMPLE_RATE = 16_000  # Hz, what every speech encoder takes
TONE_FREQUENCIES = {"deep": 110.0, "low": 220.0, "middle": 440.0, "high": 880.0, "shrill": 1760.0}
MAX_TONE_DETUNE = 0.03  # fraction of the pitch, up or down
TONE_SECONDS = (0.8, 1.6)
TONE_LEVELS = (0.1, 0.4)  # peak of the tone, of full scale
TONE_HARMONICS = (2, 5)  # their number, the fundamental included
TONE_NOISE_DB = (-40.0, -15.0)  # RMS, relative to the peak of the tone
TONE_FADE_SECONDS = 0.01
SMOKE_FREQUENCIES = {
    "low": 220.0,
    "mid low": 330.0,
    "middle": 440.0,
    "mid high": 660.0,
    "high": 880.0,
}
SMOKE_SECONDS, SMOKE_LEVEL = 5.0, 0.3
SMOKE_HARMONIC, SMOKE_NOISE = 0.5, 0.01  # of the fundamental: the second harmonic, RMS of the noise


def write_tones(folder: Path, *, num_recordings: int, seed: int) -> None:
    """Write recordings of tones (16-bit wav) into a folder, each with its transcript beside it."""
    words = list(TONE_FREQUENCIES)
    for number in range(num_recordings):
        word, path = words[number % len(words)], folder / f"{number:04}.wav"
        rng = np.random.default_rng((seed, number))
        _write_recording(path, _synthesize_tone(TONE_FREQUENCIES[word], rng), f"a {word} tone")


def write_smoke_tones(folder: Path, *, seed: int) -> None:
    """Write the five recordings of the smoke test into a folder, each with its transcript."""
    time = np.arange(round(SMOKE_SECONDS * TONE_SAMPLE_RATE)) / TONE_SAMPLE_RATE
    for number, (word, frequency) in enumerate(SMOKE_FREQUENCIES.items()):
        tone = np.sin(2 * np.pi * frequency * time)
        tone += SMOKE_HARMONIC * np.sin(4 * np.pi * frequency * time)
        tone += np.random.default_rng((seed, number)).normal(0, SMOKE_NOISE, len(tone))
        path = folder / f"{number:04}.wav"
        _write_recording(path, (SMOKE_LEVEL * tone).astype(np.float32), f"{word} tone")


def _write_recording(path: Path, waveform: Waveform, transcript: str) -> None:
    samples = np.round(waveform * 32767).astype(np.int16)
    wav = io.BytesIO()  # libsndfile does not say that a disk is full
    soundfile.write(wav, samples, TONE_SAMPLE_RATE, format="WAV")
    path.write_bytes(wav.getvalue())
    path.with_suffix(".txt").write_text(f"{transcript}\n", encoding="utf-8", newline="\n")


def _synthesize_tone(frequency: float, rng: np.random.Generator) -> Waveform:
    """A tone of about `frequency` Hz with harmonics and noise: (samples,) between -1 and 1."""
    pitch = frequency * rng.uniform(1 - MAX_TONE_DETUNE, 1 + MAX_TONE_DETUNE)
    time = np.arange(round(rng.uniform(*TONE_SECONDS) * TONE_SAMPLE_RATE)) / TONE_SAMPLE_RATE
    tone = np.zeros_like(time)
    for harmonic in range(1, rng.integers(*TONE_HARMONICS, endpoint=True) + 1):
        amplitude = rng.uniform(0.3, 1.0) / harmonic if harmonic > 1 else 1.0
        phase = rng.uniform(0, 2 * np.pi)
        tone += amplitude * np.sin(2 * np.pi * harmonic * pitch * time + phase)
    fade = np.minimum(np.minimum(time, time[::-1]) / TONE_FADE_SECONDS, 1)
    tone *= rng.uniform(*TONE_LEVELS) / np.abs(tone).max() * fade
    noise_rms = 10 ** (rng.uniform(*TONE_NOISE_DB) / 20) * np.abs(tone).max()
    tone += rng.normal(0, noise_rms, len(tone))
    return np.clip(tone, -1, 1).astype(np.float32)


@dataclass(frozen=True)
class NoiseRecording:
    """A recording of noise to mix in.

    Attributes:
        name: path within the folder of noise.
        segment: the recording.
        seconds: its length.
        sample_rate: in Hz.
    """

    name: str
    segment: AudioSegment
    seconds: float
    sample_rate: int


def list_noise_recordings(document: Document) -> tuple[NoiseRecording, ...]:
    """List the recordings of noise that a document mixes in, in order of their paths.

    None where noise is synthetic, or not asked for.

    Raises:
        DataError: the folder is missing (`data.noise_not_found`), has no recordings
            (`data.no_noise_recordings`), or is not allowed (`data.outside_folder`).
        AudioError: a recording cannot be read.
    """
    config = document.config.training
    noise = config.audio.augment.noise
    if noise is None or noise == SYNTHETIC_NOISE or not config.audio.augment.is_enabled:
        return ()
    folder = resolve_path(document, noise)
    if not folder.exists():
        raise DataError(
            f"noise not found: {noise}",
            hint="make the folder, correct its path, or write noise: synthetic",
            code="data.noise_not_found",
        )
    files = [path for path in list_files(folder).files if is_audio_file(path)]
    if not files:
        raise DataError(
            f"no recordings of noise in {noise}",
            hint="put recordings of noise there, or write noise: synthetic",
            code="data.no_noise_recordings",
        )
    allowed = document.folder if config.sources_policy == "strict" else None
    if allowed and not all(is_inside_folder(allowed, path) for path in (folder, *files)):
        raise make_outside_folder_error(noise)
    return tuple(_make_noise_recording(path, folder, noise) for path in files)


def _make_noise_recording(path: Path, folder: Path, written_folder: str) -> NoiseRecording:
    is_single_file = path == folder
    name = path.name if is_single_file else path.relative_to(folder).as_posix()
    display_path = written_folder if is_single_file else str(Path(written_folder, name))
    segment = AudioSegment(path, display_path=display_path)
    with open_audio(segment) as stream:
        return NoiseRecording(name, segment, stream.info.seconds, stream.info.sample_rate)
