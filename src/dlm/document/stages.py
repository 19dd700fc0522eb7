"""Which fields a stage has: a stretch of the run in which some parts learn from some clips."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, Strict, model_validator

from dlm.document.record import Names, Positive, Record, Text, none_when_empty

Learner = Literal["projector", "lm", "lora", "encoder"]
Learners = Annotated[tuple[Learner, ...], Strict(False), Field(min_length=1)]


class Stage(Record):
    """A stretch of the run: of what the adapter holds, the parts that learn, and from what."""

    train: Learners = Field(
        description="What learns, of what the adapter holds: projector, lm, lora, encoder."
    )
    clips: Names = Field(
        default=(),
        description="Patterns of the places, recordings or tasks of its clips; all when empty.",
    )
    steps: int | None = Field(default=None, ge=1, description="How many steps it takes.")
    epochs: int | None = Field(
        default=None, ge=1, description="Passes over its clips; training.num_epochs when empty."
    )
    learning_rate: Positive | None = Field(
        default=None, description="Peak learning rate; training.learning_rate when empty."
    )
    rates: dict[Text, Positive] = Field(
        default_factory=dict, description="Learning rates by role or parameter pattern."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps and self.epochs:
            raise ValueError("steps and epochs exclude each other")
        return self


Stages = Annotated[tuple[Stage, ...], Strict(False), BeforeValidator(none_when_empty)]
