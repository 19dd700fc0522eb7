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

from dlm.data.audio_io import read_audio_info
from dlm.data.file_globs import is_audio_file, list_files
from dlm.data.readers.base import ReaderItem, SkippedItem, SourceContext, SourceShard
from dlm.data.readers.records import SourceRecord, get_text, parse_records, read_column_names
from dlm.data.readers.tables import get_audio_dir, parse_seconds_cell
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError

DECIMAL_PATTERN = r"\d+(?:\.\d+)?"
VIDEO_FILE_NAME_RE = re.compile(
    r"(?:Y|\[)?(?P<ytid>[\w-]{11})\]?"
    rf"(?:[-_]\[?(?P<start>{DECIMAL_PATTERN})(?:[-_](?P<end>{DECIMAL_PATTERN}))?\]?)?"
)
FULL_VIDEO_MARGIN_SECONDS = 1.0  # than its span: then a recording is all of the video
AUDIOCAPS_SECONDS = 10.0
MUSICCAPS_COLUMNS = ("ytid", "start_s", "end_s", "caption")
AUDIOCAPS_COLUMNS = ("youtube_id", "start_time", "caption")
CLOTHO_COLUMNS = ("file_name", *(f"caption_{number}" for number in range(1, 6)))
TEST_SPLIT_NAMES = ("test", "eval", "evaluation")
TEST_TABLE_NAME_RE = re.compile(
    r"(?:^|[^a-z])(?:test|eval|evaluation)(?![a-z])"
)  # in the name of a table


def list_musiccaps_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of the table, of one of its two splits."""
    test_of = "MusicCaps" if context.source.split in TEST_SPLIT_NAMES else None
    return [
        SourceShard.from_iterable(
            context.name,
            partial(_read_video_captions, context, _parse_musiccaps_record),
            test_benchmark=test_of,
        )
    ]


def list_audiocaps_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of the table."""
    test_of = _get_test_benchmark(context, "AudioCaps")
    return [
        SourceShard.from_iterable(
            context.name,
            partial(_read_video_captions, context, _parse_audiocaps_record),
            test_benchmark=test_of,
        )
    ]


def list_clotho_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of the table."""
    return [
        SourceShard.from_iterable(
            context.name,
            partial(_read_clotho_table, context),
            test_benchmark=_get_test_benchmark(context, "Clotho"),
        )
    ]


def is_musiccaps(root: Path) -> bool:
    """A table with the columns of MusicCaps'."""
    return set(MUSICCAPS_COLUMNS) <= set(read_column_names(root))


def is_audiocaps(root: Path) -> bool:
    """A table with the columns of AudioCaps'."""
    return set(AUDIOCAPS_COLUMNS) <= set(read_column_names(root))


def is_clotho(root: Path) -> bool:
    """A table with the columns of Clotho's."""
    return set(CLOTHO_COLUMNS) <= set(read_column_names(root))


def _get_test_benchmark(context: SourceContext, benchmark: str) -> str | None:
    return benchmark if TEST_TABLE_NAME_RE.search(context.root.stem.lower()) else None


def _read_video_captions(
    context: SourceContext, parse_fn: "ParseVideoRecordFn"
) -> Iterator[ReaderItem]:
    """The rows of a table whose recordings are of videos."""
    return parse_records(context, partial(parse_fn, context, _VideoIndex(get_audio_dir(context))))


