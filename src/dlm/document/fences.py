r"""What a fence is: `::instruction::`, `::conversation::`, `::audio path="..." transcript="..."::`.

A fence stands alone on its line. A line that was meant as one but is not quite right is an error
with its place and the mend, so that no clip is ever trained on as prose.

    ::audio path="clips/a.wav" transcript="She said \"hi\"." start="2.5"::
    |  |    |                                                            |
    |  kind attributes: values in straight double quotes, \" and \\ inside the end
    two colons
"""

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, cast

from dlm.document.lines import Line, shown
from dlm.errors import DocumentError

FenceKind = Literal["audio", "instruction", "conversation"]
KINDS: tuple[FenceKind, ...] = ("audio", "instruction", "conversation")
ATTRIBUTES = ("path", "transcript", "language", "start", "end", "prompt")
EMPTY_TRANSCRIPT = "AUDIO section has empty transcript"

LIKE = re.compile(
    r"(?P<prefix>[^\w:`]*)(?:(?P<colons>:+)(?P<gap>\s*))?(?P<name>[A-Za-z][\w-]*)(?P<rest>.*)"
)
PAIRS = re.compile(r"\s+\w+\s*=")
WITHIN = re.compile(r"::\s*audio\s+\w+\s*=", re.IGNORECASE)
SPAN = re.compile(r"(`+).*?\1")
ATTRIBUTE = re.compile(r'[ \t]+([\w-]+)="((?:[^"\\]|\\.)*)"')
SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class Fence:
    """A fence as written; `attributes` only for audio."""

    kind: FenceKind
    line: Line
    attributes: dict[str, str]


def read_fence(line: Line) -> Fence | None:
    """The fence on this line, None when the line is text; a near miss is an error."""
    if line.code:
        return None
    like = LIKE.fullmatch(line.text)
    if like is None or not _meant_as_fence(like):
        _refuse_within(line)
        return None
    kind = _kind(line, like)
    at = like.start("rest")
    if kind == "audio":
        return Fence(kind, line, _audio_attributes(line, at))
    if PAIRS.match(like["rest"]):
        raise line.wrong(f"::{kind}:: takes no attributes", mend=f"write ::{kind}::", column=at + 1)
    _refuse_ending(line, at, kind)
    return Fence(kind, line, {})


def _meant_as_fence(like: re.Match[str]) -> bool:
    """Whether the author meant a fence: `::Audio path=` yes, `::std::move(x)` no."""
    colons, name, rest = like["colons"] or "", like["name"], like["rest"].rstrip()
    known = name in KINDS
    pairs = PAIRS.match(rest) is not None
    closed = re.fullmatch(r"(#[\w-]*)?\s*:+\s*", rest) is not None
    if len(colons) >= 2:
        glued = re.match(r"[^\s:#]|::\w", rest) is not None
        return known or pairs or closed or (_nearest(name) is not None and not glued)
    if colons:
        return _nearest(name) is not None and (pairs or closed)
    spoken = re.match(r"\s+(path|transcript)\s*=", rest) is not None or rest.endswith("::")
    return spoken and name.casefold() in KINDS and (closed or pairs)


def _nearest(name: str) -> str | None:
    close = get_close_matches(name.casefold(), KINDS, n=1, cutoff=0.75)
    return close[0] if close else None


def _refuse_within(line: Line) -> None:
    """A fence in the middle of a line would be trained as text."""
    if WITHIN.search(line.text) is None:
        return
    found = WITHIN.search(SPAN.sub(lambda span: " " * len(span[0]), line.text))
    if found:
        raise line.wrong(
            "a fence stands alone on its line",
            mend="move it to a line of its own, or put it in backticks",
            column=found.start() + 1,
        )


def _kind(line: Line, like: re.Match[str]) -> FenceKind:
    """The kind the fence names, once all before its name is as it must be."""
    prefix, colons, name = like["prefix"], like["colons"], like["name"]
    column = len(prefix) + 1
    if prefix.strip():
        mend = f"remove {shown(prefix)} before it"
        raise line.wrong("a fence stands alone on its line", mend=mend)
    if prefix:
        raise line.wrong("there are blanks before this fence", mend="remove them")
    if colons != "::" or like["gap"]:
        what = "a fence opens with two colons and its name"
        raise line.wrong(what, mend=f"write ::{_nearest(name) or name}", column=column)
    if name not in KINDS:
        known = f"write one of {', '.join(KINDS)}, or put it in backticks"
        mend = f"did you mean '{near}'?" if (near := _nearest(name)) else known
        raise line.wrong(f"unknown section {shown(name)}", mend=mend, column=column)
    suffix = re.match(r"#[\w-]*", like["rest"])
    if suffix:
        what = f"named adapters ('{suffix[0]}') are not part of dlm"
        raise line.wrong(what, mend=f"write ::{name}", column=like.start("rest") + 1)
    return cast(FenceKind, name)


