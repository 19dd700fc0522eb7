"""The planner: chooses every number of a run once, before its first step.

    requested    the command line over the document over the defaults of the model
    available    the hardware: device, fast number format, memory, disk
    derived      micro batch size, gradient checkpointing, steps, stages

What is requested is never changed silently: it is used, or refused with a hint about what fits.
"""

from collections.abc import Mapping
from typing import Any, Literal

from dlm.config.schema import DistillationConfig, TrainingConfig
from dlm.errors import PlanError, UsageError
from dlm.plan.adapter import plan_adapter
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.fit_table import (
    LARGE_MODEL_BATCH_SIZE,
    choose_frozen_dtype,
    estimate_min_memory,
    is_large_model,
    suggest_alternatives,
)
from dlm.plan.hardware import Hardware, choose_device, format_bytes
from dlm.plan.memory import (
    choose_batch_size,
    choose_eval_batch_size,
    count_trainable_parameters,
    estimate_memory,
    estimate_sequence_lengths,
)
from dlm.plan.model_spec import ModelSpec
from dlm.plan.schedule import choose_audio_gap_steps, plan_stages
from dlm.plan.types import (
    AdapterSpec,
    AugmentationSpec,
    BatchPlan,
    CliOverrides,
    DistillationPlan,
    ModelPlan,
    Plan,
    Precision,
    SequenceLengths,
    TrainingPlan,
    TrainSetInfo,
)

DEFAULT_BATCH_SIZE = 8  # examples of a step: small sets are learned best in many small steps
SAVE_INTERVAL_SECONDS = 60.0  # a killed run loses at most this much work
MAX_COPIED_BYTES = 4 << 30  # recordings that take more in all are not copied into the store
BYTES_PER_WRITTEN_PARAMETER = 4 * (3 + 3 + 1)  # fp32: a checkpoint, its successor, the version
NO_OVERRIDES = CliOverrides()


def make_plan(
    config: TrainingConfig,
    spec: ModelSpec,
    train_set: TrainSetInfo,
    hardware: Hardware,
    *,
    cli_overrides: CliOverrides = NO_OVERRIDES,
    field_overrides: Mapping[str, Any] | None = None,
    augmentation: AugmentationSpec | None = None,
) -> Plan:
    """Choose every number of a run.

    Args:
        config: what is asked for.
        spec: the base model, whose defaults fill what `config` leaves open.
        train_set: size of the training set and of its longest sequence.
        hardware: what it runs on.
        cli_overrides: what the command line gives besides fields of the document.
        field_overrides: the fields it gives, already in `config`; for the summary.
        augmentation: what every epoch changes of the audio.

    Raises:
        UsageError: an override is impossible (`usage.out_of_range`, `usage.steps_with_stages`).
        PlanError: the requests contradict each other, or the run does not fit (`plan.*`).
    """
    _check_overrides(config, cli_overrides)
    lengths = train_set.lengths or estimate_sequence_lengths(spec, config.sequence_len)
    model, micro_batch_size = _fit_to_memory(
        config,
        _plan_model(config, spec, hardware, cli_overrides, augmentation),
        lengths,
        hardware,
        train_set.num_examples,
    )
    batches = _plan_batches(config, model, lengths, micro_batch_size, train_set, augmentation)
    total_bytes, _ = hardware.get_memory_budget(model.device, all_gpus=model.device_map is not None)
    plan = Plan(
        config=config,
        train_set=train_set,
        model=model,
        batches=batches,
        training=_plan_training(config, cli_overrides, model, batches, train_set),
        lengths=lengths,
        memory=estimate_memory(model, lengths, micro_batch_size),
        eval_batch_size=choose_eval_batch_size(model, lengths, config.eval_batch_size, total_bytes),
        copy_recordings=not config.uses_streaming and train_set.recording_bytes <= MAX_COPIED_BYTES,
        field_overrides=field_overrides or {},
    )
    written_bytes = estimate_disk_bytes(plan)
    if written_bytes > hardware.free_disk:
        raise PlanError(
            f"the run writes about {format_bytes(written_bytes)} "
            f"and {format_bytes(hardware.free_disk)} are free",
            hint="free some, or set DLM_HOME to a folder on a larger disk",
            code="plan.disk_too_small",
        )
    return plan


