"""The kinds of projector: options, strides, parameter counts, learning rates, saved weights.

    pool      mean of `stride` frames, LayerNorm, linear                    MusicCaps captioner
    mlp       frames concatenated, linear, GELU, linear that begins at 0    nanochat-omni
    stack     frames concatenated, RMSNorm, SwiGLU, RMSNorm, linear         Ultravox
    concat    frames concatenated, linear, ReLU, linear                     SLAM-ASR (Ma 2024)
    conv      convolution with kernel = stride, linear, ReLU, linear        SLAM-ASR
    qformer   queries that attend to a window of frames, linear             Granite speech, SALMONN

`stride` is in encoder frames per group; a group becomes one token, or `queries` tokens. A projector
is given as a document writes it: the name of a kind, or a mapping of `kind` and options. With
`source`, its weights are those of a projector trained before, which must have the same dimensions:

    {source: sparrow}                            of a composed model, with its kind and options
    {source: ./v0001, kind: mlp, hidden: 256}    of a version, with the options it was trained with
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from dlm.config.base_config import BaseConfig
from dlm.config.model_schema import ProjectorConfig, ProjectorScale
from dlm.config.yaml_loader import describe_validation_error
from dlm.errors import ModelError, make_name_hint
from dlm.io import sha256_file
from dlm.plan.encoder_lm_specs import derive_encoder_spec
from dlm.plan.hub import BUNDLED_PREFIX
from dlm.plan.model_ref import ModelRef, resolve_model_ref
from dlm.plan.model_spec import MODEL_CATALOG
from dlm.plan.safetensors_index import HF_CONFIG_FILE, read_tensor_header

EncoderDims = tuple[tuple[int, int], ...]  # of each encoder: hidden states per frame, their width
ProjectorLike = str | Mapping[str, Any]

NORMED_PROJECTOR_LR = 1e-3  # Ultravox, Audio Flamingo 3 and LLaSO train a projector alone at this
UNNORMED_PROJECTOR_LR = 1e-4  # SLAM-ASR: without a norm, more diverges
POOL_PROJECTOR_LR = 1.5e-3  # MusicCaps captioner
PROJECTOR_KEY_PREFIX = "projector."  # of its tensors in a version
NEW_PROJECTOR_HINT = "take source out for a new one, or name another"


class BaseProjectorConfig(BaseConfig):
    """The options of every kind.

    Attributes:
        stride: encoder frames per group.
        tokens_per_second: in place of `stride`; the nearest whole stride is used.
        scale: RMS of the tokens at the start: a number, or that of the model's embeddings.
        source: where its weights come from.
        default_tokens_per_second: without `stride` and `tokens_per_second`.
        default_learning_rate: of a projector trained alone with a warm-up.
    """

    default_tokens_per_second: ClassVar[float]
    default_learning_rate: ClassVar[float] = NORMED_PROJECTOR_LR

    stride: int | None = Field(default=None, ge=1)
    tokens_per_second: float | None = Field(default=None, gt=0)
    scale: ProjectorScale = None
    source: str | None = None

    @field_validator("tokens_per_second")
    @classmethod
    def _check_stride_or_rate(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("stride") is not None:
            raise ValueError("must be left out where stride is given")
        return value

    @property
    def tokens_per_group(self) -> int:
        """Tokens of each group of `stride` encoder frames."""
        return 1

    @property
    def learning_rate(self) -> float:
        """The learning rate of a document that gives none."""
        return self.default_learning_rate

    @abstractmethod
    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Count its parameters, without the weights of hidden states."""


class PoolProjectorConfig(BaseProjectorConfig):
    """Mean of frames; 30 s of Whisper's output become 250 tokens."""

    default_tokens_per_second = 25 / 3
    default_learning_rate = POOL_PROJECTOR_LR
    kind: Literal["pool"] = "pool"

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Count LayerNorm and a linear layer without bias."""
        return 2 * in_features + in_features * out_features


class MlpProjectorConfig(BaseProjectorConfig):
    """Two linear layers; `hidden` is the language model's width, the second begins at zero."""

    default_tokens_per_second = 12.5
    kind: Literal["mlp"] = "mlp"
    hidden: int | None = Field(default=None, ge=1)

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Count two linear layers without bias."""
        hidden = self.hidden or out_features
        return in_features * stride * hidden + hidden * out_features


class StackProjectorConfig(BaseProjectorConfig):
    """Ultravox; `hidden` is the width before SwiGLU halves it, the language model's if empty."""

    default_tokens_per_second = 6.25
    kind: Literal["stack"] = "stack"
    hidden: int | None = Field(default=None, ge=2, multiple_of=2)
    norm: Literal["middle", "end"] = "middle"

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Count two norms and two linear layers without bias."""
        hidden = self.hidden or out_features
        second_norm = hidden // 2 if self.norm == "middle" else out_features
        return in_features * stride * (1 + hidden) + second_norm + hidden // 2 * out_features


class ConcatProjectorConfig(BaseProjectorConfig):
    """SLAM-ASR's linear projector; sparrow's has GELU, and a norm after it."""

    default_tokens_per_second = 10.0
    kind: Literal["concat"] = "concat"
    hidden: int = Field(default=2048, ge=1)
    activation: Literal["relu", "gelu"] = "relu"
    norm: bool = False

    @property
    def learning_rate(self) -> float:
        """A norm allows a higher one."""
        return NORMED_PROJECTOR_LR if self.norm else UNNORMED_PROJECTOR_LR

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Count two linear layers, and the norm."""
        return (
            _count_linear_parameters(in_features * stride, self.hidden)
            + _count_linear_parameters(self.hidden, out_features)
            + self.norm * out_features
        )


