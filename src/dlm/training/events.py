"""What a run says while it goes: the one stream that the store, the command line and tests read.

    Started  (Step | Skipped | Checked | Saved)*  Finished

The trainer yields these and owns no files; `Saved` carries a function that writes the state into
the folder it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

DEAF_GAP = 0.1  # nats per token; a model that hears loses several times as much


@dataclass(frozen=True)
class Started:
    """The run begins, or goes on from `step` of `steps`."""

    step: int
    steps: int
    trainable: int  # parameters that learn
    total: int  # parameters of the model


@dataclass(frozen=True)
class Step:
    """One optimiser step. `loss` is per label token; `seconds` is what the step took."""

    step: int
    loss: float
    rates: dict[str, float]  # by role (encoder, projector, lm, lora) or pattern of names
    gradient_norm: float
    clips: int
    tokens: int  # label tokens
    audio_seconds: float
    seconds: float


@dataclass(frozen=True)
class Skipped:
    """A step whose loss or gradient was not finite: nothing was learned from these clips."""

    step: int
    reason: str
    clips: tuple[str, ...]  # their places


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


Event = Started | Step | Skipped | Checked | Saved | Finished
