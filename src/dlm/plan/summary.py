"""The summary of a finished plan: the lines that `dlm check`, `train` and `doctor` print.

base, learns, device, memory, batch, steps, rate or stages, teacher, ctc, augment, seed,
chat, stream or weights, recordings, asked for
"""

from collections.abc import Iterator

from dlm.plan.audio_lengths import ceil_div
from dlm.plan.augmentation import summarize_augmentation
from dlm.plan.hardware import format_bytes
from dlm.plan.memory import count_trainable_parameters
from dlm.plan.planner import MAX_COPIED_BYTES
from dlm.plan.types import Plan, SummaryLine, TrainingPlan


def summarize_plan(plan: Plan) -> tuple[SummaryLine, ...]:
    """Describe a plan in lines, in the order they are printed."""
    encoder_frozen = not plan.model.adapter.is_trainable("encoder")
    return (
        *_summarize_model(plan),
        _summarize_memory(plan),
        *_summarize_steps(plan),
        *_summarize_distillation(plan.training),
        *_summarize_ctc(plan.training),
        *summarize_augmentation(plan.batches.augmentation, encoder_frozen=encoder_frozen),
        SummaryLine("seed", str(plan.model.seed)),
        *_summarize_data(plan),
    )


def _summarize_model(plan: Plan) -> Iterator[SummaryLine]:
    spec, adapter = plan.model.spec, plan.model.adapter
    num_parameters = _format_millions(spec.sizes.num_parameters)
    yield SummaryLine("base", f"{spec.key}, {num_parameters} parameters")
    trained = f"{'qlora' if adapter.bits else adapter.kind}"
    trained += f", rank {adapter.rank}" if adapter.lora_components else ""
    trained += f" on {', '.join(adapter.components)}"
    trained += ", the encoder itself" if adapter.train_encoder else ""
    if adapter.top_layers:
        layers = f"{adapter.top_layers} layers" if adapter.top_layers > 1 else "layer"
        trained += f", the last {layers} of lm"
    trained += f", the language model in {adapter.bits} bits" if adapter.bits else ""
    num_trainable = _format_millions(count_trainable_parameters(plan.model))
    yield SummaryLine("learns", trained, f"{num_trainable} parameters")
    why = {
        "requested": "the document sets it",
        "bf16": "this machine multiplies bf16 fast",
        "fp32": "this machine has no fast bf16",
    }["requested" if plan.config.precision else plan.model.precision]
    spread = ", spread over all of them" if plan.model.device_map else ""
    yield SummaryLine("device", f"{plan.model.device}, {plan.model.precision}{spread}", why)


def _summarize_memory(plan: Plan) -> SummaryLine:
    memory, batch_size = plan.memory, plan.batches.micro_batch_size
    why = f"{format_bytes(memory.frozen)} stay, {format_bytes(memory.trainable)} learn, "
    why += f"{format_bytes(memory.activations)} for {batch_size} row{'s' * (batch_size > 1)} "
    why += f"of up to {plan.lengths.num_tokens:,} tokens"
    if memory.runtime:
        why += f", {format_bytes(memory.runtime)} for CUDA"
    if plan.model.gradient_checkpointing:
        is_auto = plan.config.gradient_checkpointing == "auto"
        why += f", with gradient checkpointing, {'to fit' if is_auto else 'as set'}"
    return SummaryLine("memory", f"about {format_bytes(memory.total)}", why)


