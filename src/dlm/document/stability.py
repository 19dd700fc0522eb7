"""Which fields keep a run from breaking, and what a run endures before it stops.

They are those of system C, a Qwen3 that was taught to hear: what joins two models learns from
nothing, and is the first to overflow.
"""

from typing import Literal

from pydantic import Field

from dlm.document.record import Positive, Record


class Stability(Record):
    """What keeps a run from breaking, and what it endures before it stops."""

    max_skipped_steps: int = Field(
        default=5, ge=1, description="Stop after this many steps skipped for non-finite numbers."
    )
    projector_fp32: bool = Field(
        default=False, description="Compute the projector in fp32, whatever the precision."
    )
    lora_fp32: bool = Field(
        default=False, description="Compute low-rank weights in fp32, whatever the precision."
    )
    lora_init_scale: Positive = Field(
        default=1.0, description="Low-rank weights start this many times as large as usual."
    )
    lora_max_grad_norm: Positive | None = Field(
        default=None,
        description="Longer gradients of low-rank weights are cut to this, on their own.",
    )
    early_lr_factor: Positive = Field(
        default=0.1, le=1, description="What rates are multiplied by in the early steps."
    )
    early_lr_steps: int = Field(
        default=0, ge=0, description="How many steps are early, of the run or of each stage."
    )
    freeze_projector_steps: int = Field(
        default=0, ge=0, description="Steps that the projector waits, of the run or of each stage."
    )
    encoder_device: Literal["cpu"] | None = Field(
        default=None, description="cpu keeps the encoder there, wherever the rest runs."
    )
