"""A run: a generator of events that owns no files.

    Started -> (Staged -> (Step | Skipped | Listened | Saved)*)*
            -> Checked -> Saved(final) -> Finished

A run without stages is one stretch, one with stages as many. How a step is taken is in loop.py.
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from dlm.batches.bucket import Cursor, Share
from dlm.batches.collate import Batch
from dlm.errors import TrainingError
from dlm.model.adapters import learning, only
from dlm.model.face import Model
from dlm.plan.plan import TrainingPlan
from dlm.training.events import (
    Checked,
    Event,
    Finished,
    Listened,
    Saved,
    Skipped,
    Staged,
    Started,
    Step,
)
from dlm.training.loop import Loop
from dlm.training.optim import optimiser
from dlm.training.state import State, place_moments, read_state, write_state
from dlm.training.teacher import Teacher

Check = Callable[[], tuple[dict[str, float], int]]  # scores, and the clips they come from
Listen = Callable[[], tuple[float, float, int] | None]  # both losses of the gap, and its clips
Write = Callable[[Path], None]


class Stream(Protocol):
    """What yields the batches of steps `start` to `stop` that fall to one rank.

    `cursor` says where the data stand then, and is empty where the step says it.
    """

    def stream(self, start: int, stop: int, share: Share, cursor: Cursor) -> Iterator[list[Batch]]:
        """Each step's batches, in order."""

    def cursor(self, done: int) -> Cursor:
        """Where the data stand after so many steps."""


@dataclass(frozen=True)
class Hooks:
    """What the caller lends a run.

    `finish` writes the version into a folder; `check` tries the model on held-out clips, `listen`
    measures its listening gap on the way; `resume` is a state to go on from; `stop` is asked after
    every step; `teacher` answers what is read. With `trace_nan` the first number that is not finite
    ends the run.
    """

    finish: Write
    check: Check | None = None
    listen: Listen | None = None
    resume: Path | None = None
    stop: Callable[[], bool] = field(default=lambda: False)
    teacher: Teacher | None = None
    trace_nan: bool = False


def fit(model: Model, batches: Stream, plan: TrainingPlan, hooks: Hooks) -> Iterator[Event]:
    """Teach `model` for `plan.steps` steps.

    Raises TrainingError when too many steps in a row are not finite.
    """
    run = _Run(model, batches, plan, hooks)
    yield run.started()
    for stage, stretch in enumerate(plan.stretches, start=1):
        stopped = yield from run.stretch(stretch, stage)
        if stopped:
            yield run.finished(reason="stopped")
            return
    model.eval()
    scores, clips = hooks.check() if hooks.check else ({}, 0)
    if scores:
        yield Checked(plan.steps, scores, clips)
    yield Saved(plan.steps, True, hooks.finish)
    yield run.finished(scores)


