"""What is changed of a sound on its way in, in numbers, and how long it may become.

A speed is in whole percent. A clip that a base hears at once is never slowed so far that it is not:
it becomes as long as the window, and no longer.

Every number of a run, fixed before its first step, and why.

    Plan
    ├── model      what is loaded, in which format, and what of it learns
    ├── batches    how clips ride together
    ├── training   how it learns
    └── lines      the same, said aloud

Below the verbs nobody sees the whole Plan. How the numbers are chosen is in plan/draw.py.

Whether the language model can be its own teacher, and how it is said.
"""

from dataclasses import dataclass, replace
from typing import Literal

from dlm.config.data_schema import Codec
from dlm.config.schema import DistillationConfig
from dlm.errors import PlanError
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.model_spec import ComponentName, ModelSpec

FloatRange = tuple[float, float]


@dataclass(frozen=True)
class SpecAugmentMasks:
    """How many stretches or bands of a mel are masked, the `widest` in frames or bins.

    None takes more than the share `most` of what there is.
    """

    num_masks: int
    max_width: int
    max_fraction: float = 1.0


@dataclass(frozen=True)
class AugmentationSpec:
    """What a pass changes of a `share` of its clips; None is left as it is.

    `noise` is synthetic, or the folder as the author wrote it; `noise_sha256` is of what it holds.
    """

    probability: float
    speed_percent: tuple[int, int] | None = None
    reverb_probability: float = 0.0
    rt60_seconds: FloatRange = (0.0, 0.0)
    noise_source: str | None = None
    noise_sha256: str | None = None
    snr_db: FloatRange = (0.0, 0.0)
    gain_db: FloatRange | None = None
    codecs: tuple[Codec, ...] = ()
    time_masks: SpecAugmentMasks | None = None
    frequency_masks: SpecAugmentMasks | None = None

    def compute_max_samples(self, num_samples: int, window_samples: int) -> int:
        """The most samples that so many may become."""
        return compute_stretched_length(
            num_samples, self.speed_percent[0] if self.speed_percent else 100, window_samples
        )


def compute_effective_speed(num_samples: int, speed_percent: int, window_samples: int) -> int:
    """The speed that a clip is played at, in percent, if `percent` is wanted."""
    return (
        max(speed_percent, ceil_div(100 * num_samples, window_samples))
        if num_samples <= window_samples
        else speed_percent
    )


def compute_stretched_length(num_samples: int, speed_percent: int, window_samples: int) -> int:
    """How many samples a clip has once it is played at that speed."""
    return ceil_div(
        100 * num_samples, compute_effective_speed(num_samples, speed_percent, window_samples)
    )


AdapterKind = Literal["lora", "dora", "projector", "full"]
ParamGroup = Literal["encoder", "projector", "lm", "lora"]
Precision = Literal["bf16", "fp32"]
Bits = Literal[4, 8]

PARAM_GROUPS: tuple[ParamGroup, ...] = ("encoder", "projector", "lm", "lora")
TOO_LONG_HINT = "cut the clip with start= and end=, or raise training.sequence_len"


@dataclass(frozen=True)
class AdapterSpec:
    """What learns. `where` are roles; `targets` the linear layers LoRA sits on, None for all.

    `bits` are those that the language model's linear layers are held in. Beside all that, the last
    `top_layers` of the language model learn as they are, and the encoder does with `train_encoder`.
    """

    kind: AdapterKind
    rank: int
    alpha: int
    dropout: float
    components: tuple[ComponentName, ...]
    target_modules: tuple[str, ...] | None
    bits: Bits | None = None
    top_layers: int = 0
    train_encoder: bool = False

    @property
    def fully_trained_components(self) -> tuple[ComponentName, ...]:
        """The parts whose own weights all learn."""
        own = tuple(role for role in self.components if role not in self.lora_components)
        return ("encoder", *own) if self.train_encoder and "encoder" not in own else own

    @property
    def lora_components(self) -> tuple[ComponentName, ...]:
        """The parts in which low-rank weights learn, beside the base's own."""
        added = self.kind in ("lora", "dora")
        return tuple(role for role in self.components if added and role != "projector")

    @property
    def trainable_groups(self) -> tuple[ParamGroup, ...]:
        """What learns, by the names of roles: parts with weights of their own that do, and lora."""
        found: set[ParamGroup] = {*self.fully_trained_components}
        found |= {"lm"} if self.top_layers else set()
        found |= {"lora"} if self.lora_components else set()
        return tuple(role for role in PARAM_GROUPS if role in found)

    def is_trainable(self, component: ComponentName) -> bool:
        """Whether anything in this part of the model changes."""
        return component in (*self.fully_trained_components, *self.lora_components) or (
            component == "lm" and self.top_layers > 0
        )


@dataclass(frozen=True)
class ModelPlan:
    """What is loaded and where it runs; `weights` is the format the frozen part is held in.

    With `checkpointing` each layer is thought through again on the way back, not remembered.
    `device_map` is how the layers are spread over several devices, None for one; `encoder_device`
    is where the encoder stays. What is `exact` is computed in fp32 whatever the precision. `taught`
    when a teacher's words are compared with its own; `afresh` when a frozen encoder hears every
    batch again.
    """

    spec: ModelSpec
    adapter: AdapterSpec
    device: str
    precision: Precision
    weights_dtype: Precision
    seed: int
    gradient_checkpointing: bool = False
    device_map: Literal["auto"] | None = None
    distill: bool = False
    encoder_device: Literal["cpu"] | None = None
    fp32_modules: tuple[Literal["projector", "lora"], ...] = ()
    lora_init_scale: float = 1.0
    encode_every_step: bool = False


