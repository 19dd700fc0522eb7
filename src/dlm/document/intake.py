"""How recordings are taken in: other rates, long clips, and what is done to them on the way."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dlm.document.augment import Augment
from dlm.document.record import Record, defaults_when_empty

LongClips = Literal["split", "error", "truncate"]


class Audio(Record):
    """How recordings are taken in."""

    auto_resample: bool = Field(
        default=False, description="Convert other sample rates to the base's instead of refusing."
    )
    long_clips: LongClips = Field(
        default="split",
        description="Clips longer than the base hears at once: split, error or truncate.",
    )
    augment: Annotated[Augment, BeforeValidator(defaults_when_empty)] = Field(
        default_factory=Augment, description="What each pass changes of the clips it learns from."
    )

    @property
    def most_windows(self) -> int | None:
        """How many windows of a clip are heard; None for all of them."""
        return 1 if self.long_clips == "truncate" else None
