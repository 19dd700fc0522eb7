"""Which fields keep a run from breaking, and what a run endures before it stops.

They are those of system C, a Qwen3 that was taught to hear: what joins two models learns from
nothing, and is the first to overflow.

Which fields a stage has: a stretch of the run in which some parts learn from some clips.

Which fields a teacher has: the language model itself, which reads what the student hears.

The frontmatter: which fields a document may set, what each means and what it may be.

Settings
├── base_model  a name, or Stitching
└── training    Training
    ├── lora        Lora
    ├── sources     Source, ...
    ├── audio       Audio
    ├── stages      Stage, ...
    ├── teacher     Teacher
    └── stability   Stability
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, Strict, model_validator
from pydantic.fields import FieldInfo

from dlm.config.base_model import (
    BaseConfig,
    CliOption,
    NonEmptyStr,
    NonEmptyStrList,
    PositiveFloat,
    iter_fields,
    iter_value_fields,
    none_to_empty_dict,
    none_to_empty_tuple,
)
from dlm.config.data_schema import AudioConfig, SourceConfig, SourceList
from dlm.config.model_schema import ComposedModelConfig, parse_base_model


class StabilityConfig(BaseConfig):
    """What keeps a run from breaking, and what it endures before it stops."""

    max_skipped_steps: int = Field(
        default=5, ge=1, description="Stop after this many steps skipped for non-finite numbers."
    )
    projector_fp32: bool = Field(
        default=False, description="Compute the projector in fp32, whatever the precision."
    )
    lora_fp32: bool = Field(
        default=False, description="Compute low-rank weights in fp32, whatever the precision."
    )
    lora_init_scale: PositiveFloat = Field(
        default=1.0, description="Low-rank weights start this many times as large as usual."
    )
    lora_max_grad_norm: PositiveFloat | None = Field(
        default=None,
        description="Longer gradients of low-rank weights are cut to this, on their own.",
    )
    early_lr_factor: PositiveFloat = Field(
        default=0.1, le=1, description="What rates are multiplied by in the early steps."
    )
    early_lr_steps: int = Field(
        default=0, ge=0, description="How many steps are early, of the run or of each stage."
    )
    freeze_projector_steps: int = Field(
        default=0, ge=0, description="Steps that the projector waits, of the run or of each stage."
    )
    encoder_device: Literal["cpu"] | None = Field(
        default=None, description="cpu keeps the encoder there, wherever the rest runs."
    )


StageComponent = Literal["projector", "lm", "lora", "encoder"]
StageComponents = Annotated[tuple[StageComponent, ...], Strict(False), Field(min_length=1)]


class StageConfig(BaseConfig):
    """A stretch of the run: of what the adapter holds, the parts that learn, and from what."""

    train: StageComponents = Field(
        description="What learns, of what the adapter holds: projector, lm, lora, encoder."
    )
    clips: NonEmptyStrList = Field(
        default=(),
        description="Patterns of the places, recordings or tasks of its clips; all when empty.",
    )
    steps: int | None = Field(default=None, ge=1, description="How many steps it takes.")
    epochs: int | None = Field(
        default=None, ge=1, description="Passes over its clips; training.num_epochs when empty."
    )
    learning_rate: PositiveFloat | None = Field(
        default=None, description="Peak learning rate; training.learning_rate when empty."
    )
    rates: dict[NonEmptyStr, PositiveFloat] = Field(
        default_factory=dict, description="Learning rates by role or parameter pattern."
    )

    @model_validator(mode="after")
    def _check_one_duration(self) -> Self:
        if self.steps and self.epochs:
            raise ValueError("steps and epochs exclude each other")
        return self


StageList = Annotated[tuple[StageConfig, ...], Strict(False), BeforeValidator(none_to_empty_tuple)]


class DistillationConfig(BaseConfig):
    """What the language model answers to the words of a sound, and how much of it is learned.

    Temperature and the weight of the end are those of Ultravox (Fixie 2024).
    """

    weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the loss that the language model's own answer to the transcript "
        "makes up: 0 is no teacher, 1 the teacher alone.",
    )
    temperature: PositiveFloat = Field(
        default=2.0, description="Both answers are flattened by this before they are compared."
    )
    end_weight: float = Field(
        default=1.0,
        ge=0,
        description="What the token that ends a turn weighs besides, against all of them together.",
    )
    top_k: int = Field(
        default=64,
        ge=1,
        description="How many of the teacher's likeliest words are kept; all others are one.",
    )


LATEST_FORMAT_VERSION = 15
ULID_PATTERN = r"^[0-9A-HJ-KM-NP-TV-Z]{26}$"

AdapterType = Literal["lora", "qlora", "dora", "projector", "full"]
SplitBy = Literal["recording", "speaker", "content"]


def _check_auto_or_count(value: object) -> object:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be 'auto' or a whole number of at least 1")


def _check_auto_or_names(value: object) -> object:
    if value == "auto":
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return value
    raise ValueError("must be 'auto' or a list of module names")


def _parse_held_out(value: object) -> object:
    whole = type(value) is int and value >= 0
    if whole or (type(value) is float and 0 <= value < 1):
        return value or 0.0
    if isinstance(value, str) and value:
        return SourceConfig(path=value)
    if isinstance(value, dict):
        return SourceConfig.model_validate(value)
    if isinstance(value, SourceConfig):
        return value
    raise ValueError("must be a share from 0 up to 1, such as 0.1, a number of clips, or a source")


AutoOrCount = Annotated[int | Literal["auto"], BeforeValidator(_check_auto_or_count)]
AutoOrNames = Annotated[
    Annotated[tuple[str, ...], Strict(False)] | Literal["auto"],
    BeforeValidator(_check_auto_or_names),
]
HeldOut = Annotated[float | int | SourceConfig, BeforeValidator(_parse_held_out)]
LoraComponents = Annotated[
    tuple[Literal["lm", "projector", "encoder"], ...], Strict(False), Field(min_length=1)
]


class LoraTargets(BaseConfig):
    """Where low-rank weights are placed."""

    where: LoraComponents = Field(
        default=("lm",), description="Parts that get low-rank weights: lm, projector, encoder."
    )


class TrainingConfig(BaseConfig):
    """How the model learns."""

    adapter: Annotated[AdapterType | None, CliOption(("--adapter",), "KIND")] = Field(
        default=None,
        description="How: lora, qlora, dora, projector or full; the base's own if empty.",
    )
    lora_r: Annotated[int, CliOption(("--lora-r",), "N")] = Field(
        default=8, ge=1, le=256, description="Rank of the low-rank weights."
    )
    lora_alpha: Annotated[int, CliOption(("--lora-alpha",), "N")] = Field(
        default=16,
        ge=1,
        description="Strength of the low-rank weights; they are scaled by alpha/r.",
    )
    lora_dropout: Annotated[float, CliOption(("--lora-dropout",), "X")] = Field(
        default=0.05, ge=0, le=0.5, description="Share of low-rank inputs dropped in training."
    )
    bits: Literal[4, 8] | None = Field(
        default=None, description="Bits of the frozen weights under qlora: 4 or 8; 4 if empty."
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto",
        description="Save memory by thinking twice: auto does where a batch would not fit.",
    )
    device_map: Literal["auto"] | None = Field(
        default=None, description="auto spreads a released model over all accelerators."
    )
    lora: Annotated[LoraTargets, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=LoraTargets, description="Where low-rank weights are placed."
    )
    freeze_encoder: Annotated[bool, CliOption(("--freeze-audio-tower",))] = Field(
        default=False, description="Leave the encoder as it is, whatever else learns."
    )
    train_encoder: bool = Field(
        default=False, description="Let the encoder's own weights learn, beside the adapter."
    )
    top_layers: int = Field(
        default=0,
        ge=0,
        description="Let so many last layers of the language model learn as they are.",
    )
    target_modules: AutoOrNames = Field(
        default="auto", description="Modules that get low-rank weights, by name; auto chooses."
    )
    sequence_len: int = Field(
        default=2048, ge=64, le=32768, description="Longest row, in tokens of text and sound."
    )
    micro_batch_size: Annotated[AutoOrCount, CliOption(("--batch-size",), "N")] = Field(
        default="auto",
        description="Clips in one forward pass; auto fills the memory, with more that are short.",
    )
    grad_accum: Annotated[AutoOrCount, CliOption(("--grad-accum",), "N")] = Field(
        default="auto", description="Forward passes in one step; auto completes the batch."
    )
    eval_batch_size: Annotated[int, CliOption(("--eval-batch-size",), "N")] = Field(
        default=16, ge=1, description="Clips heard at once when the model is tested."
    )
    learning_rate: Annotated[PositiveFloat | None, CliOption(("--learning-rate",), "X")] = Field(
        default=None, description="Peak learning rate; the base's own if empty."
    )
    rates: dict[NonEmptyStr, PositiveFloat] = Field(
        default_factory=dict,
        description="Learning rates by role (encoder, projector, lm, lora) or parameter pattern.",
    )
    num_epochs: Annotated[int | None, CliOption(("--epochs",), "N")] = Field(
        default=None, ge=1, description="Passes over the clips; the base's own if empty."
    )
    steps: int | None = Field(
        default=None, ge=1, description="Steps of the run, instead of passes over the clips."
    )
    optimizer: Literal["adamw", "adam"] = Field(
        default="adamw", description="adam lets the decay pass through its moments, adamw does not."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the trained weights.")
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="Longer gradients are cut to this."
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls: cosine, linear, constant."
    )
    warmup_ratio: float = Field(
        default=0.1, ge=0, le=0.5, description="Share of the steps in which the rate rises."
    )
    precision: Annotated[
        Literal["bf16", "fp32"] | None, CliOption(("--precision",), "bf16|fp32")
    ] = Field(
        default=None,
        description="Number format: bf16 or fp32; what the machine does best if empty.",
    )
    teacher: Annotated[DistillationConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=DistillationConfig, description="The language model, reading, as a teacher."
    )
    seed: int = Field(default=42, ge=0, description="Start of every random choice.")
    logging_steps: Annotated[int | None, CliOption(("--logging-steps",), "N")] = Field(
        default=None, ge=1, description="Steps from one line of a log to the next; 5 s when empty."
    )
    save_steps: Annotated[int | None, CliOption(("--save-steps", "--save-every"), "N")] = Field(
        default=None, ge=1, description="Steps from one saved state to the next; 60 s when empty."
    )
    listen_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps from one listening gap to the next; ten times a long run when empty.",
    )
    train_count: Annotated[int | None, CliOption(("--train-count",), "N")] = Field(
        default=None, ge=1, description="Learn from the first so many clips; all when empty."
    )
    held_out: Annotated[HeldOut, CliOption(("--eval-count",), "N")] = Field(
        default=0.1,
        description="Clips kept for testing: a share below 1, a number, or a source (or its path).",
    )
    split_by: SplitBy = Field(
        default="recording", description="What stays on one side: recording, speaker or content."
    )
    allow_test_split: Annotated[bool, CliOption(("--allow-test-split",))] = Field(
        default=False, description="Learn from the test split of a known benchmark all the same."
    )
    bad_clips: Literal["error", "skip"] | None = Field(
        default=None,
        description="What a clip that cannot be used does; error under 100 clips, skip above.",
    )
    sources: Annotated[SourceList, CliOption(("--dataset-jsonl",), "PATH")] = Field(
        default=(), description="Folders of clips, or .jsonl, .json or .csv files that list them."
    )
    sources_policy: Literal["permissive", "strict"] = Field(
        default="permissive",
        description="strict keeps sources inside the document's folder; permissive does not.",
    )
    audio: Annotated[AudioConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=AudioConfig, description="How recordings are taken in."
    )
    stages: StageList = Field(
        default=(), description="Stretches of the run, each with what learns in it."
    )
    stability: Annotated[StabilityConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=StabilityConfig,
        description="What keeps a run from breaking, and what it endures.",
    )

    @property
    def uses_streaming(self) -> bool:
        """Whether sources are read row by row as they are learned: all are, if one is to be."""
        return any(source.stream for source in self.sources)


class DlmConfig(BaseConfig):
    """Everything between the `---` lines."""

    dlm_id: str = Field(
        pattern=ULID_PATTERN, description="The document's own ULID, written by dlm init."
    )
    dlm_version: int = Field(
        default=1, ge=1, le=LATEST_FORMAT_VERSION, description="Version of the format, 1 to 15."
    )
    base_model: Annotated[
        str | ComposedModelConfig,
        BeforeValidator(parse_base_model),
        CliOption(("--model-checkpoint",), "BASE|PATH"),
    ] = Field(description="The base: a catalogue key, hf:org/name or a local folder; or its parts.")
    system_prompt: str | None = Field(
        default=None, description="What the model is told before every conversation."
    )
    training: Annotated[TrainingConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=TrainingConfig, description="How the model learns."
    )


def iter_config_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every field by its dotted name, such as `training.lora.where`, in the order documented."""
    return iter_fields(DlmConfig)


def iter_config_values() -> Iterator[tuple[str, FieldInfo]]:
    """Every field that holds a value of its own, by its dotted name: groups are passed through."""
    return iter_value_fields(DlmConfig)
