"""The records of a plan: every number of a run, fixed before its first step.

    Plan
    ├── config     what the document and the command line ask for
    ├── train_set  TrainSetInfo: the size of the training set and of its longest sequence
    ├── model      ModelPlan: what is loaded, in which number format, and what of it is trained
    ├── batches    BatchPlan: batch sizes, limits in tokens, augmentation
    ├── training   TrainingPlan: steps, learning rates, stages, distillation
    └── memory     MemoryEstimate: bytes of the device

plan/planner.py computes them, plan/summary.py describes them. Also here: how long a segment becomes
when augmentation changes its speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dlm.config.data_schema import Codec
from dlm.config.schema import TrainingConfig
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.model_spec import ComponentName, ModelSpec

FloatRange = tuple[float, float]
AdapterKind = Literal["lora", "dora", "projector", "full"]
ParamGroup = Literal["encoder", "projector", "lm", "lora"]
Precision = Literal["bf16", "fp32"]
Bits = Literal[4, 8]

PARAM_GROUPS: tuple[ParamGroup, ...] = ("encoder", "projector", "lm", "lora")
ONE_WINDOW_HINT = (
    "cut the clip with start= and end=, or set training.audio.long_clips: truncate;"
    " `dlm transcribe` takes any length"
)
TOO_LONG_HINT = "cut the clip with start= and end=, or raise training.sequence_len"


@dataclass(frozen=True)
class SpecAugmentMasks:
    """Masks of a log-mel, in time or in frequency (SpecAugment, Park et al. 2019).

    Attributes:
        num_masks: masks of each window.
        max_width: widest mask, in frames or in mel bins.
        max_fraction: largest part of the window that one mask may cover.
    """

    num_masks: int
    max_width: int
    max_fraction: float = 1.0


@dataclass(frozen=True)
class AugmentationSpec:
    """What an epoch changes of its audio; None and 0 change nothing.

    Attributes:
        probability: of a segment to be changed at all.
        speed_percent: slowest and fastest speed.
        reverb_probability: of a simulated room.
        rt60_seconds: shortest and longest reverberation time of a room.
        noise_source: "synthetic", or the folder of noise as the document has it.
        noise_sha256: hash of the names and durations of its recordings.
        snr_db: lowest and highest signal-to-noise ratio.
        gain_db: lowest and highest gain.
        codecs: one of them is applied.
        time_masks: masks in time.
        frequency_masks: masks in frequency.
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
        """Return the most samples a segment may become."""
        speed_percent = self.speed_percent[0] if self.speed_percent else 100
        return compute_stretched_length(num_samples, speed_percent, window_samples)


def compute_effective_speed(num_samples: int, speed_percent: int, window_samples: int) -> int:
    """Return the speed in percent at which a segment is played.

    A segment that fits into one encoder window is slowed until it fills the window, no further.
    """
    if num_samples > window_samples:
        return speed_percent
    return max(speed_percent, ceil_div(100 * num_samples, window_samples))


def compute_stretched_length(num_samples: int, speed_percent: int, window_samples: int) -> int:
    """Return the samples of a segment after a change of its speed."""
    effective_percent = compute_effective_speed(num_samples, speed_percent, window_samples)
    return ceil_div(100 * num_samples, effective_percent)


