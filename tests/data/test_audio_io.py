"""Reading audio: what a recording becomes, and the error of every recording that is refused."""

import hashlib
import os
import socket
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.audio_file import AudioInfo
from dlm.data.audio_io import hash_recording, load_audio, read_audio_info
from dlm.data.types import AudioSegment
from dlm.errors import AudioError
from tests.data.recordings import RATE, make_noise, save_audio

LOSSLESS = [".wav", ".flac"]
LOSSY = [".ogg", ".mp3", ".opus"]


def load(segment: AudioSegment | Path, *, resample: bool = False) -> np.ndarray:
    segment = AudioSegment(segment) if isinstance(segment, Path) else segment
    return load_audio(segment, sample_rate=RATE, resample=resample)


def load_error(segment: AudioSegment | Path, *, resample: bool = False) -> AudioError:
    """The error of loading a segment: one line that names it, with a code and a hint."""
    if isinstance(segment, Path):
        segment = AudioSegment(segment, display_path=f"clips/{segment.name}")
    with pytest.raises(AudioError) as caught:
        load(segment, resample=resample)
    line = str(caught.value)
    assert "\n" not in line and segment.name in line
    assert caught.value.hint and caught.value.code.startswith("audio.")
    return caught.value


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_a_header_gives_rate_channels_and_length(tmp_path: Path, suffix: str) -> None:
    path = save_audio(tmp_path / f"a{suffix}", make_noise(0.5, channels=2))
    assert read_audio_info(path) == AudioInfo(RATE, 2, RATE // 2)
    assert read_audio_info(path).seconds == 0.5


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_every_format_is_decoded_to_mono_float32(tmp_path: Path, suffix: str) -> None:
    sine = np.sin(np.arange(RATE) / 20).astype(np.float32)[:, None] * 0.3
    waveform = load(save_audio(tmp_path / f"a{suffix}", sine))
    assert waveform.dtype == np.float32 and waveform.shape == (RATE,)
    assert np.std(waveform - sine[:, 0]) < (1e-4 if suffix in LOSSLESS else 0.01)


def test_the_suffix_does_not_decide_the_format(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.flac").rename(tmp_path / "a.raw")
    assert len(load(tmp_path / "a.raw")) == RATE


def test_channels_are_averaged(tmp_path: Path) -> None:
    wave = make_noise(0.2, channels=8)
    path = save_audio(tmp_path / "a.wav", wave, subtype="FLOAT")
    np.testing.assert_allclose(load(path), wave.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_a_span_holds_the_same_samples_as_the_whole(tmp_path: Path, suffix: str) -> None:
    path = save_audio(tmp_path / f"a{suffix}", make_noise(6.0))
    whole = load(path)
    for start, end in ((0.0, 0.25), (1.3333, 2.0), (4.5, None), (None, 0.5), (5.9, 6.0)):
        first = round((start or 0) * RATE)
        last = len(whole) if end is None else round(end * RATE)
        span = load(AudioSegment(path, start, end))
        np.testing.assert_allclose(span, whole[first:last], atol=1e-3)


@given(data=st.data(), rate=st.sampled_from([8000, 11025, RATE]))
def test_any_span_of_a_wav_is_exact(data: st.DataObject, rate: int) -> None:
    wave = make_noise(0.3, rate=rate)
    first = data.draw(st.integers(0, len(wave) - 2))
    last = data.draw(st.integers(first + 1, len(wave)))
    with tempfile.TemporaryDirectory() as folder:
        path = save_audio(Path(folder, "a.wav"), wave, rate=rate, subtype="FLOAT")
        segment = AudioSegment(path, first / rate, last / rate)
        span = load_audio(segment, sample_rate=rate, resample=False)
    np.testing.assert_array_equal(span, wave[first:last, 0])


def test_a_long_recording_is_not_read_for_a_short_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(60.0))
    counts = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda file, count, **options: counts.append(count) or read(file, count, **options),
    )
    load(AudioSegment(path, 50.0, 50.5))
    assert sum(counts) == RATE // 2


def test_an_end_rounded_up_is_the_end(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(1.0)[:15990])
    assert len(load(AudioSegment(path, 0.5, 1.0))) == 7990


@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        (0.5, 3.0, "audio.span_outside"),
        (2.0, None, "audio.span_outside"),
        (-1.0, 0.5, "audio.span_outside"),
        (0.0, float("inf"), "audio.span_outside"),
        (float("nan"), None, "audio.span_outside"),
        (0.0, float("nan"), "audio.span_outside"),
        (0.5, 0.5, "audio.span_empty"),
        (0.8, 0.2, "audio.span_empty"),
    ],
)
def test_a_span_outside_the_recording_or_empty_is_refused(
    tmp_path: Path, start: float, end: float | None, code: str
) -> None:
    path = save_audio(tmp_path / "a.wav")
    error = load_error(AudioSegment(path, start, end, "clips/a.wav"))
    assert error.code == code and error.where == "clips/a.wav"
    assert error.what.startswith("the span from ") and error.hint == "correct start and end"