class _Run:
    """Where a run stands: the steps `done`, and all that learns in any of its stretches."""

    def __init__(self, model: Model, batches: Stream, plan: TrainingPlan, hooks: Hooks) -> None:
        AcceleratorState._reset_state()  # a process may hold several runs
        self.model, self.batches, self.plan, self.hooks = model, batches, plan, hooks
        mixed = "bf16" if plan.precision == "bf16" else "no"
        self.accelerator = Accelerator(cpu=plan.device == "cpu", mixed_precision=mixed)
        self.share = (self.accelerator.process_index, self.accelerator.num_processes)
        self.slots = learning(model)
        for stretch in plan.stretches:  # a rate for nothing is told before the first step
            with only(model, stretch.train):
                optimiser(model, stretch)
        self.state = read_state(self.slots, hooks.resume) if hooks.resume else State()
        self.done, self.skips = self.state.step, 0
        self.cursors = self._cursors_of(self.state)
        self.began = self.saved = time.monotonic()

    def started(self) -> Started:
        """Where the run begins, and how much learns."""
        learned = sum(each.numel() for each in self.slots.values())
        total = sum(each.numel() for each in self.model.parameters())
        return Started(self.done, self.plan.steps, learned, total)

    def finished(self, scores: dict[str, float] | None = None, reason: str = "done") -> Finished:
        """How far it came."""
        seconds = time.monotonic() - self.began
        return Finished(self.done, self.plan.steps, seconds, scores or {}, reason)

    def stretch(self, plan: TrainingPlan, stage: int) -> Generator[Event, None, bool]:
        """What is left of one stretch; whether it was stopped."""
        first = sum(each.steps for each in self.plan.stretches[: stage - 1])
        last = first + plan.steps
        if self.done >= last:
            return False
        if self.plan.stages:
            yield Staged(self.done, stage, len(self.plan.stages), plan.steps, plan.train)
        with only(self.model, plan.train):
            teacher = self.hooks.teacher
            loop = Loop(self.model, plan, self.accelerator, teacher, first=first, stage=stage)
            if self.done > first:
                place_moments(self.slots, loop.optimizer, self.state)
            start, cursor = self.done, self.cursors[self.share[0]] if self.cursors else ()
            steps = self.batches.stream(start, last, self.share, cursor)
            for number, step in enumerate(steps, start):
                event = loop.step(number, step)
                self.done = number + 1
                self.cursors = self._every_cursor()
                yield event
                self._endure(event)
                if self.done == self.plan.steps:
                    break
                yield from self._listened()
                stopped = self.hooks.stop()
                if stopped or self._due():
                    yield Saved(self.done, False, partial(self._write, loop, self.done))
                    self.saved = time.monotonic()
                if stopped:
                    return True
        return False

    def _listened(self) -> Iterator[Listened]:
        """The listening gap, when it is time for it and there are sounds to exchange."""
        if self.hooks.listen and self.done % self.plan.listen_steps == 0:
            self.model.eval()
            found = self.hooks.listen()
            if found:
                yield Listened(self.done, *found)

    def _write(self, loop: Loop, step: int, folder: Path) -> None:
        """Write the resumable state after `step` steps."""
        write_state(self.slots, loop.optimizer, step, folder, cursors=self.cursors)

    def _cursors_of(self, state: State) -> tuple[Cursor, ...]:
        """Where every process stands. Raises TrainingError where there are others now."""
        before, now = len(state.cursors), self.share[1]
        if before not in (0, now):
            what = f"the run was of {before} process{'es' * (before > 1)}, and now there are {now}"
            raise TrainingError(what, mend="start as many, or start over with --fresh")
        return state.cursors

    def _every_cursor(self) -> tuple[Cursor, ...]:
        """Where every process stands in a stream: each knows all, so that any can save."""
        mine = self.batches.cursor(self.done)
        if not mine or self.share[1] == 1:
            return (mine,) if mine else ()
        told = torch.tensor([mine], device=self.accelerator.device)
        return tuple(map(tuple, self.accelerator.gather(told).tolist()))

    def _due(self) -> bool:
        """Whether it is time to save."""
        if self.plan.save_steps is not None:
            return self.done % self.plan.save_steps == 0
        return time.monotonic() - self.saved >= self.plan.save_seconds

    def _endure(self, event: Step | Skipped) -> None:
        """Stop a run that learned nothing for too many steps in a row, or that is traced."""
        self.skips = self.skips + 1 if isinstance(event, Skipped) else 0
        if not isinstance(event, Skipped):
            return
        where, fault = ", ".join(event.clips[:3]), f", {event.fault}" if event.fault else ""
        if self.hooks.trace_nan:
            what = f"step {event.step}: {event.reason}{fault}"
            mend = "mend what is named, or lower training.learning_rate"
            raise TrainingError(what, where=where, mend=mend)
        if self.skips >= self.plan.max_skipped_steps:
            what = f"{self.skips} steps in a row were skipped: {event.reason}{fault}"
            mend = "look at these clips with dlm check, or lower training.learning_rate"
            raise TrainingError(what, where=where, mend=mend)
