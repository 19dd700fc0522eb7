"""What the command line says of the parameters that verbs share.

What the command line asks for over the document: `--set FIELD=VALUE`, and a field's own option.

Both end as {dotted name: value}, which the verbs take as `overrides`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dlm.errors import UsageError

if TYPE_CHECKING:
    from dlm.config.overrides import ConfigOption


INT32_LIMIT = 1 << 31
ProgressFn = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True)
class ParamInfo:
    """A parameter's help, the flags it answers to, and what stands for its value in the help."""

    help: str
    flags: tuple[str, ...] = ()  # its own name when empty
    metavar: str = ""  # the name of its type when empty
    hidden: bool = False  # from the help: what is only there to be refused


DocumentArg = Annotated[Path, ParamInfo("The document, a .dlm file.", metavar="DOCUMENT")]
DeviceOption = Annotated[
    str | None, ParamInfo("Where to run; the fastest there is when not said.", metavar="cpu|cuda")
]
BaseOnlyOption = Annotated[
    bool, ParamInfo("Use the base alone, without what was learned.", ("--base",))
]
VersionOption = Annotated[
    str | None, ParamInfo("Another version than the one in use, such as v0002.", metavar="VERSION")
]


def set_dlm_home(home: Path) -> None:
    """Keep everything in `home`, as if $DLM_HOME said so."""
    from dlm.store.layout import set_home_env as move

    move(home)


def as_jsonable(value: object) -> object:
    """A record in the words of JSON: paths as text, what is not a number as null."""
    from dlm.store.records import to_jsonable as in_json

    return in_json(value)


def require_range(flag: str, number: int | None, *, minimum: int) -> None:
    """Refuse a number that no run can have."""
    if number is not None and not minimum <= number < INT32_LIMIT:
        raise UsageError(f"{flag} is {number}", hint=f"choose {minimum} or more, below 2^31")


SET_OPTION_HELP = (
    "Set any field of the document for this once, such as training.lora_r=16; say it again."
)

OverridesOption = Annotated[
    Mapping[str, Any] | None, ParamInfo(SET_OPTION_HELP, ("--set",), metavar="FIELD=VALUE")
]


def list_field_options() -> "tuple[ConfigOption, ...]":
    """Every field that has an option of its own."""
    from dlm.config.overrides import iter_config_options

    return tuple(iter_config_options())


def collect_overrides(
    document_path: Path, set_args: Sequence[str], field_args: Mapping[str, Any]
) -> dict[str, Any]:
    """What `--set` said and what was `given` to fields' own options (by field), as overrides."""
    from dlm.config.overrides import parse_option_value

    found: dict[str, Any] = {}
    for each in list_field_options():
        written = field_args.get(each.field)
        if written not in (None, False):
            value = _relative_to_document(document_path, written) if each.is_path else written
            plain = each.is_path or written is True
            found[each.field] = value if plain else parse_option_value(written, each.flags[0])
    for each_said in set_args:
        name, equals, written = each_said.partition("=")
        if not equals:
            mend = "write it as --set training.lora_r=16"
            raise UsageError(f"'{each_said}' has no '='", where="--set", hint=mend)
        if name.strip() in found:
            mend = "say it once"
            raise UsageError(f"{name.strip()} is set twice", where="--set", hint=mend)
        found[name.strip()] = parse_option_value(written, "--set")
    return found


def _relative_to_document(document_path: Path, value: str) -> str:
    """A path as the document would write it; what is no path here stays as it is."""
    from dlm.plan.model_spec import MODEL_CATALOG

    path = Path(value).expanduser()
    here = path.exists() and value not in MODEL_CATALOG
    return os.path.relpath(path, document_path.parent) if here else value