def estimate_disk_bytes(plan: Plan) -> int:
    """Estimate the bytes a run writes: two checkpoints, the version and copies of recordings."""
    copied_bytes = plan.train_set.recording_bytes if plan.copy_recordings else 0
    return count_trainable_parameters(plan.model) * BYTES_PER_WRITTEN_PARAMETER + copied_bytes


def _check_overrides(config: TrainingConfig, cli_overrides: CliOverrides) -> None:
    limits = (("steps", cli_overrides.steps, 1), ("seed", cli_overrides.seed, 0))
    for name, value, minimum in limits:
        if value is not None and value < minimum:
            hint = f"use {minimum} or more"
            raise UsageError(f"{name} is {value}", hint=hint, code="usage.out_of_range")
    if config.stages and cli_overrides.steps:
        what, hint = "--steps is for a run without stages", "set the steps of training.stages"
        raise UsageError(what, hint=hint, code="usage.steps_with_stages")


def _plan_model(
    config: TrainingConfig,
    spec: ModelSpec,
    hardware: Hardware,
    cli_overrides: CliOverrides,
    augmentation: AugmentationSpec | None,
) -> ModelPlan:
    device = choose_device(cli_overrides.device, hardware)
    precision = _choose_precision(config, hardware, device)
    adapter = plan_adapter(config, spec)
    _check_device_options(config, spec)
    fp32_modules: tuple[tuple[bool, Literal["projector", "lora"]], ...] = (
        (config.stability.projector_fp32, "projector"),
        (config.stability.lora_fp32, "lora"),
    )
    changes_every_epoch = augmentation is not None or config.uses_streaming
    return ModelPlan(
        spec=spec,
        adapter=adapter,
        device=device,
        precision=precision,
        weights_dtype=choose_frozen_dtype(adapter, precision),
        seed=config.seed if cli_overrides.seed is None else cli_overrides.seed,
        device_map=config.device_map,
        encoder_device=config.stability.encoder_device,
        fp32_modules=tuple(name for is_fp32, name in fp32_modules if is_fp32),
        lora_init_scale=config.stability.lora_init_scale,
        distill=_plan_distillation(config.teacher, spec, adapter) is not None,
        encode_every_step=changes_every_epoch and not adapter.is_trainable("encoder"),
    )


def _check_device_options(config: TrainingConfig, spec: ModelSpec) -> None:
    """A pretrained model is spread over devices as a whole, a composed one by its components."""
    if config.device_map and spec.kind == "stitched":
        what = f"training.device_map spreads a released model, and {spec.key} is small"
        raise PlanError(what, hint="take the field out", code="plan.device_map_of_composed")
    if config.stability.encoder_device and spec.kind == "native":
        what = f"training.stability.encoder_device needs a composed base, and {spec.key} is not one"
        hint = "take it out, or use device_map: auto"
        raise PlanError(what, hint=hint, code="plan.encoder_device_of_pretrained")


def _choose_precision(config: TrainingConfig, hardware: Hardware, device: str) -> Precision:
    if config.precision is not None:
        return config.precision
    has_fast_bf16 = hardware.gpus[0].bf16 if device == "cuda" else hardware.bf16
    return "bf16" if has_fast_bf16 else "fp32"


