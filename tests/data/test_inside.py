"""A recording in an archive is heard as the file it was, and one that is not whole is refused."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from dlm.data.audio_io import hash_recording, load_audio, read_audio_info
from dlm.data.audio_scan import compute_audio_stats
from dlm.data.types import AudioSegment
from dlm.errors import DataError
from tests.data.sounds import RATE, noise, save

BEFORE, AFTER = b"x" * 777, b"y" * 5000
EACH = pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".au"])


def packed(folder: Path, content: bytes) -> AudioSegment:
    """The bytes of a recording between others."""
    archive = folder / "all.tar"
    archive.write_bytes(BEFORE + content + AFTER)
    return AudioSegment(archive, byte_range=(len(BEFORE), len(content)), display_path="all.tar/a")


def refusal(sound: AudioSegment) -> str:
    with pytest.raises(DataError) as caught:
        load_audio(sound, sample_rate=RATE, resample=False)
    line = str(caught.value)
    assert "\n" not in line and caught.value.hint
    return line


@EACH
def test_it_is_heard_as_the_file_it_was(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", noise(3.0))
    whole, sound = AudioSegment(path), packed(tmp_path, path.read_bytes())
    assert read_audio_info(*sound.recording_key) == read_audio_info(path)
    assert hash_recording(sound) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert compute_audio_stats(sound) == compute_audio_stats(whole)
    for start, end in ((None, None), (1.25, 2.0), (2.5, None)):
        span = AudioSegment(sound.path, start, end, byte_range=sound.byte_range)
        heard = load_audio(span, sample_rate=RATE, resample=False)
        wanted = load_audio(AudioSegment(path, start, end), sample_rate=RATE, resample=False)
        np.testing.assert_allclose(heard, wanted, atol=1e-6)


def test_two_in_one_archive_are_two(tmp_path: Path) -> None:
    first, second = (save(tmp_path / f"{seed}.wav", noise(seed=seed)) for seed in (1, 2))
    archive = tmp_path / "two.tar"
    archive.write_bytes(first.read_bytes() + second.read_bytes())
    size = first.stat().st_size
    sounds = [AudioSegment(archive, byte_range=(at, size)) for at in (0, size)]
    assert len(set(sounds)) == 2 and hash_recording(sounds[0]) != hash_recording(sounds[1])
    for sound, path in zip(sounds, (first, second), strict=True):
        heard = load_audio(sound, sample_rate=RATE, resample=False)
        np.testing.assert_array_equal(
            heard, load_audio(AudioSegment(path), sample_rate=RATE, resample=False)
        )


def test_a_span_does_not_read_the_rest(tmp_path: Path) -> None:
    """What lies around the span would be refused if it were read."""
    wave = noise(60.0)
    wave[: 30 * RATE] = wave[31 * RATE :] = np.nan
    sound = packed(tmp_path, save(tmp_path / "a.wav", wave, subtype="FLOAT").read_bytes())
    assert "no numbers" in refusal(sound)
    heard = load_audio(
        AudioSegment(sound.path, 30.0, 31.0, byte_range=sound.byte_range),
        sample_rate=RATE,
        resample=False,
    )
    np.testing.assert_array_equal(heard, wave[30 * RATE : 31 * RATE, 0])


def test_an_archive_cut_short(tmp_path: Path) -> None:
    sound = packed(tmp_path, save(tmp_path / "a.wav").read_bytes())
    os.truncate(sound.path, 20000)
    line = refusal(sound)
    assert line.startswith("all.tar/a: its bytes 777 to 32821 lie outside all.tar, which has 20000")
    assert "copy the archive again" in line
    with pytest.raises(DataError, match="lie outside all.tar"):
        hash_recording(sound)


@pytest.mark.parametrize("inside", [(-1, 10), (0, -5), (10**18, 10), (5777, 1)])
def test_a_place_that_cannot_be(tmp_path: Path, inside: tuple[int, int]) -> None:
    sound = packed(tmp_path, b"")
    assert "lie outside all.tar" in refusal(
        AudioSegment(sound.path, byte_range=inside, display_path="a")
    )


def test_what_lies_there_is_looked_at_as_in_a_file(tmp_path: Path) -> None:
    assert "all.tar/a: it is empty (0 bytes); record it again" in refusal(packed(tmp_path, b""))
    assert "it holds text, not sound" in refusal(packed(tmp_path, b"Hello there."))
    line = refusal(packed(tmp_path, bytes(range(256))))
    assert "it is not sound that can be decoded" in line and "into all.tar, or leave" in line
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    assert "git lfs pull" in refusal(packed(tmp_path, pointer))
    wav = save(tmp_path / "a.wav").read_bytes()
    line = refusal(packed(tmp_path, wav[:20000]))
    assert "its header promises 32000 bytes of sound, the file holds 19956" in line


def test_a_missing_archive_is_named_as_written(tmp_path: Path) -> None:
    sound = AudioSegment(tmp_path / "gone.tar", byte_range=(0, 10), display_path="gone.tar/a.wav")
    assert refusal(sound).startswith("audio not found: gone.tar/a.wav; put the file there")
