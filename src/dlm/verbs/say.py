"""What the command line says of the parameters that verbs share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dlm.errors import UsageError

LARGEST = 1 << 31
Progress = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True)
class Say:
    """A parameter's help, the flags it answers to, and what stands for its value in the help."""

    text: str
    flags: tuple[str, ...] = ()  # its own name when empty
    value: str = ""  # the name of its type when empty
    hidden: bool = False  # from the help: what is only there to be refused


DocumentPath = Annotated[Path, Say("The document, a .dlm file.", value="DOCUMENT")]
Device = Annotated[
    str | None, Say("Where to run; the fastest there is when not said.", value="cpu|cuda")
]
Bare = Annotated[bool, Say("Use the base alone, without what was learned.", ("--base",))]
VersionName = Annotated[
    str | None, Say("Another version than the one in use, such as v0002.", value="VERSION")
]


def keep_in(home: Path) -> None:
    """Keep everything in `home`, as if $DLM_HOME said so."""
    from dlm.store.layout import keep_in as move

    move(home)


def plain(value: object) -> object:
    """A record in the words of JSON: paths as text, what is not a number as null."""
    from dlm.store.facts import plain as in_json

    return in_json(value)


def within(flag: str, number: int | None, *, least: int) -> None:
    """Refuse a number that no run can have."""
    if number is not None and not least <= number < LARGEST:
        raise UsageError(f"{flag} is {number}", mend=f"choose {least} or more, below 2^31")
