"""MusicCaps, AudioCaps and Clotho: tables of captions, joined with recordings beside them.

    MusicCaps   ytid,start_s,end_s,caption,...             is_audioset_eval marks its test split
    AudioCaps   audiocap_id,youtube_id,start_time,caption  ten seconds from start_time on
    Clotho      file_name,caption_1,...,caption_5          an example for each caption

Recordings are beside the table, in folders below it, or in the source's `audio`. Those of Clotho
have their own names; those of videos are named as one of the programs that download them does:

    <ytid>.wav  Y<ytid>.wav                    the span, or all of the video: by its duration
    <ytid>_30_40.wav  <ytid>_30000_40000.wav   the span, in seconds or milliseconds
    [<ytid>]-[30-40].wav  Y<ytid>_30.000.wav   the same
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unicodedata import normalize

from dlm.data.audio_io import read_audio_info
from dlm.data.file_globs import is_audio_file, list_files
from dlm.data.readers.base import ReaderItem, SkippedItem, SourceContext, SourceShard
from dlm.data.readers.columns import SourceRecord, get_audio_dir, get_text, parse_seconds_cell
from dlm.data.readers.records import ParseRecordFn, make_list_shard, read_column_names
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError

MUSICCAPS_COLUMNS = ("ytid", "start_s", "end_s", "caption")
AUDIOCAPS_COLUMNS = ("youtube_id", "start_time", "caption")
AUDIOCAPS_SECONDS = 10.0
CLOTHO_CAPTION_COLUMNS = tuple(f"caption_{number}" for number in range(1, 6))
DECIMAL_PATTERN = r"\d+(?:\.\d+)?"
VIDEO_FILE_NAME_RE = re.compile(
    r"(?:Y|\[)?(?P<ytid>[\w-]{11})\]?"
    rf"(?:[-_]\[?(?P<start>{DECIMAL_PATTERN})(?:[-_](?P<end>{DECIMAL_PATTERN}))?\]?)?"
)
FULL_VIDEO_MARGIN_SECONDS = 1.0  # a recording this much longer than its span is the whole video
TEST_SPLIT_NAMES = ("test", "eval", "evaluation")
TEST_TABLE_NAME_RE = re.compile(r"(?:^|[^a-z])(?:test|eval|evaluation)(?![a-z])")


def is_musiccaps(root: Path) -> bool:
    """Whether a path is a table with the columns of MusicCaps."""
    return set(MUSICCAPS_COLUMNS) <= set(read_column_names(root))


def list_musiccaps_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of the table, of one of its two splits."""
    benchmark = "MusicCaps" if context.source.split in TEST_SPLIT_NAMES else None
    return _make_video_shard(context, _parse_musiccaps_record, benchmark)


def is_audiocaps(root: Path) -> bool:
    """Whether a path is a table with the columns of AudioCaps."""
    return set(AUDIOCAPS_COLUMNS) <= set(read_column_names(root))


