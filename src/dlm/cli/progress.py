"""Long work as it goes: a bar in a terminal, plain lines in a log; Ctrl-C asks it to stop."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dlm.cli.render import (
    format_duration,
    format_scores,
    print_data_summary,
    print_issues,
    print_result,
    print_status,
)
from dlm.commands.preflight import Preflight
from dlm.training.events import (
    AudioGapEvaluated,
    CheckpointSaved,
    Evaluated,
    ExamplesSkipped,
    StageStarted,
    StepCompleted,
    StepSkipped,
    TrainingFinished,
    TrainingStarted,
)

LOG_INTERVAL_SECONDS = 5.0  # between two lines of a log


class StderrLogHandler(logging.Handler):
    """Tells what the rooms log of long work, such as how much is fetched."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it among the remarks."""
        print_status(record.getMessage())


def setup_logging() -> None:
    """Print what they log, from now on, and not what a library tells of itself."""
    logger = logging.getLogger("dlm")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [StderrLogHandler()]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as soon as peft finds it


def make_progress_fn() -> Callable[[int, int], None]:
    """Tell how much of a count is done, on one line that is rewritten; silent in a log."""
    shown = sys.stderr.isatty()

    def told(done: int, total: int) -> None:
        if shown:
            end = "\n" if done == total else ""
            print(f"\r{done:,} of {total:,} clips", end=end, file=sys.stderr, flush=True)

    return told


def stop_on_interrupt() -> Callable[[], bool]:
    """Let the first Ctrl-C end the step and save; the second one kills."""
    asked: list[int] = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.append(number)
        print_status("stopping after this step; the run can go on with --resume")

    signal.signal(signal.SIGINT, interrupted)
    return lambda: bool(asked)


def print_training(events: Iterator[Any], output_format: str) -> int:
    """The plan, the steps as they go, and what came of them."""
    checked: Preflight = next(events)
    print_issues(checked.issues)
    print_data_summary(checked)
    kind = _BarProgress if sys.stderr.isatty() else _LineProgress
    asked = checked.document.config.training
    shown = kind(scored_on_train=not checked.held_out_examples, logging_steps=asked.logging_steps)
    code = 0
    try:
        for event in events:
            shown.handle_event(event)
            if isinstance(event, TrainingFinished):
                code = 130 if event.reason == "stopped" else 0
    finally:
        shown.close()
    return code


class _LineProgress:
    """Plain lines, `every` so many steps or else a few seconds apart.

    `learned` is when scores are of clips it learned from.
    """

    def __init__(self, *, scored_on_train: bool, logging_steps: int | None) -> None:
        self.scored_on_train, self.logging_steps = scored_on_train, logging_steps
        self.total_steps, self.last_printed, self.started_at, self.first_step = (
            0,
            0.0,
            time.monotonic(),
            0,
        )
        self.num_examples, self.audio_seconds = 0, 0.0

    def handle_event(self, event: Any) -> None:
        """Print what matters of an event."""
        if isinstance(event, TrainingStarted):
            self.total_steps, self.first_step, self.started_at = (
                event.num_steps,
                event.step,
                time.monotonic(),
            )
            print_status(f"{event.num_trainable:,} of {event.num_parameters:,} parameters learn")
            if event.step:
                print_status(f"going on after step {event.step}")
        elif isinstance(event, StepCompleted):
            self.num_examples += event.num_examples
            self.audio_seconds += event.audio_seconds
            self.show_step(event)
        elif isinstance(event, StepSkipped):
            fault = f", {event.non_finite_origin}" if event.non_finite_origin else ""
            told = f"step {event.step} skipped: {event.reason}{fault}"
            print_status(f"{told}: {', '.join(event.locations[:5])}")
        elif isinstance(event, StageStarted):
            told = f"stage {event.stage} of {event.num_stages}: {', '.join(event.trainable_groups)}"
            print_status(f"{told}, {event.num_steps:,} steps")
        elif isinstance(event, AudioGapEvaluated):
            print_status(
                f"step {event.step}/{self.total_steps}  listening gap {event.audio_gap:.3f}"
            )
        elif isinstance(event, Evaluated):
            self.close()
            _print_scores(event, scored_on_train=self.scored_on_train)
        elif isinstance(event, ExamplesSkipped):
            if event.step:  # what was left out before the first step is among the problems
                _print_skipped(event)
        elif isinstance(event, TrainingFinished):
            self.close()
            stopped = event.reason == "stopped"
            word = "stopped, to go on with --resume," if stopped else "done"
            print_status(
                f"{word} after step {event.step} of "
                f"{event.num_steps}, {format_duration(event.seconds)}"
            )
        elif not isinstance(event, CheckpointSaved):
            print_result(f"{event.name} is kept: {event.path}")

    def show_step(self, event: StepCompleted) -> None:
        """A line for a step, when it is time for one."""
        due = time.monotonic() - self.last_printed > LOG_INTERVAL_SECONDS
        if self.logging_steps is not None:
            due = event.step % self.logging_steps == 0
        if due or event.step == self.total_steps:
            self.last_printed = time.monotonic()
            print_status(f"step {event.step}/{self.total_steps}  {self.format_progress(event)}")

    def format_progress(self, event: StepCompleted) -> str:
        """Loss, speed and time left."""
        spent = max(time.monotonic() - self.started_at, 1e-9)
        left = spent / (event.step - self.first_step) * (self.total_steps - event.step)
        speed = (
            f"{self.num_examples / spent:.1f} clips/s  "
            f"{self.audio_seconds / spent:.0f} s of sound/s"
        )
        taught = "" if event.kl_loss is None else f"teacher {event.kl_loss:.3f}  "
        return f"loss {event.loss:.3f}  {taught}{speed}  {format_duration(left)} left"

    def close(self) -> None:
        """Nothing is open."""


class _BarProgress(_LineProgress):
    """A bar that moves, in a terminal."""

    def __init__(self, *, scored_on_train: bool, logging_steps: int | None) -> None:
        super().__init__(scored_on_train=scored_on_train, logging_steps=logging_steps)
        from rich.console import Console  # here, so that --help stays instant
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("step"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        ends = (TextColumn("{task.fields[rates]}"),)
        self.bar = Progress(*columns, *ends, console=Console(stderr=True))
        self.task = self.bar.add_task("", total=None, rates="")

    def show_step(self, event: StepCompleted) -> None:
        """Move the bar; the first step shows it."""
        self.bar.start()
        self.bar.update(
            self.task,
            total=self.total_steps,
            completed=event.step,
            rates=self.format_progress(event),
        )
        if event.step == self.total_steps:
            self.close()  # what comes next is told in lines

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


def _print_skipped(event: ExamplesSkipped) -> None:
    """How many clips turned out not to be usable, and the first of them."""
    told = (
        f"{event.num_skipped:,} of {event.num_examples:,} clips could not be used and were left out"
    )
    print_status(f"{told}: {event.issues[0]}", color="yellow")


def _print_scores(event: Evaluated, *, scored_on_train: bool) -> None:
    """How well clips are heard, and whether the model listens at all."""
    count = f"{event.num_examples:,} clip{'s' * (event.num_examples != 1)}"
    whose = (
        f"{count} it learned from, none were held out" if scored_on_train else f"{count} held out"
    )
    print_result(f"{whose}: {format_scores(event.scores)}")
    if event.ignores_audio:
        print_status(
            "the model ignores the audio: another clip's sound serves it as well;"
            " check that transcripts belong to their clips, or train longer",
            color="red",
        )