def test_a_span_outside_names_the_length_of_the_recording(tmp_path: Path) -> None:
    error = load_error(AudioSegment(save_audio(tmp_path / "a.wav"), 0.5, 3.0))
    what = "the span from 0.5 s to 3 s lies outside the recording, which lasts 1.00 s"
    assert error.what == what


@pytest.mark.parametrize(("rate", "channels"), [(44100, 1), (192000, 8)])
def test_another_rate_is_refused_with_two_ways_out(
    tmp_path: Path, rate: int, channels: int
) -> None:
    wave = make_noise(rate=rate, channels=channels)
    error = load_error(save_audio(tmp_path / "cd.wav", wave, rate=rate))
    assert error.code == "audio.sample_rate_mismatch" and error.where == "clips/cd.wav"
    assert error.what == f"native sample_rate={rate} Hz does not match pinned 16000 Hz"
    assert "training.audio.auto_resample: true" in error.hint
    assert "ffmpeg -i in.wav -ar 16000 out.wav" in error.hint


@pytest.mark.parametrize("native_rate", [8000, 44100, 48000, 192000])
def test_another_rate_is_resampled_when_allowed(tmp_path: Path, native_rate: int) -> None:
    def sine(rate: int) -> np.ndarray:
        return (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)

    wave = np.tile(sine(native_rate)[:, None], (1, 8))
    waveform = load(save_audio(tmp_path / "a.wav", wave, rate=native_rate), resample=True)
    assert waveform.dtype == np.float32 and abs(len(waveform) - RATE) <= 1
    assert np.abs(waveform[500:-500] - sine(RATE)[500 : len(waveform) - 500]).max() < 0.01


def test_a_span_is_in_seconds_of_the_recording_before_resampling(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(2.0, rate=48000), rate=48000)
    assert len(load(AudioSegment(path, 0.5, 1.0), resample=True)) == RATE // 2


def test_without_a_resampler_the_error_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("soxr", "scipy", "scipy.signal"):
        monkeypatch.setitem(sys.modules, library, None)
    path = save_audio(tmp_path / "a.wav", make_noise(rate=8000), rate=8000)
    with pytest.raises(AudioError) as caught:
        load(path, resample=True)
    assert caught.value.code == "audio.no_resampler"
    assert caught.value.what == "AudioResampleUnavailable: requires either soxr or scipy"
    assert caught.value.hint == "pip install soxr, or else pip install scipy"


def test_scipy_resamples_where_soxr_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = type(sys)("scipy.signal")
    signal.resample_poly = lambda wave, up, down: np.repeat(wave.astype(float), up)[::down]
    monkeypatch.setitem(sys.modules, "soxr", None)
    monkeypatch.setitem(sys.modules, "scipy", type(sys)("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.signal", signal)
    waveform = load(save_audio(tmp_path / "a.wav", make_noise(rate=8000), rate=8000), resample=True)
    assert waveform.dtype == np.float32 and len(waveform) == RATE


def test_a_missing_file_is_named_as_written(tmp_path: Path) -> None:
    path = tmp_path / "clips/your-clip.wav"
    error = load_error(AudioSegment(path, display_path="clips/your-clip.wav"))
    assert error.code == "audio.not_found"
    line = "audio not found: clips/your-clip.wav; put the file there or correct the path"
    assert str(error) == line


def test_paths_that_cannot_exist_are_not_found(tmp_path: Path) -> None:
    in_a_file = save_audio(tmp_path / "a.wav") / "b.wav"
    null_byte = AudioSegment(tmp_path / "a\0.wav", display_path="a?.wav")
    assert load_error(in_a_file).code == load_error(null_byte).code == "audio.not_found"
    assert load_error(tmp_path / ("a" * 300 + ".wav")).code == "audio.unreadable"


def test_links_are_followed_and_broken_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(save_audio(tmp_path / "b.wav"))
    assert read_audio_info(tmp_path / "a.wav").num_samples == RATE
    (tmp_path / "broken.wav").symlink_to(tmp_path / "gone.wav")
    error = load_error(tmp_path / "broken.wav")
    assert error.code == "audio.not_found" and "the link leads nowhere" in error.hint
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    assert load_error(tmp_path / "circle.wav").code == "audio.unreadable"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    error = load_error(tmp_path / "a.wav")
    assert error.code == "audio.not_a_file"
    assert error.what == "it is a directory, not a recording" and "name a file in" in error.hint


def test_a_pipe_a_socket_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.wav"))
        for name in ("pipe", "device", "socket"):
            assert load_error(tmp_path / f"{name}.wav").code == "audio.not_a_file"


def test_a_file_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_audio(tmp_path / "a.wav")

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    error = load_error(path)
    assert error.code == "audio.unreadable"
    assert error.what == "it cannot be read (permission denied)"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("Grüße, this is what is said.\n".encode(), "audio.not_audio"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "audio.lfs_pointer"),
        (b"", "audio.empty"),
    ],
)
def test_a_file_without_audio_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert load_error(tmp_path / "a.wav").code == code


