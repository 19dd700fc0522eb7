"""Subtitles beside a recording: an example for each cue of a .srt or .vtt, and broken cues."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.readers.folders import SubtitleCue, parse_subtitles
from dlm.errors import DataError
from tests.data.readers.source_loading import (
    describe_examples,
    get_issues,
    get_locations,
    load_source,
)
from tests.data.recordings import make_noise, save_audio

SRT = """1
00:00:00,500 --> 00:00:01,000
{\\an8}<i>Half</i> past
<font color="red">four.</font>

2
00:00:01.000 --> 00:00:02,250 X1:40
He said 2 < 3 & 4 > 1.
"""
VTT = """WEBVTT - a talk
Kind: captions

NOTE nothing
to hear

STYLE
::cue { color: red }

intro
00:00.500 --> 00:01.000 align:start position:0%
<v Ann>Half <c.loud>past</c> <00:00.700>four &amp; five.</v>

1:00:01.000 --> 1:00:02.000
<v Ann>No. <v.first Bob Ray>Yes.
"""
FOLDER = {"path": "corpus"}


def test_cues_of_srt_are_read_with_any_line_ends() -> None:
    first = SubtitleCue(0.5, 1.0, "Half past four.", None)
    second = SubtitleCue(1.0, 2.25, "He said 2 < 3 & 4 > 1.", None)
    for end in ("\n", "\r\n", "\r"):
        assert list(parse_subtitles(SRT.replace("\n", end))) == [(2, first), (7, second)]


def test_cues_of_vtt_are_read_with_their_voices() -> None:
    first = SubtitleCue(0.5, 1.0, "Half past four & five.", "Ann")
    second = SubtitleCue(3601.0, 3602.0, "No. Yes.", None)
    assert list(parse_subtitles(VTT)) == [(11, first), (14, second)]


@pytest.mark.parametrize(
    ("text", "line", "code", "words"),
    [
        ("1\n00:00:01,000 -> 00:00:02,000\nHi.\n", 1, "data.bad_cue", "text without times"),
        ("00:01,000 --> 00:02,000\nHi.\n\nand more\n", 4, "data.bad_cue", "text without times"),
        ("a --> b\nHi.\n", 1, "data.bad_cue", "times that cannot be read: a --> b"),
        ("00:61,000 --> 01:02,000\n", 1, "data.bad_cue", "times that cannot be read: 00:61,000"),
        ("00:02,000 --> 00:01,000\nHi.\n", 1, "data.bad_span", "ends at 1 s, and begins at 2 s"),
        ("00:02,000 --> 00:02,000\nHi.\n", 1, "data.bad_span", "ends at 2 s, and begins at 2 s"),
    ],
)
def test_a_broken_cue_is_an_error_with_its_line(
    text: str, line: int, code: str, words: str
) -> None:
    *_, (number, error) = parse_subtitles(text)
    assert isinstance(error, DataError) and (number, error.code) == (line, code)
    assert words in error.what


@given(st.text(alphabet="0123:,.->< \n\rWEBVTab{\\an8}", max_size=200))
def test_any_text_gives_cues_or_errors(text: str) -> None:
    for line, cue in parse_subtitles(text):
        assert line >= 1
        assert isinstance(cue, DataError) or 0 <= cue.start < cue.end


def test_a_cue_is_an_example(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "corpus/a.wav", make_noise(3.0))
    path.with_suffix(".srt").write_bytes(b"\xef\xbb\xbf" + SRT.replace("\n", "\r\n").encode())
    path.with_suffix(".txt").write_text("All of it.")
    data = load_source(tmp_path, {**FOLDER, "language": "en"})
    assert get_issues(data) == []
    assert describe_examples(data) == [
        ("corpus/a.srt:2", "Half past four.", None, "en"),
        ("corpus/a.srt:7", "He said 2 < 3 & 4 > 1.", None, "en"),
    ]
    (segment,) = data.examples[1].audio_segments
    assert (segment.path, segment.name) == (path, "corpus/a.wav")
    assert (segment.start, segment.end) == (1.0, 2.25)
    (report,) = data.sources
    assert (report.audio_count, report.skipped_not_audio) == (2, 0)
    assert report.audio_bytes == path.stat().st_size


def test_voices_are_speakers_and_the_source_may_be_one_recording(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/a.vtt").write_text(VTT)
    data = load_source(tmp_path, {"path": "corpus/a.wav"})
    assert get_locations(data) == ["corpus/a.vtt:11", "corpus/a.vtt:14"]
    assert [example.speaker for example in data.examples] == ["Ann", None]


def test_without_cues_the_text_file_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_audio(tmp_path / f"corpus/{name}.wav")
        (tmp_path / f"corpus/{name}.srt").write_text("\n")
    (tmp_path / "corpus/a.txt").write_text("All of it.")
    data = load_source(tmp_path, FOLDER)
    assert describe_examples(data) == [("corpus/a.wav", "All of it.", None, None)]
    assert get_issues(data) == [("corpus/b.srt", "data.no_cues")]


def test_empty_and_overlapping_cues_are_warnings(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav", make_noise(3.0))
    text = "00:00,000 --> 00:01,500\nHi.\n\n00:01,000 --> 00:02,000\n<i></i>\n\n"
    text += "00:01,000 --> 00:02,000\nYou.\n\n00:01,950 --> 00:02,500\nMe.\n"
    (tmp_path / "corpus/a.srt").write_text(text)
    data = load_source(tmp_path, FOLDER)
    assert get_locations(data) == ["corpus/a.srt:1", "corpus/a.srt:7", "corpus/a.srt:10"]
    assert get_issues(data) == [
        ("corpus/a.srt:4", "data.empty_cue"),
        ("corpus/a.srt:7", "data.overlapping_cues"),
    ]
    assert data.issues[1].what == "the cue begins 0.5 s before the last one ends"
    assert not any(issue.fatal for issue in data.issues)


def test_subtitles_that_cannot_be_read_are_issues(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_audio(tmp_path / f"corpus/{name}.wav")
    (tmp_path / "corpus/a.srt").write_bytes("00:00,000 --> 00:01,000\ndéjà\n".encode("latin1"))
    os.mkfifo(tmp_path / "corpus/b.vtt")
    data = load_source(tmp_path, FOLDER)
    assert get_issues(data) == [
        ("corpus/a.srt", "data.not_utf8"),
        ("corpus/b.vtt", "source.not_a_file"),
    ]
    assert data.issues[0].what == "the transcript is not UTF-8 (byte 26)"


def test_after_a_broken_cue_the_next_is_read(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/a.srt").write_text("x --> y\nHi.\n\n00:00,000 --> 00:00,500\nYou.\n")
    data = load_source(tmp_path, FOLDER)
    assert get_locations(data) == ["corpus/a.srt:4"]
    assert get_issues(data) == [("corpus/a.srt:1", "data.bad_cue")]


def test_a_pipe_among_recordings_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    os.mkfifo(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/a.txt").write_text("Hi.")
    assert get_locations(load_source(tmp_path, FOLDER)) == ["corpus/a.wav"]
