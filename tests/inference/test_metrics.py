"""Word and character errors, counted by hand."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as some

from dlm.inference.metrics import (
    compute_character_errors,
    compute_word_errors,
    normalize_transcript,
    score_utterance,
)


@pytest.mark.parametrize(
    ("written", "words"),
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
        ("", ""),
    ],
)
def test_words_as_the_scores_see_them(written: str, words: str) -> None:
    assert normalize_transcript(written) == words


@given(text=some.text(max_size=60))
def test_normal_words_are_normal(text: str) -> None:
    once = normalize_transcript(text)
    assert normalize_transcript(once) == once
    assert once == " ".join(once.split())


@pytest.mark.parametrize(
    ("said", "heard", "counts"),
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
def test_words_by_hand(said: list[str], heard: list[str], counts: tuple[float, ...]) -> None:
    found = compute_word_errors(said, heard)
    told = (
        found.rate,
        found.substitutions,
        found.deletions,
        found.insertions,
        found.reference_length,
    )
    assert told == pytest.approx(counts)


@pytest.mark.parametrize(
    ("said", "heard", "counts"),
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
def test_characters_by_hand(said: list[str], heard: list[str], counts: tuple[float, ...]) -> None:
    found = compute_character_errors(said, heard)
    told = (
        found.rate,
        found.substitutions,
        found.deletions,
        found.insertions,
        found.reference_length,
    )
    assert told == pytest.approx(counts)


LINES = some.lists(some.text(alphabet="ab c'ë.", max_size=12), min_size=1, max_size=4)


@given(said=LINES, chance=some.randoms(use_true_random=False))
def test_rates_are_those_of_jiwer(said: list[str], chance: object) -> None:
    heard = ["".join(chance.sample(each, len(each))) for each in said]
    ours = compute_word_errors(said, heard)
    if not any(map(normalize_transcript, said)):
        assert ours.reference_length == 0
        return
    pairs = [[normalize_transcript(each) for each in side] for side in (said, heard)]
    assert ours.rate == pytest.approx(jiwer.wer(*pairs))
    assert compute_character_errors(said, heard).rate == pytest.approx(jiwer.cer(*pairs))
    edits = ours.substitutions + ours.deletions + ours.insertions
    assert edits / ours.reference_length == pytest.approx(ours.rate)


def test_one_clip() -> None:
    one = score_utterance("a.wav", "One two.", "one three")
    assert (one.location, one.reference, one.hypothesis, one.wer) == (
        "a.wav",
        "One two.",
        "one three",
        0.5,
    )
