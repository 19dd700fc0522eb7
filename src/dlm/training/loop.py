"""One stretch of a run: what learns in it, one optimiser step after the other.

The loss of a step is the sum over all its label tokens, of every batch and every rank, divided by
their number: it does not depend on how the step is cut.
"""

import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dlm.batches.collate import Batch
from dlm.model.adapters import learning, role_of
from dlm.model.face import Model
from dlm.plan.plan import TrainingPlan
from dlm.training.events import Skipped, Step
from dlm.training.loss import Objective
from dlm.training.optim import optimiser, set_rates
from dlm.training.teacher import Teacher
from dlm.training.trace import find_fault

SEEDS = 1 << 63  # that torch knows
CHANGE_STEPS = 10  # from one look at what changed to the next, so that looking costs nothing
CHANGE_NUMBERS = 1 << 16  # of each tensor that are looked at, its first ones


class Loop:
    """Teaches what learns in `model` now; `first` is the step of the run that it begins at."""

    def __init__(
        self,
        model: Model,
        plan: TrainingPlan,
        accelerator: Accelerator,
        teacher: Teacher | None,
        *,
        first: int,
        stage: int,
    ) -> None:
        self.plan, self.model, self.first, self.stage = plan, model, first, stage
        self.accelerator = accelerator
        self.optimizer = optimiser(model, plan)
        self.roles: dict[str, list[nn.Parameter]] = {}
        for name, each in learning(model).items():
            self.roles.setdefault(role_of(name, model), []).append(each)
        together = len({each.device for each in model.parameters()}) == 1
        self.objective: Any = accelerator.prepare_model(
            Objective(model, teacher), device_placement=together
        )

    def step(self, number: int, batches: list[Batch]) -> Step | Skipped:
        """Learn from the batches of one step, or say why not."""
        began = time.monotonic()
        if not self.model.training:
            self.model.train()
        self._seed(number)
        rates = set_rates(self.optimizer, self.plan, number - self.first)
        tokens = self._sum(sum(batch.label_tokens for batch in batches))
        loss, apart, broken = self._backward(batches, tokens)
        self._wait(number)
        norms = self._norms()
        norm = math.hypot(*norms.values())
        if self._sum(len(broken)) or not math.isfinite(norm):
            return self._skipped(number, batches, broken, tokens)
        self._cut(norms)
        changes = self._learn(number)
        samples = self._sum(sum(batch.audio_samples for batch in batches))
        return Step(
            step=number + 1,
            loss=loss,
            teacher=apart,
            rates=rates,
            gradient_norm=norm,
            clips=self._sum(sum(len(batch.places) for batch in batches)),
            tokens=tokens,
            audio_seconds=samples / self.model.base.strides.rate,
            seconds=time.monotonic() - began,
            stage=self.stage,
            norms=norms,
            changes=changes,
        )

    def _seed(self, number: int) -> None:
        """Random numbers are a function of the run's seed and the step."""
        torch.manual_seed((self.plan.seed * 1_000_003 + number) % SEEDS)

    def _backward(
        self, batches: list[Batch], tokens: int
    ) -> tuple[float, float | None, tuple[str, ...]]:
        """Gradients of the whole step; its cross entropy per token and its distance from the
        teacher, per token that it answers, and clips whose loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total, broken = torch.zeros(3, device=self.accelerator.device), []
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.objective):
                rows = self.objective(batch.to(str(self.accelerator.device)))
                self.accelerator.backward(rows.learned.sum() * self._scale(tokens))
            total += torch.stack([each.sum() for each in (rows.said, rows.apart, rows.answered)])
            fine = rows.learned.isfinite().tolist()
            broken += [place for place, ok in zip(batch.places, fine, strict=True) if not ok]
        said, apart, labels = self.accelerator.reduce(total, "sum").tolist()
        return said / max(tokens, 1), apart / labels if labels else None, tuple(broken)

    def _scale(self, tokens: int) -> float:
        """What a loss counts in its step; ranks average the gradients they exchange."""
        ranks: int = self.accelerator.num_processes
        return ranks / max(tokens, 1)

    def _wait(self, number: int) -> None:
        """Leave the projector as it is in the first steps."""
        if number - self.first < self.plan.freeze_projector_steps:
            for each in self.roles.get("projector", ()):
                each.grad = None

    def _norms(self) -> dict[str, float]:
        """The length of the gradient by role, of those that have one."""
        grads = {
            role: [each.grad for each in members if each.grad is not None]
            for role, members in self.roles.items()
        }
        found = {role: get_total_norm(each) for role, each in grads.items() if each}
        return dict(zip(found, _numbers(list(found.values())), strict=True))

    def _cut(self, norms: dict[str, float]) -> None:
        """Shorten gradients over their limit: all of them together, or low-rank ones apart."""
        apart = self.plan.lora_max_gradient_norm
        limits = {role: self.plan.max_gradient_norm for role in norms}
        groups = [tuple(norms)]
        if apart is not None and "lora" in norms:
            limits["lora"] = apart
            groups = [("lora",), tuple(role for role in norms if role != "lora")]
        for group in filter(None, groups):
            norm = torch.tensor(math.hypot(*(norms[role] for role in group)))
            members = [each for role in group for each in self.roles[role]]
            clip_grads_with_norm_(members, limits[group[0]], norm)

    def _learn(self, number: int) -> dict[str, float]:
        """Take the step; every few steps say how far each role moved, as a share of its length."""
        if number % CHANGE_STEPS:
            self.optimizer.step()
            return {}
        before = {role: [_some(each).clone() for each in of] for role, of in self.roles.items()}
        self.optimizer.step()
        shares = []
        for role, members in self.roles.items():
            now = [_some(each) for each in members]
            moved = [new - old for new, old in zip(now, before[role], strict=True)]
            shares.append(get_total_norm(moved) / get_total_norm(now).clamp(min=1e-30))
        return dict(zip(self.roles, _numbers(shares), strict=True))

    def _skipped(
        self, number: int, batches: list[Batch], broken: tuple[str, ...], tokens: int
    ) -> Skipped:
        """Why nothing was learned, and where that began; the step is taken again to find it."""
        self._seed(number)
        device = str(self.accelerator.device)
        objective = self.accelerator.unwrap_model(self.objective, keep_fp32_wrapper=True)
        fault = find_fault(objective, [each.to(device) for each in batches], self._scale(tokens))
        self.optimizer.zero_grad(set_to_none=True)
        every = tuple(place for batch in batches for place in batch.places)
        named = broken or (fault.clips if fault else every)
        reason = "the loss is not finite" if broken else "the gradient is not finite"
        return Skipped(number + 1, reason, named, fault)

    def _sum(self, count: int) -> int:
        """A count over all ranks."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(mine, "sum"))


def _numbers(found: list[torch.Tensor]) -> list[float]:
    """Tensors of one number each as numbers, in one wait for the device."""
    if not found:
        return []
    numbers: list[float] = torch.stack([each.to(found[0].device) for each in found]).tolist()
    return numbers


def _some(parameter: torch.Tensor) -> torch.Tensor:
    """As much of a tensor as is looked at."""
    return parameter.detach().flatten()[:CHANGE_NUMBERS]
