"""What a recording becomes, and the message of every recording that is refused."""

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
from dlm.errors import DataError
from tests.data.sounds import RATE, noise, save

LOSSLESS = [".wav", ".flac"]
LOSSY = [".ogg", ".mp3", ".opus"]


def refusal(sound: AudioSegment | Path, *, rate: int = RATE, resample: bool = False) -> str:
    """What the author is told: one line, with a place and a mend."""
    given = (
        sound
        if isinstance(sound, AudioSegment)
        else AudioSegment(sound, display_path=f"clips/{sound.name}")
    )
    with pytest.raises(DataError) as caught:
        load_audio(given, sample_rate=rate, resample=resample)
    line = str(caught.value)
    assert "\n" not in line and given.name in line
    assert caught.value.hint
    return line


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_a_header_tells_rate_channels_and_length(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", noise(0.5, channels=2))
    assert read_audio_info(path) == AudioInfo(RATE, 2, RATE // 2)
    assert read_audio_info(path).seconds == 0.5


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_every_format_is_decoded_to_mono_float32(tmp_path: Path, suffix: str) -> None:
    hum = np.sin(np.arange(RATE) / 20).astype(np.float32)[:, None] * 0.3
    wave = load_audio(
        AudioSegment(save(tmp_path / f"a{suffix}", hum)), sample_rate=RATE, resample=False
    )
    assert wave.dtype == np.float32 and wave.shape == (RATE,)
    assert np.std(wave - hum[:, 0]) < (1e-4 if suffix in LOSSLESS else 0.01)


def test_the_suffix_does_not_decide(tmp_path: Path) -> None:
    save(tmp_path / "a.flac").rename(tmp_path / "a.raw")
    assert (
        len(load_audio(AudioSegment(tmp_path / "a.raw"), sample_rate=RATE, resample=False)) == RATE
    )


def test_channels_are_averaged(tmp_path: Path) -> None:
    wave = noise(0.2, channels=8)
    path = save(tmp_path / "a.wav", wave, subtype="FLOAT")
    heard = load_audio(AudioSegment(path), sample_rate=RATE, resample=False)
    np.testing.assert_allclose(heard, wave.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("suffix", LOSSLESS + LOSSY)
def test_a_span_is_the_same_samples_as_in_the_whole(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", noise(6.0))
    whole = load_audio(AudioSegment(path), sample_rate=RATE, resample=False)
    for start, end in ((0.0, 0.25), (1.3333, 2.0), (4.5, None), (None, 0.5), (5.9, 6.0)):
        part = load_audio(AudioSegment(path, start, end), sample_rate=RATE, resample=False)
        first = round((start or 0) * RATE)
        last = len(whole) if end is None else round(end * RATE)
        np.testing.assert_allclose(part, whole[first:last], atol=1e-3)


@given(data=st.data(), rate=st.sampled_from([8000, 11025, RATE]))
def test_any_span_of_a_wav_is_exact(data: st.DataObject, rate: int) -> None:
    wave = noise(0.3, rate=rate)
    first = data.draw(st.integers(0, len(wave) - 2))
    last = data.draw(st.integers(first + 1, len(wave)))
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder, "a.wav"), wave, rate=rate, subtype="FLOAT")
        part = load_audio(
            AudioSegment(path, first / rate, last / rate), sample_rate=rate, resample=False
        )
    np.testing.assert_array_equal(part, wave[first:last, 0])


def test_a_long_recording_is_not_read_for_a_short_span(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "a.wav", noise(60.0))
    asked = []
    plain = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, **o: asked.append(n) or plain(self, n, **o)
    )
    load_audio(AudioSegment(path, 50.0, 50.5), sample_rate=RATE, resample=False)
    assert sum(asked) == RATE // 2


def test_an_end_rounded_up_is_the_end(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(1.0)[:15990])
    assert len(load_audio(AudioSegment(path, 0.5, 1.0), sample_rate=RATE, resample=False)) == 7990


@pytest.mark.parametrize(
    ("start", "end", "what"),
    [
        (0.5, 3.0, "the span from 0.5 s to 3 s lies outside the recording, which lasts 1.00 s"),
        (2.0, None, "lies outside the recording"),
        (-1.0, 0.5, "lies outside the recording"),
        (0.0, float("inf"), "lies outside the recording"),
        (float("nan"), None, "lies outside the recording"),
        (0.0, float("nan"), "lies outside the recording"),
        (0.5, 0.5, "the span from 0.5 s to 0.5 s is empty"),
        (0.8, 0.2, "the span from 0.8 s to 0.2 s is empty"),
    ],
)
def test_a_span_outside_the_recording(tmp_path: Path, start, end, what: str) -> None:
    path = save(tmp_path / "a.wav")
    line = refusal(AudioSegment(path, start, end, "clips/a.wav"))
    assert line.startswith("clips/a.wav: ") and what in line
    assert line.endswith("; correct start and end")


def test_another_rate_is_refused_with_both_mends(tmp_path: Path) -> None:
    line = refusal(save(tmp_path / "cd.wav", noise(rate=44100), rate=44100))
    assert line.startswith("clips/cd.wav: ")
    assert "native sample_rate=44100 Hz does not match pinned 16000 Hz" in line
    assert "training.audio.auto_resample: true" in line
    assert "ffmpeg -i in.wav -ar 16000 out.wav" in line


@pytest.mark.parametrize("native", [8000, 44100, 48000, 192000])
def test_another_rate_is_converted_when_allowed(tmp_path: Path, native: int) -> None:
    time = np.arange(native) / native
    hum = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    path = save(tmp_path / "a.wav", np.tile(hum[:, None], (1, 8)), rate=native)
    wave = load_audio(AudioSegment(path), sample_rate=RATE, resample=True)
    assert wave.dtype == np.float32 and abs(len(wave) - RATE) <= 1
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert np.abs(wave[500:-500] - wanted[500 : len(wave) - 500]).max() < 0.01


def test_a_span_is_taken_before_converting(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(2.0, rate=48000), rate=48000)
    assert (
        len(load_audio(AudioSegment(path, 0.5, 1.0), sample_rate=RATE, resample=True)) == RATE // 2
    )


def test_eight_channels_at_192_khz_without_leave(tmp_path: Path) -> None:
    line = refusal(save(tmp_path / "a.wav", noise(rate=192000, channels=8), rate=192000))
    assert "native sample_rate=192000 Hz does not match pinned 16000 Hz" in line


def test_without_any_resampler(tmp_path: Path, monkeypatch) -> None:
    for library in ("soxr", "scipy", "scipy.signal"):
        monkeypatch.setitem(sys.modules, library, None)
    path = save(tmp_path / "a.wav", noise(rate=8000), rate=8000)
    with pytest.raises(DataError) as caught:
        load_audio(AudioSegment(path), sample_rate=RATE, resample=True)
    line = str(caught.value)
    assert "AudioResampleUnavailable: requires either soxr or scipy" in line
    assert "pip install soxr" in line and "pip install scipy" in line


def test_scipy_does_when_soxr_is_missing(tmp_path: Path, monkeypatch) -> None:
    signal = type(sys)("scipy.signal")
    signal.resample_poly = lambda wave, up, down: np.repeat(wave.astype(float), up)[::down]
    monkeypatch.setitem(sys.modules, "soxr", None)
    monkeypatch.setitem(sys.modules, "scipy", type(sys)("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.signal", signal)
    path = save(tmp_path / "a.wav", noise(rate=8000), rate=8000)
    wave = load_audio(AudioSegment(path), sample_rate=RATE, resample=True)
    assert wave.dtype == np.float32 and len(wave) == RATE


def test_a_missing_file_is_named_as_written(tmp_path: Path) -> None:
    line = refusal(
        AudioSegment(tmp_path / "clips/your-clip.wav", display_path="clips/your-clip.wav")
    )
    assert line == "audio not found: clips/your-clip.wav; put the file there or correct the path"


def test_a_file_used_as_a_folder_is_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav") / "b.wav"
    assert "audio not found" in refusal(path)


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    assert "audio not found" in refusal(AudioSegment(tmp_path / "a\0.wav", display_path="a?.wav"))
    assert "it cannot be read" in refusal(tmp_path / ("a" * 300 + ".wav"))


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "gone.wav")
    assert refusal(tmp_path / "a.wav").endswith("clips/a.wav; the link leads nowhere: correct it")


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "a.wav")
    assert "clips/a.wav: it cannot be read" in refusal(tmp_path / "a.wav")


