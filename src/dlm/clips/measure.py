"""What one pass over a sound tells: how long, how loud, how much of it is silent or clipped.

Levels are shares of full scale, taken at the recording's own rate; loudness is that of the mono
mix, which is what the model hears, and clipping that of each channel.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from dlm.clips.audio import Header, Wave, listen, mono
from dlm.clips.clip import Sound

SILENT_LEVEL = 10 ** (-60 / 20)  # -60 dBFS
FULL_SCALE = 0.9999  # 16 bit: 32764 of 32768
FRAMES_PER_SECOND = 50  # silence is looked for in frames of 20 ms


@dataclass(frozen=True)
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

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples / self.rate


def measure(sound: Sound) -> SoundFacts:
    """Measure a sound, holding one block of it at a time."""
    with listen(sound) as span:
        tally = _Tally(span.header)
        for block in span.blocks:
            tally.add(block)
    return tally.facts()


class _Tally:
    """Sums over the blocks read so far."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.frame_samples = max(1, header.rate // FRAMES_PER_SECOND)
        self.samples = self.clipped = self.frames = self.silent = 0
        self.peak = self.loudest = self.total = self.squares = 0.0
        self.hash = hashlib.sha256(f"{header.rate} {header.channels}".encode())

    def add(self, block: Wave) -> None:
        """Take in one block (samples, channels)."""
        heard, size = mono(block), np.abs(block)
        self.hash.update(block.tobytes())
        self.samples += len(heard)
        self.clipped += int(np.count_nonzero(size >= FULL_SCALE))
        self.loudest = max(self.loudest, float(size.max()))
        self.peak = max(self.peak, float(np.abs(heard).max()))
        self.total += float(heard.sum(dtype=np.float64))
        self.squares += float(np.square(heard, dtype=np.float64).sum())
        levels = _levels(heard, self.frame_samples)
        self.frames += len(levels)
        self.silent += int(np.count_nonzero(levels < SILENT_LEVEL))

    def facts(self) -> SoundFacts:
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
        )


def _levels(heard: Wave, frame_samples: int) -> Wave:
    """Root mean square of each frame; a block shorter than one frame is a frame."""
    whole = len(heard) // frame_samples * frame_samples
    frames = heard[:whole].reshape(-1, frame_samples) if whole else heard.reshape(1, -1)
    levels: Wave = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1)).astype(np.float32)
    return levels
