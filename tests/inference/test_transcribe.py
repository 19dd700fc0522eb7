"""Recordings of any length are transcribed, with the times of their segments; subtitles."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.types import Example
from dlm.errors import AudioError
from dlm.inference.engine import InferenceEngine
from dlm.inference.transcribe import (
    MAX_SEGMENT_SECONDS,
    Transcript,
    TranscriptSegment,
    split_at_times,
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


def test_subtitles_hold_segments_with_text_and_their_times() -> None:
    transcript = Transcript(
        Path("a.wav"),
        3700.0,
        (
            TranscriptSegment(0.0, 1.5, "Hello there."),
            TranscriptSegment(1.5, 2.0, ""),
            TranscriptSegment(59.9996, 3661.25, "Zoë!"),
        ),
    )
    assert transcript.text == "Hello there. Zoë!"
    assert transcript.format_subtitles("srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n00:01:00,000 --> 01:01:01,250\nZoë!\n"
    )
    assert transcript.format_subtitles("vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "00:01:00.000 --> 01:01:01.250\nZoë!\n"
    )


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("<|0.00|> one<|0.40|><|0.60|> two<|1.00|>", [(5.0, 5.4, "one"), (5.6, 5.7, "two")]),
        ("<|0.20|> three", [(5.2, 5.7, "three")]),
        ("four", [(5.0, 5.7, "four")]),
        ("<|0.00|>", [(5.0, 5.7, "")]),
    ],
)
def test_a_segment_is_split_at_the_times_in_its_text(
    text: str, segments: list[tuple[float, float, str]]
) -> None:
    """No part is later than the segment, which lasts from 5 to 5.7 s here."""
    found = [(each.start, each.end, each.text) for each in split_at_times(5.0, 5.7, text)]
    assert found == [(pytest.approx(a), pytest.approx(b), part) for a, b, part in segments]


def test_without_text_there_are_no_subtitles() -> None:
    silent = Transcript(Path("a.wav"), 1.0, (TranscriptSegment(0, 1, ""),))
    assert (silent.text, silent.format_subtitles("srt")) == ("", "")
    assert silent.format_subtitles("vtt") == "WEBVTT\n"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> InferenceEngine:
    """A model that knows six tones by heart."""
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    setup = make_training_setup(make_tiny_plan(folder, 6, steps=100, learning_rate=1e-2), examples)
    list(setup.iter_events())
    setup.model.eval()
    return setup.engine


def test_recordings_are_transcribed_in_order(
    trained: InferenceEngine, examples: list[Example]
) -> None:
    paths = [example.audio_segments[0].path for example in examples]
    transcripts = list(transcribe_files(trained, paths))
    assert [each.text for each in transcripts] == [example.target for example in examples]
    assert [each.path for each in transcripts] == paths
    assert [each.seconds for each in transcripts] == pytest.approx(
        [0.4 + 0.05 * n for n in range(6)]
    )


def test_a_long_recording_is_cut_at_its_pauses(
    trained: InferenceEngine, examples: list[Example], tmp_path: Path
) -> None:
    """Three tones, each after a pause: three segments, where they are."""
    pause = np.zeros(round(1.2 * SAMPLE_RATE), np.float32)
    pieces = []
    for example in (examples[5], examples[0], examples[2]):
        tone = soundfile.read(example.audio_segments[0].path, dtype="float32")[0]
        pieces += [pause, tone]
    soundfile.write(tmp_path / "long.wav", np.concatenate(pieces), SAMPLE_RATE)
    (transcript,) = transcribe_files(trained, [tmp_path / "long.wav"])
    starts = [segment.start for segment in transcript.segments]
    assert starts == pytest.approx([1.2, 3.05, 4.65], abs=0.2)
    window_seconds = trained.model.spec.audio_spec.window_seconds
    assert all(each.end - each.start <= window_seconds for each in transcript.segments)
    assert window_seconds < MAX_SEGMENT_SECONDS


def test_a_long_recording_may_be_cut_evenly(trained: InferenceEngine, tmp_path: Path) -> None:
    path = write_tone(tmp_path / "long.wav", hertz=500, seconds=4.5)
    (transcript,) = transcribe_files(trained, [path], segmentation="none")
    times = [(segment.start, segment.end) for segment in transcript.segments]
    assert times == [(0.0, 2.0), (2.0, 4.0), (4.0, 4.5)]


def test_the_text_of_a_segment_is_one_line(trained: InferenceEngine, tmp_path: Path) -> None:
    """A blank line within a subtitle would end it."""
    path = write_tone(tmp_path / "odd.wav", hertz=5000, seconds=5)
    (transcript,) = transcribe_files(trained, [path])
    assert all(each.text == " ".join(each.text.split()) for each in transcript.segments)


def test_a_missing_recording_is_named(trained: InferenceEngine, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="gone.wav"):
        list(transcribe_files(trained, [tmp_path / "gone.wav"]))


def test_another_sample_rate_is_refused_without_auto_resample(
    trained: InferenceEngine, tmp_path: Path
) -> None:
    path = write_tone(tmp_path / "a.wav", hertz=200, seconds=5, sample_rate=8000)
    with pytest.raises(AudioError, match="8000 Hz"):
        list(transcribe_files(trained, [path]))
