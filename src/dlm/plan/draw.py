"""Drawing up a plan: which number is chosen, from what, and how it is said.

    what is asked    the command line over the document over the base
    what there is    the machine: its device, its formats, its memory
    what follows     rows at once, gradient checkpointing, steps

What is asked is never changed in silence: it is kept, or refused with what would fit.
"""

from dataclasses import replace
from typing import Literal

from dlm.document.document import Document
from dlm.document.settings import Training
from dlm.errors import PlanError, UsageError
from dlm.plan.augment import changing, changing_aloud
from dlm.plan.bases import Base
from dlm.plan.fits import LARGE_CLIPS_PER_STEP, held_in, instead, is_large, least
from dlm.plan.frames import ceil_div
from dlm.plan.hardware import Machine, device_of
from dlm.plan.learns import adapter_of
from dlm.plan.memory import answered, choose, need, size, trainable
from dlm.plan.plan import (
    BatchPlan,
    Line,
    ModelPlan,
    Plan,
    Precision,
    TrainingPlan,
    Wishes,
)
from dlm.plan.rows import RowSize, row_of
from dlm.plan.stages import listening, rate_aloud
from dlm.plan.teaching import teaching, teaching_aloud

CLIPS_PER_STEP = 8  # small sets learn best from many small steps
SAVE_SECONDS = 60.0  # a killed run loses at most this much work


def draw_up(
    document: Document,
    base: Base,
    clips: int,
    machine: Machine,
    *,
    wishes: Wishes | None = None,
    row: RowSize | None = None,
) -> Plan:
    """Fix every number for learning from `clips` clips, none longer than `row`.

    Raises PlanError when it cannot fit, UsageError for a wish that cannot be.
    """
    wishes = _sensible(wishes or Wishes())
    asked = document.settings.training
    model, why = _model(asked, base, machine, wishes)
    changes, frozen = changing(document, base), not model.adapter.trains("encoder")
    model = replace(model, afresh=frozen and (changes is not None or asked.streamed))
    row = row or row_of(base, asked.sequence_len)
    model, at_once = _fitted(asked, model, row, machine, clips)
    batches = replace(_batches(asked, model, row, at_once, clips), changes=changes)
    training = _training(asked, wishes, model, batches=batches, clips=clips)
    lines = (
        *_model_aloud(model, why),
        _memory_aloud(asked, model, row, at_once),
        *_steps_aloud(batches, training, None if asked.streamed else clips),
        *teaching_aloud(training.teacher),
        *changing_aloud(changes, frozen=frozen),
        Line("seed", str(model.seed)),
    )
    room, _ = machine.room(model.device, spread=model.device_map is not None)
    together = answered(model, row, asked.eval_batch_size, room)
    return Plan(model, batches, training, together, lines)


def disk_bytes(plan: Plan) -> int:
    """Bytes that a run writes: the resumable state, its successor and the version."""
    return trainable(plan.model) * 4 * (3 + 3 + 1)


def check_disk(plan: Plan, audio_bytes: int, machine: Machine) -> None:
    """Raise PlanError when the run and a copy of its recordings do not fit on the disk."""
    writes = disk_bytes(plan) + audio_bytes
    if writes > machine.free_disk:
        raise PlanError(
            f"the run writes about {size(writes)} and {size(machine.free_disk)} are free",
            mend="free some, or set DLM_HOME to a folder on a larger disk",
        )


def _sensible(wishes: Wishes) -> Wishes:
    """The wishes, when each can be."""
    lowest = {"steps": 1, "seed": 0}
    for name, most in lowest.items():
        asked: int | None = vars(wishes)[name]
        if asked is not None and asked < most:
            raise UsageError(f"{name} is {asked}", mend=f"use {most} or more")
    return wishes


