"""Everything that can be known of the clips before any weights load; never raises on a clip.

    Gathered -> each sound measured once, several at a time -> facts, totals, problems

What would stop training is fatal: a sound that is missing, damaged, at a refused rate or too short,
and a clip with nothing to learn. Everything else is a remark.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dlm.clips.audio import digest, rate_refusal, resampler
from dlm.clips.clip import LANGUAGE, LANGUAGE_MEND, Clip, Problem, Sound, Task
from dlm.clips.measure import SoundFacts, measure
from dlm.clips.remarks import (
    SHORTEST_SECONDS,
    long_remark,
    long_sum,
    pace_remarks,
    sound_remarks,
    text_remarks,
)
from dlm.clips.sections import EMPTY_TRANSCRIPT
from dlm.clips.sources import Gathered
from dlm.document.settings import Audio
from dlm.errors import ClipError

MOST_AT_ONCE = 8  # sounds; each holds one block

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ClipFacts:
    """One clip, measured: levels are shares of full scale. A text clip has no sound: zeros.

    Several sounds count together; `rate`, `channels` and `sha256` (of the file) are of the first.
    `lasting` is how many seconds each of them lasts.
    """

    place: str
    task: Task
    seconds: float
    samples: int
    rate: int
    channels: int
    peak: float
    rms: float
    silent_share: float
    clipped_share: float
    words: int
    words_per_second: float
    sha256: str
    lasting: tuple[float, ...]


@dataclass(frozen=True)
class Audit:
    """What is known of all clips. Seconds and rates count each sound once."""

    facts: tuple[ClipFacts, ...]  # of every clip whose sounds can be heard
    clips: int
    hours: float
    seconds_min: float
    seconds_median: float
    seconds_max: float
    rates: Counter[int]
    tasks: Counter[Task]
    problems: tuple[Problem, ...]

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """What would stop training."""
        return tuple(problem for problem in self.problems if problem.fatal)


@dataclass(frozen=True)
class _Heard:
    """A sound, measured, and the sha256 of its file."""

    facts: SoundFacts
    sha256: str


Hearing = dict[Sound, _Heard | ClipError]


@dataclass(frozen=True)
class _Limits:
    """What the base hears."""

    rate: int
    window_seconds: float
    taken_in: Audio


def audit(
    gathered: Gathered,
    *,
    rate: int,
    window_seconds: float,
    taken_in: Audio,
    progress: Progress | None = None,
) -> Audit:
    """Look at every clip, for a base that hears `rate` samples per second, a window at a time."""
    clips = gathered.clips
    limits = _Limits(rate, window_seconds, taken_in)
    heard = _hear_all(clips, progress)
    problems = [
        *gathered.problems,
        *_without_resampler(clips, heard, limits),
        *_of_each(clips, heard, limits),
        *_of_copies(clips, heard),
        *_of_length(heard, limits),
    ]
    sounds = [one.facts for one in heard.values() if isinstance(one, _Heard)]
    seconds = [sound.seconds for sound in sounds] or [0.0]
    return Audit(
        facts=tuple(_facts_of_each(clips, heard)),
        clips=len(clips),
        hours=sum(seconds) / 3600,
        seconds_min=min(seconds),
        seconds_median=median(seconds),
        seconds_max=max(seconds),
        rates=Counter(sound.rate for sound in sounds),
        tasks=Counter(clip.task for clip in clips),
        problems=tuple(problems),
    )


def _hear_all(clips: Sequence[Clip], progress: Progress | None) -> Hearing:
    """Measure each sound once, and hash each file once, however many clips share it."""
    sounds = list(dict.fromkeys(sound for clip in clips for sound in clip.sounds))
    first_of = {sound.path: sound for sound in reversed(sounds)}
    fresh = [first_of[sound.path] is sound for sound in sounds]
    heard: Hearing = {}
    digests: dict[Path, str] = {}
    with ThreadPoolExecutor(min(MOST_AT_ONCE, os.cpu_count() or 1)) as pool:
        found = pool.map(_hear, sounds, fresh)
        for done, (sound, (facts, sha256)) in enumerate(zip(sounds, found, strict=True), start=1):
            known = digests.setdefault(sound.path, sha256)
            heard[sound] = facts if isinstance(facts, ClipError) else _Heard(facts, known)
            if progress is not None:
                progress(done, len(sounds))
    return heard


def _hear(sound: Sound, fresh: bool) -> tuple[SoundFacts | ClipError, str]:
    """What is in a sound, and the sha256 of its file if nobody has asked for it yet."""
    sha256 = ""
    try:
        sha256 = digest(sound) if fresh else ""
        return measure(sound), sha256
    except ClipError as error:
        return error, sha256


def _without_resampler(clips: Sequence[Clip], heard: Hearing, limits: _Limits) -> Iterator[Problem]:
    """Said once, at the first clip that would have to be converted."""
    other = (clip for clip in clips for sound in clip.sounds if _rate_of(heard[sound], limits))
    first = next(other, None)
    if first is None or not limits.taken_in.auto_resample:
        return
    try:
        resampler()
    except ClipError as error:
        yield Problem.of(error, first.place)


def _rate_of(one: _Heard | ClipError, limits: _Limits) -> int | None:
    """The sound's rate if it is not the base's."""
    if isinstance(one, ClipError) or one.facts.rate == limits.rate:
        return None
    return one.facts.rate


def _of_each(clips: Sequence[Clip], heard: Hearing, limits: _Limits) -> Iterator[Problem]:
    """What is wrong with each clip; a sound that several clips share is spoken of once."""
    told: set[Sound] = set()
    for clip in clips:
        for sound in clip.sounds:
            if sound not in told:
                told.add(sound)
                yield from _of_sound(clip.place, sound, heard[sound], limits)
        if not clip.target.strip():
            mend = "write what the model should say"
            yield Problem(clip.place, EMPTY_TRANSCRIPT, mend, fatal=True)
        if clip.language is not None and not LANGUAGE.fullmatch(clip.language):
            what = f"'{clip.language}' is not a language code of ISO 639-1"
            yield Problem(clip.place, what, LANGUAGE_MEND, fatal=True)
        seconds = sum(one.facts.seconds for one in _heard_in(clip, heard) or ())
        for what, mend in (*text_remarks(clip), *pace_remarks(clip, seconds)):
            yield Problem(clip.place, what, mend, fatal=False)


def _of_sound(
    place: str, sound: Sound, one: _Heard | ClipError, limits: _Limits
) -> Iterator[Problem]:
    if isinstance(one, ClipError):
        yield Problem.of(one, place)
        return
    native = _rate_of(one, limits)
    if native is not None and not limits.taken_in.auto_resample:
        yield Problem.of(rate_refusal(sound.name, native, limits.rate), place)
    if one.facts.seconds < SHORTEST_SECONDS:
        what = f"it lasts {one.facts.seconds:.3f} s; a clip needs at least {SHORTEST_SECONDS:g} s"
        mend = "take a longer span or leave the clip out"
        yield Problem.of(ClipError(what, where=sound.name, mend=mend), place)
        return
    for what, mend in sound_remarks(one.facts):
        yield Problem.of(ClipError(what, where=sound.name, mend=mend), place, fatal=False)
    if one.facts.seconds > limits.window_seconds:
        policy = limits.taken_in.long_clips
        what, mend = long_remark(one.facts.seconds, limits.window_seconds, policy)
        error = ClipError(what, where=sound.name, mend=mend)
        yield Problem.of(error, place, fatal=policy == "error")


def _of_length(heard: Hearing, limits: _Limits) -> Iterator[Problem]:
    """How many sounds are longer than the base hears at once, and what becomes of them."""
    policy = limits.taken_in.long_clips
    lasting = [one.facts.seconds for one in heard.values() if isinstance(one, _Heard)]
    told = long_sum(lasting, limits.window_seconds, policy)
    if told is not None:
        yield Problem("training.audio.long_clips", *told, fatal=False)


def _of_copies(clips: Sequence[Clip], heard: Hearing) -> Iterator[Problem]:
    """Clips that ask the same of the same sound, wherever it lies and in whatever format."""
    first_of: dict[tuple[tuple[str, ...], tuple[str, ...]], Clip] = {}
    for clip in clips:
        found = _heard_in(clip, heard)
        if not found:
            continue
        contents = tuple(one.facts.content for one in found)
        first = first_of.setdefault((contents, tuple(turn.text for turn in clip.turns[:-1])), clip)
        if first is clip:
            continue
        if first.target == clip.target:
            what, mend = f"it repeats {first.place}", "take one of them out"
        else:
            what = f"it is the same sound as {first.place} with another transcript"
            mend = "keep the one that is right"
        yield Problem(clip.place, what, mend, fatal=False)


def _heard_in(clip: Clip, heard: Hearing) -> tuple[_Heard, ...] | None:
    """The sounds of a clip, or None if one of them cannot be heard."""
    found = [heard[sound] for sound in clip.sounds]
    good = tuple(one for one in found if isinstance(one, _Heard))
    return good if len(good) == len(found) else None


def _facts_of_each(clips: Sequence[Clip], heard: Hearing) -> Iterator[ClipFacts]:
    for clip in clips:
        found = _heard_in(clip, heard)
        if found is not None:
            yield _facts(clip, found)


def _facts(clip: Clip, found: tuple[_Heard, ...]) -> ClipFacts:
    """The sounds of a clip taken together, weighted by how long they last."""
    sounds = [one.facts for one in found]
    seconds = sum(sound.seconds for sound in sounds)
    words = len(clip.target.split())

    def share(of: Callable[[SoundFacts], float]) -> float:
        return sum(of(sound) * sound.seconds for sound in sounds) / seconds if seconds else 0.0

    return ClipFacts(
        place=clip.place,
        task=clip.task,
        seconds=seconds,
        samples=sum(sound.samples for sound in sounds),
        rate=sounds[0].rate if sounds else 0,
        channels=sounds[0].channels if sounds else 0,
        peak=max((sound.peak for sound in sounds), default=0.0),
        rms=share(lambda sound: sound.rms**2) ** 0.5,
        silent_share=share(lambda sound: sound.silent_share),
        clipped_share=share(lambda sound: sound.clipped_share),
        words=words,
        words_per_second=words / seconds if seconds else 0.0,
        sha256=found[0].sha256 if found else "",
        lasting=tuple(sound.seconds for sound in sounds),
    )
