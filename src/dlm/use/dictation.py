"""A model takes dictation of clips whose text is known: what differs most comes first.

    transcript of a     "half past nine"        the letters of each, in threes,
    heard in a          "the blue house is"     and how many of them they share
    heard in b          "half passed nine"      -> the transcript of a seems to be of b

A transcript far from what is heard is wrong, or of another recording, or hard to hear; which of
these it is takes a person with ears, and a place in the list.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlm.clips.clip import Clip, Problem
from dlm.use.evaluate import Progress
from dlm.use.metrics import Scored, normalise, score, word_errors
from dlm.use.ready import Ready, answer_all

FAR = 0.5  # words wrong: a better transcript may be found among the others
ALIKE = 0.4  # of the letters that two texts share, at least, to be of one sentence
BETTER = 0.2  # by which another sound must fit better than its own
THREE = 3  # letters that are compared at once
CLOSEST = 20  # clips looked at more closely, those that share the most


@dataclass(frozen=True)
class Misheard(Scored):
    """One clip. `seems` is the place of another whose sound its transcript fits better."""

    seems: str | None = None


@dataclass(frozen=True)
class Dictation:
    """What was heard, the worst clips first; `of` so many clips that could have been."""

    model: str  # the base, or the version that heard
    clips: tuple[Misheard, ...]
    of: int
    wer: float

    def problems(self) -> Iterator[Problem]:
        """Transcripts that seem to be of other recordings."""
        for clip in self.clips:
            if clip.seems is not None:
                what = f"its transcript fits what is heard in {clip.seems} better than its own"
                mend = "check which transcript belongs to which recording"
                yield Problem(clip.place, f"{what} sound", mend, fatal=False)


def dictate(
    using: Ready, clips: Sequence[Clip], *, model: str, of: int, progress: Progress | None = None
) -> Dictation:
    """Transcribe clips that are transcribed already, and set both beside each other."""
    using.model.eval()
    scored = []
    for number, (clip, heard) in enumerate(answer_all(using, list(clips)), start=1):
        scored.append(score(clip.place, clip.target, heard))
        if progress is not None:
            progress(number, len(clips))
    return Dictation(model, compare(scored), of, word_errors(*_columns(scored)).rate)


def compare(scored: Sequence[Scored]) -> tuple[Misheard, ...]:
    """The worst clips first, but before all others those whose transcript was found elsewhere."""
    both = zip(scored, _better(scored), strict=True)
    found = [Misheard(**vars(each), seems=seems) for each, seems in both]
    found.sort(key=lambda each: (each.seems is None, -each.wer, each.place))
    return tuple(found)


def _better(scored: Sequence[Scored]) -> Iterator[str | None]:
    """For each clip that is far off, the place of the one whose sound fits its transcript.

    It fits that sound as well as the other's own transcript, or the two only resemble each other.
    """
    said, heard = ([_threes(text) for text in texts] for texts in _columns(scored))
    own = [_shared(one, two) for one, two in zip(said, heard, strict=True)]
    where: dict[str, list[int]] = {}
    for at, threes in enumerate(heard):
        for three in threes:
            where.setdefault(three, []).append(at)
    for at, each in enumerate(scored):
        near = Counter(other for three in said[at] for other in where.get(three, ()))
        fits = {other: _shared(said[at], heard[other]) for other, _ in near.most_common(CLOSEST)}
        best = max(fits, key=lambda other: fits[other], default=at)
        enough = max(ALIKE, own[at] + BETTER, own[best])
        same = normalise(scored[best].said) == normalise(each.said)
        found = each.wer >= FAR and fits.get(best, 0.0) >= enough and not same
        yield scored[best].place if found else None


def _columns(scored: Sequence[Scored]) -> tuple[list[str], list[str]]:
    return [each.said for each in scored], [each.heard for each in scored]


def _shared(one: set[str], two: set[str]) -> float:
    """The share of two texts that they have in common."""
    return 2 * len(one & two) / max(len(one) + len(two), 1)


def _threes(text: str) -> set[str]:
    """Every three letters that follow each other, the spaces among them."""
    plain = f" {normalise(text)} "
    return {plain[at : at + THREE] for at in range(len(plain) - THREE + 1)} - {" " * THREE}