def _model(asked: Training, base: Base, machine: Machine, wishes: Wishes) -> tuple[ModelPlan, str]:
    """What is loaded, and why in this number format."""
    device = device_of(wishes.device, machine)
    precision, why = _precision(asked, machine, device)
    adapter = adapter_of(asked, base)
    _check_devices(asked, base)
    return (
        ModelPlan(
            base=base,
            adapter=adapter,
            device=device,
            precision=precision,
            weights=held_in(adapter, precision),
            seed=asked.seed if wishes.seed is None else wishes.seed,
            device_map=asked.device_map,
            encoder_device=asked.stability.encoder_device,
            exact=_exact(asked),
            lora_init_scale=asked.stability.lora_init_scale,
            taught=teaching(asked.teacher, base, adapter) is not None,
        ),
        why,
    )


def _check_devices(asked: Training, base: Base) -> None:
    """A released model is spread whole, a stitched one by its parts."""
    if asked.device_map and base.kind == "stitched":
        what = f"training.device_map spreads a released model, and {base.key} is small"
        raise PlanError(what, mend="take the field out")
    if asked.stability.encoder_device and base.kind == "native":
        what = f"training.stability.encoder_device parts a stitched base, and {base.key} is none"
        raise PlanError(what, mend="take it out, or use device_map: auto")


def _exact(asked: Training) -> tuple[Literal["projector", "lora"], ...]:
    """What is computed in fp32 whatever the precision."""
    kept = asked.stability
    projector: tuple[Literal["projector"], ...] = ("projector",) if kept.projector_fp32 else ()
    return (*projector, "lora") if kept.lora_fp32 else projector


def _precision(asked: Training, machine: Machine, device: str) -> tuple[Precision, str]:
    if asked.precision is not None:
        return asked.precision, "the document asks for it"
    fast = machine.gpus[0].bf16 if device == "cuda" else machine.bf16
    if fast:
        return "bf16", "this machine multiplies bf16 fast"
    return "fp32", "this machine has no fast bf16"


def _fitted(
    asked: Training, model: ModelPlan, row: RowSize, machine: Machine, clips: int
) -> tuple[ModelPlan, int]:
    """The model and its rows at once, as the device's memory allows.

    What is chosen depends on all of the memory, so that a run can go on while others use some.
    """
    room, free = machine.room(model.device, spread=model.device_map is not None)
    checkpointing = None if asked.gradient_checkpointing == "auto" else asked.gradient_checkpointing
    counts = _counts(asked, model.base, clips)
    chosen = choose(model, row, counts, room, checkpointing=checkpointing)
    takes = need(chosen[0], row, chosen[1]).total if chosen else least(model, row)
    if chosen and takes <= free:
        return chosen
    mend = instead(model, row, free)
    raise PlanError(
        f"training needs about {size(takes)} of memory and {size(free)} are free",
        mend=f"what fits: {mend}" if mend else "use a larger machine: no base fits this one",
    )


def _counts(asked: Training, base: Base, clips: int) -> tuple[int, ...]:
    """How many rows at once to try, most first."""
    if asked.micro_batch_size != "auto":
        return (asked.micro_batch_size,)
    most = _micro(asked, base, clips)
    if is_large(base) and asked.grad_accum == "auto":
        most = min(LARGE_CLIPS_PER_STEP, max(clips, 1))
    return tuple(most >> times for times in range(most.bit_length()))


def _micro(asked: Training, base: Base, clips: int) -> int:
    """Rows at once where there is no end of memory, but for what accumulation adds."""
    if asked.micro_batch_size != "auto":
        return asked.micro_batch_size
    return 1 if is_large(base) else min(CLIPS_PER_STEP, max(clips, 1))


def _batches(
    asked: Training, model: ModelPlan, row: RowSize, at_once: int, clips: int
) -> BatchPlan:
    micro, accumulate = _micro(asked, model.base, clips), asked.grad_accum
    if accumulate == "auto":
        accumulate = ceil_div(LARGE_CLIPS_PER_STEP, micro) if is_large(model.base) else 1
    heard = not (model.afresh or model.adapter.trains("encoder"))
    # What an encoder hears takes as much memory for a short clip, where it hears 30 s of each.
    filled = at_once if heard and asked.micro_batch_size == "auto" else 0
    return BatchPlan(
        base=model.base,
        clips_per_step=min(micro * accumulate, max(clips, 1)),
        clips_per_batch=at_once,
        longest=asked.sequence_len,
        auto_resample=asked.audio.auto_resample,
        most_windows=asked.audio.most_windows,
        heard=heard,
        seed=model.seed,
        read=model.taught,
        tokens_per_batch=filled * row.tokens,
        labels_per_batch=filled * row.labels,
    )


