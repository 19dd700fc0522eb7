"""One stretch of a run: what learns in it, one optimiser step after the other.

The loss of a step is the sum over all its label tokens, of every batch and every rank, divided by
their number: it does not depend on how the step is cut.

A run: a generator of events that owns no files.

    Started -> (Staged -> (Step | Skipped | Listened | Saved)*)*
            -> Checked -> Saved(final) -> Finished

A run without stages is one stretch, one with stages as many. How a step is taken is in loop.py.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dlm.batching.collator import Batch
from dlm.batching.samplers import DataCursor, RankSpec
from dlm.errors import TrainingError
from dlm.models.adapters import get_param_group, get_trainable_parameters, train_only
from dlm.models.audio_lm import AudioLanguageModel
from dlm.plan.types import TrainingPlan
from dlm.training.checkpoint import (
    TrainerState,
    load_optimizer_state,
    load_trainer_state,
    write_trainer_state,
)
from dlm.training.distillation import DistillationTeacher
from dlm.training.events import (
    AudioGapEvaluated,
    CheckpointSaved,
    Evaluated,
    StageStarted,
    StepCompleted,
    StepSkipped,
    TrainingEvent,
    TrainingFinished,
    TrainingStarted,
)
from dlm.training.loss import AudioLMLoss
from dlm.training.nan_debug import locate_non_finite
from dlm.training.optimizer import build_optimizer, set_learning_rates

MAX_SEED = 1 << 63  # that torch knows
UPDATE_RATIO_STEPS = 10  # from one look at what changed to the next, so that looking costs nothing
UPDATE_RATIO_SAMPLE_SIZE = 1 << 16  # of each tensor that are looked at, its first ones


class StageRunner:
    """Teaches what learns in `model` now; `first` is the step of the run that it begins at."""

    def __init__(
        self,
        model: AudioLanguageModel,
        plan: TrainingPlan,
        accelerator: Accelerator,
        teacher: DistillationTeacher | None,
        *,
        first_step: int,
        stage: int,
    ) -> None:
        self.plan, self.model, self.first_step, self.stage = plan, model, first_step, stage
        self.accelerator = accelerator
        self.optimizer = build_optimizer(model, plan)
        self.parameters_by_group: dict[str, list[nn.Parameter]] = {}
        for name, each in get_trainable_parameters(model).items():
            self.parameters_by_group.setdefault(get_param_group(name, model), []).append(each)
        together = len({each.device for each in model.parameters()}) == 1
        self.loss_module: Any = accelerator.prepare_model(
            AudioLMLoss(model, teacher), device_placement=together
        )

    def run_step(self, step: int, batches: list[Batch]) -> StepCompleted | StepSkipped:
        """Learn from the batches of one step, or say why not."""
        began = time.monotonic()
        if not self.model.training:
            self.model.train()
        self._seed_step(step)
        rates = set_learning_rates(self.optimizer, self.plan, step - self.first_step)
        tokens = self._sum_over_ranks(sum(batch.num_label_tokens for batch in batches))
        loss, apart, broken = self._compute_gradients(batches, tokens)
        self._drop_projector_gradients(step)
        norms = self._compute_grad_norms()
        norm = math.hypot(*norms.values())
        if self._sum_over_ranks(len(broken)) or not math.isfinite(norm):
            return self._make_skipped_event(step, batches, broken, tokens)
        self._clip_gradients(norms)
        changes = self._apply_optimizer_step(step)
        samples = self._sum_over_ranks(sum(batch.num_audio_samples for batch in batches))
        return StepCompleted(
            step=step + 1,
            loss=loss,
            kl_loss=apart,
            learning_rates=rates,
            grad_norm=norm,
            num_examples=self._sum_over_ranks(sum(len(batch.locations) for batch in batches)),
            num_label_tokens=tokens,
            audio_seconds=samples / self.model.spec.audio_spec.sample_rate,
            seconds=time.monotonic() - began,
            stage=self.stage,
            component_grad_norms=norms,
            update_ratios=changes,
        )

    def _seed_step(self, step: int) -> None:
        """Random numbers are a function of the run's seed and the step."""
        torch.manual_seed((self.plan.seed * 1_000_003 + step) % MAX_SEED)

    def _compute_gradients(
        self, batches: list[Batch], num_label_tokens: int
    ) -> tuple[float, float | None, tuple[str, ...]]:
        """Gradients of the whole step; its cross entropy per token and its distance from the
        teacher, per token that it answers, and clips whose loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total, broken = torch.zeros(3, device=self.accelerator.device), []
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.loss_module):
                rows = self.loss_module(batch.to(str(self.accelerator.device)))
                self.accelerator.backward(
                    rows.total_loss.sum() * self._get_loss_scale(num_label_tokens)
                )
            total += torch.stack(
                [each.sum() for each in (rows.ce_loss, rows.kl_loss, rows.num_distilled)]
            )
            fine = rows.total_loss.isfinite().tolist()
            broken += [place for place, ok in zip(batch.locations, fine, strict=True) if not ok]
        said, apart, labels = self.accelerator.reduce(total, "sum").tolist()
        return said / max(num_label_tokens, 1), apart / labels if labels else None, tuple(broken)

    def _get_loss_scale(self, num_label_tokens: int) -> float:
        """What a loss counts in its step; ranks average the gradients they exchange."""
        ranks: int = self.accelerator.num_processes
        return ranks / max(num_label_tokens, 1)

    def _drop_projector_gradients(self, step: int) -> None:
        """Leave the projector as it is in the first steps."""
        if step - self.first_step < self.plan.freeze_projector_steps:
            for each in self.parameters_by_group.get("projector", ()):
                each.grad = None

    def _compute_grad_norms(self) -> dict[str, float]:
        """The length of the gradient by role, of those that have one."""
        grads = {
            role: [each.grad for each in members if each.grad is not None]
            for role, members in self.parameters_by_group.items()
        }
        found = {role: get_total_norm(each) for role, each in grads.items() if each}
        return dict(zip(found, _to_floats(list(found.values())), strict=True))

    def _clip_gradients(self, grad_norms: dict[str, float]) -> None:
        """Shorten gradients over their limit: all of them together, or low-rank ones apart."""
        apart = self.plan.lora_max_grad_norm
        limits = {role: self.plan.max_grad_norm for role in grad_norms}
        groups = [tuple(grad_norms)]
        if apart is not None and "lora" in grad_norms:
            limits["lora"] = apart
            groups = [("lora",), tuple(role for role in grad_norms if role != "lora")]
        for group in filter(None, groups):
            norm = torch.tensor(math.hypot(*(grad_norms[role] for role in group)))
            members = [each for role in group for each in self.parameters_by_group[role]]
            clip_grads_with_norm_(members, limits[group[0]], norm)

    def _apply_optimizer_step(self, step: int) -> dict[str, float]:
        """Take the step; every few steps say how far each role moved, as a share of its length."""
        if step % UPDATE_RATIO_STEPS:
            self.optimizer.step()
            return {}
        before = {
            role: [_sample_values(each).clone() for each in of]
            for role, of in self.parameters_by_group.items()
        }
        self.optimizer.step()
        shares = []
        for role, members in self.parameters_by_group.items():
            now = [_sample_values(each) for each in members]
            moved = [new - old for new, old in zip(now, before[role], strict=True)]
            shares.append(get_total_norm(moved) / get_total_norm(now).clamp(min=1e-30))
        return dict(zip(self.parameters_by_group, _to_floats(shares), strict=True))

    def _make_skipped_event(
        self, step: int, batches: list[Batch], locations: tuple[str, ...], num_label_tokens: int
    ) -> StepSkipped:
        """Why nothing was learned, and where that began; the step is taken again to find it."""
        self._seed_step(step)
        device = str(self.accelerator.device)
        objective = self.accelerator.unwrap_model(self.loss_module, keep_fp32_wrapper=True)
        fault = locate_non_finite(
            objective, [each.to(device) for each in batches], self._get_loss_scale(num_label_tokens)
        )
        self.optimizer.zero_grad(set_to_none=True)
        every = tuple(place for batch in batches for place in batch.locations)
        named = locations or (fault.locations if fault else every)
        reason = "the loss is not finite" if locations else "the gradient is not finite"
        return StepSkipped(step + 1, reason, named, fault)

    def _sum_over_ranks(self, count: int) -> int:
        """A count over all ranks."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(mine, "sum"))


