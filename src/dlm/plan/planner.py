"""Drawing up a plan: which number is chosen, from what, and how it is said.

    what is asked    the command line over the document over the base
    what there is    the machine: its device, its formats, its memory
    what follows     rows at once, gradient checkpointing, steps

What is asked is never changed in silence: it is kept, or refused with what would fit.
"""

from dataclasses import replace
from typing import Literal

from dlm.config.parser import Document
from dlm.config.schema import TrainingConfig
from dlm.errors import PlanError, UsageError
from dlm.plan.adapter import plan_adapter
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.augmentation import plan_augmentation, summarize_augmentation
from dlm.plan.fit_table import (
    LARGE_MODEL_BATCH_SIZE,
    choose_frozen_dtype,
    estimate_min_memory,
    is_large_model,
    suggest_alternatives,
)
from dlm.plan.hardware import Hardware, choose_device
from dlm.plan.memory import (
    SequenceLengths,
    choose_batch_size,
    choose_eval_batch_size,
    count_trainable_parameters,
    estimate_memory,
    estimate_sequence_lengths,
    format_bytes,
)
from dlm.plan.model_spec import ModelSpec
from dlm.plan.schedule import choose_audio_gap_steps, describe_lr_schedule
from dlm.plan.types import (
    BatchPlan,
    CliOverrides,
    ModelPlan,
    Plan,
    Precision,
    SummaryLine,
    TrainingPlan,
    plan_distillation,
    summarize_distillation,
)

DEFAULT_BATCH_SIZE = 8  # small sets learn best from many small steps
SAVE_INTERVAL_SECONDS = 60.0  # a killed run loses at most this much work


def make_plan(
    document: Document,
    spec: ModelSpec,
    num_examples: int,
    hardware: Hardware,
    *,
    cli_overrides: CliOverrides | None = None,
    lengths: SequenceLengths | None = None,
) -> Plan:
    """Fix every number for learning from `clips` clips, none longer than `row`.

    Raises PlanError when it cannot fit, UsageError for a wish that cannot be.
    """
    cli_overrides = _validate_overrides(cli_overrides or CliOverrides())
    asked = document.config.training
    model, why = _plan_model(asked, spec, hardware, cli_overrides)
    changes, frozen = plan_augmentation(document, spec), not model.adapter.is_trainable("encoder")
    model = replace(
        model, encode_every_step=frozen and (changes is not None or asked.uses_streaming)
    )
    lengths = lengths or estimate_sequence_lengths(spec, asked.sequence_len)
    model, at_once = _fit_to_memory(asked, model, lengths, hardware, num_examples)
    batches = replace(
        _plan_batches(asked, model, lengths, at_once, num_examples), augmentation=changes
    )
    training = _plan_training(
        asked, cli_overrides, model, batch_plan=batches, num_examples=num_examples
    )
    lines = (
        *_summarize_model(model, why),
        _summarize_memory(asked, model, lengths, at_once),
        *_summarize_steps(batches, training, None if asked.uses_streaming else num_examples),
        *summarize_distillation(training.distillation),
        *summarize_augmentation(changes, encoder_frozen=frozen),
        SummaryLine("seed", str(model.seed)),
    )
    room, _ = hardware.get_memory_budget(model.device, all_gpus=model.device_map is not None)
    together = choose_eval_batch_size(model, lengths, asked.eval_batch_size, room)
    return Plan(model, batches, training, together, lines)


def estimate_disk_bytes(plan: Plan) -> int:
    """Bytes that a run writes: the resumable state, its successor and the version."""
    return count_trainable_parameters(plan.model) * 4 * (3 + 3 + 1)


def check_disk_space(plan: Plan, audio_bytes: int, hardware: Hardware) -> None:
    """Raise PlanError when the run and a copy of its recordings do not fit on the disk."""
    writes = estimate_disk_bytes(plan) + audio_bytes
    if writes > hardware.free_disk:
        raise PlanError(
            f"the run writes about {format_bytes(writes)} "
            f"and {format_bytes(hardware.free_disk)} are free",
            hint="free some, or set DLM_HOME to a folder on a larger disk",
        )


def _validate_overrides(cli_overrides: CliOverrides) -> CliOverrides:
    """The wishes, when each can be."""
    lowest = {"steps": 1, "seed": 0}
    for name, most in lowest.items():
        asked: int | None = vars(cli_overrides)[name]
        if asked is not None and asked < most:
            raise UsageError(f"{name} is {asked}", hint=f"use {most} or more")
    return cli_overrides


