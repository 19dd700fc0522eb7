"""The training loop: a generator of events that owns no files.

    TrainingStarted
    -> for each stage: StageStarted -> StepCompleted or StepSkipped, AudioGapEvaluated,
                                       CheckpointSaved ...
    -> CheckpointSaved -> Evaluated -> CheckpointSaved(is_final) -> TrainingFinished

What was learned is saved before it is scored: a run that ends while it is scored resumes there.

A run without stages is one stage without a StageStarted. The loss of a step is the sum over the
label tokens of all its batches and ranks, divided by their number: it does not depend on how the
step is cut. A step whose loss or gradient is not finite is skipped: gradients are dropped.
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
from dlm.training.ctc import CtcLoss
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

MAX_SEED = 1 << 63  # of torch
UPDATE_RATIO_STEPS = 10  # between two measurements of update ratios, so that they cost nothing
UPDATE_RATIO_SAMPLE_SIZE = 1 << 16  # values of each tensor that are measured, its first ones

EvaluateFn = Callable[[], tuple[dict[str, float], int]]  # scores, number of examples
# loss, loss with shuffled audio, number of examples; None without two recordings to exchange
AudioGapFn = Callable[[], tuple[float, float, int] | None]
SaveVersionFn = Callable[[Path], None]


class BatchSource(Protocol):
    """What the trainer takes its batches from."""

    def iter_batches(
        self, start_step: int, stop_step: int, rank_spec: RankSpec, cursor: DataCursor
    ) -> Iterator[list[Batch]]:
        """Yield the micro batches of each step for one rank; `cursor` is that of `start_step`."""

    def get_cursor(self, num_steps: int) -> DataCursor:
        """Return the position in the data after so many steps; empty where the step tells it."""


@dataclass(frozen=True)
class TrainerCallbacks:
    """What the caller does for a run.

    Attributes:
        save_version_fn: writes the version into a folder.
        evaluate_fn: scores the model on held-out examples at the end.
        audio_gap_fn: measures the listening gap during training.
        resume_dir: the checkpoint to resume from.
        stop_fn: is called after every step; whether the run stops with a checkpoint.
        teacher: for distillation.
        ctc: for CTC.
        trace_nan: whether the first non-finite number ends the run.
    """

    save_version_fn: SaveVersionFn
    evaluate_fn: EvaluateFn | None = None
    audio_gap_fn: AudioGapFn | None = None
    resume_dir: Path | None = None
    stop_fn: Callable[[], bool] = field(default=lambda: False)
    teacher: DistillationTeacher | None = None
    ctc: CtcLoss | None = None
    trace_nan: bool = False


def train_model(
    model: AudioLanguageModel, batches: BatchSource, plan: TrainingPlan, callbacks: TrainerCallbacks
) -> Iterator[TrainingEvent]:
    """Train a model, and yield the events of the run.

    Raises:
        PlanError: a learning rate matches no parameter (`plan.unused_rate`).
        TrainingError: too many consecutive steps, or all of them, are not finite
            (`training.non_finite`), or the checkpoint does not fit (`training.bad_checkpoint`,
            `training.other_plan`, `training.other_process_count`).
    """
    trainer = _Trainer(model, batches, plan, callbacks)
    yield trainer.make_started_event()
    for stage, stage_plan in enumerate(plan.stage_training_plans, start=1):
        stopped = yield from trainer.run_stage(stage_plan, stage)
        if stopped:
            yield trainer.make_finished_event(reason="stopped")
            return
    trainer.require_learned()
    model.eval()
    if callbacks.evaluate_fn and trainer.runner:
        yield trainer.make_checkpoint_event(trainer.runner)
    scores, num_examples = callbacks.evaluate_fn() if callbacks.evaluate_fn else ({}, 0)
    if scores:
        yield Evaluated(plan.num_steps, scores, num_examples)
    yield CheckpointSaved(plan.num_steps, True, callbacks.save_version_fn)
    yield trainer.make_finished_event(scores)


class _Trainer:
    """A run: the steps done so far, and the parameters that any of its stages trains."""

    def __init__(
        self,
        model: AudioLanguageModel,
        batches: BatchSource,
        plan: TrainingPlan,
        callbacks: TrainerCallbacks,
    ) -> None:
        AcceleratorState._reset_state()  # a process may train several times
        self.model, self.batches, self.plan, self.callbacks = model, batches, plan, callbacks
        mixed_precision = "bf16" if plan.precision == "bf16" else "no"
        self.accelerator = Accelerator(cpu=plan.device == "cpu", mixed_precision=mixed_precision)
        self.rank_spec = (self.accelerator.process_index, self.accelerator.num_processes)
        self.trainable_parameters = get_trainable_parameters(model)
        for stage_plan in plan.stage_training_plans:  # raises for a rate that matches nothing
            with train_only(model, stage_plan.trainable_groups):
                build_optimizer(model, stage_plan)
        self.state = (
            load_trainer_state(self.trainable_parameters, callbacks.resume_dir)
            if callbacks.resume_dir
            else TrainerState()
        )
        self.num_steps_done, self.num_consecutive_skips = self.state.step, 0
        self.has_learned = bool(self.state.optimizer_moments)
        self.last_skip: StepSkipped | None = None
        self.cursors = self.state.cursors
        if len(self.cursors) not in (0, self.rank_spec[1]):
            count = len(self.cursors)
            raise TrainingError(
                f"the run had {count} process{'es' * (count > 1)}, "
                f"and now there are {self.rank_spec[1]}",
                hint="start as many processes, or start over with --fresh",
                code="training.other_process_count",
            )
        self.started_at = self.last_saved_at = time.monotonic()
        self.runner: _StageRunner | None = None  # of the stage that was begun last

    def make_started_event(self) -> TrainingStarted:
        """Make the first event."""
        num_trainable = sum(each.numel() for each in self.trainable_parameters.values())
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return TrainingStarted(
            self.num_steps_done, self.plan.num_steps, num_trainable, num_parameters
        )

    def make_finished_event(
        self, scores: dict[str, float] | None = None, reason: str = "done"
    ) -> TrainingFinished:
        """Make the last event."""
        seconds = time.monotonic() - self.started_at
        return TrainingFinished(
            self.num_steps_done, self.plan.num_steps, seconds, scores or {}, reason
        )

    def run_stage(
        self, stage_plan: TrainingPlan, stage: int
    ) -> Generator[TrainingEvent, None, bool]:
        """Train the steps of a stage that are left; return whether the run was stopped."""
        first = sum(plan.num_steps for plan in self.plan.stage_training_plans[: stage - 1])
        end = first + stage_plan.num_steps
        if self.num_steps_done >= end:
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
            self.runner = runner = _StageRunner(
                self.model,
                stage_plan,
                self.accelerator,
                self.callbacks,
                first_step=first,
                stage=stage,
            )
            if self.num_steps_done > first:
                load_optimizer_state(self.trainable_parameters, runner.optimizer, self.state)
            start = self.num_steps_done
            cursor = self.cursors[self.rank_spec[0]] if self.cursors else ()
            steps = self.batches.iter_batches(start, end, self.rank_spec, cursor)
            for step, batches in enumerate(steps, start):
                event = runner.run_step(step, batches)
                self.num_steps_done = step + 1
                self.cursors = self._gather_cursors()
                yield event
                self._check_skipped_steps(event)
                if self.num_steps_done == self.plan.num_steps:
                    break
                yield from self._evaluate_audio_gap()
                stopped = self.callbacks.stop_fn()
                if stopped or self._is_save_due():
                    yield self.make_checkpoint_event(runner)
                    self.last_saved_at = time.monotonic()
                if stopped:
                    return True
        return False

    def _evaluate_audio_gap(self) -> Iterator[AudioGapEvaluated]:
        if self.callbacks.audio_gap_fn and self.num_steps_done % self.plan.audio_gap_steps == 0:
            self.model.eval()
            losses = self.callbacks.audio_gap_fn()
            if losses:
                yield AudioGapEvaluated(self.num_steps_done, *losses)

    def make_checkpoint_event(self, runner: "_StageRunner") -> CheckpointSaved:
        """Make the event of a checkpoint to resume from."""
        write_fn = partial(
            write_trainer_state,
            self.trainable_parameters,
            runner.optimizer,
            self.num_steps_done,
            cursors=self.cursors,
        )
        return CheckpointSaved(self.num_steps_done, False, write_fn)

    def _gather_cursors(self) -> tuple[DataCursor, ...]:
        """The stream position of every rank: each knows all, so that any can save."""
        cursor = self.batches.get_cursor(self.num_steps_done)
        if not cursor or self.rank_spec[1] == 1:
            return (cursor,) if cursor else ()
        cursors = torch.tensor([cursor], device=self.accelerator.device)
        return tuple(map(tuple, self.accelerator.gather(cursors).tolist()))

    def _is_save_due(self) -> bool:
        if self.plan.save_steps is not None:
            return self.num_steps_done % self.plan.save_steps == 0
        return time.monotonic() - self.last_saved_at >= self.plan.save_interval_seconds

    def _check_skipped_steps(self, event: StepCompleted | StepSkipped) -> None:
        """End a run that skipped too many consecutive steps, or one step if it is traced."""
        if isinstance(event, StepCompleted):
            self.num_consecutive_skips, self.has_learned = 0, True
            return
        self.num_consecutive_skips, self.last_skip = self.num_consecutive_skips + 1, event
        if self.callbacks.trace_nan:
            what, hint = f"step {event.step}: {event.reason}", "correct what is named"
        elif self.num_consecutive_skips >= self.plan.max_skipped_steps:
            what = f"{self.num_consecutive_skips} steps in a row were skipped: {event.reason}"
            hint = "look at these clips with dlm check"
        else:
            return
        raise self._make_non_finite_error(event, what, hint)

    def require_learned(self) -> None:
        """Refuse to make a version of a run none of whose steps changed a weight."""
        if self.last_skip and not self.has_learned:
            what = f"every step was skipped, so nothing was learned: {self.last_skip.reason}"
            hint = "look at these clips with dlm check"
            raise self._make_non_finite_error(self.last_skip, what, hint)

    @staticmethod
    def _make_non_finite_error(event: StepSkipped, what: str, hint: str) -> TrainingError:
        origin = f", {event.non_finite_origin}" if event.non_finite_origin else ""
        return TrainingError(
            what + origin,
            where=", ".join(event.locations[:3]),
            hint=f"{hint}, or lower training.learning_rate",
            code="training.non_finite",
        )


class _StageRunner:
    """Takes the optimizer steps of one stage.

    Args:
        model: the parameters that are trainable now are trained.
        plan: of the stage.
        accelerator: devices, mixed precision, ranks.
        callbacks: have what else the loss needs.
        first_step: the step of the run that the stage begins at.
        stage: its number, from 1.
    """

    def __init__(
        self,
        model: AudioLanguageModel,
        plan: TrainingPlan,
        accelerator: Accelerator,
        callbacks: TrainerCallbacks,
        *,
        first_step: int,
        stage: int,
    ) -> None:
        self.plan, self.model, self.first_step, self.stage = plan, model, first_step, stage
        self.accelerator = accelerator
        self.optimizer = build_optimizer(model, plan)
        self.parameters_by_group: dict[str, list[nn.Parameter]] = {}
        for name, parameter in get_trainable_parameters(model).items():
            group = get_param_group(name, model)
            self.parameters_by_group.setdefault(group, []).append(parameter)
        is_on_one_device = len({parameter.device for parameter in model.parameters()}) == 1
        loss_module = AudioLMLoss(
            model, callbacks.teacher, ctc=callbacks.ctc, ctc_weight=plan.ctc_weight
        )
        self.loss_module: Any = accelerator.prepare_model(
            loss_module, device_placement=is_on_one_device
        )

    def run_step(self, step: int, batches: list[Batch]) -> StepCompleted | StepSkipped:
        """Train on the micro batches of a step, counted from 0, unless it is not finite."""
        started_at = time.monotonic()
        if not self.model.training:
            self.model.train()
        self._seed_step(step)
        learning_rates = set_learning_rates(self.optimizer, self.plan, step - self.first_step)
        num_labels = self._sum_over_ranks(sum(batch.num_label_tokens for batch in batches))
        ce_loss, kl_loss, bad_locations = self._compute_gradients(batches, num_labels)
        if step - self.first_step < self.plan.freeze_projector_steps:
            for parameter in self.parameters_by_group.get("projector", ()):
                parameter.grad = None
        norms = self._compute_grad_norms()
        norm = math.hypot(*norms.values())
        if self._sum_over_ranks(len(bad_locations)) or not math.isfinite(norm):
            return self._skip_step(step, batches, bad_locations, num_labels)
        self._clip_gradients(norms)
        update_ratios = self._apply_optimizer_step(step)
        num_samples = self._sum_over_ranks(sum(batch.num_audio_samples for batch in batches))
        return StepCompleted(
            step=step + 1,
            loss=ce_loss,
            kl_loss=kl_loss,
            learning_rates=learning_rates,
            grad_norm=norm,
            num_examples=self._sum_over_ranks(sum(len(batch.locations) for batch in batches)),
            num_label_tokens=num_labels,
            audio_seconds=num_samples / self.model.spec.audio_spec.sample_rate,
            seconds=time.monotonic() - started_at,
            stage=self.stage,
            component_grad_norms=norms,
            update_ratios=update_ratios,
        )

    def _seed_step(self, step: int) -> None:
        """Random numbers are a function of the run's seed and the step."""
        torch.manual_seed((self.plan.seed * 1_000_003 + step) % MAX_SEED)

    def _compute_gradients(
        self, batches: list[Batch], num_labels: int
    ) -> tuple[float, float | None, tuple[str, ...]]:
        """Compute the gradients of a step.

        Returns:
            Cross entropy per label token, divergence from the teacher per token it answers, and
            locations of examples whose loss is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        device = self.accelerator.device
        sums = torch.zeros(3, device=device)
        bad_locations: list[str] = []
        for number, batch in enumerate(batches, start=1):
            is_last = number == len(batches)
            with nullcontext() if is_last else self.accelerator.no_sync(self.loss_module):
                losses = self.loss_module(batch.to(str(device)))
                loss = losses.total_loss.sum() * self._get_loss_scale(num_labels)
                self.accelerator.backward(loss)
            sums += torch.stack(
                [losses.ce_loss.sum(), losses.kl_loss.sum(), losses.num_distilled.sum()]
            )
            is_finite = losses.total_loss.isfinite().tolist()
            bad_locations += [
                location
                for location, finite in zip(batch.locations, is_finite, strict=True)
                if not finite
            ]
        ce_loss, kl_loss, num_distilled = self.accelerator.reduce(sums, "sum").tolist()
        mean_kl_loss = kl_loss / num_distilled if num_distilled else None
        return ce_loss / max(num_labels, 1), mean_kl_loss, tuple(bad_locations)

    def _get_loss_scale(self, num_labels: int) -> float:
        """What a summed loss is multiplied by; ranks average the gradients they exchange."""
        num_ranks: int = self.accelerator.num_processes
        return num_ranks / max(num_labels, 1)

    def _compute_grad_norms(self) -> dict[str, float]:
        """The gradient norm of each parameter group that has gradients."""
        gradients = {
            group: [parameter.grad for parameter in members if parameter.grad is not None]
            for group, members in self.parameters_by_group.items()
        }
        norms = {group: get_total_norm(members) for group, members in gradients.items() if members}
        return dict(zip(norms, _to_floats(list(norms.values())), strict=True))

    def _clip_gradients(self, norms: dict[str, float]) -> None:
        """Scale gradients down to their maximum norm: all together, or LoRA's by themselves."""
        clipped_together = [(tuple(norms), self.plan.max_grad_norm)]
        if self.plan.lora_max_grad_norm is not None and "lora" in norms:
            others = tuple(group for group in norms if group != "lora")
            clipped_together = [(("lora",), self.plan.lora_max_grad_norm)]
            clipped_together += [(others, self.plan.max_grad_norm)] if others else []
        for groups, max_norm in clipped_together:
            norm = torch.tensor(math.hypot(*(norms[group] for group in groups)))
            members = [each for group in groups for each in self.parameters_by_group[group]]
            clip_grads_with_norm_(members, max_norm, norm)

    def _apply_optimizer_step(self, step: int) -> dict[str, float]:
        """Take the optimizer step.

        Returns:
            Every few steps: norm of the update over norm of the weights, by parameter group.
        """
        if step % UPDATE_RATIO_STEPS:
            self.optimizer.step()
            return {}
        before = {
            group: [_sample_values(parameter).clone() for parameter in members]
            for group, members in self.parameters_by_group.items()
        }
        self.optimizer.step()
        ratios = []
        for group, members in self.parameters_by_group.items():
            after = [_sample_values(parameter) for parameter in members]
            updates = [new - old for new, old in zip(after, before[group], strict=True)]
            ratios.append(get_total_norm(updates) / get_total_norm(after).clamp(min=1e-30))
        return dict(zip(self.parameters_by_group, _to_floats(ratios), strict=True))

    def _skip_step(
        self, step: int, batches: list[Batch], bad_locations: tuple[str, ...], num_labels: int
    ) -> StepSkipped:
        """Drop the gradients, and run the step again to find the first non-finite number."""
        self._seed_step(step)
        device = str(self.accelerator.device)
        origin = locate_non_finite(
            self.accelerator.unwrap_model(self.loss_module, keep_fp32_wrapper=True),
            [batch.to(device) for batch in batches],
            self._get_loss_scale(num_labels),
        )
        self.optimizer.zero_grad(set_to_none=True)
        all_locations = tuple(location for batch in batches for location in batch.locations)
        locations = bad_locations or (origin.locations if origin else all_locations)
        reason = "the loss is not finite" if bad_locations else "the gradient is not finite"
        return StepSkipped(step + 1, reason, locations, origin)

    def _sum_over_ranks(self, count: int) -> int:
        counts = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.reduce(counts, "sum"))


def _to_floats(scalars: list[torch.Tensor]) -> list[float]:
    """Scalar tensors as numbers, with one synchronization of the device."""
    if not scalars:
        return []
    values: list[float] = torch.stack([each.to(scalars[0].device) for each in scalars]).tolist()
    return values


def _sample_values(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.detach().flatten()[:UPDATE_RATIO_SAMPLE_SIZE]
