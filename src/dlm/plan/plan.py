"""Every number of a run, fixed before its first step, and why.

    Plan
    ├── model      what is loaded, in which format, and what of it learns
    ├── batches    how clips ride together
    ├── training   how it learns
    └── lines      the same, said aloud

Below the verbs nobody sees the whole Plan.
"""

from dataclasses import dataclass
from typing import Literal

from dlm.document.document import Document
from dlm.document.settings import Training
from dlm.errors import PlanError, UsageError
from dlm.plan.bases import Base, Role
from dlm.plan.frames import ceil_div
from dlm.plan.hardware import Machine

AdapterKind = Literal["lora", "dora", "projector", "full"]
Precision = Literal["bf16", "fp32"]

CLIPS_PER_STEP = 8  # small sets learn best from many small steps
SAVE_SECONDS = 60.0  # a killed run loses at most this much work
LARGE = 300_000_000  # parameters from which frozen weights are held in bf16
ADAM_BYTES = 12  # per trainable parameter: gradient and two moments, fp32
MATRICES = 7  # linear maps in one layer of a language model
GIB = 1 << 30


@dataclass(frozen=True)
class Adapter:
    """What learns. `where` are roles; `targets` the linear layers LoRA sits on, None for all."""

    kind: AdapterKind
    rank: int
    alpha: int
    dropout: float
    where: tuple[Role, ...]
    targets: tuple[str, ...] | None

    def trains(self, role: Role) -> bool:
        """Whether anything in this part of the model changes."""
        return self.kind == "full" or role in self.where


@dataclass(frozen=True)
class ModelPlan:
    """What is loaded and where it runs; `weights` is the format the frozen part is held in."""

    base: Base
    adapter: Adapter
    device: str
    precision: Precision
    weights: Precision
    seed: int


