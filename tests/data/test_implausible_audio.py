"""Recordings that lie about themselves: each ends in one line, soon, and in little memory."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.audio_io import MAX_LOADED_SAMPLES, load_audio, read_audio_info
from dlm.data.audio_scan import compute_audio_stats
from dlm.data.types import AudioSegment
from dlm.errors import DataError
from tests.data.sounds import RATE, noise, save, save_container

HOURS = 3 * 3600 * RATE  # samples
SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".au", ".caf"]


def refusal(path: Path) -> str:
    """What is said of it, whoever asks, without much memory."""
    lines = set()
    tracemalloc.start()
    for ask in (
        compute_audio_stats,
        lambda sound: load_audio(sound, sample_rate=RATE, resample=False),
    ):
        with pytest.raises(DataError) as caught:
            ask(AudioSegment(path, display_path=path.name))
        lines.add(str(caught.value))
        assert caught.value.hint
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6
    (line,) = lines
    assert "\n" not in line and path.name in line
    return line


def promising(path: Path, samples: int) -> Path:
    """A second of sound whose header tells of so many samples."""
    content = bytearray(save(path, noise(1.0)).read_bytes())
    if path.suffix == ".wav":
        content[40:44] = (2 * samples).to_bytes(4, "little")
    elif path.suffix == ".flac":
        content[21:26] = (content[21] & 0xF0 | samples >> 32, *(samples & 0xFFFFFFFF).to_bytes(4))
    elif path.suffix == ".aiff":
        at = content.index(b"SSND") + 4
        content[at : at + 4] = (2 * samples + 8).to_bytes(4)
    else:
        at = max(content.find(b"Xing"), content.find(b"Info")) + 8
        content[at : at + 4] = (samples // 576).to_bytes(4)
    path.write_bytes(content)
    return path


def test_three_hours_promised_in_a_second(tmp_path: Path) -> None:
    for suffix in (".wav", ".aiff"):
        line = refusal(promising(tmp_path / f"a{suffix}", HOURS))
        assert "it is cut short: its header promises 345600" in line
    for suffix in (".flac", ".mp3"):
        line = refusal(promising(tmp_path / f"a{suffix}", HOURS))
        assert "it promises 3.0 hours of sound in" in line and "which cannot be" in line


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_minutes_promised_in_a_second(tmp_path: Path, suffix: str) -> None:
    """Not so much that it cannot be, but it is not there."""
    line = refusal(promising(tmp_path / f"a{suffix}", 60 * RATE))
    assert "cut short" in line and "copy it again" in line


def test_a_tiny_file_that_promises_days(tmp_path: Path) -> None:
    path = promising(tmp_path / "a.flac", 0xFFFFFFFF)
    assert "it promises 74.6 hours of sound in" in refusal(path)
    assert "74.6 hours" in refusal(promising(path, 0xFFFFFFFF))


def test_silence_that_is_packed_small_is_heard(tmp_path: Path) -> None:
    path = save(tmp_path / "a.flac", np.zeros((60 * RATE, 1), np.float32))
    assert path.stat().st_size < read_audio_info(path).num_samples / 200
    assert len(load_audio(AudioSegment(path), sample_rate=RATE, resample=False)) == 60 * RATE


def test_days_that_are_there_are_not_held_at_once(tmp_path: Path) -> None:
    """A wav of nine hours and more takes no room on a disk that leaves out what is empty."""
    path = save(tmp_path / "long.wav")
    samples = MAX_LOADED_SAMPLES + 1
    content = bytearray(path.read_bytes()[:44])
    content[40:44] = (2 * samples).to_bytes(4, "little")
    path.write_bytes(content)
    os.truncate(path, 44 + 2 * samples)
    with pytest.raises(DataError, match="it lasts 9.3 hours, too long to be heard whole; cut it"):
        load_audio(AudioSegment(path), sample_rate=RATE, resample=False)
    part = load_audio(AudioSegment(path, 30000.0, 30000.5), sample_rate=RATE, resample=False)
    assert len(part) == RATE // 2 and not part.any()


def test_links_in_a_ring(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    assert refusal(tmp_path / "a.wav").startswith("a.wav: it cannot be read (too many levels of")


@given(
    junk=st.binary(max_size=600),
    suffix=st.sampled_from([*SUFFIXES, ".m4a", ".webm", ".aac", ".amr", ".ts"]),
)
@settings(max_examples=200)
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, junk, suffix) -> None:
    path = tmp_path_factory.getbasetemp() / f"junk{suffix}"
    path.write_bytes(junk)
    heard_or_refused(path)


HEADS = {"mov": b"\0\0\0\x18ftyp", "amr": b"#!AMR\n", "webm": b"\x1aE\xdf\xa3", "aac": b"\xff\xf1"}


@given(junk=st.binary(max_size=300), head=st.sampled_from(sorted(HEADS.values())))
@settings(max_examples=100)
def test_any_bytes_in_a_container_are_refused(tmp_path_factory, junk, head) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.bin"
    path.write_bytes(head + junk)
    heard_or_refused(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_recordings_with_bytes_changed(tmp_path: Path, suffix: str) -> None:
    good = save(tmp_path / f"good{suffix}", noise(0.3)).read_bytes()
    chance = np.random.default_rng(0)
    for place in chance.integers(0, 200, 20):
        content = bytearray(good)
        content[place] ^= int(chance.integers(1, 256))
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(content)
        heard_or_refused(path)


def test_films_with_bytes_changed(tmp_path: Path) -> None:
    good = save_container(tmp_path / "a.m4a", noise(0.3))
    chance = np.random.default_rng(0)
    for place in chance.integers(0, good.stat().st_size, 100):
        content = bytearray(good.read_bytes())
        content[place] ^= int(chance.integers(1, 256))
        (tmp_path / "bad.m4a").write_bytes(content)
        heard_or_refused(tmp_path / "bad.m4a")


def heard_or_refused(path: Path) -> None:
    """Finite samples, or one line; nothing else."""
    try:
        header = read_audio_info(path)
        wave = load_audio(
            AudioSegment(path, display_path=path.name),
            sample_rate=header.sample_rate,
            resample=False,
        )
    except DataError as error:
        assert "\n" not in str(error) and error.hint
    else:
        assert np.isfinite(wave).all() and 0 < len(wave) <= header.num_samples
