"""Speech is detected as the package silero-vad does, but a minute of audio at a time."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from silero_vad import get_speech_timestamps, load_silero_vad

from dlm.data.segmentation import split_on_silence
from dlm.data.types import AudioSegment
from dlm.errors import MissingExtra
from dlm.inference.vad import VAD_SAMPLE_RATE, VAD_WINDOW_SAMPLES, SileroVad, require_vad_extra

CLIPS = sorted((Path(__file__).parents[2] / "examples/voice/clips").glob("*.flac"))
FRAME_SECONDS = 0.02
Spans = list[tuple[float, float]]


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return SileroVad()


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Spans]:
    """Seventy seconds with four sentences in a room that is not quiet, and where they are."""
    waveform = np.random.default_rng(0).normal(0, 0.01, 70 * VAD_SAMPLE_RATE).astype(np.float32)
    spans = []
    for start, clip in zip((5, 31, 58.5, 65), CLIPS, strict=False):
        sentence = soundfile.read(clip, dtype="float32")[0]
        first = round(start * VAD_SAMPLE_RATE)
        waveform[first : first + len(sentence)] += sentence
        spans.append((start, start + len(sentence) / VAD_SAMPLE_RATE))
    return write_audio(tmp_path_factory.mktemp("talk") / "talk.wav", waveform), spans


def write_audio(path: Path, waveform: np.ndarray, sample_rate: int = VAD_SAMPLE_RATE) -> Path:
    soundfile.write(path, waveform, sample_rate)
    return path


def split(path: Path, vad: SileroVad | None = None) -> tuple[tuple[float, float], ...]:
    vad_fn = vad and vad.detect_speech
    return split_on_silence(
        AudioSegment(path), max_seconds=12, max_merged_seconds=1, vad_fn=vad_fn
    ).spans


def test_detected_speech_is_that_of_the_package(vad: SileroVad, talk: tuple[Path, Spans]) -> None:
    waveform = torch.from_numpy(soundfile.read(talk[0], dtype="float32")[0])
    with pytest.warns(DeprecationWarning):  # how it finds and reads its files
        model = load_silero_vad()
    expected = np.zeros(70 * 50, bool)
    for span in get_speech_timestamps(waveform, model):
        first, last = (round(span[edge] / VAD_SAMPLE_RATE * 50) for edge in ("start", "end"))
        expected[first:last] = True
    assert expected.any()
    np.testing.assert_array_equal(
        vad.detect_speech(AudioSegment(talk[0]), 70 * 50, FRAME_SECONDS), expected
    )


def test_speech_of_a_span_is_that_of_the_span_alone(
    vad: SileroVad, talk: tuple[Path, Spans], tmp_path: Path
) -> None:
    waveform = soundfile.read(talk[0], dtype="float32")[0][30 * VAD_SAMPLE_RATE :]
    alone = AudioSegment(write_audio(tmp_path / "span.wav", waveform))
    probs = vad.compute_speech_probs(AudioSegment(talk[0], 30.0, 70.0))
    np.testing.assert_allclose(probs, vad.compute_speech_probs(alone), atol=1e-3)


def test_a_noisy_recording_is_cut_where_nobody_speaks(
    vad: SileroVad, talk: tuple[Path, Spans]
) -> None:
    """Where the loudest and the quietest are 20 dB apart, levels alone are not enough."""
    path, expected = talk
    spans = split(path, vad)
    assert len(spans) == len(expected)
    for (start, end), (first, last) in zip(spans, expected, strict=True):
        assert start == pytest.approx(first, abs=0.6) and end == pytest.approx(last, abs=0.6)
    assert len(split(path)) > len(expected)


def test_noise_holds_no_speech(vad: SileroVad, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * VAD_SAMPLE_RATE)
    assert split(write_audio(tmp_path / "a.wav", noise), vad) == ()


def test_another_sample_rate_gives_the_same_speech(
    vad: SileroVad, talk: tuple[Path, Spans], tmp_path: Path
) -> None:
    waveform = soundfile.read(talk[0], dtype="float32")[0][: 40 * VAD_SAMPLE_RATE]
    path = write_audio(tmp_path / "a.wav", np.repeat(waveform, 3), 3 * VAD_SAMPLE_RATE)
    masks = [
        vad.detect_speech(AudioSegment(each, 0.0, 40.0), 2000, FRAME_SECONDS)
        for each in (talk[0], path)
    ]
    assert masks[0].any() and (masks[0] == masks[1]).mean() > 0.98


@pytest.mark.parametrize("extra_samples", [0, 1, 1411, 1412, 3000])
def test_all_audio_after_a_whole_minute_is_checked(
    vad: SileroVad, tmp_path: Path, extra_samples: int
) -> None:
    path = write_audio(tmp_path / "a.wav", np.zeros(60 * 44100 + extra_samples), 44100)
    num_windows = (60 + extra_samples / 44100) * VAD_SAMPLE_RATE / VAD_WINDOW_SAMPLES
    assert abs(len(vad.compute_speech_probs(AudioSegment(path))) - num_windows) <= 1


def test_the_number_of_threads_stays(vad: SileroVad, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        path = write_audio(tmp_path / "a.wav", np.zeros(VAD_SAMPLE_RATE))
        SileroVad().compute_speech_probs(AudioSegment(path))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(MissingExtra) as caught:
        require_vad_extra()
    assert str(caught.value) == "silero-vad is not installed; pip install 'dlm[voice]'"
    assert caught.value.code == "extra.missing"
