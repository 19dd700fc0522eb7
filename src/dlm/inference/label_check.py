"""A model takes dictation of clips whose text is known: what differs most comes first.

    transcript of a     "half past nine"        the letters of each, in threes,
    heard in a          "the blue house is"     and how many of them they share
    heard in b          "half passed nine"      -> the transcript of a seems to be of b

A transcript far from what is heard is wrong, or of another recording, or hard to hear; which of
these it is takes a person with ears, and a place in the list.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlm.data.types import Example, Issue
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.evaluate import EvalProgressFn
from dlm.inference.metrics import (
    UtteranceScore,
    compute_word_errors,
    normalize_transcript,
    score_utterance,
)

MIN_SUSPECT_WER = 0.5  # words wrong: a better transcript may be found among the others
MIN_SIMILARITY = 0.4  # of the letters that two texts share, at least, to be of one sentence
MIN_SIMILARITY_GAIN = 0.2  # by which another sound must fit better than its own
NGRAM_CHARS = 3  # letters that are compared at once
MAX_MATCH_CANDIDATES = 20  # clips looked at more closely, those that share the most


@dataclass(frozen=True)
class CheckedTranscript(UtteranceScore):
    """One clip. `seems` is the place of another whose sound its transcript fits better."""

    better_match: str | None = None


@dataclass(frozen=True)
class TranscriptionCheck:
    """What was heard, the worst clips first; `of` so many clips that could have been."""

    model_name: str  # the base, or the version that heard
    transcripts: tuple[CheckedTranscript, ...]
    num_candidates: int
    wer: float

    def iter_issues(self) -> Iterator[Issue]:
        """Transcripts that seem to be of other recordings."""
        for clip in self.transcripts:
            if clip.better_match is not None:
                what = (
                    f"its transcript fits what is heard in {clip.better_match} better than its own"
                )
                mend = "check which transcript belongs to which recording"
                yield Issue(clip.location, f"{what} sound", mend, fatal=False)


def check_transcripts(
    engine: InferenceEngine,
    examples: Sequence[Example],
    *,
    model_name: str,
    num_candidates: int,
    progress: EvalProgressFn | None = None,
) -> TranscriptionCheck:
    """Transcribe clips that are transcribed already, and set both beside each other."""
    engine.model.eval()
    scored = []
    for number, (clip, heard) in enumerate(batch_generate(engine, list(examples)), start=1):
        scored.append(score_utterance(clip.location, clip.target, heard))
        if progress is not None:
            progress(number, len(examples))
    return TranscriptionCheck(
        model_name,
        rank_transcripts(scored),
        num_candidates,
        compute_word_errors(*_unzip_texts(scored)).rate,
    )


def rank_transcripts(scores: Sequence[UtteranceScore]) -> tuple[CheckedTranscript, ...]:
    """The worst clips first, but before all others those whose transcript was found elsewhere."""
    both = zip(scores, _find_better_matches(scores), strict=True)
    found = [CheckedTranscript(**vars(each), better_match=seems) for each, seems in both]
    found.sort(key=lambda each: (each.better_match is None, -each.wer, each.location))
    return tuple(found)


def _find_better_matches(scores: Sequence[UtteranceScore]) -> Iterator[str | None]:
    """For each clip that is far off, the place of the one whose sound fits its transcript.

    It fits that sound as well as the other's own transcript, or the two only resemble each other.
    """
    said, heard = ([_char_trigrams(text) for text in texts] for texts in _unzip_texts(scores))
    own = [_dice_similarity(one, two) for one, two in zip(said, heard, strict=True)]
    where: dict[str, list[int]] = {}
    for at, threes in enumerate(heard):
        for three in threes:
            where.setdefault(three, []).append(at)
    for at, each in enumerate(scores):
        near = Counter(other for three in said[at] for other in where.get(three, ()))
        fits = {
            other: _dice_similarity(said[at], heard[other])
            for other, _ in near.most_common(MAX_MATCH_CANDIDATES)
        }
        best = max(fits, key=lambda other: fits[other], default=at)
        enough = max(MIN_SIMILARITY, own[at] + MIN_SIMILARITY_GAIN, own[best])
        same = normalize_transcript(scores[best].reference) == normalize_transcript(each.reference)
        found = each.wer >= MIN_SUSPECT_WER and fits.get(best, 0.0) >= enough and not same
        yield scores[best].location if found else None


def _unzip_texts(scores: Sequence[UtteranceScore]) -> tuple[list[str], list[str]]:
    return [each.reference for each in scores], [each.hypothesis for each in scores]


def _dice_similarity(first: set[str], second: set[str]) -> float:
    """The share of two texts that they have in common."""
    return 2 * len(first & second) / max(len(first) + len(second), 1)


def _char_trigrams(text: str) -> set[str]:
    """Every three letters that follow each other, the spaces among them."""
    plain = f" {normalize_transcript(text)} "
    return {plain[at : at + NGRAM_CHARS] for at in range(len(plain) - NGRAM_CHARS + 1)} - {
        " " * NGRAM_CHARS
    }
