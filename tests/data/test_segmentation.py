"""Splitting long recordings: nothing loud is lost, and no span is longer than asked."""

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.segmentation import Segmentation, split_evenly, split_on_silence
from dlm.data.types import AudioSegment
from tests.data.recordings import RATE, save_audio


def make_waveform(*stretches: tuple[float, float], noise_level: float = 1e-4) -> np.ndarray:
    """Quiet and loud audio in turn, as (seconds of quiet, seconds of loud): (samples,)."""
    rng = np.random.default_rng(0)
    waveforms = [
        rng.normal(0, level, round(seconds * RATE))
        for stretch in stretches
        for seconds, level in zip(stretch, (noise_level, 0.2), strict=True)
    ]
    return np.concatenate(waveforms).astype(np.float32)


def save_waveform(
    path: Path, waveform: np.ndarray, *, rate: int = RATE, num_channels: int = 1
) -> AudioSegment:
    channels = np.tile(waveform[:, None], (1, num_channels))
    return AudioSegment(save_audio(path, channels, rate=rate, subtype="FLOAT"))


def split(folder: Path, waveform: np.ndarray, *, max_seconds: float = 12) -> list:
    segmentation = split_on_silence(
        save_waveform(folder / "a.wav", waveform),
        max_seconds=max_seconds,
        max_merged_seconds=max_seconds / 2,
    )
    assert segmentation.seconds == len(waveform) / RATE
    return list(segmentation.spans)


def test_a_short_recording_is_one_span(tmp_path: Path) -> None:
    assert split(tmp_path, make_waveform((1, 3), (2, 2))) == [(0.0, 8.0)]


def test_spans_are_where_the_sound_is(tmp_path: Path) -> None:
    spans = split(tmp_path, make_waveform((2, 5), (1.5, 6), (3, 4.5), (2, 0)))
    expected = [(2, 7), (8.5, 14.5), (17.5, 22)]
    assert len(spans) == 3
    for (start, end), (expected_start, expected_end) in zip(spans, expected, strict=True):
        assert start == pytest.approx(expected_start, abs=0.2) and start <= expected_start
        assert end == pytest.approx(expected_end, abs=0.2) and end >= expected_end


def test_neighbours_that_fit_are_merged(tmp_path: Path) -> None:
    waveform = make_waveform((0, 2), (0.5, 2), (0.5, 6), (1, 6))
    assert [round(end - start) for start, end in split(tmp_path, waveform)] == [5, 6, 6]
    segment = save_waveform(tmp_path / "a.wav", waveform)
    spans = split_on_silence(segment, max_seconds=12, max_merged_seconds=3).spans
    assert [round(end - start) for start, end in spans] == [2, 2, 6, 6]


def test_a_long_stretch_is_split_at_its_quietest_moment(tmp_path: Path) -> None:
    waveform = make_waveform((0, 20))
    waveform[9 * RATE : round(9.1 * RATE)] *= 0.1
    (first, middle), (second_start, last) = split(tmp_path, waveform)
    assert 9.0 <= middle <= 9.1 and second_start == middle
    assert (first, last) == (0.0, 20.0)


@pytest.mark.parametrize("offset", [0.0, 0.005, -0.05, 0.3])
def test_a_constant_offset_is_no_sound(tmp_path: Path, offset: float) -> None:
    """A level that is not of sound: none, half a percent, and large ones of either sign."""
    waveform = make_waveform(*[(1.5, 4)] * 6) * np.float32(0.3)
    assert len(split(tmp_path, waveform + np.float32(offset), max_seconds=6)) == 6


@pytest.mark.parametrize("seconds", [3, 30])
@pytest.mark.parametrize(("noise_level", "offset"), [(0.0, 0.0), (1e-3, 0.0), (1e-4, 0.01)])
def test_silence_and_the_noise_of_a_room_are_no_speech(
    tmp_path: Path, noise_level: float, offset: float, seconds: int
) -> None:
    """What is to be heard by no model: silence, noise at -60 dB, an offset; short and long."""
    waveform = make_waveform((seconds, 0), noise_level=noise_level) + np.float32(offset)
    assert split(tmp_path, waveform) == []