def _parse_musiccaps_record(
    context: SourceContext, video_index: "_VideoIndex", record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    ytid = _require_text(record, "ytid")
    caption, start, end = (
        _require_text(record, "caption"),
        _require_seconds(record, "start_s"),
        _require_seconds(record, "end_s"),
    )
    if not start < end:
        raise DataError(f"end_s is {end:g}, and start_s {start:g}", hint="mend the span")
    of_test = (get_text(record, "is_audioset_eval") or "").lower() in ("true", "1")
    if of_test != (context.source.split in TEST_SPLIT_NAMES):
        yield SkippedItem(ytid, "other split")
    elif sound := video_index.find_segment(ytid, start, end):
        yield _make_caption_example(context, sound, caption, location)
    else:
        yield SkippedItem(ytid, "no recording")


def _parse_audiocaps_record(
    context: SourceContext, video_index: "_VideoIndex", record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    ytid, start = _require_text(record, "youtube_id"), _require_seconds(record, "start_time")
    caption = _require_text(record, "caption")
    sound = video_index.find_segment(ytid, start, start + AUDIOCAPS_SECONDS)
    yield (
        _make_caption_example(context, sound, caption, location)
        if sound
        else SkippedItem(ytid, "no recording")
    )


def _read_clotho_table(context: SourceContext) -> Iterator[ReaderItem]:
    """The rows of a table whose recordings have their own names."""
    folder = get_audio_dir(context)
    files = [path for path in list_files(folder).files if is_audio_file(path)]
    return parse_records(
        context, partial(_parse_clotho_record, context, folder, {path.name: path for path in files})
    )


def _parse_clotho_record(
    context: SourceContext,
    folder: Path,
    files: dict[str, Path],
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    name = _require_text(record, "file_name")
    path = files.get(name)
    captions = [caption for key in CLOTHO_COLUMNS[1:] if (caption := get_text(record, key))]
    if not captions:
        raise DataError("no caption", hint="write it, or take the row out")
    if path is None:
        yield SkippedItem(name, "no recording")
        return
    sound = AudioSegment(path, display_path=path.relative_to(folder).as_posix())
    yield from (_make_caption_example(context, sound, caption, location) for caption in captions)


def _make_caption_example(
    context: SourceContext, segment: AudioSegment, caption: str, location: str
) -> Example:
    return replace(
        context.make_example(segment, caption, location), task=context.source.task or "answer"
    )


@dataclass(frozen=True)
class _VideoFile:
    """A recording and the span that its name tells, if it does."""

    path: Path
    start: float | None
    end: float | None


class _VideoIndex:
    """The recordings beside a table, by the video they are of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files_by_id: dict[str, list[_VideoFile]] = {}
        for path in list_files(folder).files:
            found = VIDEO_FILE_NAME_RE.fullmatch(path.stem)
            if found and is_audio_file(path):
                span = (float(found[side]) if found[side] else None for side in ("start", "end"))
                self._files_by_id.setdefault(found["ytid"], []).append(_VideoFile(path, *span))

    def find_segment(self, video_id: str, start: float, end: float) -> AudioSegment | None:
        """The span of a video, where there is a recording of it."""
        return next(self._iter_segments(video_id, start, end), None)

    def _iter_segments(self, video_id: str, start: float, end: float) -> Iterator[AudioSegment]:
        """What there is of a span: cut out already, or within the whole."""
        named = self._files_by_id.get(video_id, [])
        for each in named:
            cut = (each.start, each.end or end)
            if cut in ((start, end), (start * 1000, end * 1000), (start * 1000, end)):
                yield AudioSegment(each.path, display_path=self._to_display_path(each.path))
        for each in named:
            if each.start is None:
                whole = _probe_seconds(each.path) > end - start + FULL_VIDEO_MARGIN_SECONDS
                span = (start, end) if whole else (None, None)
                yield AudioSegment(
                    each.path, span[0], span[1], display_path=self._to_display_path(each.path)
                )

    def _to_display_path(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


ParseVideoRecordFn = Callable[[SourceContext, _VideoIndex, SourceRecord, str], Iterator[ReaderItem]]


def _probe_seconds(path: Path) -> float:
    """How many seconds a recording lasts; none where that is told later, as what is wrong."""
    try:
        return read_audio_info(path).seconds
    except DataError:
        return 0.0


def _require_text(record: SourceRecord, key: str) -> str:
    written = get_text(record, key)
    if written is None:
        raise DataError(f"no {key}", hint="write it, or take the row out")
    return written


def _require_seconds(record: SourceRecord, key: str) -> float:
    seconds = parse_seconds_cell(record, key)
    if seconds is None:
        raise DataError(f"{key} is not a number of seconds", hint="write it as 30")
    if seconds < 0:
        raise DataError(f"{key} is {seconds:g}", hint="write the seconds from the beginning")
    return seconds
