"""The events of a training run, which the store, the command line and tests read.

    TrainingStarted
    (StageStarted | StepCompleted | StepSkipped | AudioGapEvaluated | Evaluated | CheckpointSaved
     | ExamplesSkipped)*
    TrainingFinished

Each is a line of the run's log, by its class and fields. The trainer owns no files:
`CheckpointSaved` carries the function that writes into a folder.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MIN_AUDIO_GAP = 0.1  # nats per token: models that use the audio have several times as much


@dataclass(frozen=True)
class TrainingStarted:
    """A run starts or resumes.

    Attributes:
        step: steps done before.
        num_steps: of the run.
        num_trainable: parameters that are trained.
        num_parameters: of the model.
    """

    step: int
    num_steps: int
    num_trainable: int
    num_parameters: int


@dataclass(frozen=True)
class StageStarted:
    """A stage starts or resumes.

    Attributes:
        step: steps of the run done before.
        stage: its number, from 1.
        num_stages: of the run.
        num_steps: of the stage.
        trainable_groups: parameter groups that are trained in it.
    """

    step: int
    stage: int
    num_stages: int
    num_steps: int
    trainable_groups: tuple[str, ...]


@dataclass(frozen=True)
class StepCompleted:
    """An optimizer step.

    Attributes:
        step: its number, from 1.
        loss: cross entropy per label token, in nats.
        learning_rates: by parameter group, or pattern of parameter names.
        grad_norm: before clipping.
        num_examples: of the step, on all ranks.
        num_label_tokens: tokens that carry loss.
        audio_seconds: of audio.
        seconds: that the step took.
        kl_loss: divergence from the teacher per token it answers; None without one.
        stage: the stage it belongs to, from 1.
        component_grad_norms: by parameter group.
        update_ratios: norm of the update over norm of the weights, by parameter group; empty in
            most steps.
    """

    step: int
    loss: float
    learning_rates: dict[str, float]
    grad_norm: float
    num_examples: int
    num_label_tokens: int
    audio_seconds: float
    seconds: float
    kl_loss: float | None = None
    stage: int = 1
    component_grad_norms: dict[str, float] = field(default_factory=dict)
    update_ratios: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NonFiniteOrigin:
    """Where a number was first not finite.

    Attributes:
        module: dotted name.
        direction: the forward or the backward pass.
        locations: of the examples.
        weight_name: the module's largest weight, where its input was finite; else empty.
        is_input_non_finite: whether the audio features were not finite to begin with.
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
    """A step whose loss or gradient was not finite; the weights stay as they are.

    Attributes:
        step: its number, from 1.
        reason: what was not finite.
        locations: of the examples that caused it.
        non_finite_origin: where it began, if that was found.
    """

    step: int
    reason: str
    locations: tuple[str, ...]
    non_finite_origin: NonFiniteOrigin | None = None


@dataclass(frozen=True)
class ExamplesSkipped:
    """Examples that could not be used.

    Attributes:
        step: 0 for those before the first step, else the last step.
        num_skipped: how many.
        num_examples: of how many.
        issues: one line each: where, what, hint.
    """

    step: int
    num_skipped: int
    num_examples: int
    issues: tuple[str, ...]


@dataclass(frozen=True)
class AudioGapEvaluated:
    """A measurement of the listening gap during training.

    Attributes:
        step: steps done.
        loss: per label token, in nats.
        shuffled_loss: with the audio of other examples.
        num_examples: measured on.
    """

    step: int
    loss: float
    shuffled_loss: float
    num_examples: int

    @property
    def audio_gap(self) -> float:
        """The listening gap, in nats per token: near zero, the model ignores the audio."""
        return self.shuffled_loss - self.loss


@dataclass(frozen=True)
class Evaluated:
    """The scores at the end of a run.

    Attributes:
        step: steps done.
        scores: loss, shuffled_loss, gap, wer, cer: those that could be measured.
        num_examples: measured on.
    """

    step: int
    scores: dict[str, float]
    num_examples: int

    @property
    def ignores_audio(self) -> bool:
        """Whether the listening gap is too small for a model that uses the audio."""
        return self.scores.get("gap", MIN_AUDIO_GAP) < MIN_AUDIO_GAP


@dataclass(frozen=True)
class CheckpointSaved:
    """Something to save.

    Attributes:
        step: steps done.
        is_final: whether it is the adapter of a version; else a checkpoint to resume from.
        write_fn: writes its files into an empty folder.
    """

    step: int
    is_final: bool
    write_fn: Callable[[Path], None]


@dataclass(frozen=True)
class ScoreDifference:
    """The score of a version beside that of another one, or of the base, on the same clips.

    Attributes:
        name: of the other: a version such as "v0001", or "base".
        num_clips: held-out clips.
        score: errors over words or characters; or nats per token.
        other_score: the same of the other.
        low: of the 95 % interval of `score` minus `other_score`.
        high: the same.
    """

    name: str
    num_clips: int
    score: float
    other_score: float
    low: float
    high: float

    @property
    def is_clearly_worse(self) -> bool:
        """Whether the whole interval lies above zero: lower scores are better."""
        return self.low > 0


@dataclass(frozen=True)
class VersionComparison:
    """Whether a version may replace the one that was in use when it was made.

    Attributes:
        current: name of the one in use.
        metric: "wer", "cer" or "loss"; empty where nothing could be compared.
        differences: from the one in use and from the base, those that were compared.
        reason: why one or both were not compared; empty where both were.
    """

    current: str
    metric: str
    differences: tuple[ScoreDifference, ...] = ()
    reason: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether it is clearly worse than none of them."""
        return not any(difference.is_clearly_worse for difference in self.differences)


@dataclass(frozen=True)
class TrainingFinished:
    """The run is over.

    Attributes:
        step: steps done.
        num_steps: of the run.
        seconds: since it started or resumed.
        scores: as of `Evaluated`.
        reason: "done" or "stopped".
        comparison: with the version in use, where there is one.
    """

    step: int
    num_steps: int
    seconds: float
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = "done"
    comparison: VersionComparison | None = None


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