def list_audiocaps_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of the table."""
    benchmark = _get_test_benchmark(context, "AudioCaps")
    return _make_video_shard(context, _parse_audiocaps_record, benchmark)


def is_clotho(root: Path) -> bool:
    """Whether a path is a table with the columns of Clotho."""
    return {"file_name", *CLOTHO_CAPTION_COLUMNS} <= set(read_column_names(root))


def list_clotho_shards(context: SourceContext) -> list[SourceShard]:
    """One shard, in the order of the table."""
    benchmark = _get_test_benchmark(context, "Clotho")
    return make_list_shard(context, lambda: _make_clotho_parser(context), test_benchmark=benchmark)


def _get_test_benchmark(context: SourceContext, benchmark: str) -> str | None:
    return benchmark if TEST_TABLE_NAME_RE.search(context.root.stem.lower()) else None


def _make_video_shard(
    context: SourceContext, parse_fn: "ParseVideoRecordFn", benchmark: str | None
) -> list[SourceShard]:
    return make_list_shard(
        context,
        lambda: partial(parse_fn, context, _VideoIndex(get_audio_dir(context))),
        test_benchmark=benchmark,
    )


def _parse_musiccaps_record(
    context: SourceContext, video_index: "_VideoIndex", record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    ytid, caption = _require_text(record, "ytid"), _require_text(record, "caption")
    start, end = _require_seconds(record, "start_s"), _require_seconds(record, "end_s")
    if not start < end:
        what = f"end_s is {end:g}, and start_s {start:g}"
        raise DataError(what, hint="correct the span", code="data.bad_span")
    is_test = (get_text(record, "is_audioset_eval") or "").lower() in ("true", "1")
    if is_test != (context.source.split in TEST_SPLIT_NAMES):
        yield SkippedItem(ytid, "data.other_split")
    elif segment := video_index.find_segment(ytid, start, end):
        yield _make_caption_example(context, segment, caption, location)
    else:
        yield SkippedItem(ytid, "data.no_recording")


def _parse_audiocaps_record(
    context: SourceContext, video_index: "_VideoIndex", record: SourceRecord, location: str
) -> Iterator[ReaderItem]:
    ytid, start = _require_text(record, "youtube_id"), _require_seconds(record, "start_time")
    caption = _require_text(record, "caption")
    if segment := video_index.find_segment(ytid, start, start + AUDIOCAPS_SECONDS):
        yield _make_caption_example(context, segment, caption, location)
    else:
        yield SkippedItem(ytid, "data.no_recording")


def _make_clotho_parser(context: SourceContext) -> ParseRecordFn:
    folder = get_audio_dir(context)
    paths_by_name = {
        normalize("NFC", path.name): path
        for path in list_files(folder).files
        if is_audio_file(path)
    }
    return partial(_parse_clotho_record, context, folder, paths_by_name)


def _parse_clotho_record(
    context: SourceContext,
    folder: Path,
    paths_by_name: dict[str, Path],
    record: SourceRecord,
    location: str,
) -> Iterator[ReaderItem]:
    name = _require_text(record, "file_name")
    captions = [text for key in CLOTHO_CAPTION_COLUMNS if (text := get_text(record, key))]
    if not captions:
        hint = "write it, or take the row out"
        raise DataError("no caption", hint=hint, code="data.missing_field")
    path = paths_by_name.get(normalize("NFC", name))
    if path is None:
        yield SkippedItem(name, "data.no_recording")
        return
    segment = AudioSegment(path, display_path=path.relative_to(folder).as_posix())
    yield from (_make_caption_example(context, segment, text, location) for text in captions)


def _make_caption_example(
    context: SourceContext, segment: AudioSegment, caption: str, location: str
) -> Example:
    example = context.make_example(segment, caption, location)
    return replace(example, task=context.source.task or "answer")


@dataclass(frozen=True)
class _VideoFile:
    """A recording, and the span in its name: seconds or milliseconds, None where it has none."""

    path: Path
    start: float | None
    end: float | None


class _VideoIndex:
    """The recordings below a folder, by the id of their video."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files_by_id: dict[str, list[_VideoFile]] = {}
        for path in list_files(folder).files:
            match = VIDEO_FILE_NAME_RE.fullmatch(path.stem)
            if match and is_audio_file(path):
                start, end = (float(match[key]) if match[key] else None for key in ("start", "end"))
                self._files_by_id.setdefault(match["ytid"], []).append(_VideoFile(path, start, end))

    def find_segment(self, video_id: str, start: float, end: float) -> AudioSegment | None:
        """Return a span of a video: a recording of that span, else within one of the whole."""
        files = self._files_by_id.get(video_id, [])
        spans = ((start, end), (start * 1000, end * 1000), (start * 1000, end))
        for file in files:
            if (file.start, file.end or end) in spans:
                return self._make_segment(file.path)
        for file in files:
            if file.start is None:
                is_whole = _probe_seconds(file.path) > end - start + FULL_VIDEO_MARGIN_SECONDS
                segment = self._make_segment(file.path)
                return replace(segment, start=start, end=end) if is_whole else segment
        return None

    def _make_segment(self, path: Path) -> AudioSegment:
        return AudioSegment(path, display_path=path.relative_to(self._folder).as_posix())


ParseVideoRecordFn = Callable[[SourceContext, _VideoIndex, SourceRecord, str], Iterator[ReaderItem]]


def _probe_seconds(path: Path) -> float:
    """A recording's duration; 0 for one that cannot be read, which the scan reports later."""
    try:
        return read_audio_info(path).seconds
    except DataError:
        return 0.0


def _require_text(record: SourceRecord, key: str) -> str:
    text = get_text(record, key)
    if text is None:
        hint = "write it, or take the row out"
        raise DataError(f"no {key}", hint=hint, code="data.missing_field")
    return text


def _require_seconds(record: SourceRecord, key: str) -> float:
    seconds = parse_seconds_cell(record, key)
    if seconds is None:
        what = f"{key} is not a number of seconds"
        raise DataError(what, hint="write it as 1.5", code="data.bad_seconds")
    if seconds < 0:
        hint = "write the seconds from the beginning"
        raise DataError(f"{key} is {seconds:g}", hint=hint, code="data.bad_seconds")
    return seconds