@dataclass(frozen=True)
class BatchPlan:
    """How clips become rows and rows become steps.

    `heard` when the frozen encoder is cached; `read` when a teacher reads along; `skips` when a
    clip that cannot be used is left out, and does not end the run; `changes` are made to the sounds
    in each pass. A batch has `clips_per_batch` rows, and more of them where they are short: up to
    so many tokens, padded, and labels.
    """

    spec: ModelSpec
    global_batch_size: int
    micro_batch_size: int
    max_tokens: int  # tokens a row may have
    auto_resample: bool
    max_windows: int | None  # of a sound; the rest is left out
    use_cached_features: bool
    seed: int
    distill: bool = False
    skip_bad_examples: bool = False
    augmentation: AugmentationSpec | None = None
    max_batch_tokens: int = 0
    max_batch_labels: int = 0


@dataclass(frozen=True)
class DistillationPlan:
    """How much of the loss the teacher makes up, and what of its answer is compared.

    Answers are flattened by `temperature`; the token that ends a turn weighs `end_weight` times as
    much as all of them besides; `top_k` of the teacher's words are kept.
    """

    weight: float
    temperature: float
    eos_weight: float
    top_k: int


@dataclass(frozen=True)
class StagePlan:
    """A stretch of a run: which roles learn in it, and from clips that `clips` patterns choose.

    `heard` while the encoder still is as it was before the run, so that what it hears is cached.
    """

    trainable_groups: tuple[ParamGroup, ...]
    example_patterns: tuple[str, ...]
    use_cached_features: bool
    num_steps: int
    learning_rate: float
    learning_rates: dict[str, float]
    warmup_steps: int


@dataclass(frozen=True)
class TrainingPlan:
    """How it learns. `rates` maps a role, or a pattern of parameter names, to its learning rate.

    `teacher` is None where nobody but the clips teaches. `train` are the roles that learn, all that
    the adapter holds when empty. Of a run in `stages`, `steps` are those of all of them, and each
    has rates of its own.
    """

    num_steps: int
    learning_rate: float
    learning_rates: dict[str, float]
    weight_decay: float
    max_grad_norm: float
    lr_scheduler: Literal["cosine", "linear", "constant"]
    warmup_steps: int
    max_skipped_steps: int
    save_interval_seconds: float
    save_steps: int | None
    precision: Precision
    device: str
    seed: int
    optimizer: Literal["adamw", "adam"] = "adamw"
    distillation: DistillationPlan | None = None
    audio_gap_steps: int = 20
    lora_max_grad_norm: float | None = None
    early_lr_factor: float = 1.0
    early_lr_steps: int = 0
    freeze_projector_steps: int = 0
    trainable_groups: tuple[ParamGroup, ...] = ()
    stages: tuple[StagePlan, ...] = ()

    @property
    def stage_training_plans(self) -> "tuple[TrainingPlan, ...]":
        """Each stage as a plan of its own; without stages the whole run is one."""
        return tuple(
            replace(
                self,
                trainable_groups=stage.trainable_groups,
                num_steps=stage.num_steps,
                learning_rate=stage.learning_rate,
                learning_rates=stage.learning_rates,
                warmup_steps=stage.warmup_steps,
                stages=(),
            )
            for stage in self.stages
        ) or (self,)


@dataclass(frozen=True)
class SummaryLine:
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
    eval_batch_size: int
    summary: tuple[SummaryLine, ...]


@dataclass(frozen=True)
class CliOverrides:
    """What the command line asks for over the document. None leaves it to the document."""

    steps: int | None = None
    seed: int | None = None
    device: str | None = None


DISABLE_TEACHER_HINT = "take training.teacher out"


def plan_distillation(
    config: DistillationConfig, spec: ModelSpec, adapter: AdapterSpec
) -> DistillationPlan | None:
    """How the teacher is heard, None without one. Raises PlanError where there can be none."""
    if not config.weight:
        return None
    if "lm" in adapter.trainable_groups:
        what = "training.teacher is the language model as it was, and it changes itself"
        raise PlanError(what, hint=f"use adapter: lora or projector, or {DISABLE_TEACHER_HINT}")
    if spec.chat_format == "asr":
        raise PlanError(
            f"training.teacher reads, and {spec.key} only transcribes", hint=DISABLE_TEACHER_HINT
        )
    return DistillationPlan(config.weight, config.temperature, config.end_weight, config.top_k)


def summarize_distillation(distillation: DistillationPlan | None) -> tuple[SummaryLine, ...]:
    """The teacher's line of the plan."""
    if distillation is None:
        return ()
    how = f"its {distillation.top_k} likeliest words at temperature {distillation.temperature:g}"
    return (SummaryLine("teacher", f"{distillation.weight:.0%} of the loss", how),)
