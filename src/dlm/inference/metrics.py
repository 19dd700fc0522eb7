"""WER and CER by jiwer: text normalization, error counts, and texts without a word.

Scores carry the name of the normalizer, since the same texts score differently under another.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import jiwer

NORMALIZER_NAME = "dlm-1.1: NFKC, lower case, no punctuation but apostrophes within words"
APOSTROPHE_MAP = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4`", "'"))
ZERO_WIDTH_SPACE = "\u200b"  # between words, where a script writes no blanks
# how a letter is drawn, not which one it is: the joiner of graphemes and the variation selectors
VARIATION_MARK_RE = re.compile("[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn references into hypotheses, counted over all utterances.

    Attributes:
        rate: edits over the length of the references.
        substitutions: of words, or characters.
        deletions: the same.
        insertions: the same.
        reference_length: in words, or characters.
    """

    rate: float
    substitutions: int
    deletions: int
    insertions: int
    reference_length: int


@dataclass(frozen=True)
class UtteranceScore:
    """A transcript, what the model transcribed, and the word error rate."""

    location: str
    reference: str
    hypothesis: str
    wer: float


@lru_cache(maxsize=100_000)
def normalize_transcript(text: str) -> str:
    """Normalize a text for scoring; letters, marks and digits of every script stay.

    What is not seen goes without a trace: soft hyphens, joiners and non-joiners, directions.
    """
    text = VARIATION_MARK_RE.sub("", text.translate(APOSTROPHE_MAP))  # NFKC takes ´ for a blank
    text = "".join(each for each in text if not _is_invisible(each))
    text = unicodedata.normalize("NFKC", text).translate(APOSTROPHE_MAP).lower()
    characters = (each if _is_word_character(each) else " " for each in text)
    words = (word.strip("'") for word in "".join(characters).split())
    return " ".join(word for word in words if word)


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" and character != ZERO_WIDTH_SPACE


def _is_word_character(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character == "'"


def compute_word_errors(references: list[str], hypotheses: list[str]) -> ErrorCounts:
    """Compute the word error rate over all utterances."""
    references, hypotheses = _normalize_all(references), _normalize_all(hypotheses)
    if not any(references):
        return _count_insertions_only(sum(len(text.split()) for text in hypotheses))
    output = jiwer.process_words(references, hypotheses)
    return _to_error_counts(output, output.wer)


def compute_character_errors(references: list[str], hypotheses: list[str]) -> ErrorCounts:
    """Compute the character error rate over all utterances, spaces included."""
    references, hypotheses = _normalize_all(references), _normalize_all(hypotheses)
    if not any(references):
        return _count_insertions_only(sum(map(len, hypotheses)))
    output = jiwer.process_characters(references, hypotheses)
    return _to_error_counts(output, output.cer)


def score_utterance(location: str, reference: str, hypothesis: str) -> UtteranceScore:
    """Compute the word error rate of one utterance."""
    wer = compute_word_errors([reference], [hypothesis]).rate
    return UtteranceScore(location, reference, hypothesis, wer)


def _normalize_all(texts: list[str]) -> list[str]:
    return [normalize_transcript(text) for text in texts]


def _to_error_counts(output: jiwer.WordOutput | jiwer.CharacterOutput, rate: float) -> ErrorCounts:
    edits = (output.substitutions, output.deletions, output.insertions)
    return ErrorCounts(rate, *edits, output.hits + output.substitutions + output.deletions)


def _count_insertions_only(num_insertions: int) -> ErrorCounts:
    """Of empty references, which have no rate: 1 when anything was transcribed."""
    return ErrorCounts(float(num_insertions > 0), 0, 0, num_insertions, 0)
