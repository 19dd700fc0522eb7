"""The optimizer and its learning rates: parameter groups, warm-up, decay to a tenth of the peak."""

import math
from fnmatch import fnmatchcase

import torch

from dlm.errors import PlanError
from dlm.models.adapters import get_param_group, get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.plan.types import PARAM_GROUPS, TrainingPlan

MIN_LR_RATIO = 0.1  # of the peak, where cosine and linear schedules end
OPTIMIZER_CLASSES = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def build_optimizer(model: AudioLanguageModel, plan: TrainingPlan) -> torch.optim.Adam:
    """Build Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019) over what is trainable.

    Its groups are named by the parameter group, or by the pattern that sets their learning rate.
    Vectors have no weight decay.

    Raises:
        PlanError: a learning rate matches no trainable parameter (`plan.unused_rate`).
    """
    groups: dict[tuple[str, float, float], list[torch.nn.Parameter]] = {}
    unused_rates, trainable_groups = set(plan.learning_rates), set()
    for name, parameter in get_trainable_parameters(model).items():
        param_group = get_param_group(name, model)
        rate_name, learning_rate = _get_learning_rate(name, param_group, plan)
        unused_rates.discard(rate_name)
        trainable_groups.add(param_group)
        weight_decay = plan.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate_name, learning_rate, weight_decay), []).append(parameter)
    if unused_rates:
        names = ", ".join(sorted(unused_rates))
        raise PlanError(
            f"training.rates names {names}, and no trained parameter matches",
            hint=f"use a group that is trained: {', '.join(sorted(trainable_groups))}",
            code="plan.unused_rate",
        )
    optimizer: torch.optim.Adam = OPTIMIZER_CLASSES[plan.optimizer](
        [
            {"params": members, "lr": rate, "peak": rate, "name": name, "weight_decay": decay}
            for (name, rate, decay), members in groups.items()
        ],
        fused=True,  # in place, without a copy of the parameters
    )
    return optimizer


def set_learning_rates(
    optimizer: torch.optim.Optimizer, plan: TrainingPlan, step: int
) -> dict[str, float]:
    """Set the learning rate of every group for a step, counted from 0, and return them by name."""
    factor = compute_lr_factor(plan, step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def compute_lr_factor(plan: TrainingPlan, step: int) -> float:
    """Compute what peak learning rates are multiplied by at a step, counted from 0.

    Linear warm-up to 1, then the schedule down to `MIN_LR_RATIO`; in the early steps, times
    `early_lr_factor`.
    """
    early = plan.early_lr_factor if step < plan.early_lr_steps else 1.0
    if step < plan.warmup_steps:
        return early * (step + 1) / plan.warmup_steps
    if plan.lr_scheduler == "constant":
        return early
    progress = (step - plan.warmup_steps) / max(plan.num_steps - plan.warmup_steps, 1)
    if plan.lr_scheduler == "cosine":
        decay = (1 + math.cos(math.pi * progress)) / 2
    else:
        decay = 1 - progress
    return early * (MIN_LR_RATIO + (1 - MIN_LR_RATIO) * decay)


def _get_learning_rate(param_name: str, param_group: str, plan: TrainingPlan) -> tuple[str, float]:
    """The name of a parameter's rate, and the rate: patterns before parameter groups."""
    for pattern, learning_rate in plan.learning_rates.items():
        if pattern not in PARAM_GROUPS and fnmatchcase(param_name, pattern):
            return pattern, learning_rate
    return param_group, plan.learning_rates.get(param_group, plan.learning_rate)
