"""Whether a version listens: what it scores, where its sound lies, what it reads, where it errs.

    the run's log       curves by step                            insight_run
    clips, the model    scores, points, attention, nearest words  evaluate, insight_inside
    the worst clips     their sound, what was said and heard      here

insight_pictures draws it, and insight_page puts it on a page.

What a run said, as curves by step: loss, rates, gradients, changes of the weights, the gap.

    Step       loss, rates, gradient_norm; norms and changes by part, where the run measured them
    Listened   the listening gap on the way
    Checked    the listening gap at the end, with the scores
    Skipped    steps that taught nothing

A run that was cut short and went on tells some steps twice: what was told last is what counts.
"""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import soundfile
import torch

from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment, Example
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.evaluate import EvalProgressFn, EvaluationReport, evaluate_model
from dlm.reports.probes import (
    AudioAttention,
    EmbeddingMap,
    compute_audio_attention,
    compute_audio_embeddings,
    compute_embedding_map,
    find_nearest_tokens,
    format_token,
)
from dlm.training.loss import compute_audio_gap

_logger = logging.getLogger(__name__)

INSIGHT_PREVIEW_SECONDS = 8.0  # of each sound: a page of clips stays small enough to be sent
NUM_NEAREST_TOKENS = 3  # text tokens told of each audio token
MAX_MAPPED_EXAMPLES = 64  # clips whose sound is laid out beside the words
MAX_LISTED_AUDIO_TOKENS = 100  # audio tokens told of each clip


@dataclass(frozen=True)
class AudioPreview:
    """The beginning of a sound as FLAC, mono, at the rate of the base."""

    flac_bytes: bytes
    seconds: float
    total_seconds: float  # seconds of all of it


@dataclass(frozen=True)
class NearestTokens:
    """One audio token: where it begins, and the text tokens nearest to it with their cosines."""

    start: float
    tokens: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ExampleInsight:
    """One clip looked at closely. `wer` is None where it does not ask for a transcript.

    `near` are its first audio tokens, of `tokens` in all.
    """

    location: str
    reference: str
    hypothesis: str
    wer: float | None
    previews: tuple[AudioPreview, ...]
    nearest_tokens: tuple[NearestTokens, ...]
    num_audio_tokens: int


@dataclass(frozen=True)
class Insight:
    """All that was measured; None is what these clips or this model cannot tell."""

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
    """Try a model on `clips`, and look closely at the `count` it does worst on."""
    _logger.info("scoring %s clips", f"{len(examples):,}")
    report = evaluate_model(engine, examples, progress=progress)
    sounding = [clip for clip in examples if clip.audio_segments]
    told = [
        clip
        for clip in sounding
        if clip.target.strip() and engine.count_audio_tokens(clip.audio_segments)
    ]
    told = told[:MAX_MAPPED_EXAMPLES]
    _logger.info("looking at what the sound of %s clips becomes", f"{len(told):,}")
    sounds = [compute_audio_embeddings(engine, clip) for clip in told]
    _logger.info("looking at attention, and at the worst clips")
    return Insight(
        report=report,
        embedding_map=compute_embedding_map(engine, told, sounds) if told else None,
        audio_attention=compute_audio_attention(engine, sounding[:num_examples]),
        examples=tuple(_iter_example_insights(engine, sounding, report, num_examples)),
    )


def _iter_example_insights(
    engine: InferenceEngine, examples: list[Example], report: EvaluationReport, num_examples: int
) -> Iterator[ExampleInsight]:
    """The worst transcripts, the worst first; after them clips that ask for something else."""
    worst = report.worst_examples[:num_examples]
    by_name = {(clip.location, clip.target): clip for clip in examples}
    for scored in worst:
        clip = by_name[scored.location, scored.reference]
        yield _make_example_insight(engine, clip, scored.hypothesis, scored.wer)
    others = [clip for clip in examples if clip.task != "transcribe"][: num_examples - len(worst)]
    for clip, heard in batch_generate(engine, others):
        yield _make_example_insight(engine, clip, heard, None)


