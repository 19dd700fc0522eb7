"""Recordings of any length: cut where it is quiet, nothing loud lost, times kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as some

from dlm.clips.clip import Clip
from dlm.errors import ClipError
from dlm.use.ready import Ready
from dlm.use.transcribe import LONGEST_SEGMENT, Segment, Transcript, cut, transcribe
from tests.tiny import RATE, lesson, make_tiny, tiny_plan, tone, tones


def recording(*stretches: tuple[float, float], level: float = 1e-4) -> np.ndarray:
    """Quiet and loud in turn, as (seconds of quiet, seconds of loud)."""
    chance = np.random.default_rng(0)
    parts = []
    for quiet, loud in stretches:
        parts.append(chance.normal(0, level, round(quiet * RATE)))
        parts.append(chance.normal(0, 0.2, round(loud * RATE)))
    return np.concatenate(parts).astype(np.float32)


def test_a_short_recording_is_one_span() -> None:
    assert cut(recording((1, 3), (2, 2)), rate=RATE, longest=12) == [(0.0, 8.0)]


def test_spans_are_where_the_sound_is() -> None:
    spans = cut(recording((2, 5), (1.5, 6), (3, 4.5), (2, 0)), rate=RATE, longest=12)
    wanted = [(2, 7), (8.5, 14.5), (17.5, 22)]
    assert len(spans) == 3
    for (start, end), (first, last) in zip(spans, wanted, strict=True):
        assert start == pytest.approx(first, abs=0.2) and start <= first
        assert end == pytest.approx(last, abs=0.2) and end >= last


def test_neighbours_that_fit_together_are_joined() -> None:
    spans = cut(recording((0, 2), (0.5, 2), (0.5, 6), (1, 6)), rate=RATE, longest=12)
    assert [round(end - start) for start, end in spans] == [5, 6, 6]


def test_a_long_stretch_is_cut_at_its_quietest() -> None:
    samples = recording((0, 20))
    samples[9 * RATE : round(9.1 * RATE)] *= 0.1
    (first, middle), (again, last) = cut(samples, rate=RATE, longest=12)
    assert 9.0 <= middle <= 9.1 and again == middle
    assert (first, last) == (0.0, 20.0)


def test_silence_is_cut_too() -> None:
    spans = cut(np.zeros(30 * RATE, np.float32), rate=RATE, longest=12)
    assert all(end - start <= 12 for start, end in spans)


STRETCHES = some.lists(
    some.tuples(some.floats(0, 1.2), some.floats(0.05, 4)), min_size=1, max_size=8
)


@given(stretches=STRETCHES, longest=some.floats(0.5, 3), level=some.floats(0, 0.02))
def test_nothing_loud_is_lost(
    stretches: list[tuple[float, float]], longest: float, level: float
) -> None:
    samples = recording(*stretches, level=level)
    spans = cut(samples, rate=RATE, longest=longest)
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


def test_subtitles() -> None:
    said = Transcript(
        Path("a.wav"),
        3700.0,
        (
            Segment(0.0, 1.5, "Hello there."),
            Segment(1.5, 2.0, ""),
            Segment(59.9996, 3661.25, "Zoë!"),
        ),
    )
    assert said.text == "Hello there. Zoë!"
    assert said.subtitles("srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n00:01:00,000 --> 01:01:01,250\nZoë!\n"
    )
    assert said.subtitles("vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "00:01:00.000 --> 01:01:01.250\nZoë!\n"
    )


def test_nothing_said_is_no_subtitle() -> None:
    none = Transcript(Path("a.wav"), 1.0, (Segment(0, 1, ""),))
    assert (none.text, none.subtitles("srt"), none.subtitles("vtt")) == ("", "", "WEBVTT\n")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    return tones(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> Ready:
    """A model that knows six tones by heart."""
    folder = make_tiny(tmp_path_factory.mktemp("base"))
    learned = lesson(tiny_plan(folder, 6, steps=100, learning_rate=1e-2), clips)
    list(learned.events())
    learned.model.eval()
    return replace(learned.using)


def test_recordings_are_written_down(taught: Ready, clips: list[Clip]) -> None:
    paths = [clip.sounds[0].path for clip in clips]
    said = list(transcribe(taught, paths, auto_resample=False))
    assert [each.text for each in said] == [clip.target for clip in clips]
    assert [each.path for each in said] == paths
    assert [each.seconds for each in said] == pytest.approx([0.4 + 0.05 * n for n in range(6)])


def test_a_long_recording_keeps_its_times(taught: Ready, clips: list[Clip], tmp_path: Path) -> None:
    """Three learned tones, a second apart: three segments, where they are."""
    gap = np.zeros(round(1.2 * RATE), np.float32)
    parts = []
    for clip in (clips[5], clips[0], clips[2]):
        parts += [gap, soundfile.read(clip.sounds[0].path, dtype="float32")[0]]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), RATE)
    (said,) = transcribe(taught, [tmp_path / "long.wav"], auto_resample=False)
    starts = [each.start for each in said.segments]
    assert starts == pytest.approx([1.2, 3.05, 4.65], abs=0.2)
    assert all(
        each.end - each.start <= taught.model.base.strides.window_seconds for each in said.segments
    )
    assert taught.model.base.strides.window_seconds < LONGEST_SEGMENT


def test_a_segment_is_one_line(taught: Ready, tmp_path: Path) -> None:
    """Whatever is said, a subtitle is never torn by a blank line."""
    path = tone(tmp_path / "odd.wav", hertz=5000, seconds=5)
    (said,) = transcribe(taught, [path], auto_resample=False)
    assert all(each.text == " ".join(each.text.split()) for each in said.segments)


def test_a_recording_that_cannot_be_read_is_named(taught: Ready, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="gone.wav"):
        list(transcribe(taught, [tmp_path / "gone.wav"], auto_resample=False))


def test_another_rate_is_converted_when_that_is_asked(taught: Ready, tmp_path: Path) -> None:
    path = tone(tmp_path / "a.wav", hertz=200, seconds=5, rate=8000)
    with pytest.raises(ClipError, match="8000 Hz"):
        list(transcribe(taught, [path], auto_resample=False))
