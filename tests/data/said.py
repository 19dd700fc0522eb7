"""What every fixture of a format keeps: three recordings, and what is said in each."""

from dataclasses import dataclass

import numpy as np

from tests.data.sounds import RATE, noise

__all__ = ["RATE", "SAID", "Said"]


@dataclass(frozen=True)
class Said:
    """A recording of `seconds` by the name `stem`, and what is said in it, by whom."""

    stem: str
    text: str
    speaker: str
    seconds: float

    def pcm(self) -> np.ndarray:
        """Its samples (samples, 1) in 16 bits, as a file keeps them."""
        return np.round(noise(self.seconds, seed=len(self.text)) * 32768).astype(np.int16)

    def wave(self) -> np.ndarray:
        """The same as they are heard: (samples,), float32."""
        return self.pcm()[:, 0].astype(np.float32) / 32768


SAID = (
    Said("a", "The fire is yellow.", "ann", 0.5),
    Said("b", "Où est la gare, s'il vous plaît ?", "bob", 0.75),
    Said("c", 'She said "no", and left.', "ann", 1.0),
)
