"""Subtitles beside a recording: an example for each cue of a .srt or .vtt, and broken cues."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.readers.subtitles import SubtitleCue, parse_cues
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
        assert list(parse_cues(SRT.replace("\n", end))) == [(2, first), (7, second)]


def test_cues_of_vtt_are_read_with_their_voices() -> None:
    first = SubtitleCue(0.5, 1.0, "Half past four & five.", "Ann")
    second = SubtitleCue(3601.0, 3602.0, "No. Yes.", None)
    assert list(parse_cues(VTT)) == [(11, first), (14, second)]


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
    *_, (number, error) = parse_cues(text)
    assert isinstance(error, DataError) and (number, error.code) == (line, code)
    assert words in error.what


@given(st.text(alphabet="0123:,.->< \n\rWEBVTab{\\an8}", max_size=200))
def test_any_text_gives_cues_or_errors(text: str) -> None:
    for line, cue in parse_cues(text):
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


YOUTUBE = """WEBVTT
Kind: captions
Language: en

00:00:00.080 --> 00:00:02.550 align:start position:0%
\x20
every<00:00:00.400><c> customer</c><00:00:00.900><c> talked</c>

00:00:02.550 --> 00:00:02.560 align:start position:0%
every customer talked
\x20

00:00:02.560 --> 00:00:04.500 align:start position:0%
every customer talked
where<00:00:02.900><c> can</c><00:00:03.200><c> i</c><00:00:03.500><c> hide</c>

00:00:04.500 --> 00:00:04.510 align:start position:0%
where can i hide
\x20

