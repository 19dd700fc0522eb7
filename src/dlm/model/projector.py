"""From what the encoders heard to what the language model reads.

    hidden states --weighed--> one of each encoder --side by side--> frames --groups of `stride`-->
    a kind's own layers --factor--> tokens

A sound's last group is completed with zeros. The kinds, their options and sizes are in
plan/projectors.py.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from dlm.errors import BaseError
from dlm.model.face import Features
from dlm.plan import projectors as kinds
from dlm.plan.frames import Strides, ceil_div

EPSILON = 1e-6
NORM_START = 0.4  # Ultravox: smaller than 1 learns better (Zhang et al. 2022, arXiv 2206.10139)
PROBES = 256  # groups that a scale is measured on


class Projector(nn.Module, ABC):
    """What all kinds share; a kind says how a group of frames becomes tokens."""

    factor: torch.Tensor | None

    def __init__(
        self, shape: kinds.Shape, *, heard: kinds.Heard, strides: Strides, out: int
    ) -> None:
        super().__init__()
        self.heard, self.stride, self.out = heard, strides.projector, out
        self.scale = shape.scale
        self.width = sum(width for _, width in heard)
        several = {str(at): layers for at, (layers, _) in enumerate(heard) if layers > 1}
        self.weighing = nn.ParameterDict(
            {at: nn.Parameter(torch.zeros(layers)) for at, layers in several.items()}
        )
        self.register_buffer("factor", None if shape.scale is None else torch.ones(()))

    def forward(self, features: Features) -> torch.Tensor:
        """Tokens of all sounds, one after the other: (tokens, out).

        `features` are (sounds, frames, hidden states x width of each encoder, side by side).
        """
        values = features.values
        groups = self._groups(self._joined(values), features.frames.to(values.device))
        tokens = self.read(*groups)
        return tokens if self.factor is None else tokens * self.factor

    @abstractmethod
    def read(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Groups (groups, stride, width), and which frames lie in the sound: (tokens, out)."""

    def measured(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """What its scale is measured on: its tokens."""
        return self.read(groups, inside)

    def _joined(self, values: torch.Tensor) -> torch.Tensor:
        """One state of each encoder, side by side: (sounds, frames, width).

        Hidden states are weighed by a softmax that learns (SUPERB, Yang et al. 2021). Several
        encoders are brought to one scale by a LayerNorm that does not (SALMONN, Tang et al. 2024).
        """
        widths = [layers * width for layers, width in self.heard]
        parts: list[torch.Tensor] = list(values.split(widths, dim=-1))
        for at, weights in self.weighing.items():
            states = parts[int(at)].unflatten(-1, self.heard[int(at)])
            parts[int(at)] = weights.softmax(dim=0) @ states
        if len(parts) == 1:
            return parts[0]
        normed = [nn.functional.layer_norm(part, part.shape[-1:]) for part in parts]
        return torch.cat(normed, dim=-1)

    def _groups(
        self, values: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The groups that begin within their sound, zero past its end; and what lies within."""
        sounds, frames, width = values.shape
        steps = ceil_div(frames, self.stride)
        values = nn.functional.pad(values, (0, 0, 0, steps * self.stride - frames))
        positions = torch.arange(steps * self.stride, device=values.device)
        inside = (positions < lengths[:, None]).view(sounds, steps, self.stride)
        kept = inside[..., 0]
        groups, inside = values.view(sounds, steps, self.stride, width)[kept], inside[kept]
        return groups.masked_fill(~inside[..., None], 0), inside


class Pool(Projector):
    """Mean, LayerNorm, Linear; over whole groups the mean is AdaptiveAvgPool1d's."""

    def __init__(self, shape: kinds.Pool, **ports: Any) -> None:
        super().__init__(shape, **ports)
        self.norm = nn.LayerNorm(self.width)
        self.leave = nn.Linear(self.width, self.out, bias=False)

    def read(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """The mean is of the frames there are."""
        mean = groups.sum(dim=1) / inside.sum(dim=1, keepdim=True)
        tokens: torch.Tensor = self.leave(self.norm(mean))
        return tokens


class Mlp(Projector):
    """Linear, GELU, Linear that begins at zero."""

    def __init__(self, shape: kinds.Mlp, **ports: Any) -> None:
        super().__init__(shape, **ports)
        hidden = shape.hidden or self.out
        self.enter = nn.Linear(self.width * self.stride, hidden, bias=False)
        self.leave = nn.Linear(hidden, self.out, bias=False)
        nn.init.zeros_(self.leave.weight)

    def read(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """A group's frames side by side."""
        tokens: torch.Tensor = self.leave(self.measured(groups, inside))
        return tokens

    def measured(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """What the last layer reads: its own tokens are zero at the start."""
        return nn.functional.gelu(self.enter(groups.flatten(1)))


class Stack(Projector):
    """RMSNorm, Linear, SwiGLU, Linear, and RMSNorm before the last layer or after it."""

    def __init__(self, shape: kinds.Stack, **ports: Any) -> None:
        super().__init__(shape, **ports)
        width, hidden = self.width * self.stride, shape.hidden or self.out
        self.end = shape.norm == "end"
        self.before = nn.RMSNorm(width, eps=EPSILON)
        self.enter = nn.Linear(width, hidden, bias=False)
        self.norm = nn.RMSNorm(self.out if self.end else hidden // 2, eps=EPSILON)
        self.leave = nn.Linear(hidden // 2, self.out, bias=False)
        for norm in (self.before, self.norm):
            nn.init.constant_(norm.weight, NORM_START)

    def read(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """SwiGLU's second half is the gate."""
        value, gate = self.enter(_exactly(self.before, groups.flatten(1))).chunk(2, dim=-1)
        inner = nn.functional.silu(gate) * value
        if self.end:
            return _exactly(self.norm, self.leave(inner))
        tokens: torch.Tensor = self.leave(_exactly(self.norm, inner))
        return tokens


class Concat(Projector):
    """Linear, ReLU or GELU, Linear, and RMSNorm where asked."""

    def __init__(self, shape: kinds.Concat, **ports: Any) -> None:
        super().__init__(shape, **ports)
        self.act = nn.GELU() if shape.activation == "gelu" else nn.ReLU()
        self.enter = nn.Linear(self.width * self.stride, shape.hidden)
        self.leave = nn.Linear(shape.hidden, self.out)
        self.norm = nn.RMSNorm(self.out, eps=EPSILON) if shape.norm else None

    def read(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """A group's frames side by side."""
        tokens: torch.Tensor = self.leave(self.act(self.enter(groups.flatten(1))))
        return tokens if self.norm is None else _exactly(self.norm, tokens)


class Conv(Projector):
    """Conv1d with as long a kernel as its stride, ReLU, Linear, ReLU, Linear."""

    def __init__(self, shape: kinds.Conv, **ports: Any) -> None:
        super().__init__(shape, **ports)
        self.conv = nn.Conv1d(self.width, self.width, kernel_size=self.stride, stride=self.stride)
        self.enter = nn.Linear(self.width, shape.hidden)
        self.leave = nn.Linear(shape.hidden, self.out)

    def read(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """A group is one step of the convolution."""
        step = self.conv(groups.transpose(1, 2)).squeeze(2)
        inner = nn.functional.relu(self.enter(nn.functional.relu(step)))
        tokens: torch.Tensor = self.leave(inner)
        return tokens


class Qformer(Projector):
    """Queries that attend to each other and to a window of frames, Linear (SALMONN, Granite)."""

    def __init__(self, shape: kinds.Qformer, **ports: Any) -> None:
        super().__init__(shape, **ports)
        hidden = shape.hidden
        self.enter = nn.Linear(self.width, hidden)
        self.queries = nn.Parameter(torch.randn(shape.queries, hidden))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                hidden,
                shape.heads,
                4 * hidden,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.leave = nn.Linear(hidden, self.out)

    def read(self, groups: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Frames past the end are not attended to."""
        frames = self.enter(groups)
        tokens = self.queries.to(frames).expand(len(groups), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, frames, memory_key_padding_mask=~inside)
        left: torch.Tensor = self.leave(self.norm(tokens)).flatten(0, 1)
        return left


PROJECTORS: dict[str, type[Projector]] = {
    "pool": Pool,
    "mlp": Mlp,
    "stack": Stack,
    "concat": Concat,
    "conv": Conv,
    "qformer": Qformer,
}


def projector_of(
    shape: dict[str, Any], *, heard: kinds.Heard, strides: Strides, out: int
) -> Projector:
    """The projector that `shape` describes, with random weights. Raises BaseError for a bad one.

    `heard` are the hidden states of a frame and their width, of each encoder; `out` the width of
    the language model.
    """
    checked = kinds.projector_shape(shape)
    return PROJECTORS[shape["kind"]](checked, heard=heard, strides=strides, out=out)


def calibrate(projector: Projector, table: torch.Tensor | None = None) -> None:
    """Set the factor that brings the tokens of a fresh projector to the RMS its `scale` asks for.

    `table` are the text embeddings (words, width), for `scale: embeddings`. Measured on whole
    groups of frames of unit variance, always the same; of `mlp`, whose tokens are zero at the
    start, on what its last layer reads. Raises BaseError where there is nothing to measure.
    """
    if projector.factor is None:
        return
    if projector.scale == "embeddings":
        wanted = torch.zeros(()) if table is None else _rms(table)
    else:
        wanted = torch.tensor(projector.scale)
    if not (wanted.isfinite() and wanted > 0):
        what = f"text embeddings have an RMS of {wanted:g}, to which no sound can be scaled"
        raise BaseError(what, where="projector", mend="set scale to a number")
    source = torch.Generator().manual_seed(0)
    groups = torch.randn(PROBES, projector.stride, projector.width, generator=source)
    groups = groups.to(projector.factor.device)
    with torch.no_grad():
        inside = torch.ones(groups.shape[:2], dtype=torch.bool, device=groups.device)
        projector.factor.copy_(wanted / _rms(projector.measured(groups, inside)))


def _rms(values: torch.Tensor) -> torch.Tensor:
    return values.detach().float().square().mean().sqrt()


def _exactly(norm: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """A norm in bf16 would lose the scale."""
    exact: torch.Tensor = norm(tokens.float())
    return exact
