"""What is known of the clips before any weights load."""

import hashlib
import os
import shutil
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.config.data_schema import AudioConfig
from dlm.data.load import LoadedData
from dlm.data.quality_checks import find_repeated_phrase
from dlm.data.types import AudioSegment, Example, Issue, Message
from dlm.data.validate import ValidationReport, validate_examples
from tests.data.sounds import RATE, noise, save, spoken

WORDS = "one two three four"


def looked_at(*clips: Example, **limits) -> ValidationReport:
    asked = {name: limits.pop(name) for name in AudioConfig.model_fields if name in limits}
    given = {"rate": RATE, "window_seconds": 30.0, "audio_config": AudioConfig(**asked)} | limits
    return validate_examples(LoadedData(clips, (), ()), **given)


def remarks(*clips: Example, fatal: bool = False, **limits) -> list[str]:
    """What is said; `fatal` says which kind is expected, and there may be no other."""
    problems = looked_at(*clips, **limits).issues
    assert all(problem.fatal is fatal for problem in problems), problems
    lines = [str(problem) for problem in problems]
    assert not any("\n" in line for line in lines)
    return lines


def test_a_clip_is_measured(tmp_path: Path) -> None:
    wave = np.zeros((RATE, 1), np.float32)
    wave[: RATE // 2] = 0.5
    wave[: RATE // 2 : 2] = -0.5
    path = save(tmp_path / "a.wav", wave, subtype="FLOAT")
    (facts,) = looked_at(spoken(path, WORDS)).example_stats
    assert (facts.location, facts.task) == ("a.wav", "transcribe")
    assert (facts.seconds, facts.num_samples, facts.sample_rate, facts.num_channels) == (
        1.0,
        RATE,
        RATE,
        1,
    )
    assert (facts.peak, facts.silent_fraction, facts.clipped_fraction) == (0.5, 0.5, 0.0)
    assert facts.rms == pytest.approx(0.5 / 2**0.5)
    assert (facts.num_words, facts.words_per_second) == (4, 4.0)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_span_is_measured_alone(tmp_path: Path) -> None:
    wave = np.concatenate([noise(1.0), 4 * noise(1.0)])
    path = save(tmp_path / "a.wav", wave, subtype="FLOAT")
    quiet, loud = looked_at(
        spoken(path, start=0.0, end=1.0), spoken(path, start=1.0, end=2.0)
    ).example_stats
    assert loud.rms == pytest.approx(4 * quiet.rms) and quiet.seconds == loud.seconds == 1.0


def test_several_sounds_of_a_clip_count_together(tmp_path: Path) -> None:
    sounds = [AudioSegment(save(tmp_path / f"{n}.wav", noise(n + 1.0, seed=n))) for n in range(2)]
    turns = (Message("user", (*sounds, "Same voice?")), Message("assistant", ("No.",)))
    (facts,) = looked_at(Example(turns, "my.dlm:3", "answer")).example_stats
    assert (facts.seconds, facts.num_samples, facts.num_words) == (3.0, 3 * RATE, 1)


def test_a_bad_span_leaves_the_others_of_its_recording(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(2.0))
    report = looked_at(spoken(path, start=5.0), spoken(path, start=1.0))
    assert [facts.sha256 for facts in report.example_stats] == [
        hashlib.sha256(path.read_bytes()).hexdigest()
    ]
    assert len(report.fatal_issues) == 1 and report.num_examples == 2


def test_totals(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f"{n}.wav", noise(1.0 + n, rate=rate, seed=n), rate=rate)
        for n, rate in enumerate([RATE, RATE, 8000])
    ]
    text = Example((Message("assistant", ("Prose.",)),), "my.dlm:9", "text")
    asked = Example(
        (Message("user", (AudioSegment(paths[0]), "Who?")), Message("assistant", ("Ann.",))),
        "q",
        "answer",
    )
    report = looked_at(*(spoken(path, WORDS) for path in paths), text, asked, auto_resample=True)
    assert report.issues == report.fatal_issues == ()
    assert report.num_examples == len(report.example_stats) == 5
    assert report.hours == pytest.approx(6 / 3600)  # a sound that two clips share counts once
    assert (report.seconds_min, report.seconds_median, report.seconds_max) == (1.0, 2.0, 3.0)
    assert report.sample_rates == Counter({RATE: 2, 8000: 1})
    assert report.tasks == Counter({"transcribe": 3, "text": 1, "answer": 1})


def test_nothing_at_all() -> None:
    report = looked_at()
    assert (report.num_examples, report.hours, report.seconds_max, report.issues) == (
        0,
        0.0,
        0.0,
        (),
    )


def test_what_gathering_found_comes_first(tmp_path: Path) -> None:
    known = Issue("my.dlm:3", "what", "mend", fatal=True)
    clip = spoken(tmp_path / "gone.wav")
    report = validate_examples(
        LoadedData((clip,), (), (known,)), rate=RATE, window_seconds=30, audio_config=AudioConfig()
    )
    assert report.issues[0] is known and len(report.fatal_issues) == 2


def test_progress_is_told(tmp_path: Path) -> None:
    clips = [spoken(save(tmp_path / f"{n}.wav", noise(seed=n))) for n in range(5)]
    told = []
    looked_at(*clips, clips[0], progress=lambda done, of: told.append((done, of)))
    assert told == [(n, 5) for n in range(1, 6)]


def test_sounds_are_read_at_once_and_in_blocks(tmp_path: Path, monkeypatch) -> None:
    asked, threads = [], set()
    plain = soundfile.SoundFile.read

    def read(self, count, **options):
        asked.append(count)
        threads.add(threading.get_ident())
        return plain(self, count, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    looked_at(*(spoken(save(tmp_path / f"{n}.wav", noise(20.0, seed=n))) for n in range(4)))
    assert max(asked) <= 1 << 16 and threading.get_ident() not in threads


def nan(path: Path) -> None:
    save(path, np.full((RATE, 1), np.nan, np.float32), subtype="FLOAT")


def cut(path: Path) -> None:
    os.truncate(save(path), 5000)


FATAL = {
    "audio not found: a.wav; put the file there": lambda path: None,
    "it holds text, not sound": lambda path: path.write_text("words\n"),
    "it is cut short: its header promises 32000 bytes": cut,
    "the file is empty (0 bytes)": lambda path: path.touch(),
    "it holds no samples": lambda path: save(path, np.zeros((0, 1), np.float32)),
    "samples that are no numbers (NaN or infinite)": nan,
    "it is a directory, not a recording": lambda path: path.mkdir(),
    "it is not a regular file": os.mkfifo,
    "native sample_rate=44100 Hz does not match pinned 16000 Hz": lambda path: save(
        path, rate=44100
    ),
    "native sample_rate=192000 Hz does not match pinned 16000 Hz": lambda path: save(
        path, noise(rate=192000), rate=192000
    ),
    "it lasts 0.090 s; a clip needs at least 0.1 s": lambda path: save(path, noise(0.09)),
}


@pytest.mark.parametrize("what", FATAL)
def test_what_would_stop_training(tmp_path: Path, what: str) -> None:
    FATAL[what](tmp_path / "a.wav")
    (line,) = remarks(spoken(tmp_path / "a.wav"), fatal=True)
    assert line.startswith("a.wav: ") and what in line
    assert line.count("a.wav: ") == 1 and "; " in line


def test_a_problem_has_the_line_and_the_recording(tmp_path: Path) -> None:
    path = save(tmp_path / "cd.wav", rate=44100)
    turns = (
        Message("user", (AudioSegment(path, display_path="clips/cd.wav"),)),
        Message("assistant", (WORDS,)),
    )
    clips = [Example(turns, f"my.dlm:{line}", "transcribe") for line in (12, 14)]
    line = remarks(clips[0], fatal=True)[0]
    assert line.startswith("my.dlm:12: clips/cd.wav: native sample_rate=44100 Hz does not match")
    assert "training.audio.auto_resample: true" in line
    assert (
        len(looked_at(*clips).fatal_issues) == 1
    )  # a sound that two clips share is spoken of once


def test_another_rate_is_fine_when_allowed(tmp_path: Path) -> None:
    clip = spoken(save(tmp_path / "a.wav", noise(rate=44100), rate=44100))
    assert remarks(clip, auto_resample=True) == []


def test_no_resampler_is_said_once(tmp_path: Path, monkeypatch) -> None:
    for library in ("soxr", "scipy", "scipy.signal"):
        monkeypatch.setitem(sys.modules, library, None)
    clips = [
        spoken(save(tmp_path / f"{n}.wav", noise(rate=8000, seed=n), rate=8000)) for n in range(3)
    ]
    (line,) = remarks(*clips, fatal=True, auto_resample=True)
    assert line.startswith("0.wav: AudioResampleUnavailable: requires either soxr or scipy; pip")
    assert remarks(spoken(save(tmp_path / "a.wav")), auto_resample=True) == []


def test_an_empty_transcript(tmp_path: Path) -> None:
    (line,) = remarks(spoken(save(tmp_path / "a.wav"), " \n"), fatal=True)
    assert line == "a.wav: AUDIO section has empty transcript; write what the model should say"


def test_silence(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise() * 0.001)
    (line,) = remarks(spoken(path))
    assert line == ("a.wav: it is silent (below -60 dBFS); record it again or take the clip out")


def test_channels_that_cancel_out(tmp_path: Path) -> None:
    wave = noise()
    path = save(tmp_path / "a.wav", np.concatenate([wave, -wave], axis=1), subtype="FLOAT")
    first, second = remarks(spoken(path))
    assert "its channels cancel out when mixed to mono" in first
    assert "a.wav: its 2 channels are mixed to mono" in second


@pytest.mark.parametrize(("clipped", "count"), [(RATE // 500, 1), (RATE // 2000, 0)])
def test_clipping(tmp_path: Path, clipped: int, count: int) -> None:
    wave = noise()
    wave[:clipped:2], wave[1:clipped:2] = 1.0, -1.0
    lines = remarks(spoken(save(tmp_path / "a.wav", wave)))
    assert len(lines) == count
    if count:
        assert "a.wav: 0.2% of its samples are clipped at full scale; record" in lines[0]


def test_an_offset(tmp_path: Path) -> None:
    (line,) = remarks(spoken(save(tmp_path / "a.wav", noise() - 0.1)))
    assert "a.wav: it is off centre by 10.0% of full scale (DC offset); filter it" in line


def test_stereo_is_noted(tmp_path: Path) -> None:
    (line,) = remarks(spoken(save(tmp_path / "a.wav", noise(channels=8))))
    assert "a.wav: its 8 channels are mixed to mono; nothing to do" in line


def test_longer_than_the_window(tmp_path: Path) -> None:
    clips = [spoken(save(tmp_path / f"{n}.wav", noise(n + 1.0, seed=n)), WORDS) for n in range(4)]
    *each, total = remarks(*clips, window_seconds=2.0)
    assert len(each) == 2
    assert "2.wav: it lasts 3.0 s and is heard in windows of 2 s; nothing to do, or give" in each[0]
    whole = "training.audio.long_clips: 2 clips are longer than 2 s and are heard in windows; "
    assert total.startswith(whole)
    assert remarks(*clips, window_seconds=4.0) == []


def test_longer_than_the_window_and_cut_off(tmp_path: Path) -> None:
    clips = [spoken(save(tmp_path / f"{n}.wav", noise(n + 1.0, seed=n)), WORDS) for n in range(4)]
    *each, total = remarks(*clips, window_seconds=2.0, long_clips="truncate")
    assert len(each) == 2
    assert "3.wav: it lasts 4.0 s; what comes after 2 s is left out; give spans" in each[1]
    assert "2 clips are longer than 2 s and lose 3.0 s of sound; " in total
    one = remarks(clips[2], window_seconds=2.0, long_clips="truncate")[-1]
    assert "1 clip is longer than 2 s and loses 1.0 s of sound; " in one


def test_longer_than_the_window_and_refused(tmp_path: Path) -> None:
    clips = [spoken(save(tmp_path / f"{n}.wav", noise(n + 1.0, seed=n)), WORDS) for n in range(4)]
    lines = remarks(*clips, window_seconds=2.0, long_clips="error", fatal=True)
    assert len(lines) == 2
    assert "2.wav: it lasts 3.0 s, and the base hears 2 s at once; give spans" in lines[0]
    assert "set training.audio.long_clips: split" in lines[0]


def test_the_same_file_twice(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav")
    shutil.copy(path, tmp_path / "b.wav")
    save(tmp_path / "c.flac", soundfile.read(path, dtype="float32")[0][:, None])
    clips = [spoken(tmp_path / name, WORDS) for name in ("a.wav", "b.wav", "c.flac")]
    assert remarks(*clips) == [
        "b.wav: it repeats a.wav; take one of them out",
        "c.flac: it repeats a.wav; take one of them out",
    ]


def test_the_same_sound_with_another_transcript(tmp_path: Path) -> None:
    shutil.copy(save(tmp_path / "a.wav"), tmp_path / "b.wav")
    (line,) = remarks(spoken(tmp_path / "a.wav", "one two"), spoken(tmp_path / "b.wav", "one too"))
    assert line == (
        "b.wav: it is the same sound as a.wav with another transcript; keep the one that is right"
    )


def test_other_questions_and_spans_of_a_recording_are_no_copies(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(2.0))
    asked = [
        Example(
            (Message("user", (AudioSegment(path), text)), Message("assistant", ("Ann.",))),
            text,
            "answer",
        )
        for text in ("Who?", "Which name?")
    ]
    spans = [spoken(path, start=0.0, end=1.0), spoken(path, start=1.0, end=2.0)]
    assert remarks(spoken(path), *asked, *spans) == []


@pytest.mark.parametrize(
    ("text", "seconds", "what"),
    [
        ("word " * 21, 3.0, "7.0 words per second: too much text for 3.0 s of speech"),
        ("word", 4.0, "0.2 words per second: too little text for 4.0 s of speech"),
        ("one two three", 3.0, None),
        ("just one two words and many more in no time at all", 1.5, None),
        ("今天天气很好我们去公园散步吧", 3.0, None),
    ],
)
def test_words_per_second(tmp_path: Path, text: str, seconds: float, what: str | None) -> None:
    path = save(tmp_path / "a.wav", noise(seconds))
    varied = " ".join(f"{word}{n}" for n, word in enumerate(text.split()))
    lines = remarks(spoken(path, varied))
    assert len(lines) == (what is not None)
    if what:
        assert f"a.wav: {what}; check that transcript and sound belong together" in lines[0]


def test_pace_is_for_transcripts(tmp_path: Path) -> None:
    turns = (Message("user", (AudioSegment(save(tmp_path / "a.wav", noise(9.0))), "Who?")),)
    assert remarks(Example((*turns, Message("assistant", ("Ann.",))), "q", "answer")) == []


@pytest.mark.parametrize("odd", ["\0", "\x07", "\x1b", "\x85"])
def test_control_characters(tmp_path: Path, odd: str) -> None:
    (line,) = remarks(spoken(save(tmp_path / "a.wav"), f"one{odd} two"))
    assert f"a.wav: its text holds a control character ({odd!r}); take the character out" in line
    assert remarks(spoken(save(tmp_path / "a.wav"), "one\n\ttwo\r\n")) == []


def test_repeated_text(tmp_path: Path) -> None:
    loop = "So thank you. " + "Thank you. " * 4
    (line,) = remarks(spoken(save(tmp_path / "a.wav", noise(1.9)), loop))
    assert 'a.wav: its text repeats itself ("thank you."); check it against the sound' in line


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("no " * 8, "no"),
        ("no " * 7, None),
        ("he said " * 4, "he said"),
        ("see you next week " * 3, "see you next week"),
        ("see you next week " * 2, None),
        ("one two three four five six seven eight nine", None),
        ("", None),
    ],
)
def test_what_counts_as_repeated(text: str, phrase: str | None) -> None:
    assert find_repeated_phrase(text) == phrase
