"""Progress of long work: a bar in a terminal, lines in a log, Ctrl-C that stops after a step."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dlm.cli.console import print_line, print_progress_count, print_status
from dlm.cli.render import (
    format_count,
    format_duration,
    format_scores,
    print_comparison,
    print_data_summary,
    print_issues,
)

if TYPE_CHECKING:
    from dlm.commands.preflight import Preflight
    from dlm.training.events import Evaluated, StepCompleted, TrainingEvent, TrainingStarted

LOG_INTERVAL_SECONDS = 5.0
MAX_LOCATIONS = 5  # printed of a step that was skipped
EXIT_INTERRUPTED = 130
INTERRUPT_SECONDS = 1.0  # from Ctrl-C to the end of the process
IGNORES_AUDIO_WARNING = (
    "the model ignores the audio: its loss is as low with another clip's audio;"
    " check that transcripts belong to their clips, or train longer"
)


class StderrLogHandler(logging.Handler):
    """Prints the log of the `dlm` package, such as how much of a model is downloaded."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record on stderr."""
        print_status(record.getMessage())


def setup_logging() -> None:
    """Print the package's own log, and only errors of bitsandbytes."""
    logger = logging.getLogger("dlm")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [StderrLogHandler()]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it


def make_progress_fn() -> Callable[[int, int], None]:
    """Return what prints (number done, total) in a terminal, and nothing in a log."""
    return print_progress_count if sys.stderr.isatty() else lambda done, total: None


def exit_on_interrupt() -> None:
    """Let Ctrl-C end this process within two seconds, whatever its threads are doing.

    An exception of the main thread waits for threads, which may decode for minutes. Nothing is lost
    by an exit: whatever is kept appears by a rename.
    """

    def handle_interrupt(signal_number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(INTERRUPT_SECONDS, os._exit, [EXIT_INTERRUPTED])
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may ignore it
        signal.signal(signal.SIGINT, handle_interrupt)


def stop_on_interrupt() -> Callable[[], bool]:
    """Let the first Ctrl-C of a run stop it after the current step, and the second one at once.

    Before the run has begun there is nothing to save, and the first Ctrl-C stops at once.

    Returns:
        A function that says whether Ctrl-C was pressed during the run.
    """
    handler = _StopHandler()
    signal.signal(signal.SIGINT, handler)
    return lambda: handler.is_interrupted


class _StopHandler:
    """What Ctrl-C does in `dlm train`; `print_training` says when the run begins."""

    def __init__(self) -> None:
        self.is_training = self.is_interrupted = False
        self._handle_at_once = signal.getsignal(signal.SIGINT)

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self._handle_at_once)
        if self.is_training:
            self.is_interrupted = True
            print_status("stopping after this step; continue the run with --resume")
        elif callable(self._handle_at_once):
            self._handle_at_once(signal_number, frame)


def print_training(events: "Iterator[Any]", output_format: str) -> int:
    """Print the plan, the steps as they come, and the version; exit 130 when it was stopped."""
    from dlm.training.events import TrainingFinished, TrainingStarted

    preflight: Preflight = next(events)
    print_issues(preflight.issues)
    print_data_summary(preflight)
    progress_class = _BarProgress if sys.stderr.isatty() else _LineProgress
    progress = progress_class(
        scored_on_train=not preflight.held_out_examples,
        logging_steps=preflight.document.config.training.logging_steps,
        document_path=preflight.document.path,
    )
    exit_code = 0
    progress.wait("preparing the first step")
    try:
        for event in events:
            if isinstance(event, TrainingStarted) and isinstance(
                handler := signal.getsignal(signal.SIGINT), _StopHandler
            ):
                handler.is_training = True
            progress.handle_event(event)
            if isinstance(event, TrainingFinished) and event.reason == "stopped":
                exit_code = EXIT_INTERRUPTED
    finally:
        progress.close()
    return exit_code


