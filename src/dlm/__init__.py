"""Teach a language model to hear: the verbs of the command line, as functions."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlm.verbs.ask import evaluate, prompt, transcribe
    from dlm.verbs.bring import export_data, import_source
    from dlm.verbs.check import check
    from dlm.verbs.join import stitch
    from dlm.verbs.keep import doctor, export, show, use_version, verify, versions
    from dlm.verbs.learn import init, train
    from dlm.verbs.look import insight
    from dlm.verbs.make import shards, tones
    from dlm.verbs.tidy import gc

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

ROOMS = {
    "ask": ("evaluate", "prompt", "transcribe"),
    "bring": ("export_data", "import_source"),
    "check": ("check",),
    "join": ("stitch",),
    "keep": ("doctor", "export", "show", "use_version", "verify", "versions"),
    "learn": ("init", "train"),
    "look": ("insight",),
    "make": ("shards", "tones"),
    "tidy": ("gc",),
}


def __getattr__(name: str) -> object:
    """Bring a verb in when it is first asked for, so that `import dlm` costs nothing."""
    for module, verbs in ROOMS.items():
        if name in verbs:
            return vars(import_module(f"dlm.verbs.{module}"))[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
