r"""Texts with times: SubRip, WebVTT and the labels of Audacity, read as cues.

    .srt  1                                    a number, times, text, a blank line
          00:00:01,000 --> 00:00:04,000
          <i>Half past</i> four.
    .vtt  00:01.000 --> 00:04.000 align:end    hours and numbers may be missing, settings may follow
          <v Ann>Half past four.
    .txt  1.000000	4.000000	Half past four.    start, end and text, between tabs

A line of times begins a cue wherever it stands, and the number before it belongs to it, so that no
time is ever text. In WebVTT only an empty line ends a cue: a line of one blank is text. Tags such
as <i>, {\an8} and <00:02.500> are taken out; line ends within a cue become blanks.

Captions that roll, as YouTube makes them, show the line before again above the new one, and then
alone for 10 ms. Where most cues of a file begin with what the one before shows, each line is kept
once, at the times where it first appears.
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from dlm.errors import DataError

TIMESTAMP_PATTERN = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]\d)[,.](\d{1,3})"
CUE_TIMES_RE = re.compile(rf"\s*{TIMESTAMP_PATTERN}\s*-->\s*{TIMESTAMP_PATTERN}(?:\s.*)?")
# what was meant as times is no text either: 00:00:01 -> 00:00:04, and 0:00:01.000,0:00:04.000
LOOSE_TIMESTAMP_PATTERN = r"\d+(?::\d+)+(?:[,.]\d+)?"
BROKEN_TIMES_RE = re.compile(
    rf"\s*{LOOSE_TIMESTAMP_PATTERN}\s*[-=]*>\s*{LOOSE_TIMESTAMP_PATTERN}\s*"
    r"|\s*\d+:\d\d:\d\d\.\d{3},\d+:\d\d:\d\d\.\d{3}\s*"
)
CUE_ARROW = "-->"
CUE_TIMES_HINT = "write it as 00:00:01,000 --> 00:00:04,000"
LINE_END_RE = re.compile(r"\r*\n|\r")  # \r\r\n is what a text of Windows becomes when saved twice
VOICE_TAG_RE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
SRT_TAG_RE = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
VTT_TAG_RE = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
NON_CUE_BLOCK_RE = re.compile(r"(?:WEBVTT|NOTE|STYLE|REGION)(?:\s|$)")
ROLLING_SHARE = 0.5  # of the cues, that begin with words of the one before, in captions that roll
LABEL_RE = re.compile(r"(\d+(?:[.,]\d+)?)\t(\d+(?:[.,]\d+)?)(?:\t(.*))?")
LABEL_FREQUENCIES_RE = re.compile(r"\\\t.*")  # the line below a label of a spectral selection

NumberedLine = tuple[int, str]


@dataclass(frozen=True)
class SubtitleCue:
    """What is said in a span.

    Attributes:
        start, end: seconds from the beginning of the recording.
        text: may be empty.
        speaker: the voice of the cue, where it has exactly one.
        is_repeat: whether it only shows again what the cue before shows; then it has no text.
    """

    start: float
    end: float
    text: str
    speaker: str | None
    is_repeat: bool = False


NumberedCue = tuple[int, SubtitleCue | DataError]


def has_cues(text: str) -> bool:
    """Whether a text is subtitles or labels, whatever its file is called."""
    lines = [line for line in LINE_END_RE.split(text) if line.strip()]
    return any(map(CUE_TIMES_RE.fullmatch, lines)) or _has_labels(lines)


def parse_cues(text: str) -> Iterator[NumberedCue]:
    """Yield every cue of subtitles or labels with its line, or why it cannot be read."""
    lines = LINE_END_RE.split(text)
    if _has_labels([line for line in lines if line.strip()]):
        yield from map(_parse_label, _iter_labels(lines))
    else:
        yield from _drop_repeats(list(_parse_blocks(lines, is_vtt=text.startswith("WEBVTT"))))


def _has_labels(lines: Sequence[str]) -> bool:
    return bool(lines) and all(
        LABEL_RE.fullmatch(line) or LABEL_FREQUENCIES_RE.fullmatch(line) for line in lines
    )


def _iter_labels(lines: Sequence[str]) -> Iterator[tuple[int, re.Match[str]]]:
    matches = ((number, LABEL_RE.fullmatch(line)) for number, line in enumerate(lines, start=1))
    return ((number, match) for number, match in matches if match)


def _parse_label(label: tuple[int, re.Match[str]]) -> NumberedCue:
    number, match = label
    start, end = (float(match[index].replace(",", ".")) for index in (1, 2))
    text = " ".join((match[3] or "").split())
    error = _make_span_error(start, end)
    return number, error or SubtitleCue(start, end, text, None)


@dataclass(frozen=True)
class _RawCue:
    """A cue before repeats are dropped: the lines it shows, without tags and empty ones."""

    start: float
    end: float
    lines: tuple[str, ...]
    speaker: str | None


def _parse_blocks(
    lines: Sequence[str], *, is_vtt: bool
) -> Iterator[tuple[int, _RawCue | DataError]]:
    """Yield the cues; a line of times begins one, and an empty line ends it."""
    outside: list[NumberedLine] = []  # lines since the last cue ended: a number, a note
    times: NumberedLine | None = None
    cue_lines: list[str] = []
    num_cues, is_numbered = 0, False
    for number, line in enumerate([*lines, ""], start=1):
        is_times = CUE_ARROW in line or (times is not None and BROKEN_TIMES_RE.fullmatch(line))
        # a blank where the text begins ends no cue: programs write it in place of a text
        is_end = not line if is_vtt or (times and not cue_lines) else not line.strip()
        if times is not None and (is_times or is_end):
            is_next = is_numbered or (cue_lines[-1:] == [str(num_cues + 1)])
            if is_times and is_next and cue_lines and cue_lines[-1].strip().isdecimal():
                outside = [(number - 1, cue_lines.pop())]
            yield times[0], _parse_cue(times[1], cue_lines, is_vtt=is_vtt)
            times, cue_lines = None, []
        if CUE_ARROW in line:
            identifier = outside[-1][1].strip() if outside else ""
            is_numbered = is_numbered or identifier.isdecimal()
            if not is_vtt or not _is_no_cue(outside):
                yield from _report_text(outside[:-1], is_vtt=is_vtt)
            outside, times, num_cues = [], (number, line), num_cues + 1
        elif times is not None:
            cue_lines.append(line)
        elif line.strip():
            outside.append((number, line))
        else:
            yield from _report_text(outside, is_vtt=is_vtt)
            outside = []


def _is_no_cue(block: Sequence[NumberedLine]) -> bool:
    return bool(block) and NON_CUE_BLOCK_RE.match(block[0][1]) is not None


def _report_text(block: Sequence[NumberedLine], *, is_vtt: bool) -> Iterator[tuple[int, DataError]]:
    """The error of lines that belong to no cue; none for the header, notes and styles."""
    if block and not (is_vtt and _is_no_cue(block)):
        hint = f"{CUE_TIMES_HINT}, or take out the blank line before it"
        yield block[0][0], DataError("text without times", hint=hint, code="data.bad_cue")


def _parse_cue(times: str, lines: Sequence[str], *, is_vtt: bool) -> _RawCue | DataError:
    match = CUE_TIMES_RE.fullmatch(times)
    if match is None:
        what = f"times that cannot be read: {times.strip()}"
        return DataError(what, hint=CUE_TIMES_HINT, code="data.bad_cue")
    start, end = _parse_timestamp(*match.groups()[:4]), _parse_timestamp(*match.groups()[4:])
    if error := _make_span_error(start, end):
        return error
    raw_text = "\n".join(lines)
    speakers = {speaker.strip() for speaker in VOICE_TAG_RE.findall(raw_text)}
    text = (VTT_TAG_RE if is_vtt else SRT_TAG_RE).sub("", raw_text)
    text = html.unescape(text) if is_vtt else text
    plain_lines = tuple(" ".join(line.split()) for line in text.split("\n") if line.strip())
    return _RawCue(start, end, plain_lines, speakers.pop() if len(speakers) == 1 else None)


def _make_span_error(start: float, end: float) -> DataError | None:
    if start < end:
        return None
    what = f"the cue ends at {end:g} s, and begins at {start:g} s"
    return DataError(what, hint="correct it", code="data.bad_span")


def _parse_timestamp(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + int(fraction.ljust(3, "0")) / 1000


def _drop_repeats(items: Sequence[tuple[int, _RawCue | DataError]]) -> Iterator[NumberedCue]:
    """Take out of each cue what the one before shows too, where the captions roll."""
    cues = [cue for _, cue in items if isinstance(cue, _RawCue)]
    repeats = [0, *(_count_repeated_words(*pair) for pair in pairwise(cues))]
    is_rolling = sum(map(bool, repeats)) >= max(1.0, ROLLING_SHARE * (len(cues) - 1)) and any(
        0 < repeated < len(_split_words(cue.lines))
        for repeated, cue in zip(repeats, cues, strict=True)
    )
    pending = iter(repeats if is_rolling else [0] * len(cues))
    for number, cue in items:
        if isinstance(cue, DataError):
            yield number, cue
            continue
        words, repeated = _split_words(cue.lines), next(pending)
        text = " ".join(words[repeated:])
        parsed = SubtitleCue(cue.start, cue.end, text, cue.speaker)
        yield number, replace(parsed, is_repeat=is_rolling and not text)


def _count_repeated_words(previous: _RawCue, cue: _RawCue) -> int:
    """Words at the beginning of a cue that are all of the last lines of the one before."""
    words = _split_words(cue.lines)
    for index in range(len(previous.lines)):
        shown = _split_words(previous.lines[index:])
        if words[: len(shown)] == shown:
            return len(shown)
    return 0


def _split_words(lines: Sequence[str]) -> list[str]:
    return " ".join(lines).split()
