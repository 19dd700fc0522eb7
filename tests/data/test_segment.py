"""A long recording is cut where it is quiet: nothing loud lost, nothing longer than asked."""

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlm.data.segmentation import Segmentation, split_evenly, split_on_silence
from dlm.data.types import AudioSegment
from tests.data.sounds import RATE, save


def recording(*stretches: tuple[float, float], level: float = 1e-4) -> np.ndarray:
    """Quiet and loud in turn, as (seconds of quiet, seconds of loud)."""
    chance = np.random.default_rng(0)
    parts = []
    for quiet, loud in stretches:
        parts.append(chance.normal(0, level, round(quiet * RATE)))
        parts.append(chance.normal(0, 0.2, round(loud * RATE)))
    return np.concatenate(parts).astype(np.float32)


def written(
    path: Path, samples: np.ndarray, *, rate: int = RATE, channels: int = 1
) -> AudioSegment:
    return AudioSegment(
        save(path, np.tile(samples[:, None], (1, channels)), rate=rate, subtype="FLOAT")
    )


def spans_of(folder: Path, samples: np.ndarray, *, longest: float = 12) -> list:
    found = split_on_silence(
        written(folder / "a.wav", samples), max_seconds=longest, max_merged_seconds=longest / 2
    )
    assert found.seconds == len(samples) / RATE
    return list(found.spans)


def test_a_short_recording_is_one_span(tmp_path: Path) -> None:
    assert spans_of(tmp_path, recording((1, 3), (2, 2))) == [(0.0, 8.0)]


def test_spans_are_where_the_sound_is(tmp_path: Path) -> None:
    spans = spans_of(tmp_path, recording((2, 5), (1.5, 6), (3, 4.5), (2, 0)))
    wanted = [(2, 7), (8.5, 14.5), (17.5, 22)]
    assert len(spans) == 3
    for (start, end), (first, last) in zip(spans, wanted, strict=True):
        assert start == pytest.approx(first, abs=0.2) and start <= first
        assert end == pytest.approx(last, abs=0.2) and end >= last


def test_neighbours_that_fit_together_are_joined(tmp_path: Path) -> None:
    samples = recording((0, 2), (0.5, 2), (0.5, 6), (1, 6))
    spans = spans_of(tmp_path, samples)
    assert [round(end - start) for start, end in spans] == [5, 6, 6]
    apart = split_on_silence(
        written(tmp_path / "a.wav", samples), max_seconds=12, max_merged_seconds=3
    ).spans
    assert [round(end - start) for start, end in apart] == [2, 2, 6, 6]


def test_a_long_stretch_is_cut_at_its_quietest(tmp_path: Path) -> None:
    samples = recording((0, 20))
    samples[9 * RATE : round(9.1 * RATE)] *= 0.1
    (first, middle), (again, last) = spans_of(tmp_path, samples)
    assert 9.0 <= middle <= 9.1 and again == middle
    assert (first, last) == (0.0, 20.0)


def test_silence_is_cut_too(tmp_path: Path) -> None:
    spans = spans_of(tmp_path, np.zeros(30 * RATE, np.float32))
    assert all(end - start <= 12 for start, end in spans)


STRETCHES = some.lists(
    some.tuples(some.floats(0, 1.2), some.floats(0.05, 4)), min_size=1, max_size=8
)


@given(stretches=STRETCHES, longest=some.floats(0.5, 3), level=some.floats(0, 0.02))
def test_nothing_loud_is_lost(
    stretches: list[tuple[float, float]], longest: float, level: float
) -> None:
    samples = recording(*stretches, level=level)
    with tempfile.TemporaryDirectory() as folder:
        spans = spans_of(Path(folder), samples, longest=longest)
    seconds = len(samples) / RATE
    covered = np.zeros(len(samples), bool)
    last = 0.0
    for start, end in spans:
        assert last <= start < end <= seconds
        assert end - start <= longest + 1e-9
        covered[round(start * RATE) : round(end * RATE)] = True
        last = end
    frames = len(samples) // 320
    levels = np.mean(samples[: frames * 320].reshape(-1, 320) ** 2, axis=1)
    loud = levels > levels.max(initial=0) * 10**-3.4
    assert covered[: frames * 320].reshape(-1, 320).all(axis=1)[loud].all()


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (11025, 1), (44100, 2), (48000, 1)])
def test_times_are_kept_at_any_rate(tmp_path: Path, rate: int, channels: int) -> None:
    """Three minutes in, they are not off by what a frame of 20 ms is rounded to."""
    samples = np.zeros(200 * rate, np.float32)
    samples[190 * rate : 195 * rate] = np.random.default_rng(0).normal(0, 0.2, 5 * rate)
    samples[: 2 * rate] = samples[190 * rate : 192 * rate]
    sound = written(tmp_path / "a.wav", samples, rate=rate, channels=channels)
    (_, last) = split_on_silence(sound, max_seconds=12, max_merged_seconds=6).spans
    assert last == pytest.approx((190, 195), abs=0.17)
    assert last[0] <= 190 and last[1] >= 195


def test_little_is_held_of_a_long_recording(tmp_path: Path) -> None:
    sound = written(tmp_path / "a.wav", np.zeros(1800 * RATE, np.float32))
    tracemalloc.start()
    split_on_silence(sound, max_seconds=12, max_merged_seconds=6)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16e6  # all of it takes 115 MB


def test_even_spans(tmp_path: Path) -> None:
    sound = written(tmp_path / "a.wav", recording((0, 5.5)))
    assert split_evenly(sound, max_seconds=2) == Segmentation(5.5, ((0, 2), (2, 4), (4, 5.5)))
    assert split_evenly(sound, max_seconds=5.5).spans == ((0, 5.5),)