def _plan_distillation(
    config: DistillationConfig, spec: ModelSpec, adapter: AdapterSpec
) -> DistillationPlan | None:
    """How the loss compares with the teacher; None without one."""
    if not config.weight:
        return None
    hint = "take training.teacher out"
    if "lm" in adapter.trainable_groups:
        what = "training.teacher is the language model before training, and its weights change"
        hint = f"use adapter: lora or projector, or {hint}"
        raise PlanError(what, hint=hint, code="plan.teacher_is_trained")
    if spec.chat_format == "asr":
        what = f"training.teacher reads transcripts, and {spec.key} only transcribes"
        raise PlanError(what, hint=hint, code="plan.teacher_cannot_read")
    return DistillationPlan(config.weight, config.temperature, config.end_weight, config.top_k)


def _fit_to_memory(
    config: TrainingConfig,
    model_plan: ModelPlan,
    lengths: SequenceLengths,
    hardware: Hardware,
    num_examples: int,
) -> tuple[ModelPlan, int]:
    """The model plan with or without gradient checkpointing, and the micro batch size that fits.

    The choice depends on all of the memory, not on what is free, so that a run can be resumed
    while other processes use some of it.
    """
    total_bytes, free_bytes = hardware.get_memory_budget(
        model_plan.device, all_gpus=model_plan.device_map is not None
    )
    requested = config.gradient_checkpointing
    fitting = choose_batch_size(
        model_plan,
        lengths,
        _list_batch_sizes(config, model_plan.spec, num_examples),
        total_bytes,
        gradient_checkpointing=None if requested == "auto" else requested,
    )
    if fitting:
        required_bytes = estimate_memory(fitting[0], lengths, fitting[1]).total
    else:
        required_bytes = estimate_min_memory(model_plan, lengths)
    if fitting and required_bytes <= free_bytes:
        return fitting
    alternatives = suggest_alternatives(model_plan, lengths, free_bytes)
    raise PlanError(
        f"training needs about {format_bytes(required_bytes)} of memory "
        f"and {format_bytes(free_bytes)} are free",
        hint=f"what fits: {alternatives}"
        if alternatives
        else "use a larger machine: no base fits this one",
        code="plan.memory_too_small",
    )


def _list_batch_sizes(
    config: TrainingConfig, spec: ModelSpec, num_examples: int
) -> tuple[int, ...]:
    """Micro batch sizes to try, largest first."""
    if config.micro_batch_size != "auto":
        return (config.micro_batch_size,)
    largest = _choose_default_batch_size(config, spec, num_examples)
    if is_large_model(spec) and config.grad_accum == "auto":
        largest = min(LARGE_MODEL_BATCH_SIZE, max(num_examples, 1))
    return tuple(largest >> halvings for halvings in range(largest.bit_length()))


def _choose_default_batch_size(config: TrainingConfig, spec: ModelSpec, num_examples: int) -> int:
    """The micro batch size of a device with unlimited memory."""
    if config.micro_batch_size != "auto":
        return config.micro_batch_size
    return 1 if is_large_model(spec) else min(DEFAULT_BATCH_SIZE, max(num_examples, 1))


def _plan_batches(
    config: TrainingConfig,
    model_plan: ModelPlan,
    lengths: SequenceLengths,
    micro_batch_size: int,
    train_set: TrainSetInfo,
    augmentation: AugmentationSpec | None,
) -> BatchPlan:
    default_size = _choose_default_batch_size(config, model_plan.spec, train_set.num_examples)
    grad_accum = config.grad_accum
    if grad_accum == "auto":
        is_large = is_large_model(model_plan.spec)
        grad_accum = ceil_div(LARGE_MODEL_BATCH_SIZE, default_size) if is_large else 1
    use_cached_features = not (
        model_plan.encode_every_step or model_plan.adapter.is_trainable("encoder")
    )
    # an encoder takes as much memory for a short segment where it pads each to its window
    fills_batches = use_cached_features and config.micro_batch_size == "auto"
    num_filled_sequences = micro_batch_size if fills_batches else 0
    max_tokens = config.sequence_len
    if model_plan.spec.chat_format == "whisper":  # its decoder has no positions past the context
        max_tokens = min(max_tokens, model_plan.spec.context_length)
    return BatchPlan(
        spec=model_plan.spec,
        global_batch_size=min(default_size * grad_accum, max(train_set.num_examples, 1)),
        micro_batch_size=micro_batch_size,
        max_tokens=max_tokens,
        auto_resample=config.audio.auto_resample,
        max_windows=config.audio.max_windows,
        use_cached_features=use_cached_features,
        seed=model_plan.seed,
        distill=model_plan.distill,
        skip_bad_examples=train_set.skip_bad_examples,
        augmentation=augmentation,
        max_batch_tokens=num_filled_sequences * lengths.num_tokens,
        max_batch_labels=num_filled_sequences * lengths.num_labels,
    )


