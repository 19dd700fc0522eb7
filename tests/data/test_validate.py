"""Validation: what stops training, where it is reported, and that a segment is reported once."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from dlm.config.data_schema import AudioConfig
from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment, Example, Issue, Message
from dlm.data.validate import validate_examples
from tests.data.recordings import RATE, make_audio_example, make_noise, save_audio
from tests.data.validation import list_codes, list_issues, validate

TRANSCRIPT = "one two three four"


def save_truncated(path: Path) -> None:
    os.truncate(save_audio(path), 5000)


def save_not_finite(path: Path) -> None:
    save_audio(path, np.full((RATE, 1), np.nan, np.float32), subtype="FLOAT")


FATAL = {
    "audio.not_found": lambda path: None,
    "audio.not_audio": lambda path: path.write_text("words\n"),
    "audio.truncated": save_truncated,
    "audio.empty": lambda path: path.touch(),
    "audio.not_finite": save_not_finite,
    "audio.not_a_file": lambda path: path.mkdir(),
    "audio.sample_rate_mismatch": lambda path: save_audio(path, rate=44100),
    "audio.too_short": lambda path: save_audio(path, make_noise(0.09)),
}


@pytest.mark.parametrize("code", FATAL)
def test_audio_that_cannot_be_trained_on_is_fatal(tmp_path: Path, code: str) -> None:
    FATAL[code](tmp_path / "a.wav")
    (issue,) = list_issues(make_audio_example(tmp_path / "a.wav"), fatal=True)
    assert (issue.where, issue.code) == ("a.wav", code)
    assert str(issue).startswith("a.wav: ") and str(issue).count("a.wav: ") == 1


def test_an_issue_names_the_line_and_the_recording_once(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "cd.wav", rate=44100)
    messages = (
        Message("user", (AudioSegment(path, display_path="clips/cd.wav"),)),
        Message("assistant", (TRANSCRIPT,)),
    )
    examples = [Example(messages, f"my.dlm:{line}", "transcribe") for line in (12, 14)]
    (issue,) = list_issues(examples[0], fatal=True)
    assert str(issue).startswith(
        "my.dlm:12: clips/cd.wav: native sample_rate=44100 Hz does not match"
    )
    assert "training.audio.auto_resample: true" in issue.hint
    assert [issue.where for issue in validate(*examples).fatal_issues] == ["my.dlm:12"]


def test_another_rate_is_no_issue_with_auto_resample(tmp_path: Path) -> None:
    example = make_audio_example(save_audio(tmp_path / "a.wav", make_noise(rate=44100), rate=44100))
    assert list_issues(example, auto_resample=True) == []


def test_a_missing_resampler_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("soxr", "scipy", "scipy.signal"):
        monkeypatch.setitem(sys.modules, library, None)
    examples = [
        make_audio_example(
            save_audio(tmp_path / f"{n}.wav", make_noise(rate=8000, seed=n), rate=8000)
        )
        for n in range(3)
    ]
    codes = list_codes(*examples, fatal=True, auto_resample=True)
    assert codes == [("0.wav", "audio.no_resampler")]
    assert list_issues(make_audio_example(save_audio(tmp_path / "a.wav")), auto_resample=True) == []


def test_an_empty_transcript_is_fatal(tmp_path: Path) -> None:
    (issue,) = list_issues(make_audio_example(save_audio(tmp_path / "a.wav"), " \n"), fatal=True)
    assert issue.code == "data.empty_transcript"
    assert str(issue) == (
        "a.wav: AUDIO section has empty transcript; write what the model should answer"
    )


def test_a_bad_span_leaves_the_other_spans_of_its_recording(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(2.0))
    report = validate(make_audio_example(path, start=5.0), make_audio_example(path, start=1.0))
    assert [issue.code for issue in report.issues] == ["audio.span_outside"]
    assert [stats.seconds for stats in report.example_stats] == [1.0] and report.num_examples == 2


def test_issues_of_loading_come_first(tmp_path: Path) -> None:
    known = Issue("my.dlm:3", "what", "hint", fatal=True, code="data.test")
    report = validate_examples(
        LoadedData((make_audio_example(tmp_path / "gone.wav"),), (), (known,)),
        sample_rate=RATE,
        window_seconds=30,
        audio_config=AudioConfig(),
    )
    assert report.issues[0] is known and len(report.fatal_issues) == 2


def save_lengths(folder: Path, *seconds: float) -> list[Example]:
    return [
        make_audio_example(save_audio(folder / f"{n}.wav", make_noise(length, seed=n)), TRANSCRIPT)
        for n, length in enumerate(seconds)
    ]


@pytest.mark.parametrize(
    ("policy", "each", "summary"),
    [
        (
            "split",
            "it lasts 3.0 s and is encoded in windows of 2 s; nothing to do, or give",
            "2 clips are longer than 2 s and are encoded in windows; ",
        ),
        (
            "truncate",
            "it lasts 3.0 s; what comes after 2 s is left out; give spans",
            "2 clips are longer than 2 s and lose 3.0 s of audio; ",
        ),
    ],
)
def test_audio_longer_than_the_window_is_reported_and_summed_up(
    tmp_path: Path, policy: str, each: str, summary: str
) -> None:
    examples = save_lengths(tmp_path, 1, 2, 3, 4)
    first, second, total = list_issues(*examples, window_seconds=2.0, long_clips=policy)
    assert {issue.code for issue in (first, second, total)} == {"audio.too_long"}
    assert str(first).startswith(f"2.wav: {each}") and second.where == "3.wav"
    assert str(total).startswith(f"training.audio.long_clips: {summary}")
    assert list_issues(*examples, window_seconds=4.0, long_clips=policy) == []
    (_, total) = list_issues(examples[2], window_seconds=2.0, long_clips="truncate")
    assert "1 clip is longer than 2 s and loses 1.0 s of audio" in total.what


def test_audio_longer_than_the_window_is_fatal_where_that_is_an_error(tmp_path: Path) -> None:
    examples = save_lengths(tmp_path, 1, 2, 3, 4)
    first, second = list_issues(*examples, window_seconds=2.0, long_clips="error", fatal=True)
    assert first.code == second.code == "audio.too_long"
    assert str(first).startswith("2.wav: it lasts 3.0 s, and the model takes 2 s at once; give")
    assert "set training.audio.long_clips: split" in first.hint


@pytest.mark.parametrize(
    ("ends", "codes"),
    [
        ([2.005], []),
        ([2.04, 2.3], ["audio.span_cut"]),
        ([2.49], ["audio.span_cut"]),
        ([2.6], ["audio.span_outside"]),
    ],
)
def test_a_segment_that_ends_a_little_late_is_cut_and_counted(
    tmp_path: Path, ends: list[float], codes: list[str]
) -> None:
    """An end beyond the recording: by rounding, by the padding of a codec, and by mistake."""
    path = save_audio(tmp_path / "a.wav", make_noise(2.0))
    report = validate(*(make_audio_example(path, start=1.0, end=end) for end in ends))
    assert [issue.code for issue in report.issues if issue.code.startswith("audio.span")] == codes
    if codes == ["audio.span_cut"]:
        assert [stats.seconds for stats in report.example_stats] == [1.0] * len(ends)
        (issue,) = (issue for issue in report.issues if issue.code == "audio.span_cut")
        assert not issue.fatal and issue.what.startswith(f"{len(ends)} clip")
