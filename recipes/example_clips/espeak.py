"""Speech by espeak-ng (`apt-get install espeak-ng`), for the clips of the examples."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
PEAK = 0.9
WORDS_PER_MINUTE = 160


def write_speech(path: Path, text: str, language: str) -> None:
    """Write an audio file of `text` at 16 kHz, in the format of its suffix."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        options = ["-v", language, "-s", str(WORDS_PER_MINUTE), "-w", file.name]
        subprocess.run(["espeak-ng", *options, text], check=True)
        samples, sample_rate = soundfile.read(file.name, dtype="float32")
    waveform: np.ndarray = soxr.resample(samples, sample_rate, SAMPLE_RATE)
    soundfile.write(path, waveform * (PEAK / np.abs(waveform).max()), SAMPLE_RATE)
