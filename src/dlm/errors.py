"""The errors people meet. Each is one line: where, what, the mend.

DlmError                 exit 1
├── UsageError           exit 2: the command line asks for something that cannot be
├── DocumentError        the document cannot be read; where is path:line:col
├── ClipError            a clip cannot be used; where names the clip
├── BaseError            a base is unknown, missing or damaged
├── PlanError            the plan does not fit this machine
├── TrainingError        a run cannot start or go on
├── StoreError           the store is locked, damaged or full
└── MissingExtra         an optional library is not installed
"""


class DlmError(Exception):
    """A mistake that can be mended: `where: what; mend`."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        line = what if where is None else f"{where}: {what}"
        super().__init__(line if hint is None else f"{line}; {hint}")


class UsageError(DlmError):
    """The command asks for something that cannot be."""

    exit_code = 2


class DocumentError(DlmError):
    """The document cannot be read."""


class DataError(DlmError):
    """A clip cannot be used."""


class ModelError(DlmError):
    """A base is unknown, missing or damaged."""


class PlanError(DlmError):
    """The plan does not fit this machine."""


class TrainingError(DlmError):
    """A run cannot start or go on."""


class StoreError(DlmError):
    """The store is locked, damaged or full."""


class MissingExtra(DlmError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed", hint=f"pip install 'dlm[{extra}]'")