class ConvProjectorConfig(BaseProjectorConfig):
    """SLAM-ASR's cov1d-linear, also of WEST."""

    default_tokens_per_second = 10.0
    default_learning_rate = UNNORMED_PROJECTOR_LR
    kind: Literal["conv"] = "conv"
    hidden: int = Field(default=2048, ge=1)

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Count a convolution and two linear layers."""
        return (
            _count_linear_parameters(in_features * stride, in_features)
            + _count_linear_parameters(in_features, self.hidden)
            + _count_linear_parameters(self.hidden, out_features)
        )


class QFormerProjectorConfig(BaseProjectorConfig):
    """The sizes of Granite speech, 3 tokens of 15 frames; SALMONN has 1 token of 17."""

    default_tokens_per_second = 10.0
    kind: Literal["qformer"] = "qformer"
    queries: int = Field(default=3, ge=1)
    layers: int = Field(default=2, ge=1)
    hidden: int = Field(default=1024, ge=1)
    heads: int = Field(default=16, ge=1, validate_default=True)

    @field_validator("heads")
    @classmethod
    def _check_heads_divide_hidden(cls, value: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden", value)
        if hidden % value:
            raise ValueError(f"must divide hidden, which is {hidden}")
        return value

    @property
    def tokens_per_group(self) -> int:
        """One token for each query."""
        return self.queries

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Count queries, layers of two attentions and an MLP, norms and linear layers."""
        hidden = self.hidden
        attention = 4 * _count_linear_parameters(hidden, hidden)
        mlp = _count_linear_parameters(hidden, 4 * hidden)
        mlp += _count_linear_parameters(4 * hidden, hidden)
        layers = self.layers * (2 * attention + mlp + 3 * 2 * hidden)
        projections = _count_linear_parameters(in_features, hidden)
        projections += _count_linear_parameters(hidden, out_features)
        return self.queries * hidden + layers + projections + 2 * hidden


PROJECTOR_CONFIG_CLASSES: dict[str, type[BaseProjectorConfig]] = {
    "pool": PoolProjectorConfig,
    "mlp": MlpProjectorConfig,
    "stack": StackProjectorConfig,
    "concat": ConcatProjectorConfig,
    "conv": ConvProjectorConfig,
    "qformer": QFormerProjectorConfig,
}


def parse_projector_config(projector: ProjectorLike) -> BaseProjectorConfig:
    """Return the checked options of a projector.

    Raises:
        ModelError: for an unknown kind or option, or a value it cannot have
            (`model.bad_projector`).
    """
    options = {"kind": projector} if isinstance(projector, str) else dict(projector)
    kind = str(options.get("kind", ""))
    config_class = PROJECTOR_CONFIG_CLASSES.get(kind)
    if config_class is None:
        raise ModelError(
            f"unknown kind '{kind}'" if kind else "no kind is given",
            where="projector",
            hint=make_name_hint(kind, PROJECTOR_CONFIG_CLASSES),
            code="model.bad_projector",
        )
    try:
        return config_class.model_validate(options)
    except ValidationError as error:
        mistake = error.errors()[0]
        what, hint = describe_validation_error(mistake)
        if mistake["type"] == "extra_forbidden":
            option = str(mistake["loc"][-1])
            what = f"{kind} takes no '{option}'"
            hint = make_name_hint(option, sorted(set(config_class.model_fields) - {"kind"}))
        raise ModelError(what, where="projector", hint=hint, code="model.bad_projector") from error


def compute_projector_strides(
    projector: ProjectorLike, frames_per_second: float
) -> tuple[int, int]:
    """Return the encoder frames of a group and the tokens it becomes.

    These are `AudioTokenizerSpec.projector_stride` and `num_queries`. A `tokens_per_second` that is
    no whole stride becomes the nearest one.

    Args:
        projector: a kind, or its options.
        frames_per_second: encoder frames, of the first encoder.
    """
    config = parse_projector_config(projector)
    tokens_per_second = config.tokens_per_second or config.default_tokens_per_second
    nearest_stride = round(frames_per_second * config.tokens_per_group / tokens_per_second)
    return config.stride or max(nearest_stride, 1), config.tokens_per_group


