"""A run in stages: the steps and rates of each, what learns in it, and how that is said.

Adam begins anew with each stage, and so does the schedule. What a frozen encoder hears is cached up
to the first stage in which it learns; from there on every stage hears afresh.
"""

from collections.abc import Sequence
from dataclasses import replace

from dlm.config.schema import StageConfig, TrainingConfig
from dlm.errors import PlanError, UsageError
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.types import (
    PARAM_GROUPS,
    AdapterSpec,
    CliOverrides,
    Plan,
    StagePlan,
    SummaryLine,
    TrainingPlan,
)

EXAMPLES_PER_AUDIO_GAP = (
    320  # learned from: a gap costs as much as 11 of them, at 16 clips heard twice
)


def apply_stages(
    plan: Plan,
    config: TrainingConfig,
    examples_per_stage: Sequence[int],
    cli_overrides: CliOverrides,
) -> Plan:
    """The same run in the stages that are asked for; `counts` are the clips of each.

    Raises PlanError for a stage that trains nothing or has no clips.
    """
    if not config.stages:
        return plan
    mend = "set the steps of training.stages"
    if cli_overrides.steps:
        raise UsageError("--steps is for a run without stages", hint=mend)
    if config.steps:
        raise PlanError("training.steps is for a run without stages", hint=mend)
    if config.rates:
        mend = "write the rates in each stage"
        raise PlanError("training.rates is for a run without stages", hint=mend)
    stages: list[StagePlan] = []
    for number, (stage, count) in enumerate(
        zip(config.stages, examples_per_stage, strict=True), start=1
    ):
        _check_stage(stage, number, count, config=config, adapter=plan.model.adapter)
        heard = (
            stages[-1].use_cached_features
            if stages
            else plan.batches.augmentation is None and not config.uses_streaming
        )
        stages.append(_plan_stage(stage, plan, config, count, use_cached_features=heard))
    total = sum(stage.num_steps for stage in stages)
    training = replace(
        plan.training,
        num_steps=total,
        stages=tuple(stages),
        audio_gap_steps=config.listen_steps
        or choose_audio_gap_steps(total, plan.batches.global_batch_size),
    )
    return replace(
        plan, training=training, summary=_summarize_stages(plan, training, examples_per_stage)
    )


def choose_audio_gap_steps(num_steps: int, global_batch_size: int) -> int:
    """Steps from one listening gap to the next, at least as many as take LISTENING_CLIPS clips."""
    return max(num_steps // 10, ceil_div(EXAMPLES_PER_AUDIO_GAP, global_batch_size))


def describe_lr_schedule(training_plan: TrainingPlan) -> str:
    """How the rate of a run or a stage moves."""
    steps, early = training_plan.warmup_steps, training_plan.early_lr_steps
    told = f"{steps} step{'s' * (steps > 1)} of warm-up" if steps else "no warm-up"
    if early:
        told += f", times {training_plan.early_lr_factor:g} for {early} step{'s' * (early > 1)}"
    return f"{training_plan.lr_scheduler}, {told}"


def _check_stage(
    stage: StageConfig,
    number: int,
    num_examples: int,
    *,
    config: TrainingConfig,
    adapter: AdapterSpec,
) -> None:
    """Refuse what is not there to learn, and what there is nothing to learn from."""
    absent = [role for role in stage.train if role not in adapter.trainable_groups]
    if absent:
        what = f"stage {number} trains {', '.join(absent)}, and what learns is "
        mend = "train that, or change training.adapter, lora.where, top_layers or train_encoder"
        raise PlanError(what + ", ".join(adapter.trainable_groups), hint=mend)
    idle = [role for role in stage.rates if role in PARAM_GROUPS and role not in stage.train]
    if idle:
        what = f"stage {number} has a rate for {', '.join(idle)}, which it does not train"
        raise PlanError(what, hint="take the rate out, or name it in train")
    if {*stage.train} == {"projector"} and config.stability.freeze_projector_steps:
        what = f"stage {number} would learn nothing while the projector waits: it learns alone"
        raise PlanError(what, hint="take training.stability.freeze_projector_steps out")
    if config.uses_streaming and not stage.steps:
        what = f"stage {number} has no steps, and nobody knows how many clips a stream has"
        raise PlanError(what, hint="set its steps")
    if not num_examples:
        patterns = ", ".join(stage.clips) or "all"
        what = f"stage {number} has no clips to learn from ({patterns})"
        raise PlanError(what, hint="name places, recordings or tasks that dlm show knows")


def _plan_stage(
    stage: StageConfig,
    plan: Plan,
    config: TrainingConfig,
    num_examples: int,
    *,
    use_cached_features: bool,
) -> StagePlan:
    epochs = stage.epochs or config.num_epochs or plan.model.spec.default_epochs
    steps = stage.steps or epochs * ceil_div(num_examples, plan.batches.global_batch_size)
    adapter = plan.model.adapter
    hears_anew = "encoder" in stage.train or (
        "lora" in stage.train and "encoder" in adapter.lora_components
    )
    return StagePlan(
        trainable_groups=tuple(role for role in PARAM_GROUPS if role in stage.train),
        example_patterns=stage.clips,
        use_cached_features=use_cached_features and not hears_anew,
        num_steps=steps,
        learning_rate=stage.learning_rate or plan.training.learning_rate,
        learning_rates=dict(stage.rates),
        warmup_steps=round(steps * config.warmup_ratio),
    )


def _summarize_stages(
    plan: Plan, training_plan: TrainingPlan, examples_per_stage: Sequence[int]
) -> tuple[SummaryLine, ...]:
    """The plan's lines: those of the stages in the place of the one rate."""
    lines: list[SummaryLine] = []
    for line in plan.summary:
        if line.name == "steps":
            lines.append(
                SummaryLine(
                    "steps", f"{training_plan.num_steps:,}", f"{len(training_plan.stages)} stages"
                )
            )
        elif line.name == "rate":
            told = zip(training_plan.stage_training_plans, examples_per_stage, strict=True)
            lines += [_summarize_stage(number, *each) for number, each in enumerate(told, start=1)]
        else:
            lines.append(line)
    return tuple(lines)


def _summarize_stage(number: int, stage_plan: TrainingPlan, num_examples: int) -> SummaryLine:
    value = (
        f"{', '.join(stage_plan.trainable_groups)}: "
        f"{stage_plan.num_steps:,} steps over {num_examples:,} clips"
    )
    return SummaryLine(
        f"stage {number}",
        value,
        f"rate {stage_plan.learning_rate:g}, {describe_lr_schedule(stage_plan)}",
    )
