"""How far what was heard is from what was said: WER and CER, with their edits.

Scores carry the name of the normaliser, since the same words score differently under another.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import jiwer

NORMALISER = "dlm-1: NFKC, lower case, no punctuation but apostrophes within words"
APOSTROPHES = str.maketrans({"\u2019": "'", "\u02bc": "'"})


@dataclass(frozen=True)
class Errors:
    """Edits that turn what was heard into what was said, counted over all clips."""

    rate: float
    substitutions: int
    deletions: int
    insertions: int
    length: int  # words, or characters, that were said


@dataclass(frozen=True)
class Scored:
    """One clip: what was said, what was heard, and its own word error rate."""

    place: str
    said: str
    heard: str
    wer: float


@lru_cache(maxsize=100_000)
def normalise(text: str) -> str:
    """Words as the scores see them; letters, marks and digits of every script are kept."""
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHES).lower()
    kept = "".join(each if _counts(each) else " " for each in text)
    return " ".join(word.strip("'") for word in kept.split() if word.strip("'"))


def word_errors(said: list[str], heard: list[str]) -> Errors:
    """Word error rate over all clips together."""
    pairs = _pairs(said, heard)
    if not pairs:
        return _unsaid(heard, characters=False)
    counted = jiwer.process_words(*_columns(pairs))
    return _edits(counted, counted.wer)


def character_errors(said: list[str], heard: list[str]) -> Errors:
    """Character error rate over all clips together, spaces included."""
    pairs = _pairs(said, heard)
    if not pairs:
        return _unsaid(heard, characters=True)
    counted = jiwer.process_characters(*_columns(pairs))
    return _edits(counted, counted.cer)


def score(place: str, said: str, heard: str) -> Scored:
    """One clip's own word error rate."""
    return Scored(place, said, heard, word_errors([said], [heard]).rate)


def _edits(counted: jiwer.WordOutput | jiwer.CharacterOutput, rate: float) -> Errors:
    """What jiwer counted, with the length of what was said."""
    edits = (counted.substitutions, counted.deletions, counted.insertions)
    return Errors(rate, *edits, counted.hits + counted.substitutions + counted.deletions)


def _counts(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character == "'"


def _pairs(said: list[str], heard: list[str]) -> list[tuple[str, str]]:
    """Normalised pairs, what was heard where nothing was said among them; empty if nothing was."""
    both = [(normalise(one), normalise(two)) for one, two in zip(said, heard, strict=True)]
    return both if any(one for one, _ in both) else []


def _columns(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [said for said, _ in pairs], [heard for _, heard in pairs]


def _unsaid(heard: list[str], *, characters: bool) -> Errors:
    """Nothing was said: every word heard is an insertion, and the rate is 1 when there is any."""
    words = [normalise(each) for each in heard]
    count = sum(len(each if characters else each.split()) for each in words)
    return Errors(float(count > 0), 0, 0, count, 0)
