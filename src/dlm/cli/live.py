"""Long work as it goes: a bar in a terminal, plain lines in a log; Ctrl-C asks it to stop."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dlm.cli.checked import problems
from dlm.cli.tell import answer, length, remark, scores, summary
from dlm.training.events import (
    Checked,
    Finished,
    LeftOut,
    Listened,
    Saved,
    Skipped,
    Staged,
    Started,
    Step,
)

LINE_SECONDS = 5.0  # between two lines of a log


class Remarks(logging.Handler):
    """Tells what the rooms log of long work, such as how much is fetched."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it among the remarks."""
        remark(record.getMessage())


def hear_the_rooms() -> None:
    """Print what they log, from now on, and not what a library tells of itself."""
    logger = logging.getLogger("dlm")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [Remarks()]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as soon as peft finds it


def progress() -> Callable[[int, int], None]:
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
        remark("stopping after this step; the run can go on with --resume")

    signal.signal(signal.SIGINT, interrupted)
    return lambda: bool(asked)


def train(events: Iterator[Any], form: str) -> int:
    """The plan, the steps as they go, and what came of them."""
    checked = next(events)
    problems(checked.problems)
    summary(checked)
    kind = _Bar if sys.stderr.isatty() else _Lines
    asked = checked.document.settings.training
    shown = kind(learned=not checked.held_out, every=asked.logging_steps)
    code = 0
    try:
        for event in events:
            shown.show(event)
            if isinstance(event, Finished):
                code = 130 if event.reason == "stopped" else 0
    finally:
        shown.close()
    return code


class _Lines:
    """Plain lines, `every` so many steps or else a few seconds apart.

    `learned` is when scores are of clips it learned from.
    """

    def __init__(self, *, learned: bool, every: int | None) -> None:
        self.learned, self.every = learned, every
        self.total, self.told, self.began, self.first = 0, 0.0, time.monotonic(), 0
        self.clips, self.audio = 0, 0.0

    def show(self, event: Any) -> None:
        """Print what matters of an event."""
        if isinstance(event, Started):
            self.total, self.first, self.began = event.steps, event.step, time.monotonic()
            remark(f"{event.trainable:,} of {event.total:,} parameters learn")
            if event.step:
                remark(f"going on after step {event.step}")
        elif isinstance(event, Step):
            self.clips += event.clips
            self.audio += event.audio_seconds
            self.step(event)
        elif isinstance(event, Skipped):
            fault = f", {event.fault}" if event.fault else ""
            told = f"step {event.step} skipped: {event.reason}{fault}"
            remark(f"{told}: {', '.join(event.clips[:5])}")
        elif isinstance(event, Staged):
            told = f"stage {event.stage} of {event.stages}: {', '.join(event.train)}"
            remark(f"{told}, {event.steps:,} steps")
        elif isinstance(event, Listened):
            remark(f"step {event.step}/{self.total}  listening gap {event.gap:.3f}")
        elif isinstance(event, Checked):
            self.close()
            _scores(event, learned=self.learned)
        elif isinstance(event, LeftOut):
            if event.step:  # what was left out before the first step is among the problems
                _left_out(event)
        elif isinstance(event, Finished):
            self.close()
            stopped = event.reason == "stopped"
            word = "stopped, to go on with --resume," if stopped else "done"
            remark(f"{word} after step {event.step} of {event.steps}, {length(event.seconds)}")
        elif not isinstance(event, Saved):
            answer(f"{event.name} is kept: {event.path}")

    def step(self, event: Step) -> None:
        """A line for a step, when it is time for one."""
        due = time.monotonic() - self.told > LINE_SECONDS
        if self.every is not None:
            due = event.step % self.every == 0
        if due or event.step == self.total:
            self.told = time.monotonic()
            remark(f"step {event.step}/{self.total}  {self.rates(event)}")

    def rates(self, event: Step) -> str:
        """Loss, speed and time left."""
        spent = max(time.monotonic() - self.began, 1e-9)
        left = spent / (event.step - self.first) * (self.total - event.step)
        speed = f"{self.clips / spent:.1f} clips/s  {self.audio / spent:.0f} s of sound/s"
        taught = "" if event.teacher is None else f"teacher {event.teacher:.3f}  "
        return f"loss {event.loss:.3f}  {taught}{speed}  {length(left)} left"

    def close(self) -> None:
        """Nothing is open."""


class _Bar(_Lines):
    """A bar that moves, in a terminal."""

    def __init__(self, *, learned: bool, every: int | None) -> None:
        super().__init__(learned=learned, every=every)
        from rich.console import Console  # here, so that --help stays instant
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("step"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        ends = (TextColumn("{task.fields[rates]}"),)
        self.bar = Progress(*columns, *ends, console=Console(stderr=True))
        self.task = self.bar.add_task("", total=None, rates="")

    def step(self, event: Step) -> None:
        """Move the bar; the first step shows it."""
        self.bar.start()
        self.bar.update(self.task, total=self.total, completed=event.step, rates=self.rates(event))
        if event.step == self.total:
            self.close()  # what comes next is told in lines

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


def _left_out(event: LeftOut) -> None:
    """How many clips turned out not to be usable, and the first of them."""
    told = f"{event.clips:,} of {event.of:,} clips could not be used and were left out"
    remark(f"{told}: {event.problems[0]}", style="yellow")


def _scores(event: Checked, *, learned: bool) -> None:
    """How well clips are heard, and whether the model listens at all."""
    count = f"{event.clips:,} clip{'s' * (event.clips != 1)}"
    whose = f"{count} it learned from, none were held out" if learned else f"{count} held out"
    answer(f"{whose}: {scores(event.scores)}")
    if event.deaf:
        remark(
            "the model ignores the audio: another clip's sound serves it as well;"
            " check that transcripts belong to their clips, or train longer",
            style="red",
        )
