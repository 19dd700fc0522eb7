"""Every number of a run, fixed before its first step, and why.

    Plan
    ├── model      what is loaded, in which format, and what of it learns
    ├── batches    how clips ride together
    ├── training   how it learns
    └── lines      the same, said aloud

Below the verbs nobody sees the whole Plan. How the numbers are chosen is in plan/draw.py.
"""

from dataclasses import dataclass
from typing import Literal

from dlm.plan.bases import Base, Role

AdapterKind = Literal["lora", "dora", "projector", "full"]
Precision = Literal["bf16", "fp32"]
Bits = Literal[4, 8]

LONG_ROW = "cut the clip with start= and end=, or raise training.sequence_len"


@dataclass(frozen=True)
class Adapter:
    """What learns. `where` are roles; `targets` the linear layers LoRA sits on, None for all.

    `bits` are those that the language model's linear layers are held in.
    """

    kind: AdapterKind
    rank: int
    alpha: int
    dropout: float
    where: tuple[Role, ...]
    targets: tuple[str, ...] | None
    bits: Bits | None = None

    @property
    def low_rank(self) -> bool:
        """Whether low-rank weights are added beside the base's own."""
        return self.kind in ("lora", "dora")

    def trains(self, role: Role) -> bool:
        """Whether anything in this part of the model changes."""
        return role in self.where


@dataclass(frozen=True)
class ModelPlan:
    """What is loaded and where it runs; `weights` is the format the frozen part is held in.

    With `checkpointing` each layer is thought through again on the way back, not remembered.
    `device_map` is how the layers are spread over several devices, None for one.
    """

    base: Base
    adapter: Adapter
    device: str
    precision: Precision
    weights: Precision
    seed: int
    checkpointing: bool = False
    device_map: Literal["auto"] | None = None


@dataclass(frozen=True)
class BatchPlan:
    """How clips become rows and rows become steps.

    `heard` when the frozen encoder is cached; `between` when it hears new clips between the steps,
    with all of the cores that it would share with them.
    """

    base: Base
    clips_per_step: int
    clips_per_batch: int
    longest: int  # tokens a row may have
    auto_resample: bool
    most_windows: int | None  # of a sound; the rest is left out
    heard: bool
    between: bool
    seed: int


@dataclass(frozen=True)
class TrainingPlan:
    """How it learns. `rates` maps a role, or a pattern of parameter names, to its learning rate."""

    steps: int
    learning_rate: float
    rates: dict[str, float]
    weight_decay: float
    max_gradient_norm: float
    schedule: Literal["cosine", "linear", "constant"]
    warmup_steps: int
    max_skipped_steps: int
    save_seconds: float
    save_steps: int | None
    precision: Precision
    device: str
    seed: int


@dataclass(frozen=True)
class Line:
    """One number of the plan, said aloud."""

    name: str
    value: str
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """Every number of a run. `together` is how many clips are answered at once in its tests."""

    model: ModelPlan
    batches: BatchPlan
    training: TrainingPlan
    together: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for over the document. None leaves it to the document."""

    steps: int | None = None
    seed: int | None = None
    device: str | None = None
