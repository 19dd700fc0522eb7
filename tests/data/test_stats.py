"""Statistics of examples and of the dataset: what they hold, and that audio counts once."""

import hashlib
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlm.data.stats import LENGTH_EDGES_SECONDS, LEVEL_EDGES_DB, CountDuration, Histogram
from dlm.data.types import AudioSegment, Example, Message
from tests.data.recordings import RATE, make_audio_example, make_noise, save_audio
from tests.data.validation import list_issues, validate


def list_bins(histogram: Histogram) -> dict[float, int]:
    """The counts that are not zero, by lower edge."""
    bins = zip(histogram.edges, histogram.counts, strict=False)
    return {edge: count for edge, count in bins if count}


def test_values_are_counted_between_the_edges_of_a_histogram() -> None:
    values = [-1.0, 0.0, 0.99, 1.0, 1.5, 2.0, 1e9]
    assert Histogram.from_values((0.0, 1.0, 2.0, math.inf), values).counts == (3, 2, 2)
    assert Histogram.from_values((0.0, 1.0), []).counts == (0,)


@pytest.mark.parametrize("edges", [LENGTH_EDGES_SECONDS, LEVEL_EDGES_DB])
def test_the_edges_of_histograms_rise(edges: tuple[float, ...]) -> None:
    assert list(edges) == sorted(set(edges))


def test_an_example_is_measured(tmp_path: Path) -> None:
    wave = np.zeros((RATE, 1), np.float32)
    wave[: RATE // 2] = 0.5
    wave[: RATE // 2 : 2] = -0.5
    path = save_audio(tmp_path / "a.wav", wave, subtype="FLOAT")
    (stats,) = validate(make_audio_example(path, "one two three four")).example_stats
    assert (stats.location, stats.task) == ("a.wav", "transcribe")
    assert (stats.seconds, stats.num_samples, stats.sample_rate) == (1.0, RATE, RATE)
    assert (stats.num_channels, stats.durations) == (1, (1.0,))
    assert (stats.peak, stats.silent_fraction, stats.clipped_fraction) == (0.5, 0.5, 0.0)
    assert stats.rms == pytest.approx(0.5 / 2**0.5)
    assert (stats.num_words, stats.words_per_second) == (4, 4.0)
    assert stats.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_span_is_measured_alone(tmp_path: Path) -> None:
    wave = np.concatenate([make_noise(1.0), 4 * make_noise(1.0)])
    path = save_audio(tmp_path / "a.wav", wave, subtype="FLOAT")
    spans = [
        make_audio_example(path, start=0.0, end=1.0),
        make_audio_example(path, start=1.0, end=2.0),
    ]
    quiet, loud = validate(*spans).example_stats
    assert loud.rms == pytest.approx(4 * quiet.rms) and quiet.seconds == loud.seconds == 1.0


def test_several_segments_of_an_example_are_measured_as_one(tmp_path: Path) -> None:
    segments = [
        AudioSegment(save_audio(tmp_path / f"{n}.wav", make_noise(n + 1.0, seed=n)))
        for n in range(2)
    ]
    messages = (Message("user", (*segments, "Same voice?")), Message("assistant", ("No.",)))
    (stats,) = validate(Example(messages, "my.dlm:3", "answer")).example_stats
    assert (stats.seconds, stats.num_samples, stats.num_words) == (3.0, 3 * RATE, 1)


def test_the_dataset_counts_a_shared_segment_once(tmp_path: Path) -> None:
    paths = [
        save_audio(tmp_path / f"{n}.wav", make_noise(1.0 + n, rate=rate, seed=n), rate=rate)
        for n, rate in enumerate([RATE, RATE, 8000])
    ]
    question = Message("user", (AudioSegment(paths[0]), "Who?"))
    examples = [
        *(make_audio_example(path, "one two three four") for path in paths),
        Example((Message("assistant", ("Prose.",)),), "my.dlm:9", "text"),
        Example((question, Message("assistant", ("Ann.",))), "q", "answer"),
    ]
    assert list_issues(*examples, auto_resample=True) == []
    report = validate(*examples, auto_resample=True)
    assert report.num_examples == len(report.example_stats) == 5
    assert report.hours == pytest.approx(6 / 3600)
    assert (report.seconds_min, report.seconds_median, report.seconds_max) == (1.0, 2.0, 3.0)
    assert report.sample_rates == Counter({RATE: 2, 8000: 1})
    assert report.tasks == Counter({"transcribe": 3, "text": 1, "answer": 1})


def test_lengths_and_levels_have_histograms(tmp_path: Path) -> None:
    examples = [
        make_audio_example(save_audio(tmp_path / f"{n}.wav", make_noise(seconds, seed=n)), f"{n}")
        for n, seconds in enumerate([0.2, 0.7, 0.8, 3.0, 9.0])
    ]
    loud = np.tile(np.float32([[0.5], [-0.5]]), (8000, 1))
    report = validate(
        *examples, make_audio_example(save_audio(tmp_path / "loud.wav", loud), "loud")
    )
    assert list_bins(report.lengths) == {0.0: 1, 0.5: 2, 1.0: 1, 2.0: 1, 8.0: 1}
    assert list_bins(report.levels) == {-30.0: 5, -10.0: 1}  # noise of 0.054 is -25.4 dBFS
    assert report.num_segments == report.num_decoded == 6


def test_languages_speakers_and_rates_count_each_segment_once(tmp_path: Path) -> None:
    paths = [save_audio(tmp_path / f"{n}.wav", make_noise(1.0 + n, seed=n)) for n in range(3)]
    texts = ["one two three", "four", "five six"]
    first, second, third = (
        make_audio_example(path, text) for path, text in zip(paths, texts, strict=True)
    )
    question = Message("user", (*third.audio_segments, "Who?"))
    report = validate(
        replace(first, language="fr", speaker="ann"),
        replace(second, language="de", speaker="ann"),
        replace(third, language="de"),
        Example((question, Message("assistant", ("Ann.",))), "q", "answer", "de"),
        Example((Message("assistant", ("Prose.",)),), "p", "text", "fr"),
    )
    assert report.languages == {"de": CountDuration(3, 5.0), "fr": CountDuration(1, 1.0)}
    assert list(report.languages) == ["de", "fr"], "most seconds first"
    assert report.speakers == {"ann": CountDuration(2, 3.0)}
    assert report.sample_rates == Counter({16_000: 3})
    assert report.transcripts_per_minute == pytest.approx(3 / 6 * 60)
    assert report.words_per_second == pytest.approx(2 / 3)  # of 3, 0.5 and 0.67


def test_no_examples_have_empty_statistics() -> None:
    report = validate()
    assert (report.num_examples, report.hours, report.seconds_min, report.seconds_max) == (0,) * 4
    assert report.issues == () and report.languages == report.speakers == {}
    assert not sum(report.lengths.counts)
    assert (report.transcripts_per_minute, report.words_per_second) == (0.0, 0.0)
