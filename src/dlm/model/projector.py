"""From what the encoders heard to what the language model reads.

`concat` lays k frames side by side, so that one token holds k encoder frames, and maps them through
two linear layers (SLAM-ASR, Ma et al. 2024); sparrow's has GELU between them and a norm after.
"""

from typing import Any

import torch
from torch import nn

from dlm.model.face import Features
from dlm.plan.frames import Strides, ceil_div


class Concat(nn.Module):
    """Concatenate `stride` frames, then Linear, GELU, Linear, RMSNorm."""

    def __init__(self, *, width: int, stride: int, hidden: int, out: int) -> None:
        super().__init__()
        self.stride = stride
        self.enter = nn.Linear(width * stride, hidden)
        self.leave = nn.Linear(hidden, out)
        self.norm = nn.RMSNorm(out, eps=1e-6)

    def forward(self, features: Features) -> torch.Tensor:
        """(sounds, frames, width) -> (audio tokens of all sounds, out)."""
        sounds, frames, width = features.values.shape
        steps = ceil_div(frames, self.stride)
        values = nn.functional.pad(features.values, (0, 0, 0, steps * self.stride - frames))
        stacked = values.reshape(sounds, steps, self.stride * width)
        used = -(-features.frames // self.stride)  # tokens of each sound
        kept = torch.arange(steps, device=used.device) < used[:, None]
        embeddings = self.leave(nn.functional.gelu(self.enter(stacked[kept])))
        exact: torch.Tensor = self.norm(embeddings.float())  # a norm in bf16 would lose the scale
        return exact


PROJECTORS = {"concat": Concat}


def projector_of(
    shape: dict[str, Any], *, heard: tuple[tuple[int, int], ...], strides: Strides, out: int
) -> nn.Module:
    """The projector that `shape` describes: its kind and what that kind takes.

    `heard` are the hidden states of a frame and their width, of each encoder.
    """
    options = dict(shape)
    width = sum(layers * width for layers, width in heard)
    return PROJECTORS[options.pop("kind")](
        width=width, stride=strides.projector, out=out, **options
    )
