"""The kinds of projector and what each takes: rates, sizes and options, before one is built.

    pool      mean of `stride` frames, LayerNorm, linear                    system B's captioner
    mlp       frames side by side, linear, GELU, linear that begins at 0    system D
    stack     frames side by side, RMSNorm, SwiGLU, RMSNorm, linear         Ultravox
    concat    frames side by side, linear, ReLU, linear                     SLAM-ASR (Ma 2024)
    conv      convolution of as long a stride, linear, ReLU, linear         SLAM-ASR
    qformer   queries that attend to a window of frames, linear             Granite speech, SALMONN

`stride` is in encoder frames per group; a group becomes one token, or `queries` tokens. What is
heard of a frame, `heard`, is the number of its hidden states and their width, of each encoder. A
shape is a kind by its name, or a mapping of `kind` and options, as a document writes it.

A projector that was learned before: where it lies, and whether it fits here.

{source: sparrow}                            that of a stitched base, in the shape it has there
{source: ./v0001, kind: mlp, hidden: 256}    that of a version, in the shape it was learned in
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from safetensors import SafetensorError, safe_open

from dlm.config.base_config import BaseConfig
from dlm.config.model_schema import ProjectorConfig, ProjectorScale
from dlm.config.yaml_loader import describe_validation_error
from dlm.errors import ModelError
from dlm.io import sha256_file
from dlm.plan.encoder_lm_specs import derive_encoder_spec
from dlm.plan.hub import BUNDLED_PREFIX, HF_CONFIG_FILE, make_damaged_checkpoint_error
from dlm.plan.model_ref import ModelRef, resolve_model_ref
from dlm.plan.model_spec import MODEL_CATALOG

EncoderDims = tuple[tuple[int, int], ...]
ProjectorLike = str | Mapping[str, Any]

NORMED_PROJECTOR_LR = 1e-3  # Ultravox, Audio Flamingo 3 and LLaSO teach a projector alone at this
UNNORMED_PROJECTOR_LR = 1e-4  # SLAM-ASR: without a norm, more makes it diverge
POOL_PROJECTOR_LR = 1.5e-3  # system B


class BaseProjectorConfig(BaseConfig):
    """What every kind takes."""

    default_tokens_per_second: ClassVar[
        float
    ]  # tokens, where the shape gives neither stride nor rate
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
        """Tokens that a group of `stride` frames becomes."""
        return 1

    @property
    def learning_rate(self) -> float:
        """The rate at which this kind learns well alone, with a warm-up."""
        return self.default_learning_rate

    @abstractmethod
    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Its parameters, those that weigh hidden states apart."""


class PoolProjectorConfig(BaseProjectorConfig):
    """Mean of frames; 30 s of Whisper become 250 tokens."""

    default_tokens_per_second = 25 / 3
    default_learning_rate = POOL_PROJECTOR_LR
    kind: Literal["pool"] = "pool"

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """LayerNorm and a linear layer without bias."""
        return 2 * in_features + in_features * out_features


class MlpProjectorConfig(BaseProjectorConfig):
    """Two linear layers, between them as wide as the language model; the second begins at zero."""

    default_tokens_per_second = 12.5
    kind: Literal["mlp"] = "mlp"
    hidden: int | None = Field(default=None, ge=1)

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Two linear layers without bias."""
        hidden = self.hidden or out_features
        return in_features * stride * hidden + hidden * out_features


class StackProjectorConfig(BaseProjectorConfig):
    """Ultravox; `hidden` is before SwiGLU halves it, and as wide as the model, as there with 8B."""

    default_tokens_per_second = 6.25
    kind: Literal["stack"] = "stack"
    hidden: int | None = Field(default=None, ge=2, multiple_of=2)
    norm: Literal["middle", "end"] = "middle"

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Two norms and two linear layers without bias."""
        hidden = self.hidden or out_features
        norm = hidden // 2 if self.norm == "middle" else out_features
        return in_features * stride * (1 + hidden) + norm + hidden // 2 * out_features


