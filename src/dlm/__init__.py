"""Teach a language model to hear: the commands of the command line as functions."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlm.commands.check import check
    from dlm.commands.data import export_data, import_source, shards, tones
    from dlm.commands.infer import evaluate, prompt, transcribe
    from dlm.commands.insight import insight
    from dlm.commands.train import init, train
    from dlm.commands.versions import (
        doctor,
        export,
        gc,
        show,
        stitch,
        use_version,
        verify,
        versions,
    )

__version__ = "0.1.0"
__all__ = [
    "check",
    "doctor",
    "evaluate",
    "export",
    "export_data",
    "gc",
    "import_source",
    "init",
    "insight",
    "prompt",
    "shards",
    "show",
    "stitch",
    "tones",
    "train",
    "transcribe",
    "use_version",
    "verify",
    "versions",
]

COMMANDS_BY_MODULE = {
    "check": ("check",),
    "data": ("export_data", "import_source", "shards", "tones"),
    "infer": ("evaluate", "prompt", "transcribe"),
    "insight": ("insight",),
    "train": ("init", "train"),
    "versions": (
        *("doctor", "export", "gc", "show", "stitch", "use_version", "verify", "versions"),
    ),
}


def __getattr__(name: str) -> object:
    """Import a command when it is first used, so that `import dlm` takes no time."""
    for module, names in COMMANDS_BY_MODULE.items():
        if name in names:
            from dlm.commands.options import describe_parameters

            function = vars(import_module(f"dlm.commands.{module}"))[name]
            describe_parameters(function)
            return globals().setdefault(name, function)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