def count_projector_parameters(
    projector: ProjectorLike, encoder_dims: EncoderDims, *, stride: int, out_features: int
) -> int:
    """Return the exact parameters of a projector, those that weigh hidden states included.

    Args:
        projector: a kind, or its options.
        encoder_dims: of each encoder, hidden states per frame and their width.
        stride: encoder frames per group.
        out_features: width of the language model.
    """
    layer_weights = sum(num_states for num_states, _ in encoder_dims if num_states > 1)
    in_features = sum(width for _, width in encoder_dims)
    return layer_weights + parse_projector_config(projector).count_parameters(
        in_features, stride=stride, out_features=out_features
    )


def get_projector_learning_rate(projector: ProjectorLike) -> float:
    """Return the learning rate of a projector in a document that gives none."""
    return parse_projector_config(projector).learning_rate


def _count_linear_parameters(in_features: int, out_features: int) -> int:
    return in_features * out_features + out_features


@dataclass(frozen=True)
class ProjectorDims:
    """What a projector is between.

    Attributes:
        encoder_dims: of each encoder, hidden states per frame and their width.
        out_features: width of the language model.
        frames_per_second: of the first encoder.
    """

    encoder_dims: EncoderDims
    out_features: int
    frames_per_second: float

    @property
    def description(self) -> str:
        """Describe the widths in words."""
        width = sum(num_states * width for num_states, width in self.encoder_dims)
        return f"frames {width} wide and a language model {self.out_features} wide"


def resolve_projector_options(
    projector_config: ProjectorConfig, dims: ProjectorDims, folder: Path
) -> tuple[dict[str, Any], str]:
    """Return the checked kind and options of a projector, `source` among them, and its revision.

    Args:
        projector_config: as the document gives it.
        dims: what the projector is between.
        folder: what a path is relative to.

    Returns:
        The options, and which weights these are; "" for new ones.

    Raises:
        ModelError: options are wrong (`model.bad_projector`), the source has no projector
            (`model.no_projector`) or one of other dimensions (`model.projector_mismatch`).
    """
    options = projector_config.model_dump(exclude_unset=True, exclude_none=True)
    source = options.pop("source", None)
    if source is None and projector_config.kind in MODEL_CATALOG:
        source = options.pop("kind")
    if source is None:
        parse_projector_config(options)
        return options, ""
    path = (folder / Path(source).expanduser()).absolute()
    if path.is_dir() and not (path / HF_CONFIG_FILE).is_file():
        _check_version_projector(options, path, dims)
        hashes = (sha256_file(file) for file in sorted(path.glob("*.safetensors")))
        return {**options, "source": str(path)}, " ".join(hashes)
    model_ref = resolve_model_ref(source, folder)
    return _take_composed_projector(options, model_ref, dims), model_ref.revision


def _take_composed_projector(
    options: dict[str, Any], model_ref: ModelRef, dims: ProjectorDims
) -> dict[str, Any]:
    """The options of a composed model's projector, its weights among them."""
    if model_ref.spec is None:
        raise ModelError(
            "has no projector of its own",
            where=model_ref.name,
            hint=NEW_PROJECTOR_HINT,
            code="model.no_projector",
        )
    encoder_specs = [
        derive_encoder_spec(encoder["config"], encoder["layer"], where=model_ref.name)
        for encoder in model_ref.config["encoders"]
    ]
    source_dims = ProjectorDims(
        tuple((spec.num_hidden_states, spec.shape.hidden_size) for spec in encoder_specs),
        model_ref.spec.sizes.lm.hidden_size,
        dims.frames_per_second,
    )
    if source_dims != dims:
        raise ModelError(
            f"its projector is between {source_dims.description}; here are {dims.description}",
            where=model_ref.name,
            hint=NEW_PROJECTOR_HINT,
            code="model.projector_mismatch",
        )
    stride = model_ref.spec.audio_spec.projector_stride
    source_options = {**model_ref.config["projector"], "stride": stride}
    source_options.pop("tokens_per_second", None)
    if any(source_options.get(name, value) != value for name, value in options.items()):
        raise ModelError(
            f"its projector is {source_options}",
            where=model_ref.name,
            hint="leave its options out",
            code="model.projector_mismatch",
        )
    source = model_ref.source
    if not (Path(source).is_absolute() or source.startswith(BUNDLED_PREFIX)):
        source = f"{source}@{model_ref.revision}"
    return {**source_options, "source": source}


def _check_version_projector(
    options: dict[str, Any], version_dir: Path, dims: ProjectorDims
) -> None:
    """Refuse a version whose projector has another number of parameters."""
    stride, _ = compute_projector_strides(options, dims.frames_per_second)
    expected = count_projector_parameters(
        options, dims.encoder_dims, stride=stride, out_features=dims.out_features
    )
    saved = sum(
        tensor.num_elements
        for path in sorted(version_dir.glob("*.safetensors"))
        for name, tensor in read_tensor_header(path).items()
        if name.startswith(PROJECTOR_KEY_PREFIX)
    )
    if saved != expected:
        raise ModelError(
            f"its projector has {saved:,} numbers, and one between {dims.description} {expected:,}",
            where=str(version_dir),
            hint=NEW_PROJECTOR_HINT,
            code="model.projector_mismatch",
        )
