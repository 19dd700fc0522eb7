"""The fields of the frontmatter: types, defaults, limits, descriptions, command-line options.

    DlmConfig
    ├── base_model  a name, or ComposedModelConfig (model_schema.py)
    └── training    TrainingConfig
        ├── lora        LoraTargets
        ├── sources     SourceConfig, ... (data_schema.py)
        ├── audio       AudioConfig (data_schema.py)
        ├── stages      StageConfig, ...
        ├── teacher     DistillationConfig
        └── stability   StabilityConfig

docs/document.md has the table of all fields, made from the descriptions.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, Strict, model_validator
from pydantic.fields import FieldInfo

from dlm.config.base_config import (
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

LATEST_FORMAT_VERSION = 15
ULID_PATTERN = r"^[0-9A-HJ-KM-NP-TV-Z]{26}$"

AdapterType = Literal["lora", "qlora", "dora", "projector", "full"]
SplitBy = Literal["recording", "speaker", "content"]
StageComponent = Literal["projector", "lm", "lora", "encoder"]


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
    is_count = type(value) is int and value >= 0
    if is_count or (type(value) is float and 0 <= value < 1):
        return value or 0.0
    if isinstance(value, SourceConfig):
        return value
    if isinstance(value, dict) or (isinstance(value, str) and value):
        return SourceConfig.model_validate(value if isinstance(value, dict) else {"path": value})
    raise ValueError(
        "must be a fraction from 0 to below 1, such as 0.1, a number of clips, or a source"
    )


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
    """The components that get LoRA weights."""

    where: LoraComponents = Field(
        default=("lm",), description="Components that get LoRA weights: lm, projector, encoder."
    )


class StageConfig(BaseConfig):
    """A stage of the run: what is trained in it, on which clips, for how long."""

    train: Annotated[tuple[StageComponent, ...], Strict(False), Field(min_length=1)] = Field(
        description="What is trained, of what the adapter holds: projector, lm, lora, encoder."
    )
    clips: NonEmptyStrList = Field(
        default=(),
        description="Patterns of the locations, recordings or tasks of its clips; all if empty.",
    )
    steps: int | None = Field(default=None, ge=1, description="Number of steps.")
    epochs: int | None = Field(
        default=None, ge=1, description="Passes over its clips; training.num_epochs if empty."
    )
    learning_rate: PositiveFloat | None = Field(
        default=None, description="Peak learning rate; training.learning_rate if empty."
    )
    rates: dict[NonEmptyStr, PositiveFloat] = Field(
        default_factory=dict, description="Learning rates by component or parameter pattern."
    )
    ctc_weight: float | None = Field(
        default=None, ge=0, le=1, description="Weight of CTC; training.ctc_weight if empty."
    )

    @model_validator(mode="after")
    def _check_one_duration(self) -> Self:
        if self.steps and self.epochs:
            raise ValueError("steps and epochs exclude each other")
        return self


class DistillationConfig(BaseConfig):
    """Distillation from the language model reading the transcript to the model hearing the audio.

    The temperature and the weight of the end token are those of Ultravox (Fixie 2024).
    """

    weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight of the distillation loss; the loss on the labels has the rest. "
        "0 turns distillation off.",
    )
    temperature: PositiveFloat = Field(
        default=2.0, description="Temperature of both distributions in the distillation loss."
    )
    end_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the end-of-turn token's loss beside the mean over the others.",
    )
    top_k: int = Field(
        default=64,
        ge=1,
        description="Number of the teacher's most likely tokens; the others are added up as one.",
    )


class StabilityConfig(BaseConfig):
    """Fields against non-finite losses and diverging training."""

    max_skipped_steps: int = Field(
        default=5, ge=1, description="Stop after this many steps skipped for non-finite numbers."
    )
    projector_fp32: bool = Field(
        default=False, description="Compute the projector in fp32, whatever the precision."
    )
    lora_fp32: bool = Field(
        default=False, description="Compute LoRA weights in fp32, whatever the precision."
    )
    lora_init_scale: PositiveFloat = Field(
        default=1.0, description="Factor on the usual size of LoRA weights at the start."
    )
    lora_max_grad_norm: PositiveFloat | None = Field(
        default=None, description="Clip the norm of the gradients of LoRA weights to this."
    )
    early_lr_factor: PositiveFloat = Field(
        default=0.1, le=1, description="Factor on learning rates in the early steps."
    )
    early_lr_steps: int = Field(
        default=0, ge=0, description="Number of early steps, of the run or of each stage."
    )
    freeze_projector_steps: int = Field(
        default=0,
        ge=0,
        description="Steps in which the projector is frozen, of the run or of each stage.",
    )
    encoder_device: Literal["cpu"] | None = Field(
        default=None, description="cpu runs the encoder there, wherever the rest runs."
    )


class TrainingConfig(BaseConfig):
    """How the model is trained."""

    adapter: Annotated[AdapterType | None, CliOption(("--adapter",), "KIND")] = Field(
        default=None,
        description="What is trained: lora, qlora, dora, projector or full; the base's own if "
        "empty.",
    )
    lora_r: Annotated[int, CliOption(("--lora-r",), "N")] = Field(
        default=8, ge=1, le=256, description="Rank of LoRA weights."
    )
    lora_alpha: Annotated[int, CliOption(("--lora-alpha",), "N")] = Field(
        default=16, ge=1, description="Strength of LoRA weights, which are scaled by alpha/r."
    )
    lora_dropout: Annotated[float, CliOption(("--lora-dropout",), "X")] = Field(
        default=0.05, ge=0, le=0.5, description="Dropout of the inputs of LoRA weights."
    )
    bits: Literal[4, 8] | None = Field(
        default=None, description="Bits of the frozen weights with qlora: 4 or 8; 4 if empty."
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto",
        description="Compute activations twice to save memory; auto does where memory is short.",
    )
    device_map: Literal["auto"] | None = Field(
        default=None, description="auto spreads a released model over all accelerators."
    )
    lora: Annotated[LoraTargets, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=LoraTargets, description="Components that get LoRA weights."
    )
    freeze_encoder: Annotated[bool, CliOption(("--freeze-audio-tower",))] = Field(
        default=False, description="Freeze the encoder, whatever else is trained."
    )
    train_encoder: bool = Field(
        default=False, description="Train the encoder's own weights, beside the adapter."
    )
    top_layers: int = Field(
        default=0, ge=0, description="Train this many last layers of the language model in full."
    )
    target_modules: AutoOrNames = Field(
        default="auto", description="Names of the modules that get LoRA weights; auto chooses."
    )
    sequence_len: int = Field(
        default=2048, ge=64, le=32768, description="Longest sequence, in tokens of text and audio."
    )
    micro_batch_size: Annotated[AutoOrCount, CliOption(("--batch-size",), "N")] = Field(
        default="auto",
        description="Clips in one forward pass; auto fills the memory, with more that are short.",
    )
    grad_accum: Annotated[AutoOrCount, CliOption(("--grad-accum",), "N")] = Field(
        default="auto", description="Forward passes in one step; auto completes the batch."
    )
    eval_batch_size: Annotated[int, CliOption(("--eval-batch-size",), "N")] = Field(
        default=16, ge=1, description="Clips in one batch of an evaluation."
    )
    learning_rate: Annotated[PositiveFloat | None, CliOption(("--learning-rate",), "X")] = Field(
        default=None, description="Peak learning rate; the base's own if empty."
    )
    rates: dict[NonEmptyStr, PositiveFloat] = Field(
        default_factory=dict,
        description="Learning rates by component (encoder, projector, lm, lora) or parameter "
        "pattern.",
    )
    num_epochs: Annotated[int | None, CliOption(("--epochs",), "N")] = Field(
        default=None, ge=1, description="Passes over the clips; the base's own if empty."
    )
    steps: int | None = Field(
        default=None, ge=1, description="Number of steps, instead of passes over the clips."
    )
    optimizer: Literal["adamw", "adam"] = Field(
        default="adamw",
        description="adamw decays weights directly, adam through the gradient's moments.",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the trained weights.")
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="Clip the norm of the gradients to this."
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls: cosine, linear, constant."
    )
    warmup_ratio: float = Field(
        default=0.1, ge=0, le=0.5, description="Fraction of the steps in which the rate rises."
    )
    precision: Annotated[
        Literal["bf16", "fp32"] | None, CliOption(("--precision",), "bf16|fp32")
    ] = Field(
        default=None,
        description="Number format: bf16 or fp32; the faster one on this machine if empty.",
    )
    teacher: Annotated[DistillationConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=DistillationConfig,
        description="Distillation from the language model reading the transcripts.",
    )
    ctc_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight of a CTC loss between audio embeddings and the tokens of transcripts; "
        "with 1 the language model is not run.",
    )
    seed: int = Field(default=42, ge=0, description="Seed of every random choice.")
    logging_steps: Annotated[int | None, CliOption(("--logging-steps",), "N")] = Field(
        default=None, ge=1, description="Steps from one line of the log to the next; 5 s if empty."
    )
    save_steps: Annotated[int | None, CliOption(("--save-steps", "--save-every"), "N")] = Field(
        default=None, ge=1, description="Steps from one checkpoint to the next; 60 s if empty."
    )
    listen_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps from one listening gap to the next; ten in a long run if empty.",
    )
    train_count: Annotated[int | None, CliOption(("--train-count",), "N")] = Field(
        default=None, ge=1, description="Train on this many clips, the first ones; all if empty."
    )
    held_out: Annotated[HeldOut, CliOption(("--eval-count",), "N")] = Field(
        default=0.1,
        description="Clips held out to evaluate on: a fraction below 1, a number, or a source "
        "(or its path).",
    )
    split_by: SplitBy = Field(
        default="recording",
        description="What is never on both sides of the split: recording, speaker or content.",
    )
    allow_test_split: Annotated[bool, CliOption(("--allow-test-split",))] = Field(
        default=False, description="Allow training on the test split of a known benchmark."
    )
    bad_clips: Literal["error", "skip"] | None = Field(
        default=None,
        description="What to do with unusable clips; if empty, error under 100 clips, else skip.",
    )
    sources: Annotated[SourceList, CliOption(("--dataset-jsonl",), "PATH")] = Field(
        default=(), description="Folders of clips, or .jsonl, .json or .csv files that list them."
    )
    sources_policy: Literal["permissive", "strict"] = Field(
        default="permissive",
        description="strict allows only sources and recordings inside the document's folder.",
    )
    audio: Annotated[AudioConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=AudioConfig, description="How recordings are read."
    )
    stages: Annotated[
        tuple[StageConfig, ...], Strict(False), BeforeValidator(none_to_empty_tuple)
    ] = Field(default=(), description="Stages of the run, each with what is trained in it.")
    stability: Annotated[StabilityConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=StabilityConfig,
        description="Fields against non-finite losses and diverging training.",
    )

    @property
    def uses_streaming(self) -> bool:
        """Whether sources are read during training; all are, where one asks for it."""
        return any(source.stream for source in self.sources)


class DlmConfig(BaseConfig):
    """The whole frontmatter."""

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
    ] = Field(
        description="The base: a catalogue key, hf:org/name or a local folder; or its components."
    )
    system_prompt: str | None = Field(
        default=None, description="System message at the start of every conversation."
    )
    training: Annotated[TrainingConfig, BeforeValidator(none_to_empty_dict)] = Field(
        default_factory=TrainingConfig, description="How the model is trained."
    )


def iter_config_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field of the frontmatter with its dotted name, in the documented order."""
    return iter_fields(DlmConfig)


def iter_config_values() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field of the frontmatter that holds a value, with its dotted name."""
    return iter_value_fields(DlmConfig)