def test_an_unknown_format_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    (tmp_path / "my talk.xyz").write_bytes(bytes(range(256)))
    error = load_error(tmp_path / "my talk.xyz")
    assert error.code == "audio.not_audio"
    assert "`ffmpeg -i 'clips/my talk.xyz' 'my talk.wav'`" in error.hint


def test_a_recording_without_samples_is_refused(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", np.zeros((0, 1), np.float32))
    assert load_error(path).code == "audio.empty"
    with pytest.raises(AudioError, match="it holds no samples"):
        read_audio_info(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_where_they_are(
    tmp_path: Path, value: float
) -> None:
    wave = make_noise()
    wave[12345] = value
    path = save_audio(tmp_path / "a.wav", wave, subtype="FLOAT")
    assert load_error(path).code == "audio.not_finite"
    assert len(load(AudioSegment(path, 0.0, 0.5))) == RATE // 2


@pytest.mark.parametrize(("scale", "code"), [(3.0, None), (32768.0, "audio.float_range")])
def test_float_samples_of_another_scale_are_refused(
    tmp_path: Path, scale: float, code: str | None
) -> None:
    """Numbers of 16 bit in a float wav were learned as if clipped; a little over 1 is a float's."""
    path = save_audio(tmp_path / "a.wav", make_noise() * scale, subtype="FLOAT")
    if code is None:
        assert len(load(path)) == RATE
    else:
        assert load_error(path).code == code


@pytest.mark.parametrize("num_left", [1, 5000, 31999])
def test_a_truncated_wav_is_refused_by_its_header(tmp_path: Path, num_left: int) -> None:
    path = save_audio(tmp_path / "a.wav")
    os.truncate(path, path.stat().st_size - 32000 + num_left)
    error = load_error(path)
    assert error.code == "audio.truncated"
    assert f"its header promises 32000 bytes of audio, the file holds {num_left}" in error.what
    with pytest.raises(AudioError, match="it is cut short"):
        read_audio_info(path)


def test_a_wav_with_other_chunks_is_read(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav")
    data = path.read_bytes()
    extra = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    path.write_bytes(data[:12] + extra + data[12:] + b"junk" + struct.pack("<I", 4) + b"tail")
    assert len(load(path)) == RATE
    path.write_bytes(data[:12] + extra + data[12:-100])
    assert load_error(path).code == "audio.truncated"


def test_a_wav_cut_within_its_header_is_refused(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav")
    for num_bytes in (8, 20, 30, 42):
        path.write_bytes(save_audio(path).read_bytes()[:num_bytes])
        load_error(path)


def test_a_wav_written_to_a_pipe_is_read(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(load(path)) == RATE


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_a_truncated_compressed_recording_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save_audio(tmp_path / f"a{suffix}", make_noise(3.0))
    os.truncate(path, path.stat().st_size // 2)
    error = load_error(path)
    assert error.code in ("audio.truncated", "audio.damaged") and "cut short" in error.what


def test_a_flac_of_unknown_length_is_refused(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert load_error(path).code == "audio.unknown_length"


@given(junk=st.binary(max_size=400), suffix=st.sampled_from([".wav", ".flac", ".ogg"]))
def test_any_bytes_end_in_an_error(junk: bytes, suffix: str) -> None:
    heads = {".wav": b"RIFF\xff\0\0\0WAVE", ".flac": b"fLaC", ".ogg": b"OggS"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        path.write_bytes(heads[suffix] + junk)
        load_error(path)


def test_a_hash_is_of_all_bytes_of_the_recording(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert hash_recording(AudioSegment(path, 0.1, 0.2)) == expected
    with pytest.raises(AudioError) as caught:
        hash_recording(AudioSegment(tmp_path / "b.wav"))
    assert caught.value.code == "audio.not_found"
