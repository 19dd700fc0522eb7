"""What one pass over a sound tells: how long, how loud, how much of it is silent or clipped.

Levels are shares of full scale, taken at the recording's own rate; loudness is that of the mono
mix, which is what the model hears, and clipping that of each channel.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlm.clips.audio import Span, listen, mono
from dlm.clips.clip import Sound
from dlm.clips.reader import Wave

SILENT_LEVEL = 10 ** (-60 / 20)  # -60 dBFS
FULL_SCALE = 0.9999  # 16 bit: 32764 of 32768
FRAMES_PER_SECOND = 50  # silence is looked for in frames of 20 ms
STRETCHES = 48  # of equal length, whose levels are the shape of a sound
SHAPE_STEPS = 4  # to the decibel, below the loudest stretch, in a byte
SLOPE_RATE = 16_000  # samples per second: slopes are as steep at any rate as they are at this one


@dataclass(frozen=True, slots=True)
class SoundFacts:
    """One sound, measured. `samples` is per channel, at the recording's own `rate`."""

    samples: int
    rate: int
    channels: int
    peak: float
    rms: float
    offset: float
    loudest_channel: float
    silent_share: float
    clipped_share: float
    content: str  # sha256 of the decoded samples: the same in a wav and its flac
    shape: bytes  # how it rises and falls, then how bright it is: nearly the same in its mp3

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples / self.rate


def measure(sound: Sound) -> SoundFacts:
    """Measure a sound, holding one block of it at a time."""
    with listen(sound) as span:
        tally = _Tally(span)
        for block in span.blocks:
            tally.add(block)
    return tally.facts()


class _Tally:
    """Sums over the blocks read so far."""

    def __init__(self, span: Span) -> None:
        self.header, self.promised = span.header, span.samples
        self.frame_samples = max(1, self.header.rate // FRAMES_PER_SECOND)
        self.samples = self.clipped = self.frames = self.silent = 0
        self.peak = self.loudest = self.total = self.squares = 0.0
        self.energy, self.slopes = np.zeros(STRETCHES), np.zeros(STRETCHES)
        self.hash = hashlib.sha256(f"{self.header.rate} {self.header.channels}".encode())

    def add(self, block: Wave) -> None:
        """Take in one block (samples, channels)."""
        heard, size = mono(block), np.abs(block)
        self.hash.update(block.tobytes())
        self.clipped += int(np.count_nonzero(size >= FULL_SCALE))
        self.loudest = max(self.loudest, float(size.max()))
        self.peak = max(self.peak, float(np.abs(heard).max()))
        self.total += float(heard.sum(dtype=np.float64))
        self.squares += float(np.square(heard, dtype=np.float64).sum())
        levels = _levels(heard, self.frame_samples)
        self.frames += len(levels)
        self.silent += int(np.count_nonzero(levels < SILENT_LEVEL))
        self.energy += self._stretched(levels)
        self.slopes += self._stretched(_levels(np.diff(heard, append=0), self.frame_samples))
        self.samples += len(heard)

    def _stretched(self, levels: Wave) -> NDArray[np.float64]:
        """Power by stretch, of frames that follow what was taken in so far."""
        at = (self.samples + np.arange(len(levels)) * self.frame_samples) * STRETCHES
        stretch = np.minimum(at // self.promised, STRETCHES - 1)
        power = np.square(levels, dtype=np.float64)
        summed: NDArray[np.float64] = np.bincount(stretch, power, STRETCHES).astype(np.float64)
        return summed

    def facts(self) -> SoundFacts:
        slopes = self.slopes * (self.header.rate / SLOPE_RATE) ** 2
        return SoundFacts(
            samples=self.samples,
            rate=self.header.rate,
            channels=self.header.channels,
            peak=self.peak,
            rms=float(np.sqrt(self.squares / self.samples)),
            offset=self.total / self.samples,
            loudest_channel=self.loudest,
            silent_share=self.silent / self.frames,
            clipped_share=self.clipped / (self.samples * self.header.channels),
            content=self.hash.hexdigest(),
            shape=_shape(self.energy, self.energy.max()) + _shape(slopes, self.energy),
        )


def _levels(heard: Wave, frame_samples: int) -> Wave:
    """Root mean square of each frame; a block shorter than one frame is a frame."""
    whole = len(heard) // frame_samples * frame_samples
    frames = heard[:whole].reshape(-1, frame_samples) if whole else heard.reshape(1, -1)
    levels: Wave = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1)).astype(np.float32)
    return levels


def _shape(power: NDArray[np.float64], full: NDArray[np.float64] | float) -> bytes:
    """Power by stretch in steps below `full`, as far down as a byte goes."""
    nothing = np.finfo(np.float32).tiny
    decibels = 10 * np.log10((power + nothing) / (np.asarray(full) + nothing))
    return np.clip(-decibels * SHAPE_STEPS, 0, 255).round().astype(np.uint8).tobytes()
