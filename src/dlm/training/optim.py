"""Which parameters learn at which rate, and how the rate moves over the run."""

import math
from fnmatch import fnmatchcase

import torch

from dlm.errors import PlanError
from dlm.model.adapters import learning, role_of
from dlm.model.face import Model
from dlm.plan.plan import TrainingPlan

FLOOR = 0.1  # where cosine and linear end, as a share of the peak
ROLES = ("encoder", "projector", "lm", "lora")
OPTIMISERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def optimiser(model: Model, plan: TrainingPlan) -> torch.optim.Adam:
    """Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019), as the plan says.

    Groups are by role, or by the pattern that sets their rate; vectors do not decay.
    Raises PlanError for a rate that no learning parameter answers to.
    """
    groups: dict[tuple[str, float, float], list[torch.nn.Parameter]] = {}
    unused = set(plan.rates)
    roles: set[str] = set()
    for name, parameter in learning(model).items():
        role = role_of(name, model)
        rate, by = _rate(name, role, plan)
        unused.discard(by)
        decay = plan.weight_decay if parameter.ndim > 1 else 0.0
        roles.add(role)
        groups.setdefault((by, rate, decay), []).append(parameter)
    if unused:
        raise PlanError(
            f"training.rates names {', '.join(sorted(unused))}, and nothing that learns matches",
            mend=f"use a part that learns: {', '.join(sorted(roles))}",
        )
    made: torch.optim.Adam = OPTIMISERS[plan.optimizer](
        [
            {"params": members, "lr": rate, "peak": rate, "name": name, "weight_decay": decay}
            for (name, rate, decay), members in groups.items()
        ],
        fused=True,  # in place, without a copy of what learns
    )
    return made


def set_rates(optimizer: torch.optim.Optimizer, plan: TrainingPlan, step: int) -> dict[str, float]:
    """Move every group to its rate at `step` (from 0), and say the rate of each."""
    factor = rate_factor(plan, step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def rate_factor(plan: TrainingPlan, step: int) -> float:
    """Linear warm-up to 1, then the schedule down to FLOOR at the last step; less while early."""
    early = plan.early_lr_factor if step < plan.early_lr_steps else 1.0
    return early * _scheduled(plan, step)


def _scheduled(plan: TrainingPlan, step: int) -> float:
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(plan.steps - plan.warmup_steps, 1)
    if plan.schedule == "constant":
        return 1.0
    fall = (1 + math.cos(math.pi * done)) / 2 if plan.schedule == "cosine" else 1 - done
    return FLOOR + (1 - FLOOR) * fall


def _rate(name: str, role: str, plan: TrainingPlan) -> tuple[float, str]:
    """A parameter's rate and the entry it comes from: a pattern before its role."""
    for pattern, rate in plan.rates.items():
        if pattern not in ROLES and fnmatchcase(name, pattern):
            return rate, pattern
    return plan.rates.get(role, plan.learning_rate), role