00:00:04.510 --> 00:00:06.700 align:start position:0%
where can i hide
where<00:00:05.000><c> can</c><00:00:05.300><c> i</c><00:00:05.500><c> hide</c>
"""


def join_cues(*cues: str, end: str = "\n") -> str:
    """Cues of one second each, "text" or "text|text" for two lines, an empty line after each."""
    return "".join(
        f"{number}{end}00:00:0{number},000 --> 00:00:0{number + 1},000{end}"
        f"{cue.replace('|', end)}{end}{end}"
        for number, cue in enumerate(cues, start=1)
    )


def get_texts(text: str) -> list[str]:
    """The text of each cue that has one; the code of each error."""
    cues = [cue for _, cue in parse_cues(text)]
    texts = [cue.code if isinstance(cue, DataError) else cue.text for cue in cues]
    return [text for text in texts if text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n00:01,0 --> 00:02,0\none\n2\n00:02,0 --> 00:03,0\ntwo\n", ["one", "two"]),
        (join_cues("one", "two", end="\r\r\n"), ["one", "two"]),
        ("00:01,0 --> 00:02,0\none\n00:02,0 --> 00:03,0\ntwo\n", ["one", "two"]),
        ("00:01,0 --> 00:02,0\none\n2\n00:02,0 --> 00:03,0\ntwo\n", ["one", "two"]),
        (join_cues("I count", "3", "4"), ["I count", "3", "4"]),
        ("1\n00:01,0 --> 00:02,0\n2\n00:02,0 --> 00:03,0\ntwo\n", ["two"]),
        ("1\n00:01,0 --> 00:02,0\none\n2\n00:02,0 -> 00:03,0\ntwo\n", ["one", "data.bad_cue"]),
        ("WEBVTT\n00:01.0 --> 00:02.0\n \none\n00:02.0 --> 00:03.0\ntwo\n", ["one", "two"]),
        ("WEBVTT\n\nNOTE a\nb\n\nNOTE\n00:01.0 --> 00:02.0\none\n", ["one"]),
        ("WEBVTT\n\n00:01.0 --> 00:02.0\na <c.x>b</c> <00:01.5>c &lt; d\n", ["a b c < d"]),
    ],
)
def test_no_time_or_number_of_a_cue_is_text(text: str, expected: list[str]) -> None:
    """Of the kind: what stands between two cues is learned. Neighbours: no empty line, \\r\\r\\n,
    no number, a text that is a number, a cue without text, a broken arrow, a header that runs on.
    """
    assert get_texts(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (YOUTUBE, ["every customer talked", "where can i hide", "where can i hide"]),
        (join_cues("a b", "a b|c", "a b|c|d", "c|d|e"), ["a b", "c", "d", "e"]),
        (join_cues("so", "so we", "so we go", "home"), ["so", "we", "go", "home"]),
        (join_cues("no", "no", "yes", "yes"), ["no", "no", "yes", "yes"]),
        (join_cues("no", "no never", "yes", "and", "so"), ["no", "no never", "yes", "and", "so"]),
    ],
)
def test_captions_that_roll_give_each_line_once(text: str, expected: list[str]) -> None:
    """Of the kind: a line that is shown again is learned again. Neighbours: cues of 10 ms, three
    lines, a line that grows word by word, what a speaker says twice, and a chance repeat.
    """
    assert get_texts(text) == expected


def test_repeats_of_captions_are_counted(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav", make_noise(7.0))
    (tmp_path / "corpus/a.vtt").write_text(YOUTUBE)
    data = load_source(tmp_path, FOLDER)
    assert get_locations(data) == [f"corpus/a.vtt:{line}" for line in (5, 13, 21)]
    assert get_issues(data) == [("corpus/a.vtt", "data.rolling_captions")]
    assert data.issues[0].what == "2 of 5 cues only repeat the line before"
    assert not data.issues[0].fatal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.000000\t0.500000\tone\n0.500000\t1.000000\ttwo\n", ["one", "two"]),
        ("0,0\t0,5\tone\n\\\t100.0\t200.0\n0,5\t1,0\n", ["one"]),
        (join_cues("one"), ["one"]),
        ("0.5 0.7 are the odds", ["0.5 0.7 are the odds"]),
    ],
)
def test_a_text_file_with_times_is_read_as_cues(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    """Of the kind: numbers of a table of times are learned. Neighbours: labels of Audacity with
    decimal commas and frequencies, subtitles called .txt, and a text of numbers.
    """
    path = save_audio(tmp_path / "corpus/a.wav", make_noise(3.0))
    path.with_suffix(".txt").write_text(text)
    assert [example.target for example in load_source(tmp_path, FOLDER).examples] == expected


@pytest.mark.parametrize("source", ["corpus", "corpus/a.wav"])
def test_a_language_in_the_name_of_subtitles_is_theirs(tmp_path: Path, source: str) -> None:
    """Of the kind: subtitles beside a recording are passed over for their name."""
    path = save_audio(tmp_path / "corpus/a.wav", make_noise(3.0))
    path.with_name("a.en-US.srt").write_text(join_cues("one"))
    data = load_source(tmp_path, {"path": source})
    assert describe_examples(data) == [("corpus/a.en-US.srt:2", "one", None, "en")]
    path.with_name("a.fr.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nun\n")
    data = load_source(tmp_path, {"path": source})
    assert get_issues(data) == [("corpus/a.wav", "data.several_languages")]
    data = load_source(tmp_path, {"path": source, "language": "fr"})
    assert describe_examples(data) == [("corpus/a.fr.vtt:3", "un", None, "fr")]
    path.with_suffix(".srt").write_text(join_cues("its own"))
    data = load_source(tmp_path, {"path": source})
    assert describe_examples(data) == [("corpus/a.srt:2", "its own", None, None)]


@pytest.mark.parametrize("name", ["a.TextGrid", "a.eaf", "a.ass"])
def test_a_transcript_in_another_format_is_said(tmp_path: Path, name: str) -> None:
    path = save_audio(tmp_path / "corpus/a.wav", make_noise(3.0))
    path.with_name(name).write_text("?")
    data = load_source(tmp_path, FOLDER)
    assert (f"corpus/{name}", "data.unread_transcript") in get_issues(data)
    assert data.sources[0].skipped_audio_no_transcript == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named_as_such(tmp_path: Path, encoding: str) -> None:
    """Of the kind: a hint that turns a text into garbage which then passes."""
    path = save_audio(tmp_path / "corpus/a.wav")
    path.with_suffix(".txt").write_bytes("half past four".encode(encoding))
    data = load_source(tmp_path, FOLDER)
    assert get_issues(data) == [("corpus/a.txt", "data.not_utf8")]
    assert "-f utf-16 " in data.issues[0].hint