@dataclass(frozen=True)
class AdapterSpec:
    """What is trained.

    Attributes:
        kind: LoRA or DoRA weights, the projector, or all weights.
        rank: of LoRA weights.
        alpha: their scale is alpha / rank.
        dropout: of their inputs.
        components: parts of the model that are trained.
        target_modules: linear layers with LoRA weights; None for all.
        bits: of the language model's quantized linear layers; None without quantization.
        top_layers: last layers of the language model whose own weights are trained.
        train_encoder: whether the encoder's own weights are trained.
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
        """The components whose own weights are all trained."""
        own = tuple(name for name in self.components if name not in self.lora_components)
        return ("encoder", *own) if self.train_encoder and "encoder" not in own else own

    @property
    def lora_components(self) -> tuple[ComponentName, ...]:
        """The components with LoRA weights."""
        has_lora = self.kind in ("lora", "dora")
        return tuple(name for name in self.components if has_lora and name != "projector")

    @property
    def trainable_groups(self) -> tuple[ParamGroup, ...]:
        """The parameter groups that are trained: components with their own weights, and LoRA."""
        groups: set[ParamGroup] = {*self.fully_trained_components}
        groups |= {"lm"} if self.top_layers else set()
        groups |= {"lora"} if self.lora_components else set()
        return tuple(group for group in PARAM_GROUPS if group in groups)

    def is_trainable(self, component: ComponentName) -> bool:
        """Return whether anything in a component is trained."""
        return component in (*self.fully_trained_components, *self.lora_components) or (
            component == "lm" and self.top_layers > 0
        )


@dataclass(frozen=True)
class ModelPlan:
    """What is loaded, where and how it runs.

    Attributes:
        spec: the base model.
        adapter: what of it is trained.
        device: "cpu" or "cuda".
        precision: number format of the forward pass.
        weights_dtype: number format of frozen weights.
        seed: of new weights.
        gradient_checkpointing: whether activations are recomputed in the backward pass.
        device_map: "auto" spreads the layers over all GPUs; None is one device.
        distill: whether the loss compares with a teacher.
        encoder_device: "cpu" keeps the encoder there; None is `device`.
        fp32_modules: what runs in fp32 whatever the precision.
        lora_init_scale: factor of the initial LoRA weights.
        encode_every_step: whether a frozen encoder runs in every step, without a cache.
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
    """How examples become batches, and batches become steps.

    Attributes:
        spec: the base model.
        global_batch_size: examples of a step.
        micro_batch_size: examples of a batch; more where they are short, up to the last two limits.
        max_tokens: tokens of an example's sequence.
        auto_resample: whether recordings at other sample rates are converted.
        max_windows: encoder windows of a segment, the rest is truncated; None for no limit.
        use_cached_features: whether the frozen encoder's output is cached.
        seed: of the order of examples.
        distill: whether examples are encoded for a teacher too.
        skip_bad_examples: whether an example that cannot be used is left out.
        augmentation: what every epoch changes; None for nothing.
        max_batch_tokens: padded tokens of a batch; 0 for no more examples than micro_batch_size.
        max_batch_labels: padded label tokens of a batch.
    """

    spec: ModelSpec
    global_batch_size: int
    micro_batch_size: int
    max_tokens: int
    auto_resample: bool
    max_windows: int | None
    use_cached_features: bool
    seed: int
    distill: bool = False
    skip_bad_examples: bool = False
    augmentation: AugmentationSpec | None = None
    max_batch_tokens: int = 0
    max_batch_labels: int = 0


@dataclass(frozen=True)
class DistillationPlan:
    """How the loss compares with a teacher, the language model that reads the transcript.

    Attributes:
        weight: of the divergence in the loss, from 0 to 1.
        temperature: that both distributions are divided by.
        eos_weight: of the token that ends a turn, relative to all other tokens together.
        top_k: the teacher's most probable tokens that are compared one by one.
    """

    weight: float
    temperature: float
    eos_weight: float
    top_k: int


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run.

    Attributes:
        trainable_groups: parameter groups that are trained in it.
        example_patterns: of the locations, recordings or tasks of its examples; all when empty.
        use_cached_features: whether the encoder is still the released one, so that it is cached.
        num_steps: steps of the stage.
        learning_rate: peak learning rate.
        learning_rates: by parameter group or pattern of parameter names.
        warmup_steps: steps of linear warm-up.
        ctc_weight: of CTC in the loss of transcripts.
    """

    trainable_groups: tuple[ParamGroup, ...]
    example_patterns: tuple[str, ...]
    use_cached_features: bool
    num_steps: int
    learning_rate: float
    learning_rates: dict[str, float]
    warmup_steps: int
    ctc_weight: float = 0.0


@dataclass(frozen=True)
class TrainingPlan:
    """How the model is trained.

    Attributes:
        num_steps: optimizer steps, of all stages together.
        learning_rate: peak learning rate.
        learning_rates: by parameter group or pattern of parameter names.
        weight_decay: of matrices.
        max_grad_norm: larger gradients are scaled down to it.
        lr_scheduler: how the rate falls after warm-up.
        warmup_steps: steps of linear warm-up.
        max_skipped_steps: consecutive skipped steps that end the run.
        save_interval_seconds: between two checkpoints.
        save_steps: between two checkpoints, instead of seconds.
        precision: number format of the forward pass.
        device: "cpu" or "cuda".
        seed: of dropout.
        optimizer: AdamW or Adam.
        distillation: None without a teacher.
        audio_gap_steps: between two measurements of the listening gap.
        lora_max_grad_norm: of LoRA weights by themselves; None to scale all gradients together.
        early_lr_factor: of learning rates in the early steps.
        early_lr_steps: early steps, of the run or of each stage.
        freeze_projector_steps: steps before the projector is trained, of the run or each stage.
        trainable_groups: parameter groups that are trained; all of the adapter's when empty.
        ctc_weight: of CTC in the loss of transcripts; the loss on labels has the rest.
        stages: each with steps and rates of its own; empty for a run without stages.
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
    ctc_weight: float = 0.0
    stages: tuple[StagePlan, ...] = ()

    @property
    def stage_training_plans(self) -> "tuple[TrainingPlan, ...]":
        """Each stage as a training plan; a run without stages is one."""
        return tuple(
            replace(
                self,
                trainable_groups=stage.trainable_groups,
                num_steps=stage.num_steps,
                learning_rate=stage.learning_rate,
                learning_rates=stage.learning_rates,
                warmup_steps=stage.warmup_steps,
                ctc_weight=stage.ctc_weight,
                stages=(),
            )
            for stage in self.stages
        ) or (self,)


