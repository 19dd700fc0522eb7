"""The synthetic corpus of tones: the same bytes for a seed, and each tone as its word says."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.synthetic import TONE_FREQUENCIES, TONE_SAMPLE_RATE
from tests.cli_runner import dlm, hash_files


def write_and_hash(folder: Path, *options: object) -> dict[str, str]:
    done = dlm("tones", folder, *options)
    assert done.code == 0, done.err
    assert done.out == f"{folder}\n"
    return hash_files(folder)


def test_a_seed_gives_the_same_bytes_and_a_larger_corpus_begins_with_the_smaller(
    tmp_path: Path,
) -> None:
    first = write_and_hash(tmp_path / "a", "--count", 6)
    assert write_and_hash(tmp_path / "b", "--count", 6) == first
    assert first.items() < write_and_hash(tmp_path / "c", "--count", 7).items()
    other_seed = write_and_hash(tmp_path / "d", "--count", 6, "--seed", 1)
    recordings = {sha256 for name, sha256 in first.items() if name.endswith("wav")}
    assert recordings.isdisjoint(other_seed.values())


def test_a_tone_has_the_frequency_of_its_word(tmp_path: Path) -> None:
    write_and_hash(tmp_path / "tones", "--count", 10)
    words = set()
    for path in sorted((tmp_path / "tones").glob("*.wav")):
        waveform, rate = soundfile.read(path)
        assert rate == TONE_SAMPLE_RATE and 0.8 <= len(waveform) / rate <= 1.6
        word = path.with_suffix(".txt").read_text().removeprefix("a ").removesuffix(" tone\n")
        spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
        loudest_hertz = spectrum.argmax() * rate / len(waveform)
        assert loudest_hertz == pytest.approx(TONE_FREQUENCIES[word], rel=0.035)
        assert 0.05 < np.abs(waveform).max() < 1
        overtones = spectrum[round(1.5 * loudest_hertz * len(waveform) / rate) :]
        assert overtones.max() > 0.05 * spectrum.max()
        words.add(word)
    assert words == set(TONE_FREQUENCIES)


def test_a_folder_in_use_and_a_count_of_zero_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("words")
    dlm("tones", tmp_path).refused("not empty")
    dlm("tones", tmp_path / "mine.txt").refused("not empty")
    dlm("tones", tmp_path / "new", "--count", 0).refused("--count", code=2)
    assert not (tmp_path / "new").exists()


def test_the_tones_of_the_smoke_test_are_as_written(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    write_and_hash(folder, "--smoke")
    dlm("tones", tmp_path / "x", "--smoke", "--count", 5).refused("exclude each other", code=2)
    for number, frequency in enumerate((220, 330, 440, 660, 880)):
        samples, rate = soundfile.read(folder / f"{number:04}.wav")
        assert (len(samples), rate) == (80_000, 16_000)
        spectrum = np.abs(np.fft.rfft(samples)) / len(samples)
        first, second = spectrum[5 * frequency], spectrum[10 * frequency]
        assert spectrum.argmax() == 5 * frequency and second == pytest.approx(first / 2, rel=0.02)
        rest = np.delete(spectrum, [5 * frequency, 10 * frequency])
        noise = np.sqrt(2 * np.square(rest).sum())
        assert noise == pytest.approx(0.01 * 2 * first, rel=0.1)  # 1 % of the fundamental
