"""Whether a version listens: what it scores, where its sound lies, what it reads, where it errs.

    the run's log       curves by step                            insight_run
    clips, the model    scores, points, attention, nearest words  evaluate, insight_inside
    the worst clips     their sound, what was said and heard      here

insight_pictures draws it, and insight_page puts it on a page.
"""

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import soundfile
import torch

from dlm.clips.audio import decode
from dlm.clips.clip import Clip, Sound
from dlm.use.evaluate import Progress, Report, evaluate
from dlm.use.insight_inside import (
    Attention,
    Map,
    attention,
    draw_map,
    nearest,
    projected,
    spelled,
)
from dlm.use.ready import Ready, answer_all

logger = logging.getLogger(__name__)

PLAYED_SECONDS = 8.0  # of each sound: a page of clips stays small enough to be sent
NEAREST = 3  # text tokens told of each audio token
MAPPED = 64  # clips whose sound is laid out beside the words
ROWS = 100  # audio tokens told of each clip


@dataclass(frozen=True)
class Player:
    """The beginning of a sound as FLAC, mono, at the rate of the base."""

    flac: bytes
    seconds: float
    whole: float  # seconds of all of it


@dataclass(frozen=True)
class Near:
    """One audio token: where it begins, and the text tokens nearest to it with their cosines."""

    seconds: float
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Seen:
    """One clip looked at closely. `wer` is None where it does not ask for a transcript.

    `near` are its first audio tokens, of `tokens` in all.
    """

    place: str
    said: str
    heard: str
    wer: float | None
    players: tuple[Player, ...]
    near: tuple[Near, ...]
    tokens: int


@dataclass(frozen=True)
class Insight:
    """All that was measured; None is what these clips or this model cannot tell."""

    report: Report
    points: Map | None
    attention: Attention | None
    seen: tuple[Seen, ...]


def measure(
    using: Ready, clips: list[Clip], *, count: int, progress: Progress | None = None
) -> Insight:
    """Try a model on `clips`, and look closely at the `count` it does worst on."""
    logger.info("scoring %s clips", f"{len(clips):,}")
    report = evaluate(using, clips, progress=progress)
    sounding = [clip for clip in clips if clip.sounds]
    told = [
        clip for clip in sounding if clip.target.strip() and any(map(using.tokens, clip.sounds))
    ]
    told = told[:MAPPED]
    logger.info("looking at what the sound of %s clips becomes", f"{len(told):,}")
    sounds = [projected(using, clip) for clip in told]
    logger.info("looking at attention, and at the worst clips")
    return Insight(
        report=report,
        points=draw_map(using, told, sounds) if told else None,
        attention=attention(using, sounding[:count]),
        seen=tuple(_closely(using, sounding, report, count)),
    )


def _closely(using: Ready, clips: list[Clip], report: Report, count: int) -> Iterator[Seen]:
    """The worst transcripts, the worst first; after them clips that ask for something else."""
    worst = report.worst[:count]
    by_name = {(clip.place, clip.target): clip for clip in clips}
    for scored in worst:
        clip = by_name[scored.place, scored.said]
        yield _seen(using, clip, scored.heard, scored.wer)
    others = [clip for clip in clips if clip.task != "transcribe"][: count - len(worst)]
    for clip, heard in answer_all(using, others):
        yield _seen(using, clip, heard, None)


def _seen(using: Ready, clip: Clip, heard: str, wer: float | None) -> Seen:
    rate = using.model.base.strides.rate
    sound = projected(using, clip)
    samples = sum(window.samples for each in clip.sounds for window in using.ear(each))
    return Seen(
        place=clip.place,
        said=clip.target,
        heard=heard,
        wer=wer,
        players=tuple(_player(each, rate) for each in clip.sounds),
        near=tuple(_near(using, sound[:ROWS], samples / rate / max(len(sound), 1))),
        tokens=len(sound),
    )


def _near(using: Ready, sound: torch.Tensor, seconds: float) -> Iterator[Near]:
    """The text tokens nearest to each audio token, of `seconds` each."""
    cosines, ids = nearest(using.model, sound, NEAREST)
    for at, (row, cosine) in enumerate(zip(ids.tolist(), cosines.tolist(), strict=True)):
        words = [spelled(using, token) for token in row]
        yield Near(at * seconds, tuple(zip(words, cosine, strict=True)))


def _player(sound: Sound, rate: int) -> Player:
    wave = decode(sound, rate=rate, resample=True)
    played = wave[: round(PLAYED_SECONDS * rate)]
    file = io.BytesIO()
    soundfile.write(file, played, rate, format="FLAC", subtype="PCM_16")
    return Player(file.getvalue(), len(played) / rate, len(wave) / rate)
