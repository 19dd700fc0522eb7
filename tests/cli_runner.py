"""Run the command line in this process or another: arguments in, exit code and both streams out."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlm.cli.main import main
from dlm.errors import DlmError
from dlm.io import hash_tree

ROOT = Path(__file__).parents[1]
DLM_COMMAND = [sys.executable, "-m", "dlm"]


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command.

    Attributes:
        code: exit code.
        out: text on stdout.
        err: text on stderr.
        error: code of the `DlmError`; empty for none, and for a command in another process.
    """

    code: int
    out: str
    err: str
    error: str = ""

    def refused(self, *texts: str, error: str = "", code: int = 1) -> None:
        """Assert one line on stderr that holds `texts`, nothing on stdout, and the codes.

        Args:
            error: code of the `DlmError`, such as "audio.truncated"; not asserted when empty.
            code: exit code.
        """
        assert self.code == code, self
        assert not error or self.error == error, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert not self.out, self.out
        for text in texts:
            assert text in lines[0], f"{text!r} is not in {lines[0]!r}"


class TerminalStream(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def dlm(
    *args: object,
    stdin: str | bytes = b"",
    terminal: bool = False,
    stderr: io.StringIO | None = None,
) -> CommandResult:
    """Run `dlm args...` in this process, as a shell would; `stderr` replaces the stream."""
    stdin_bytes = stdin.encode() if isinstance(stdin, str) else stdin
    out, err = (TerminalStream(), TerminalStream()) if terminal else (io.StringIO(), io.StringIO())
    err = stderr or err
    saved = sys.argv, sys.stdin, signal.getsignal(signal.SIGINT)
    sys.argv = ["dlm", *map(str, args)]
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin_bytes))
    # a background process of a shell ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: object = 0
    error = ""
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as system_exit:
        code = system_exit.code
        if isinstance(system_exit.__cause__, DlmError):
            error = system_exit.__cause__.code
    finally:
        sys.argv, sys.stdin = saved[:2]
        signal.signal(signal.SIGINT, saved[2])
    return CommandResult(
        code if isinstance(code, int) else 0, out.getvalue(), err.getvalue(), error
    )


def run_process(*args: object, folder: Path | None = None, **options: object) -> CommandResult:
    """Run `python -m dlm args...` in another process, started in `folder`."""
    completed = subprocess.run(
        [*DLM_COMMAND, *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        **options,
    )
    return CommandResult(completed.returncode, completed.stdout, completed.stderr)


def hash_files(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder by its path, except the lock of a store."""
    return {name: sha for name, sha in hash_tree(folder).items() if Path(name).name != "lock"}


def make_environment(**changes: str) -> dict[str, str]:
    """The environment variables of this process, with changes."""
    return {**os.environ, **changes}


def run_program(name: str, *args: str | Path) -> list[dict[str, Any]]:
    """Run a program of tests/ in a process of its own; return the records it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.{name}", *args],
        cwd=ROOT,
        env=make_environment(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def parse_rows(text: str) -> dict[str, str]:
    """The rows of a printed table as {label: the rest of the line}."""
    return dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines() if "  " in line)
