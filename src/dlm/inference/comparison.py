"""Whether a new version replaces the one in use: both, and the base, on the same held-out clips.

    errors and length of each clip, of two models -> paired bootstrap -> interval of the difference

Compared are word errors, character errors where no transcript has two words, or the losses of
answers where nothing is transcribed. The new version is clearly worse where the whole interval of
the difference lies above zero.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dlm.data.types import Example
from dlm.inference.engine import InferenceEngine
from dlm.inference.evaluate import compute_example_losses, score_transcripts
from dlm.inference.metrics import (
    NORMALIZER_NAME,
    ErrorCounts,
    UtteranceScore,
    compute_character_errors,
    compute_word_errors,
    normalize_transcript,
)
from dlm.store.records import ClipScores
from dlm.training.events import ScoreDifference, VersionComparison

# With fewer, chance alone makes one version worse on every clip more often than once in twenty:
# the sign test gives 1/16 for 4 clips, and 1/32 for 5.
MIN_COMPARED_CLIPS = 5
NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 0


def score_clips(
    engine: InferenceEngine,
    examples: Mapping[str, Example],
    utterances: Sequence[UtteranceScore] = (),
) -> ClipScores:
    """Score a model on each clip, by word errors, character errors or losses.

    Args:
        engine: the model.
        examples: held-out examples by a name of their content.
        utterances: of those to transcribe, in order, where the model transcribed them already.

    Raises:
        DataError: an example cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    engine.model.eval()
    spoken = {name: each for name, each in examples.items() if each.task == "transcribe"}
    if not spoken:
        losses = compute_example_losses(engine, list(examples.values()))
        return ClipScores("loss", "", dict(zip(examples, losses, strict=True)))
    utterances = utterances or score_transcripts(engine, list(spoken.values()))
    has_words = any(" " in normalize_transcript(each.reference) for each in utterances)
    count_errors = compute_word_errors if has_words else compute_character_errors
    counts = (count_errors([each.reference], [each.hypothesis]) for each in utterances)
    scores = dict(zip(spoken, map(_to_score, counts), strict=True))
    return ClipScores("wer" if has_words else "cer", NORMALIZER_NAME, scores)


def compare_scores(
    new: ClipScores, references: Mapping[str, ClipScores | str], *, current_name: str
) -> VersionComparison:
    """Compare a new version with the one in use and with the base.

    Args:
        new: its scores.
        references: scores of the others by name, or why there are none.
        current_name: the one in use, which the new one would replace.
    """
    reasons, differences = [], []
    for name, reference in references.items():
        if isinstance(reference, str):
            reasons.append(reference)
            continue
        clips = sorted(new.scores.keys() & reference.scores.keys())
        if len(clips) < MIN_COMPARED_CLIPS:
            count = f"{len(clips)} clip{'s' * (len(clips) != 1)}"
            reasons.append(f"{count} held out, and {MIN_COMPARED_CLIPS} are needed to compare")
        elif (new.metric, new.normalizer) != (reference.metric, reference.normalizer):
            reasons.append(f"{name} has no {new.metric} on the held-out clips")
        else:
            pair = ([each.scores[clip] for clip in clips] for each in (new, reference))
            differences.append(compute_score_difference(name, *pair))
    reason = "; ".join(dict.fromkeys(reasons))
    return VersionComparison(current_name, new.metric, tuple(differences), reason)


def compute_score_difference(
    name: str, scores: Sequence[tuple[float, float]], reference: Sequence[tuple[float, float]]
) -> ScoreDifference:
    """Compute the difference of two rates on the same clips, with its bootstrap interval.

    Clips are drawn with replacement, the same for both (Bisani and Ney 2004), with a fixed seed.

    Args:
        name: of the reference.
        scores: errors and length of each clip.
        reference: the same of the other model, in the same order.
    """
    new, old = np.array(scores, np.float64), np.array(reference, np.float64)  # (clips, 2)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = np.array([_draw_rate_difference(rng, new, old) for _ in range(NUM_RESAMPLES)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return ScoreDifference(
        name, len(new), _compute_rate(new), _compute_rate(old), float(low), float(high)
    )


def _draw_rate_difference(rng: np.random.Generator, new: np.ndarray, old: np.ndarray) -> float:
    rows = rng.integers(len(new), size=len(new))
    return _compute_rate(new[rows]) - _compute_rate(old[rows])


def _compute_rate(scores: np.ndarray) -> float:
    """Errors over length, of all clips."""
    errors, length = scores.sum(axis=0)
    return float(errors / max(length, 1))


def _to_score(counts: ErrorCounts) -> tuple[float, float]:
    errors = counts.substitutions + counts.deletions + counts.insertions
    return float(errors), float(counts.reference_length)
