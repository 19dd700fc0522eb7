"""The base of a document: its name, or the parts it is stitched from.

    base_model: sparrow                       a name
    base_model:                               parts
      encoder: sparrow                        a source, or its fields, or a list of two
      projector: stack                        a kind, or its fields, or a folder with a saved one
      lm: {from_scratch: {model_type: ...}}   a source, or its fields
    base_model: {like: sparrow, lm: ...}      the parts of another base, but for those given

A source is a name of the catalogue, hf:org/name, ms:org/name or a folder, and no code is in it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from dlm.document.record import Positive, Record, Text

ENDS = ("encoder", "lm")  # that a base cannot do without


def _layer(value: object) -> object:
    if value in ("last", "weighted_sum") or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be 'last', 'weighted_sum' or the number of a layer, from 1 on")


def _scale(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    if value is None or value == "embeddings" or number:
        return value
    raise ValueError("must be 'embeddings' or a number above 0")


Scale = Annotated[float | Literal["embeddings"] | None, BeforeValidator(_scale)]


def _norm(value: object) -> object:
    if value is None or isinstance(value, bool) or value in ("middle", "end"):
        return value
    raise ValueError("must be true, false, 'middle' or 'end'")


class Origin(Record):
    """Where the weights of a part come from."""

    source: Text | None = Field(
        default=None, description="Base or model it is taken from, such as sparrow or hf:org/name."
    )
    from_scratch: dict[str, Any] | None = Field(
        default=None, description="Random weights of this config: model_type, and what it takes."
    )

    @field_validator("from_scratch")
    @classmethod
    def _one_of_two(
        cls, value: dict[str, Any] | None, given: ValidationInfo
    ) -> dict[str, Any] | None:
        if value is not None and given.data.get("source") is not None:
            raise ValueError("must be left out where source is given")
        if value is not None and not isinstance(value.get("model_type"), str):
            raise ValueError("must name its model_type, such as whisper or qwen3")
        return value


class Encoder(Origin):
    """What hears: an encoder of sound."""

    layer: Annotated[int | Literal["last", "weighted_sum"], BeforeValidator(_layer)] = Field(
        default="last", description="Layer that is heard: last, a number, or weighted_sum of all."
    )
    pad: Literal["30s"] | None = Field(
        default=None, description="30s hears every clip with silence up to 30 s, as Whisper did."
    )


class Projector(Record):
    """What joins: from what was heard to what the language model reads. Empty means its own."""

    kind: Text | None = Field(
        default=None, description="Kind: mlp (also if empty), pool, stack, concat, conv or qformer."
    )
    source: Text | None = Field(
        default=None, description="Base or version whose projector is taken, weights and all."
    )
    stride: int | None = Field(
        default=None, ge=1, description="Encoder frames that become one token, or one window."
    )
    tokens_per_second: Positive | None = Field(
        default=None, description="Tokens per second, in place of stride; the nearest is taken."
    )
    hidden: int | None = Field(default=None, ge=1, description="Inner width.")
    scale: Scale = Field(
        default=None,
        description="RMS of its tokens at the start: a number, or embeddings for the model's own.",
    )
    activation: Literal["relu", "gelu"] | None = Field(
        default=None, description="Of concat: relu or gelu."
    )
    norm: Annotated[bool | Literal["middle", "end"] | None, BeforeValidator(_norm)] = Field(
        default=None, description="Of stack: middle or end; of concat: true or false."
    )
    queries: int | None = Field(
        default=None, ge=1, description="Of qformer: tokens of each window of frames."
    )
    layers: int | None = Field(default=None, ge=1, description="Of qformer: layers of attention.")
    heads: int | None = Field(default=None, ge=1, description="Of qformer: heads of attention.")


class Lm(Origin):
    """What thinks: a language model."""

    tokenizer: Text | None = Field(
        default=None, description="bytes, or a source of another tokenizer; its own if empty."
    )


def _part(
    kind: type[Record], word: Callable[[str], str] = lambda _: "source"
) -> Callable[[object], object]:
    """How a part is read: what is only a word fills the field that `word` tells."""

    def read(value: object) -> object:
        if isinstance(value, kind):
            return value
        if isinstance(value, str) and value.strip():
            return kind.model_validate({word(value): value})
        if isinstance(value, Mapping):
            return kind.model_validate(value)
        raise ValueError("must be text, in quotes, or a group of 'key: value' lines")

    return read


def _kind_or_source(word: str) -> str:
    """A kind is a plain word; a folder, or a name with its place before it, is a source."""
    return "kind" if word.isidentifier() else "source"


One = Annotated[Encoder, BeforeValidator(_part(Encoder))]
_ONE, _TWO = TypeAdapter[Encoder](One), TypeAdapter[tuple[Encoder, Encoder]](tuple[One, One])


def _encoders(value: object) -> object:
    """One encoder, or two."""
    if not isinstance(value, list | tuple):
        return _ONE.validate_python(value)
    if len(value) != 2:
        raise ValueError("must be one encoder, or a list of two")
    return _TWO.validate_python(tuple(value))


class Stitching(Record):
    """The parts of a base, and how it is asked."""

    like: Text | None = Field(
        default=None, description="Base whose parts are taken where none is given here."
    )
    encoder: Annotated[Encoder | tuple[Encoder, Encoder] | None, BeforeValidator(_encoders)] = (
        Field(default=None, description="What hears: a source, a group, or a list of two.")
    )
    projector: Annotated[Projector | None, BeforeValidator(_part(Projector, _kind_or_source))] = (
        Field(default=None, description="What joins: a kind, a group, or a saved one's source.")
    )
    lm: Annotated[Lm | None, BeforeValidator(_part(Lm))] = Field(
        default=None, description="What thinks: a source or a group."
    )
    prompt: Text | None = Field(
        default=None, description="What it is asked about a clip that has only a transcript."
    )
    before: str | None = Field(
        default=None, description="Text before each sound; if empty, Listen: in a plain chat."
    )
    after: str | None = Field(default=None, description="Text after each sound.")
    chat: Literal["template", "plain"] | None = Field(
        default=None, description="template of the language model's own, or plain text."
    )

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """What hears, the one that sets the rate first."""
        if self.encoder is None:
            return ()
        return self.encoder if isinstance(self.encoder, tuple) else (self.encoder,)


def name_or_parts(value: object) -> object:
    """What `base_model` is: a name as it is written, or its parts, checked."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("must be named")
    if isinstance(value, str | Stitching):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be text, in quotes")
    checked = Stitching.model_validate(value)
    if checked.like is None:
        _insist_on_parts(checked)
    return checked


def _insist_on_parts(given: Stitching) -> None:
    """Refuse parts that are not there, or come from nowhere."""
    missing: list[tuple[str | int, ...]] = [
        (part,) for part in ENDS if part not in given.model_fields_set
    ]
    listed = isinstance(given.encoder, tuple)
    for at, each in enumerate(given.encoders):
        if each.source is None and each.from_scratch is None:
            missing.append(("encoder", at, "source") if listed else ("encoder", "source"))
    if given.lm and given.lm.source is None and given.lm.from_scratch is None:
        missing.append(("lm", "source"))
    if missing:
        raise ValidationError.from_exception_data(
            "Stitching", [{"type": "missing", "loc": loc, "input": given} for loc in missing]
        )
