"""Tables of captions that come without sound, and the recordings their reader has for them.

    MusicCaps   ytid,start_s,end_s,caption,...                    is_audioset_eval: its test split
    AudioCaps   audiocap_id,youtube_id,start_time,caption         ten seconds from start_time on
    Clotho      file_name,caption_1,...,caption_5                 a clip for each caption

The recordings lie beside the table, in folders below it, or where the source says. Those of Clotho
have their own names; those of videos are named as one of the programs that fetch them does:

    <ytid>.wav  Y<ytid>.wav                    the span, or all of the video: by how long it lasts
    <ytid>_30_40.wav  <ytid>_30000_40000.wav   the span, in seconds or milliseconds
    [<ytid>]-[30-40].wav  Y<ytid>_30.000.wav   the same
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dlm.clips.audio import probe
from dlm.clips.clip import Clip, Sound
from dlm.clips.formats.listed import given
from dlm.clips.formats.manifest import recordings_of
from dlm.clips.formats.rows import Fields, columns_of, text_of
from dlm.clips.formats.tables import cell_seconds
from dlm.clips.origin import Given, Origin, Shard, Skipped
from dlm.clips.walk import is_audio, walk
from dlm.errors import ClipError

NUMBER = r"\d+(?:\.\d+)?"
NAME = re.compile(
    r"(?:Y|\[)?(?P<ytid>[\w-]{11})\]?"
    rf"(?:[-_]\[?(?P<start>{NUMBER})(?:[-_](?P<end>{NUMBER}))?\]?)?"
)
LONGER_SECONDS = 1.0  # than its span: then a recording is all of the video
AUDIOCAPS_SECONDS = 10.0
MUSICCAPS = ("ytid", "start_s", "end_s", "caption")
AUDIOCAPS = ("youtube_id", "start_time", "caption")
CLOTHO = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
TEST_SPLITS = ("test", "eval", "evaluation")
TEST_NAME = re.compile(r"(?:^|[^a-z])(?:test|eval|evaluation)(?![a-z])")  # in the name of a table


def musiccaps(origin: Origin) -> list[Shard]:
    """One shard, in the order of the table, of one of its two splits."""
    test_of = "MusicCaps" if origin.source.split in TEST_SPLITS else None
    return [Shard.of(origin.name, partial(_videos, origin, _musiccaps), test_of=test_of)]


def audiocaps(origin: Origin) -> list[Shard]:
    """One shard, in the order of the table."""
    test_of = _test_of(origin, "AudioCaps")
    return [Shard.of(origin.name, partial(_videos, origin, _audiocaps), test_of=test_of)]


def clotho(origin: Origin) -> list[Shard]:
    """One shard, in the order of the table."""
    return [Shard.of(origin.name, partial(_files, origin), test_of=_test_of(origin, "Clotho"))]


def is_musiccaps(root: Path) -> bool:
    """A table with the columns of MusicCaps'."""
    return set(MUSICCAPS) <= set(columns_of(root))


def is_audiocaps(root: Path) -> bool:
    """A table with the columns of AudioCaps'."""
    return set(AUDIOCAPS) <= set(columns_of(root))


def is_clotho(root: Path) -> bool:
    """A table with the columns of Clotho's."""
    return set(CLOTHO) <= set(columns_of(root))


def _test_of(origin: Origin, name: str) -> str | None:
    return name if TEST_NAME.search(origin.root.stem.lower()) else None


def _videos(origin: Origin, make: "OfVideo") -> Iterator[Given]:
    """The rows of a table whose recordings are of videos."""
    return given(origin, partial(make, origin, _Shelf(recordings_of(origin))))


def _musiccaps(origin: Origin, shelf: "_Shelf", row: Fields, place: str) -> Iterator[Given]:
    ytid = _words(row, "ytid")
    caption, start, end = _words(row, "caption"), _seconds(row, "start_s"), _seconds(row, "end_s")
    if not start < end:
        raise ClipError(f"end_s is {end:g}, and start_s {start:g}", mend="mend the span")
    of_test = (text_of(row, "is_audioset_eval") or "").lower() in ("true", "1")
    if of_test != (origin.source.split in TEST_SPLITS):
        yield Skipped(ytid, "other split")
    elif sound := shelf.sound(ytid, start, end):
        yield _answer(origin, sound, caption, place)
    else:
        yield Skipped(ytid, "no recording")


def _audiocaps(origin: Origin, shelf: "_Shelf", row: Fields, place: str) -> Iterator[Given]:
    ytid, start = _words(row, "youtube_id"), _seconds(row, "start_time")
    caption = _words(row, "caption")
    sound = shelf.sound(ytid, start, start + AUDIOCAPS_SECONDS)
    yield _answer(origin, sound, caption, place) if sound else Skipped(ytid, "no recording")


def _files(origin: Origin) -> Iterator[Given]:
    """The rows of a table whose recordings have their own names."""
    folder = recordings_of(origin)
    files = [path for path in walk(folder).files if is_audio(path)]
    return given(origin, partial(_clotho, origin, folder, {path.name: path for path in files}))


def _clotho(
    origin: Origin, folder: Path, files: dict[str, Path], row: Fields, place: str
) -> Iterator[Given]:
    name = _words(row, "file_name")
    path = files.get(name)
    captions = [caption for key in CLOTHO[1:] if (caption := text_of(row, key))]
    if not captions:
        raise ClipError("no caption", mend="write it, or take the row out")
    if path is None:
        yield Skipped(name, "no recording")
        return
    sound = Sound(path, written=path.relative_to(folder).as_posix())
    yield from (_answer(origin, sound, caption, place) for caption in captions)


def _answer(origin: Origin, sound: Sound, caption: str, place: str) -> Clip:
    return replace(origin.clip(sound, caption, place), task=origin.source.task or "answer")


@dataclass(frozen=True)
class _Named:
    """A recording and the span that its name tells, if it does."""

    path: Path
    start: float | None
    end: float | None


class _Shelf:
    """The recordings beside a table, by the video they are of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named: dict[str, list[_Named]] = {}
        for path in walk(folder).files:
            found = NAME.fullmatch(path.stem)
            if found and is_audio(path):
                span = (float(found[side]) if found[side] else None for side in ("start", "end"))
                self._named.setdefault(found["ytid"], []).append(_Named(path, *span))

    def sound(self, ytid: str, start: float, end: float) -> Sound | None:
        """The span of a video, where there is a recording of it."""
        return next(self._sounds(ytid, start, end), None)

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
                yield Sound(each.path, span[0], span[1], written=self._name(each.path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


OfVideo = Callable[[Origin, _Shelf, Fields, str], Iterator[Given]]


def _lasting(path: Path) -> float:
    """How many seconds a recording lasts; none where that is told later, as what is wrong."""
    try:
        return probe(path).seconds
    except ClipError:
        return 0.0


def _words(row: Fields, key: str) -> str:
    written = text_of(row, key)
    if written is None:
        raise ClipError(f"no {key}", mend="write it, or take the row out")
    return written


def _seconds(row: Fields, key: str) -> float:
    seconds = cell_seconds(row, key)
    if seconds is None:
        raise ClipError(f"{key} is not a number of seconds", mend="write it as 30")
    if seconds < 0:
        raise ClipError(f"{key} is {seconds:g}", mend="write the seconds from the beginning")
    return seconds