def test_a_link_to_a_recording_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(save(tmp_path / "b.wav"))
    assert read_audio_info(tmp_path / "a.wav").num_samples == RATE


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    line = refusal(tmp_path / "a.wav")
    assert line.startswith("clips/a.wav: it is a directory, not a recording; name a file in it")


def test_a_pipe_a_socket_and_a_device_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(tmp_path / "socket.wav"))
        for name in ("pipe", "device", "socket"):
            assert "it is not a regular file" in refusal(tmp_path / f"{name}.wav")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "a.wav")

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    line = refusal(path)
    assert "clips/a.wav: it cannot be read (permission denied); allow it to be read" in line


def test_text_named_wav(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("Grüße, this is what is said.\n", encoding="utf-8")
    line = refusal(tmp_path / "a.wav")
    assert line.startswith("clips/a.wav: it holds text, not sound; put a wav, flac, ogg, mp3")


def test_a_pointer_that_was_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "git lfs pull" in refusal(tmp_path / "a.wav")


def test_a_format_that_is_not_read_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "my talk.xyz").write_bytes(bytes(range(256)))
    line = refusal(tmp_path / "my talk.xyz")
    assert "it is not sound that can be decoded" in line
    assert "`ffmpeg -i 'clips/my talk.xyz' 'my talk.wav'`" in line


