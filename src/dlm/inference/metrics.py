"""How far what was heard is from what was said: WER and CER, with their edits.

Scores carry the name of the normaliser, since the same words score differently under another.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import jiwer

NORMALIZER_NAME = "dlm-1: NFKC, lower case, no punctuation but apostrophes within words"
APOSTROPHE_MAP = str.maketrans({"\u2019": "'", "\u02bc": "'"})


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn what was heard into what was said, counted over all clips."""

    rate: float
    substitutions: int
    deletions: int
    insertions: int
    reference_length: int  # words, or characters, that were said


@dataclass(frozen=True)
class UtteranceScore:
    """One clip: what was said, what was heard, and its own word error rate."""

    location: str
    reference: str
    hypothesis: str
    wer: float


@lru_cache(maxsize=100_000)
def normalize_transcript(text: str) -> str:
    """Words as the scores see them; letters, marks and digits of every script are kept."""
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHE_MAP).lower()
    kept = "".join(each if _is_word_character(each) else " " for each in text)
    return " ".join(word.strip("'") for word in kept.split() if word.strip("'"))


def compute_word_errors(references: list[str], hypotheses: list[str]) -> ErrorCounts:
    """Word error rate over all clips together."""
    pairs = _normalize_pairs(references, hypotheses)
    if not pairs:
        return _count_insertions_only(hypotheses, by_character=False)
    counted = jiwer.process_words(*_unzip_pairs(pairs))
    return _to_error_counts(counted, counted.wer)


def compute_character_errors(references: list[str], hypotheses: list[str]) -> ErrorCounts:
    """Character error rate over all clips together, spaces included."""
    pairs = _normalize_pairs(references, hypotheses)
    if not pairs:
        return _count_insertions_only(hypotheses, by_character=True)
    counted = jiwer.process_characters(*_unzip_pairs(pairs))
    return _to_error_counts(counted, counted.cer)


def score_utterance(location: str, reference: str, hypothesis: str) -> UtteranceScore:
    """One clip's own word error rate."""
    return UtteranceScore(
        location, reference, hypothesis, compute_word_errors([reference], [hypothesis]).rate
    )


def _to_error_counts(
    jiwer_output: jiwer.WordOutput | jiwer.CharacterOutput, rate: float
) -> ErrorCounts:
    """What jiwer counted, with the length of what was said."""
    edits = (jiwer_output.substitutions, jiwer_output.deletions, jiwer_output.insertions)
    return ErrorCounts(
        rate, *edits, jiwer_output.hits + jiwer_output.substitutions + jiwer_output.deletions
    )


def _is_word_character(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character == "'"


def _normalize_pairs(references: list[str], hypotheses: list[str]) -> list[tuple[str, str]]:
    """Normalised pairs, what was heard where nothing was said among them; empty if nothing was."""
    both = [
        (normalize_transcript(one), normalize_transcript(two))
        for one, two in zip(references, hypotheses, strict=True)
    ]
    return both if any(one for one, _ in both) else []


def _unzip_pairs(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [said for said, _ in pairs], [heard for _, heard in pairs]


def _count_insertions_only(hypotheses: list[str], *, by_character: bool) -> ErrorCounts:
    """Nothing was said: every word heard is an insertion, and the rate is 1 when there is any."""
    words = [normalize_transcript(each) for each in hypotheses]
    count = sum(len(each if by_character else each.split()) for each in words)
    return ErrorCounts(float(count > 0), 0, 0, count, 0)
