"""The body of a document as lines: what is code, and what is a note that nobody trains on.

text   a line to read: prose, a fence, a heading, an answer
code   a line inside ``` or ~~~, kept as it is; no fence, heading or note is seen in it
note   <!-- ... -->, one line or many, outside code; taken out
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlm.errors import DocumentError

CODE_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
CODE_SPAN = r"(?<!`)(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)"
NOTE_OR_CODE = re.compile(rf"{CODE_SPAN}|(?P<note><!--)")
FENCE_START = re.compile(r"\s*::[A-Za-z]")
SHOWN = 40


@dataclass(frozen=True)
class Line:
    """One line of the document, which knows its place."""

    path: Path
    number: int
    text: str
    code: bool = False

    def wrong(self, what: str, *, mend: str, column: int = 1) -> DocumentError:
        """The error that says what is wrong on this line."""
        return DocumentError(what, where=f"{self.path}:{self.number}:{column}", mend=mend)


def shown(value: str) -> str:
    """A value the author wrote, quoted and short enough for a message of one line."""
    return repr(value if len(value) <= SHOWN else value[: SHOWN - 3] + "...")


def read_lines(body: str, path: Path, first: int) -> Iterator[Line]:
    """The lines of the body without the author's notes; `first` is the file's line number."""
    raw = [Line(path, first + at, text) for at, text in enumerate(body.split("\n"))]
    at = 0
    while at < len(raw):
        if end := _end_of_code(raw, at):
            yield from (replace(line, code=True) for line in raw[at:end])
            at = end
            continue
        opened = _note(raw[at])
        if opened is None:
            yield raw[at]
            at += 1
            continue
        end, after = _end_of_note(raw, at, opened)
        before = raw[at].text[:opened]
        if end == at:
            after = before + after
        elif before.strip():
            yield replace(raw[at], text=before.rstrip())
        raw[end] = replace(raw[end], text=after)
        at = end if after.strip() else end + 1


def plain(lines: Sequence[Line]) -> str:
    """The text of some lines, without the blank ones around it."""
    kept = trimmed(lines)
    return "\n".join(line.text for line in kept).rstrip()


def trimmed(lines: Sequence[Line]) -> Sequence[Line]:
    """The lines from the first to the last that is not blank."""
    written = [at for at, line in enumerate(lines) if line.text.strip()]
    return lines[written[0] : written[-1] + 1] if written else ()


def _end_of_code(raw: list[Line], at: int) -> int | None:
    """Where the code block that opens on this line ends; None when none opens."""
    opening = CODE_FENCE.fullmatch(raw[at].text)
    if opening is None or (opening[1][0] == "`" and "`" in opening[2]):
        return None
    closing = re.compile(rf"\s*{opening[1][0]}{{{len(opening[1])},}}\s*")
    for end in range(at + 1, len(raw)):
        if closing.fullmatch(raw[end].text):
            return end + 1
    raise raw[at].wrong(
        "this code block is never closed", mend=f"close it with {opening[1][:SHOWN]}"
    )


def _note(line: Line) -> int | None:
    """Where a note opens on this line. A fence is left alone, its transcript may hold anything."""
    if "<!--" not in line.text or FENCE_START.match(line.text):
        return None
    for found in NOTE_OR_CODE.finditer(line.text):
        if found["note"]:
            return found.start()
    return None


def _end_of_note(raw: list[Line], at: int, opened: int) -> tuple[int, str]:
    """The line on which the note closes, and what stands after it there."""
    start = opened + len("<!")  # so that <!--> is a whole note
    for end in range(at, len(raw)):
        close = raw[end].text.find("-->", start)
        if close >= 0:
            return end, raw[end].text[close + len("-->") :]
        start = 0
    raise raw[at].wrong(
        "this note is never closed",
        mend="end it with -->, or put <!-- in backticks",
        column=opened + 1,
    )
