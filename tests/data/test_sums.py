"""What all clips are together."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlm.data.stats import LENGTH_EDGES_SECONDS, LEVEL_EDGES_DB, CountDuration, Histogram
from dlm.data.types import Example, Message
from tests.data.sounds import noise, save, spoken
from tests.data.test_audit import looked_at


def test_values_fall_between_their_edges() -> None:
    found = Histogram.from_values((0.0, 1.0, 2.0, math.inf), [-1.0, 0.0, 0.99, 1.0, 1.5, 2.0, 1e9])
    assert found.counts == (3, 2, 2)
    assert Histogram.from_values((0.0, 1.0), []).counts == (0,)


@pytest.mark.parametrize("edges", [LENGTH_EDGES_SECONDS, LEVEL_EDGES_DB])
def test_edges_rise(edges: tuple[float, ...]) -> None:
    assert list(edges) == sorted(set(edges))


def test_lengths_and_levels(tmp_path: Path) -> None:
    seconds = [0.2, 0.7, 0.8, 3.0, 9.0]
    clips = [
        spoken(save(tmp_path / f"{n}.wav", noise(each, seed=n)), f"{n}")
        for n, each in enumerate(seconds)
    ]
    full = np.tile(np.float32([[0.5], [-0.5]]), (8000, 1))
    report = looked_at(*clips, spoken(save(tmp_path / "loud.wav", full), "loud"))
    at = {
        edge: count
        for edge, count in zip(LENGTH_EDGES_SECONDS, report.lengths.counts, strict=False)
        if count
    }
    assert at == {0.0: 1, 0.5: 2, 1.0: 1, 2.0: 1, 8.0: 1}
    at = {
        edge: count
        for edge, count in zip(LEVEL_EDGES_DB, report.levels.counts, strict=False)
        if count
    }
    assert at == {-30.0: 5, -10.0: 1}  # noise of 0.054 is -25.4 dBFS
    assert report.num_segments == report.num_decoded == 6


def test_languages_speakers_and_rates_count_each_sound_once(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.wav", noise(1.0 + n, seed=n)) for n in range(3)]
    texts = ["one two three", "four", "five six"]
    plain = [spoken(path, text) for path, text in zip(paths, texts, strict=True)]
    clips = [
        replace(plain[0], language="fr", speaker="ann"),
        replace(plain[1], language="de", speaker="ann"),
        replace(plain[2], language="de"),
        Example(
            (Message("user", (*plain[2].audio_segments, "Who?")), Message("assistant", ("Ann.",))),
            "q",
            "answer",
            "de",
        ),
        Example((Message("assistant", ("Prose.",)),), "p", "text", "fr"),
    ]
    report = looked_at(*clips)
    assert report.languages == {"de": CountDuration(3, 5.0), "fr": CountDuration(1, 1.0)}
    assert list(report.languages) == ["de", "fr"]  # the most heard first
    assert report.speakers == {"ann": CountDuration(2, 3.0)}
    assert report.sample_rates == Counter({16_000: 3})
    assert report.transcripts_per_minute == pytest.approx(3 / 6 * 60)
    assert report.words_per_second == pytest.approx(2 / 3)  # of 3, 0.5 and 0.67


def test_nothing_known_is_nothing_told() -> None:
    report = looked_at()
    assert report.languages == report.speakers == {} and not sum(report.lengths.counts)
    assert (report.transcripts_per_minute, report.words_per_second) == (0.0, 0.0)
