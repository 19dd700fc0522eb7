"""Text on stdout and stderr: escaped control characters, colors, tables; and what is read on stdin.

    print_line, print_text, print_table   stdout   the result; a table is wrapped in a terminal only
    print_status                          stderr   progress, warnings, errors

Documents, file names and models reach a terminal through this module alone. It writes their control
characters as `\\u001b`: in JSON that is the same string.
"""

import re
import sys
from collections.abc import Sequence

ANSI_COLORS = {"red": 31, "green": 32, "yellow": 33}  # foreground colors of ECMA-48
# C0, DEL, C1, line separators, bidirectional overrides, bytes of a name that is not UTF-8
CONTROL_RE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str, *, keep: str = "") -> str:
    """Replace control characters by their code, such as `\\u001b`, except those in `keep`."""
    return CONTROL_RE.sub(
        lambda match: match[0] if match[0] in keep else f"\\u{ord(match[0]):04x}", text
    )


def print_line(text: str = "", *, color: str | None = None) -> None:
    """Print one line of the result, in color in a terminal."""
    text = escape_controls(text)
    print(_color_text(text, color) if color and sys.stdout.isatty() else text, flush=True)


def print_text(text: str) -> None:
    """Print text of the result without ending the line; it may have lines and tabs."""
    print(escape_controls(text, keep="\n\t"), end="", flush=True)


def print_status(text: str, *, color: str | None = None) -> None:
    """Print one line about the work on stderr, in color in a terminal."""
    text = escape_controls(text)
    if color and sys.stderr.isatty():
        text = _color_text(text, color)
    print(text, file=sys.stderr, flush=True)  # rich prints it above a progress bar


def print_progress_count(done: int, total: int) -> None:
    """Rewrite the last line of a terminal's stderr with how many clips are done."""
    end = "\n" if done == total else ""
    print(f"\r{done:,} of {total:,} clips", end=end, file=sys.stderr, flush=True)


def read_piped_text() -> str | None:
    """Read all of stdin, any bytes, without its last line end; None where it is a terminal."""
    if sys.stdin.isatty():
        return None
    return sys.stdin.buffer.read().decode("utf-8", "replace").removesuffix("\n")


def read_stdin_bytes() -> bytes:
    """Read all of stdin as it is."""
    return sys.stdin.buffer.read()


def print_table(rows: Sequence[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> None:
    """Print rows in columns: wrapped in a terminal, a line each and never cut elsewhere."""
    rows = [tuple(map(escape_controls, row)) for row in (*([header] if header else []), *rows)]
    if sys.stdout.isatty():
        _print_wrapped_table(rows)
        return
    widths = [max(map(len, column)) for column in zip(*_pad_rows(rows), strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        print("  ".join(cells).rstrip(), flush=True)


def confirm(question: str) -> bool:
    """Ask a yes-or-no question at the terminal; the end of input is a no."""
    import typer

    try:
        return typer.confirm(escape_controls(question), prompt_suffix=" ", err=True)
    except typer.Abort:
        return False


def _print_wrapped_table(rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # here, so that --help stays fast
    from rich.table import Table
    from rich.text import Text

    console, whole_columns_width = Console(highlight=False), 0
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in zip(*_pad_rows(rows), strict=True):
        width = max(map(len, column)) + 2
        # names and numbers stay whole; the texts beside them share what is left
        is_whole = width <= console.width // 3 and whole_columns_width + width <= console.width // 2
        whole_columns_width += width * is_whole
        table.add_column(overflow="fold", no_wrap=is_whole)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets in a transcript are no markup
    console.print(table)


def _pad_rows(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    num_columns = max(map(len, rows), default=0)
    return [row + ("",) * (num_columns - len(row)) for row in rows]


def _color_text(text: str, color: str) -> str:
    return f"\x1b[{ANSI_COLORS[color]}m{text}\x1b[0m"
