"""The cues of subtitles: from when to when something is said, what, and by whom.

    1                                   .srt: a number, times, words, a blank line
    00:00:01,000 --> 00:00:04,000
    <i>Half past</i> four.

    00:01.000 --> 00:04.000 align:end   .vtt: hours and numbers may be missing, settings may follow
    <v Ann>Half past four.

Tags such as <i>, {\\an8} and <00:02.500> are taken out, line ends within a cue are blanks.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from dlm.errors import ClipError

TIME = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]\d)[,.](\d{1,3})"
TIMES = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?")
ARROW = "-->"
VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
OTHER_BLOCKS = ("WEBVTT", "NOTE", "STYLE", "REGION")
FORM = "write it as 00:00:01,000 --> 00:00:04,000"

Block = list[tuple[int, str]]  # lines with their numbers


@dataclass(frozen=True)
class Cue:
    """What is said from `start` to `end`, in seconds. The words may be none."""

    start: float
    end: float
    text: str
    speaker: str | None


def cues(text: str) -> Iterator[tuple[int, Cue | ClipError]]:
    """Every cue of a subtitle's text and the line of its times, as far as it can be read."""
    vtt = text.startswith("WEBVTT")
    for block in _blocks(text):
        if vtt and block[0][1].startswith(OTHER_BLOCKS) and ARROW not in block[0][1]:
            continue
        at = next((at for at, (_, line) in enumerate(block[:2]) if ARROW in line), None)
        if at is None:
            mend = f"{FORM}, or take out the blank line before it"
            yield block[0][0], ClipError("words without times", mend=mend)
            continue
        line, written = block[at]
        try:
            start, end = _span(written)
            words = " ".join(words for _, words in block[at + 1 :])
            yield line, Cue(start, end, _plain(words, vtt=vtt), _speaker(words))
        except ClipError as error:
            yield line, error


def _blocks(text: str) -> Iterator[Block]:
    """Lines that lie together, between blank ones."""
    block: Block = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _span(written: str) -> tuple[float, float]:
    """The seconds that a line of times tells."""
    found = TIMES.fullmatch(written)
    if found is None:
        raise ClipError(f"times that cannot be read: {written.strip()}", mend=FORM)
    start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
    if not start < end:
        raise ClipError(f"the cue ends at {end:g} s, and begins at {start:g} s", mend="mend it")
    return start, end


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, rest = (part or "0" for part in parts)
    whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + int(rest.ljust(3, "0")) / 1000


def _plain(words: str, *, vtt: bool) -> str:
    """Words without tags; in .vtt an ampersand begins a name such as &amp;."""
    plain = TAG.sub("", words)
    return " ".join((html.unescape(plain) if vtt else plain).split())


def _speaker(words: str) -> str | None:
    """The voice of a cue, where there is one alone."""
    voices = {voice.strip() for voice in VOICE.findall(words)}
    return voices.pop() if len(voices) == 1 else None
