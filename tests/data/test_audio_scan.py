"""The scan: all audio decoded, or a sample of very many segments; hashes and fingerprints."""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.audio_scan import MAX_FULL_SCAN_SEGMENTS, fingerprint_recording
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import AudioError
from tests.data.recordings import RATE, make_audio_example, make_noise, save_audio
from tests.data.validation import list_issues, validate

NUM_SPANS = MAX_FULL_SCAN_SEGMENTS + 50


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """More spans of one recording than are all decoded."""
    path = save_audio(tmp_path_factory.mktemp("long") / "a.wav", make_noise(0.1 * (NUM_SPANS + 1)))
    return [
        make_audio_example(path, f"clip number {n}", start=n / 10, end=n / 10 + 0.1)
        for n in range(NUM_SPANS)
    ]


def test_of_very_many_segments_a_sample_is_decoded_and_all_headers_are_read(
    spans: list[Example],
) -> None:
    report = validate(*spans)
    stats = list(report.example_stats)
    assert (report.num_examples, report.num_segments) == (NUM_SPANS, NUM_SPANS)
    assert {each.seconds for each in stats} == {0.1}
    assert {each.sample_rate for each in stats} == {RATE}
    decoded = [each for each in stats if each.peak is not None]
    assert len(decoded) == report.num_decoded == MAX_FULL_SCAN_SEGMENTS
    assert all(each.rms is None and not each.content_sha256 for each in stats if each.peak is None)
    assert {each.sha256 for each in stats} == {""}, "nothing is hashed where there are so many"
    assert sum(report.lengths.counts) == NUM_SPANS
    assert sum(report.levels.counts) == MAX_FULL_SCAN_SEGMENTS
    again = validate(*spans).example_stats
    assert [each.peak for each in again] == [each.peak for each in stats]


def test_a_full_scan_decodes_all(spans: list[Example]) -> None:
    report = validate(*spans, full_scan=True)
    assert report.num_decoded == NUM_SPANS
    content = spans[0].audio_segments[0].path.read_bytes()
    assert {each.sha256 for each in report.example_stats} == {hashlib.sha256(content).hexdigest()}


def test_headers_show_what_is_missing_and_truncated(spans: list[Example], tmp_path: Path) -> None:
    truncated = save_audio(tmp_path / "truncated.wav")
    os.truncate(truncated, 5000)
    outside = make_audio_example(spans[0].audio_segments[0].path, start=1e6)
    report = validate(
        *spans, make_audio_example(tmp_path / "gone.wav"), make_audio_example(truncated), outside
    )
    codes = [issue.code for issue in report.fatal_issues]
    assert codes == ["audio.not_found", "audio.truncated", "audio.span_outside"]
    assert len(report.example_stats) == NUM_SPANS


def test_recordings_in_one_archive_are_different(tmp_path: Path) -> None:
    files = [save_audio(tmp_path / f"{n}.wav", make_noise(seed=n)).read_bytes() for n in range(2)]
    archive = tmp_path / "clips.bin"
    archive.write_bytes(b"".join(files))
    examples = []
    for n, (start, file) in enumerate(zip((0, len(files[0])), files, strict=True)):
        segment = AudioSegment(archive, byte_range=(start, len(file)), display_path=f"{n}")
        messages = Message("user", (segment,)), Message("assistant", (f"words of {n}",))
        examples.append(Example(messages, f"clips.bin:{n}", "transcribe"))
    assert list_issues(*examples) == []
    hashes = [each.sha256 for each in validate(*examples).example_stats]
    assert hashes == [hashlib.sha256(file).hexdigest() for file in files]


def test_a_recording_whose_first_span_is_bad_is_hashed(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(2.0))
    report = validate(make_audio_example(path, start=5.0), make_audio_example(path, start=1.0))
    expected = [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert [each.sha256 for each in report.example_stats] == expected


def test_progress_is_reported_for_each_segment(tmp_path: Path) -> None:
    examples = [
        make_audio_example(save_audio(tmp_path / f"{n}.wav", make_noise(seed=n))) for n in range(5)
    ]
    calls = []
    validate(*examples, examples[0], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]


def test_segments_are_read_in_threads_and_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block_sizes, threads = [], set()
    read_block = soundfile.SoundFile.read

    def read(file: soundfile.SoundFile, count: int, **options: object) -> np.ndarray:
        block_sizes.append(count)
        threads.add(threading.get_ident())
        return read_block(file, count, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    validate(
        *(
            make_audio_example(save_audio(tmp_path / f"{n}.wav", make_noise(20.0, seed=n)))
            for n in range(4)
        )
    )
    assert max(block_sizes) <= 1 << 16 and threading.get_ident() not in threads


def test_a_fingerprint_follows_size_time_and_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    content = np.random.default_rng(0).bytes(300_000)

    def fingerprint(content: bytes, mtime_seconds: int = 1) -> str:
        path.write_bytes(content)
        os.utime(path, (mtime_seconds, mtime_seconds))
        return fingerprint_recording(AudioSegment(path))

    first = fingerprint(content)
    assert fingerprint(content) == first and fingerprint(content, 2) != first
    changed = [b"x" + content[1:], content[:-1] + b"x", content + b"x"]
    assert first not in map(fingerprint, changed)
    parts = [AudioSegment(path, byte_range=(start, 1000)) for start in (0, 1000)]
    assert len(set(map(fingerprint_recording, parts))) == 2
    with pytest.raises(AudioError) as caught:
        fingerprint_recording(AudioSegment(tmp_path / "gone"))
    assert caught.value.code == "audio.not_found"
