"""A document with other settings than it writes: what the command line or a program asks for.

    {"training.lora_r": 16}  +  Settings as written  ->  Settings, checked as a whole again

The document's identity is its own: `dlm_id` and `dlm_version` cannot be set.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dlm.config.base_config import CliOption
from dlm.config.parser import Document
from dlm.config.schema import DlmConfig, iter_config_values
from dlm.config.yaml_loader import (
    describe_validation_error,
    extract_values,
    parse_frontmatter,
    suggest_key,
)
from dlm.errors import DocumentError, UsageError

PROTECTED_FIELDS = ("dlm_id", "dlm_version")
SET_OPTION = "--set"
YAML_VALUE_HINT = "write a value as the document would: 16, true, text, [lm, projector]"


@dataclass(frozen=True)
class ConfigOption:
    """A field with an option of its own; `value` stands for its value in the help."""

    field: str
    flags: tuple[str, ...]
    metavar: str
    is_path: bool
    help: str


def iter_config_options() -> Iterator[ConfigOption]:
    """Every field that has an option of its own."""
    for field, info in iter_config_values():
        for flag in info.metadata:
            if isinstance(flag, CliOption):
                told = info.description or ""
                yield ConfigOption(field, flag.flags, flag.metavar, flag.is_path, told)


def parse_option_value(text: str, flag: str) -> Any:
    """A value as YAML has it. Raises UsageError in the words of the document's own errors."""
    try:
        front = parse_frontmatter(f"---\nvalue: {text}\n---\n", Path(flag))
        return extract_values(front)[0]["value"]
    except DocumentError as error:
        raise UsageError(f"{text}: {error.what}", where=flag, hint=YAML_VALUE_HINT) from error


def apply_overrides(document: Document, overrides: Mapping[str, Any]) -> Document:
    """The document with other settings, by their dotted names. Raises UsageError for a bad one."""
    if not overrides:
        return document
    given = document.config.model_dump(exclude_unset=True)
    for name, value in overrides.items():
        _check_field_name(name)
        *above, last = name.split(".")
        group = given
        for step in above:
            group = _enter_group(group, step, name)
        group[last] = value
    try:
        return replace(document, config=DlmConfig.model_validate(given))
    except ValidationError as error:
        mistake = error.errors()[0]
        what, mend = describe_validation_error(mistake)
        name = next((name for name in overrides if _is_location_in(mistake["loc"], name)), "")
        raise UsageError(what, where=_find_flag(name), hint=mend) from error


def _enter_group(group: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """The group below `step`; a base that is only named becomes one like it, in other parts."""
    below = group.get(key) or {}
    if isinstance(below, str):
        below = {"like": below}
    if isinstance(below, int | float):  # a number of clips becomes a source
        below = {}
    if not isinstance(below, dict):
        above = name.rpartition(".")[0]
        what = f"{above} is a list here"
        raise UsageError(what, where=SET_OPTION, hint=f"set it whole: {above}=[{{...}}, {{...}}]")
    group[key] = below
    return below


def _check_field_name(name: str) -> None:
    """Only a field that holds a value can be set."""
    known = [field for field, _ in iter_config_values() if field not in PROTECTED_FIELDS]
    if name in known:
        return
    if name in PROTECTED_FIELDS:
        raise UsageError(
            f"{name} is the document's own", where=SET_OPTION, hint="leave it as it is"
        )
    inside = [field for field in known if field.startswith(f"{name}.")]
    if inside:
        mend = f"set one of its fields, such as {inside[0]}"
        raise UsageError(f"{name} is a group of fields", where=SET_OPTION, hint=mend)
    above, _, last = name.rpartition(".")
    raise UsageError(f"unknown field '{name}'", where=SET_OPTION, hint=suggest_key(above, last))


def _is_location_in(loc: tuple[int | str, ...], name: str) -> bool:
    steps = tuple(name.split("."))
    return tuple(map(str, loc))[: len(steps)] == steps


def _find_flag(name: str) -> str:
    """The option that sets a field."""
    return next((each.flags[0] for each in iter_config_options() if each.field == name), SET_OPTION)
