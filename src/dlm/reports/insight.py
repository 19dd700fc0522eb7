"""Measures whether a version uses the audio, for the insight page.

    scores of held-out clips                    inference/evaluate.py
    embeddings, attention, nearest tokens       probes.py
    the worst clips: audio, texts, tokens       here

Curves of the run are in run_curves.py, plots in plots.py; insight_page.py puts it all on a page.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from dlm.data.types import Example
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.evaluate import EvalProgressFn, EvaluationReport, evaluate_model
from dlm.reports.html import AudioPlayer, make_embedded_player
from dlm.reports.probes import (
    AudioAttention,
    EmbeddingMap,
    compute_audio_attention,
    compute_audio_embeddings,
    compute_embedding_map,
    find_nearest_tokens,
    format_token,
)

_logger = logging.getLogger(__name__)

INSIGHT_PREVIEW_SECONDS = 8.0  # of each segment: a page stays small enough to be sent
NUM_NEAREST_TOKENS = 3  # text tokens shown for each audio token
MAX_MAPPED_EXAMPLES = 64  # whose audio is mapped beside text
MAX_LISTED_AUDIO_TOKENS = 100  # shown of each example


@dataclass(frozen=True)
class NearestTokens:
    """One audio token.

    Attributes:
        start: seconds from the beginning of the audio.
        tokens: the nearest text tokens with their cosine similarity.
    """

    start: float
    tokens: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ExampleInsight:
    """One example in detail.

    Attributes:
        location: where it was written.
        reference: its transcript, or answer.
        hypothesis: what the model generated.
        wer: None where it is no transcript.
        players: of its audio.
        nearest_tokens: of its first audio tokens.
        num_audio_tokens: how many it has in all.
    """

    location: str
    reference: str
    hypothesis: str
    wer: float | None
    players: tuple[AudioPlayer, ...]
    nearest_tokens: tuple[NearestTokens, ...]
    num_audio_tokens: int


@dataclass(frozen=True)
class Insight:
    """All that was measured.

    Attributes:
        report: the scores.
        embedding_map: None where no example has both audio and text, or audio takes no place in the
            text (Whisper).
        audio_attention: None where no example is short enough, or the model has no attention to
            audio among its text.
        examples: the worst, in detail.
    """

    report: EvaluationReport
    embedding_map: EmbeddingMap | None
    audio_attention: AudioAttention | None
    examples: tuple[ExampleInsight, ...]


def compute_insight(
    engine: InferenceEngine,
    examples: list[Example],
    *,
    num_examples: int,
    progress: EvalProgressFn | None = None,
) -> Insight:
    """Evaluate a model, and look at the examples it does worst on in detail.

    Args:
        engine: the model.
        examples: to evaluate on.
        num_examples: of which so many are looked at in detail.
        progress: called for each transcribed example.

    Raises:
        DataError: an example cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    _logger.info("scoring %s clips", f"{len(examples):,}")
    report = evaluate_model(engine, examples, progress=progress)
    with_audio = [example for example in examples if example.audio_segments]
    mapped = [
        example
        for example in with_audio
        if example.target.strip() and engine.count_audio_tokens(example.audio_segments)
    ][:MAX_MAPPED_EXAMPLES]
    if mapped:
        _logger.info("computing the audio embeddings of %s clips", f"{len(mapped):,}")
    embeddings = [compute_audio_embeddings(engine, example) for example in mapped]
    _logger.info("measuring attention, and looking at the worst clips")
    return Insight(
        report=report,
        embedding_map=compute_embedding_map(engine, mapped, embeddings) if mapped else None,
        audio_attention=compute_audio_attention(engine, with_audio[:num_examples]),
        examples=tuple(_iter_example_insights(engine, with_audio, report, num_examples)),
    )


def _iter_example_insights(
    engine: InferenceEngine, examples: list[Example], report: EvaluationReport, num_examples: int
) -> Iterator[ExampleInsight]:
    """The transcripts with the highest WER, then examples that are no transcripts."""
    worst = report.worst_examples[:num_examples]
    by_location = {(example.location, example.target): example for example in examples}
    for score in worst:
        example = by_location[score.location, score.reference]
        yield _make_example_insight(engine, example, score.hypothesis, score.wer)
    others = [example for example in examples if example.task != "transcribe"]
    for example, hypothesis in batch_generate(engine, others[: num_examples - len(worst)]):
        yield _make_example_insight(engine, example, hypothesis, None)


def _make_example_insight(
    engine: InferenceEngine, example: Example, hypothesis: str, wer: float | None
) -> ExampleInsight:
    embeddings = compute_audio_embeddings(engine, example)
    seconds_per_token = engine.sum_audio_seconds(example.audio_segments) / max(len(embeddings), 1)
    cosines, token_ids = find_nearest_tokens(
        engine.model, embeddings[:MAX_LISTED_AUDIO_TOKENS], NUM_NEAREST_TOKENS
    )
    nearest_tokens = []
    for index, (ids, similarities) in enumerate(
        zip(token_ids.tolist(), cosines.tolist(), strict=True)
    ):
        texts = [format_token(engine, token_id) for token_id in ids]
        tokens = tuple(zip(texts, similarities, strict=True))
        nearest_tokens.append(NearestTokens(index * seconds_per_token, tokens))
    players = (
        make_embedded_player(
            segment,
            engine.sum_audio_seconds((segment,)),
            max_seconds=INSIGHT_PREVIEW_SECONDS,
            sample_rate=engine.model.spec.audio_spec.sample_rate,
            audio_format="flac",
        )
        for segment in example.audio_segments
    )
    return ExampleInsight(
        location=example.location,
        reference=example.target,
        hypothesis=hypothesis,
        wer=wer,
        players=tuple(players),
        nearest_tokens=tuple(nearest_tokens),
        num_audio_tokens=len(embeddings),
    )
