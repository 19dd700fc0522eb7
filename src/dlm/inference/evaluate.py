"""Evaluation on examples: loss, listening gap, WER and CER, and the loss of each token of one.

The listening gap is the loss with other recordings, drawn by `shuffle_audio`, minus the loss with
the right ones. The loss of each token (`dlm eval --manual-loss`) is computed from logits at every
position in fp64, without the trainer's short cuts, and compared with the trainer's loss: where the
two differ, the loss is wrong; where one token costs most, the example may be.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.batching.collator import Batch
from dlm.batching.samplers import split_into_chunks
from dlm.data.load import SourceReport
from dlm.data.types import AudioSegment, ContentPart, Example
from dlm.inference.engine import InferenceEngine, batch_generate
from dlm.inference.metrics import (
    NORMALIZER_NAME,
    ErrorCounts,
    UtteranceScore,
    compute_character_errors,
    compute_word_errors,
    score_utterance,
)
from dlm.training.loss import compute_audio_gap, compute_mean_loss

EvalProgressFn = Callable[[int, int], None]  # number of transcribed examples, of all


@dataclass(frozen=True)
class TokenLoss:
    """A token that carries loss.

    Attributes:
        token: its text.
        loss: in nats.
        predicted_token: the likeliest in its place.
    """

    token: str
    loss: float
    predicted_token: str


@dataclass(frozen=True)
class ExampleLoss:
    """The loss of each label token of one example.

    Attributes:
        location: of the example.
        token_losses: in order.
        recomputed_loss: their mean, in fp64.
        trainer_loss: the same mean as the trainer computes it.
    """

    location: str
    token_losses: tuple[TokenLoss, ...]
    recomputed_loss: float
    trainer_loss: float


@dataclass(frozen=True)
class EvaluationReport:
    """What a model scored.

    Attributes:
        num_examples: that were evaluated.
        word_errors: of all transcripts; None without an example to transcribe.
        character_errors: the same.
        worst_examples: transcribed examples, the highest WER first.
        utterances: the same, in the order of the examples.
        scores: loss, shuffled_loss, gap, wer, cer, as far as they could be measured.
        sources: the source the examples come from, if not from a document.
        normalizer: how texts are normalized before they are compared.
        example_loss: of one example, token by token; None without `--manual-loss`.
        num_cut: answers that had not ended at their limit of characters.
    """

    num_examples: int
    word_errors: ErrorCounts | None
    character_errors: ErrorCounts | None
    worst_examples: tuple[UtteranceScore, ...]
    scores: dict[str, float]
    sources: tuple[SourceReport, ...] = ()
    normalizer: str = NORMALIZER_NAME
    example_loss: ExampleLoss | None = None
    utterances: tuple[UtteranceScore, ...] = ()
    num_cut: int = 0


def evaluate_model(
    engine: InferenceEngine, examples: list[Example], *, progress: EvalProgressFn | None = None
) -> EvaluationReport:
    """Evaluate a model; losses are nats per label token, in evaluation mode.

    Raises:
        DataError: an example cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    engine.model.eval()
    scores = compute_losses(engine, examples)
    spoken = [example for example in examples if example.task == "transcribe"]
    if not spoken:
        return EvaluationReport(len(examples), None, None, (), scores)
    num_cut_before = len(engine.cut_locations)
    utterances = score_transcripts(engine, spoken, progress=progress)
    references = [utterance.reference for utterance in utterances]
    hypotheses = [utterance.hypothesis for utterance in utterances]
    word_errors = compute_word_errors(references, hypotheses)
    character_errors = compute_character_errors(references, hypotheses)
    scores |= {"wer": word_errors.rate, "cer": character_errors.rate}
    worst = tuple(sorted(utterances, key=lambda score: (-score.wer, score.location)))
    return EvaluationReport(
        len(examples),
        word_errors,
        character_errors,
        worst,
        scores,
        utterances=tuple(utterances),
        num_cut=len(engine.cut_locations) - num_cut_before,
    )


def score_transcripts(
    engine: InferenceEngine, examples: list[Example], *, progress: EvalProgressFn | None = None
) -> list[UtteranceScore]:
    """Transcribe examples and compare with their transcripts, in order. Raises DataError."""
    scores = {}
    for example, text in batch_generate(engine, examples):
        scores[id(example)] = score_utterance(example.location, example.target, text)
        if progress:
            progress(len(scores), len(examples))
    return [scores[id(example)] for example in examples]


