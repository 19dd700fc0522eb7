"""The loop: a generator of events that owns no files.

    Started -> (Step | Skipped | Saved)* -> Checked -> Saved(final) -> Finished

The loss of a step is the sum over all its label tokens, of every batch and every rank, divided by
their number: it does not depend on how the step is cut.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dlm.batches.bucket import Batches
from dlm.batches.collate import Batch
from dlm.errors import TrainingError
from dlm.model.adapters import learning
from dlm.model.face import Model
from dlm.plan.plan import TrainingPlan
from dlm.training.events import Checked, Event, Finished, Saved, Skipped, Started, Step
from dlm.training.loss import Objective
from dlm.training.optim import optimiser, set_rates
from dlm.training.state import read_state, write_state

SEEDS = 1 << 63  # that torch knows

Check = Callable[[], tuple[dict[str, float], int]]  # scores, and the clips they come from
Write = Callable[[Path], None]


@dataclass(frozen=True)
class Hooks:
    """What the caller lends a run.

    `finish` writes the version into a folder; `check` tries the model on held-out clips;
    `resume` is a state to go on from; `stop` is asked after every step.
    """

    finish: Write
    check: Check | None = None
    resume: Path | None = None
    stop: Callable[[], bool] = field(default=lambda: False)


def fit(model: Model, batches: Batches, plan: TrainingPlan, hooks: Hooks) -> Iterator[Event]:
    """Teach `model` for `plan.steps` steps.

    Raises TrainingError when too many steps in a row are not finite.
    """
    loop = _Loop(model, plan)
    done = read_state(model, loop.optimizer, hooks.resume) if hooks.resume else 0
    began = saved = time.monotonic()
    total = sum(each.numel() for each in model.parameters())
    yield Started(done, plan.steps, sum(each.numel() for each in loop.parameters), total)
    skips = 0
    share = (loop.accelerator.process_index, loop.accelerator.num_processes)
    for number, step in enumerate(batches.stream(done, plan.steps, share), start=done):
        event = loop.step(number, step)
        yield event
        skips = skips + 1 if isinstance(event, Skipped) else 0
        _enough(event, skips, plan.max_skipped_steps)
        if number + 1 == plan.steps:
            break
        stopped = hooks.stop()
        if stopped or _due(plan, number + 1, time.monotonic() - saved):
            yield Saved(number + 1, False, partial(loop.write, number + 1))
            saved = time.monotonic()
        if stopped:
            yield Finished(number + 1, plan.steps, time.monotonic() - began, reason="stopped")
            return
    model.eval()
    scores, clips = hooks.check() if hooks.check else ({}, 0)
    if scores:
        yield Checked(plan.steps, scores, clips)
    yield Saved(plan.steps, True, hooks.finish)
    yield Finished(plan.steps, plan.steps, time.monotonic() - began, scores)


class _Loop:
    """One optimiser step after the other."""

    def __init__(self, model: Model, plan: TrainingPlan) -> None:
        AcceleratorState._reset_state()  # a process may hold several runs
        self.plan, self.model = plan, model
        mixed = "bf16" if plan.precision == "bf16" else "no"
        self.accelerator = Accelerator(cpu=plan.device == "cpu", mixed_precision=mixed)
        self.optimizer = optimiser(model, plan)
        self.parameters = list(learning(model).values())
        together = len({each.device for each in model.parameters()}) == 1
        self.objective: Any = self.accelerator.prepare_model(
            Objective(model), device_placement=together
        )

    def step(self, number: int, batches: list[Batch]) -> Step | Skipped:
        """Learn from the batches of one step, or say why not."""
        began = time.monotonic()
        if not self.model.training:
            self.model.train()
        torch.manual_seed((self.plan.seed * 1_000_003 + number) % SEEDS)
        rates = set_rates(self.optimizer, self.plan, number)
        tokens = self._sum(sum(batch.label_tokens for batch in batches))
        loss, broken = self._backward(batches, tokens)
        norm = get_total_norm([each.grad for each in self.parameters if each.grad is not None])
        if self._sum(len(broken)) or not norm.isfinite():
            every = tuple(place for batch in batches for place in batch.places)
            reason = "the loss is not finite" if broken else "the gradient is not finite"
            return Skipped(number + 1, reason, broken or every)
        clip_grads_with_norm_(self.parameters, self.plan.max_gradient_norm, norm)
        self.optimizer.step()
        samples = self._sum(sum(batch.audio_samples for batch in batches))
        return Step(
            step=number + 1,
            loss=loss,
            rates=rates,
            gradient_norm=float(norm),
            clips=self._sum(sum(len(batch.places) for batch in batches)),
            tokens=tokens,
            audio_seconds=samples / self.model.base.strides.rate,
            seconds=time.monotonic() - began,
        )

    def _backward(self, batches: list[Batch], tokens: int) -> tuple[float, tuple[str, ...]]:
        """Gradients of the whole step; its loss per token, and clips whose loss is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        total, broken = torch.zeros((), device=self.accelerator.device), []
        ranks = self.accelerator.num_processes  # which average the gradients they exchange
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.objective):
                rows = self.objective(batch.to(str(self.accelerator.device)))
                self.accelerator.backward(rows.sum() * (ranks / max(tokens, 1)))
            total += rows.detach().sum()
            fine = rows.isfinite().tolist()
            broken += [place for place, ok in zip(batch.places, fine, strict=True) if not ok]
        loss = float(self.accelerator.reduce(total, "sum")) / max(tokens, 1)
        return loss, tuple(broken)

    def _sum(self, count: int) -> int:
        """A count over all ranks."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(mine, "sum"))

    def write(self, step: int, folder: Path) -> None:
        """Write the resumable state after `step` steps."""
        write_state(self.model, self.optimizer, step, folder)


def _due(plan: TrainingPlan, step: int, seconds: float) -> bool:
    """Whether it is time to save."""
    if plan.save_steps is not None:
        return step % plan.save_steps == 0
    return seconds >= plan.save_seconds


def _enough(event: Step | Skipped, skips: int, most: int) -> None:
    """Stop a run that has learned nothing for `most` steps in a row."""
    if isinstance(event, Skipped) and skips >= most:
        raise TrainingError(
            f"{skips} steps in a row were skipped: {event.reason}",
            where=", ".join(event.clips[:3]),
            mend="look at these clips with dlm check, or lower training.learning_rate",
        )
