"""What is odd about clips beside each other."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.duplicates import MAX_REPORTED_TRANSCRIPTS, MIN_RATE_EXAMPLES, normalize_sentence
from dlm.data.types import Example, Message
from tests.data.sounds import RATE, noise, save, spoken
from tests.data.test_audit import remarks

SENTENCE = "we will meet again at nine"


def rising(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Noise that rises and falls like speech, differently for each seed: (samples, 1)."""
    wave = noise(seconds, seed=seed)
    steps = np.random.default_rng(seed).uniform(-40, 0, 16)
    levels = np.interp(np.arange(len(wave)), np.linspace(0, len(wave), 16), 10 ** (steps / 20))
    return (wave * levels[:, None]).astype(np.float32)


@pytest.mark.parametrize("copy", ["b.mp3", "b.ogg", "quieter.wav", "b.opus"])
def test_a_near_copy(tmp_path: Path, copy: str) -> None:
    first = save(tmp_path / "a.wav", rising(1))
    again = save(tmp_path / copy, rising(1) * (0.4 if "quieter" in copy else 1))
    others = [spoken(save(tmp_path / f"{n}.wav", rising(n)), f"other {n}") for n in range(2, 6)]
    (line,) = remarks(spoken(first, "one"), spoken(again, "two"), *others, auto_resample=True)
    what = f"{copy}: it sounds all but the same as a.wav; take one of them out if it is a copy"
    assert line == what


def test_other_sounds_of_one_length_are_no_copies(tmp_path: Path) -> None:
    clips = [spoken(save(tmp_path / f"{n}.wav", rising(n)), f"text {n}") for n in range(12)]
    flat = [spoken(save(tmp_path / f"flat{n}.wav", noise(2.0, seed=n)), f"f {n}") for n in range(4)]
    assert remarks(*clips, *flat) == []


def test_an_exact_copy_is_told_once(tmp_path: Path) -> None:
    wave = rising(1)
    clips = [spoken(save(tmp_path / f"{n}.wav", wave), "one two") for n in "ab"]
    assert remarks(*clips) == ["b.wav: it repeats a.wav; take one of them out"]


def test_one_transcript_for_several_recordings(tmp_path: Path) -> None:
    texts = [SENTENCE, SENTENCE.upper() + "!", f"  {SENTENCE}.", "something else is said here now"]
    clips = [
        spoken(save(tmp_path / f"{n}.wav", noise(seed=n)), text) for n, text in enumerate(texts)
    ]
    (line,) = remarks(*clips)
    what = "its transcript is that of 3 recordings; check the transcripts against their sounds"
    assert line == f"0.wav: {what}"
    assert remarks(*clips[:2]) == []  # two may be two takes


def test_short_phrases_and_answers_may_come_again(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.wav", noise(seed=n)) for n in range(4)]
    assert remarks(*(spoken(path, "turn on the light") for path in paths)) == []
    asked = [
        Example(
            (
                Message("user", (*spoken(path).audio_segments, "Who?")),
                Message("assistant", (SENTENCE,)),
            ),
            path.name,
            "answer",
        )
        for path in paths
    ]
    assert remarks(*asked) == []


def test_spans_of_one_recording_may_say_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(3.0))
    assert remarks(*(spoken(path, SENTENCE, start=n, end=n + 1.0) for n in range(3))) == []


def test_very_many_shared_transcripts_are_counted(tmp_path: Path) -> None:
    count = MAX_REPORTED_TRANSCRIPTS + 3
    clips = [
        spoken(save(tmp_path / f"{n}.wav", noise(0.2, seed=n)), f"{SENTENCE} or number {n % count}")
        for n in range(3 * count)
    ]
    lines = remarks(*clips)
    assert len(lines) == MAX_REPORTED_TRANSCRIPTS + 1
    assert "and 3 transcripts more, of 9 recordings; check" in lines[-1]


def paced(folder: Path, words: list[int], text: str = "word") -> list[Example]:
    """A clip of three seconds for each number of words, none of which comes twice."""
    path = save(folder / "long.wav", noise(3.0 * len(words)))
    return [
        spoken(
            path, " ".join(f"{text}{n}a{m}" for m in range(count)), start=3.0 * n, end=3.0 * n + 3
        )
        for n, count in enumerate(words)
    ]


def test_a_pace_unlike_the_others(tmp_path: Path) -> None:
    usual = [7, 8, 9, 8] * 10
    lines = remarks(*paced(tmp_path, [*usual, 17, 2]))
    mend = "check that transcript and sound belong together"
    assert lines == [
        f"long.wav: 5.7 words per second, and the others have about 2.7; {mend}",
        f"long.wav: 0.7 words per second, and the others have about 2.7; {mend}",
    ]
    assert remarks(*paced(tmp_path, [*usual, 11, 6])) == []
    few = [8] * (MIN_RATE_EXAMPLES - 2)
    assert remarks(*paced(tmp_path, [*few, 16])) == []  # too few to tell what is usual


def test_a_pace_without_spaces_counts_letters(tmp_path: Path) -> None:
    path = save(tmp_path / "long.wav", noise(3.0 * 41))
    counts = [15] * 40 + [60]
    clips = [
        spoken(path, "今" * (count - 3) + f"{n:03d}", start=3.0 * n, end=3.0 * n + 3)
        for n, count in enumerate(counts)
    ]
    (line,) = remarks(*clips)
    assert "long.wav: 20.0 letters per second, and the others have about 5.0; check" in line


def test_an_absurd_pace_is_told_once(tmp_path: Path) -> None:
    (line,) = remarks(*paced(tmp_path, [*[8] * 40, 30]))
    assert "10.0 words per second: too much text for 3.0 s of speech" in line


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Half past NINE.", "half past nine"),
        ("  don\u2019t -- stop!\n", "dont stop"),
        ("don't stop", "dont stop"),
        ("\uff21\uff22 cafe\u0301", "ab caf\u00e9"),
        (
            "\u0928\u092e\u0938\u094d\u0924\u0947, \u0926\u0941\u0928\u093f\u092f\u093e",
            "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
        ),
        ("?!", ""),
    ],
)
def test_sentences_are_compared_without_case_and_punctuation(text: str, same: str) -> None:
    assert normalize_sentence(text) == same


def test_a_recording_and_its_flac_of_another_rate(tmp_path: Path) -> None:
    smooth = np.hanning(25) / 12
    waves = [np.convolve(rising(n, 3.0)[:, 0], smooth, "same")[:, None] for n in (3, 4)]
    wave, other = 5 * waves[0], 5 * waves[1]
    half = wave.reshape(-1, 2, 1).mean(axis=1)
    soundfile.write(tmp_path / "b.flac", half, RATE // 2)
    files = [save(tmp_path / "a.wav", wave), tmp_path / "b.flac", save(tmp_path / "c.wav", other)]
    lines = remarks(*(spoken(file, "one") for file in files), auto_resample=True)
    assert [line.split(";")[0] for line in lines] == ["b.flac: it sounds all but the same as a.wav"]
