"""What a run says while it goes: the one stream that the store, the command line and tests read.

    Started  (Staged | Step | Skipped | Listened | Checked | Saved | LeftOut)*  Finished

The trainer yields these and owns no files; `Saved` carries a function that writes the state into
the folder it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MIN_AUDIO_GAP = 0.1  # nats per token; a model that hears loses several times as much


@dataclass(frozen=True)
class TrainingStarted:
    """The run begins, or goes on from `step` of `steps`."""

    step: int
    num_steps: int
    num_trainable: int  # parameters that learn
    num_parameters: int  # parameters of the model


@dataclass(frozen=True)
class StageStarted:
    """A stage begins, or goes on: `stage` of `stages`; `train` are the roles that learn in it."""

    step: int
    stage: int
    num_stages: int
    num_steps: int  # of this stage
    trainable_groups: tuple[str, ...]


@dataclass(frozen=True)
class StepCompleted:
    """One optimiser step. `loss` is the cross entropy per label token; `seconds` is what it took.

    `teacher` is the divergence from the teacher's answer, per token of it; None without one.
    """

    step: int
    loss: float
    learning_rates: dict[str, float]  # by role (encoder, projector, lm, lora) or pattern of names
    grad_norm: float
    num_examples: int
    num_label_tokens: int  # label tokens
    audio_seconds: float
    seconds: float
    kl_loss: float | None = None
    stage: int = 1
    component_grad_norms: dict[str, float] = field(default_factory=dict)  # of the gradient, by role
    update_ratios: dict[str, float] = field(
        default_factory=dict
    )  # of weights by role, in their length


@dataclass(frozen=True)
class NonFiniteOrigin:
    """Where a number first was not finite, and in which clips.

    `tensor` is the weight that is at it, where one is; `given` when the clip's sound was not finite
    to begin with.
    """

    module: str
    direction: Literal["forward", "backward"]
    locations: tuple[str, ...]
    weight_name: str = ""
    is_input_non_finite: bool = False

    def __str__(self) -> str:
        by = f" by {self.weight_name}" if self.weight_name else ""
        return f"first in {self.module} ({self.direction}){by}"


@dataclass(frozen=True)
class StepSkipped:
    """A step whose loss or gradient was not finite: nothing was learned from these clips."""

    step: int
    reason: str
    locations: tuple[str, ...]  # their places
    non_finite_origin: NonFiniteOrigin | None = None


@dataclass(frozen=True)
class ExamplesSkipped:
    """Clips that could not be used, of so many: before the first step, or on the way up to `step`.

    Each of `problems` is one line: where, what, the mend.
    """

    step: int
    num_skipped: int
    num_examples: int
    issues: tuple[str, ...]


@dataclass(frozen=True)
class AudioGapEvaluated:
    """Whether the model listens so far: its loss per token, and that with another clip's sound."""

    step: int
    loss: float
    shuffled_loss: float
    num_examples: int

    @property
    def audio_gap(self) -> float:
        """The listening gap, in nats per token: near zero the model ignores the sound."""
        return self.shuffled_loss - self.loss


@dataclass(frozen=True)
class Evaluated:
    """The model was tried on held-out clips. `gap` is the listening gap, in loss per token."""

    step: int
    scores: dict[str, float]  # loss, shuffled_loss, gap, wer, cer: those that could be measured
    num_examples: int

    @property
    def ignores_audio(self) -> bool:
        """Whether the gap is too small for a model that listens."""
        return self.scores.get("gap", MIN_AUDIO_GAP) < MIN_AUDIO_GAP


@dataclass(frozen=True)
class CheckpointSaved:
    """A state to keep. `write` puts every file of it into an empty folder.

    `final` states are what a version is made of; the others only let a run go on.
    """

    step: int
    is_final: bool
    write_fn: Callable[[Path], None]


@dataclass(frozen=True)
class TrainingFinished:
    """The run is over."""

    step: int
    num_steps: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = "done"  # or "stopped"


TrainingEvent = (
    TrainingStarted
    | StageStarted
    | StepCompleted
    | StepSkipped
    | AudioGapEvaluated
    | Evaluated
    | CheckpointSaved
    | ExamplesSkipped
    | TrainingFinished
)
