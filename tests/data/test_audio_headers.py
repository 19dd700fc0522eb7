"""The sound heard is the sound there: lengths guessed or promised, and chained recordings."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.audio_io import load_audio, read_audio_info
from dlm.data.audio_scan import compute_audio_stats
from dlm.data.types import AudioSegment
from dlm.errors import AudioError
from tests.data.recordings import RATE, make_noise, save_audio, save_container


def load(path: Path, start: float | None = None, end: float | None = None) -> np.ndarray:
    return load_audio(AudioSegment(path, start, end), sample_rate=RATE, resample=False)


def refuse(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        compute_audio_stats(AudioSegment(path))
    assert caught.value.hint and "\n" not in str(caught.value)
    return caught.value.code


def save_vbr_mp3(path: Path, *, loud_first: bool, seconds: float = 6.0) -> Path:
    """An mp3 of variable bitrate without a frame that says how long it is."""
    wave = make_noise(seconds)
    quiet = slice(len(wave) // 2, None) if loud_first else slice(0, len(wave) // 2)
    wave[quiet] *= 1e-4
    soundfile.write(path, wave, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    data = path.read_bytes()
    first = data.index(b"\xff", 0)
    assert b"Xing" in data[first : first + 64]
    second = data.index(data[first : first + 2], first + 4)
    while data[second + 2] & 0x0C != data[first + 2] & 0x0C:
        second = data.index(data[first : first + 2], second + 1)
    path.write_bytes(data[second:])
    return path


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)])
@pytest.mark.parametrize("loud_first", [True, False])
def test_frames_are_counted_where_an_mp3_does_not_give_its_length(
    tmp_path: Path, loud_first: bool, tag: bytes
) -> None:
    """A header that guesses: too short (sound lost) and too long (a whole file refused); with a
    tag before it, and one behind it that is no sound."""
    path = save_vbr_mp3(tmp_path / "a.mp3", loud_first=loud_first)
    picture = b"APETAGEX" + struct.pack("<IIII", 2000, 1_000_000, 1, 0) + bytes(8)
    picture += b"\xff\xd8" * 500_000
    path.write_bytes(tag + path.read_bytes() + picture + b"TAG" + bytes(125))
    assert read_audio_info(path).seconds == pytest.approx(6.0, abs=0.1)
    whole = load(path)
    assert len(whole) == read_audio_info(path).num_samples
    np.testing.assert_allclose(load(path, 4.5, 5.0), whole[72000:80000], atol=2e-3)


@pytest.mark.parametrize("name", ["a.ogg", "a.opus", "a.mp3"])
def test_recordings_one_behind_the_other_are_heard_to_the_end(tmp_path: Path, name: str) -> None:
    """A file of several recordings: all are heard, in order, and a span in the second is too."""
    first, second = make_noise(2.0, seed=1), make_noise(3.0, seed=2) * 0.3
    parts = [save_audio(tmp_path / f"{i}{name}", wave) for i, wave in enumerate((first, second))]
    path = tmp_path / name
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    whole = load(path)
    assert len(whole) / RATE == pytest.approx(5.0, abs=0.2)
    assert np.std(whole[:RATE]) / np.std(whole[-RATE:]) == pytest.approx(1 / 0.3, rel=0.1)
    np.testing.assert_allclose(load(path, 1.5, 3.0), whole[24000:48000], atol=2e-3)


def test_recordings_one_behind_the_other_that_cannot_be_joined_are_refused(
    tmp_path: Path,
) -> None:
    """A file of several recordings: two flacs, and streams or frames of other sample rates."""
    flac = save_audio(tmp_path / "a.flac").read_bytes()
    path = tmp_path / "joined"
    path.write_bytes(flac + save_audio(tmp_path / "b.flac", make_noise(2.0)).read_bytes())
    assert refuse(path) == "audio.mixed_streams"
    for suffix in (".ogg", ".opus", ".mp3"):
        other = save_audio(tmp_path / f"b{suffix}", make_noise(rate=24_000), rate=24_000)
        whole = save_audio(tmp_path / f"a{suffix}").read_bytes()
        path.write_bytes(whole + other.read_bytes())
        if suffix != ".opus":
            assert refuse(path) == "audio.mixed_streams"


CUT_FORMATS = ["RF64", "W64", "CAF", "AU", "NIST", "AIFF", "OGG", "OPUS"]


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("format_name", CUT_FORMATS)
def test_a_cut_recording_is_refused_by_its_header(
    tmp_path: Path, format_name: str, kept: float
) -> None:
    """A file that ends before its header says: every format, cut early, in the middle and late."""
    path = tmp_path / "a"
    is_opus = format_name == "OPUS"
    options = {"format": "OGG", "subtype": "OPUS"} if is_opus else {"format": format_name}
    if format_name not in ("OGG", "OPUS"):
        options["subtype"] = "PCM_16"
    save_audio(path, make_noise(3.0), **options)
    assert len(load(path)) == 3 * RATE
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * kept)])
    with pytest.raises(AudioError) as caught:
        read_audio_info(path)
    assert caught.value.code == "audio.truncated"


def test_a_cut_wma_is_refused_by_its_header(tmp_path: Path) -> None:
    path = save_container(tmp_path / "a.wma")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    assert refuse(path) == "audio.truncated"


@pytest.mark.parametrize("kind", ["no size", "RF64 without sizes", "BW64"])
def test_a_wav_whose_sizes_were_never_written_is_heard(tmp_path: Path, kind: str) -> None:
    """A header that its writer left open, or names by another word: the sound there is heard."""
    path = save_audio(tmp_path / "a.wav", make_noise())
    pcm = path.read_bytes()[44:]
    head = b"WAVE" + b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    if kind == "no size":
        data = b"RIFF" + bytes(4) + head + b"data" + bytes(4) + pcm
    else:
        magic, size = (b"BW64", len(pcm)) if kind == "BW64" else (b"RF64", 0)
        sizes = b"ds64" + struct.pack("<IQQQI", 28, size + 72, size, size // 2, 0)
        data = magic + b"\xff" * 4 + b"WAVE" + sizes + head[4:] + b"data" + b"\xff" * 4 + pcm
    expected = load(path)
    path.write_bytes(data)
    np.testing.assert_array_equal(load(path), expected)
    np.testing.assert_array_equal(load(path, 0.25, 0.5), expected[4000:8000])


def test_a_wav_without_sound_and_with_tags_is_empty(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise())
    path.write_bytes(path.read_bytes()[:40] + bytes(4) + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert refuse(path) == "audio.empty"


@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_cut_mp3_is_refused_by_its_header(tmp_path: Path, kept: float) -> None:
    """An mp3 whose first frame says how many follow: known before anything is decoded."""
    path = save_audio(tmp_path / "a.mp3", make_noise(6.0))
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * kept)])
    with pytest.raises(AudioError) as caught:
        read_audio_info(path)
    assert caught.value.code == "audio.truncated"


def test_files_made_to_be_slow_are_refused_at_once(tmp_path: Path) -> None:
    """What would be walked for minutes: junk between frames, and streams without end."""
    mp3 = save_vbr_mp3(tmp_path / "a.mp3", loud_first=True).read_bytes()
    path = tmp_path / "b.mp3"
    path.write_bytes(mp3 + b"\xff" * 10_000_000 + mp3)
    assert refuse(path) == "audio.damaged"
    path.write_bytes(save_audio(tmp_path / "a.ogg").read_bytes() * 300)
    assert refuse(path) == "audio.mixed_streams"
