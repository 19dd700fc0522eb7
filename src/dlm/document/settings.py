"""The frontmatter: which fields a document may set, what each means and what it may be.

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
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict
from pydantic.fields import FieldInfo

from dlm.document.intake import Audio
from dlm.document.record import (
    Flag,
    Positive,
    Record,
    Text,
    defaults_when_empty,
    fields_of,
    values_of,
)
from dlm.document.sources import Source, Sources
from dlm.document.stability import Stability
from dlm.document.stages import Stages
from dlm.document.stitching import Stitching, name_or_parts
from dlm.document.teaching import Teacher

NEWEST_VERSION = 15
ULID = r"^[0-9A-HJ-KM-NP-TV-Z]{26}$"

Adapter = Literal["lora", "qlora", "dora", "projector", "full"]
SplitBy = Literal["recording", "speaker", "content"]


def _auto_or_count(value: object) -> object:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be 'auto' or a whole number of at least 1")


def _auto_or_names(value: object) -> object:
    if value == "auto":
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return value
    raise ValueError("must be 'auto' or a list of module names")


def _share_count_or_source(value: object) -> object:
    whole = type(value) is int and value >= 0
    if whole or (type(value) is float and 0 <= value < 1):
        return value or 0.0
    if isinstance(value, str) and value:
        return Source(path=value)
    if isinstance(value, dict):
        return Source.model_validate(value)
    if isinstance(value, Source):
        return value
    raise ValueError("must be a share from 0 up to 1, such as 0.1, a number of clips, or a source")


AutoOrCount = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_count)]
AutoOrNames = Annotated[
    Annotated[tuple[str, ...], Strict(False)] | Literal["auto"], BeforeValidator(_auto_or_names)
]
HeldOut = Annotated[float | int | Source, BeforeValidator(_share_count_or_source)]
Places = Annotated[
    tuple[Literal["lm", "projector", "encoder"], ...], Strict(False), Field(min_length=1)
]


class Lora(Record):
    """Where low-rank weights are placed."""

    where: Places = Field(
        default=("lm",), description="Parts that get low-rank weights: lm, projector, encoder."
    )


class Training(Record):
    """How the model learns."""

    adapter: Annotated[Adapter | None, Flag(("--adapter",), "KIND")] = Field(
        default=None,
        description="How: lora, qlora, dora, projector or full; the base's own if empty.",
    )
    lora_r: Annotated[int, Flag(("--lora-r",), "N")] = Field(
        default=8, ge=1, le=256, description="Rank of the low-rank weights."
    )
    lora_alpha: Annotated[int, Flag(("--lora-alpha",), "N")] = Field(
        default=16,
        ge=1,
        description="Strength of the low-rank weights; they are scaled by alpha/r.",
    )
    lora_dropout: Annotated[float, Flag(("--lora-dropout",), "X")] = Field(
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
    lora: Annotated[Lora, BeforeValidator(defaults_when_empty)] = Field(
        default_factory=Lora, description="Where low-rank weights are placed."
    )
    freeze_encoder: Annotated[bool, Flag(("--freeze-audio-tower",))] = Field(
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
    micro_batch_size: Annotated[AutoOrCount, Flag(("--batch-size",), "N")] = Field(
        default="auto",
        description="Clips in one forward pass; auto fills the memory, with more that are short.",
    )
    grad_accum: Annotated[AutoOrCount, Flag(("--grad-accum",), "N")] = Field(
        default="auto", description="Forward passes in one step; auto completes the batch."
    )
    eval_batch_size: Annotated[int, Flag(("--eval-batch-size",), "N")] = Field(
        default=16, ge=1, description="Clips heard at once when the model is tested."
    )
    learning_rate: Annotated[Positive | None, Flag(("--learning-rate",), "X")] = Field(
        default=None, description="Peak learning rate; the base's own if empty."
    )
    rates: dict[Text, Positive] = Field(
        default_factory=dict,
        description="Learning rates by role (encoder, projector, lm, lora) or parameter pattern.",
    )
    num_epochs: Annotated[int | None, Flag(("--epochs",), "N")] = Field(
        default=None, ge=1, description="Passes over the clips; the base's own if empty."
    )
    steps: int | None = Field(
        default=None, ge=1, description="Steps of the run, instead of passes over the clips."
    )
    optimizer: Literal["adamw", "adam"] = Field(
        default="adamw", description="adam lets the decay pass through its moments, adamw does not."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the trained weights.")
    max_grad_norm: Positive = Field(default=1.0, description="Longer gradients are cut to this.")
    lr_scheduler: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls: cosine, linear, constant."
    )
    warmup_ratio: float = Field(
        default=0.1, ge=0, le=0.5, description="Share of the steps in which the rate rises."
    )
    precision: Annotated[Literal["bf16", "fp32"] | None, Flag(("--precision",), "bf16|fp32")] = (
        Field(
            default=None,
            description="Number format: bf16 or fp32; what the machine does best if empty.",
        )
    )
    teacher: Annotated[Teacher, BeforeValidator(defaults_when_empty)] = Field(
        default_factory=Teacher, description="The language model, reading, as a teacher."
    )
    seed: int = Field(default=42, ge=0, description="Start of every random choice.")
    logging_steps: Annotated[int | None, Flag(("--logging-steps",), "N")] = Field(
        default=None, ge=1, description="Steps from one line of a log to the next; 5 s when empty."
    )
    save_steps: Annotated[int | None, Flag(("--save-steps", "--save-every"), "N")] = Field(
        default=None, ge=1, description="Steps from one saved state to the next; 60 s when empty."
    )
    listen_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps from one listening gap to the next; ten times a long run when empty.",
    )
    train_count: Annotated[int | None, Flag(("--train-count",), "N")] = Field(
        default=None, ge=1, description="Learn from the first so many clips; all when empty."
    )
    held_out: Annotated[HeldOut, Flag(("--eval-count",), "N")] = Field(
        default=0.1,
        description="Clips kept for testing: a share below 1, a number, or a source (or its path).",
    )
    split_by: SplitBy = Field(
        default="recording", description="What stays on one side: recording, speaker or content."
    )
    allow_test_split: Annotated[bool, Flag(("--allow-test-split",))] = Field(
        default=False, description="Learn from the test split of a known benchmark all the same."
    )
    bad_clips: Literal["error", "skip"] | None = Field(
        default=None,
        description="What a clip that cannot be used does; error under 100 clips, skip above.",
    )
    sources: Annotated[Sources, Flag(("--dataset-jsonl",), "PATH")] = Field(
        default=(), description="Folders of clips, or .jsonl, .json or .csv files that list them."
    )
    sources_policy: Literal["permissive", "strict"] = Field(
        default="permissive",
        description="strict keeps sources inside the document's folder; permissive does not.",
    )
    audio: Annotated[Audio, BeforeValidator(defaults_when_empty)] = Field(
        default_factory=Audio, description="How recordings are taken in."
    )
    stages: Stages = Field(
        default=(), description="Stretches of the run, each with what learns in it."
    )
    stability: Annotated[Stability, BeforeValidator(defaults_when_empty)] = Field(
        default_factory=Stability,
        description="What keeps a run from breaking, and what it endures.",
    )

    @property
    def streamed(self) -> bool:
        """Whether sources are read row by row as they are learned: all are, if one is to be."""
        return any(source.stream for source in self.sources)


class Settings(Record):
    """Everything between the `---` lines."""

    dlm_id: str = Field(pattern=ULID, description="The document's own ULID, written by dlm init.")
    dlm_version: int = Field(
        default=1, ge=1, le=NEWEST_VERSION, description="Version of the format, 1 to 15."
    )
    base_model: Annotated[
        str | Stitching,
        BeforeValidator(name_or_parts),
        Flag(("--model-checkpoint",), "BASE|PATH"),
    ] = Field(description="The base: a catalogue key, hf:org/name or a local folder; or its parts.")
    system_prompt: str | None = Field(
        default=None, description="What the model is told before every conversation."
    )
    training: Annotated[Training, BeforeValidator(defaults_when_empty)] = Field(
        default_factory=Training, description="How the model learns."
    )


def every_field() -> Iterator[tuple[str, FieldInfo]]:
    """Every field by its dotted name, such as `training.lora.where`, in the order documented."""
    return fields_of(Settings)


def every_value() -> Iterator[tuple[str, FieldInfo]]:
    """Every field that holds a value of its own, by its dotted name: groups are passed through."""
    return values_of(Settings)
