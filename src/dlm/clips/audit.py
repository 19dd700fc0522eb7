"""Everything that can be known of the clips before any weights load; never raises on a clip.

    Gathered -> each sound looked at once, several at a time      heard, measure
             -> what is wrong with a clip                         here, remarks, scripts
             -> what is odd about clips beside each other         beside; leaks, once they are split
             -> what there is of each, and of all together        facts, sums

What would stop training is fatal: a sound that is missing, damaged, at a refused rate or too short,
and a clip with nothing to learn. Everything else is a remark.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlm.clips.audio import rate_refusal, resampler
from dlm.clips.beside import of_copies, of_near_copies, of_pace, of_texts
from dlm.clips.clip import LANGUAGE, LANGUAGE_MEND, Clip, Problem, Sound
from dlm.clips.facts import Facts
from dlm.clips.heard import Heard, Progress, hear_all
from dlm.clips.origin import EMPTY_TRANSCRIPT
from dlm.clips.remarks import (
    SHORTEST_SECONDS,
    long_remark,
    long_sum,
    pace_remarks,
    sound_remarks,
    text_remarks,
)
from dlm.clips.scripts import script_remarks
from dlm.clips.sources import Gathered
from dlm.clips.sums import Sums, sum_up
from dlm.document.intake import Audio
from dlm.errors import ClipError


@dataclass(frozen=True, kw_only=True)
class Audit(Sums):
    """What is known of all clips together, of each of them, and what is wrong."""

    facts: Facts
    problems: tuple[Problem, ...]
    unusable: frozenset[Sound] = frozenset()  # what would stop training wherever it is heard

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """What would stop training."""
        return tuple(problem for problem in self.problems if problem.fatal)


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
    full: bool = False,
) -> Audit:
    """Look at every clip, for a base that hears `rate` samples per second, a window at a time.

    Of a great many sounds only a sample is decoded, unless `full`.
    """
    clips = gathered.clips
    limits = _Limits(rate, window_seconds, taken_in)
    heard = hear_all(clips, full=full, progress=progress)
    problems = (
        *gathered.problems,
        *_without_resampler(clips, heard, limits),
        *_of_each(clips, heard, limits),
        *of_copies(clips, heard),
        *of_near_copies(clips, heard),
        *of_texts(clips),
        *of_pace(clips, heard),
        *_of_length(heard, limits),
    )
    return Audit(
        **vars(sum_up(clips, heard)),
        facts=Facts(clips, heard),
        problems=problems,
        unusable=frozenset(
            sound
            for sound in heard.numbers
            if any(problem.fatal for problem in _of_sound("", sound, heard, limits))
        ),
    )


def _without_resampler(clips: Sequence[Clip], heard: Heard, limits: _Limits) -> Iterator[Problem]:
    """Said once, at the first clip that would have to be converted."""
    if not limits.taken_in.auto_resample or not set(heard.rates) - {0, limits.rate}:
        return
    first = next(
        clip.place
        for clip in clips
        for sound in clip.sounds
        if heard.rates[heard.numbers[sound]] not in (0, limits.rate)
    )
    try:
        resampler()
    except ClipError as error:
        yield Problem.of(error, first)


def _of_each(clips: Sequence[Clip], heard: Heard, limits: _Limits) -> Iterator[Problem]:
    """What is wrong with each clip; a sound that several clips share is spoken of once."""
    told = bytearray(len(heard.numbers))
    for clip in clips:
        for sound in clip.sounds:
            number = heard.numbers[sound]
            if not told[number]:
                told[number] = True
                yield from _of_sound(clip.place, sound, heard, limits)
        if not clip.target.strip():
            mend = "write what the model should say"
            yield Problem(clip.place, EMPTY_TRANSCRIPT, mend, fatal=True)
        if clip.language is not None and not LANGUAGE.fullmatch(clip.language):
            what = f"'{clip.language}' is not a language code of ISO 639-1"
            yield Problem(clip.place, what, LANGUAGE_MEND, fatal=True)
        told_of = (*text_remarks(clip), *pace_remarks(clip, heard.lasting(clip)))
        for what, mend in (*told_of, *script_remarks(clip)):
            yield Problem(clip.place, what, mend, fatal=False)


def _of_sound(place: str, sound: Sound, heard: Heard, limits: _Limits) -> Iterator[Problem]:
    number = heard.numbers[sound]
    if number in heard.errors:
        yield Problem.of(heard.errors[number], place)
        return
    native, seconds = heard.rates[number], heard.seconds(number)
    if native != limits.rate and not limits.taken_in.auto_resample:
        yield Problem.of(rate_refusal(sound.name, native, limits.rate), place)
    if seconds < SHORTEST_SECONDS:
        what = f"it lasts {seconds:.3f} s; a clip needs at least {SHORTEST_SECONDS:g} s"
        mend = "take a longer span or leave the clip out"
        yield Problem.of(ClipError(what, where=sound.name, mend=mend), place)
        return
    if number in heard.facts:
        for what, mend in sound_remarks(heard.facts[number]):
            yield Problem.of(ClipError(what, where=sound.name, mend=mend), place, fatal=False)
    if seconds > limits.window_seconds:
        policy = limits.taken_in.long_clips
        what, mend = long_remark(seconds, limits.window_seconds, policy)
        error = ClipError(what, where=sound.name, mend=mend)
        yield Problem.of(error, place, fatal=policy == "error")


def _of_length(heard: Heard, limits: _Limits) -> Iterator[Problem]:
    """How many sounds are longer than the base hears at once, and what becomes of them."""
    lasting = [heard.seconds(number) for number in range(len(heard.samples))]
    told = long_sum(lasting, limits.window_seconds, limits.taken_in.long_clips)
    if told is not None:
        yield Problem("training.audio.long_clips", *told, fatal=False)