def compute_losses(engine: InferenceEngine, examples: list[Example]) -> dict[str, float]:
    """Compute the loss and, with two recordings or more, the shuffled loss and the listening gap.

    Raises:
        DataError: an example cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    if not examples:
        return {}
    loss = compute_mean_loss(engine.model, _make_batches(engine, examples))
    with_audio = [example for example in examples if example.audio_segments]
    shuffled = shuffle_audio(with_audio)
    if not shuffled:
        return {"loss": loss}
    audio_loss = loss
    if len(with_audio) < len(examples):
        audio_loss = compute_mean_loss(engine.model, _make_batches(engine, with_audio))
    shuffled_loss = compute_mean_loss(engine.model, _make_batches(engine, shuffled))
    gap = compute_audio_gap(audio_loss, shuffled_loss)
    return {"loss": loss, "shuffled_loss": shuffled_loss, "gap": gap}


def compute_example_losses(
    engine: InferenceEngine, examples: list[Example]
) -> list[tuple[float, float]]:
    """Compute the sum of the loss, in nats, and the number of label tokens of each example.

    Raises:
        DataError: an example cannot be encoded (`data.*`), or its audio decoded (`audio.*`).
    """
    losses = []
    for example in examples:
        batch = engine.make_batch([engine.chat_encoder.encode_example(example)])
        num_tokens = batch.num_label_tokens
        losses.append((compute_mean_loss(engine.model, [batch]) * num_tokens, float(num_tokens)))
    return losses


def _make_batches(engine: InferenceEngine, examples: list[Example]) -> list[Batch]:
    """Batches of like length."""
    encoded = [engine.chat_encoder.encode_example(example) for example in examples]
    encoded.sort(
        key=lambda example: (
            engine.count_audio_tokens(example.audio_segments),
            len(example.input_ids),
        )
    )
    return list(map(engine.make_batch, split_into_chunks(encoded, engine.eval_batch_size)))


def shuffle_audio(examples: list[Example]) -> list[Example]:
    """Replace all audio by that of other recordings; empty when there is no other recording."""
    donors = _assign_donors(examples)

    def replace_audio(part: ContentPart) -> ContentPart:
        return donors[part] if isinstance(part, AudioSegment) else part

    return [
        replace(
            example,
            messages=tuple(
                replace(message, content=tuple(map(replace_audio, message.content)))
                for message in example.messages
            ),
        )
        for example in (examples if donors else ())
    ]


def _assign_donors(examples: list[Example]) -> dict[AudioSegment, AudioSegment]:
    """For each segment the next one, in a random ring, of a recording that is not in its example.

    The ring is ordered by the texts: it is the same wherever the recordings are, in any order.
    """
    example_recordings: dict[AudioSegment, set[object]] = {}
    texts: dict[AudioSegment, list[str]] = {}
    for example in examples:
        recordings = {segment.recording_key for segment in example.audio_segments}
        text = "\n".join(message.text for message in example.messages)
        for segment in example.audio_segments:
            example_recordings.setdefault(segment, set()).update(recordings)
            texts.setdefault(segment, []).append(text)
    ring = sorted(texts, key=lambda each: (sorted(texts[each]), each.start or 0.0, repr(each)))
    random.Random(0).shuffle(ring)
    donors = {}
    for position, segment in enumerate(ring):
        following = ring[position + 1 :] + ring[:position]
        donor = _find_donor(following, example_recordings[segment]) or _find_donor(
            following, {segment.recording_key}
        )
        if donor is None:
            return {}
        donors[segment] = donor
    return donors


def _find_donor(segments: list[AudioSegment], excluded: set[object]) -> AudioSegment | None:
    return next((segment for segment in segments if segment.recording_key not in excluded), None)


@torch.no_grad()
def compute_token_losses(engine: InferenceEngine, example: Example) -> ExampleLoss:
    """Compute the loss of each label token of an example, in evaluation mode. Raises DataError."""
    model, decode = engine.model.eval(), engine.chat_encoder.decode_raw
    batch = engine.make_batch([engine.chat_encoder.encode_example(example)])
    inputs = batch.to(str(model.device))
    hidden = model.forward_lm(*model.make_lm_inputs(inputs))
    log_probs = model.compute_logits(hidden[0]).double().log_softmax(dim=-1)  # (tokens, vocabulary)
    labels = inputs.labels[0, 1:].tolist()  # each position predicts the next token
    token_losses = tuple(
        TokenLoss(decode([label]), -float(token_log_probs[label]), decode([int(best)]))
        for label, token_log_probs, best in zip(
            labels, log_probs[:-1], log_probs.argmax(dim=-1)[:-1], strict=True
        )
        if label != IGNORE_INDEX
    )
    recomputed_loss = sum(token.loss for token in token_losses) / len(token_losses)
    trainer_loss = compute_mean_loss(model, [batch])
    return ExampleLoss(example.location, token_losses, recomputed_loss, trainer_loss)
