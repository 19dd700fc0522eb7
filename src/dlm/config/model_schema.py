"""The field `base_model`: a name, or an encoder, projector and language model to compose.

    base_model: sparrow                       a name
    base_model:                               components
      encoder: sparrow                        a source, or its fields, or a list of two
      projector: stack                        a kind, or its fields, or a folder with a saved one
      lm: {from_scratch: {model_type: ...}}   a source, or its fields
    base_model: {like: sparrow, lm: ...}      the components of another base, except those given

A source is a key of the catalogue, hf:org/name, ms:org/name or a folder. No file is read here.
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

from dlm.config.base_config import BaseConfig, NonEmptyStr, PositiveFloat

REQUIRED_COMPONENTS = ("encoder", "lm")


def _check_layer(value: object) -> object:
    if value in ("last", "weighted_sum") or (type(value) is int and value >= 1):
        return value
    raise ValueError("must be 'last', 'weighted_sum' or the number of a layer, from 1 on")


def _check_scale(value: object) -> object:
    if value in (None, "embeddings"):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError("must be 'embeddings' or a number above 0")


def _check_norm(value: object) -> object:
    if value is None or isinstance(value, bool) or value in ("middle", "end"):
        return value
    raise ValueError("must be true, false, 'middle' or 'end'")


ProjectorScale = Annotated[float | Literal["embeddings"] | None, BeforeValidator(_check_scale)]


class WeightSource(BaseConfig):
    """Where the weights of a component come from: a source, or random weights."""

    source: NonEmptyStr | None = Field(
        default=None, description="Base or model to take it from, such as sparrow or hf:org/name."
    )
    from_scratch: dict[str, Any] | None = Field(
        default=None, description="Random weights for this config: model_type and its fields."
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
    """An audio encoder."""

    layer: Annotated[int | Literal["last", "weighted_sum"], BeforeValidator(_check_layer)] = Field(
        default="last", description="Layer to take: last, a number, or weighted_sum of all."
    )
    pad: Literal["30s"] | None = Field(
        default=None, description="30s pads clips with silence to 30 s, as Whisper was trained."
    )


class ProjectorConfig(BaseConfig):
    """The projector, from encoder output to embeddings; an empty option has its kind's default."""

    kind: NonEmptyStr | None = Field(
        default=None, description="Kind: mlp (also if empty), pool, stack, concat, conv or qformer."
    )
    source: NonEmptyStr | None = Field(
        default=None, description="Base or version to take a trained projector from."
    )
    stride: int | None = Field(
        default=None, ge=1, description="Encoder frames for one token, or one window of qformer."
    )
    tokens_per_second: PositiveFloat | None = Field(
        default=None, description="Tokens per second, in place of stride; the nearest is taken."
    )
    hidden: int | None = Field(default=None, ge=1, description="Width of the hidden layer.")
    scale: ProjectorScale = Field(
        default=None,
        description="RMS of its output at the start: a number, or embeddings for the model's.",
    )
    activation: Literal["relu", "gelu"] | None = Field(
        default=None, description="For concat: relu or gelu."
    )
    norm: Annotated[bool | Literal["middle", "end"] | None, BeforeValidator(_check_norm)] = Field(
        default=None, description="For stack: middle or end; for concat: true or false."
    )
    queries: int | None = Field(
        default=None, ge=1, description="For qformer: tokens of each window of frames."
    )
    layers: int | None = Field(default=None, ge=1, description="For qformer: number of layers.")
    heads: int | None = Field(default=None, ge=1, description="For qformer: attention heads.")


class LanguageModelConfig(WeightSource):
    """A language model."""

    tokenizer: NonEmptyStr | None = Field(
        default=None, description="bytes, or the source of another tokenizer; its own if empty."
    )


