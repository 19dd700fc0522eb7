"""Which fields change sounds on their way in, so that no pass hears quite what the last one did.

    speed -> room -> noise -> gain -> codec -> mel -> masks

Nothing is changed that is not named. A range is [lowest, highest], and every number in it is as
likely; what is drawn is a function of the run's seed, the clip and the pass.

How recordings are taken in: other rates, long clips, and what is done to them on the way.

Where clips come from: a folder, a list, an archive or a dataset, and what is taken of it.
"""

from typing import Annotated, Literal, TypeGuard

from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator

from dlm.config.base_model import (
    BaseConfig,
    NonEmptyStr,
    NonEmptyStrList,
    PositiveFloat,
    none_to_empty_dict,
    none_to_empty_tuple,
)

Codec = Literal["none", "mulaw", "telephone", "lowpass"]
Codecs = Annotated[tuple[Codec, ...], Strict(False)]
UnitFraction = Annotated[float, Field(ge=0, le=1)]

SYNTHETIC_NOISE = "synthetic"
AUGMENTATION_FIELDS = ("speed", "room", "noise", "gain", "codec", "mask_time", "mask_frequency")


def _make_range_validator(minimum: float, maximum: float, example_text: str) -> BeforeValidator:
    """Two numbers in order, neither beyond what makes sense."""

    def checked(value: object) -> object:
        if isinstance(value, list | tuple) and len(value) == 2:
            low, high = value
            numbers = all(type(each) in (int, float) for each in value)
            if numbers and minimum <= low <= high <= maximum:
                return float(low), float(high)
        raise ValueError(
            f"must be two numbers from {minimum:g} to "
            f"{maximum:g}, the lower first, such as {example_text}"
        )

    return BeforeValidator(checked)


ValueRange = tuple[float, float]
DEFAULT_RT60: ValueRange = (0.2, 0.8)
DEFAULT_SNR_DB: ValueRange = (5.0, 20.0)
SpeedRange = Annotated[ValueRange, _make_range_validator(0.5, 2.0, "[0.9, 1.1]")]
Rt60Range = Annotated[ValueRange, _make_range_validator(0.05, 5.0, "[0.2, 0.8]")]
SnrRange = Annotated[ValueRange, _make_range_validator(-20.0, 60.0, "[5, 20]")]
GainRange = Annotated[ValueRange, _make_range_validator(-60.0, 60.0, "[-6, 6]")]


class TimeMaskConfig(BaseConfig):
    """Stretches of time that are blotted out (SpecAugment, Park et al. 2019)."""

    count: int = Field(default=2, ge=1, le=100, description="How many stretches are masked.")
    seconds: float = Field(
        default=1.0, gt=0, le=30, description="The longest a masked stretch may be."
    )
    most: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="The share of a clip that one masked stretch may take."
    )


class FrequencyMaskConfig(BaseConfig):
    """Bands of the mel that are blotted out (SpecAugment, Park et al. 2019)."""

    count: int = Field(default=2, ge=1, le=100, description="How many bands are masked.")
    bins: int = Field(
        default=27, ge=1, le=1000, description="The widest a masked band may be, in mel bins."
    )


class AugmentationConfig(BaseConfig):
    """What is changed of the clips that are learned from, otherwise in every pass."""

    speed: SpeedRange | None = Field(
        default=None, description="How fast a clip is played, such as [0.9, 1.1]; pitch follows."
    )
    room: UnitFraction = Field(
        default=0.0, description="Share of the changed clips that are heard in a made-up room."
    )
    rt60: Rt60Range = Field(
        default=DEFAULT_RT60, description="Seconds in which such a room falls silent, by 60 dB."
    )
    noise: NonEmptyStr | None = Field(
        default=None, description="What is mixed in: synthetic noise, or a folder of recordings."
    )
    snr: SnrRange = Field(
        default=DEFAULT_SNR_DB, description="How far the noise lies below the clip, in dB."
    )
    gain: GainRange | None = Field(
        default=None,
        description="How much louder or softer a clip is made, in dB, such as [-6, 6].",
    )
    codec: Codecs = Field(
        default=(),
        description="What it is sent through, one of: none, mulaw, telephone, lowpass.",
    )
    mask_time: TimeMaskConfig | None = Field(
        default=None, description="Stretches of time that are blotted out of the mel."
    )
    mask_frequency: FrequencyMaskConfig | None = Field(
        default=None, description="Bands that are blotted out of the mel."
    )
    share: UnitFraction = Field(
        default=1.0, description="Share of the clips that a pass changes; 0 leaves all as they are."
    )

    @field_validator("rt60")
    @classmethod
    def _check_rt60(cls, value: ValueRange, info: ValidationInfo) -> ValueRange:
        if value != DEFAULT_RT60 and not info.data.get("room"):
            raise ValueError("is of a room: add room, the share of clips that are heard in one")
        return value

    @field_validator("snr")
    @classmethod
    def _check_snr(cls, value: ValueRange, info: ValidationInfo) -> ValueRange:
        if value != DEFAULT_SNR_DB and not info.data.get("noise"):
            raise ValueError("is of a noise: add noise: synthetic, or a folder of recordings")
        return value

    @field_validator("share")
    @classmethod
    def _check_share(cls, value: float, info: ValidationInfo) -> float:
        if 0 < value < 1 and not any(info.data.get(name) for name in AUGMENTATION_FIELDS):
            raise ValueError(
                f"is of nothing: say what is changed, of {', '.join(AUGMENTATION_FIELDS)}"
            )
        return value

    @property
    def is_enabled(self) -> bool:
        """Whether anything is changed at all."""
        return self.share > 0 and any(vars(self)[name] for name in AUGMENTATION_FIELDS)

    @property
    def min_speed_percent(self) -> int:
        """The slowest that a clip is played, in percent of its own speed."""
        return speed_to_percent(self.speed[0]) if self.speed and self.is_enabled else 100


