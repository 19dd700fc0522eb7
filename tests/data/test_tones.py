"""Tones made by dlm: the same for a seed, each of them what its word says."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.synthetic import TONE_FREQUENCIES, TONE_SAMPLE_RATE
from tests.cli_runner import dlm, hash_files


def made(folder: Path, *words: object) -> dict[str, str]:
    done = dlm("tones", folder, *words)
    assert done.code == 0, done.err
    assert done.out == f"{folder}\n"
    return hash_files(folder)


def test_a_seed_makes_the_same_bytes_and_a_larger_set_begins_with_the_smaller(
    tmp_path: Path,
) -> None:
    first = made(tmp_path / "a", "--count", 6)
    assert made(tmp_path / "b", "--count", 6) == first
    assert first.items() < made(tmp_path / "c", "--count", 7).items()
    other = made(tmp_path / "d", "--count", 6, "--seed", 1)
    assert not {sha for name, sha in first.items() if name.endswith("wav")} & set(other.values())


def test_a_tone_is_what_its_word_says(tmp_path: Path) -> None:
    made(tmp_path / "tones", "--count", 10)
    seen = set()
    for path in sorted((tmp_path / "tones").glob("*.wav")):
        samples, rate = soundfile.read(path)
        assert rate == TONE_SAMPLE_RATE and 0.8 <= len(samples) / rate <= 1.6
        word = path.with_suffix(".txt").read_text().removeprefix("a ").removesuffix(" tone\n")
        heard = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        loudest = heard.argmax() * rate / len(samples)
        assert loudest == pytest.approx(TONE_FREQUENCIES[word], rel=0.035)
        assert 0.05 < np.abs(samples).max() < 1
        overtones = heard[round(1.5 * loudest * len(samples) / rate) :]
        assert overtones.max() > 0.05 * heard.max()
        seen.add(word)
    assert seen == set(TONE_FREQUENCIES)


def test_tones_refuse_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("words")
    dlm("tones", tmp_path).refused("not empty")
    dlm("tones", tmp_path / "mine.txt").refused("not empty")
    dlm("tones", tmp_path / "new", "--count", 0).refused("--count", code=2)
    assert not (tmp_path / "new").exists()
