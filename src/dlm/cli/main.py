"""The `dlm` program: a command from the signature of each function in `commands`, and exit codes.

    def check(path, *, full=False)   ->   dlm check DOCUMENT --full

A positional parameter becomes an argument, a keyword-only one an option; its `ParamInfo` has the
help. Exit codes: 0, 1 for a mistake, 2 for a wrong command line, 130 after Ctrl-C.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias, NoneType
from typing import Annotated, Any, get_args, get_origin

import typer

import dlm
from dlm.cli import progress, render
from dlm.cli.console import print_line, read_piped_text, read_stdin_bytes
from dlm.commands import check, data, infer, insight, train, versions
from dlm.commands.options import (
    ParamInfo,
    collect_overrides,
    list_field_options,
    make_exclusive_error,
)
from dlm.errors import DlmError, UsageError
from dlm.store.layout import set_home_env

RenderFn = Callable[[Any, str], int]  # result, output format -> exit code


@dataclass(frozen=True)
class Command:
    """A command of the program.

    Attributes:
        name: what is typed after `dlm`.
        function: what it runs.
        render_fn: what prints the function's result and returns the exit code.
        output_formats: the flags that print something other than text.
    """

    name: str
    function: Callable[..., Any]
    render_fn: RenderFn
    output_formats: tuple[str, ...] = ()


COMMANDS = (
    Command("init", train.init, render.print_init),
    Command("tones", data.tones, render.print_tones),
    Command("import", data.import_source, render.print_import, ("json",)),
    Command("check", check.check, render.print_check, ("json",)),
    Command("stitch", versions.stitch, render.print_stitch),
    Command("train", train.train, progress.print_training),
    Command("prompt", infer.prompt, render.print_answer, ("json",)),
    Command("transcribe", infer.transcribe, render.print_transcripts, ("json", "srt", "vtt")),
    Command("eval", infer.evaluate, render.print_evaluation, ("json",)),
    Command("insight", insight.insight, render.print_insight, ("json",)),
    Command("show", versions.show, render.print_document_status, ("json",)),
    Command("versions", versions.versions, render.print_versions, ("json",)),
    Command("use", versions.use_version, render.print_version_in_use),
    Command("export", versions.export, render.print_export),
    Command("shards", data.shards, render.print_shards),
    Command("export-data", data.export_data, render.print_data_export),
    Command("verify", versions.verify, render.print_verification, ("json",)),
    Command("gc", versions.gc, render.print_gc, ("json",)),
    Command("doctor", versions.doctor, render.print_system_report, ("json",)),
)
OUTPUT_FORMAT_PARAM = "output_format"  # the flag given, of a command that writes files
OVERRIDES_PARAM = "overrides"  # {field: value}, from --set and the fields' own options
METAVARS = {Path: "PATH", int: "N", float: "X", str: "TEXT"}


def _make_home_option(*, hidden: bool) -> Any:
    """`--home DIR`, shown in the help of `dlm` and understood after every command."""
    return typer.Option(
        "--home",
        help="Folder of the store, in place of $DLM_HOME; by default ~/.dlm.",
        metavar="DIR",
        hidden=hidden,
        callback=lambda folder: None if folder is None else set_home_env(folder),
    )


def _print_version(requested: bool) -> None:
    if requested:
        print_line(f"dlm {dlm.__version__}")
        raise typer.Exit


HomeOption = Annotated[Path | None, _make_home_option(hidden=False)]
ProgramVersionOption = Annotated[
    bool,
    typer.Option(
        "--version", help="Print the version of dlm.", callback=_print_version, is_eager=True
    ),
]
HOME_PARAMETER = inspect.Parameter(
    "home",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, _make_home_option(hidden=True)],
)


def run_program() -> None:
    """Run `main` in a process of its own, which Ctrl-C ends at once."""
    progress.exit_on_interrupt()
    main()


def main() -> None:
    """Run the command in `sys.argv`; an error ends in one line and exit code 1 or 2."""
    argv = sys.argv[1:] or ["--help"]
    progress.setup_logging()
    try:
        sys.exit(build_app(argv)(argv, prog_name="dlm", standalone_mode=False))
    except DlmError as error:
        render.print_error(error)
        raise SystemExit(error.exit_code) from error
    except typer.TyperException as error:  # the command line cannot be parsed
        command = f"{argv[0]} " if argv[0] in {command.name for command in COMMANDS} else ""
        usage_error = UsageError(
            error.format_message().rstrip("."),
            hint=f"see `dlm {command}--help`",
            code="usage.arguments",
        )
        render.print_error(usage_error)
        raise SystemExit(usage_error.exit_code) from usage_error


def build_app(argv: Sequence[str] | None = None) -> typer.Typer:
    """Build the program.

    Args:
        argv: arguments; only commands named in them get the options of the document's fields,
            whose schema takes as long to import as all the rest. None for all commands.
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
        callback = _make_callback(command, with_fields=argv is None or command.name in argv)
        description = (inspect.getdoc(command.function) or "").partition("\n\nArgs:")[0]
        app.command(command.name, help=description)(callback)
    return app


