"""What stands under `::instruction::` and `::conversation::`: headings, and the text below each.

    ::instruction::     ### Q   ### A   ### Q   ### A   ...
    ::conversation::    ### System?   ### User   ### Assistant   ...

Sound in a user's turn is written `<audio>clips/a.wav</audio>`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from dlm.document.document import Pair, WrittenTurn
from dlm.document.fences import Fence
from dlm.document.lines import CODE_SPAN, Line, plain, shown, trimmed

HEADINGS = {"instruction": ("Q", "A"), "conversation": ("System", "User", "Assistant")}
LOOK_ALIKE = re.compile(
    r"\s*(#{1,6})\s*(q|a|question|answer|system|user|assistant)\s*[:.]?\s*(!\S*)?\s*", re.IGNORECASE
)
SOUND = re.compile(
    rf"{CODE_SPAN}|<audio>(?P<path>[^<>]*)</audio>|(?P<odd></?audio\b[^<>]*>?)", re.IGNORECASE
)
EXAMPLE = "<audio>clips/a.wav</audio>"


@dataclass(frozen=True)
class Part:
    """A heading and the lines below it."""

    name: str
    line: Line
    body: tuple[Line, ...]


def read_pairs(fence: Fence, body: Sequence[Line]) -> tuple[Pair, ...]:
    """The questions and answers under an `::instruction::` fence."""
    parts = list(_parts(fence, body))
    for at, part in enumerate(parts):
        if part.name != HEADINGS["instruction"][at % 2]:
            what = "answers no ### Q" if part.name == "A" else "follows a ### Q without its ### A"
            mend = "write ### Q and ### A in turn"
            raise part.line.wrong(f"this ### {part.name} {what}", mend=mend)
        _refuse_sound_in_question(part)
    if len(parts) % 2:
        mend = "write ### A and the answer below it"
        raise parts[-1].line.wrong("this ### Q has no ### A", mend=mend)
    return tuple(
        Pair(plain(question.body), plain(answer.body), question.line.number)
        for question, answer in zip(parts[::2], parts[1::2], strict=True)
    )


def read_turns(fence: Fence, body: Sequence[Line]) -> tuple[WrittenTurn, ...]:
    """The turns under a `::conversation::` fence."""
    parts = list(_parts(fence, body))
    if parts[0].name == "Assistant":
        mend = "begin with ### User or ### System"
        raise parts[0].line.wrong("a conversation cannot begin with ### Assistant", mend=mend)
    if parts[-1].name != "Assistant":
        mend = "write ### Assistant and what the model should say"
        raise parts[-1].line.wrong(f"the conversation ends with ### {parts[-1].name}", mend=mend)
    return tuple(
        WrittenTurn(
            cast(Literal["system", "user", "assistant"], part.name.lower()),
            tuple(_text_and_sounds(part)),
            part.line.number,
        )
        for part in parts
    )


def _parts(fence: Fence, body: Sequence[Line]) -> Iterator[Part]:
    """The headings of a body with what stands below each; nothing may be empty."""
    headings = [(at, name) for at, line in enumerate(body) if (name := _heading(fence, line))]
    names = " and ".join(f"### {name}" for name in HEADINGS[fence.kind])
    first = headings[0][0] if headings else len(body)
    for line in trimmed(body[:first])[:1]:
        mend = f"write {names} above what belongs to each"
        raise line.wrong(f"text before the first heading of ::{fence.kind}::", mend=mend)
    if not headings:
        raise fence.line.wrong(f"this ::{fence.kind}:: is empty", mend=f"write {names} below it")
    ends = [at for at, _ in headings[1:]] + [len(body)]
    for (at, name), end in zip(headings, ends, strict=True):
        part = Part(name, body[at], tuple(trimmed(body[at + 1 : end])))
        if not part.body:
            mend = "write its text below"
            raise part.line.wrong(f"nothing stands under this ### {name}", mend=mend)
        yield part


def _heading(fence: Fence, line: Line) -> str | None:
    """The name of the heading on this line, None for text; a look-alike is an error."""
    like = None if line.code else LOOK_ALIKE.fullmatch(line.text)
    if like is None:
        return None
    names = HEADINGS[fence.kind]
    written = line.text.rstrip().removeprefix("### ")
    name = "Q" if written == "Q !probe" else written
    if name in names and line.text.startswith("### "):
        return name
    if like[2].capitalize() not in names and len(like[1]) != 3:
        return None
    allowed = " or ".join(f"### {known}" for known in names)
    what = f"{shown(line.text.strip())} is not a heading of ::{fence.kind}::"
    if line.text[0].isspace():
        what = "there are blanks before this heading"
    raise line.wrong(what, mend=f"write {allowed}, or put it in a code block")


def _refuse_sound_in_question(part: Part) -> None:
    if part.name == "Q":
        for line, found in _sounds(part):
            mend = "put the fence after an ::audio:: fence, or write a ::conversation::"
            what = "a question of ::instruction:: holds no sound"
            raise line.wrong(what, mend=mend, column=found.start() + 1)


def _sounds(part: Part) -> Iterator[tuple[Line, re.Match[str]]]:
    """Every tag of sound, good or odd, outside code."""
    for line in part.body:
        if not line.code:
            yield from ((line, found) for found in SOUND.finditer(line.text) if not found["ticks"])


def _text_and_sounds(part: Part) -> Iterator[str | Path]:
    """What a turn holds, in order; blanks between two sounds are dropped."""
    cuts: dict[int, list[re.Match[str]]] = {}
    for line, found in _sounds(part):
        _refuse_tag(part, line, found)
        cuts.setdefault(line.number, []).append(found)
    text: list[str] = []
    for line in part.body:
        at = 0
        for found in cuts.get(line.number, ()):
            text.append(line.text[at : found.start()])
            if "".join(text).strip():
                yield "".join(text)
            yield Path(found["path"].strip())
            text, at = [], found.end()
        text.append(line.text[at:] + "\n")
    if "".join(text).strip():
        yield "".join(text).rstrip()


def _refuse_tag(part: Part, line: Line, found: re.Match[str]) -> None:
    written, mend = found[0], f"write {EXAMPLE}"
    if part.name != "User":
        what = f"sound in a ### {part.name} turn"
        mend = "only ### User turns hold sound; put the tag in backticks if it is text"
    elif found["odd"] or not (written.startswith("<audio>") and written.endswith("</audio>")):
        what = f"cannot read the tag {shown(written)}"
    elif not found["path"].strip():
        what = "this <audio> tag is empty"
    else:
        return
    raise line.wrong(what, mend=mend, column=found.start() + 1)