def speed_to_percent(speed: float) -> int:
    """A speed in whole percent: the steps in which it is drawn."""
    return round(100 * speed)


LongAudioPolicy = Literal["split", "error", "truncate"]


class AudioConfig(BaseConfig):
    """How recordings are taken in."""

    auto_resample: bool = Field(
        default=False, description="Convert other sample rates to the base's instead of refusing."
    )
    long_clips: LongAudioPolicy = Field(
        default="split",
        description="Clips longer than the base hears at once: split, error or truncate.",
    )
    augment: Annotated[AugmentationConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=AugmentationConfig,
        description="What each pass changes of the clips it learns from.",
    )

    @property
    def max_windows(self) -> int | None:
        """How many windows of a clip are heard; None for all of them."""
        return 1 if self.long_clips == "truncate" else None


SourceFormat = Literal[
    "folder",
    "audiofolder",
    "json",
    "table",
    "parquet",
    "hub",
    "webdataset",
    "nemo",
    "granary",
    "lhotse",
    "kaldi",
    "librispeech",
    "commonvoice",
    "musiccaps",
    "audiocaps",
    "clotho",
]
SourceTask = Literal["transcribe", "answer"]
SOURCE_COLUMNS = (
    *("audio", "text", "language", "speaker", "prompt", "start", "end", "id"),
    *("messages", "conversations", "audios"),
)


def _check_column_names(value: object) -> object:
    """Columns by our names, none of them misspelt."""
    odd = (
        next((name for name in value if name not in SOURCE_COLUMNS), None)
        if _is_mapping(value)
        else None
    )
    if odd is not None:
        raise ValueError(
            f"must name columns of ours, of {', '.join(SOURCE_COLUMNS)}; {odd} is none"
        )
    return value


def _is_mapping(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


class SourceConfig(BaseConfig):
    """Recordings and what is said in them, in any of the formats of clips/formats/every.py."""

    path: NonEmptyStr = Field(
        description="Folder or file, relative to the document; hf:org/name[/config] of the Hub."
    )
    format: SourceFormat | None = Field(
        default=None, description="How the clips are kept; found out by looking when empty."
    )
    include: NonEmptyStrList = Field(
        default=("**/*",), description="Patterns of the files to take, such as **/*.wav."
    )
    exclude: NonEmptyStrList = Field(default=(), description="Patterns of the files to leave out.")
    max_files: int | None = Field(
        default=None, ge=1, description="Take at most this many clips; all when empty."
    )
    weight: PositiveFloat = Field(
        default=1.0, description="How often its clips come in a pass: 2 twice, 0.5 every other one."
    )
    split: NonEmptyStr | None = Field(
        default=None, description="The part to take where there are several, such as train."
    )
    language: NonEmptyStr | None = Field(
        default=None, description="Language spoken in the clips, such as fr."
    )
    task: SourceTask | None = Field(
        default=None, description="transcribe or answer; what the format is for when empty."
    )
    prompt: NonEmptyStr | None = Field(
        default=None,
        description="What the model is asked about each clip; the base's own if empty.",
    )
    columns: Annotated[dict[NonEmptyStr, NonEmptyStr], BeforeValidator(_check_column_names)] = (
        Field(
            default_factory=dict,
            description="Names of its columns by ours, such as {text: sentence, audio: file}.",
        )
    )
    audio: NonEmptyStr | None = Field(
        default=None, description="Folder of the recordings, where they do not lie beside the list."
    )
    stream: bool = Field(
        default=False, description="Read it row by row as it is learned, without listing it first."
    )


def _normalize_sources(value: object) -> object:
    """A source that is only a path may be written as one, and a single one without a list."""
    listed = [value] if isinstance(value, str) else none_to_empty_tuple(value)
    if not isinstance(listed, list | tuple):
        return listed
    return [{"path": each} if isinstance(each, str) else each for each in listed]


SourceList = Annotated[tuple[SourceConfig, ...], Strict(False), BeforeValidator(_normalize_sources)]