def _plan_training(
    config: TrainingConfig,
    cli_overrides: CliOverrides,
    model_plan: ModelPlan,
    batch_plan: BatchPlan,
    train_set: TrainSetInfo,
) -> TrainingPlan:
    spec, batch_size = model_plan.spec, batch_plan.global_batch_size
    steps = cli_overrides.steps or config.steps
    if config.uses_streaming and not (steps or config.stages):
        what, hint = "a stream has no known number of clips", "set training.steps, or give --steps"
        raise PlanError(what, hint=hint, code="plan.stream_without_steps")
    epochs = config.num_epochs or spec.default_epochs
    steps = steps or epochs * ceil_div(train_set.num_examples, batch_size)
    learning_rate = config.learning_rate or spec.default_learning_rate
    stages = plan_stages(config, model_plan, batch_plan, train_set, learning_rate=learning_rate)
    _check_ctc(config, spec, model_plan.adapter)
    num_steps = sum(stage.num_steps for stage in stages) or steps
    return TrainingPlan(
        num_steps=num_steps,
        learning_rate=learning_rate,
        learning_rates=dict(config.rates),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler=config.lr_scheduler,
        warmup_steps=round(steps * config.warmup_ratio),
        max_skipped_steps=config.stability.max_skipped_steps,
        save_interval_seconds=SAVE_INTERVAL_SECONDS,
        save_steps=config.save_steps,
        precision=model_plan.precision,
        device=model_plan.device,
        seed=model_plan.seed,
        optimizer=config.optimizer,
        distillation=_plan_distillation(config.teacher, spec, model_plan.adapter),
        audio_gap_steps=config.listen_steps or choose_audio_gap_steps(num_steps, batch_size),
        lora_max_grad_norm=config.stability.lora_max_grad_norm,
        early_lr_factor=config.stability.early_lr_factor,
        early_lr_steps=config.stability.early_lr_steps,
        freeze_projector_steps=config.stability.freeze_projector_steps,
        ctc_weight=config.ctc_weight,
        stages=stages,
    )


def _check_ctc(config: TrainingConfig, spec: ModelSpec, adapter: AdapterSpec) -> None:
    """Refuse CTC where there is nothing for it, and CTC alone where it reaches no gradient."""
    weights = [
        config.ctc_weight if stage.ctc_weight is None else stage.ctc_weight
        for stage in config.stages
    ] or [config.ctc_weight]
    if not any(weights):
        return
    if spec.kind == "native":
        what = f"training.ctc_weight teaches a new projector, and {spec.key} has its own"
        raise PlanError(what, hint="take it out", code="plan.ctc_of_pretrained")
    if config.uses_streaming:
        what = "training.ctc_weight needs the tokens of all transcripts, and a stream is not read"
        raise PlanError(what, hint="take it out", code="plan.ctc_of_stream")
    trained = [stage.train for stage in config.stages] or [adapter.trainable_groups]
    for number, (weight, groups) in enumerate(zip(weights, trained, strict=True), start=1):
        others = [group for group in groups if group in ("lm", "lora")]
        if weight == 1 and others:
            where = f"stage {number}" if config.stages else "the run"
            what = f"{where} trains {', '.join(others)}, which CTC alone does not reach"
            hint = "train the projector alone in it, or set a ctc_weight below 1"
            raise PlanError(what, hint=hint, code="plan.ctc_alone")