def _training(
    asked: Training, wishes: Wishes, model: ModelPlan, *, batches: BatchPlan, clips: int
) -> TrainingPlan:
    epochs = asked.num_epochs or model.base.epochs  # neither is 0
    steps = wishes.steps or asked.steps or epochs * ceil_div(clips, batches.clips_per_step)
    if asked.streamed and not (wishes.steps or asked.steps or asked.stages):
        mend = "set training.steps, or say --steps"
        raise PlanError("nobody knows how many clips a stream has", mend=mend)
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
        save_steps=asked.save_steps,
        precision=model.precision,
        device=model.device,
        seed=model.seed,
        optimizer=asked.optimizer,
        teacher=teaching(asked.teacher, model.base, model.adapter),
        listen_steps=asked.listen_steps or listening(steps, batches.clips_per_step),
        lora_max_gradient_norm=asked.stability.lora_max_grad_norm,
        early_lr_factor=asked.stability.early_lr_factor,
        early_lr_steps=asked.stability.early_lr_steps,
        freeze_projector_steps=asked.stability.freeze_projector_steps,
    )


def _model_aloud(model: ModelPlan, why: str) -> tuple[Line, ...]:
    adapter, base = model.adapter, model.base
    kind = "qlora" if adapter.bits else adapter.kind
    lora = f", rank {adapter.rank}" if adapter.low_rank else ""
    more = ", the encoder itself" if adapter.train_encoder else ""
    if adapter.top_layers:
        several = adapter.top_layers > 1
        more += f", the last {f'{adapter.top_layers} layers' if several else 'layer'} of lm"
    bits = f", the language model in {adapter.bits} bits" if adapter.bits else ""
    spread = ", spread over all of them" if model.device_map else ""
    return (
        Line("base", f"{base.key}, {_millions(base.sizes.parameters)} parameters"),
        Line(
            "learns",
            f"{kind}{lora} on {', '.join(adapter.where)}{more}{bits}",
            f"{_millions(trainable(model))} parameters",
        ),
        Line("device", f"{model.device}, {model.precision}{spread}", why),
    )


def _memory_aloud(asked: Training, model: ModelPlan, row: RowSize, at_once: int) -> Line:
    takes = need(model, row, at_once)
    parts = f"{size(takes.weights)} stay, {size(takes.learning)} learn, {size(takes.passing)} "
    parts += f"for {at_once} row{'s' * (at_once > 1)} of up to {row.tokens:,} tokens"
    if takes.runtime:
        parts += f", {size(takes.runtime)} for CUDA"
    if model.checkpointing:
        auto = asked.gradient_checkpointing == "auto"
        parts += f", with gradient checkpointing, {'to fit' if auto else 'as asked'}"
    return Line("memory", f"about {size(takes.total)}", parts)


def _steps_aloud(batches: BatchPlan, training: TrainingPlan, clips: int | None) -> tuple[Line, ...]:
    times = ceil_div(batches.clips_per_step, batches.clips_per_batch)
    full = batches.tokens_per_batch
    more = f", or more of short rows, up to {full:,} tokens" if full else ""
    over = f"{training.steps * batches.clips_per_step:,} clips of a stream"
    if clips is not None:
        epochs = training.steps / ceil_div(max(clips, 1), batches.clips_per_step)
        over = f"{epochs:.1f} times over {clips:,} clips"
    return (
        Line(
            "batch",
            f"{batches.clips_per_step} clips a step",
            f"micro-batch {batches.clips_per_batch} x {times}" + (more if times > 1 else ""),
        ),
        Line("steps", f"{training.steps:,}", over),
        Line("rate", f"{training.learning_rate:g}", rate_aloud(training)),
    )


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"
