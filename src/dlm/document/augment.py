"""Which fields change sounds on their way in, so that no pass hears quite what the last one did.

    speed -> room -> noise -> gain -> codec -> mel -> masks

Nothing is changed that is not named. A range is [lowest, highest], and every number in it is as
likely; what is drawn is a function of the run's seed, the clip and the pass.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator

from dlm.document.record import Record, Text

Codec = Literal["none", "mulaw", "telephone", "lowpass"]
Codecs = Annotated[tuple[Codec, ...], Strict(False)]
Share = Annotated[float, Field(ge=0, le=1)]

SYNTHETIC = "synthetic"
CHANGES = ("speed", "room", "noise", "gain", "codec", "mask_time", "mask_frequency")


def _within(least: float, most: float, usual: str) -> BeforeValidator:
    """Two numbers in order, neither beyond what makes sense."""

    def checked(value: object) -> object:
        if isinstance(value, list | tuple) and len(value) == 2:
            low, high = value
            numbers = all(type(each) in (int, float) for each in value)
            if numbers and least <= low <= high <= most:
                return float(low), float(high)
        raise ValueError(
            f"must be two numbers from {least:g} to {most:g}, the lower first, such as {usual}"
        )

    return BeforeValidator(checked)


Pair = tuple[float, float]
ROOM_SECONDS: Pair = (0.2, 0.8)
NOISE_DECIBELS: Pair = (5.0, 20.0)
Speed = Annotated[Pair, _within(0.5, 2.0, "[0.9, 1.1]")]
Decay = Annotated[Pair, _within(0.05, 5.0, "[0.2, 0.8]")]
Distance = Annotated[Pair, _within(-20.0, 60.0, "[5, 20]")]
Gain = Annotated[Pair, _within(-60.0, 60.0, "[-6, 6]")]


class MaskTime(Record):
    """Stretches of time that are blotted out (SpecAugment, Park et al. 2019)."""

    count: int = Field(default=2, ge=1, le=100, description="How many stretches are masked.")
    seconds: float = Field(
        default=1.0, gt=0, le=30, description="The longest a masked stretch may be."
    )
    most: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="The share of a clip that one masked stretch may take."
    )


class MaskFrequency(Record):
    """Bands of the mel that are blotted out (SpecAugment, Park et al. 2019)."""

    count: int = Field(default=2, ge=1, le=100, description="How many bands are masked.")
    bins: int = Field(
        default=27, ge=1, le=1000, description="The widest a masked band may be, in mel bins."
    )


class Augment(Record):
    """What is changed of the clips that are learned from, otherwise in every pass."""

    speed: Speed | None = Field(
        default=None, description="How fast a clip is played, such as [0.9, 1.1]; pitch follows."
    )
    room: Share = Field(
        default=0.0, description="Share of the changed clips that are heard in a made-up room."
    )
    rt60: Decay = Field(
        default=ROOM_SECONDS, description="Seconds in which such a room falls silent, by 60 dB."
    )
    noise: Text | None = Field(
        default=None, description="What is mixed in: synthetic noise, or a folder of recordings."
    )
    snr: Distance = Field(
        default=NOISE_DECIBELS, description="How far the noise lies below the clip, in dB."
    )
    gain: Gain | None = Field(
        default=None,
        description="How much louder or softer a clip is made, in dB, such as [-6, 6].",
    )
    codec: Codecs = Field(
        default=(),
        description="What it is sent through, one of: none, mulaw, telephone, lowpass.",
    )
    mask_time: MaskTime | None = Field(
        default=None, description="Stretches of time that are blotted out of the mel."
    )
    mask_frequency: MaskFrequency | None = Field(
        default=None, description="Bands that are blotted out of the mel."
    )
    share: Share = Field(
        default=1.0, description="Share of the clips that a pass changes; 0 leaves all as they are."
    )

    @field_validator("rt60")
    @classmethod
    def _of_a_room(cls, value: Pair, info: ValidationInfo) -> Pair:
        if value != ROOM_SECONDS and not info.data.get("room"):
            raise ValueError("is of a room: add room, the share of clips that are heard in one")
        return value

    @field_validator("snr")
    @classmethod
    def _of_a_noise(cls, value: Pair, info: ValidationInfo) -> Pair:
        if value != NOISE_DECIBELS and not info.data.get("noise"):
            raise ValueError("is of a noise: add noise: synthetic, or a folder of recordings")
        return value

    @field_validator("share")
    @classmethod
    def _of_something(cls, value: float, info: ValidationInfo) -> float:
        if 0 < value < 1 and not any(info.data.get(name) for name in CHANGES):
            raise ValueError(f"is of nothing: say what is changed, of {', '.join(CHANGES)}")
        return value

    @property
    def on(self) -> bool:
        """Whether anything is changed at all."""
        return self.share > 0 and any(vars(self)[name] for name in CHANGES)

    @property
    def slowest_percent(self) -> int:
        """The slowest that a clip is played, in percent of its own speed."""
        return percent(self.speed[0]) if self.speed and self.on else 100


def percent(speed: float) -> int:
    """A speed in whole percent: the steps in which it is drawn."""
    return round(100 * speed)
