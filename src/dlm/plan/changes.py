"""What is changed of a sound on its way in, in numbers, and how long it may become.

A speed is in whole percent. A clip that a base hears at once is never slowed so far that it is not:
it becomes as long as the window, and no longer.
"""

from dataclasses import dataclass

from dlm.document.augment import Codec
from dlm.plan.frames import ceil_div

Range = tuple[float, float]


@dataclass(frozen=True)
class Masks:
    """How many stretches or bands of a mel are masked, the `widest` in frames or bins.

    None takes more than the share `most` of what there is.
    """

    count: int
    widest: int
    most: float = 1.0


@dataclass(frozen=True)
class Changes:
    """What a pass changes of a `share` of its clips; None is left as it is.

    `noise` is synthetic, or the folder as the author wrote it; `noise_sha256` is of what it holds.
    """

    share: float
    speed_percent: tuple[int, int] | None = None
    room_share: float = 0.0
    rt60_seconds: Range = (0.0, 0.0)
    noise: str | None = None
    noise_sha256: str | None = None
    snr_db: Range = (0.0, 0.0)
    gain_db: Range | None = None
    codecs: tuple[Codec, ...] = ()
    time: Masks | None = None
    frequency: Masks | None = None

    def longest(self, samples: int, window: int) -> int:
        """The most samples that so many may become."""
        return played(samples, self.speed_percent[0] if self.speed_percent else 100, window)


def pace(samples: int, percent: int, window: int) -> int:
    """The speed that a clip is played at, in percent, if `percent` is wanted."""
    return max(percent, ceil_div(100 * samples, window)) if samples <= window else percent


def played(samples: int, percent: int, window: int) -> int:
    """How many samples a clip has once it is played at that speed."""
    return ceil_div(100 * samples, pace(samples, percent, window))