def _make_component_parser(
    config_class: type[BaseConfig], choose_field: Callable[[str], str] = lambda _: "source"
) -> Callable[[object], object]:
    """Make the parser of a component: text fills the field that `choose_field` names."""

    def parse_component(value: object) -> object:
        if isinstance(value, config_class):
            return value
        if isinstance(value, str) and value.strip():
            return config_class.model_validate({choose_field(value): value})
        if isinstance(value, Mapping):
            return config_class.model_validate(value)
        raise ValueError("must be text, in quotes, or a group of 'key: value' lines")

    return parse_component


def _choose_kind_or_source(text: str) -> str:
    """A kind is a plain word; a folder, or a name with a prefix, is a source."""
    return "kind" if text.isidentifier() else "source"


EncoderInput = Annotated[EncoderConfig, BeforeValidator(_make_component_parser(EncoderConfig))]
_ONE_ENCODER, _TWO_ENCODERS = (
    TypeAdapter[EncoderConfig](EncoderInput),
    TypeAdapter[tuple[EncoderConfig, EncoderConfig]](tuple[EncoderInput, EncoderInput]),
)


def _parse_encoders(value: object) -> object:
    if not isinstance(value, list | tuple):
        return _ONE_ENCODER.validate_python(value)
    if len(value) != 2:
        raise ValueError("must be one encoder, or a list of two")
    return _TWO_ENCODERS.validate_python(tuple(value))


class ComposedModelConfig(BaseConfig):
    """The components of a base, and its prompt format."""

    like: NonEmptyStr | None = Field(
        default=None, description="Base to take components from that are not given here."
    )
    encoder: Annotated[
        EncoderConfig | tuple[EncoderConfig, EncoderConfig] | None, BeforeValidator(_parse_encoders)
    ] = Field(default=None, description="Audio encoder: a source, a group, or a list of two.")
    projector: Annotated[
        ProjectorConfig | None,
        BeforeValidator(_make_component_parser(ProjectorConfig, _choose_kind_or_source)),
    ] = Field(default=None, description="Projector: a kind, a group, or the source of a saved one.")
    lm: Annotated[
        LanguageModelConfig | None, BeforeValidator(_make_component_parser(LanguageModelConfig))
    ] = Field(default=None, description="Language model: a source or a group.")
    prompt: NonEmptyStr | None = Field(
        default=None, description="Question about a clip that has only a transcript."
    )
    before: str | None = Field(
        default=None, description="Text before each audio; Listen: in a plain chat if empty."
    )
    after: str | None = Field(default=None, description="Text after each audio.")
    chat: Literal["template", "plain"] | None = Field(
        default=None,
        description="template of the language model, or plain text; plain if it has no template.",
    )

    @property
    def encoders(self) -> tuple[EncoderConfig, ...]:
        """The encoders; the first one sets the frame rate."""
        if self.encoder is None:
            return ()
        return self.encoder if isinstance(self.encoder, tuple) else (self.encoder,)


def parse_base_model(value: object) -> object:
    """Return the name as it is written, or the checked ComposedModelConfig.

    Raises:
        ValueError: it is neither.
        ValidationError: of pydantic, a component is missing or has a bad field.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("must be named")
    if isinstance(value, str | ComposedModelConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be text, in quotes")
    config = ComposedModelConfig.model_validate(value)
    if config.like is None:
        _require_components(config)
    return config


def _require_components(config: ComposedModelConfig) -> None:
    """Refuse components that are missing or have no weights."""
    missing: list[tuple[str | int, ...]] = [
        (name,) for name in REQUIRED_COMPONENTS if name not in config.model_fields_set
    ]
    sources: list[tuple[tuple[str | int, ...], WeightSource]] = [
        (("encoder", index) if isinstance(config.encoder, tuple) else ("encoder",), encoder)
        for index, encoder in enumerate(config.encoders)
    ]
    if config.lm:
        sources.append((("lm",), config.lm))
    missing += [
        (*loc, "source")
        for loc, weights in sources
        if weights.source is None and weights.from_scratch is None
    ]
    if missing:
        raise ValidationError.from_exception_data(
            ComposedModelConfig.__name__,
            [{"type": "missing", "loc": loc, "input": config} for loc in missing],
        )
