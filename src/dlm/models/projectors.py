"""Projectors: from encoder frames to audio embeddings, for each kind of `plan/projector_spec.py`.

    hidden states --weighted sum--> one of each encoder --concat--> frames --groups of `stride`-->
    the kind's own layers --output scale--> audio embeddings

The last group of a window is padded with zeros. Submodules keep the names that released weights
have: `weighing` (layer weights), `enter`, `leave` (first and last linear layer), `factor`.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from dlm.errors import ModelError
from dlm.models.audio_lm import EncoderOutput
from dlm.plan import projector_spec
from dlm.plan.audio_lengths import AudioTokenizerSpec, ceil_div

RMS_NORM_EPS = 1e-6
NORM_INIT_VALUE = 0.4  # Ultravox: below 1 trains better (Zhang et al. 2022, arXiv 2206.10139)
NUM_CALIBRATION_GROUPS = 256  # groups of frames that an output scale is measured on


class Projector(nn.Module, ABC):
    """What all kinds share; a kind defines how a group of frames becomes tokens.

    Args:
        config: the options of the kind.
        encoder_dims: hidden states of a frame and their size, for each encoder.
        audio_spec: gives the stride, frames a group.
        out_features: hidden size of the language model.
    """

    factor: torch.Tensor | None

    def __init__(
        self,
        config: projector_spec.BaseProjectorConfig,
        *,
        encoder_dims: projector_spec.EncoderDims,
        audio_spec: AudioTokenizerSpec,
        out_features: int,
    ) -> None:
        super().__init__()
        self.encoder_dims, self.out_features = encoder_dims, out_features
        self.stride, self.scale = audio_spec.projector_stride, config.scale
        self.in_features = sum(hidden_size for _, hidden_size in encoder_dims)
        self.weighing = nn.ParameterDict(
            {
                str(index): nn.Parameter(torch.zeros(num_states))
                for index, (num_states, _) in enumerate(encoder_dims)
                if num_states > 1
            }
        )
        self.register_buffer("factor", None if config.scale is None else torch.ones(()))

    def forward(self, encoder_output: EncoderOutput) -> torch.Tensor:
        """Project all windows, one after the other: (tokens, out_features)."""
        frames = self._combine_encoders(encoder_output.hidden_states)
        groups = self._group_frames(frames, encoder_output.lengths.to(frames.device))
        tokens = self.project_groups(*groups)
        return tokens if self.factor is None else tokens * self.factor

    @abstractmethod
    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Project groups of frames: (tokens, out_features).

        Args:
            groups: (groups, stride, in_features).
            frame_mask: (groups, stride) frames that are not padding.
        """

    def compute_calibration_values(
        self, groups: torch.Tensor, frame_mask: torch.Tensor
    ) -> torch.Tensor:
        """Compute what the output scale is measured on: the tokens."""
        return self.project_groups(groups, frame_mask)

    def _combine_encoders(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """One state of each encoder, concatenated: (windows, frames, in_features).

        Hidden states are summed with trained softmax weights (SUPERB, Yang et al. 2021); several
        encoders are normalized by a LayerNorm without weights (SALMONN, Tang et al. 2024).
        """
        sizes = [num_states * hidden_size for num_states, hidden_size in self.encoder_dims]
        outputs: list[torch.Tensor] = list(hidden_states.split(sizes, dim=-1))
        for index, weights in self.weighing.items():
            states = outputs[int(index)].unflatten(-1, self.encoder_dims[int(index)])
            outputs[int(index)] = weights.softmax(dim=0) @ states
        if len(outputs) == 1:
            return outputs[0]
        return torch.cat(
            [nn.functional.layer_norm(output, output.shape[-1:]) for output in outputs], dim=-1
        )

    def _group_frames(
        self, frames: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The groups that begin within their window, zero past its end, and the mask of frames."""
        num_windows, num_frames, in_features = frames.shape
        num_groups = ceil_div(num_frames, self.stride)
        padded_frames = num_groups * self.stride
        frames = nn.functional.pad(frames, (0, 0, 0, padded_frames - num_frames))
        is_audio = torch.arange(padded_frames, device=frames.device) < lengths[:, None]
        is_audio = is_audio.view(num_windows, num_groups, self.stride)
        begins = is_audio[..., 0]
        groups = frames.view(num_windows, num_groups, self.stride, in_features)[begins]
        return groups.masked_fill(~is_audio[begins][..., None], 0), is_audio[begins]


class PoolProjector(Projector):
    """Mean of the frames that are not padding, LayerNorm, Linear."""

    def __init__(self, config: projector_spec.PoolProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.norm = nn.LayerNorm(self.in_features)
        self.leave = nn.Linear(self.in_features, self.out_features, bias=False)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        mean = groups.sum(dim=1) / frame_mask.sum(dim=1, keepdim=True)
        tokens: torch.Tensor = self.leave(self.norm(mean))
        return tokens


class MlpProjector(Projector):
    """Linear over the concatenated frames, GELU, Linear that is zero at the start."""

    def __init__(self, config: projector_spec.MlpProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        hidden = config.hidden or self.out_features
        self.enter = nn.Linear(self.in_features * self.stride, hidden, bias=False)
        self.leave = nn.Linear(hidden, self.out_features, bias=False)
        nn.init.zeros_(self.leave.weight)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.leave(self.compute_calibration_values(groups, frame_mask))
        return tokens

    def compute_calibration_values(
        self, groups: torch.Tensor, frame_mask: torch.Tensor
    ) -> torch.Tensor:
        """Compute the input of the last layer, as tokens are zero at the start."""
        return nn.functional.gelu(self.enter(groups.flatten(1)))


class StackProjector(Projector):
    """RMSNorm, Linear, SwiGLU, Linear, and RMSNorm before or after the last layer (Ultravox)."""

    def __init__(self, config: projector_spec.StackProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        in_features, hidden = self.in_features * self.stride, config.hidden or self.out_features
        self.norm_at_end = config.norm == "end"
        self.before = nn.RMSNorm(in_features, eps=RMS_NORM_EPS)
        self.enter = nn.Linear(in_features, hidden, bias=False)
        self.norm = nn.RMSNorm(
            self.out_features if self.norm_at_end else hidden // 2, eps=RMS_NORM_EPS
        )
        self.leave = nn.Linear(hidden // 2, self.out_features, bias=False)
        for norm in (self.before, self.norm):
            nn.init.constant_(norm.weight, NORM_INIT_VALUE)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.enter(_apply_norm_in_fp32(self.before, groups.flatten(1)))
        value, gate = hidden.chunk(2, dim=-1)
        inner = nn.functional.silu(gate) * value
        if self.norm_at_end:
            return _apply_norm_in_fp32(self.norm, self.leave(inner))
        tokens: torch.Tensor = self.leave(_apply_norm_in_fp32(self.norm, inner))
        return tokens


class ConcatProjector(Projector):
    """Linear over the concatenated frames, ReLU or GELU, Linear, optionally RMSNorm."""

    def __init__(self, config: projector_spec.ConcatProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.activation = nn.GELU() if config.activation == "gelu" else nn.ReLU()
        self.enter = nn.Linear(self.in_features * self.stride, config.hidden)
        self.leave = nn.Linear(config.hidden, self.out_features)
        self.norm = nn.RMSNorm(self.out_features, eps=RMS_NORM_EPS) if config.norm else None

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.leave(self.activation(self.enter(groups.flatten(1))))
        return tokens if self.norm is None else _apply_norm_in_fp32(self.norm, tokens)


class ConvProjector(Projector):
    """Conv1d with a kernel as long as its stride, ReLU, Linear, ReLU, Linear."""

    def __init__(self, config: projector_spec.ConvProjectorConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.conv = nn.Conv1d(
            self.in_features, self.in_features, kernel_size=self.stride, stride=self.stride
        )
        self.enter = nn.Linear(self.in_features, config.hidden)
        self.leave = nn.Linear(config.hidden, self.out_features)

    def project_groups(self, groups: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        frame = self.conv(groups.transpose(1, 2)).squeeze(2)
        inner = nn.functional.relu(self.enter(nn.functional.relu(frame)))
        tokens: torch.Tensor = self.leave(inner)
        return tokens


class QFormerProjector(Projector):
    """Queries that attend to each other and to a group of frames, Linear (SALMONN, Granite)."""

    def __init__(self, config: projector_spec.QFormerProjectorConfig, **kwargs: Any) -> None:
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
        frames = self.enter(groups)
        tokens = self.queries.to(frames).expand(len(groups), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, frames, memory_key_padding_mask=~frame_mask)
        output: torch.Tensor = self.leave(self.norm(tokens)).flatten(0, 1)
        return output


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
    encoder_dims: projector_spec.EncoderDims,
    audio_spec: AudioTokenizerSpec,
    out_features: int,
) -> Projector:
    """Build a projector with random weights; arguments are those of `Projector`.

    Raises:
        ModelError: the config is not valid (`model.bad_projector`).
    """
    checked = projector_spec.parse_projector_config(config)
    return PROJECTOR_CLASSES[config["kind"]](
        checked, encoder_dims=encoder_dims, audio_spec=audio_spec, out_features=out_features
    )


def calibrate_output_scale(
    projector: Projector, text_embeddings: torch.Tensor | None = None
) -> None:
    """Set the output scale of a new projector, so that its tokens have the RMS of its `scale`.

    Measured on full groups of frames of unit variance, the same ones every time; for `mlp`, whose
    tokens are zero at the start, on the input of its last layer.

    Args:
        projector: with random weights; nothing is done without `scale`.
        text_embeddings: (vocab_size, hidden_size), for `scale: embeddings`.

    Raises:
        ModelError: the text embeddings have no RMS to scale to (`model.no_embedding_scale`).
    """
    if projector.factor is None:
        return
    if projector.scale == "embeddings":
        rms = torch.zeros(()) if text_embeddings is None else _compute_rms(text_embeddings)
    else:
        rms = torch.tensor(projector.scale)
    if not (rms.isfinite() and rms > 0):
        raise ModelError(
            f"text embeddings have an RMS of {rms:g}, to which no audio can be scaled",
            where="projector",
            hint="set scale to a number",
            code="model.no_embedding_scale",
        )
    groups = torch.randn(
        *(NUM_CALIBRATION_GROUPS, projector.stride, projector.in_features),
        generator=torch.Generator().manual_seed(0),
    ).to(projector.factor.device)
    frame_mask = torch.ones(groups.shape[:2], dtype=torch.bool, device=groups.device)
    with torch.no_grad():
        values = projector.compute_calibration_values(groups, frame_mask)
        projector.factor.copy_(rms / _compute_rms(values))


def _compute_rms(values: torch.Tensor) -> torch.Tensor:
    return values.detach().float().square().mean().sqrt()


def _apply_norm_in_fp32(norm: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """A norm in bf16 would lose the scale."""
    normalized: torch.Tensor = norm(tokens.float())
    return normalized
