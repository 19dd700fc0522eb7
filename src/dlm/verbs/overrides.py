"""What the command line asks for over the document: `--set FIELD=VALUE`, and a field's own option.

Both end as {dotted name: value}, which the verbs take as `overrides`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dlm.errors import UsageError
from dlm.verbs.say import Say

if TYPE_CHECKING:
    from dlm.document.override import Overridable

SET = "Set any field of the document for this once, such as training.lora_r=16; say it again."

Overrides = Annotated[Mapping[str, Any] | None, Say(SET, ("--set",), value="FIELD=VALUE")]


def options() -> "tuple[Overridable, ...]":
    """Every field that has an option of its own."""
    from dlm.document.override import overridable

    return tuple(overridable())


def collect(document: Path, said: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What `--set` said and what was `given` to fields' own options (by field), as overrides."""
    from dlm.document.override import read_value

    found: dict[str, Any] = {}
    for each in options():
        written = given.get(each.field)
        if written not in (None, False):
            value = _seen_from(document, written) if each.path else written
            plain = each.path or written is True
            found[each.field] = value if plain else read_value(written, each.names[0])
    for each_said in said:
        name, equals, written = each_said.partition("=")
        if not equals:
            mend = "write it as --set training.lora_r=16"
            raise UsageError(f"'{each_said}' has no '='", where="--set", mend=mend)
        if name.strip() in found:
            mend = "say it once"
            raise UsageError(f"{name.strip()} is set twice", where="--set", mend=mend)
        found[name.strip()] = read_value(written, "--set")
    return found


def _seen_from(document: Path, written: str) -> str:
    """A path as the document would write it; what is no path here stays as it is."""
    from dlm.plan.catalogue import CATALOGUE

    path = Path(written).expanduser()
    here = path.exists() and written not in CATALOGUE
    return os.path.relpath(path, document.parent) if here else written
