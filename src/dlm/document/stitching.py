"""The base of a document: its name, or the parts it is stitched from.

    base_model: sparrow                       a name
    base_model:                               parts
      encoder: sparrow                        a source, or its fields, or a list of two
      projector: stack                        a kind, or its fields, or a folder with a saved one
      lm: {from_scratch: {model_type: ...}}   a source, or its fields
    base_model: {like: sparrow, lm: ...}      the parts of another base, but for those given

A source is a name of the catalogue, hf:org/name, ms:org/name or a folder, and no code is in it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from dlm.document.record import Positive, Record, Text

PARTS = ("encoder", "projector", "lm")

From = Annotated[dict[str, Any] | None, Strict(False)]


def _layer(value: object) -> object:
    if value in ("last", "weighted_sum") or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be 'last', 'weighted_sum' or the number of a layer, from 1 on")


def _scale(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    if value is None or value == "embeddings" or number:
        return value
    raise ValueError("must be 'embeddings' or a number above 0")


def _norm(value: object) -> object:
    if value is None or isinstance(value, bool) or value in ("middle", "end"):
        return value
    raise ValueError("must be true, false, 'middle' or 'end'")


class Encoder(Record):
    """What hears: an encoder of sound."""

    source: Text | None = Field(
        default=None, description="Base or model it is taken from, such as hf:openai/whisper-base."
    )
    from_scratch: From = Field(
        default=None, description="Random weights of this config: model_type, and what it takes."
    )
    layer: Annotated[int | Literal["last", "weighted_sum"], BeforeValidator(_layer)] = Field(
        default="last", description="Layer that is heard: last, a number, or weighted_sum of all."
    )
    pad: Literal["30s"] | None = Field(
        default=None, description="30s hears every clip with silence up to 30 s, as Whisper did."
    )


class Projector(Record):
    """What joins: from what was heard to what the language model reads. Empty means its own."""

    kind: Text | None = Field(
        default=None, description="Kind: pool, mlp, stack, concat, conv or qformer."
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
    scale: Annotated[float | Literal["embeddings"] | None, BeforeValidator(_scale)] = Field(
        default=None,
        description="RMS of its tokens at the start: a number, or embeddings for the model's own.",
    )
    fp32: bool | None = Field(
        default=None, description="Compute in fp32 in any precision of training."
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


class Lm(Record):
    """What thinks: a language model."""

    source: Text | None = Field(
        default=None, description="Base or model it is taken from, such as hf:org/name."
    )
    from_scratch: From = Field(
        default=None, description="Random weights of this config: model_type, and what it takes."
    )
    tokenizer: Text | None = Field(
        default=None, description="bytes, or a source of another tokenizer; its own if empty."
    )


Part = Encoder | Projector | Lm


def _part(kind: type[Part], word: Callable[[str], str]) -> Callable[[object], object]:
    """A part that is only a word may be written as one; `word` says which field it fills."""

    def read(value: object) -> object:
        if isinstance(value, str) and value.strip():
            return kind(**{word(value): value})
        if isinstance(value, Mapping):
            return _one_origin(kind.model_validate(value))
        if isinstance(value, kind):
            return value
        raise ValueError("must be text, in quotes, or a group of 'key: value' lines")

    return read


def _one_origin(part: Part) -> Part:
    """The part, when it comes from one place: from a source, or from scratch."""
    if not isinstance(part, Projector) and part.source and part.from_scratch is not None:
        raise _mistakes("must be left out where a source is given", ["from_scratch"], part)
    if not isinstance(part, Projector) and part.from_scratch is not None:
        kind = part.from_scratch.get("model_type")
        if not isinstance(kind, str):
            raise _mistakes("", ["from_scratch", "model_type"], part)
    return part


def _encoders(value: object) -> object:
    """One encoder, or two."""
    if not isinstance(value, list | tuple):
        return _encoder(value)
    if len(value) != 2:
        raise ValueError("must be one encoder, or a list of two")
    found: list[object] = []
    for at, each in enumerate(value):
        try:
            found.append(_encoder(each))
        except ValidationError as error:
            raise _under(at, error.errors()) from error
    return tuple(found)


def _word_of_projector(word: str) -> str:
    """A kind is a plain word; a folder, or a name with its place before it, is a source."""
    return "kind" if word.isidentifier() else "source"


_encoder = _part(Encoder, lambda _: "source")


class Stitching(Record):
    """The parts of a base, and how it is asked."""

    like: Text | None = Field(
        default=None, description="Base whose parts are taken where none is given here."
    )
    encoder: Annotated[Encoder | tuple[Encoder, Encoder] | None, BeforeValidator(_encoders)] = (
        Field(default=None, description="What hears: a source, a group, or a list of two.")
    )
    projector: Annotated[
        Projector | None, BeforeValidator(_part(Projector, _word_of_projector))
    ] = Field(default=None, description="What joins: a kind, a group, or a saved one's source.")
    lm: Annotated[Lm | None, BeforeValidator(_part(Lm, lambda _: "source"))] = Field(
        default=None, description="What thinks: a source or a group."
    )
    prompt: Text | None = Field(
        default=None, description="What it is asked about a clip that has only a transcript."
    )
    before: str | None = Field(default=None, description="Text before each sound.")
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
        raise ValueError("must be text, in quotes, or a group of encoder, projector and lm")
    checked = Stitching.model_validate(value)
    if checked.like is None:
        _insist_on_parts(checked)
    return checked


def _insist_on_parts(given: Stitching) -> None:
    """Refuse parts that are not there, or come from nowhere."""
    missing = [[part] for part in PARTS if part not in given.model_fields_set]
    listed = isinstance(given.encoder, tuple)
    for at, each in enumerate(given.encoders):
        if each.source is None and each.from_scratch is None:
            missing.append(["encoder", *([at] if listed else []), "source"])
    if given.lm and given.lm.source is None and given.lm.from_scratch is None:
        missing.append(["lm", "source"])
    if given.projector and given.projector.kind is None and given.projector.source is None:
        missing.append(["projector", "kind"])
    if missing:
        raise ValidationError.from_exception_data(
            "Stitching",
            [InitErrorDetails(type="missing", loc=tuple(loc), input=given) for loc in missing],
        )
