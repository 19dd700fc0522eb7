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

from dlm.cli import progress as live
from dlm.cli import render as brought
from dlm.cli import render as checked
from dlm.cli import render as looked
from dlm.cli import render as made
from dlm.cli import render as tell
from dlm.cli import render as tidied
from dlm.commands import check
from dlm.commands import data as bring
from dlm.commands import data as make
from dlm.commands import infer as ask
from dlm.commands import insight as look
from dlm.commands import options as overrides
from dlm.commands import train as learn
from dlm.commands import versions as join
from dlm.commands import versions as keep
from dlm.commands import versions as tidy
from dlm.commands.options import set_dlm_home
from dlm.errors import DlmError, UsageError

RenderFn = Callable[[Any, str], int]  # prints what a verb gave back, in a form: the exit code


@dataclass(frozen=True)
class Command:
    """One command: its name, its verb, its printer, and the forms it can print besides text."""

    name: str
    function: Callable[..., Any]
    render_fn: RenderFn
    output_formats: tuple[str, ...] = ()


COMMANDS = (
    Command("init", learn.init, tell.print_init),
    Command("tones", make.tones, made.print_tones),
    Command("import", bring.import_source, brought.print_import, ("json",)),
    Command("check", check.check, checked.print_check, ("json",)),
    Command("stitch", join.stitch, tell.print_stitch),
    Command("train", learn.train, live.print_training),
    Command("prompt", ask.prompt, tell.print_answer, ("json",)),
    Command("transcribe", ask.transcribe, tell.print_transcripts, ("json", "srt", "vtt")),
    Command("eval", ask.evaluate, tell.print_evaluation, ("json",)),
    Command("insight", look.insight, looked.print_insight, ("json",)),
    Command("show", keep.show, tell.print_document_status, ("json",)),
    Command("versions", keep.versions, tell.print_versions, ("json",)),
    Command("use", keep.use_version, tell.print_version_in_use),
    Command("export", keep.export, tell.print_export),
    Command("shards", make.shards, made.print_shards),
    Command("export-data", bring.export_data, brought.print_data_export),
    Command("verify", keep.verify, tell.print_verification, ("json",)),
    Command("gc", tidy.gc, tidied.print_gc, ("json",)),
    Command("doctor", keep.doctor, looked.print_system_report, ("json",)),
)

OVERRIDES_PARAM = "overrides"  # the parameter that fields' options end in
METAVARS = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def _make_home_option(*, hidden: bool) -> Any:
    """`--home DIR`, told in the help of `dlm` and understood after every command."""
    return typer.Option(
        "--home",
        help="Where everything is kept; $DLM_HOME, or else ~/.dlm, when not said.",
        metavar="DIR",
        hidden=hidden,
        callback=lambda folder: None if folder is None else set_dlm_home(folder),
    )


HomeOption = Annotated[Path | None, _make_home_option(hidden=False)]
HOME_PARAMETER = inspect.Parameter(
    "home",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, _make_home_option(hidden=True)],
)


def main() -> None:
    """Run a command; a mistake ends in one line and exit 1 or 2."""
    words = sys.argv[1:] or ["--help"]
    live.setup_logging()
    try:
        sys.exit(build_app(words)(words, prog_name="dlm", standalone_mode=False))
    except DlmError as error:
        tell.print_error(error)
        raise SystemExit(error.exit_code) from error
    except typer.TyperException as error:  # of the command line itself
        verb = f"{words[0]} " if words[0] in {command.name for command in COMMANDS} else ""
        what = error.format_message().rstrip(".")
        mistake = UsageError(what, hint=f"see `dlm {verb}--help`", code="usage.arguments")
        tell.print_error(mistake)
        raise SystemExit(mistake.exit_code) from mistake


def build_app(argv: Sequence[str] | None = None) -> typer.Typer:
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
    app.callback()(_root_callback)
    for command in COMMANDS:
        whole = argv is None or command.name in argv
        app.command(command.name, help=inspect.getdoc(command.function))(
            _make_callback(command, whole)
        )
    return app


def _root_callback(home: HomeOption = None) -> None:
    """Options before the command; their callbacks have seen to them."""


def _make_callback(command: Command, with_field_options: bool) -> Callable[..., None]:
    """What Typer calls: the verb's own parameters, fields' options, and a flag for each form."""
    lent = {"progress": live.make_progress_fn, "stop": live.stop_on_interrupt}

    def run(**given: Any) -> None:
        given.pop("home")  # its callback has seen to it
        wanted = [each for each in command.output_formats if given.pop(each)]
        for name in inspect.signature(command.function).parameters:
            if name in lent:
                given[name] = lent[name]()
        if OVERRIDES_PARAM in given:
            said = {name: given.pop(option.name) for name, option in fields.items()}
            given[OVERRIDES_PARAM] = overrides.collect_overrides(
                given["path"], given[OVERRIDES_PARAM], said
            )
        if "question" in given and given["question"] is None and not sys.stdin.isatty():
            given["question"] = sys.stdin.buffer.read().decode("utf-8", "replace")
        if len(wanted) > 1:
            raise UsageError(f"--{wanted[0]} and --{wanted[1]} exclude each other")
        code = command.render_fn(command.function(**given), wanted[0] if wanted else "text")
        raise typer.Exit(code)

    parameters = inspect.signature(command.function).parameters
    kept = [_to_typer_parameter(each) for name, each in parameters.items() if name not in lent]
    fields = dict(_field_options()) if with_field_options and OVERRIDES_PARAM in parameters else {}
    rest = [*fields.values(), *map(_output_format_flag, command.output_formats), HOME_PARAMETER]
    vars(run)["__signature__"] = inspect.Signature([*kept, *rest])
    return run


def _to_typer_parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    """A verb's parameter in Typer's words."""
    kind, said = get_args(parameter.annotation)[:2]
    if get_origin(kind) is tuple:
        kind = GenericAlias(list, get_args(kind)[0])
    if parameter.name == OVERRIDES_PARAM:
        kind, parameter = list[str], parameter.replace(default=())
    default = [] if parameter.default == () else parameter.default
    if parameter.kind is parameter.KEYWORD_ONLY:
        flags = said.flags or (f"--{parameter.name.replace('_', '-')}",)
        told = typer.Option(
            *flags, help=said.help, metavar=_get_metavar(parameter), hidden=said.hidden
        )
    else:
        told = typer.Argument(help=said.help, metavar=_get_metavar(parameter))
    return parameter.replace(
        kind=parameter.KEYWORD_ONLY, annotation=Annotated[kind, told], default=default
    )


def _get_metavar(parameter: inspect.Parameter) -> str | None:
    """What stands for a parameter's value in the help; None for a flag, which has none."""
    kind, said = get_args(parameter.annotation)[:2]
    kinds = {kind, *get_args(kind)}
    if bool in kinds:
        return None
    return said.metavar or next(name for each, name in METAVARS.items() if each in kinds)


def _field_options() -> Iterator[tuple[str, inspect.Parameter]]:
    """Every field of the document that has an option of its own, and that option."""
    for each in overrides.list_field_options():
        told = typer.Option(*each.flags, help=each.help, metavar=each.metavar or None)
        kind, default = (str | None, None) if each.metavar else (bool, False)
        yield (
            each.field,
            inspect.Parameter(
                each.field.replace(".", "_"),
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, told],
            ),
        )


def _output_format_flag(output_format: str) -> inspect.Parameter:
    told = typer.Option(f"--{output_format}", help=f"Print {output_format.upper()}.")
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(
        output_format, keyword, default=False, annotation=Annotated[bool, told]
    )
