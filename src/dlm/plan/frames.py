"""How many frames and tokens a span of sound becomes: the one arithmetic everybody asks.

    samples --hop--> mel frames --encoder stride--> encoder frames --projector stride--> tokens

Each arrow rounds up, because each stage pads its last, partial step with silence; a base that
drops its last, partial step says so in `mirrors` (mel) or `drops` (tokens). A span longer than the
window is heard window by window, and its tokens stand one after the other.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Strides:
    """How fast a base reads sound.

    `rate` is in samples per second, `hop` in samples per mel frame, `encoder` in mel frames per
    encoder frame and `projector` in encoder frames per token. `window` is the longest span, in
    samples, that the encoder hears at once. `tail` is how many mel frames past a clip's end the
    encoder's convolutions look at. `fill` says whether a window is
    completed with silence before it is heard, and whether that silence counts as tokens. `chunk`
    is how many mel frames the convolutions take by themselves, 0 for the whole window. `mirrors`
    is for a mel that a clip ends as in a mirror, and that has no frame for less than a hop;
    `least` is how many samples a clip is given at the least, with silence that counts. `convs` are
    the (kernel, stride) of convolutions without padding, where an encoder has those: `encoder` is
    then the product of their strides. `queries` is how many tokens `projector` frames become.
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
    mirrors: bool = False
    least: int = 0
    convs: tuple[tuple[int, int], ...] = ()
    queries: int = 1

    @property
    def tokens_per_second(self) -> float:
        """Audio tokens that one second of sound becomes."""
        step = self.chunk or self.encoder
        heard = self.rate / self.hop / step * ceil_div(step, self.encoder)
        return heard / self.projector * self.queries

    @property
    def window_seconds(self) -> float:
        """The longest span heard at once, in seconds."""
        return self.window / self.rate


def windows(samples: int, strides: Strides, most: int | None = None) -> tuple[int, ...]:
    """The samples of each window of a span, at most `most` of them.

    A rest too short for a token is left out, but for that of a span that is nothing else.
    """
    whole, rest = divmod(max(samples, strides.least), strides.window)
    cut = [strides.window] * whole
    if rest and (not whole or window_tokens(rest, strides)):
        cut.append(rest)
    return tuple(cut[:most])


def mel_frames(samples: int, strides: Strides) -> int:
    """Mel frames of a window of `samples`, those of a silence that counts among them."""
    if strides.mirrors:
        return samples // strides.hop
    return ceil_div(strides.window if strides.fill == "counted" else samples, strides.hop)


def encoder_frames(samples: int, strides: Strides) -> int:
    """Encoder frames of a window of `samples`."""
    return _encoded(mel_frames(samples, strides), strides)


def tokens(samples: int, strides: Strides, most: int | None = None) -> int:
    """Audio tokens of a span of `samples`: the number of placeholders it takes in the text."""
    return sum(window_tokens(window, strides) for window in windows(samples, strides, most))


def tokens_of_mel(frames: int, strides: Strides) -> int:
    """Audio tokens of one window of `frames` mel frames."""
    heard = _encoded(frames, strides)
    groups = heard // strides.projector if strides.drops else ceil_div(heard, strides.projector)
    return groups * strides.queries


def window_tokens(samples: int, strides: Strides) -> int:
    """Audio tokens of one window of `samples`."""
    return tokens_of_mel(mel_frames(samples, strides), strides)


def _encoded(frames: int, strides: Strides) -> int:
    """Encoder frames of one window of `frames` mel frames."""
    if strides.convs:
        return convolved(frames, strides.convs)
    if not strides.chunk:
        return ceil_div(frames, strides.encoder)
    whole, rest = divmod(frames, strides.chunk)
    return whole * ceil_div(strides.chunk, strides.encoder) + ceil_div(rest, strides.encoder)


def convolved(steps: int, convs: tuple[tuple[int, int], ...]) -> int:
    """Steps that convolutions without padding, each a (kernel, stride), make of `steps`."""
    for kernel, stride in convs:
        steps = max((steps - kernel) // stride + 1, 0)
    return steps


def ceil_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded up, in exact integers."""
    return -(-numerator // denominator)