def _root_callback(home: HomeOption = None, version: ProgramVersionOption = False) -> None:
    """Options before the command, which their own callbacks handle."""


def _make_callback(command: Command, *, with_fields: bool) -> Callable[..., None]:
    """Make what Typer calls: the function's parameters, fields' options and output formats."""
    parameters = inspect.signature(command.function).parameters
    annotations = command.function.__annotations__
    has_overrides = OVERRIDES_PARAM in parameters
    field_options = _make_field_parameters() if with_fields and has_overrides else {}
    # parameters that are no options: the program passes a function for each
    factories: dict[str, Callable[[], Any]] = {
        "progress": progress.make_progress_fn,
        "stop": progress.stop_on_interrupt,
        "read_stdin": lambda: read_piped_text,
        "read_stdin_bytes": lambda: read_stdin_bytes,
    }
    provided = {*factories, OUTPUT_FORMAT_PARAM}

    def run_command(**args: Any) -> None:
        args.pop("home")  # its callback has set it
        formats = [name for name in command.output_formats if args.pop(name)]
        if has_overrides:
            values = {field: args.pop(option.name) for field, option in field_options.items()}
            args[OVERRIDES_PARAM] = collect_overrides(args["path"], args[OVERRIDES_PARAM], values)
        if len(formats) > 1:
            raise make_exclusive_error(f"--{formats[0]}", f"--{formats[1]}")
        output_format = formats[0] if formats else "text"
        if OUTPUT_FORMAT_PARAM in parameters:
            args[OUTPUT_FORMAT_PARAM] = output_format
        callbacks = {name: make() for name, make in factories.items() if name in parameters}
        result = command.function(**args, **callbacks)
        raise typer.Exit(command.render_fn(result, output_format))

    typer_parameters = [
        *(
            _make_typer_parameter(parameter, *get_args(annotations[name])[:2])
            for name, parameter in parameters.items()
            if name not in provided
        ),
        *field_options.values(),
        *map(_make_format_parameter, command.output_formats),
        HOME_PARAMETER,
    ]
    vars(run_command)["__signature__"] = inspect.Signature(typer_parameters)
    return run_command


def _make_typer_parameter(
    parameter: inspect.Parameter, annotation: Any, info: ParamInfo
) -> inspect.Parameter:
    """Describe a function's parameter to Typer."""
    value_type, is_repeatable, is_optional = _parse_annotation(annotation)
    default = parameter.default
    if parameter.name == OVERRIDES_PARAM:
        value_type, is_repeatable, default = str, True, ()
    metavar = None if value_type is bool else info.metavar or METAVARS[value_type]
    option: Any
    if parameter.kind is parameter.KEYWORD_ONLY:
        flags = info.flags or (f"--{parameter.name.replace('_', '-')}",)
        text = f"{info.help.removesuffix('.')}; repeatable." if is_repeatable else info.help
        option = typer.Option(*flags, help=text, metavar=metavar, hidden=info.hidden)
    else:
        option = typer.Argument(help=info.help, metavar=metavar)
    typer_type: Any = value_type | None if is_optional else value_type
    if is_repeatable:
        typer_type = GenericAlias(list, value_type)
        default = [] if default == () else default
    return parameter.replace(
        kind=parameter.KEYWORD_ONLY, annotation=Annotated[typer_type, option], default=default
    )


def _parse_annotation(annotation: Any) -> tuple[type, bool, bool]:
    """The type of one value, whether it is repeatable, whether it may be None."""
    members = get_args(annotation) or (annotation,)
    sequences = [member for member in (annotation, *members) if get_origin(member) is Sequence]
    if sequences:
        (members,) = (get_args(get_args(each)[0]) or get_args(each) for each in sequences[:1])
    value_type = Path if Path in members else next(each for each in members if each is not NoneType)
    return value_type, bool(sequences), NoneType in members


def _make_field_parameters() -> dict[str, inspect.Parameter]:
    """The parameter of every field of the document that has an option of its own."""
    parameters = {}
    for option in list_field_options():
        typer_option = typer.Option(*option.flags, help=option.help, metavar=option.metavar or None)
        value_type, default = (str | None, None) if option.metavar else (bool, False)
        parameters[option.field] = inspect.Parameter(
            option.field.replace(".", "_"),
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[value_type, typer_option],
        )
    return parameters


def _make_format_parameter(output_format: str) -> inspect.Parameter:
    option = typer.Option(f"--{output_format}", help=f"Print {output_format.upper()}.")
    return inspect.Parameter(
        output_format,
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, option],
    )
