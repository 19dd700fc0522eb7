"""The three recordings that every fixture of a format holds, with their transcripts."""

from dataclasses import dataclass

import numpy as np

from tests.data.recordings import make_noise


@dataclass(frozen=True)
class TranscribedAudio:
    """A recording by the name `stem`, of 16 kHz.

    Attributes:
        text, speaker: what is said in it, by whom.
        seconds: its duration.
    """

    stem: str
    text: str
    speaker: str
    seconds: float

    def make_pcm(self) -> np.ndarray:
        """Its samples in 16 bits, as a file holds them: (samples, 1)."""
        return np.round(make_noise(self.seconds, seed=len(self.text)) * 32768).astype(np.int16)

    def make_waveform(self) -> np.ndarray:
        """The same decoded: (samples,), float32."""
        return self.make_pcm()[:, 0].astype(np.float32) / 32768


RECORDINGS = (
    TranscribedAudio("a", "The fire is yellow.", "ann", 0.5),
    TranscribedAudio("b", "Où est la gare, s'il vous plaît ?", "bob", 0.75),
    TranscribedAudio("c", 'She said "no", and left.', "ann", 1.0),
)
