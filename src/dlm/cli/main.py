"""Each command is a verb's signature; what it gives back goes to the printer of its name.

A positional parameter is an argument, a keyword-only one an option, and its Say is its help.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin

import typer

from dlm.cli import brought, checked, live, looked, made, tell, tidied
from dlm.errors import DlmError, UsageError
from dlm.verbs import ask, bring, check, join, keep, learn, look, make, overrides, tidy
from dlm.verbs.say import keep_in

Tell = Callable[[Any, str], int]  # prints what a verb gave back, in a form: the exit code


@dataclass(frozen=True)
class Command:
    """One command: its name, its verb, its printer, and the forms it can print besides text."""

    name: str
    verb: Callable[..., Any]
    tell: Tell
    forms: tuple[str, ...] = ()


COMMANDS = (
    Command("init", learn.init, tell.init),
    Command("tones", make.tones, made.tones),
    Command("import", bring.import_source, brought.imported, ("json",)),
    Command("check", check.check, checked.check, ("json",)),
    Command("stitch", join.stitch, tell.stitch),
    Command("train", learn.train, live.train),
    Command("prompt", ask.prompt, tell.prompt, ("json",)),
    Command("transcribe", ask.transcribe, tell.transcribe, ("json", "srt", "vtt")),
    Command("eval", ask.evaluate, tell.evaluate, ("json",)),
    Command("insight", look.insight, looked.insight, ("json",)),
    Command("show", keep.show, tell.show, ("json",)),
    Command("versions", keep.versions, tell.versions, ("json",)),
    Command("use", keep.use_version, tell.use),
    Command("export", keep.export, tell.export),
    Command("shards", make.shards, made.shards),
    Command("export-data", bring.export_data, brought.data),
    Command("verify", keep.verify, tell.verify, ("json",)),
    Command("gc", tidy.gc, tidied.gc, ("json",)),
    Command("doctor", keep.doctor, looked.doctor, ("json",)),
)

OVER = "overrides"  # the parameter that fields' options end in
VALUES = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def _home(*, hidden: bool) -> Any:
    """`--home DIR`, told in the help of `dlm` and understood after every command."""
    return typer.Option(
        "--home",
        help="Where everything is kept; $DLM_HOME, or else ~/.dlm, when not said.",
        metavar="DIR",
        hidden=hidden,
        callback=lambda folder: None if folder is None else keep_in(folder),
    )


Home = Annotated[Path | None, _home(hidden=False)]
HOME = inspect.Parameter(
    "home",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, _home(hidden=True)],
)


def main() -> None:
    """Run a command; a mistake ends in one line and exit 1 or 2."""
    words = sys.argv[1:] or ["--help"]
    live.hear_the_rooms()
    try:
        sys.exit(application(words)(words, prog_name="dlm", standalone_mode=False))
    except DlmError as error:
        tell.error(error)
        sys.exit(error.exit_code)
    except typer.TyperException as error:  # of the command line itself
        verb = f"{words[0]} " if words[0] in {command.name for command in COMMANDS} else ""
        what = error.format_message().rstrip(".")
        mistake = UsageError(what, mend=f"see `dlm {verb}--help`")
        tell.error(mistake)
        sys.exit(mistake.exit_code)


def application(words: Sequence[str] | None = None) -> typer.Typer:
    """The commands, built from the verbs; those that `words` do not name without fields' options.

    Reading those from the document's settings takes as long as everything else.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Teach a language model to hear.",
    )
    app.callback()(_before)
    for command in COMMANDS:
        whole = words is None or command.name in words
        app.command(command.name, help=inspect.getdoc(command.verb))(_function(command, whole))
    return app


def _before(home: Home = None) -> None:
    """Options before the command; their callbacks have seen to them."""


def _function(command: Command, whole: bool) -> Callable[..., None]:
    """What Typer calls: the verb's own parameters, fields' options, and a flag for each form."""
    lent = {"progress": live.progress, "stop": live.stop_on_interrupt}

    def run(**given: Any) -> None:
        given.pop("home")  # its callback has seen to it
        wanted = [each for each in command.forms if given.pop(each)]
        for name in inspect.signature(command.verb).parameters:
            if name in lent:
                given[name] = lent[name]()
        if OVER in given:
            said = {name: given.pop(option.name) for name, option in fields.items()}
            given[OVER] = overrides.collect(given["path"], given[OVER], said)
        if "question" in given and given["question"] is None and not sys.stdin.isatty():
            given["question"] = sys.stdin.buffer.read().decode("utf-8", "replace")
        if len(wanted) > 1:
            raise UsageError(f"--{wanted[0]} and --{wanted[1]} exclude each other")
        code = command.tell(command.verb(**given), wanted[0] if wanted else "text")
        raise typer.Exit(code)

    parameters = inspect.signature(command.verb).parameters
    kept = [_parameter(each) for name, each in parameters.items() if name not in lent]
    fields = dict(_fields()) if whole and OVER in parameters else {}
    rest = [*fields.values(), *map(_flag, command.forms), HOME]
    vars(run)["__signature__"] = inspect.Signature([*kept, *rest])
    return run


def _parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    """A verb's parameter in Typer's words."""
    kind, said = get_args(parameter.annotation)[:2]
    if get_origin(kind) is tuple:
        kind = GenericAlias(list, get_args(kind)[0])
    if parameter.name == OVER:
        kind, parameter = list[str], parameter.replace(default=())
    default = [] if parameter.default == () else parameter.default
    if parameter.kind is parameter.KEYWORD_ONLY:
        flags = said.flags or (f"--{parameter.name.replace('_', '-')}",)
        told = typer.Option(*flags, help=said.text, metavar=_value(parameter), hidden=said.hidden)
    else:
        told = typer.Argument(help=said.text, metavar=_value(parameter))
    return parameter.replace(
        kind=parameter.KEYWORD_ONLY, annotation=Annotated[kind, told], default=default
    )


def _value(parameter: inspect.Parameter) -> str | None:
    """What stands for a parameter's value in the help; None for a flag, which has none."""
    kind, said = get_args(parameter.annotation)[:2]
    kinds = {kind, *get_args(kind)}
    if bool in kinds:
        return None
    return said.value or next(name for each, name in VALUES.items() if each in kinds)


def _fields() -> Iterator[tuple[str, inspect.Parameter]]:
    """Every field of the document that has an option of its own, and that option."""
    for each in overrides.options():
        told = typer.Option(*each.names, help=each.help, metavar=each.value or None)
        kind, default = (str | None, None) if each.value else (bool, False)
        yield (
            each.field,
            inspect.Parameter(
                each.field.replace(".", "_"),
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, told],
            ),
        )


def _flag(form: str) -> inspect.Parameter:
    told = typer.Option(f"--{form}", help=f"Print {form.upper()}.")
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(form, keyword, default=False, annotation=Annotated[bool, told])