@dataclass(frozen=True)
class BatchPlan:
    """How clips become rows and rows become steps; `heard` when the frozen encoder is cached."""

    base: Base
    clips_per_step: int
    clips_per_batch: int
    longest: int  # tokens a row may have
    auto_resample: bool
    most_windows: int | None  # of a sound; the rest is left out
    heard: bool
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
    """Every number of a run."""

    model: ModelPlan
    batches: BatchPlan
    training: TrainingPlan
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for over the document. None leaves it to the document."""

    steps: int | None = None
    epochs: int | None = None
    seed: int | None = None
    device: str | None = None
    save_steps: int | None = None


def draw_up(
    document: Document, base: Base, clips: int, machine: Machine, *, wishes: Wishes | None = None
) -> Plan:
    """Fix every number for learning from `clips` clips.

    Raises PlanError when it cannot fit, UsageError for a wish that cannot be.
    """
    wishes = _sensible(wishes or Wishes())
    asked = document.settings.training
    seed = asked.seed if wishes.seed is None else wishes.seed
    device = device_of(wishes.device, machine)
    precision, why = _precision(asked, machine, device)
    adapter = _adapter(asked, base)
    large = base.sizes.parameters > LARGE and adapter.kind != "full" and precision == "bf16"
    model = ModelPlan(base, adapter, device, precision, "bf16" if large else "fp32", seed)
    batches = _batches(asked, model, clips)
    training = _training(asked, wishes, model, ceil_div(clips, batches.clips_per_step))
    _fits(memory_bytes(model), machine, device)
    return Plan(model, batches, training, _aloud(model, batches, training, clips, why))


def memory_bytes(model: ModelPlan) -> int:
    """Bytes that weights, gradients and optimiser state take, without activations."""
    held = model.base.sizes.parameters * (4 if model.weights == "fp32" else 2)
    return held + trainable(model) * (ADAM_BYTES if model.adapter.kind == "full" else 16)


def disk_bytes(plan: Plan) -> int:
    """Bytes that a run writes: the resumable state, its successor and the version."""
    return trainable(plan.model) * 4 * (3 + 3 + 1)


def check_disk(plan: Plan, audio_bytes: int, machine: Machine) -> None:
    """Raise PlanError when the run and a copy of its recordings do not fit on the disk."""
    need = disk_bytes(plan) + audio_bytes
    if need > machine.free_disk:
        raise PlanError(
            f"the run writes about {need / GIB:.1f} GiB and {machine.free_disk / GIB:.1f} are free",
            mend="free some, or set DLM_HOME to a folder on a larger disk",
        )


def trainable(model: ModelPlan) -> int:
    """About how many parameters learn."""
    base, adapter = model.base, model.adapter
    if adapter.kind == "full":
        return base.sizes.parameters
    if adapter.kind == "projector":
        return base.sizes.projector
    lm = base.sizes.lm
    return 4 * adapter.rank * lm.width * MATRICES * lm.layers * len(adapter.where)


def device_of(asked: str | None, machine: Machine) -> str:
    """Where the model runs: what was asked for, or the fastest there is."""
    device = asked or machine.device
    if device not in ("cpu", "cuda"):
        raise PlanError(f"unknown device '{device}'", mend="use cpu or cuda")
    if device == "cuda" and not machine.gpus:
        raise PlanError("this machine has no CUDA device", mend="use --device cpu")
    return device


def _sensible(wishes: Wishes) -> Wishes:
    """The wishes, when each can be."""
    least = {"steps": 1, "epochs": 1, "save_steps": 1, "seed": 0}
    for name, most in least.items():
        asked: int | None = vars(wishes)[name]
        if asked is not None and asked < most:
            raise UsageError(f"{name} is {asked}", mend=f"use {most} or more")
    return wishes


def _precision(asked: Training, machine: Machine, device: str) -> tuple[Precision, str]:
    if asked.precision is not None:
        return asked.precision, "the document asks for it"
    fast = machine.gpus[0].bf16 if device == "cuda" else machine.bf16
    if fast:
        return "bf16", "this machine multiplies bf16 fast"
    return "fp32", "this machine has no fast bf16"


def _adapter(asked: Training, base: Base) -> Adapter:
    kind: AdapterKind = asked.adapter or base.adapter
    where: tuple[Role, ...] = asked.lora.where
    if kind == "full":
        where = ("encoder", "projector", "lm")
    elif kind == "projector":
        where = ("projector",)
    targets = None if asked.target_modules == "auto" else asked.target_modules
    return Adapter(kind, asked.lora_r, asked.lora_alpha, asked.lora_dropout, where, targets)


def _batches(asked: Training, model: ModelPlan, clips: int) -> BatchPlan:
    large = model.base.sizes.parameters > LARGE
    default = 1 if large else min(CLIPS_PER_STEP, max(clips, 1))
    micro = default if asked.micro_batch_size == "auto" else asked.micro_batch_size
    accumulate = asked.grad_accum
    if accumulate == "auto":
        accumulate = 4 if large else 1
    return BatchPlan(
        base=model.base,
        clips_per_step=min(micro * accumulate, max(clips, 1)),
        clips_per_batch=micro,
        longest=asked.sequence_len,
        auto_resample=asked.audio.auto_resample,
        most_windows=1 if asked.audio.long_clips == "truncate" else None,
        heard=not model.adapter.trains("encoder"),
        seed=model.seed,
    )


def _training(
    asked: Training, wishes: Wishes, model: ModelPlan, steps_per_epoch: int
) -> TrainingPlan:
    epochs = wishes.epochs or asked.num_epochs or model.base.epochs  # none of them is 0
    steps = wishes.steps or epochs * steps_per_epoch
    return TrainingPlan(
        steps=steps,
        learning_rate=asked.learning_rate or model.base.learning_rate,
        rates=dict(asked.rates),
        weight_decay=asked.weight_decay,
        max_gradient_norm=asked.max_grad_norm,
        schedule=asked.lr_scheduler,
        warmup_steps=round(steps * asked.warmup_ratio),
        max_skipped_steps=asked.stability.max_skipped_steps,
        save_seconds=SAVE_SECONDS,
        save_steps=wishes.save_steps,
        precision=model.precision,
        device=model.device,
        seed=model.seed,
    )


def _fits(need: int, machine: Machine, device: str) -> None:
    free = machine.gpus[0].free if device == "cuda" else machine.free_memory
    if need > free:
        raise PlanError(
            f"training needs about {need / GIB:.1f} GiB of memory and {free / GIB:.1f} are free",
            mend="use a smaller base (base_model: sparrow), or adapter: lora, or a larger machine",
        )


def _aloud(
    model: ModelPlan, batches: BatchPlan, training: TrainingPlan, clips: int, why: str
) -> tuple[Line, ...]:
    adapter = model.adapter
    lora = f", rank {adapter.rank}" if adapter.kind in ("lora", "dora") else ""
    epochs = training.steps * batches.clips_per_step / max(clips, 1)
    return (
        Line("base", f"{model.base.key}, {_millions(model.base.sizes.parameters)} parameters"),
        Line("learns", f"{adapter.kind}{lora} on {', '.join(adapter.where)}"),
        Line("device", f"{model.device}, {model.precision}", why),
        Line("memory", f"about {_size(memory_bytes(model))}", "and the activations"),
        Line(
            "batch",
            f"{batches.clips_per_step} clips a step",
            f"at most {batches.clips_per_batch} at once",
        ),
        Line("steps", f"{training.steps:,}", f"{epochs:.1f} times over {clips:,} clips"),
        Line("rate", f"{training.learning_rate:g}", f"{training.schedule}, {_warm(training)}"),
        Line("seed", str(model.seed)),
    )


def _warm(training: TrainingPlan) -> str:
    steps = training.warmup_steps
    return f"{steps} step{'s' * (steps > 1)} of warm-up" if steps else "no warm-up"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"
