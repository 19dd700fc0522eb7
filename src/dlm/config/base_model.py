"""What every part of the frontmatter is made of: exact values, known keys, no changes.

A group of fields is a Record; a field says what it means in its description, and carries a Flag
when it has an option of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from pydantic.fields import FieldInfo


class BaseConfig(BaseModel):
    """What every part of the frontmatter obeys: exact types, no unknown keys, no changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class CliOption:
    """The command-line options that set a field, and what stands for its value in the help.

    Without a value it switches the field on; a path is relative to where the command is given.
    """

    flags: tuple[str, ...]
    metavar: str = ""

    @property
    def is_path(self) -> bool:
        """Whether the value may be a path."""
        return "PATH" in self.metavar


def _reject_null_byte(value: str) -> str:
    if "\0" in value:
        raise ValueError("must hold no zero byte")
    return value


NonEmptyStr = Annotated[str, Field(min_length=1), AfterValidator(_reject_null_byte)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonEmptyStrList = Annotated[tuple[NonEmptyStr, ...], Strict(False)]


def none_to_empty_dict(value: object) -> object:
    """A group that is written without fields is one of defaults."""
    return {} if value is None else value


def none_to_empty_tuple(value: object) -> object:
    """A list that is written without items has none."""
    return () if value is None else value


def iter_fields(config_class: type[BaseConfig]) -> Iterator[tuple[str, FieldInfo]]:
    """Every field by its dotted name, such as `training.lora.where`, in the order documented."""
    for name, info in config_class.model_fields.items():
        yield name, info
        for nested in _find_nested_types(info.annotation):
            yield from ((f"{name}.{below}", field) for below, field in iter_fields(nested))


def iter_value_fields(config_class: type[BaseConfig]) -> Iterator[tuple[str, FieldInfo]]:
    """Every field that holds a value of its own, by its dotted name.

    Groups are passed through; what may be a value or a group is told as both.
    """
    for name, info in config_class.model_fields.items():
        groups = _find_group_types(info.annotation)
        if info.annotation not in groups:
            yield name, info
        for group in groups:
            yield from ((f"{name}.{below}", field) for below, field in iter_value_fields(group))


def _find_group_types(annotation: Any) -> tuple[type[BaseConfig], ...]:
    """The groups that a field may be: not those in a list."""
    listed = get_args(annotation) if not _is_list_type(annotation) else ()
    return tuple(kind for kind in (annotation, *listed) if _is_config_class(kind))


def _find_nested_types(annotation: Any) -> Iterator[type[BaseConfig]]:
    return (kind for kind in (annotation, *get_args(annotation)) if _is_config_class(kind))


def _is_config_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseConfig)


def _is_list_type(annotation: Any) -> bool:
    return get_origin(annotation) is tuple
