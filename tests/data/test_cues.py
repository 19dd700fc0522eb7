"""Subtitles beside a recording: a clip for each cue, and what is said of the odd ones."""

import os
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from dlm.data.readers.folders import SubtitleCue, parse_subtitles
from dlm.errors import DataError
from tests.data.gathering import faults, gathered, spoken
from tests.data.sounds import noise, save

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


def heard(text: str) -> list[tuple[int, object]]:
    return [(line, cue) for line, cue in parse_subtitles(text)]


def test_cues_of_srt() -> None:
    first = SubtitleCue(0.5, 1.0, "Half past four.", None)
    second = SubtitleCue(1.0, 2.25, "He said 2 < 3 & 4 > 1.", None)
    assert heard(SRT) == [(2, first), (7, second)]
    assert heard(SRT.replace("\n", "\r\n")) == heard(SRT.replace("\n", "\r")) == heard(SRT)


def test_cues_of_vtt() -> None:
    first = SubtitleCue(0.5, 1.0, "Half past four & five.", "Ann")
    second = SubtitleCue(3601.0, 3602.0, "No. Yes.", None)
    assert heard(VTT) == [(11, first), (14, second)]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("1\n00:00:01,000 -> 00:00:02,000\nHi.\n", 1, "text without times; write it as 00:"),
        ("00:01,000 --> 00:02,000\nHi.\n\nand more\n", 4, "or take out the blank line before it"),
        ("a --> b\nHi.\n", 1, "times that cannot be read: a --> b; write it as 00:00:01,000"),
        ("00:61,000 --> 01:02,000\n", 1, "times that cannot be read: 00:61,000"),
        ("00:02,000 --> 00:01,000\nHi.\n", 1, "the cue ends at 1 s, and begins at 2 s; correct it"),
        ("00:02,000 --> 00:02,000\nHi.\n", 1, "the cue ends at 2 s, and begins at 2 s; correct it"),
    ],
)
def test_a_cue_that_cannot_be_read(text: str, line: int, what: str) -> None:
    number, error = heard(text)[-1]
    assert isinstance(error, DataError) and number == line and what in str(error)


@drawn(st.text(alphabet="0123:,.->< \n\rWEBVTab{\\an8}", max_size=200))
def test_any_text_is_cues_or_errors(text: str) -> None:
    for line, cue in parse_subtitles(text):
        assert line >= 1
        assert isinstance(cue, DataError) or 0 <= cue.start < cue.end


def test_a_clip_for_each_cue(tmp_path: Path) -> None:
    path = save(tmp_path / "corpus/a.wav", noise(3.0))
    path.with_suffix(".srt").write_bytes(b"\xef\xbb\xbf" + SRT.replace("\n", "\r\n").encode())
    path.with_suffix(".txt").write_text("All of it.")
    found = gathered(tmp_path, {**FOLDER, "language": "en"})
    assert faults(found) == []
    assert spoken(found) == [
        ("corpus/a.srt:2", "Half past four.", None, "en"),
        ("corpus/a.srt:7", "He said 2 < 3 & 4 > 1.", None, "en"),
    ]
    (sound,) = found.examples[1].audio_segments
    assert (sound.path, sound.start, sound.end, sound.name) == (path, 1.0, 2.25, "corpus/a.wav")
    (report,) = found.sources
    assert (report.audio_count, report.skipped_not_audio) == (2, 0)
    assert report.audio_bytes == path.stat().st_size


def test_voices_are_speakers_and_one_recording_is_enough(tmp_path: Path) -> None:
    save(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/a.vtt").write_text(VTT)
    found = gathered(tmp_path, {"path": "corpus/a.wav"})
    assert [(place, speaker) for place, _, speaker, _ in spoken(found)] == [
        ("corpus/a.vtt:11", "Ann"),
        ("corpus/a.vtt:14", None),
    ]


def test_without_cues_the_text_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"corpus/{name}.wav")
        (tmp_path / f"corpus/{name}.srt").write_text("\n")
    (tmp_path / "corpus/a.txt").write_text("All of it.")
    found = gathered(tmp_path, FOLDER)
    assert spoken(found) == [("corpus/a.wav", "All of it.", None, None)]
    assert faults(found) == ["corpus/b.srt: no cues; write what is said when, or remove the file"]


def test_odd_cues_are_told_and_learning_goes_on(tmp_path: Path) -> None:
    save(tmp_path / "corpus/a.wav", noise(3.0))
    text = "00:00,000 --> 00:01,500\nHi.\n\n00:01,000 --> 00:02,000\n<i></i>\n\n"
    text += "00:01,000 --> 00:02,000\nYou.\n\n00:01,950 --> 00:02,500\nMe.\n"
    (tmp_path / "corpus/a.srt").write_text(text)
    found = gathered(tmp_path, FOLDER)
    assert [place for place, *_ in spoken(found)] == [f"corpus/a.srt:{n}" for n in (1, 7, 10)]
    assert faults(found) == [
        "corpus/a.srt:4: the cue has no text; take it out",
        "corpus/a.srt:7: the cue begins 0.5 s before the last one ends; check its times",
    ]
    assert not any(problem.fatal for problem in found.issues)


def test_subtitles_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"corpus/{name}.wav")
    (tmp_path / "corpus/a.srt").write_bytes("00:00,000 --> 00:01,000\ndéjà\n".encode("latin1"))
    os.mkfifo(tmp_path / "corpus/b.vtt")
    one, two = faults(gathered(tmp_path, FOLDER))
    assert one.startswith("corpus/a.srt: the transcript is not UTF-8 (byte 26); save it as UTF-8")
    assert two == "corpus/b.vtt: the transcript is not a regular file; write it in a text file"


def test_a_broken_cue_is_told_and_the_next_is_read(tmp_path: Path) -> None:
    save(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/a.srt").write_text("x --> y\nHi.\n\n00:00,000 --> 00:00,500\nYou.\n")
    found = gathered(tmp_path, FOLDER)
    assert [place for place, *_ in spoken(found)] == ["corpus/a.srt:4"]
    assert faults(found)[0].startswith("corpus/a.srt:1: times that cannot be read: x --> y; ")


def test_a_pipe_among_recordings_is_a_clip_that_is_told_when_it_is_heard(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    os.mkfifo(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/a.txt").write_text("Hi.")
    assert [place for place, *_ in spoken(gathered(tmp_path, FOLDER))] == ["corpus/a.wav"]
