"""The base class and field types of every group in the frontmatter; the list of all fields.

A group of fields is a BaseConfig: exact types, no unknown keys, frozen. Each field has a
description, and a CliOption where the command line has an option for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from pydantic.fields import FieldInfo


class BaseConfig(BaseModel):
    """A group of fields: strict types, no unknown keys, frozen, finite numbers."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class CliOption:
    """The command-line options that set a field.

    Attributes:
        flags: such as ("--epochs",); the first is named in messages.
        metavar: the value's name in the help; without one the option switches the field on.
    """

    flags: tuple[str, ...]
    metavar: str = ""

    @property
    def is_path(self) -> bool:
        """Whether the value may be a path, relative to the working directory."""
        return "PATH" in self.metavar


def _reject_null_byte(value: str) -> str:
    if "\0" in value:
        raise ValueError("must hold no zero byte")
    return value


NonEmptyStr = Annotated[str, Field(min_length=1), AfterValidator(_reject_null_byte)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonEmptyStrList = Annotated[tuple[NonEmptyStr, ...], Strict(False)]


def none_to_empty_dict(value: object) -> object:
    """Read a group without fields (`audio:` alone on its line) as one of defaults."""
    return {} if value is None else value


def none_to_empty_tuple(value: object) -> object:
    """Read a list without items (`sources:` alone on its line) as an empty one."""
    return () if value is None else value


def iter_fields(config_class: type[BaseConfig]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field with its dotted name, such as `training.lora.where`, in order."""
    for name, field in config_class.model_fields.items():
        yield name, field
        for group in filter(_is_config_class, (field.annotation, *get_args(field.annotation))):
            yield from ((f"{name}.{key}", nested) for key, nested in iter_fields(group))


def iter_value_fields(config_class: type[BaseConfig]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field that holds a value, with its dotted name, without the groups.

    A field that may be a value or a group is yielded, and so are the fields of the group. Fields
    of the items of a list are not.
    """
    for name, field in config_class.model_fields.items():
        is_list = get_origin(field.annotation) is tuple
        alternatives = () if is_list else get_args(field.annotation)
        groups = list(filter(_is_config_class, (field.annotation, *alternatives)))
        if field.annotation not in groups:
            yield name, field
        for group in groups:
            yield from ((f"{name}.{key}", nested) for key, nested in iter_value_fields(group))


def _is_config_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseConfig)
