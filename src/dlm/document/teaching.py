"""Which fields a teacher has: the language model itself, which reads what the student hears."""

from pydantic import Field

from dlm.document.record import Positive, Record


class Teacher(Record):
    """What the language model answers to the words of a sound, and how much of it is learned.

    Temperature and the weight of the end are those of Ultravox (Fixie 2024).
    """

    weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the loss that the language model's own answer to the transcript "
        "makes up: 0 is no teacher, 1 the teacher alone.",
    )
    temperature: Positive = Field(
        default=2.0, description="Both answers are flattened by this before they are compared."
    )
    end_weight: float = Field(
        default=1.0,
        ge=0,
        description="What the token that ends a turn weighs besides, against all of them together.",
    )
    top_k: int = Field(
        default=64,
        ge=1,
        description="How many of the teacher's likeliest words are kept; all others are one.",
    )