def _to_floats(tensors: list[torch.Tensor]) -> list[float]:
    """Tensors of one number each as numbers, in one wait for the device."""
    if not tensors:
        return []
    numbers: list[float] = torch.stack([each.to(tensors[0].device) for each in tensors]).tolist()
    return numbers


def _sample_values(parameter: torch.Tensor) -> torch.Tensor:
    """As much of a tensor as is looked at."""
    return parameter.detach().flatten()[:UPDATE_RATIO_SAMPLE_SIZE]


EvaluateFn = Callable[[], tuple[dict[str, float], int]]  # scores, and the clips they come from
AudioGapFn = Callable[[], tuple[float, float, int] | None]  # both losses of the gap, and its clips
SaveVersionFn = Callable[[Path], None]


class BatchSource(Protocol):
    """What yields the batches of steps `start` to `stop` that fall to one rank.

    `cursor` says where the data stand then, and is empty where the step says it.
    """

    def iter_batches(
        self, start_step: int, stop_step: int, rank_spec: RankSpec, cursor: DataCursor
    ) -> Iterator[list[Batch]]:
        """Each step's batches, in order."""

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Where the data stand after so many steps."""


@dataclass(frozen=True)
class TrainerCallbacks:
    """What the caller lends a run.

    `finish` writes the version into a folder; `check` tries the model on held-out clips, `listen`
    measures its listening gap on the way; `resume` is a state to go on from; `stop` is asked after
    every step; `teacher` answers what is read. With `trace_nan` the first number that is not finite
    ends the run.
    """

    save_version_fn: SaveVersionFn
    evaluate_fn: EvaluateFn | None = None
    audio_gap_fn: AudioGapFn | None = None
    resume_dir: Path | None = None
    stop_fn: Callable[[], bool] = field(default=lambda: False)
    teacher: DistillationTeacher | None = None
    trace_nan: bool = False


def train_model(
    model: AudioLanguageModel, batches: BatchSource, plan: TrainingPlan, callbacks: TrainerCallbacks
) -> Iterator[TrainingEvent]:
    """Teach `model` for `plan.steps` steps.

    Raises TrainingError when too many steps in a row are not finite.
    """
    run = _Trainer(model, batches, plan, callbacks)
    yield run.make_started_event()
    for stage, stretch in enumerate(plan.stage_training_plans, start=1):
        stopped = yield from run.run_stage(stretch, stage)
        if stopped:
            yield run.make_finished_event(reason="stopped")
            return
    model.eval()
    scores, clips = callbacks.evaluate_fn() if callbacks.evaluate_fn else ({}, 0)
    if scores:
        yield Evaluated(plan.num_steps, scores, clips)
    yield CheckpointSaved(plan.num_steps, True, callbacks.save_version_fn)
    yield run.make_finished_event(scores)


class _Trainer:
    """Where a run stands: the steps `done`, and all that learns in any of its stretches."""

    def __init__(
        self,
        model: AudioLanguageModel,
        batches: BatchSource,
        plan: TrainingPlan,
        callbacks: TrainerCallbacks,
    ) -> None:
        AcceleratorState._reset_state()  # a process may hold several runs
        self.model, self.batches, self.plan, self.callbacks = model, batches, plan, callbacks
        mixed = "bf16" if plan.precision == "bf16" else "no"
        self.accelerator = Accelerator(cpu=plan.device == "cpu", mixed_precision=mixed)
        self.rank_spec = (self.accelerator.process_index, self.accelerator.num_processes)
        self.trainable_parameters = get_trainable_parameters(model)
        for (
            stretch
        ) in plan.stage_training_plans:  # a rate for nothing is told before the first step
            with train_only(model, stretch.trainable_groups):
                build_optimizer(model, stretch)
        self.state = (
            load_trainer_state(self.trainable_parameters, callbacks.resume_dir)
            if callbacks.resume_dir
            else TrainerState()
        )
        self.num_steps_done, self.num_consecutive_skips = self.state.step, 0
        self.cursors = self._check_cursors(self.state)
        self.started_at = self.last_saved_at = time.monotonic()

    def make_started_event(self) -> TrainingStarted:
        """Where the run begins, and how much learns."""
        learned = sum(each.numel() for each in self.trainable_parameters.values())
        total = sum(each.numel() for each in self.model.parameters())
        return TrainingStarted(self.num_steps_done, self.plan.num_steps, learned, total)

    def make_finished_event(
        self, scores: dict[str, float] | None = None, reason: str = "done"
    ) -> TrainingFinished:
        """How far it came."""
        seconds = time.monotonic() - self.started_at
        return TrainingFinished(
            self.num_steps_done, self.plan.num_steps, seconds, scores or {}, reason
        )

    def run_stage(
        self, stage_plan: TrainingPlan, stage: int
    ) -> Generator[TrainingEvent, None, bool]:
        """What is left of one stretch; whether it was stopped."""
        first = sum(each.num_steps for each in self.plan.stage_training_plans[: stage - 1])
        last = first + stage_plan.num_steps
        if self.num_steps_done >= last:
            return False
        if self.plan.stages:
            yield StageStarted(
                self.num_steps_done,
                stage,
                len(self.plan.stages),
                stage_plan.num_steps,
                stage_plan.trainable_groups,
            )
        with train_only(self.model, stage_plan.trainable_groups):
            teacher = self.callbacks.teacher
            loop = StageRunner(
                self.model, stage_plan, self.accelerator, teacher, first_step=first, stage=stage
            )
            if self.num_steps_done > first:
                load_optimizer_state(self.trainable_parameters, loop.optimizer, self.state)
            start, cursor = (
                self.num_steps_done,
                self.cursors[self.rank_spec[0]] if self.cursors else (),
            )
            steps = self.batches.iter_batches(start, last, self.rank_spec, cursor)
            for number, step in enumerate(steps, start):
                event = loop.run_step(number, step)
                self.num_steps_done = number + 1
                self.cursors = self._gather_cursors()
                yield event
                self._check_skipped_steps(event)
                if self.num_steps_done == self.plan.num_steps:
                    break
                yield from self._evaluate_audio_gap()
                stopped = self.callbacks.stop_fn()
                if stopped or self._is_save_due():
                    yield CheckpointSaved(
                        self.num_steps_done,
                        False,
                        partial(self._write_checkpoint, loop, self.num_steps_done),
                    )
                    self.last_saved_at = time.monotonic()
                if stopped:
                    return True
        return False

    def _evaluate_audio_gap(self) -> Iterator[AudioGapEvaluated]:
        """The listening gap, when it is time for it and there are sounds to exchange."""
        if self.callbacks.audio_gap_fn and self.num_steps_done % self.plan.audio_gap_steps == 0:
            self.model.eval()
            found = self.callbacks.audio_gap_fn()
            if found:
                yield AudioGapEvaluated(self.num_steps_done, *found)

    def _write_checkpoint(self, stage_runner: StageRunner, step: int, checkpoint_dir: Path) -> None:
        """Write the resumable state after `step` steps."""
        write_trainer_state(
            self.trainable_parameters,
            stage_runner.optimizer,
            step,
            checkpoint_dir,
            cursors=self.cursors,
        )

    def _check_cursors(self, state: TrainerState) -> tuple[DataCursor, ...]:
        """Where every process stands. Raises TrainingError where there are others now."""
        before, now = len(state.cursors), self.rank_spec[1]
        if before not in (0, now):
            what = f"the run was of {before} process{'es' * (before > 1)}, and now there are {now}"
            raise TrainingError(what, hint="start as many, or start over with --fresh")
        return state.cursors

    def _gather_cursors(self) -> tuple[DataCursor, ...]:
        """Where every process stands in a stream: each knows all, so that any can save."""
        mine = self.batches.get_cursor(self.num_steps_done)
        if not mine or self.rank_spec[1] == 1:
            return (mine,) if mine else ()
        told = torch.tensor([mine], device=self.accelerator.device)
        return tuple(map(tuple, self.accelerator.gather(told).tolist()))

    def _is_save_due(self) -> bool:
        """Whether it is time to save."""
        if self.plan.save_steps is not None:
            return self.num_steps_done % self.plan.save_steps == 0
        return time.monotonic() - self.last_saved_at >= self.plan.save_interval_seconds

    def _check_skipped_steps(self, event: StepCompleted | StepSkipped) -> None:
        """Stop a run that learned nothing for too many steps in a row, or that is traced."""
        self.num_consecutive_skips = (
            self.num_consecutive_skips + 1 if isinstance(event, StepSkipped) else 0
        )
        if not isinstance(event, StepSkipped):
            return
        where, fault = (
            ", ".join(event.locations[:3]),
            f", {event.non_finite_origin}" if event.non_finite_origin else "",
        )
        if self.callbacks.trace_nan:
            what = f"step {event.step}: {event.reason}{fault}"
            mend = "mend what is named, or lower training.learning_rate"
            raise TrainingError(what, where=where, hint=mend)
        if self.num_consecutive_skips >= self.plan.max_skipped_steps:
            what = (
                f"{self.num_consecutive_skips} steps in a row were skipped: {event.reason}{fault}"
            )
            mend = "look at these clips with dlm check, or lower training.learning_rate"
            raise TrainingError(what, where=where, hint=mend)
