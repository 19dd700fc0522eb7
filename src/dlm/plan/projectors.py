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
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from dlm.document.frontmatter import describe
from dlm.document.record import Record
from dlm.document.stitching import Scale
from dlm.errors import BaseError

Heard = tuple[tuple[int, int], ...]
Written = str | Mapping[str, Any]

NORMED_RATE = 1e-3  # Ultravox, Audio Flamingo 3 and LLaSO teach a projector alone at this
BARE_RATE = 1e-4  # SLAM-ASR: without a norm, more makes it diverge
POOL_RATE = 1.5e-3  # system B


class Shape(Record):
    """What every kind takes."""

    per_second: ClassVar[float]  # tokens, where the shape gives neither stride nor rate
    rate: ClassVar[float] = NORMED_RATE

    stride: int | None = Field(default=None, ge=1)
    tokens_per_second: float | None = Field(default=None, gt=0)
    scale: Scale = None
    source: str | None = None

    @field_validator("tokens_per_second")
    @classmethod
    def _one_of_two(cls, value: float | None, given: ValidationInfo) -> float | None:
        if value is not None and given.data.get("stride") is not None:
            raise ValueError("must be left out where stride is given")
        return value

    @property
    def group_tokens(self) -> int:
        """Tokens that a group of `stride` frames becomes."""
        return 1

    @property
    def learning_rate(self) -> float:
        """The rate at which this kind learns well alone, with a warm-up."""
        return self.rate

    @abstractmethod
    def own_parameters(self, width: int, *, stride: int, out: int) -> int:
        """Its parameters, those that weigh hidden states apart."""


class Pool(Shape):
    """Mean of frames; 30 s of Whisper become 250 tokens."""

    per_second = 25 / 3
    rate = POOL_RATE
    kind: Literal["pool"] = "pool"

    def own_parameters(self, width: int, *, stride: int, out: int) -> int:
        """LayerNorm and a linear layer without bias."""
        return 2 * width + width * out


class Mlp(Shape):
    """Two linear layers, between them as wide as the language model; the second begins at zero."""

    per_second = 12.5
    kind: Literal["mlp"] = "mlp"
    hidden: int | None = Field(default=None, ge=1)

    def own_parameters(self, width: int, *, stride: int, out: int) -> int:
        """Two linear layers without bias."""
        hidden = self.hidden or out
        return width * stride * hidden + hidden * out


class Stack(Shape):
    """Ultravox; `hidden` is before SwiGLU halves it, and as wide as the model, as there with 8B."""

    per_second = 6.25
    kind: Literal["stack"] = "stack"
    hidden: int | None = Field(default=None, ge=2, multiple_of=2)
    norm: Literal["middle", "end"] = "middle"

    def own_parameters(self, width: int, *, stride: int, out: int) -> int:
        """Two norms and two linear layers without bias."""
        hidden = self.hidden or out
        norm = hidden // 2 if self.norm == "middle" else out
        return width * stride * (1 + hidden) + norm + hidden // 2 * out


class Concat(Shape):
    """SLAM-ASR's linear projector; sparrow's own has GELU and a norm after."""

    per_second = 10.0
    kind: Literal["concat"] = "concat"
    hidden: int = Field(default=2048, ge=1)
    activation: Literal["relu", "gelu"] = "relu"
    norm: bool = False

    @property
    def learning_rate(self) -> float:
        """A norm bears more."""
        return NORMED_RATE if self.norm else BARE_RATE

    def own_parameters(self, width: int, *, stride: int, out: int) -> int:
        """Two linear layers, and the norm."""
        return _linear(width * stride, self.hidden) + _linear(self.hidden, out) + self.norm * out


class Conv(Shape):
    """SLAM-ASR's cov1d-linear, WEST's too."""

    per_second = 10.0
    rate = BARE_RATE
    kind: Literal["conv"] = "conv"
    hidden: int = Field(default=2048, ge=1)

    def own_parameters(self, width: int, *, stride: int, out: int) -> int:
        """A convolution and two linear layers."""
        conv = _linear(width * stride, width)
        return conv + _linear(width, self.hidden) + _linear(self.hidden, out)


class Qformer(Shape):
    """Granite's sizes: 3 tokens of 15 frames; SALMONN's are 1 of 17."""

    per_second = 10.0
    kind: Literal["qformer"] = "qformer"
    queries: int = Field(default=3, ge=1)
    layers: int = Field(default=2, ge=1)
    hidden: int = Field(default=1024, ge=1)
    heads: int = Field(default=16, ge=1, validate_default=True)

    @field_validator("heads")
    @classmethod
    def _divides(cls, value: int, given: ValidationInfo) -> int:
        hidden = given.data.get("hidden", value)
        if hidden % value:
            raise ValueError(f"must divide hidden, which is {hidden}")
        return value

    @property
    def group_tokens(self) -> int:
        """One for each query."""
        return self.queries

    def own_parameters(self, width: int, *, stride: int, out: int) -> int:
        """Queries, layers of two attentions and four times `hidden`, norms, linear layers."""
        hidden = self.hidden
        attention = 4 * _linear(hidden, hidden)
        forward = _linear(hidden, 4 * hidden) + _linear(4 * hidden, hidden)
        layers = self.layers * (2 * attention + forward + 3 * 2 * hidden)
        ends = _linear(width, hidden) + 2 * hidden + _linear(hidden, out)
        return self.queries * hidden + layers + ends


KINDS: dict[str, type[Shape]] = {
    "pool": Pool,
    "mlp": Mlp,
    "stack": Stack,
    "concat": Concat,
    "conv": Conv,
    "qformer": Qformer,
}


def projector_shape(written: Written) -> Shape:
    """The checked shape. Raises BaseError for a kind, an option or a value that cannot be."""
    options = {"kind": written} if isinstance(written, str) else dict(written)
    name = str(options.get("kind", ""))
    if name not in KINDS:
        what = f"unknown kind '{name}'" if name else "no kind is given"
        raise BaseError(what, where="projector", mend=_near(name, KINDS))
    try:
        return KINDS[name].model_validate(options)
    except ValidationError as error:
        mistake = error.errors()[0]
        what, mend = describe(mistake)
        if mistake["type"] == "extra_forbidden":
            unknown, known = str(mistake["loc"][-1]), set(KINDS[name].model_fields) - {"kind"}
            what, mend = f"{name} takes no '{unknown}'", _near(unknown, sorted(known))
        raise BaseError(what, where="projector", mend=mend) from error


def projector_strides(shape: Written, frames_per_second: float) -> tuple[int, int]:
    """Encoder frames of a group and the tokens it becomes: `Strides.projector` and `.queries`.

    `frames_per_second` is the rate of the first encoder. A `tokens_per_second` that is no whole
    stride is met by the nearest one. Raises BaseError as `projector_shape` does.
    """
    checked = projector_shape(shape)
    wanted = checked.tokens_per_second or checked.per_second
    nearest = round(frames_per_second * checked.group_tokens / wanted)
    return checked.stride or max(nearest, 1), checked.group_tokens


def projector_parameters(shape: Written, heard: Heard, *, stride: int, out: int) -> int:
    """How many numbers a projector learns: exact. `out` is the width of the language model."""
    weighed = sum(layers for layers, _ in heard if layers > 1)
    width = sum(width for _, width in heard)
    return weighed + projector_shape(shape).own_parameters(width, stride=stride, out=out)


def projector_learning_rate(shape: Written) -> float:
    """The rate a document without one gets for the projector."""
    return projector_shape(shape).learning_rate


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def _linear(width: int, out: int) -> int:
    return width * out + out
