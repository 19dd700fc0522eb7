"""A run in stages: the steps and rates of each, what learns in it, and how that is said.

Adam begins anew with each stage, and so does the schedule. What a frozen encoder hears is cached up
to the first stage in which it learns; from there on every stage hears afresh.
"""

from collections.abc import Sequence
from dataclasses import replace

from dlm.document.settings import Training
from dlm.document.stages import Stage
from dlm.errors import PlanError, UsageError
from dlm.plan.frames import ceil_div
from dlm.plan.plan import LEARNERS, Adapter, Line, Plan, StagePlan, TrainingPlan, Wishes

LISTENING_CLIPS = 320  # learned from: a gap costs as much as 11 of them, at 16 clips heard twice


def in_stages(plan: Plan, asked: Training, counts: Sequence[int], wishes: Wishes) -> Plan:
    """The same run in the stages that are asked for; `counts` are the clips of each.

    Raises PlanError for a stage that trains nothing or has no clips.
    """
    if not asked.stages:
        return plan
    mend = "set the steps of training.stages"
    if wishes.steps:
        raise UsageError("--steps is for a run without stages", mend=mend)
    if asked.steps:
        raise PlanError("training.steps is for a run without stages", mend=mend)
    if asked.rates:
        mend = "write the rates in each stage"
        raise PlanError("training.rates is for a run without stages", mend=mend)
    stages: list[StagePlan] = []
    for number, (stage, count) in enumerate(zip(asked.stages, counts, strict=True), start=1):
        _check(stage, number, count, asked=asked, adapter=plan.model.adapter)
        heard = stages[-1].heard if stages else plan.batches.changes is None and not asked.streamed
        stages.append(_stage(stage, plan, asked, count, heard=heard))
    total = sum(stage.steps for stage in stages)
    training = replace(
        plan.training,
        steps=total,
        stages=tuple(stages),
        listen_steps=asked.listen_steps or listening(total, plan.batches.clips_per_step),
    )
    return replace(plan, training=training, lines=_aloud(plan, training, counts))


def listening(steps: int, clips_per_step: int) -> int:
    """Steps from one listening gap to the next, at least as many as take LISTENING_CLIPS clips."""
    return max(steps // 10, ceil_div(LISTENING_CLIPS, clips_per_step))


def rate_aloud(training: TrainingPlan) -> str:
    """How the rate of a run or a stage moves."""
    steps, early = training.warmup_steps, training.early_lr_steps
    told = f"{steps} step{'s' * (steps > 1)} of warm-up" if steps else "no warm-up"
    if early:
        told += f", times {training.early_lr_factor:g} for {early} step{'s' * (early > 1)}"
    return f"{training.schedule}, {told}"


def _check(stage: Stage, number: int, count: int, *, asked: Training, adapter: Adapter) -> None:
    """Refuse what is not there to learn, and what there is nothing to learn from."""
    absent = [role for role in stage.train if role not in adapter.learners]
    if absent:
        what = f"stage {number} trains {', '.join(absent)}, and what learns is "
        mend = "train that, or change training.adapter, lora.where, top_layers or train_encoder"
        raise PlanError(what + ", ".join(adapter.learners), mend=mend)
    idle = [role for role in stage.rates if role in LEARNERS and role not in stage.train]
    if idle:
        what = f"stage {number} has a rate for {', '.join(idle)}, which it does not train"
        raise PlanError(what, mend="take the rate out, or name it in train")
    if {*stage.train} == {"projector"} and asked.stability.freeze_projector_steps:
        what = f"stage {number} would learn nothing while the projector waits: it learns alone"
        raise PlanError(what, mend="take training.stability.freeze_projector_steps out")
    if asked.streamed and not stage.steps:
        what = f"stage {number} has no steps, and nobody knows how many clips a stream has"
        raise PlanError(what, mend="set its steps")
    if not count:
        patterns = ", ".join(stage.clips) or "all"
        what = f"stage {number} has no clips to learn from ({patterns})"
        raise PlanError(what, mend="name places, recordings or tasks that dlm show knows")


def _stage(stage: Stage, plan: Plan, asked: Training, count: int, *, heard: bool) -> StagePlan:
    epochs = stage.epochs or asked.num_epochs or plan.model.base.epochs
    steps = stage.steps or epochs * ceil_div(count, plan.batches.clips_per_step)
    adapter = plan.model.adapter
    hears_anew = "encoder" in stage.train or (
        "lora" in stage.train and "encoder" in adapter.low_rank
    )
    return StagePlan(
        train=tuple(role for role in LEARNERS if role in stage.train),
        clips=stage.clips,
        heard=heard and not hears_anew,
        steps=steps,
        learning_rate=stage.learning_rate or plan.training.learning_rate,
        rates=dict(stage.rates),
        warmup_steps=round(steps * asked.warmup_ratio),
    )


def _aloud(plan: Plan, training: TrainingPlan, counts: Sequence[int]) -> tuple[Line, ...]:
    """The plan's lines: those of the stages in the place of the one rate."""
    lines: list[Line] = []
    for line in plan.lines:
        if line.name == "steps":
            lines.append(Line("steps", f"{training.steps:,}", f"{len(training.stages)} stages"))
        elif line.name == "rate":
            told = zip(training.stretches, counts, strict=True)
            lines += [_line(number, *each) for number, each in enumerate(told, start=1)]
        else:
            lines.append(line)
    return tuple(lines)


def _line(number: int, stage: TrainingPlan, count: int) -> Line:
    value = f"{', '.join(stage.train)}: {stage.steps:,} steps over {count:,} clips"
    return Line(f"stage {number}", value, f"rate {stage.learning_rate:g}, {rate_aloud(stage)}")
