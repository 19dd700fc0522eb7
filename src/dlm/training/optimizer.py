"""Which parameters learn at which rate, and how the rate moves over the run."""

import math
from fnmatch import fnmatchcase

import torch

from dlm.errors import PlanError
from dlm.models.adapters import get_param_group, get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.plan.types import TrainingPlan

MIN_LR_RATIO = 0.1  # where cosine and linear end, as a share of the peak
OPTIMIZER_PARAM_GROUPS = ("encoder", "projector", "lm", "lora")
OPTIMIZER_CLASSES = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def build_optimizer(model: AudioLanguageModel, plan: TrainingPlan) -> torch.optim.Adam:
    """Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019), as the plan says.

    Groups are by role, or by the pattern that sets their rate; vectors do not decay.
    Raises PlanError for a rate that no learning parameter answers to.
    """
    groups: dict[tuple[str, float, float], list[torch.nn.Parameter]] = {}
    unused = set(plan.learning_rates)
    roles: set[str] = set()
    for name, parameter in get_trainable_parameters(model).items():
        role = get_param_group(name, model)
        rate, by = _get_learning_rate(name, role, plan)
        unused.discard(by)
        decay = plan.weight_decay if parameter.ndim > 1 else 0.0
        roles.add(role)
        groups.setdefault((by, rate, decay), []).append(parameter)
    if unused:
        raise PlanError(
            f"training.rates names {', '.join(sorted(unused))}, and nothing that learns matches",
            hint=f"use a part that learns: {', '.join(sorted(roles))}",
        )
    made: torch.optim.Adam = OPTIMIZER_CLASSES[plan.optimizer](
        [
            {"params": members, "lr": rate, "peak": rate, "name": name, "weight_decay": decay}
            for (name, rate, decay), members in groups.items()
        ],
        fused=True,  # in place, without a copy of what learns
    )
    return made


def set_learning_rates(
    optimizer: torch.optim.Optimizer, plan: TrainingPlan, step: int
) -> dict[str, float]:
    """Move every group to its rate at `step` (from 0), and say the rate of each."""
    factor = compute_lr_factor(plan, step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def compute_lr_factor(plan: TrainingPlan, step: int) -> float:
    """Linear warm-up to 1, then the schedule down to FLOOR at the last step; less while early."""
    early = plan.early_lr_factor if step < plan.early_lr_steps else 1.0
    return early * _compute_schedule_factor(plan, step)


def _compute_schedule_factor(plan: TrainingPlan, step: int) -> float:
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(plan.num_steps - plan.warmup_steps, 1)
    if plan.lr_scheduler == "constant":
        return 1.0
    fall = (1 + math.cos(math.pi * done)) / 2 if plan.lr_scheduler == "cosine" else 1 - done
    return MIN_LR_RATIO + (1 - MIN_LR_RATIO) * fall


def _get_learning_rate(param_name: str, param_group: str, plan: TrainingPlan) -> tuple[float, str]:
    """A parameter's rate and the entry it comes from: a pattern before its role."""
    for pattern, rate in plan.learning_rates.items():
        if pattern not in OPTIMIZER_PARAM_GROUPS and fnmatchcase(param_name, pattern):
            return rate, pattern
    return plan.learning_rates.get(param_group, plan.learning_rate), param_group
