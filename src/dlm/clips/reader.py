"""A recording that was opened: what it says of itself, and its samples in blocks.

disk.opened -> bytes -> sndfile or ffmpeg -> Reader -> audio.listen
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dlm.errors import ClipError

Wave: TypeAlias = NDArray[np.float32]

BLOCK_SAMPLES = 1 << 16  # per channel: what is held at once while a recording is read


@dataclass(frozen=True)
class Header:
    """What a recording says of itself. `samples` is per channel."""

    rate: int
    channels: int
    samples: int

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.samples / self.rate


@dataclass(frozen=True)
class Reader:
    """`read` gives so many samples from the first that is wanted on, as blocks (samples, channels).

    It may give fewer: `slack` is how many samples the header may promise too much.
    """

    header: Header
    slack: int
    read: Callable[[int, int], Iterator[Wave]]


def cut_short(name: str, promised: str, left: str) -> ClipError:
    """A recording with less in it than its header says."""
    what = f"it is cut short: its header promises {promised}, the file holds {left}"
    mend = "copy it again, or keep what is left with `ffmpeg -i in.wav out.wav`"
    return ClipError(what, where=name, mend=mend)


def damaged(name: str) -> ClipError:
    """A recording whose samples cannot be decoded."""
    mend = "copy it again, or keep what is left with `ffmpeg -i in.wav out.wav`"
    return ClipError("it is damaged or cut short", where=name, mend=mend)
