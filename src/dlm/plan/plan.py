"""Every number of a run, fixed before its first step, and why.

    Plan
    ├── model      what is loaded, in which format, and what of it learns
    ├── batches    how clips ride together
    ├── training   how it learns
    └── lines      the same, said aloud

Below the verbs nobody sees the whole Plan. How the numbers are chosen is in plan/draw.py.
"""

from dataclasses import dataclass, replace
from typing import Literal

from dlm.plan.bases import Base, Role
from dlm.plan.changes import Changes

AdapterKind = Literal["lora", "dora", "projector", "full"]
Learner = Literal["encoder", "projector", "lm", "lora"]
Precision = Literal["bf16", "fp32"]
Bits = Literal[4, 8]

LEARNERS: tuple[Learner, ...] = ("encoder", "projector", "lm", "lora")
LONG_ROW = "cut the clip with start= and end=, or raise training.sequence_len"


@dataclass(frozen=True)
class Adapter:
    """What learns. `where` are roles; `targets` the linear layers LoRA sits on, None for all.

    `bits` are those that the language model's linear layers are held in. Beside all that, the last
    `top_layers` of the language model learn as they are, and the encoder does with `train_encoder`.
    """

    kind: AdapterKind
    rank: int
    alpha: int
    dropout: float
    where: tuple[Role, ...]
    targets: tuple[str, ...] | None
    bits: Bits | None = None
    top_layers: int = 0
    train_encoder: bool = False

    @property
    def whole(self) -> tuple[Role, ...]:
        """The parts whose own weights all learn."""
        own = tuple(role for role in self.where if role not in self.low_rank)
        return ("encoder", *own) if self.train_encoder and "encoder" not in own else own

    @property
    def low_rank(self) -> tuple[Role, ...]:
        """The parts in which low-rank weights learn, beside the base's own."""
        added = self.kind in ("lora", "dora")
        return tuple(role for role in self.where if added and role != "projector")

    @property
    def learners(self) -> tuple[Learner, ...]:
        """What learns, by the names of roles: parts with weights of their own that do, and lora."""
        found: set[Learner] = {*self.whole}
        found |= {"lm"} if self.top_layers else set()
        found |= {"lora"} if self.low_rank else set()
        return tuple(role for role in LEARNERS if role in found)

    def trains(self, role: Role) -> bool:
        """Whether anything in this part of the model changes."""
        return role in (*self.whole, *self.low_rank) or (role == "lm" and self.top_layers > 0)


@dataclass(frozen=True)
class ModelPlan:
    """What is loaded and where it runs; `weights` is the format the frozen part is held in.

    With `checkpointing` each layer is thought through again on the way back, not remembered.
    `device_map` is how the layers are spread over several devices, None for one; `encoder_device`
    is where the encoder stays. What is `exact` is computed in fp32 whatever the precision. `taught`
    when a teacher's words are compared with its own; `afresh` when a frozen encoder hears every
    batch again.
    """

    base: Base
    adapter: Adapter
    device: str
    precision: Precision
    weights: Precision
    seed: int
    checkpointing: bool = False
    device_map: Literal["auto"] | None = None
    taught: bool = False
    encoder_device: Literal["cpu"] | None = None
    exact: tuple[Literal["projector", "lora"], ...] = ()
    lora_init_scale: float = 1.0
    afresh: bool = False


@dataclass(frozen=True)
class BatchPlan:
    """How clips become rows and rows become steps.

    `heard` when the frozen encoder is cached; `read` when a teacher reads along; `skips` when a
    clip that cannot be used is left out, and does not end the run; `changes` are made to the sounds
    in each pass. A batch has `clips_per_batch` rows, and more of them where they are short: up to
    so many tokens, padded, and labels.
    """

    base: Base
    clips_per_step: int
    clips_per_batch: int
    longest: int  # tokens a row may have
    auto_resample: bool
    most_windows: int | None  # of a sound; the rest is left out
    heard: bool
    seed: int
    read: bool = False
    skips: bool = False
    changes: Changes | None = None
    tokens_per_batch: int = 0
    labels_per_batch: int = 0


@dataclass(frozen=True)
class Teaching:
    """How much of the loss the teacher makes up, and what of its answer is compared.

    Answers are flattened by `temperature`; the token that ends a turn weighs `end_weight` times as
    much as all of them besides; `top_k` of the teacher's words are kept.
    """

    weight: float
    temperature: float
    end_weight: float
    top_k: int


@dataclass(frozen=True)
class StagePlan:
    """A stretch of a run: which roles learn in it, and from clips that `clips` patterns choose.

    `heard` while the encoder still is as it was before the run, so that what it hears is cached.
    """

    train: tuple[Learner, ...]
    clips: tuple[str, ...]
    heard: bool
    steps: int
    learning_rate: float
    rates: dict[str, float]
    warmup_steps: int


@dataclass(frozen=True)
class TrainingPlan:
    """How it learns. `rates` maps a role, or a pattern of parameter names, to its learning rate.

    `teacher` is None where nobody but the clips teaches. `train` are the roles that learn, all that
    the adapter holds when empty. Of a run in `stages`, `steps` are those of all of them, and each
    has rates of its own.
    """

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
    optimizer: Literal["adamw", "adam"] = "adamw"
    teacher: Teaching | None = None
    listen_steps: int = 20
    lora_max_gradient_norm: float | None = None
    early_lr_factor: float = 1.0
    early_lr_steps: int = 0
    freeze_projector_steps: int = 0
    train: tuple[Learner, ...] = ()
    stages: tuple[StagePlan, ...] = ()

    @property
    def stretches(self) -> "tuple[TrainingPlan, ...]":
        """Each stage as a plan of its own; without stages the whole run is one."""
        return tuple(
            replace(
                self,
                train=stage.train,
                steps=stage.steps,
                learning_rate=stage.learning_rate,
                rates=stage.rates,
                warmup_steps=stage.warmup_steps,
                stages=(),
            )
            for stage in self.stages
        ) or (self,)


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