def test_a_file_of_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert "clips/a.wav: the file is empty (0 bytes); record it again" in refusal(
        tmp_path / "a.wav"
    )


def test_a_recording_of_no_samples(tmp_path: Path) -> None:
    line = refusal(save(tmp_path / "a.wav", np.zeros((0, 1), np.float32)))
    assert line == "clips/a.wav: it holds no samples; record it again or take the clip out"
    with pytest.raises(DataError, match="it holds no samples"):
        read_audio_info(tmp_path / "a.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    wave = noise()
    wave[12345] = bad
    path = save(tmp_path / "a.wav", wave, subtype="FLOAT")
    assert "it holds samples that are no numbers (NaN or infinite); export" in refusal(path)
    assert (
        len(load_audio(AudioSegment(path, 0.0, 0.5), sample_rate=RATE, resample=False)) == RATE // 2
    )


@pytest.mark.parametrize("left", [1, 5000, 31999])
def test_a_wav_cut_short(tmp_path: Path, left: int) -> None:
    path = save(tmp_path / "a.wav")
    os.truncate(path, path.stat().st_size - 32000 + left)
    line = refusal(path)
    assert f"its header promises 32000 bytes of sound, the file holds {left}" in line
    with pytest.raises(DataError, match="it is cut short"):
        read_audio_info(path)


def test_a_wav_with_other_chunks_is_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav")
    data = path.read_bytes()
    extra = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    path.write_bytes(data[:12] + extra + data[12:] + b"junk" + struct.pack("<I", 4) + b"tail")
    assert len(load_audio(AudioSegment(path), sample_rate=RATE, resample=False)) == RATE
    path.write_bytes(data[:12] + extra + data[12:-100])
    assert "it is cut short" in refusal(path)


def test_a_wav_cut_within_its_header(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav")
    for size in (8, 20, 30, 42):
        path.write_bytes(save(path).read_bytes()[:size])
        refusal(path)


def test_a_wav_written_to_a_pipe_is_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(load_audio(AudioSegment(path), sample_rate=RATE, resample=False)) == RATE


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_a_compressed_recording_cut_short(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", noise(3.0))
    os.truncate(path, path.stat().st_size // 2)
    assert "cut short" in refusal(path)


def test_a_flac_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "a.flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert "its header does not say how long it is; convert it" in refusal(path)


@given(junk=st.binary(max_size=400), suffix=st.sampled_from([".wav", ".flac", ".ogg"]))
def test_any_bytes_end_in_one_line(junk: bytes, suffix: str) -> None:
    starts = {".wav": b"RIFF\xff\0\0\0WAVE", ".flac": b"fLaC", ".ogg": b"OggS"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{suffix}")
        path.write_bytes(starts[suffix] + junk)
        refusal(path)


def test_a_digest_is_of_the_bytes_as_found(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav")
    assert (
        hash_recording(AudioSegment(path, 0.1, 0.2))
        == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    with pytest.raises(DataError, match="audio not found"):
        hash_recording(AudioSegment(tmp_path / "b.wav"))
