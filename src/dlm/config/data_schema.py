"""Fields of `training.sources` and `training.audio`: where clips come from, resampling, long clips,
and augmentation (speed, room, noise, gain, codec, masks of the log-mel).

    speed -> room -> noise -> gain -> codec -> log-mel -> masks

Only what a document names is changed. A range is [lowest, highest], drawn from uniformly by the
run's seed, the clip and the epoch.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator

from dlm.config.base_config import (
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
    """Make the check of a range: two numbers in order, between the two limits."""

    def validate_range(value: object) -> object:
        if isinstance(value, list | tuple) and len(value) == 2:
            low, high = value
            are_numbers = all(type(number) in (int, float) for number in value)
            if are_numbers and minimum <= low <= high <= maximum:
                return float(low), float(high)
        raise ValueError(
            f"must be two numbers from {minimum:g} to {maximum:g}, the lower first, "
            f"such as {example_text}"
        )

    return BeforeValidator(validate_range)


ValueRange = tuple[float, float]
DEFAULT_RT60: ValueRange = (0.2, 0.8)
DEFAULT_SNR_DB: ValueRange = (5.0, 20.0)
SpeedRange = Annotated[ValueRange, _make_range_validator(0.5, 2.0, "[0.9, 1.1]")]
Rt60Range = Annotated[ValueRange, _make_range_validator(0.05, 5.0, "[0.2, 0.8]")]
SnrRange = Annotated[ValueRange, _make_range_validator(-20.0, 60.0, "[5, 20]")]
GainRange = Annotated[ValueRange, _make_range_validator(-60.0, 60.0, "[-6, 6]")]


class TimeMaskConfig(BaseConfig):
    """Masks over frames of the log-mel (SpecAugment, Park et al. 2019)."""

    count: int = Field(default=2, ge=1, le=100, description="Number of masks.")
    seconds: float = Field(default=1.0, gt=0, le=30, description="Longest mask, in seconds.")
    most: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="Longest mask, as a fraction of the clip."
    )


class FrequencyMaskConfig(BaseConfig):
    """Masks over bins of the log-mel (SpecAugment, Park et al. 2019)."""

    count: int = Field(default=2, ge=1, le=100, description="Number of masks.")
    bins: int = Field(default=27, ge=1, le=1000, description="Widest mask, in mel bins.")


class AugmentationConfig(BaseConfig):
    """Augmentation of training clips, drawn again in every epoch."""

    speed: SpeedRange | None = Field(
        default=None, description="Range of the playback speed, such as [0.9, 1.1]; pitch follows."
    )
    room: UnitFraction = Field(
        default=0.0, description="Fraction of the augmented clips that get reverberation."
    )
    rt60: Rt60Range = Field(
        default=DEFAULT_RT60,
        description="Range of the reverberation time in seconds, to a decay of 60 dB.",
    )
    noise: NonEmptyStr | None = Field(
        default=None, description="Noise to add: synthetic, or a folder of recordings of noise."
    )
    snr: SnrRange = Field(
        default=DEFAULT_SNR_DB, description="Range of the signal-to-noise ratio, in dB."
    )
    gain: GainRange | None = Field(
        default=None, description="Range of the change in level, in dB, such as [-6, 6]."
    )
    codec: Codecs = Field(
        default=(),
        description="Codecs to draw from, for each clip one: none, mulaw, telephone, lowpass.",
    )
    mask_time: TimeMaskConfig | None = Field(
        default=None, description="Masks over frames of the log-mel (SpecAugment)."
    )
    mask_frequency: FrequencyMaskConfig | None = Field(
        default=None, description="Masks over bins of the log-mel (SpecAugment)."
    )
    share: UnitFraction = Field(
        default=1.0, description="Fraction of the clips augmented in an epoch; 0 augments none."
    )

    @field_validator("rt60")
    @classmethod
    def _check_rt60(cls, value: ValueRange, info: ValidationInfo) -> ValueRange:
        if value != DEFAULT_RT60 and not info.data.get("room"):
            raise ValueError("needs room: add room, the fraction of clips with reverberation")
        return value

    @field_validator("snr")
    @classmethod
    def _check_snr(cls, value: ValueRange, info: ValidationInfo) -> ValueRange:
        if value != DEFAULT_SNR_DB and not info.data.get("noise"):
            raise ValueError("needs noise: add noise: synthetic, or a folder of recordings")
        return value

    @field_validator("share")
    @classmethod
    def _check_share(cls, value: float, info: ValidationInfo) -> float:
        if 0 < value < 1 and not any(info.data.get(name) for name in AUGMENTATION_FIELDS):
            raise ValueError(f"needs an augmentation: add one of {', '.join(AUGMENTATION_FIELDS)}")
        return value

    @property
    def is_enabled(self) -> bool:
        """Whether any clip is changed."""
        return self.share > 0 and any(vars(self)[name] for name in AUGMENTATION_FIELDS)

    @property
    def min_speed_percent(self) -> int:
        """Lowest playback speed, in percent; 100 without augmentation of speed."""
        return speed_to_percent(self.speed[0]) if self.speed and self.is_enabled else 100


def speed_to_percent(speed: float) -> int:
    """Round a speed to whole percent, the steps in which speeds are drawn."""
    return round(100 * speed)


LongAudioPolicy = Literal["split", "error", "truncate"]


class AudioConfig(BaseConfig):
    """How recordings are read."""

    auto_resample: bool = Field(
        default=False, description="Convert other sample rates to the base's instead of refusing."
    )
    long_clips: LongAudioPolicy = Field(
        default="split",
        description="Clips longer than one window of the encoder: split, error or truncate.",
    )
    language: NonEmptyStr | None = Field(
        default=None,
        description="Language of clips and recordings that name none, such as fr, for a base that "
        "takes one.",
    )
    task: Literal["transcribe", "translate"] = Field(
        default="transcribe",
        description="What a multilingual Whisper is asked for: the words, or their translation to "
        "English.",
    )
    pad_to_window: bool | None = Field(
        default=None,
        description="Whether a Whisper's clips are completed with silence to 30 s; by default they "
        "are. Without, training and use cost less. The base alone always takes the whole window.",
    )
    augment: Annotated[AugmentationConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=AugmentationConfig,
        description="Augmentation of training clips, drawn again in every epoch.",
    )

    @property
    def max_windows(self) -> int | None:
        """Number of encoder windows a clip is cut to; None for no limit."""
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
    """Refuse columns that are not among SOURCE_COLUMNS."""
    if isinstance(value, dict):
        for name in value:
            if name not in SOURCE_COLUMNS:
                known = ", ".join(SOURCE_COLUMNS)
                raise ValueError(f"must name columns of {known}; {name} is none of them")
    return value


class SourceConfig(BaseConfig):
    """A source of clips, in one of the formats of data/readers/registry.py."""

    path: NonEmptyStr = Field(
        description="Folder or file, relative to the document; hf:org/name[/config] of the Hub."
    )
    format: SourceFormat | None = Field(
        default=None, description="Format of the source; recognized by its files if empty."
    )
    include: NonEmptyStrList = Field(
        default=("**/*",), description="Patterns of the files to read, such as **/*.wav."
    )
    exclude: NonEmptyStrList = Field(default=(), description="Patterns of the files to leave out.")
    max_files: int | None = Field(
        default=None, ge=1, description="Read at most this many clips; all if empty."
    )
    weight: PositiveFloat = Field(
        default=1.0,
        description="How often its clips come in an epoch: 2 twice, 0.5 every other one.",
    )
    split: NonEmptyStr | None = Field(
        default=None, description="Split to read where there are several, such as train."
    )
    language: NonEmptyStr | None = Field(
        default=None, description="Language spoken in the clips, such as fr."
    )
    task: SourceTask | None = Field(
        default=None, description="transcribe or answer; the format's usual task if empty."
    )
    prompt: NonEmptyStr | None = Field(
        default=None, description="Question to the model about each clip; the base's own if empty."
    )
    columns: Annotated[dict[NonEmptyStr, NonEmptyStr], BeforeValidator(_check_column_names)] = (
        Field(
            default_factory=dict,
            description="Its column for a name of dlm, such as {text: sentence, audio: file}.",
        )
    )
    audio: NonEmptyStr | None = Field(
        default=None, description="Folder of the recordings, where it is not that of the list."
    )
    stream: bool = Field(
        default=False, description="Read it during training, without listing its clips first."
    )


def _normalize_sources(value: object) -> object:
    """Read a path alone as a source, and a single source as a list of one."""
    sources = [value] if isinstance(value, str) else none_to_empty_tuple(value)
    if not isinstance(sources, list | tuple):
        return sources
    return [{"path": source} if isinstance(source, str) else source for source in sources]


SourceList = Annotated[tuple[SourceConfig, ...], Strict(False), BeforeValidator(_normalize_sources)]
