"""The errors people meet: a class for each kind, a stable code, and one line that says it.

    DlmError                  exit 1
    ├── UsageError            exit 2: the command line asks for something impossible
    ├── DocumentError         a document cannot be read; `where` is path:line:column
    ├── DataError             a source or an example cannot be used; `where` names it
    │   └── AudioError        a recording cannot be read or decoded
    ├── ModelError            a model is unknown, missing or damaged
    │   └── HubError          a hub refuses, or cannot be reached
    ├── PlanError             a plan does not fit this machine
    ├── TrainingError         a run cannot start or go on
    ├── StoreError            a store or an output folder is locked, damaged, full or read-only
    └── MissingExtra          an optional library is not installed

`docs/errors.md` lists every code. `suggest_name` and `make_name_hint` are the hints about
misspelt names.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class DlmError(Exception):
    """A mistake that can be put right, as one line: `where: what; hint`.

    Attributes:
        code: stable name of the kind of mistake, such as `audio.sample_rate_mismatch`.
        what: what is wrong.
        where: file:line, clip, path or name it is wrong with; None where `what` says it.
        hint: what to do about it; None where nothing can be advised.
        exit_code: what the command line exits with.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, code: str, where: str | None = None, hint: str | None = None
    ) -> None:
        self.what, self.where, self.hint, self.code = what, where, hint, code
        line = what if where is None else f"{where}: {what}"
        super().__init__(line if hint is None else f"{line}; {hint}")


class UsageError(DlmError):
    """The command line asks for something impossible."""

    exit_code = 2


class DocumentError(DlmError):
    """A document cannot be read."""


class DataError(DlmError):
    """A source or an example cannot be used."""


class AudioError(DataError):
    """A recording cannot be read or decoded."""


class ModelError(DlmError):
    """A model is unknown, missing or damaged."""


class HubError(ModelError):
    """A hub refuses, or cannot be reached."""


class PlanError(DlmError):
    """A plan does not fit this machine."""


class TrainingError(DlmError):
    """A run cannot start or go on."""


class StoreError(DlmError):
    """A store or an output folder is locked, damaged, full or read-only."""


class MissingExtra(DlmError):
    """An optional library is not installed.

    Args:
        library: the library, by the name people know it by.
        extra: the extra of dlm that brings it, as in `pip install 'dlm[extra]'`.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is not installed",
            hint=f"pip install 'dlm[{extra}]'",
            code="extra.missing",
        )


def suggest_name(name: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the candidate that a misspelt name is closest to; None where none is close.

    Args:
        cutoff: the least similarity, from 0 to 1, as in `difflib.get_close_matches`.
    """
    matches = get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def make_name_hint(name: str, candidates: Iterable[str], *, known: str = "known are") -> str:
    """Return the hint for an unknown name: the closest candidate, or all of them."""
    candidates = list(candidates)
    closest = suggest_name(name, candidates)
    return f"did you mean '{closest}'?" if closest else f"{known} {', '.join(candidates)}"
