"""Recordings of any length are written down, and the times of their segments kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.types import Example
from dlm.errors import DataError
from dlm.inference.engine import InferenceEngine
from dlm.inference.transcribe import (
    MAX_SEGMENT_SECONDS,
    Transcript,
    TranscriptSegment,
    transcribe_files,
)
from tests.tiny_models import (
    SAMPLE_RATE,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone,
    write_tone_examples,
)


def test_subtitles() -> None:
    said = Transcript(
        Path("a.wav"),
        3700.0,
        (
            TranscriptSegment(0.0, 1.5, "Hello there."),
            TranscriptSegment(1.5, 2.0, ""),
            TranscriptSegment(59.9996, 3661.25, "Zoë!"),
        ),
    )
    assert said.text == "Hello there. Zoë!"
    assert said.format_subtitles("srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n00:01:00,000 --> 01:01:01,250\nZoë!\n"
    )
    assert said.format_subtitles("vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "00:01:00.000 --> 01:01:01.250\nZoë!\n"
    )


def test_nothing_said_is_no_subtitle() -> None:
    none = Transcript(Path("a.wav"), 1.0, (TranscriptSegment(0, 1, ""),))
    assert (none.text, none.format_subtitles("srt"), none.format_subtitles("vtt")) == (
        "",
        "",
        "WEBVTT\n",
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, clips: list[Example]) -> InferenceEngine:
    """A model that knows six tones by heart."""
    folder = write_tiny_model(tmp_path_factory.mktemp("base"))
    learned = make_training_setup(make_tiny_plan(folder, 6, steps=100, learning_rate=1e-2), clips)
    list(learned.iter_events())
    learned.model.eval()
    return replace(learned.engine)


def test_recordings_are_written_down(taught: InferenceEngine, clips: list[Example]) -> None:
    paths = [clip.audio_segments[0].path for clip in clips]
    said = list(transcribe_files(taught, paths))
    assert [each.text for each in said] == [clip.target for clip in clips]
    assert [each.path for each in said] == paths
    assert [each.seconds for each in said] == pytest.approx([0.4 + 0.05 * n for n in range(6)])


def test_a_long_recording_keeps_its_times(
    taught: InferenceEngine, clips: list[Example], tmp_path: Path
) -> None:
    """Three learned tones, a second apart: three segments, where they are."""
    gap = np.zeros(round(1.2 * SAMPLE_RATE), np.float32)
    parts = []
    for clip in (clips[5], clips[0], clips[2]):
        parts += [gap, soundfile.read(clip.audio_segments[0].path, dtype="float32")[0]]
    soundfile.write(tmp_path / "long.wav", np.concatenate(parts), SAMPLE_RATE)
    (said,) = transcribe_files(taught, [tmp_path / "long.wav"])
    starts = [each.start for each in said.segments]
    assert starts == pytest.approx([1.2, 3.05, 4.65], abs=0.2)
    assert all(
        each.end - each.start <= taught.model.spec.audio_spec.window_seconds
        for each in said.segments
    )
    assert taught.model.spec.audio_spec.window_seconds < MAX_SEGMENT_SECONDS


def test_a_recording_may_be_cut_every_so_often(taught: InferenceEngine, tmp_path: Path) -> None:
    path = write_tone(tmp_path / "long.wav", hertz=500, seconds=4.5)
    (said,) = transcribe_files(taught, [path], segmentation="none")
    times = [(each.start, each.end) for each in said.segments]
    assert times == [(0.0, 2.0), (2.0, 4.0), (4.0, 4.5)]


def test_a_segment_is_one_line(taught: InferenceEngine, tmp_path: Path) -> None:
    """Whatever is said, a subtitle is never torn by a blank line."""
    path = write_tone(tmp_path / "odd.wav", hertz=5000, seconds=5)
    (said,) = transcribe_files(taught, [path])
    assert all(each.text == " ".join(each.text.split()) for each in said.segments)


def test_a_recording_that_cannot_be_read_is_named(taught: InferenceEngine, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.wav"):
        list(transcribe_files(taught, [tmp_path / "gone.wav"]))


def test_another_rate_is_converted_when_that_is_asked(
    taught: InferenceEngine, tmp_path: Path
) -> None:
    path = write_tone(tmp_path / "a.wav", hertz=200, seconds=5, sample_rate=8000)
    with pytest.raises(DataError, match="8000 Hz"):
        list(transcribe_files(taught, [path]))
