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

from dlm.errors import ModelError
from dlm.models.audio_lm import EncoderOutput
from dlm.plan import projector_spec as kinds
from dlm.plan.audio_lengths import AudioTokenizerSpec, ceil_div

RMS_NORM_EPS = 1e-6
NORM_INIT_VALUE = (
    0.4  # Ultravox: smaller than 1 learns better (Zhang et al. 2022, arXiv 2206.10139)
)
NUM_CALIBRATION_GROUPS = 256  # groups that a scale is measured on


class Projector(nn.Module, ABC):
    """What all kinds share; a kind says how a group of frames becomes tokens."""

    factor: torch.Tensor | None

    def __init__(
        self,
        config: kinds.BaseProjectorConfig,
        *,
        encoder_dims: kinds.EncoderDims,
        audio_spec: AudioTokenizerSpec,
        out_features: int,
    ) -> None:
        super().__init__()
        self.encoder_dims, self.stride, self.out_features = (
            encoder_dims,
            audio_spec.projector_stride,
            out_features,
        )
        self.scale = config.scale
        self.in_features = sum(width for _, width in encoder_dims)
        several = {str(at): layers for at, (layers, _) in enumerate(encoder_dims) if layers > 1}
        self.weighing = nn.ParameterDict(
            {at: nn.Parameter(torch.zeros(layers)) for at, layers in several.items()}
        )
        self.register_buffer("factor", None if config.scale is None else torch.ones(()))

    def forward(self, encoder_output: EncoderOutput) -> torch.Tensor:
        """Tokens of all sounds, one after the other: (tokens, out).

        `features` are (sounds, frames, hidden states x width of each encoder, side by side).
        """
        values = encoder_output.hidden_states
        groups = self._group_frames(
            self._combine_encoders(values), encoder_output.lengths.to(values.device)
        )
        tokens = self.project_groups(*groups)
        return tokens if self.factor is None else tokens * self.factor

    @abstractmethod
    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Groups (groups, stride, width), and which frames lie in the sound: (tokens, out)."""

    def compute_calibration_values(
        self, groups: torch.Tensor, frame_mask: torch.Tensor
    ) -> torch.Tensor:
        """What its scale is measured on: its tokens."""
        return self.project_groups(groups, frame_mask)

    def _combine_encoders(self, values: torch.Tensor) -> torch.Tensor:
        """One state of each encoder, side by side: (sounds, frames, width).

        Hidden states are weighed by a softmax that learns (SUPERB, Yang et al. 2021). Several
        encoders are brought to one scale by a LayerNorm that does not (SALMONN, Tang et al. 2024).
        """
        widths = [layers * width for layers, width in self.encoder_dims]
        parts: list[torch.Tensor] = list(values.split(widths, dim=-1))
        for at, weights in self.weighing.items():
            states = parts[int(at)].unflatten(-1, self.encoder_dims[int(at)])
            parts[int(at)] = weights.softmax(dim=0) @ states
        if len(parts) == 1:
            return parts[0]
        normed = [nn.functional.layer_norm(part, part.shape[-1:]) for part in parts]
        return torch.cat(normed, dim=-1)

    def _group_frames(
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


class PoolProjector(Projector):
    """Mean, LayerNorm, Linear; over whole groups the mean is AdaptiveAvgPool1d's."""

    def __init__(self, config: kinds.PoolProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.norm = nn.LayerNorm(self.in_features)
        self.leave = nn.Linear(self.in_features, self.out_features, bias=False)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """The mean is of the frames there are."""
        mean = groups.sum(dim=1) / frame_mask.sum(dim=1, keepdim=True)
        tokens: torch.Tensor = self.leave(self.norm(mean))
        return tokens


class MlpProjector(Projector):
    """Linear, GELU, Linear that begins at zero."""

    def __init__(self, config: kinds.MlpProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        hidden = config.hidden or self.out_features
        self.enter = nn.Linear(self.in_features * self.stride, hidden, bias=False)
        self.leave = nn.Linear(hidden, self.out_features, bias=False)
        nn.init.zeros_(self.leave.weight)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """A group's frames side by side."""
        tokens: torch.Tensor = self.leave(self.compute_calibration_values(groups, frame_mask))
        return tokens

    def compute_calibration_values(
        self, groups: torch.Tensor, frame_mask: torch.Tensor
    ) -> torch.Tensor:
        """What the last layer reads: its own tokens are zero at the start."""
        return nn.functional.gelu(self.enter(groups.flatten(1)))


class StackProjector(Projector):
    """RMSNorm, Linear, SwiGLU, Linear, and RMSNorm before the last layer or after it."""

    def __init__(self, config: kinds.StackProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        width, hidden = self.in_features * self.stride, config.hidden or self.out_features
        self.norm_at_end = config.norm == "end"
        self.before = nn.RMSNorm(width, eps=RMS_NORM_EPS)
        self.enter = nn.Linear(width, hidden, bias=False)
        self.norm = nn.RMSNorm(
            self.out_features if self.norm_at_end else hidden // 2, eps=RMS_NORM_EPS
        )
        self.leave = nn.Linear(hidden // 2, self.out_features, bias=False)
        for norm in (self.before, self.norm):
            nn.init.constant_(norm.weight, NORM_INIT_VALUE)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """SwiGLU's second half is the gate."""
        value, gate = self.enter(_apply_norm_in_fp32(self.before, groups.flatten(1))).chunk(
            2, dim=-1
        )
        inner = nn.functional.silu(gate) * value
        if self.norm_at_end:
            return _apply_norm_in_fp32(self.norm, self.leave(inner))
        tokens: torch.Tensor = self.leave(_apply_norm_in_fp32(self.norm, inner))
        return tokens


class ConcatProjector(Projector):
    """Linear, ReLU or GELU, Linear, and RMSNorm where asked."""

    def __init__(self, config: kinds.ConcatProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()
        self.enter = nn.Linear(self.in_features * self.stride, config.hidden)
        self.leave = nn.Linear(config.hidden, self.out_features)
        self.norm = nn.RMSNorm(self.out_features, eps=RMS_NORM_EPS) if config.norm else None

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """A group's frames side by side."""
        tokens: torch.Tensor = self.leave(self.activation(self.enter(groups.flatten(1))))
        return tokens if self.norm is None else _apply_norm_in_fp32(self.norm, tokens)


class ConvProjector(Projector):
    """Conv1d with as long a kernel as its stride, ReLU, Linear, ReLU, Linear."""

    def __init__(self, config: kinds.ConvProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.conv = nn.Conv1d(
            self.in_features, self.in_features, kernel_size=self.stride, stride=self.stride
        )
        self.enter = nn.Linear(self.in_features, config.hidden)
        self.leave = nn.Linear(config.hidden, self.out_features)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """A group is one step of the convolution."""
        step = self.conv(groups.transpose(1, 2)).squeeze(2)
        inner = nn.functional.relu(self.enter(nn.functional.relu(step)))
        tokens: torch.Tensor = self.leave(inner)
        return tokens


class QFormerProjector(Projector):
    """Queries that attend to each other and to a window of frames, Linear (SALMONN, Granite)."""

    def __init__(self, config: kinds.QFormerProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        hidden = config.hidden
        self.enter = nn.Linear(self.in_features, hidden)
        self.queries = nn.Parameter(torch.randn(config.queries, hidden))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                hidden,
                config.heads,
                4 * hidden,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.leave = nn.Linear(hidden, self.out_features)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Frames past the end are not attended to."""
        frames = self.enter(groups)
        tokens = self.queries.to(frames).expand(len(groups), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, frames, memory_key_padding_mask=~frame_mask)
        left: torch.Tensor = self.leave(self.norm(tokens)).flatten(0, 1)
        return left


PROJECTOR_CLASSES: dict[str, type[Projector]] = {
    "pool": PoolProjector,
    "mlp": MlpProjector,
    "stack": StackProjector,
    "concat": ConcatProjector,
    "conv": ConvProjector,
    "qformer": QFormerProjector,
}


def build_projector(
    config: dict[str, Any],
    *,
    encoder_dims: kinds.EncoderDims,
    audio_spec: AudioTokenizerSpec,
    out_features: int,
) -> Projector:
    """The projector that `shape` describes, with random weights. Raises BaseError for a bad one.

    `heard` are the hidden states of a frame and their width, of each encoder; `out` the width of
    the language model.
    """
    checked = kinds.parse_projector_config(config)
    return PROJECTOR_CLASSES[config["kind"]](
        checked, encoder_dims=encoder_dims, audio_spec=audio_spec, out_features=out_features
    )


def calibrate_output_scale(
    projector: Projector, text_embeddings: torch.Tensor | None = None
) -> None:
    """Set the factor that brings the tokens of a fresh projector to the RMS its `scale` asks for.

    `table` are the text embeddings (words, width), for `scale: embeddings`. Measured on whole
    groups of frames of unit variance, always the same; of `mlp`, whose tokens are zero at the
    start, on what its last layer reads. Raises BaseError where there is nothing to measure.
    """
    if projector.factor is None:
        return
    if projector.scale == "embeddings":
        wanted = torch.zeros(()) if text_embeddings is None else _compute_rms(text_embeddings)
    else:
        wanted = torch.tensor(projector.scale)
    if not (wanted.isfinite() and wanted > 0):
        what = f"text embeddings have an RMS of {wanted:g}, to which no sound can be scaled"
        raise ModelError(what, where="projector", hint="set scale to a number")
    source = torch.Generator().manual_seed(0)
    groups = torch.randn(
        NUM_CALIBRATION_GROUPS, projector.stride, projector.in_features, generator=source
    )
    groups = groups.to(projector.factor.device)
    with torch.no_grad():
        inside = torch.ones(groups.shape[:2], dtype=torch.bool, device=groups.device)
        projector.factor.copy_(
            wanted / _compute_rms(projector.compute_calibration_values(groups, inside))
        )


def _compute_rms(values: torch.Tensor) -> torch.Tensor:
    return values.detach().float().square().mean().sqrt()


def _apply_norm_in_fp32(norm: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """A norm in bf16 would lose the scale."""
    exact: torch.Tensor = norm(tokens.float())
    return exact
