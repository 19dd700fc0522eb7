"""How sounds are looked at: all of them decoded, or a sample of a great many."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from dlm.config.data_schema import AudioConfig
from dlm.data.audio_scan import MAX_FULL_SCAN_SEGMENTS, fingerprint_recording
from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment, Example, Message
from dlm.data.validate import ValidationReport, validate_examples
from dlm.errors import DataError
from tests.data.sounds import RATE, noise, save, spoken

MORE = MAX_FULL_SCAN_SEGMENTS + 50


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """More clips than are all decoded, each a span of one recording."""
    path = save(tmp_path_factory.mktemp("long") / "a.wav", noise(0.1 * (MORE + 1)))
    return [spoken(path, f"clip number {n}", start=n / 10, end=n / 10 + 0.1) for n in range(MORE)]


def looked_at(clips: list[Example], **how: bool) -> ValidationReport:
    given = {"rate": RATE, "window_seconds": 30.0, "audio_config": AudioConfig()}
    return validate_examples(LoadedData(tuple(clips), (), ()), **given, **how)


def test_of_many_sounds_a_sample_is_heard_and_the_headers_of_all(spans: list[Example]) -> None:
    report = looked_at(spans)
    facts = list(report.example_stats)
    assert (report.num_examples, report.num_segments, report.num_decoded) == (
        MORE,
        MORE,
        MAX_FULL_SCAN_SEGMENTS,
    )
    assert {each.seconds for each in facts} == {0.1} and {each.sample_rate for each in facts} == {
        RATE
    }
    heard = [each for each in facts if each.peak is not None]
    assert len(heard) == MAX_FULL_SCAN_SEGMENTS
    assert all(each.rms is None and not each.content_sha256 for each in facts if each.peak is None)
    assert {each.sha256 for each in facts} == {""}  # nothing is hashed where there are so many
    assert [each.peak for each in looked_at(spans).example_stats] == [each.peak for each in facts]
    assert (
        sum(report.lengths.counts) == MORE and sum(report.levels.counts) == MAX_FULL_SCAN_SEGMENTS
    )


def test_all_are_heard_where_that_is_asked(spans: list[Example]) -> None:
    report = looked_at(spans, full_scan=True)
    assert report.num_decoded == MORE
    path = spans[0].audio_segments[0].path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert {each.sha256 for each in report.example_stats} == {digest}


def test_headers_tell_what_is_missing_and_cut(spans: list[Example], tmp_path: Path) -> None:
    cut = save(tmp_path / "cut.wav")
    os.truncate(cut, 5000)
    bad = [
        spoken(tmp_path / "gone.wav"),
        spoken(cut),
        spoken(spans[0].audio_segments[0].path, start=1e6),
    ]
    report = looked_at([*spans, *bad])
    told = [str(problem) for problem in report.fatal_issues]
    assert len(told) == 3
    assert "audio not found: gone.wav" in told[0] and "it is cut short" in told[1]
    assert "lies outside the recording" in told[2]
    assert len(report.example_stats) == MORE


def test_sounds_in_one_archive_are_told_apart(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.wav", noise(seed=n)).read_bytes() for n in range(2)]
    archive = tmp_path / "clips.bin"
    archive.write_bytes(b"".join(files))
    starts = [0, len(files[0])]
    clips = [
        Example(
            (
                Message(
                    "user",
                    (AudioSegment(archive, byte_range=(start, len(file)), display_path=f"{n}"),),
                ),
                Message("assistant", (f"words of {n}",)),
            ),
            f"clips.bin:{n}",
            "transcribe",
        )
        for n, (start, file) in enumerate(zip(starts, files, strict=True))
    ]
    report = looked_at(clips)
    assert not report.issues
    assert [each.sha256 for each in report.example_stats] == [
        hashlib.sha256(file).hexdigest() for file in files
    ]


def test_an_identity_follows_size_time_and_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    whole = np.random.default_rng(0).bytes(300_000)
    path.write_bytes(whole)
    os.utime(path, (1, 1))
    known = fingerprint_recording(AudioSegment(path))
    assert fingerprint_recording(AudioSegment(path)) == known
    for changed in (b"x" + whole[1:], whole[:-1] + b"x", whole + b"x"):
        path.write_bytes(changed)
        os.utime(path, (1, 1))
        assert fingerprint_recording(AudioSegment(path)) != known
    path.write_bytes(whole)
    os.utime(path, (2, 2))
    assert fingerprint_recording(AudioSegment(path)) != known
    assert (
        len(
            {
                fingerprint_recording(AudioSegment(path, byte_range=(start, 1000)))
                for start in (0, 1000)
            }
        )
        == 2
    )
    with pytest.raises(DataError, match="audio not found"):
        fingerprint_recording(AudioSegment(tmp_path / "gone"))
