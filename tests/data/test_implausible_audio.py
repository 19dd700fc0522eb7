"""Recordings whose headers or bytes are wrong: an error with a code, soon, and in little memory."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlm.data.audio_io import MAX_LOADED_SAMPLES, load_audio, read_audio_info
from dlm.data.audio_scan import AudioStats, compute_audio_stats
from dlm.data.types import AudioSegment
from dlm.errors import AudioError
from tests.data.recordings import RATE, make_noise, save_audio, save_container

THREE_HOURS = 3 * 3600 * RATE  # samples
SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".au", ".caf"]


def load(path: Path) -> np.ndarray:
    return load_audio(AudioSegment(path, display_path=path.name), sample_rate=RATE, resample=False)


def measure(path: Path) -> AudioStats:
    return compute_audio_stats(AudioSegment(path, display_path=path.name))


def load_error(path: Path) -> AudioError:
    """The error of measuring and of loading it, which is the same, and takes little memory."""
    errors = []
    tracemalloc.start()
    for read in (load, measure):
        with pytest.raises(AudioError) as caught:
            read(path)
        errors.append(caught.value)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50e6
    first, second = errors
    assert str(first) == str(second) and first.code == second.code
    assert "\n" not in str(first) and path.name in str(first) and first.hint
    return first


def save_with_false_length(path: Path, num_samples: int) -> Path:
    """Save a second of audio whose header promises so many samples."""
    content = bytearray(save_audio(path, make_noise(1.0)).read_bytes())
    if path.suffix == ".wav":
        content[40:44] = (2 * num_samples).to_bytes(4, "little")
    elif path.suffix == ".flac":
        low_bytes = (num_samples & 0xFFFFFFFF).to_bytes(4)
        content[21:26] = (content[21] & 0xF0 | num_samples >> 32, *low_bytes)
    elif path.suffix == ".aiff":
        at = content.index(b"SSND") + 4
        content[at : at + 4] = (2 * num_samples + 8).to_bytes(4)
    else:
        at = max(content.find(b"Xing"), content.find(b"Info")) + 8
        content[at : at + 4] = (num_samples // 576).to_bytes(4)
    path.write_bytes(content)
    return path


def test_hours_promised_by_a_second_of_audio_are_refused(tmp_path: Path) -> None:
    for suffix in (".wav", ".aiff"):
        error = load_error(save_with_false_length(tmp_path / f"a{suffix}", THREE_HOURS))
        assert error.code == "audio.truncated" and "its header promises 345600" in error.what
    for suffix in (".flac", ".mp3"):
        error = load_error(save_with_false_length(tmp_path / f"a{suffix}", THREE_HOURS))
        assert error.code == "audio.implausible_length"
        assert "it promises 3.0 hours of audio in" in error.what


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_a_plausible_length_that_is_not_there_is_refused(tmp_path: Path, suffix: str) -> None:
    error = load_error(save_with_false_length(tmp_path / f"a{suffix}", 60 * RATE))
    assert error.code in ("audio.truncated", "audio.damaged")


def test_the_largest_length_of_a_header_is_refused(tmp_path: Path) -> None:
    error = load_error(save_with_false_length(tmp_path / "a.flac", 0xFFFFFFFF))
    assert error.code == "audio.implausible_length" and "74.6 hours" in error.what


def test_silence_that_compresses_well_is_read(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.flac", np.zeros((60 * RATE, 1), np.float32))
    assert path.stat().st_size < read_audio_info(path).num_samples / 200
    assert len(load(path)) == 60 * RATE


def test_a_recording_too_large_for_memory_is_read_by_spans(tmp_path: Path) -> None:
    """Its samples are zeros that take no room on the disk."""
    path = save_audio(tmp_path / "long.wav")
    num_samples = MAX_LOADED_SAMPLES + 1
    content = bytearray(path.read_bytes()[:44])
    content[40:44] = (2 * num_samples).to_bytes(4, "little")
    path.write_bytes(content)
    os.truncate(path, 44 + 2 * num_samples)
    with pytest.raises(AudioError, match="it lasts 9.3 hours, too long") as caught:
        load(path)
    assert caught.value.code == "audio.too_large"
    segment = AudioSegment(path, 30000.0, 30000.5)
    waveform = load_audio(segment, sample_rate=RATE, resample=False)
    assert len(waveform) == RATE // 2 and not waveform.any()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    error = load_error(tmp_path / "a.wav")
    assert error.code == "audio.unreadable" and "too many levels" in error.what


def load_or_refuse(path: Path) -> None:
    """It gives finite samples or an AudioError, and nothing else."""
    try:
        info = read_audio_info(path)
        segment = AudioSegment(path, display_path=path.name)
        waveform = load_audio(segment, sample_rate=info.sample_rate, resample=False)
    except AudioError as error:
        assert "\n" not in str(error) and error.hint and error.code
    else:
        assert np.isfinite(waveform).all() and 0 < len(waveform) <= info.num_samples


@given(
    junk=st.binary(max_size=600),
    suffix=st.sampled_from([*SUFFIXES, ".m4a", ".webm", ".aac", ".amr", ".ts"]),
)
@settings(max_examples=200)
def test_any_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"junk{suffix}"
    path.write_bytes(junk)
    load_or_refuse(path)


HEADS = [b"\0\0\0\x18ftyp", b"#!AMR\n", b"\x1aE\xdf\xa3", b"\xff\xf1", b"OggS", b"wvpk", b"FLV\1"]


@given(junk=st.binary(max_size=300), head=st.sampled_from(HEADS))
@settings(max_examples=100)
def test_any_bytes_in_a_container_are_refused(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.bin"
    path.write_bytes(head + junk)
    load_or_refuse(path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".m4a", ".webm", ".aac", ".wv"])
def test_recordings_with_changed_bytes_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    is_container = suffix not in SUFFIXES
    good = (save_container if is_container else save_audio)(
        tmp_path / f"good{suffix}", make_noise(0.3)
    )
    content, path = good.read_bytes(), tmp_path / f"bad{suffix}"
    rng = np.random.default_rng(0)
    for index in rng.integers(0, len(content) if is_container else 200, 40 if is_container else 20):
        changed = bytearray(content)
        changed[index] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        load_or_refuse(path)
