"""A document with other settings than it writes: what the command line or a program asks for.

    {"training.lora_r": 16}  +  Settings as written  ->  Settings, checked as a whole again

The document's identity is its own: `dlm_id` and `dlm_version` cannot be set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dlm.document.document import Document
from dlm.document.frontmatter import describe, nearest_key, open_frontmatter, values
from dlm.document.record import Flag
from dlm.document.settings import Settings, every_value
from dlm.errors import DocumentError, UsageError

OWN = ("dlm_id", "dlm_version")
ANY = "--set"
AS_YAML = "write a value as the document would: 16, true, text, [lm, projector]"


@dataclass(frozen=True)
class Overridable:
    """A field with an option of its own; `value` stands for its value in the help."""

    field: str
    names: tuple[str, ...]
    value: str
    path: bool
    help: str


def overridable() -> Iterator[Overridable]:
    """Every field that has an option of its own."""
    for field, info in every_value():
        for flag in info.metadata:
            if isinstance(flag, Flag):
                told = info.description or ""
                yield Overridable(field, flag.names, flag.value, flag.path, told)


def read_value(written: str, flag: str) -> Any:
    """A value as YAML has it. Raises UsageError in the words of the document's own errors."""
    try:
        front = open_frontmatter(f"---\nvalue: {written}\n---\n", Path(flag))
        return values(front)[0]["value"]
    except DocumentError as error:
        raise UsageError(f"{written}: {error.what}", where=flag, mend=AS_YAML) from error


def overridden(document: Document, overrides: Mapping[str, Any]) -> Document:
    """The document with other settings, by their dotted names. Raises UsageError for a bad one."""
    if not overrides:
        return document
    given = document.settings.model_dump(exclude_unset=True)
    for name, value in overrides.items():
        _refuse_unknown(name)
        *above, last = name.split(".")
        group = given
        for step in above:
            group = _opened(group, step, name)
        group[last] = value
    try:
        return replace(document, settings=Settings.model_validate(given))
    except ValidationError as error:
        mistake = error.errors()[0]
        what, mend = describe(mistake)
        name = next((name for name in overrides if _is_of(mistake["loc"], name)), "")
        raise UsageError(what, where=_flag_of(name), mend=mend) from error


def _opened(group: dict[str, Any], step: str, name: str) -> dict[str, Any]:
    """The group below `step`; a base that is only named becomes one like it, in other parts."""
    below = group.get(step) or {}
    if isinstance(below, str):
        below = {"like": below}
    if isinstance(below, int | float):  # a number of clips becomes a source
        below = {}
    if not isinstance(below, dict):
        above = name.rpartition(".")[0]
        what = f"{above} is a list here"
        raise UsageError(what, where=ANY, mend=f"set it whole: {above}=[{{...}}, {{...}}]")
    group[step] = below
    return below


def _refuse_unknown(name: str) -> None:
    """Only a field that holds a value can be set."""
    known = [field for field, _ in every_value() if field not in OWN]
    if name in known:
        return
    if name in OWN:
        raise UsageError(f"{name} is the document's own", where=ANY, mend="leave it as it is")
    inside = [field for field in known if field.startswith(f"{name}.")]
    if inside:
        mend = f"set one of its fields, such as {inside[0]}"
        raise UsageError(f"{name} is a group of fields", where=ANY, mend=mend)
    above, _, last = name.rpartition(".")
    raise UsageError(f"unknown field '{name}'", where=ANY, mend=nearest_key(above, last))


def _is_of(place: tuple[int | str, ...], name: str) -> bool:
    steps = tuple(name.split("."))
    return tuple(map(str, place))[: len(steps)] == steps


def _flag_of(name: str) -> str:
    """The option that sets a field."""
    return next((each.names[0] for each in overridable() if each.field == name), ANY)
