"""Checks transcripts against what a model transcribes (`dlm check --listen`): which are wrong.

    transcript of a       "half past nine"        character trigrams of each,
    transcribed from a    "the blue house is"     and how many they share
    transcribed from b    "half passed nine"      -> the transcript of a fits b better

A transcript far from what is transcribed is wrong, or of another recording, or hard to recognize; a
person has to listen to the worst.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlm.data.types import Example, Issue
from dlm.inference.engine import InferenceEngine
from dlm.inference.evaluate import EvalProgressFn, score_transcripts
from dlm.inference.metrics import UtteranceScore, compute_word_errors, normalize_transcript

MIN_SUSPECT_WER = 0.5  # from which a transcript is looked for at other recordings
MIN_SIMILARITY = 0.4  # Dice coefficient of two texts of one sentence
MIN_SIMILARITY_GAIN = 0.2  # by which another recording must fit better than its own
NGRAM_CHARS = 3
MAX_MATCH_CANDIDATES = 20  # recordings that are compared, those that share the most trigrams


@dataclass(frozen=True)
class CheckedTranscript(UtteranceScore):
    """A transcript with its score.

    Attributes:
        better_match: location of an example whose audio it fits better, if there is one.
    """

    better_match: str | None = None


@dataclass(frozen=True)
class TranscriptionCheck:
    """The result of the check.

    Attributes:
        model_name: the base, or the version that transcribed.
        transcripts: those that fit another recording first, then the highest WER first.
        num_candidates: examples that could have been checked.
        wer: of all that were.
    """

    model_name: str
    transcripts: tuple[CheckedTranscript, ...]
    num_candidates: int
    wer: float

    def iter_issues(self) -> Iterator[Issue]:
        """Yield an issue for each transcript that fits another recording better."""
        for checked in self.transcripts:
            if checked.better_match is not None:
                yield Issue(
                    checked.location,
                    f"its transcript fits the audio of {checked.better_match} better than its own",
                    "check which transcript belongs to which recording",
                    fatal=False,
                    code="data.transcript_of_other_audio",
                )


def check_transcripts(
    engine: InferenceEngine,
    examples: Sequence[Example],
    *,
    model_name: str,
    num_candidates: int,
    progress: EvalProgressFn | None = None,
) -> TranscriptionCheck:
    """Transcribe examples and compare with their transcripts. Raises DataError."""
    engine.model.eval()
    scores = score_transcripts(engine, list(examples), progress=progress)
    word_errors = compute_word_errors(
        [score.reference for score in scores], [score.hypothesis for score in scores]
    )
    return TranscriptionCheck(
        model_name, rank_transcripts(scores), num_candidates, word_errors.rate
    )


def rank_transcripts(scores: Sequence[UtteranceScore]) -> tuple[CheckedTranscript, ...]:
    """Rank transcripts: those that fit another recording first, then the highest WER first."""
    checked = [
        CheckedTranscript(**vars(score), better_match=location)
        for score, location in zip(scores, _find_better_matches(scores), strict=True)
    ]
    checked.sort(key=lambda each: (each.better_match is None, -each.wer, each.location))
    return tuple(checked)


def _find_better_matches(scores: Sequence[UtteranceScore]) -> Iterator[str | None]:
    """For each transcript with a high WER, the location of the audio that it fits, if there is one.

    It must fit that audio as well as the transcript there does, or the two are only alike.
    """
    references = [_get_char_trigrams(score.reference) for score in scores]
    hypotheses = [_get_char_trigrams(score.hypothesis) for score in scores]
    own_fits = list(map(_compute_dice, references, hypotheses))
    indices_by_trigram: dict[str, list[int]] = defaultdict(list)
    for index, trigrams in enumerate(hypotheses):
        for trigram in trigrams:
            indices_by_trigram[trigram].append(index)
    for index, (score, reference) in enumerate(zip(scores, references, strict=True)):
        num_shared = Counter(
            other for trigram in reference for other in indices_by_trigram.get(trigram, ())
        )
        fits = {
            other: _compute_dice(reference, hypotheses[other])
            for other, _ in num_shared.most_common(MAX_MATCH_CANDIDATES)
        }
        best = max(fits, key=lambda other: fits[other], default=index)
        min_fit = max(MIN_SIMILARITY, own_fits[index] + MIN_SIMILARITY_GAIN, own_fits[best])
        has_same_text = normalize_transcript(scores[best].reference) == normalize_transcript(
            score.reference
        )
        is_better = fits.get(best, 0.0) >= min_fit and not has_same_text
        yield scores[best].location if score.wer >= MIN_SUSPECT_WER and is_better else None


def _compute_dice(first: set[str], second: set[str]) -> float:
    """The Dice coefficient of two sets: 1 for equal ones, 0 for nothing in common."""
    return 2 * len(first & second) / max(len(first) + len(second), 1)


def _get_char_trigrams(text: str) -> set[str]:
    """All three characters that follow each other, with the spaces around words."""
    padded = f" {normalize_transcript(text)} "
    starts = range(len(padded) - NGRAM_CHARS + 1)
    return {padded[at : at + NGRAM_CHARS] for at in starts} - {" " * NGRAM_CHARS}
