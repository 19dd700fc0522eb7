"""A recording in an archive is decoded as the file it was; one outside its archive is refused."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from dlm.data.audio_io import hash_recording, load_audio, read_audio_info
from dlm.data.audio_scan import compute_audio_stats
from dlm.data.types import AudioSegment
from dlm.errors import AudioError
from tests.data.recordings import RATE, make_noise, save_audio

BYTES_BEFORE, BYTES_AFTER = b"x" * 777, b"y" * 5000


def write_archive(folder: Path, content: bytes) -> AudioSegment:
    """A recording between other bytes."""
    archive = folder / "all.tar"
    archive.write_bytes(BYTES_BEFORE + content + BYTES_AFTER)
    byte_range = (len(BYTES_BEFORE), len(content))
    return AudioSegment(archive, byte_range=byte_range, display_path="all.tar/a")


def load(segment: AudioSegment) -> np.ndarray:
    return load_audio(segment, sample_rate=RATE, resample=False)


def load_error(segment: AudioSegment) -> AudioError:
    with pytest.raises(AudioError) as caught:
        load(segment)
    assert "\n" not in str(caught.value) and caught.value.hint
    return caught.value


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".au"])
def test_it_is_decoded_as_the_file_it_was(tmp_path: Path, suffix: str) -> None:
    path = save_audio(tmp_path / f"a{suffix}", make_noise(3.0))
    segment = write_archive(tmp_path, path.read_bytes())
    assert read_audio_info(*segment.recording_key) == read_audio_info(path)
    assert hash_recording(segment) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert compute_audio_stats(segment) == compute_audio_stats(AudioSegment(path))
    for start, end in ((None, None), (1.25, 2.0), (2.5, None)):
        span = AudioSegment(segment.path, start, end, byte_range=segment.byte_range)
        np.testing.assert_allclose(load(span), load(AudioSegment(path, start, end)), atol=1e-6)


def test_recordings_of_one_archive_are_different(tmp_path: Path) -> None:
    paths = [save_audio(tmp_path / f"{seed}.wav", make_noise(seed=seed)) for seed in (1, 2)]
    archive = tmp_path / "two.tar"
    archive.write_bytes(b"".join(path.read_bytes() for path in paths))
    num_bytes = paths[0].stat().st_size
    segments = [AudioSegment(archive, byte_range=(start, num_bytes)) for start in (0, num_bytes)]
    assert len({*segments, *map(hash_recording, segments)}) == 4
    for segment, path in zip(segments, paths, strict=True):
        np.testing.assert_array_equal(load(segment), load(AudioSegment(path)))


def test_only_the_span_is_decoded(tmp_path: Path) -> None:
    """What lies around it would be refused."""
    wave = make_noise(60.0)
    wave[: 30 * RATE] = wave[31 * RATE :] = np.nan
    content = save_audio(tmp_path / "a.wav", wave, subtype="FLOAT").read_bytes()
    segment = write_archive(tmp_path, content)
    assert load_error(segment).code == "audio.not_finite"
    span = AudioSegment(segment.path, 30.0, 31.0, byte_range=segment.byte_range)
    np.testing.assert_array_equal(load(span), wave[30 * RATE : 31 * RATE, 0])


def test_an_archive_cut_short_is_refused(tmp_path: Path) -> None:
    segment = write_archive(tmp_path, save_audio(tmp_path / "a.wav").read_bytes())
    os.truncate(segment.path, 20000)
    error = load_error(segment)
    assert error.code == "audio.outside_archive" and "copy the archive again" in error.hint
    assert str(error).startswith(
        "all.tar/a: its bytes 777 to 32821 lie outside all.tar, which has 20000"
    )
    with pytest.raises(AudioError, match=r"lie outside all\.tar"):
        hash_recording(segment)


@pytest.mark.parametrize("byte_range", [(-1, 10), (0, -5), (10**18, 10), (5777, 1)])
def test_an_impossible_byte_range_is_refused(tmp_path: Path, byte_range: tuple[int, int]) -> None:
    archive = write_archive(tmp_path, b"").path
    segment = AudioSegment(archive, byte_range=byte_range, display_path="a")
    assert load_error(segment).code == "audio.outside_archive"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "audio.empty"),
        (b"Hello there.", "audio.not_audio"),
        (bytes(range(256)), "audio.not_audio"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "audio.lfs_pointer"),
    ],
)
def test_its_content_is_checked_as_that_of_a_file(
    tmp_path: Path, content: bytes, code: str
) -> None:
    assert load_error(write_archive(tmp_path, content)).code == code


def test_hints_and_sizes_are_those_of_the_recording(tmp_path: Path) -> None:
    assert "into all.tar, or leave" in load_error(write_archive(tmp_path, bytes(range(256)))).hint
    content = save_audio(tmp_path / "a.wav").read_bytes()
    error = load_error(write_archive(tmp_path, content[:20000]))
    assert error.code == "audio.truncated"
    assert "its header promises 32000 bytes of audio, the file holds 19956" in error.what


def test_a_missing_archive_is_named_as_written(tmp_path: Path) -> None:
    archive = tmp_path / "gone.tar"
    error = load_error(AudioSegment(archive, byte_range=(0, 10), display_path="gone.tar/a.wav"))
    assert error.code == "audio.not_found" and "gone.tar/a.wav" in str(error)
