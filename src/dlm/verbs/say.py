"""What the command line says of the parameters that verbs share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

Progress = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True)
class Say:
    """A parameter's help, and the flags it answers to when its own name is not enough."""

    text: str
    flags: tuple[str, ...] = ()


DocumentPath = Annotated[Path, Say("The document, a .dlm file.")]
Device = Annotated[str | None, Say("cpu or cuda; the fastest there is when not said.")]
Bare = Annotated[bool, Say("Use the base alone, without what was learned.", ("--base",))]
VersionName = Annotated[str | None, Say("A version other than the one in use, such as v0002.")]


def plain(value: object) -> object:
    """A record in the words of JSON: paths as text, what is not a number as null."""
    from dlm.store.facts import plain as in_json

    return in_json(value)
