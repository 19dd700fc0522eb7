"""How many frames and tokens a span of sound becomes: the one arithmetic everybody asks.

    samples --hop--> mel frames --encoder stride--> encoder frames --projector stride--> tokens

Each arrow rounds up, because each stage pads its last, partial step with silence; a base whose
projector drops its last, partial step says so in `drops`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Strides:
    """How fast a base reads sound.

    `rate` is in samples per second, `hop` in samples per mel frame, `encoder` in mel frames per
    encoder frame and `projector` in encoder frames per token. `window` is the longest span, in
    samples, that the encoder hears at once. `tail` is how many mel frames past a clip's end the
    encoder's convolutions look at.
    """

    rate: int
    hop: int
    encoder: int
    projector: int
    window: int
    drops: bool = False
    tail: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Audio tokens that one second of sound becomes."""
        return self.rate / (self.hop * self.encoder * self.projector)

    @property
    def window_seconds(self) -> float:
        """The longest span heard at once, in seconds."""
        return self.window / self.rate


def mel_frames(samples: int, strides: Strides) -> int:
    """Mel frames of a span of `samples`."""
    return ceil_div(samples, strides.hop)


def encoder_frames(samples: int, strides: Strides) -> int:
    """Encoder frames of a span of `samples`."""
    return ceil_div(mel_frames(samples, strides), strides.encoder)


def tokens(samples: int, strides: Strides) -> int:
    """Audio tokens of a span of `samples`: the number of placeholders it takes in the text."""
    frames = encoder_frames(samples, strides)
    return frames // strides.projector if strides.drops else ceil_div(frames, strides.projector)


def ceil_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded up, in exact integers."""
    return -(-numerator // denominator)
