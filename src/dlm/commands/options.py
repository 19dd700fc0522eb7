"""Parameters that commands share, and `--set` and the fields' own options as overrides.

--set training.lora_r=16   --lora-r 16   ->   {"training.lora_r": 16}
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from dlm.errors import UsageError

if TYPE_CHECKING:
    from dlm.config.overrides import ConfigOption

INT32_LIMIT = 1 << 31
AnyPath = str | Path
ProgressFn = Callable[[int, int], None]  # number done, total
DOCUMENT_SUFFIX = ".dlm"


@dataclass(frozen=True)
class ParamInfo:
    """What the help of a parameter shows.

    Attributes:
        help: a sentence.
        flags: the option's names; the parameter's own when empty.
        metavar: what stands for the value; the name of its type when empty.
        hidden: left out of the help; the option exists to be refused.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str = ""
    hidden: bool = False


DocumentArg = Annotated[AnyPath, ParamInfo("The document, a .dlm file.", metavar="DOCUMENT")]
OutputDirArg = Annotated[AnyPath, ParamInfo("An empty or new folder.", metavar="FOLDER")]
DeviceOption = Annotated[
    str | None, ParamInfo("Device to run on; by default the fastest one.", metavar="cpu|cuda")
]
BaseOnlyOption = Annotated[
    bool, ParamInfo("Use the base without an adapter, as it was released.", ("--base",))
]
VersionOption = Annotated[
    str | None,
    ParamInfo("A version such as v0002; by default the one in use.", metavar="VERSION"),
]
OverridesOption = Annotated[
    Mapping[str, Any] | None,
    ParamInfo(
        "Set a field of the document for this run, such as training.lora_r=16.",
        ("--set",),
        metavar="FIELD=VALUE",
    ),
]


def describe_parameters(function: Callable[..., object]) -> None:
    """Give a command's function the signature and the `Args:` that `help()` shows."""
    signature = inspect.signature(function)
    parameters, lines = [], []
    for parameter in signature.parameters.values():
        if get_origin(parameter.annotation) is Annotated:
            annotation, info = get_args(parameter.annotation)[:2]
            parameter = parameter.replace(annotation=annotation)
            if not info.hidden:
                lines.append(f"    {parameter.name}: {info.help}")
        parameters.append(parameter)
    vars(function)["__signature__"] = signature.replace(parameters=parameters)
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])


def is_document_path(path: AnyPath) -> bool:
    """Whether a path names a document: it ends in `.dlm`, as no recording does."""
    return Path(path).suffix.lower() == DOCUMENT_SUFFIX


def to_paths(paths: AnyPath | Sequence[AnyPath]) -> list[Path]:
    """Turn one path or several into a list."""
    return [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def require_range(flag: str, number: int | None, *, minimum: int) -> None:
    """Refuse a number below `minimum`, or one that does not fit 32 bits (`usage.out_of_range`)."""
    if number is not None and not minimum <= number < INT32_LIMIT:
        hint = f"choose {minimum} or more, below 2^31"
        raise UsageError(f"{flag} is {number}", hint=hint, code="usage.out_of_range")


def require_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of `choices` (`usage.unknown_choice`)."""
    if value not in choices:
        hint = f"choose one of {', '.join(choices)}"
        raise UsageError(f"{flag} is '{value}'", hint=hint, code="usage.unknown_choice")


def make_exclusive_error(first_flag: str, second_flag: str) -> UsageError:
    """Make the error for two options that cannot be given together."""
    what = f"{first_flag} and {second_flag} exclude each other"
    return UsageError(what, hint="give one of them", code="usage.exclusive_options")


def list_field_options() -> "tuple[ConfigOption, ...]":
    """List the document's fields that have an option of their own."""
    from dlm.config.overrides import iter_config_options

    return tuple(iter_config_options())


def collect_overrides(
    document_path: Path, set_args: Sequence[str], field_args: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the values of `--set` and of fields' own options.

    Args:
        document_path: the document; paths are written relative to its folder.
        set_args: texts such as "training.lora_r=16".
        field_args: value by field; None and False where the option was not given.

    Raises:
        UsageError: a text without "=" (`usage.bad_set`), or a field given twice
            (`usage.repeated_field`).
    """
    from dlm.config.overrides import parse_option_value

    overrides: dict[str, Any] = {}
    for option in list_field_options():
        value = field_args.get(option.field)
        if value is None or value is False:
            continue
        if option.is_path:
            value = _make_relative_path(document_path, value)
        elif value is not True:
            value = parse_option_value(value, option.flags[0])
        overrides[option.field] = value
    for set_arg in set_args:
        name, equals, text = set_arg.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(
                f"'{set_arg}' has no '='",
                where="--set",
                hint="write it as --set training.lora_r=16",
                code="usage.bad_set",
            )
        if name in overrides:
            what, hint = f"{name} is set twice", "give it once"
            raise UsageError(what, where="--set", hint=hint, code="usage.repeated_field")
        overrides[name] = parse_option_value(text, "--set")
    return overrides


def _make_relative_path(document_path: Path, value: str) -> str:
    """Write an existing path relative to the document; leave a catalog key or hub name as it is."""
    from dlm.plan.model_spec import MODEL_CATALOG

    path = Path(value).expanduser()
    if value in MODEL_CATALOG or not path.exists():
        return value
    return os.path.relpath(path, document_path.parent)