def _make_example_insight(
    engine: InferenceEngine, example: Example, hypothesis: str, wer: float | None
) -> ExampleInsight:
    rate = engine.model.spec.audio_spec.sample_rate
    sound = compute_audio_embeddings(engine, example)
    samples = sum(
        window.num_samples for each in example.audio_segments for window in engine.extractor(each)
    )
    return ExampleInsight(
        location=example.location,
        reference=example.target,
        hypothesis=hypothesis,
        wer=wer,
        previews=tuple(_make_audio_preview(each, rate) for each in example.audio_segments),
        nearest_tokens=tuple(
            _iter_nearest_tokens(
                engine, sound[:MAX_LISTED_AUDIO_TOKENS], samples / rate / max(len(sound), 1)
            )
        ),
        num_audio_tokens=len(sound),
    )


def _iter_nearest_tokens(
    engine: InferenceEngine, audio_embeddings: torch.Tensor, seconds_per_token: float
) -> Iterator[NearestTokens]:
    """The text tokens nearest to each audio token, of `seconds` each."""
    cosines, ids = find_nearest_tokens(engine.model, audio_embeddings, NUM_NEAREST_TOKENS)
    for at, (row, cosine) in enumerate(zip(ids.tolist(), cosines.tolist(), strict=True)):
        words = [format_token(engine, token) for token in row]
        yield NearestTokens(at * seconds_per_token, tuple(zip(words, cosine, strict=True)))


def _make_audio_preview(segment: AudioSegment, rate: int) -> AudioPreview:
    wave = load_audio(segment, sample_rate=rate, resample=True)
    played = wave[: round(INSIGHT_PREVIEW_SECONDS * rate)]
    file = io.BytesIO()
    soundfile.write(file, played, rate, format="FLAC", subtype="PCM_16")
    return AudioPreview(file.getvalue(), len(played) / rate, len(wave) / rate)


Curve = dict[int, float]  # by step, in their order


@dataclass(frozen=True)
class RunCurves:
    """One run by step; a curve that was not measured is empty.

    `loss` and `gap` are nats per label token, `norms` gradient norms before clipping, `changes` the
    length of a step's change over the length of the weights, both by part.
    """

    loss: Curve = field(default_factory=dict)
    learning_rates: dict[str, Curve] = field(default_factory=dict)
    grad_norm: Curve = field(default_factory=dict)
    component_grad_norms: dict[str, Curve] = field(default_factory=dict)
    update_ratios: dict[str, Curve] = field(default_factory=dict)
    audio_gap: Curve = field(default_factory=dict)
    skipped_steps: tuple[int, ...] = ()


def parse_run_curves(log_events: Iterable[Mapping[str, Any]]) -> RunCurves:
    """The curves of a log, as `store.record.read_log` gives its lines."""
    events: dict[str, dict[int, Mapping[str, Any]]] = {}
    for event in log_events:
        if "step" in event:
            events.setdefault(event["event"], {})[event["step"]] = event
    steps = events.get("StepCompleted", {})
    skipped = events.get("StepSkipped", {}).keys() - steps.keys()
    return RunCurves(
        loss=_extract_curve(steps, "loss"),
        learning_rates=_extract_component_curves(steps, "learning_rates"),
        grad_norm=_extract_curve(steps, "grad_norm"),
        component_grad_norms=_extract_component_curves(steps, "component_grad_norms"),
        update_ratios=_extract_component_curves(steps, "update_ratios"),
        audio_gap=_extract_gap_curve(events),
        skipped_steps=tuple(sorted(skipped)),
    )


def _extract_curve(events: Mapping[int, Mapping[str, Any]], field_name: str) -> Curve:
    """One number of each event; null stands for one that was not finite."""
    return {
        step: events[step][field_name]
        for step in sorted(events)
        if events[step].get(field_name) is not None
    }


def _extract_component_curves(
    events: Mapping[int, Mapping[str, Any]], field_name: str
) -> dict[str, Curve]:
    """A number of each event by part."""
    by_step = {step: event.get(field_name) or {} for step, event in events.items()}
    parts = dict.fromkeys(part for step in sorted(by_step) for part in by_step[step])
    return {part: _extract_curve(by_step, part) for part in parts}


def _extract_gap_curve(events: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Curve:
    checked = {step: event["scores"] for step, event in events.get("Evaluated", {}).items()}
    listened = {
        step: {"gap": compute_audio_gap(event["loss"], event["shuffled_loss"])}
        for step, event in events.get("AudioGapEvaluated", {}).items()
        if None not in (event["loss"], event["shuffled_loss"])
    }
    return _extract_curve({**checked, **listened}, "gap")
