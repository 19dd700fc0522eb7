"""What every part of the frontmatter is made of: exact values, known keys, no changes.

A group of fields is a Record; a field says what it means in its description, and carries a Flag
when it has an option of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict
from pydantic.fields import FieldInfo


class Record(BaseModel):
    """What every part of the frontmatter obeys: exact types, no unknown keys, no changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Flag:
    """The command-line options that set a field, and what stands for its value in the help.

    Without a value it switches the field on; a path is relative to where the command is given.
    """

    names: tuple[str, ...]
    value: str = ""

    @property
    def path(self) -> bool:
        """Whether the value may be a path."""
        return "PATH" in self.value


def _without_zero(value: str) -> str:
    if "\0" in value:
        raise ValueError("must hold no zero byte")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_without_zero)]
Positive = Annotated[float, Field(gt=0)]
Names = Annotated[tuple[Text, ...], Strict(False)]


def defaults_when_empty(value: object) -> object:
    """A group that is written without fields is one of defaults."""
    return {} if value is None else value


def none_when_empty(value: object) -> object:
    """A list that is written without items has none."""
    return () if value is None else value


def fields_of(record: type[Record]) -> Iterator[tuple[str, FieldInfo]]:
    """Every field by its dotted name, such as `training.lora.where`, in the order documented."""
    for name, info in record.model_fields.items():
        yield name, info
        for nested in _nested(info.annotation):
            yield from ((f"{name}.{below}", field) for below, field in fields_of(nested))


def values_of(record: type[Record]) -> Iterator[tuple[str, FieldInfo]]:
    """Every field that holds a value of its own, by its dotted name.

    Groups are passed through; what may be a value or a group is told as both.
    """
    for name, info in record.model_fields.items():
        groups = _groups(info.annotation)
        if info.annotation not in groups:
            yield name, info
        for group in groups:
            yield from ((f"{name}.{below}", field) for below, field in values_of(group))


def _groups(annotation: Any) -> tuple[type[Record], ...]:
    """The groups that a field may be: not those in a list."""
    listed = get_args(annotation) if not _is_list(annotation) else ()
    return tuple(kind for kind in (annotation, *listed) if _is_record(kind))


def _nested(annotation: Any) -> Iterator[type[Record]]:
    return (kind for kind in (annotation, *get_args(annotation)) if _is_record(kind))


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Record)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple
