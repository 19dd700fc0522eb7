"""Word and character errors are those counted by hand, and those of jiwer."""

from dataclasses import astuple
from random import Random

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.inference.metrics import (
    compute_character_errors,
    compute_word_errors,
    normalize_transcript,
    score_utterance,
)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Hello, World!", "hello world"),
        ("  many \n blanks\t", "many blanks"),
        ("It's Ann’s 'quoted' dogs'", "it's ann's quoted dogs"),
        ("rock ʼn roll", "rock n roll"),
        ("well-known e.g. 3.5", "well known e g 3 5"),
        ("ＦＵＬＬ ﬁne ½", "full fine 1 2"),
        ("Zoë ZOË Zoe\u0308", "zoë zoë zoë"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("Привет, мир! 你好。", "привет мир 你好"),
        ("...!? ' ''", ""),
        ("don´t don`t don‘t ‘quoted’ don\u201bt", "don't don't don't quoted don't"),
        ("inter\u00adnational \ufeffword\u2060s", "international words"),
        ("می\u200cخواهم क्\u200dष", "میخواهم क्ष"),
        ("葛\U000e0100 1\ufe0f ᠠ\u180b", "葛 1 ᠠ"),
        ("ភាសា\u200bខ្មែរ", "ភាសា ខ្មែរ"),
        ("", ""),
    ],
)
def test_texts_are_normalized(text: str, normalized: str) -> None:
    assert normalize_transcript(text) == normalized


@given(text=st.text(max_size=60))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize_transcript(text)
    assert normalize_transcript(once) == once
    assert once == " ".join(once.split())


@pytest.mark.parametrize(
    ("references", "hypotheses", "expected"),
    [
        (["the cat sat"], ["the cat sat"], (0.0, 0, 0, 0, 3)),
        (["the cat sat"], ["the bat sat"], (1 / 3, 1, 0, 0, 3)),
        (["the cat sat"], ["cat sat"], (1 / 3, 0, 1, 0, 3)),
        (["the cat sat"], ["the cat sat down now"], (2 / 3, 0, 0, 2, 3)),
        (["The cat, sat."], ["the CAT sat"], (0.0, 0, 0, 0, 3)),
        (["one two", "three"], ["one", "four three"], (2 / 3, 0, 1, 1, 3)),
        (["one two"], [""], (1.0, 0, 2, 0, 2)),
        (["one"], ["a b c"], (3.0, 1, 0, 2, 1)),
        ([""], ["ghost words"], (1.0, 0, 0, 2, 0)),
        ([""], [""], (0.0, 0, 0, 0, 0)),
        (["...", "one two"], ["ghost", "one two"], (0.5, 0, 0, 1, 2)),
        ([], [], (0.0, 0, 0, 0, 0)),
    ],
)
def test_word_errors_are_counted(
    references: list[str], hypotheses: list[str], expected: tuple[float, ...]
) -> None:
    assert astuple(compute_word_errors(references, hypotheses)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("references", "hypotheses", "expected"),
    [
        (["cat"], ["cat"], (0.0, 0, 0, 0, 3)),
        (["cat"], ["cut"], (1 / 3, 1, 0, 0, 3)),
        (["a cat"], ["acat"], (1 / 5, 0, 1, 0, 5)),
        (["naïve"], ["naive"], (1 / 5, 1, 0, 0, 5)),
        (["cat"], ["cats"], (1 / 3, 0, 0, 1, 3)),
        (["ab", "cd"], ["", "cd"], (0.5, 0, 2, 0, 4)),
        ([""], ["ab"], (1.0, 0, 0, 2, 0)),
    ],
)
def test_character_errors_are_counted(
    references: list[str], hypotheses: list[str], expected: tuple[float, ...]
) -> None:
    assert astuple(compute_character_errors(references, hypotheses)) == pytest.approx(expected)


TEXTS = st.lists(st.text(alphabet="ab c'ë.", max_size=12), min_size=1, max_size=4)


@given(references=TEXTS, rng=st.randoms(use_true_random=False))
def test_rates_are_those_of_jiwer(references: list[str], rng: Random) -> None:
    hypotheses = ["".join(rng.sample(text, len(text))) for text in references]
    word_errors = compute_word_errors(references, hypotheses)
    normalized = [
        [normalize_transcript(text) for text in each] for each in (references, hypotheses)
    ]
    if not any(normalized[0]):
        assert word_errors.reference_length == 0
        return
    assert word_errors.rate == pytest.approx(jiwer.wer(*normalized))
    character_errors = compute_character_errors(references, hypotheses)
    assert character_errors.rate == pytest.approx(jiwer.cer(*normalized))
    num_edits = word_errors.substitutions + word_errors.deletions + word_errors.insertions
    assert num_edits / word_errors.reference_length == pytest.approx(word_errors.rate)


def test_an_utterance_has_its_own_rate() -> None:
    score = score_utterance("a.wav", "One two.", "one three")
    assert astuple(score) == ("a.wav", "One two.", "one three", 0.5)