@dataclass(frozen=True)
class SequenceLengths:
    """Upper bounds of a sequence, in tokens.

    Attributes:
        num_tokens: all tokens.
        num_audio_tokens: placeholders among them.
        num_labels: tokens that carry loss among them.
    """

    num_tokens: int
    num_audio_tokens: int
    num_labels: int


@dataclass(frozen=True)
class TrainSetInfo:
    """What a plan needs to know about the examples to train on.

    Attributes:
        num_examples: examples of an epoch; of a stream, those that were read to look at.
        lengths: bounds of its sequences; None for those of a typical example.
        num_stage_examples: examples of an epoch of each stage.
        weight_groups: weight, number of examples, number of them in an epoch; for each weight.
        recording_bytes: of the recordings; 0 for a stream.
        num_scanned_examples: of a stream: examples that were read, held-out ones included.
        skip_bad_examples: whether an example that cannot be used is left out.
        template_changes: what is done to conversations that the chat template refuses.
    """

    num_examples: int
    lengths: SequenceLengths | None = None
    num_stage_examples: tuple[int, ...] = ()
    weight_groups: tuple[tuple[float, int, int], ...] = ()
    recording_bytes: int = 0
    num_scanned_examples: int = 0
    skip_bad_examples: bool = False
    template_changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of the device's memory.

    Attributes:
        frozen: weights that are not trained, in their own format.
        trainable: weights that are, in fp32, with gradients and both moments of Adam.
        activations: what the forward pass keeps for the backward pass.
        runtime: what the device's library takes.
    """

    frozen: int
    trainable: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.frozen + self.trainable + self.activations + self.runtime


@dataclass(frozen=True)
class CliOverrides:
    """What the command line gives over the document; None leaves it to the document."""

    steps: int | None = None
    seed: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class Plan:
    """Every number of a run.

    Attributes:
        config: what was asked for, the overrides of fields included.
        train_set: what the numbers were computed from.
        model: what is loaded.
        batches: how examples are batched.
        training: how the model is trained.
        lengths: the sequence that memory is reserved for.
        memory: the estimate for it.
        eval_batch_size: examples that are generated at once when the model is tested.
        copy_recordings: whether recordings are copied into the store.
        field_overrides: fields of the document that the command line sets, by dotted name.
    """

    config: TrainingConfig
    train_set: TrainSetInfo
    model: ModelPlan
    batches: BatchPlan
    training: TrainingPlan
    lengths: SequenceLengths
    memory: MemoryEstimate
    eval_batch_size: int
    copy_recordings: bool
    field_overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SummaryLine:
    """One line of a plan's summary: `name  value (why)`."""

    name: str
    value: str
    why: str = ""