class _LineProgress:
    """Lines for the events of a run.

    Args:
        scored_on_train: whether scores are of clips that were trained on.
        logging_steps: steps between two lines; None for a line every few seconds.
        document_path: of the document that is trained.
    """

    def __init__(
        self, *, scored_on_train: bool, logging_steps: int | None, document_path: Path
    ) -> None:
        self._scored_on_train, self._logging_steps = scored_on_train, logging_steps
        self._document_path = document_path
        self._num_steps, self._first_step = 0, 0
        self._started_at, self._printed_at = time.monotonic(), 0.0
        self._num_examples, self._audio_seconds = 0, 0.0

    def handle_event(self, event: "TrainingEvent | Any") -> None:
        """Print what a person follows of an event."""
        from dlm.training import events  # here, so that help does not wait for it

        match event:
            case events.TrainingStarted():
                self._start(event)
            case events.StepCompleted():
                self._num_examples += event.num_examples
                self._audio_seconds += event.audio_seconds
                self._show_step(event)
            case events.StepSkipped():
                origin = f", {event.non_finite_origin}" if event.non_finite_origin else ""
                locations = ", ".join(event.locations[:MAX_LOCATIONS])
                print_status(f"step {event.step} skipped: {event.reason}{origin}: {locations}")
            case events.StageStarted():
                groups = ", ".join(event.trainable_groups)
                stage = f"stage {event.stage} of {event.num_stages}: {groups}"
                print_status(f"{stage}, {format_count(event.num_steps, 'step')}")
            case events.AudioGapEvaluated():
                gap = f"listening gap {event.audio_gap:.3f}"
                print_status(f"step {event.step}/{self._num_steps}  {gap}")
            case events.Evaluated():
                self.close()
                self._print_scores(event)
            case events.ExamplesSkipped():
                if event.step:  # those before the first step are among the printed issues
                    count = f"{event.num_skipped:,} of {event.num_examples:,} clips"
                    what = f"{count} could not be used and were left out"
                    print_status(f"{what}: {event.issues[0]}", color="yellow")
            case events.TrainingFinished():
                self.close()
                stopped = event.reason == "stopped"
                end = "stopped" if stopped else "done"
                hint = "; continue with --resume" if stopped else ""
                step = f"after step {event.step} of {event.num_steps}"
                print_status(f"{end} {step}, {format_duration(event.seconds)}{hint}")
            case events.CheckpointSaved():
                pass
            case _:  # the version, the last item
                print_line(f"{event.name} is saved: {event.path}")
                print_comparison(event, self._document_path)

    def wait(self, reason: str) -> None:
        """Show that something is done, where a line of a log would say nothing."""

    def close(self) -> None:
        """End what is being drawn."""

    def _start(self, event: "TrainingStarted") -> None:
        self._num_steps, self._first_step = event.num_steps, event.step
        self._started_at = time.monotonic()
        print_status(f"{event.num_trainable:,} of {event.num_parameters:,} parameters are trained")
        if event.step:
            print_status(f"continuing after step {event.step}")

    def _show_step(self, event: "StepCompleted") -> None:
        """Print a line for a step when one is due."""
        if self._logging_steps is None:
            due = time.monotonic() - self._printed_at > LOG_INTERVAL_SECONDS
        else:
            due = event.step % self._logging_steps == 0
        if due or event.step == self._num_steps:
            self._printed_at = time.monotonic()
            print_status(f"step {event.step}/{self._num_steps}  {self._format_rates(event)}")

    def _format_rates(self, event: "StepCompleted") -> str:
        """Loss, throughput and remaining time."""
        seconds = max(time.monotonic() - self._started_at, 1e-9)
        seconds_per_step = seconds / (event.step - self._first_step)
        remaining = format_duration(seconds_per_step * (self._num_steps - event.step))
        rates = f"{self._num_examples / seconds:.1f} clips/s"
        rates += f"  {self._audio_seconds / seconds:.0f} s of audio/s"
        teacher = "" if event.kl_loss is None else f"teacher {event.kl_loss:.3f}  "
        return f"loss {event.loss:.3f}  {teacher}{rates}  {remaining} left"

    def _print_scores(self, event: "Evaluated") -> None:
        """Print the scores, and a warning when the model ignores the audio."""
        on_train = "it was trained on, none were held out"
        split = on_train if self._scored_on_train else "held out"
        count = format_count(event.num_examples, "clip")
        print_line(f"{count} {split}: {format_scores(event.scores)}")
        if event.ignores_audio:
            print_status(IGNORES_AUDIO_WARNING, color="red")


class _BarProgress(_LineProgress):
    """A progress bar in a terminal in place of a line for each step."""

    def __init__(
        self, *, scored_on_train: bool, logging_steps: int | None, document_path: Path
    ) -> None:
        super().__init__(
            scored_on_train=scored_on_train,
            logging_steps=logging_steps,
            document_path=document_path,
        )
        from rich.console import Console  # here, so that --help stays fast
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._spinner = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rates]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=None, rates="")

    def _show_step(self, event: "StepCompleted") -> None:
        """Move the bar; the first step shows it, the last one leaves it."""
        self._spinner.stop()
        self._bar.start()
        rates = self._format_rates(event)
        self._bar.update(self._task, total=self._num_steps, completed=event.step, rates=rates)
        if event.step == self._num_steps:
            self.close()
            self.wait("scoring the version")

    def wait(self, reason: str) -> None:
        """Show a spinner and the seconds it takes, until the next step or line of the end."""
        for task_id in self._spinner.task_ids:
            self._spinner.remove_task(task_id)
        self._spinner.add_task(reason, total=None)
        self._spinner.start()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._spinner.stop()
        self._bar.stop()