def _plan_model(
    config: TrainingConfig, spec: ModelSpec, hardware: Hardware, cli_overrides: CliOverrides
) -> tuple[ModelPlan, str]:
    """What is loaded, and why in this number format."""
    device = choose_device(cli_overrides.device, hardware)
    precision, why = _choose_precision(config, hardware, device)
    adapter = plan_adapter(config, spec)
    _check_device_options(config, spec)
    return (
        ModelPlan(
            spec=spec,
            adapter=adapter,
            device=device,
            precision=precision,
            weights_dtype=choose_frozen_dtype(adapter, precision),
            seed=config.seed if cli_overrides.seed is None else cli_overrides.seed,
            device_map=config.device_map,
            encoder_device=config.stability.encoder_device,
            fp32_modules=_choose_fp32_modules(config),
            lora_init_scale=config.stability.lora_init_scale,
            distill=plan_distillation(config.teacher, spec, adapter) is not None,
        ),
        why,
    )


def _check_device_options(config: TrainingConfig, spec: ModelSpec) -> None:
    """A released model is spread whole, a stitched one by its parts."""
    if config.device_map and spec.kind == "stitched":
        what = f"training.device_map spreads a released model, and {spec.key} is small"
        raise PlanError(what, hint="take the field out")
    if config.stability.encoder_device and spec.kind == "native":
        what = f"training.stability.encoder_device parts a stitched base, and {spec.key} is none"
        raise PlanError(what, hint="take it out, or use device_map: auto")


def _choose_fp32_modules(config: TrainingConfig) -> tuple[Literal["projector", "lora"], ...]:
    """What is computed in fp32 whatever the precision."""
    kept = config.stability
    projector: tuple[Literal["projector"], ...] = ("projector",) if kept.projector_fp32 else ()
    return (*projector, "lora") if kept.lora_fp32 else projector


def _choose_precision(
    config: TrainingConfig, hardware: Hardware, device: str
) -> tuple[Precision, str]:
    if config.precision is not None:
        return config.precision, "the document asks for it"
    fast = hardware.gpus[0].bf16 if device == "cuda" else hardware.bf16
    if fast:
        return "bf16", "this machine multiplies bf16 fast"
    return "fp32", "this machine has no fast bf16"


def _fit_to_memory(
    config: TrainingConfig,
    model_plan: ModelPlan,
    lengths: SequenceLengths,
    hardware: Hardware,
    num_examples: int,
) -> tuple[ModelPlan, int]:
    """The model and its rows at once, as the device's memory allows.

    What is chosen depends on all of the memory, so that a run can go on while others use some.
    """
    room, free = hardware.get_memory_budget(
        model_plan.device, all_gpus=model_plan.device_map is not None
    )
    checkpointing = (
        None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing
    )
    counts = _list_batch_sizes(config, model_plan.spec, num_examples)
    chosen = choose_batch_size(
        model_plan, lengths, counts, room, gradient_checkpointing=checkpointing
    )
    takes = (
        estimate_memory(chosen[0], lengths, chosen[1]).total
        if chosen
        else estimate_min_memory(model_plan, lengths)
    )
    if chosen and takes <= free:
        return chosen
    mend = suggest_alternatives(model_plan, lengths, free)
    raise PlanError(
        f"training needs about {format_bytes(takes)} of memory and {format_bytes(free)} are free",
        hint=f"what fits: {mend}" if mend else "use a larger machine: no base fits this one",
    )


def _list_batch_sizes(
    config: TrainingConfig, spec: ModelSpec, num_examples: int
) -> tuple[int, ...]:
    """How many rows at once to try, most first."""
    if config.micro_batch_size != "auto":
        return (config.micro_batch_size,)
    most = _choose_micro_batch_size(config, spec, num_examples)
    if is_large_model(spec) and config.grad_accum == "auto":
        most = min(LARGE_MODEL_BATCH_SIZE, max(num_examples, 1))
    return tuple(most >> times for times in range(most.bit_length()))


def _choose_micro_batch_size(config: TrainingConfig, spec: ModelSpec, num_examples: int) -> int:
    """Rows at once where there is no end of memory, but for what accumulation adds."""
    if config.micro_batch_size != "auto":
        return config.micro_batch_size
    return 1 if is_large_model(spec) else min(DEFAULT_BATCH_SIZE, max(num_examples, 1))


def _plan_batches(
    config: TrainingConfig,
    model_plan: ModelPlan,
    lengths: SequenceLengths,
    batch_size: int,
    num_examples: int,
) -> BatchPlan:
    micro, accumulate = (
        _choose_micro_batch_size(config, model_plan.spec, num_examples),
        config.grad_accum,
    )
    if accumulate == "auto":
        accumulate = (
            ceil_div(LARGE_MODEL_BATCH_SIZE, micro) if is_large_model(model_plan.spec) else 1
        )
    heard = not (model_plan.encode_every_step or model_plan.adapter.is_trainable("encoder"))
    # What an encoder hears takes as much memory for a short clip, where it hears 30 s of each.
    filled = batch_size if heard and config.micro_batch_size == "auto" else 0
    return BatchPlan(
        spec=model_plan.spec,
        global_batch_size=min(micro * accumulate, max(num_examples, 1)),
        micro_batch_size=batch_size,
        max_tokens=config.sequence_len,
        auto_resample=config.audio.auto_resample,
        max_windows=config.audio.max_windows,
        use_cached_features=heard,
        seed=model_plan.seed,
        distill=model_plan.distill,
        max_batch_tokens=filled * lengths.num_tokens,
        max_batch_labels=filled * lengths.num_labels,
    )


