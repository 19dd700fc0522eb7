"""Fields set for one run, over those of the document: `--set FIELD=VALUE` and options of fields.

    {"training.lora_r": 16}  +  DlmConfig of the document  ->  DlmConfig, validated as a whole again

`dlm_id` and `dlm_version` cannot be set. Mistakes are UsageErrors that name the option.
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
    """A field that the command line has an option for.

    Attributes:
        field: dotted name, such as `training.num_epochs`.
        flags: names of the option, such as ("--epochs",).
        metavar: name of the value in the help; empty for a switch.
        is_path: whether the value may be a path.
        help: the field's description.
    """

    field: str
    flags: tuple[str, ...]
    metavar: str
    is_path: bool
    help: str


def iter_config_options() -> Iterator[ConfigOption]:
    """Yield every field that the command line has an option for."""
    for field, info in iter_config_values():
        for option in info.metadata:
            if isinstance(option, CliOption):
                help_text = info.description or ""
                yield ConfigOption(field, option.flags, option.metavar, option.is_path, help_text)


def parse_option_value(text: str, flag: str) -> Any:
    """Parse the value of an option as YAML. Raises UsageError (`usage.bad_value`)."""
    try:
        front = parse_frontmatter(f"---\nvalue: {text}\n---\n", Path(flag))
        return extract_values(front)[0]["value"]
    except DocumentError as error:
        what = f"{text}: {error.what}"
        raise UsageError(what, where=flag, hint=YAML_VALUE_HINT, code="usage.bad_value") from error


def apply_overrides(document: Document, overrides: Mapping[str, Any]) -> Document:
    """Return the document with some fields set, by their dotted names.

    Raises:
        UsageError: a field cannot be set (`usage.unknown_field`, `usage.protected_field`,
            `usage.field_group`, `usage.field_list`), or its value is wrong (`usage.bad_value`).
    """
    if not overrides:
        return document
    values = document.config.model_dump(exclude_unset=True)
    for name, value in overrides.items():
        _check_field_name(name)
        *parents, last = name.split(".")
        group = values
        for key in parents:
            group = _enter_group(group, key, name)
        group[last] = value
    try:
        return replace(document, config=DlmConfig.model_validate(values))
    except ValidationError as error:
        mistake = error.errors()[0]
        what, hint = describe_validation_error(mistake)
        location = f"{'.'.join(map(str, mistake['loc']))}."
        name = next((name for name in overrides if location.startswith(f"{name}.")), "")
        flags = (option.flags[0] for option in iter_config_options() if option.field == name)
        where = next(flags, SET_OPTION)
        raise UsageError(what, where=where, hint=hint, code="usage.bad_value") from error


def _enter_group(group: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """Return the group below `key`, made where it is a base's name, a number of clips or nothing.

    A base given by its name becomes one `like` it, so that its other components stay.
    """
    nested = group.get(key) or {}
    if isinstance(nested, str):
        nested = {"like": nested}
    if isinstance(nested, int | float):
        nested = {}
    if not isinstance(nested, dict):
        parent = name.rpartition(".")[0]
        what, hint = f"{parent} is a list here", f"set it whole: {parent}=[{{...}}, {{...}}]"
        raise UsageError(what, where=SET_OPTION, hint=hint, code="usage.field_list")
    group[key] = nested
    return nested


def _check_field_name(name: str) -> None:
    """Refuse a name that is not of a field with a value."""
    known = [field for field, _ in iter_config_values() if field not in PROTECTED_FIELDS]
    if name in known:
        return
    if name in PROTECTED_FIELDS:
        what, hint = f"{name} is the document's own", "leave it as it is"
        raise UsageError(what, where=SET_OPTION, hint=hint, code="usage.protected_field")
    inside = [field for field in known if field.startswith(f"{name}.")]
    if inside:
        what, hint = f"{name} is a group of fields", f"set one of its fields, such as {inside[0]}"
        raise UsageError(what, where=SET_OPTION, hint=hint, code="usage.field_group")
    parent, _, last = name.rpartition(".")
    hint = suggest_key(parent, last)
    raise UsageError(
        f"unknown field '{name}'", where=SET_OPTION, hint=hint, code="usage.unknown_field"
    )
