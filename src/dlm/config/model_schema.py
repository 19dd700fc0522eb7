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

from dlm.config.base_model import BaseConfig, NonEmptyStr, PositiveFloat

REQUIRED_COMPONENTS = ("encoder", "lm")  # that a base cannot do without


def _check_layer(value: object) -> object:
    if value in ("last", "weighted_sum") or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be 'last', 'weighted_sum' or the number of a layer, from 1 on")


def _check_scale(value: object) -> object:
    number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    if value is None or value == "embeddings" or number:
        return value
    raise ValueError("must be 'embeddings' or a number above 0")


ProjectorScale = Annotated[float | Literal["embeddings"] | None, BeforeValidator(_check_scale)]


def _check_norm(value: object) -> object:
    if value is None or isinstance(value, bool) or value in ("middle", "end"):
        return value
    raise ValueError("must be true, false, 'middle' or 'end'")


class WeightSource(BaseConfig):
    """Where the weights of a part come from."""

    source: NonEmptyStr | None = Field(
        default=None, description="Base or model it is taken from, such as sparrow or hf:org/name."
    )
    from_scratch: dict[str, Any] | None = Field(
        default=None, description="Random weights of this config: model_type, and what it takes."
    )

    @field_validator("from_scratch")
    @classmethod
    def _check_from_scratch(
        cls, value: dict[str, Any] | None, info: ValidationInfo
    ) -> dict[str, Any] | None:
        if value is not None and info.data.get("source") is not None:
            raise ValueError("must be left out where source is given")
        if value is not None and not isinstance(value.get("model_type"), str):
            raise ValueError("must name its model_type, such as whisper or qwen3")
        return value


class EncoderConfig(WeightSource):
    """What hears: an encoder of sound."""

    layer: Annotated[int | Literal["last", "weighted_sum"], BeforeValidator(_check_layer)] = Field(
        default="last", description="Layer that is heard: last, a number, or weighted_sum of all."
    )
    pad: Literal["30s"] | None = Field(
        default=None, description="30s hears every clip with silence up to 30 s, as Whisper did."
    )


class ProjectorConfig(BaseConfig):
    """What joins: from what was heard to what the language model reads. Empty means its own."""

    kind: NonEmptyStr | None = Field(
        default=None, description="Kind: mlp (also if empty), pool, stack, concat, conv or qformer."
    )
    source: NonEmptyStr | None = Field(
        default=None, description="Base or version whose projector is taken, weights and all."
    )
    stride: int | None = Field(
        default=None, ge=1, description="Encoder frames that become one token, or one window."
    )
    tokens_per_second: PositiveFloat | None = Field(
        default=None, description="Tokens per second, in place of stride; the nearest is taken."
    )
    hidden: int | None = Field(default=None, ge=1, description="Inner width.")
    scale: ProjectorScale = Field(
        default=None,
        description="RMS of its tokens at the start: a number, or embeddings for the model's own.",
    )
    activation: Literal["relu", "gelu"] | None = Field(
        default=None, description="Of concat: relu or gelu."
    )
    norm: Annotated[bool | Literal["middle", "end"] | None, BeforeValidator(_check_norm)] = Field(
        default=None, description="Of stack: middle or end; of concat: true or false."
    )
    queries: int | None = Field(
        default=None, ge=1, description="Of qformer: tokens of each window of frames."
    )
    layers: int | None = Field(default=None, ge=1, description="Of qformer: layers of attention.")
    heads: int | None = Field(default=None, ge=1, description="Of qformer: heads of attention.")


class LanguageModelConfig(WeightSource):
    """What thinks: a language model."""

    tokenizer: NonEmptyStr | None = Field(
        default=None, description="bytes, or a source of another tokenizer; its own if empty."
    )


def _make_component_parser(
    config_class: type[BaseConfig], text_field: Callable[[str], str] = lambda _: "source"
) -> Callable[[object], object]:
    """How a part is read: what is only a word fills the field that `word` tells."""

    def read(value: object) -> object:
        if isinstance(value, config_class):
            return value
        if isinstance(value, str) and value.strip():
            return config_class.model_validate({text_field(value): value})
        if isinstance(value, Mapping):
            return config_class.model_validate(value)
        raise ValueError("must be text, in quotes, or a group of 'key: value' lines")

    return read


def _choose_kind_or_source(text: str) -> str:
    """A kind is a plain word; a folder, or a name with its place before it, is a source."""
    return "kind" if text.isidentifier() else "source"


EncoderInput = Annotated[EncoderConfig, BeforeValidator(_make_component_parser(EncoderConfig))]
_ONE_ENCODER, _TWO_ENCODERS = (
    TypeAdapter[EncoderConfig](EncoderInput),
    TypeAdapter[tuple[EncoderConfig, EncoderConfig]](tuple[EncoderInput, EncoderInput]),
)


def _parse_encoders(value: object) -> object:
    """One encoder, or two."""
    if not isinstance(value, list | tuple):
        return _ONE_ENCODER.validate_python(value)
    if len(value) != 2:
        raise ValueError("must be one encoder, or a list of two")
    return _TWO_ENCODERS.validate_python(tuple(value))


class ComposedModelConfig(BaseConfig):
    """The parts of a base, and how it is asked."""

    like: NonEmptyStr | None = Field(
        default=None, description="Base whose parts are taken where none is given here."
    )
    encoder: Annotated[
        EncoderConfig | tuple[EncoderConfig, EncoderConfig] | None, BeforeValidator(_parse_encoders)
    ] = Field(default=None, description="What hears: a source, a group, or a list of two.")
    projector: Annotated[
        ProjectorConfig | None,
        BeforeValidator(_make_component_parser(ProjectorConfig, _choose_kind_or_source)),
    ] = Field(default=None, description="What joins: a kind, a group, or a saved one's source.")
    lm: Annotated[
        LanguageModelConfig | None, BeforeValidator(_make_component_parser(LanguageModelConfig))
    ] = Field(default=None, description="What thinks: a source or a group.")
    prompt: NonEmptyStr | None = Field(
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
    def encoders(self) -> tuple[EncoderConfig, ...]:
        """What hears, the one that sets the rate first."""
        if self.encoder is None:
            return ()
        return self.encoder if isinstance(self.encoder, tuple) else (self.encoder,)


def parse_base_model(value: object) -> object:
    """What `base_model` is: a name as it is written, or its parts, checked."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("must be named")
    if isinstance(value, str | ComposedModelConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be text, in quotes")
    checked = ComposedModelConfig.model_validate(value)
    if checked.like is None:
        _require_components(checked)
    return checked


def _require_components(config: ComposedModelConfig) -> None:
    """Refuse parts that are not there, or come from nowhere."""
    missing: list[tuple[str | int, ...]] = [
        (part,) for part in REQUIRED_COMPONENTS if part not in config.model_fields_set
    ]
    listed = isinstance(config.encoder, tuple)
    for at, each in enumerate(config.encoders):
        if each.source is None and each.from_scratch is None:
            missing.append(("encoder", at, "source") if listed else ("encoder", "source"))
    if config.lm and config.lm.source is None and config.lm.from_scratch is None:
        missing.append(("lm", "source"))
    if missing:
        raise ValidationError.from_exception_data(
            "Stitching", [{"type": "missing", "loc": loc, "input": config} for loc in missing]
        )
