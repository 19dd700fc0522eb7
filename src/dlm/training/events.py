"""What a run says while it goes: the one stream that the store, the command line and tests read.

    Started  (Staged | Step | Skipped | Listened | Checked | Saved | LeftOut)*  Finished

The trainer yields these and owns no files; `Saved` carries a function that writes the state into
the folder it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DEAF_GAP = 0.1  # nats per token; a model that hears loses several times as much


@dataclass(frozen=True)
class Started:
    """The run begins, or goes on from `step` of `steps`."""

    step: int
    steps: int
    trainable: int  # parameters that learn
    total: int  # parameters of the model


@dataclass(frozen=True)
class Staged:
    """A stage begins, or goes on: `stage` of `stages`; `train` are the roles that learn in it."""

    step: int
    stage: int
    stages: int
    steps: int  # of this stage
    train: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One optimiser step. `loss` is the cross entropy per label token; `seconds` is what it took.

    `teacher` is the divergence from the teacher's answer, per token of it; None without one.
    """

    step: int
    loss: float
    rates: dict[str, float]  # by role (encoder, projector, lm, lora) or pattern of names
    gradient_norm: float
    clips: int
    tokens: int  # label tokens
    audio_seconds: float
    seconds: float
    teacher: float | None = None
    stage: int = 1
    norms: dict[str, float] = field(default_factory=dict)  # of the gradient, by role
    changes: dict[str, float] = field(default_factory=dict)  # of weights by role, in their length


@dataclass(frozen=True)
class Fault:
    """Where a number first was not finite, and in which clips.

    `tensor` is the weight that is at it, where one is; `given` when the clip's sound was not finite
    to begin with.
    """

    module: str
    direction: Literal["forward", "backward"]
    clips: tuple[str, ...]
    tensor: str = ""
    given: bool = False

    def __str__(self) -> str:
        by = f" by {self.tensor}" if self.tensor else ""
        return f"first in {self.module} ({self.direction}){by}"


@dataclass(frozen=True)
class Skipped:
    """A step whose loss or gradient was not finite: nothing was learned from these clips."""

    step: int
    reason: str
    clips: tuple[str, ...]  # their places
    fault: Fault | None = None


@dataclass(frozen=True)
class LeftOut:
    """Clips that could not be used, of so many: before the first step, or on the way up to `step`.

    Each of `problems` is one line: where, what, the mend.
    """

    step: int
    clips: int
    of: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Listened:
    """Whether the model listens so far: its loss per token, and that with another clip's sound."""

    step: int
    loss: float
    shuffled: float
    clips: int

    @property
    def gap(self) -> float:
        """The listening gap, in nats per token: near zero the model ignores the sound."""
        return self.shuffled - self.loss


@dataclass(frozen=True)
class Checked:
    """The model was tried on held-out clips. `gap` is the listening gap, in loss per token."""

    step: int
    scores: dict[str, float]  # loss, shuffled_loss, gap, wer, cer: those that could be measured
    clips: int

    @property
    def deaf(self) -> bool:
        """Whether the gap is too small for a model that listens."""
        return self.scores.get("gap", DEAF_GAP) < DEAF_GAP


@dataclass(frozen=True)
class Saved:
    """A state to keep. `write` puts every file of it into an empty folder.

    `final` states are what a version is made of; the others only let a run go on.
    """

    step: int
    final: bool
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Finished:
    """The run is over."""

    step: int
    steps: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = "done"  # or "stopped"


Event = Started | Staged | Step | Skipped | Listened | Checked | Saved | LeftOut | Finished
