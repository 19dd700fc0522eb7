"""The stages of a run, and how often the listening gap is measured.

Each stage starts with a new optimizer and a new learning rate schedule. The output of a frozen
encoder is cached up to the first stage that trains the encoder; later stages encode in every step.
"""

from dlm.config.schema import StageConfig, TrainingConfig
from dlm.errors import PlanError
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.types import (
    PARAM_GROUPS,
    AdapterSpec,
    BatchPlan,
    ModelPlan,
    StagePlan,
    TrainSetInfo,
)

# one measurement costs as much as 11 examples of training: two passes over 16 examples
EXAMPLES_PER_AUDIO_GAP = 320


def choose_audio_gap_steps(num_steps: int, global_batch_size: int) -> int:
    """Choose the steps between two measurements of the listening gap.

    A long run has ten, a short one at most one for every `EXAMPLES_PER_AUDIO_GAP` examples.
    """
    return max(num_steps // 10, ceil_div(EXAMPLES_PER_AUDIO_GAP, global_batch_size))


def plan_stages(
    config: TrainingConfig,
    model_plan: ModelPlan,
    batch_plan: BatchPlan,
    train_set: TrainSetInfo,
    *,
    learning_rate: float,
) -> tuple[StagePlan, ...]:
    """Plan the stages of a run; none for a run without.

    Args:
        config: has the stages.
        model_plan: what is trained in all.
        batch_plan: examples of a step.
        train_set: examples of each stage.
        learning_rate: peak learning rate of stages that set none.

    Raises:
        PlanError: a stage trains nothing, has no examples or no number of steps (`plan.*`).
    """
    if config.stages and (config.steps or config.rates):
        name = "steps" if config.steps else "rates"
        what, hint = f"training.{name} is for a run without stages", f"set the {name} of each stage"
        raise PlanError(what, hint=hint, code="plan.field_with_stages")
    adapter = model_plan.adapter
    use_cached_features = batch_plan.augmentation is None and not config.uses_streaming
    stages = []
    for number, (stage, num_examples) in enumerate(
        zip(config.stages, train_set.num_stage_examples, strict=True), start=1
    ):
        _check_stage(stage, number, num_examples, config, adapter)
        use_cached_features = use_cached_features and not (
            "encoder" in stage.train
            or ("lora" in stage.train and "encoder" in adapter.lora_components)
        )
        epochs = stage.epochs or config.num_epochs or model_plan.spec.default_epochs
        num_steps = stage.steps or epochs * ceil_div(num_examples, batch_plan.global_batch_size)
        stages.append(
            StagePlan(
                trainable_groups=tuple(group for group in PARAM_GROUPS if group in stage.train),
                example_patterns=stage.clips,
                use_cached_features=use_cached_features,
                num_steps=num_steps,
                learning_rate=stage.learning_rate or learning_rate,
                learning_rates=dict(stage.rates),
                warmup_steps=round(num_steps * config.warmup_ratio),
                ctc_weight=config.ctc_weight if stage.ctc_weight is None else stage.ctc_weight,
            )
        )
    return tuple(stages)


def _check_stage(
    stage: StageConfig,
    number: int,
    num_examples: int,
    config: TrainingConfig,
    adapter: AdapterSpec,
) -> None:
    """Refuse a stage that trains what is not trainable, or has nothing to train on."""
    absent = [name for name in stage.train if name not in adapter.trainable_groups]
    if absent:
        trainable = ", ".join(adapter.trainable_groups)
        what = f"stage {number} trains {', '.join(absent)}, and what is trainable is {trainable}"
        hint = "train that, or change training.adapter, lora.where, top_layers or train_encoder"
        raise PlanError(what, hint=hint, code="plan.stage_not_trainable")
    unused = [name for name in stage.rates if name in PARAM_GROUPS and name not in stage.train]
    if unused:
        what = f"stage {number} has a rate for {', '.join(unused)}, which it does not train"
        hint = "take the rate out, or name it in train"
        raise PlanError(what, hint=hint, code="plan.stage_unused_rate")
    if {*stage.train} == {"projector"} and config.stability.freeze_projector_steps:
        what = f"stage {number} would train nothing while the projector is frozen"
        hint = "take training.stability.freeze_projector_steps out"
        raise PlanError(what, hint=hint, code="plan.nothing_to_train")
    if config.uses_streaming and not stage.steps:
        what = f"stage {number} has no steps, and a stream has no known number of clips"
        raise PlanError(what, hint="set its steps", code="plan.stream_without_steps")
    if not num_examples:
        what = f"stage {number} has no clips to train on ({', '.join(stage.clips) or 'all'})"
        hint = "name locations, recordings or tasks that dlm show lists"
        raise PlanError(what, hint=hint, code="plan.stage_without_examples")