@pytest.mark.parametrize("seconds", [3, 30])
def test_what_a_detector_calls_no_speech_is_left_out(tmp_path: Path, seconds: int) -> None:
    """Also where the recording is short enough to be one span."""
    segment = save_waveform(tmp_path / "a.wav", make_waveform((0, seconds)))
    spans = split_on_silence(
        segment,
        max_seconds=12,
        max_merged_seconds=6,
        vad_fn=lambda segment, num_frames, frame_seconds: np.zeros(num_frames, bool),
    ).spans
    assert spans == ()


def test_silence_is_split_too(tmp_path: Path) -> None:
    spans = split(tmp_path, np.zeros(30 * RATE, np.float32))
    assert all(end - start <= 12 for start, end in spans)


STRETCHES = st.lists(st.tuples(st.floats(0, 1.2), st.floats(0.05, 4)), min_size=1, max_size=8)


@given(stretches=STRETCHES, max_seconds=st.floats(0.5, 3), noise_level=st.floats(0, 0.02))
def test_nothing_loud_is_lost(
    stretches: list[tuple[float, float]], max_seconds: float, noise_level: float
) -> None:
    waveform = make_waveform(*stretches, noise_level=noise_level)
    with tempfile.TemporaryDirectory() as folder:
        spans = split(Path(folder), waveform, max_seconds=max_seconds)
    seconds = len(waveform) / RATE
    is_covered = np.zeros(len(waveform), bool)
    last = 0.0
    for start, end in spans:
        assert last <= start < end <= seconds
        assert end - start <= max_seconds + 1e-9
        is_covered[round(start * RATE) : round(end * RATE)] = True
        last = end
    num_frames = len(waveform) // 320
    levels = np.mean(waveform[: num_frames * 320].reshape(-1, 320) ** 2, axis=1)
    is_loud = levels > levels.max(initial=0) * 10**-3.4
    assert is_covered[: num_frames * 320].reshape(-1, 320).all(axis=1)[is_loud].all()


@pytest.mark.parametrize(("rate", "num_channels"), [(8000, 1), (11025, 1), (44100, 2), (48000, 1)])
def test_times_are_exact_at_any_sample_rate(tmp_path: Path, rate: int, num_channels: int) -> None:
    """After three minutes, the rounding of frames to whole samples has not added up."""
    waveform = np.zeros(200 * rate, np.float32)
    waveform[190 * rate : 195 * rate] = np.random.default_rng(0).normal(0, 0.2, 5 * rate)
    waveform[: 2 * rate] = waveform[190 * rate : 192 * rate]
    segment = save_waveform(tmp_path / "a.wav", waveform, rate=rate, num_channels=num_channels)
    (_, last) = split_on_silence(segment, max_seconds=12, max_merged_seconds=6).spans
    assert last == pytest.approx((190, 195), abs=0.17)
    assert last[0] <= 190 and last[1] >= 195


def test_a_long_recording_takes_little_memory(tmp_path: Path) -> None:
    segment = save_waveform(tmp_path / "a.wav", np.zeros(1800 * RATE, np.float32))
    tracemalloc.start()
    split_on_silence(segment, max_seconds=12, max_merged_seconds=6)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16e6  # all of it takes 115 MB


def test_even_spans_have_the_longest_length_allowed(tmp_path: Path) -> None:
    segment = save_waveform(tmp_path / "a.wav", make_waveform((0, 5.5)))
    assert split_evenly(segment, max_seconds=2) == Segmentation(5.5, ((0, 2), (2, 4), (4, 5.5)))
    assert split_evenly(segment, max_seconds=5.5).spans == ((0, 5.5),)