def _summarize_steps(plan: Plan) -> Iterator[SummaryLine]:
    batches, training, train_set = plan.batches, plan.training, plan.train_set
    num_batches = ceil_div(batches.global_batch_size, batches.micro_batch_size)
    why = f"micro-batch {batches.micro_batch_size} x {num_batches}"
    if num_batches > 1 and batches.max_batch_tokens:
        why += f", or more of short rows, up to {batches.max_batch_tokens:,} tokens"
    yield SummaryLine("batch", f"{_format_clips(batches.global_batch_size)} a step", why)
    if training.stages:
        why = f"{len(training.stages)} stages"
    elif plan.config.uses_streaming:
        why = f"{training.num_steps * batches.global_batch_size:,} clips of a stream"
    else:
        steps_per_epoch = ceil_div(max(train_set.num_examples, 1), batches.global_batch_size)
        epochs = training.num_steps / steps_per_epoch
        why = f"{epochs:.1f} times over {_format_clips(train_set.num_examples)}"
    yield SummaryLine("steps", f"{training.num_steps:,}", why)
    if not training.stages:
        yield SummaryLine("rate", f"{training.learning_rate:g}", _describe_schedule(training))
        return
    for number, (stage, num_examples) in enumerate(
        zip(training.stage_training_plans, train_set.num_stage_examples, strict=True), start=1
    ):
        value = f"{', '.join(stage.trainable_groups)}: "
        steps = f"{stage.num_steps:,} step{'s' * (stage.num_steps != 1)}"
        value += f"{steps} over {_format_clips(num_examples)}"
        why = f"rate {stage.learning_rate:g}, {_describe_schedule(stage)}"
        why += f", CTC {stage.ctc_weight:.0%} of the loss" if stage.ctc_weight else ""
        yield SummaryLine(f"stage {number}", value, why)


def _describe_schedule(training_plan: TrainingPlan) -> str:
    warmup, early = training_plan.warmup_steps, training_plan.early_lr_steps
    text = f"{warmup} step{'s' * (warmup > 1)} of warm-up" if warmup else "no warm-up"
    if early:
        text += f", times {training_plan.early_lr_factor:g} for {early} step{'s' * (early > 1)}"
    return f"{training_plan.lr_scheduler}, {text}"


def _summarize_distillation(training_plan: TrainingPlan) -> Iterator[SummaryLine]:
    distillation = training_plan.distillation
    if distillation:
        why = f"its {distillation.top_k} most probable tokens "
        why += f"at temperature {distillation.temperature:g}"
        yield SummaryLine("teacher", f"{distillation.weight:.0%} of the loss", why)


def _summarize_ctc(training_plan: TrainingPlan) -> Iterator[SummaryLine]:
    if training_plan.ctc_weight and not training_plan.stages:
        why = "audio embeddings are compared with the text embeddings of transcripts"
        yield SummaryLine("ctc", f"{training_plan.ctc_weight:.0%} of the loss", why)


def _summarize_data(plan: Plan) -> Iterator[SummaryLine]:
    """What is special about the data: changed conversations, a stream, weights, recordings."""
    config, train_set = plan.config, plan.train_set
    if train_set.template_changes:
        why = "the chat template of the base refuses them, or drops what they say"
        yield SummaryLine("chat", ", ".join(train_set.template_changes), why)
    if config.uses_streaming:
        value = f"the first {train_set.num_scanned_examples:,} clips read"
        why = "the others are read during training; neither they nor their features are stored"
        yield SummaryLine("stream", value, why)
        if len(config.sources) > 1:
            weights = ", ".join(f"{source.path} {source.weight:g}" for source in config.sources)
            yield SummaryLine("drawn", weights, "the weight of each source relative to the others")
    elif any(weight != 1 for weight, _, _ in train_set.weight_groups):
        groups = (
            f"{num_examples:,} at {weight:g} come {num_drawn:,} times"
            for weight, num_examples, num_drawn in train_set.weight_groups
        )
        yield SummaryLine("weights", ", ".join(groups), "in an epoch, by the weight of the source")
    if not config.uses_streaming and not plan.copy_recordings:
        value = f"{format_bytes(train_set.recording_bytes)}, not copied into the store"
        why = f"more than {format_bytes(MAX_COPIED_BYTES)}: a version names them by their sha256"
        yield SummaryLine("recordings", value, why)
    if plan.field_overrides:
        fields = ", ".join(f"{name} = {value}" for name, value in plan.field_overrides.items())
        yield SummaryLine("asked for", fields, "over the document")


def _format_millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def _format_clips(num_clips: int) -> str:
    return f"{num_clips:,} clip{'s' * (num_clips != 1)}"
