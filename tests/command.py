"""The real command line, in this process: arguments in, exit code and both streams out."""

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from dlm.cli.main import main
from dlm.errors import DlmError
from dlm.io import hash_tree

PYTHON = [sys.executable, "-m", "dlm"]


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str
    error: str = ""  # the error's code, where the command ran in this process

    def refused(self, *words: str, error: str = "", code: int = 1) -> None:
        """It ended in one line on stderr that holds `words`, with nothing on stdout.

        `error` is the code of the mistake, such as "audio.truncated"; `code` the exit code.
        """
        assert self.code == code, self
        assert not error or self.error == error, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert not self.out, self.out
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def dlm(
    *words: object,
    stdin: str | bytes = b"",
    terminal: bool = False,
    stderr: io.StringIO | None = None,
) -> Done:
    """Run `dlm words...` here, as the shell would; what it says of its work may go to `stderr`."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    err = stderr or err
    before = sys.argv, sys.stdin, signal.getsignal(signal.SIGINT)
    sys.argv = ["dlm", *map(str, words)]
    sys.stdin = io.TextIOWrapper(io.BytesIO(given))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind a shell ignores it
    code: object = 0
    error = ""
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
        if isinstance(end.__cause__, DlmError):
            error = end.__cause__.code
    finally:
        sys.argv, sys.stdin = before[:2]
        signal.signal(signal.SIGINT, before[2])
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue(), error)


def process(*words: object, folder: Path | None = None, **how: object) -> Done:
    """Run `python -m dlm words...` in a process of its own."""
    done = subprocess.run(
        [*PYTHON, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **how,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, str]:
    """The hash of every file that is kept, the lock aside: it only says who writes."""
    return {name: sha for name, sha in hash_tree(folder).items() if Path(name).name != "lock"}


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with changes."""
    return {**os.environ, **changes}
