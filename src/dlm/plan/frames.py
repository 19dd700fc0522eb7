"""How many frames and tokens a span of sound becomes: the one arithmetic everybody asks.

    samples --hop--> mel frames --encoder stride--> encoder frames --projector stride--> tokens

Each arrow rounds up, because each stage pads its last, partial step with silence; a base whose
projector drops its last, partial step says so in `drops`. A span longer than the window is heard
window by window, and its tokens stand one after the other.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Strides:
    """How fast a base reads sound.

    `rate` is in samples per second, `hop` in samples per mel frame, `encoder` in mel frames per
    encoder frame and `projector` in encoder frames per token. `window` is the longest span, in
    samples, that the encoder hears at once. `tail` is how many mel
    frames past a clip's end the encoder's convolutions look at. `fill` says whether a window is
    completed with silence before it is heard, and whether that silence counts as tokens. `chunk`
    is how many mel frames the convolutions take by themselves, 0 for the whole window.
    """

    rate: int
    hop: int
    encoder: int
    projector: int
    window: int
    drops: bool = False
    tail: int = 0
    fill: Literal["none", "heard", "counted"] = "none"
    chunk: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Audio tokens that one second of sound becomes."""
        return self.rate / (self.hop * self.encoder * self.projector)

    @property
    def window_seconds(self) -> float:
        """The longest span heard at once, in seconds."""
        return self.window / self.rate


def windows(samples: int, strides: Strides, most: int | None = None) -> tuple[int, ...]:
    """The samples of each window of a span, at most `most` of them.

    A rest too short for a token is left out, but for that of a span that is nothing else.
    """
    whole, rest = divmod(samples, strides.window)
    cut = [strides.window] * whole
    if rest and (not whole or _tokens(rest, strides)):
        cut.append(rest)
    return tuple(cut[:most])


def mel_frames(samples: int, strides: Strides) -> int:
    """Mel frames of a window of `samples`, those of a silence that counts among them."""
    return ceil_div(strides.window if strides.fill == "counted" else samples, strides.hop)


def encoder_frames(samples: int, strides: Strides) -> int:
    """Encoder frames of a window of `samples`."""
    frames = mel_frames(samples, strides)
    if not strides.chunk:
        return ceil_div(frames, strides.encoder)
    whole, rest = divmod(frames, strides.chunk)
    return whole * ceil_div(strides.chunk, strides.encoder) + ceil_div(rest, strides.encoder)


def tokens(samples: int, strides: Strides, most: int | None = None) -> int:
    """Audio tokens of a span of `samples`: the number of placeholders it takes in the text."""
    return sum(_tokens(window, strides) for window in windows(samples, strides, most))


def _tokens(samples: int, strides: Strides) -> int:
    """Audio tokens of one window."""
    frames = encoder_frames(samples, strides)
    return frames // strides.projector if strides.drops else ceil_div(frames, strides.projector)


def ceil_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded up, in exact integers."""
    return -(-numerator // denominator)