class ConcatProjectorConfig(BaseProjectorConfig):
    """SLAM-ASR's linear projector; sparrow's own has GELU and a norm after."""

    default_tokens_per_second = 10.0
    kind: Literal["concat"] = "concat"
    hidden: int = Field(default=2048, ge=1)
    activation: Literal["relu", "gelu"] = "relu"
    norm: bool = False

    @property
    def learning_rate(self) -> float:
        """A norm bears more."""
        return NORMED_PROJECTOR_LR if self.norm else UNNORMED_PROJECTOR_LR

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Two linear layers, and the norm."""
        return (
            _count_linear_parameters(in_features * stride, self.hidden)
            + _count_linear_parameters(self.hidden, out_features)
            + self.norm * out_features
        )


class ConvProjectorConfig(BaseProjectorConfig):
    """SLAM-ASR's cov1d-linear, WEST's too."""

    default_tokens_per_second = 10.0
    default_learning_rate = UNNORMED_PROJECTOR_LR
    kind: Literal["conv"] = "conv"
    hidden: int = Field(default=2048, ge=1)

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """A convolution and two linear layers."""
        conv = _count_linear_parameters(in_features * stride, in_features)
        return (
            conv
            + _count_linear_parameters(in_features, self.hidden)
            + _count_linear_parameters(self.hidden, out_features)
        )


class QFormerProjectorConfig(BaseProjectorConfig):
    """Granite's sizes: 3 tokens of 15 frames; SALMONN's are 1 of 17."""

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
        """One for each query."""
        return self.queries

    def count_parameters(self, in_features: int, *, stride: int, out_features: int) -> int:
        """Queries, layers of two attentions and four times `hidden`, norms, linear layers."""
        hidden = self.hidden
        attention = 4 * _count_linear_parameters(hidden, hidden)
        forward = _count_linear_parameters(hidden, 4 * hidden) + _count_linear_parameters(
            4 * hidden, hidden
        )
        layers = self.layers * (2 * attention + forward + 3 * 2 * hidden)
        ends = (
            _count_linear_parameters(in_features, hidden)
            + 2 * hidden
            + _count_linear_parameters(hidden, out_features)
        )
        return self.queries * hidden + layers + ends


PROJECTOR_CONFIG_CLASSES: dict[str, type[BaseProjectorConfig]] = {
    "pool": PoolProjectorConfig,
    "mlp": MlpProjectorConfig,
    "stack": StackProjectorConfig,
    "concat": ConcatProjectorConfig,
    "conv": ConvProjectorConfig,
    "qformer": QFormerProjectorConfig,
}


def parse_projector_config(projector: ProjectorLike) -> BaseProjectorConfig:
    """The checked shape. Raises BaseError for a kind, an option or a value that cannot be."""
    options = {"kind": projector} if isinstance(projector, str) else dict(projector)
    name = str(options.get("kind", ""))
    if name not in PROJECTOR_CONFIG_CLASSES:
        what = f"unknown kind '{name}'" if name else "no kind is given"
        raise ModelError(
            what, where="projector", hint=_suggest_name(name, PROJECTOR_CONFIG_CLASSES)
        )
    try:
        return PROJECTOR_CONFIG_CLASSES[name].model_validate(options)
    except ValidationError as error:
        mistake = error.errors()[0]
        what, mend = describe_validation_error(mistake)
        if mistake["type"] == "extra_forbidden":
            unknown, known = (
                str(mistake["loc"][-1]),
                set(PROJECTOR_CONFIG_CLASSES[name].model_fields) - {"kind"},
            )
            what, mend = f"{name} takes no '{unknown}'", _suggest_name(unknown, sorted(known))
        raise ModelError(what, where="projector", hint=mend) from error


def compute_projector_strides(
    projector: ProjectorLike, frames_per_second: float
) -> tuple[int, int]:
    """Encoder frames of a group and the tokens it becomes: `Strides.projector` and `.queries`.

    `frames_per_second` is the rate of the first encoder. A `tokens_per_second` that is no whole
    stride is met by the nearest one. Raises BaseError as `projector_shape` does.
    """
    checked = parse_projector_config(projector)
    wanted = checked.tokens_per_second or checked.default_tokens_per_second
    nearest = round(frames_per_second * checked.tokens_per_group / wanted)
    return checked.stride or max(nearest, 1), checked.tokens_per_group


def count_projector_parameters(
    projector: ProjectorLike, encoder_dims: EncoderDims, *, stride: int, out_features: int
) -> int:
    """How many numbers a projector learns: exact. `out` is the width of the language model."""
    weighed = sum(layers for layers, _ in encoder_dims if layers > 1)
    width = sum(width for _, width in encoder_dims)
    return weighed + parse_projector_config(projector).count_parameters(
        width, stride=stride, out_features=out_features
    )


def get_projector_learning_rate(projector: ProjectorLike) -> float:
    """The rate a document without one gets for the projector."""
    return parse_projector_config(projector).learning_rate


def _suggest_name(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def _count_linear_parameters(in_features: int, out_features: int) -> int:
    return in_features * out_features + out_features


PROJECTOR_KEY_PREFIX = "projector."
SAFETENSORS_GLOB = "*.safetensors"
FRESH_PROJECTOR_HINT = "take source out for a fresh one, or name another"


@dataclass(frozen=True)
class ProjectorDims:
    """What a projector stands between: hidden states and their width, and the model's width.

    `frames_per_second` are those of the first encoder.
    """

    encoder_dims: EncoderDims
    out_features: int
    frames_per_second: float

    @property
    def description(self) -> str:
        """The same in words."""
        width = sum(states * width for states, width in self.encoder_dims)
        return f"frames {width} wide and a language model {self.out_features} wide"


def resolve_projector_options(
    projector_config: ProjectorConfig, dims: ProjectorDims, folder: Path
) -> tuple[dict[str, Any], str]:
    """The kind of the projector that is asked for and its options, checked; its source among them.

    With it, which weights these are: "" for fresh ones. Raises BaseError where saved ones do not
    fit between the parts.
    """
    options = {
        name: value
        for name, value in projector_config.model_dump(exclude_unset=True).items()
        if value is not None and name != "source"
    }
    source = projector_config.source
    if source is None and projector_config.kind in MODEL_CATALOG:
        source = options.pop("kind")
    if source is None:
        parse_projector_config(options)
        return options, ""
    place = (folder / Path(source).expanduser()).absolute()
    if place.is_dir() and not (place / HF_CONFIG_FILE).is_file():
        _check_version_projector(options, place, dims)
        return {**options, "source": str(place)}, _hash_tensor_files(place)
    origin = resolve_model_ref(source, folder)
    return _take_composed_projector(options, origin, dims), origin.revision


def _take_composed_projector(
    options: dict[str, Any], model_ref: ModelRef, dims: ProjectorDims
) -> dict[str, Any]:
    facts = model_ref.spec
    if facts is None:
        raise ModelError(
            "holds no projector by itself", where=model_ref.name, hint=FRESH_PROJECTOR_HINT
        )
    parts = model_ref.config["encoders"]
    hearings = [
        derive_encoder_spec(each["config"], each["layer"], where=model_ref.name) for each in parts
    ]
    heard = tuple((hearing.num_hidden_states, hearing.shape.hidden_size) for hearing in hearings)
    there = replace(dims, encoder_dims=heard, out_features=facts.sizes.lm.hidden_size)
    if there != dims:
        what = f"its projector joins {there.description}; here are {dims.description}"
        raise ModelError(what, where=model_ref.name, hint=FRESH_PROJECTOR_HINT)
    shape = {**model_ref.config["projector"], "stride": facts.audio_spec.projector_stride}
    shape.pop("tokens_per_second", None)
    if any(shape.get(name, value) != value for name, value in options.items()):
        what = f"its projector is {shape}"
        raise ModelError(what, where=model_ref.name, hint="leave its options out")
    local = Path(model_ref.source).is_absolute() or model_ref.source.startswith(BUNDLED_PREFIX)
    return {
        **shape,
        "source": model_ref.source if local else f"{model_ref.source}@{model_ref.revision}",
    }


def _check_version_projector(
    options: dict[str, Any], version_dir: Path, dims: ProjectorDims
) -> None:
    """Refuse what a version holds when it has another number of weights."""
    parse_projector_config(options)
    stride, _ = compute_projector_strides(options, dims.frames_per_second)
    wanted = count_projector_parameters(
        options, dims.encoder_dims, stride=stride, out_features=dims.out_features
    )
    found = _count_saved_parameters(version_dir)
    if found != wanted:
        what = f"its projector has {found:,} numbers, and one between {dims.description} {wanted:,}"
        raise ModelError(what, where=str(version_dir), hint=FRESH_PROJECTOR_HINT)


def _hash_tensor_files(version_dir: Path) -> str:
    return " ".join(sha256_file(path) for path in sorted(version_dir.glob(SAFETENSORS_GLOB)))


def _count_saved_parameters(version_dir: Path) -> int:
    """Numbers of the projector among the tensors in a folder."""
    total = 0
    for path in sorted(version_dir.glob(SAFETENSORS_GLOB)):
        try:
            with safe_open(path, framework="numpy") as file:
                for key in sorted(file.keys()):
                    if key.startswith(PROJECTOR_KEY_PREFIX):
                        total += math.prod(file.get_slice(key).get_shape())
        except (OSError, SafetensorError) as reason:
            raise make_damaged_checkpoint_error(f"cannot be read ({reason})", path) from reason
    return total
