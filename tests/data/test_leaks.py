"""What is in both the clips that are learned from and those held out."""

import shutil
from dataclasses import replace
from pathlib import Path

from dlm.config.data_schema import AudioConfig
from dlm.data.contamination import check_leakage
from dlm.data.load import LoadedData
from dlm.data.types import Example
from dlm.data.validate import validate_examples
from tests.data.sounds import RATE, noise, save, spoken

SENTENCE = "The quick brown fox jumps over it"


def lines(learn: list[Example], held_out: list[Example]) -> list[str]:
    both = LoadedData((*learn, *held_out), (), ())
    report = validate_examples(both, rate=RATE, window_seconds=30.0, audio_config=AudioConfig())
    found = list(check_leakage(learn, held_out, report.example_stats))
    assert not any(problem.fatal for problem in found)
    return [str(problem) for problem in found]


def clip(path: Path, text: str, *, seed: int = 0, speaker: str | None = None) -> Example:
    return replace(spoken(save(path, noise(seed=seed)), text), speaker=speaker)


def test_a_sentence_on_both_sides(tmp_path: Path) -> None:
    learn = [clip(tmp_path / "a.wav", SENTENCE), clip(tmp_path / "b.wav", "else", seed=1)]
    held = [clip(tmp_path / "c.wav", f"{SENTENCE.lower()}!", seed=2)]
    assert lines(learn, held) == [
        "c.wav: it is held out, and a.wav, which is learned from, says the same; "
        "take one of them out, or hold out a source with sentences of its own"
    ]
    assert lines(learn, []) == []


def test_short_phrases_leak_nothing(tmp_path: Path) -> None:
    learn, held = ([clip(tmp_path / f"{n}.wav", "yes please do", seed=n)] for n in range(2))
    assert lines(learn, held) == []


def test_the_same_sound_on_both_sides(tmp_path: Path) -> None:
    learn = [clip(tmp_path / "a.wav", SENTENCE)]
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    held = [spoken(tmp_path / "b.wav", "quite another text that is not it")]
    assert lines(learn, held) == [
        "b.wav: it is held out, and a.wav, which is learned from, is the same sound; "
        "keep them on one side with training.split_by: content"
    ]


def test_a_speaker_on_both_sides_is_told_once(tmp_path: Path) -> None:
    known = [
        clip(tmp_path / f"{n}.wav", f"text {n}", seed=n, speaker=who)
        for n, who in enumerate(["ann", "ann", "bob", "ann", "ann", "eve", None])
    ]
    assert lines([*known[:3], known[6]], known[3:6]) == [
        "3.wav: speaker ann is heard in 2 held out and 2 clips learned from; "
        "keep them on one side with training.split_by: speaker"
    ]


def test_nobody_known_speaks_on_no_side(tmp_path: Path) -> None:
    learn, held = ([clip(tmp_path / f"{n}.wav", f"text {n}", seed=n)] for n in range(2))
    assert lines(learn, held) == []
