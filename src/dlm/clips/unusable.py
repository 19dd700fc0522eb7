"""What becomes of clips that cannot be used: nothing is learned, or they are left out and told.

    training.bad_clips   error   each of them stops training
                         skip    they are left out, counted and told in one line
                         empty   error under 100 clips, skip from there on, and in a stream

Only what is wrong with single clips and rows is passed over, and no more than 5 % of all: what is
wrong with a source or the document as a whole stops training as ever.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dlm.clips.clip import Clip, Problem, Sound
from dlm.clips.sources import Gathered
from dlm.document.settings import Training
from dlm.errors import ClipError

MANY_CLIPS = 100  # from here on a few bad ones do not stop training
MOST_SHARE = 0.05  # more than that is no accident
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Sifted:
    """What is left to say, and what is wrong with the clips and rows that are left out."""

    problems: tuple[Problem, ...]
    left_out: tuple[Problem, ...] = ()
    sounds: Collection[Sound] = ()  # that cannot be used

    def usable(self, clips: Sequence[Clip]) -> tuple[Clip, ...]:
        """The clips that are not left out."""
        bad = {problem.where for problem in self.left_out}
        return tuple(
            clip
            for clip in clips
            if clip.place not in bad and not any(sound in self.sounds for sound in clip.sounds)
        )


def skips(asked: Training, gathered: Gathered) -> bool:
    """Whether clips that cannot be used are left out."""
    if asked.bad_clips is not None:
        return asked.bad_clips == "skip"
    return asked.streamed or count(gathered) >= MANY_CLIPS


def count(gathered: Gathered) -> int:
    """All clips and the rows that should have been clips."""
    return len(gathered.clips) + len(gathered.broken)


def sift(
    asked: Training,
    gathered: Gathered,
    problems: Sequence[Problem],
    *,
    sounds: Collection[Sound] = (),
    where: str,
) -> Sifted:
    """What each problem does. `sounds` cannot be used; `where` names the document."""
    if not skips(asked, gathered):
        return Sifted(tuple(problems))
    places = {clip.place for clip in gathered.clips} | {each.where for each in gathered.broken}
    bad = tuple(each for each in problems if each.fatal and each.where in places)
    if not bad:
        return Sifted(tuple(problems))
    left = tuple(each for each in problems if not (each.fatal and each.where in places))
    found = Sifted(left, bad, sounds)
    many, broken = count(gathered), {each.where for each in gathered.broken}
    out = len(gathered.clips) - len(found.usable(gathered.clips)) + len(broken)
    if too_many(out, many):
        return Sifted((refused(bad, out, many, where=where), *problems))
    told = f"{_cannot(out, many)} and {'is' if out == 1 else 'are'} left out: {_some(bad)}"
    mend = "nothing to do, or mend them: `dlm check --json` names all"
    return replace(found, problems=(*found.problems, Problem(where, told, mend, fatal=False)))


class Tally:
    """Clips, of so many, that turn out on the way not to be usable, and what is wrong with each."""

    def __init__(self, of: int, *, skips: bool) -> None:
        self.of = of
        self.problems: dict[str, Problem] = {}  # by the place of the clip
        self._skips = skips

    def take(self, error: ClipError, place: str) -> None:
        """Leave the clip at `place` out, or raise where the run ends with it or it is too many."""
        if not self._skips:
            raise error
        self.problems[place] = Problem.of(error, place)
        out = len(self.problems)
        if too_many(out, self.of):
            bad = refused(self.problems.values(), out, self.of, where=place)
            raise ClipError(bad.what, where=bad.where, mend=bad.mend) from error


def too_many(out: int, many: int) -> bool:
    """Whether so many bad clips, of all there are, stop training."""
    return out > MOST_SHARE * many


def refused(bad: Iterable[Problem], out: int, many: int, *, where: str) -> Problem:
    """Why training stops."""
    what = f"{_cannot(out, many)}, more than {MOST_SHARE:.0%}: {_some(bad)}"
    return Problem(where, what, "mend them, or take them out", fatal=True)


def _cannot(out: int, many: int) -> str:
    return f"{out:,} of {many:,} clip{'s' * (many != 1)} cannot be used"


def _some(bad: Iterable[Problem]) -> str:
    """The first few places, each once."""
    names = list(dict.fromkeys(each.where for each in bad))
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
