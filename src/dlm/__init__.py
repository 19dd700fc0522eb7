"""Teach a language model to hear: the verbs of the command line, as functions."""

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
    """Bring a verb in when it is first asked for, so that `import dlm` costs nothing."""
    for module, verbs in COMMANDS_BY_MODULE.items():
        if name in verbs:
            return vars(import_module(f"dlm.commands.{module}"))[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