def _refuse_ending(line: Line, at: int, kind: FenceKind) -> None:
    """The fence must end with two colons and nothing more."""
    rest = line.text[at:]
    end = r"[ \t]*::" if kind == "audio" else r"::"
    if re.fullmatch(end, rest):
        return
    ending = re.match(rf"{end}(?!:)", rest)
    if ending is None:
        what, mend = f"this ::{kind}:: fence is not closed", "end it with two colons, '::'"
    elif not rest[ending.end() :].strip():
        what, mend = "there are blanks after this fence", "remove them"
    else:
        what, mend = "a fence stands alone on its line", "move what follows it to the next line"
    raise line.wrong(what, mend=mend, column=at + 1)


def _audio_attributes(line: Line, at: int) -> dict[str, str]:
    """The attributes of an `::audio` fence, each known, written once and possible."""
    found: dict[str, str] = {}
    columns: dict[str, int] = {}
    while match := ATTRIBUTE.match(line.text, at):
        key, column = match[1], match.start(1) + 1
        if key not in ATTRIBUTES:
            near = get_close_matches(key.casefold(), ATTRIBUTES, n=1)
            mend = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(ATTRIBUTES)}"
            raise line.wrong(f"unknown attribute {shown(key)}", mend=mend, column=column)
        if key in found:
            raise line.wrong(f"'{key}' is written twice", mend="remove one", column=column)
        found[key] = _unescaped(line, match)
        columns[key] = column
        at = match.end()
    _refuse_pairs(line, at, found)
    _refuse_values(line, found, columns)
    return found


def _unescaped(line: Line, match: re.Match[str]) -> str:
    value = match[2]
    for escape in re.finditer(r"\\(.)", value):
        if escape[1] not in '"\\':
            column = match.start(2) + escape.start() + 1
            what = f"a backslash before {shown(escape[1])}"
            raise line.wrong(what, mend=r"write a backslash as \\", column=column)
    return re.sub(r"\\(.)", r"\1", value)


def _refuse_pairs(line: Line, at: int, found: dict[str, str]) -> None:
    """What stands after the last good attribute must be the end of the fence."""
    rest, column = line.text[at:], at + 1
    pair = re.match(r"\s+(?P<key>[\w-]+)(?P<before>\s*)=(?P<after>\s*)(?P<quote>.?)", rest)
    if pair:
        raise _broken_pair(line, pair, at + pair.start("key") + 1)
    if not found and rest.strip(" \t:") == "":
        mend = 'write ::audio path="clips/a.wav" transcript="..."::'
        raise line.wrong("::audio:: needs a path and a transcript", mend=mend)
    if found and re.match(r"[^\s:]", rest):
        what = f"text right after the value of '{list(found)[-1]}'"
        mend = r"write a quote inside a value as \", and a blank between attributes"
        raise line.wrong(what, mend=mend, column=column)
    if re.match(r"\s+[^\s:]", rest):
        mend = 'attributes are written name="value", and the fence ends with ::'
        raise line.wrong(f"cannot read {shown(rest.strip())}", mend=mend, column=column)
    _refuse_ending(line, at, "audio")


def _broken_pair(line: Line, pair: re.Match[str], column: int) -> DocumentError:
    """Why an attribute could not be read."""
    key = pair["key"]
    what, mend = f"the value of '{key}' is not in straight double quotes", f'write {key}="..."'
    if pair["before"] or pair["after"]:
        what = f"there are blanks around the = of '{key}'"
    elif pair["quote"] == '"':
        what = f"the value of '{key}' has no closing quote"
        mend = r'end it with ", and write a quote inside as \"'
    return line.wrong(what, mend=mend, column=column)


def _refuse_values(line: Line, found: dict[str, str], columns: dict[str, int]) -> None:
    """Attributes that are missing, blank or impossible."""
    for key in ("path", "transcript"):
        if key not in found:
            raise line.wrong(f"::audio:: has no {key}", mend=f'add {key}="..."')
    for key, value in found.items():
        if not value.strip():
            what = EMPTY_TRANSCRIPT if key == "transcript" else f"'{key}' is empty"
            mend = "write what is said" if key == "transcript" else "fill it in or remove it"
            raise line.wrong(what, mend=mend, column=columns[key])
    span = {"start": 0.0, "end": math.inf}
    for key in [key for key in span if key in found]:
        if not SECONDS.fullmatch(found[key]):
            what = f"'{key}' is {shown(found[key])}"
            raise line.wrong(what, mend=f'write seconds, such as {key}="12.5"', column=columns[key])
        span[key] = float(found[key])
    if span["end"] <= span["start"]:
        what = f"'end' {found.get('end', '')} is not after 'start' {found.get('start', '0')}"
        key = "end" if "end" in found else "start"
        raise line.wrong(what, mend="write the seconds where the span ends", column=columns[key])
