"""How well a model hears: loss, the listening gap, and the words it gets wrong."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from dlm.batches.collate import Batch, Padding, collate
from dlm.clips.clip import Clip, Part, Sound
from dlm.clips.haul import SourceReport
from dlm.training.loss import listening_gap, mean_loss
from dlm.use.manual import RowLoss
from dlm.use.metrics import NORMALISER, Errors, Scored, character_errors, score, word_errors
from dlm.use.ready import Ready, answer_all

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What a model scored. `worst` are its clips, the worst first."""

    clips: int
    words: Errors | None  # None without a clip to transcribe
    characters: Errors | None
    worst: tuple[Scored, ...]
    scores: dict[str, float]  # loss, shuffled_loss, gap, wer, cer
    sources: tuple[SourceReport, ...] = ()  # that the clips come from, if not from a document
    normaliser: str = NORMALISER
    row: RowLoss | None = None  # one clip, token by token, where that was asked for


def evaluate(using: Ready, clips: list[Clip], *, progress: Progress | None = None) -> Report:
    """Score a model on `clips`; losses are nats per label token, in evaluation mode."""
    using.model.eval()
    scores = losses(using, clips)
    spoken = [clip for clip in clips if clip.task == "transcribe"]
    if not spoken:
        return Report(len(clips), None, None, (), scores)
    scored = []
    for number, (clip, heard) in enumerate(answer_all(using, spoken), start=1):
        scored.append(score(clip.place, clip.target, heard))
        if progress:
            progress(number, len(spoken))
    said, heard_all = [each.said for each in scored], [each.heard for each in scored]
    words, characters = word_errors(said, heard_all), character_errors(said, heard_all)
    scores |= {"wer": words.rate, "cer": characters.rate}
    worst = tuple(sorted(scored, key=lambda each: (-each.wer, each.place)))
    return Report(len(clips), words, characters, worst, scores)


def losses(using: Ready, clips: list[Clip]) -> dict[str, float]:
    """Loss with the right sound; and, with two sounds or more, the listening gap."""
    if not clips:
        return {}
    loss = mean_loss(using.model, _batches(using, clips))
    hearing = [clip for clip in clips if clip.sounds]
    swapped = shuffle_sounds(hearing)
    if not swapped:
        return {"loss": loss}
    right = loss if len(hearing) == len(clips) else mean_loss(using.model, _batches(using, hearing))
    wrong = mean_loss(using.model, _batches(using, swapped))
    return {"loss": loss, "shuffled_loss": wrong, "gap": listening_gap(right, wrong)}


def shuffle_sounds(clips: list[Clip]) -> list[Clip]:
    """The same turns, every sound replaced by another recording's; empty when there is no other."""
    donor = _donors(clips)
    if not donor:
        return []
    return [
        replace(
            clip,
            turns=tuple(
                replace(turn, parts=tuple(_swap(part, donor) for part in turn.parts))
                for turn in clip.turns
            ),
        )
        for clip in clips
    ]


def _donors(clips: list[Clip]) -> dict[Sound, Sound]:
    """A stand-in for each sound: the next one, in a random ring, of a recording not in its clip.

    The ring goes by what is said of the sounds: it is the same wherever they lie, in any order.
    """
    near: dict[Sound, set[object]] = {}
    said: dict[Sound, list[str]] = {}
    for clip in clips:
        for sound in clip.sounds:
            near.setdefault(sound, set()).update(each.recording for each in clip.sounds)
            said.setdefault(sound, []).append("\n".join(turn.text for turn in clip.turns))
    ring = sorted(near, key=lambda sound: (sorted(said[sound]), sound.start or 0.0, repr(sound)))
    random.Random(0).shuffle(ring)
    donor = {}
    for place, sound in enumerate(ring):
        found = _next(ring, place, near[sound]) or _next(ring, place, {sound.recording})
        if found is None:
            return {}
        donor[sound] = found
    return donor


def _next(ring: list[Sound], place: int, but: set[object]) -> Sound | None:
    """The first sound after `place` in the ring that is of none of these recordings."""
    after = (ring[(place + step) % len(ring)] for step in range(1, len(ring)))
    return next((sound for sound in after if sound.recording not in but), None)


def _swap(part: Part, donor: dict[Sound, Sound]) -> Part:
    return donor[part] if isinstance(part, Sound) else part


def _batches(using: Ready, clips: list[Clip]) -> list[Batch]:
    """Clips as they are learned from, in order of length."""
    rows = [using.chat.row(clip) for clip in clips]
    rows.sort(key=lambda row: (sum(map(using.tokens, row.sounds)), len(row.ids)))
    padding = Padding(using.chat.pad, using.chat.placeholder)
    starts = range(0, len(rows), using.together)
    groups = [rows[start : start + using.together] for start in starts]
    return [collate(group, using.ear, padding) for group in groups]
