"""A row of MusicCaps' table, and the recording its reader has for it.

The table (musiccaps-public.csv: ytid, start_s, end_s, caption and more) comes without sound. The
recordings lie beside it or in folders below, named as one of the programs that fetch them does:

    <ytid>.wav  Y<ytid>.wav                    the span, or all of the video: by how long it lasts
    <ytid>_30_40.wav  <ytid>_30000_40000.wav   the span, in seconds or milliseconds
    [<ytid>]-[30-40].wav  Y<ytid>_30.000.wav   the same
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlm.clips.audio import probe
from dlm.clips.clip import Clip, Sound, Turn
from dlm.clips.rows import Fields, text_of
from dlm.clips.walk import AUDIO_SUFFIXES, walk
from dlm.errors import ClipError

NUMBER = r"\d+(?:\.\d+)?"
NAME = re.compile(
    r"(?:Y|\[)?(?P<ytid>[\w-]{11})\]?"
    rf"(?:[-_]\[?(?P<start>{NUMBER})(?:[-_](?P<end>{NUMBER}))?\]?)?"
)
LONGER_SECONDS = 1.0  # than its span: then a recording is all of the video
MEND = "put it beside the table as <ytid>.wav or <ytid>_<start_s>_<end_s>.wav"


@dataclass(frozen=True)
class Absent:
    """A row whose recording its reader does not have."""

    name: str


@dataclass(frozen=True)
class _Named:
    """A recording and the span that its name tells, if it does."""

    path: Path
    start: float | None
    end: float | None


class Shelf:
    """The recordings beside a table, by the video they are of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named: dict[str, list[_Named]] = {}
        for path in walk(folder).files:
            found = NAME.fullmatch(path.stem)
            if found and path.suffix.lower() in AUDIO_SUFFIXES:
                span = (float(found[side]) if found[side] else None for side in ("start", "end"))
                self._named.setdefault(found["ytid"], []).append(_Named(path, *span))

    def clip(self, row: Fields, place: str, prompt: str | None) -> Clip | Absent:
        """The row with its recording. Raises ClipError for a row that cannot be used."""
        ytid, caption = text_of(row, "ytid"), text_of(row, "caption")
        start, end = (_seconds(row, key) for key in ("start_s", "end_s"))
        if ytid is None or caption is None:
            what = "no ytid" if ytid is None else "no caption"
            raise ClipError(what, mend="write it, or take the row out")
        if not start < end:
            raise ClipError(f"end_s is {end:g}, and start_s {start:g}", mend="mend the span")
        sound = next(self._sounds(ytid, start, end), None)
        if sound is None:
            return Absent(ytid)
        asked = (sound, prompt) if prompt and prompt.strip() else (sound,)
        return Clip((Turn("user", asked), Turn("assistant", (caption,))), place, "answer")

    def _sounds(self, ytid: str, start: float, end: float) -> Iterator[Sound]:
        """What there is of a span: cut out already, or within the whole."""
        named = self._named.get(ytid, [])
        for each in named:
            cut = (each.start, each.end or end)
            if cut in ((start, end), (start * 1000, end * 1000), (start * 1000, end)):
                yield Sound(each.path, written=self._name(each.path))
        for each in named:
            if each.start is None:
                whole = _lasting(each.path) > end - start + LONGER_SECONDS
                span = (start, end) if whole else (None, None)
                yield Sound(each.path, span[0], span[1], self._name(each.path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def _lasting(path: Path) -> float:
    """How many seconds a recording lasts; none where that is told later, as what is wrong."""
    try:
        return probe(path).seconds
    except ClipError:
        return 0.0


def _seconds(row: Fields, key: str) -> float:
    written = text_of(row, key)
    try:
        seconds = float(written or "")
    except ValueError as error:
        what = f"{key} is not a number of seconds"
        raise ClipError(what, mend="write it as 30") from error
    if not 0 <= seconds < math.inf:
        raise ClipError(f"{key} is {seconds:g}", mend="write the seconds from the beginning")
    return seconds