def _plan_training(
    config: TrainingConfig,
    cli_overrides: CliOverrides,
    model_plan: ModelPlan,
    *,
    batch_plan: BatchPlan,
    num_examples: int,
) -> TrainingPlan:
    epochs = config.num_epochs or model_plan.spec.default_epochs  # neither is 0
    steps = (
        cli_overrides.steps
        or config.steps
        or epochs * ceil_div(num_examples, batch_plan.global_batch_size)
    )
    if config.uses_streaming and not (cli_overrides.steps or config.steps or config.stages):
        mend = "set training.steps, or say --steps"
        raise PlanError("nobody knows how many clips a stream has", hint=mend)
    return TrainingPlan(
        num_steps=steps,
        learning_rate=config.learning_rate or model_plan.spec.default_learning_rate,
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
        distillation=plan_distillation(config.teacher, model_plan.spec, model_plan.adapter),
        audio_gap_steps=config.listen_steps
        or choose_audio_gap_steps(steps, batch_plan.global_batch_size),
        lora_max_grad_norm=config.stability.lora_max_grad_norm,
        early_lr_factor=config.stability.early_lr_factor,
        early_lr_steps=config.stability.early_lr_steps,
        freeze_projector_steps=config.stability.freeze_projector_steps,
    )


def _summarize_model(model_plan: ModelPlan, precision_reason: str) -> tuple[SummaryLine, ...]:
    adapter, base = model_plan.adapter, model_plan.spec
    kind = "qlora" if adapter.bits else adapter.kind
    lora = f", rank {adapter.rank}" if adapter.lora_components else ""
    more = ", the encoder itself" if adapter.train_encoder else ""
    if adapter.top_layers:
        several = adapter.top_layers > 1
        more += f", the last {f'{adapter.top_layers} layers' if several else 'layer'} of lm"
    bits = f", the language model in {adapter.bits} bits" if adapter.bits else ""
    spread = ", spread over all of them" if model_plan.device_map else ""
    return (
        SummaryLine(
            "base", f"{base.key}, {_format_millions(base.sizes.num_parameters)} parameters"
        ),
        SummaryLine(
            "learns",
            f"{kind}{lora} on {', '.join(adapter.components)}{more}{bits}",
            f"{_format_millions(count_trainable_parameters(model_plan))} parameters",
        ),
        SummaryLine(
            "device", f"{model_plan.device}, {model_plan.precision}{spread}", precision_reason
        ),
    )


def _summarize_memory(
    config: TrainingConfig, model_plan: ModelPlan, lengths: SequenceLengths, batch_size: int
) -> SummaryLine:
    takes = estimate_memory(model_plan, lengths, batch_size)
    parts = (
        f"{format_bytes(takes.frozen)} stay, {format_bytes(takes.trainable)} "
        f"learn, {format_bytes(takes.activations)} "
    )
    parts += f"for {batch_size} row{'s' * (batch_size > 1)} of up to {lengths.num_tokens:,} tokens"
    if takes.runtime:
        parts += f", {format_bytes(takes.runtime)} for CUDA"
    if model_plan.gradient_checkpointing:
        auto = config.gradient_checkpointing == "auto"
        parts += f", with gradient checkpointing, {'to fit' if auto else 'as asked'}"
    return SummaryLine("memory", f"about {format_bytes(takes.total)}", parts)


def _summarize_steps(
    batch_plan: BatchPlan, training_plan: TrainingPlan, num_examples: int | None
) -> tuple[SummaryLine, ...]:
    times = ceil_div(batch_plan.global_batch_size, batch_plan.micro_batch_size)
    full = batch_plan.max_batch_tokens
    more = f", or more of short rows, up to {full:,} tokens" if full else ""
    over = f"{training_plan.num_steps * batch_plan.global_batch_size:,} clips of a stream"
    if num_examples is not None:
        epochs = training_plan.num_steps / ceil_div(
            max(num_examples, 1), batch_plan.global_batch_size
        )
        over = f"{epochs:.1f} times over {num_examples:,} clips"
    return (
        SummaryLine(
            "batch",
            f"{batch_plan.global_batch_size} clips a step",
            f"micro-batch {batch_plan.micro_batch_size} x {times}" + (more if times > 1 else ""),
        ),
        SummaryLine("steps", f"{training_plan.num_steps:,}", over),
        SummaryLine(
            "rate", f"{training_plan.learning_rate:g}", describe_lr_schedule(training_plan)
        ),
    )


def _format_millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"
