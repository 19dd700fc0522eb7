"""The loss of one clip's row by hand: token by token, beside what the trainer makes of it.

By hand is from logits at every position, in fp64, without the trainer's short cuts. Where the two
differ something is wrong with the loss; where one token costs most, something is with the clip.

How well a model hears: loss, the listening gap, and the words it gets wrong.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from dlm.batching.chat_template import IGNORE_INDEX
from dlm.batching.collator import Batch, PaddingSpec, collate
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


@dataclass(frozen=True)
class TokenLoss:
    """A token that carries loss, its loss in nats, and the token the model would have said."""

    token: str
    loss: float
    predicted_token: str


@dataclass(frozen=True)
class ExampleLoss:
    """The label tokens of one clip; `by_hand` and `trained` are both the mean of their losses."""

    location: str
    token_losses: tuple[TokenLoss, ...]
    recomputed_loss: float
    trainer_loss: float


@torch.no_grad()
def compute_token_losses(engine: InferenceEngine, example: Example) -> ExampleLoss:
    """The loss of each label token of `clip`, in evaluation mode."""
    model, chat = engine.model.eval(), engine.chat_encoder
    batch = collate(
        [chat.encode_example(example)],
        engine.extractor,
        PaddingSpec(chat.pad_token_id, chat.audio_token_id),
    )
    here = batch.to(str(model.device))
    logits = model.compute_logits(
        model.forward_lm(model.merge_audio_embeddings(here), here.attention_mask)[0]
    ).double()
    chances = logits.log_softmax(dim=-1)
    targets = here.labels[0, 1:]  # each position predicts the next token
    tokens = tuple(
        TokenLoss(
            chat.decode_raw([label]), -float(chance[label]), chat.decode_raw([int(chance.argmax())])
        )
        for label, chance in zip(targets.tolist(), chances, strict=False)
        if label != IGNORE_INDEX
    )
    by_hand = sum(each.loss for each in tokens) / len(tokens)
    return ExampleLoss(example.location, tokens, by_hand, compute_mean_loss(model, [batch]))


EvalProgressFn = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluationReport:
    """What a model scored. `worst` are its clips, the worst first."""

    num_examples: int
    word_errors: ErrorCounts | None  # None without a clip to transcribe
    character_errors: ErrorCounts | None
    worst_examples: tuple[UtteranceScore, ...]
    scores: dict[str, float]  # loss, shuffled_loss, gap, wer, cer
    sources: tuple[SourceReport, ...] = ()  # that the clips come from, if not from a document
    normalizer: str = NORMALIZER_NAME
    example_loss: ExampleLoss | None = None  # one clip, token by token, where that was asked for


def evaluate_model(
    engine: InferenceEngine, examples: list[Example], *, progress: EvalProgressFn | None = None
) -> EvaluationReport:
    """Score a model on `clips`; losses are nats per label token, in evaluation mode."""
    engine.model.eval()
    scores = compute_losses(engine, examples)
    spoken = [clip for clip in examples if clip.task == "transcribe"]
    if not spoken:
        return EvaluationReport(len(examples), None, None, (), scores)
    scored = []
    for number, (clip, heard) in enumerate(batch_generate(engine, spoken), start=1):
        scored.append(score_utterance(clip.location, clip.target, heard))
        if progress:
            progress(number, len(spoken))
    said, heard_all = [each.reference for each in scored], [each.hypothesis for each in scored]
    words, characters = (
        compute_word_errors(said, heard_all),
        compute_character_errors(said, heard_all),
    )
    scores |= {"wer": words.rate, "cer": characters.rate}
    worst = tuple(sorted(scored, key=lambda each: (-each.wer, each.location)))
    return EvaluationReport(len(examples), words, characters, worst, scores)


def compute_losses(engine: InferenceEngine, examples: list[Example]) -> dict[str, float]:
    """Loss with the right sound; and, with two sounds or more, the listening gap."""
    if not examples:
        return {}
    loss = compute_mean_loss(engine.model, _make_batches(engine, examples))
    hearing = [clip for clip in examples if clip.audio_segments]
    swapped = shuffle_audio(hearing)
    if not swapped:
        return {"loss": loss}
    right = (
        loss
        if len(hearing) == len(examples)
        else compute_mean_loss(engine.model, _make_batches(engine, hearing))
    )
    wrong = compute_mean_loss(engine.model, _make_batches(engine, swapped))
    return {"loss": loss, "shuffled_loss": wrong, "gap": compute_audio_gap(right, wrong)}


def shuffle_audio(examples: list[Example]) -> list[Example]:
    """The same turns, every sound replaced by another recording's; empty when there is no other."""
    donor = _assign_donors(examples)
    if not donor:
        return []
    return [
        replace(
            clip,
            messages=tuple(
                replace(turn, content=tuple(_swap_audio(part, donor) for part in turn.content))
                for turn in clip.messages
            ),
        )
        for clip in examples
    ]


def _assign_donors(examples: list[Example]) -> dict[AudioSegment, AudioSegment]:
    """A stand-in for each sound: the next one, in a random ring, of a recording not in its clip.

    The ring goes by what is said of the sounds: it is the same wherever they lie, in any order.
    """
    near: dict[AudioSegment, set[object]] = {}
    said: dict[AudioSegment, list[str]] = {}
    for clip in examples:
        for sound in clip.audio_segments:
            near.setdefault(sound, set()).update(each.recording_key for each in clip.audio_segments)
            said.setdefault(sound, []).append("\n".join(turn.text for turn in clip.messages))
    ring = sorted(near, key=lambda sound: (sorted(said[sound]), sound.start or 0.0, repr(sound)))
    random.Random(0).shuffle(ring)
    donor = {}
    for place, sound in enumerate(ring):
        found = _find_next_donor(ring, place, near[sound]) or _find_next_donor(
            ring, place, {sound.recording_key}
        )
        if found is None:
            return {}
        donor[sound] = found
    return donor


def _find_next_donor(
    ring: list[AudioSegment], position: int, excluded: set[object]
) -> AudioSegment | None:
    """The first sound after `place` in the ring that is of none of these recordings."""
    after = (ring[(position + step) % len(ring)] for step in range(1, len(ring)))
    return next((sound for sound in after if sound.recording_key not in excluded), None)


def _swap_audio(content_part: ContentPart, donors: dict[AudioSegment, AudioSegment]) -> ContentPart:
    return donors[content_part] if isinstance(content_part, AudioSegment) else content_part


def _make_batches(engine: InferenceEngine, examples: list[Example]) -> list[Batch]:
    """Clips as they are learned from, in order of length."""
    rows = [engine.chat_encoder.encode_example(clip) for clip in examples]
    rows.sort(
        key=lambda row: (
            sum(map(engine.count_audio_tokens, row.audio_segments)),
            len(row.input_ids),
        )
    )
    padding = PaddingSpec(engine.chat_encoder.pad_token_id, engine.chat_encoder.audio_token_id)
    starts = range(0, len(rows), engine.eval_batch_size)
    groups = [rows[start : start + engine.eval_batch_size] for start in starts]
    return [collate(group, engine.extractor, padding) for group in groups]
