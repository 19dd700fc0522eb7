"""How long the rows of a document are, told before a tokenizer counts them.

    sound    exact, by plan/frames.py
    text     from above: a token is at least two bytes long

A short clip is given as much room as half a minute and its words, so that the next clip of a
document does not change its batches.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dlm.clips.clip import Clip, Turn
from dlm.plan.bases import Base
from dlm.plan.changes import played
from dlm.plan.frames import tokens

SECONDS = 30
TEXT_TOKENS = 256  # a question and a transcript
FORM_TOKENS = 64  # that a chat form writes around them
BYTES_PER_TOKEN = 2


@dataclass(frozen=True)
class RowSize:
    """A row in tokens, those of sound and those that carry loss among them."""

    tokens: int
    sound: int
    labels: int


def row_of(
    base: Base,
    longest: int,
    clips: Iterable[Clip] = (),
    lasting: Mapping[str, tuple[float, ...]] | None = None,
    *,
    slowest_percent: int = 100,
) -> RowSize:
    """The row to make room for, at most `longest` tokens.

    `lasting` are the seconds of each sound, by the place of its clip; they may be played as slowly
    as `slowest_percent` of their speed.
    """
    usual = tokens(usual_samples(base), base.strides)
    rows = [RowSize(usual + TEXT_TOKENS, usual, TEXT_TOKENS)]
    rows += [
        _row(base, clip, (lasting or {}).get(clip.place, ()), slowest_percent) for clip in clips
    ]
    most = min(longest, base.context)
    return RowSize(
        tokens=min(max(row.tokens for row in rows), most),
        sound=min(max(row.sound for row in rows), most),
        labels=min(max(row.labels for row in rows), most),
    )


def usual_samples(base: Base) -> int:
    """Samples of half a minute, or of the longest span heard at once if that is less."""
    return min(base.strides.window, SECONDS * base.strides.rate)


def _row(base: Base, clip: Clip, lasting: tuple[float, ...], percent: int) -> RowSize:
    strides = base.strides
    samples = (round(seconds * strides.rate) for seconds in lasting)
    sound = sum(tokens(played(each, percent, strides.window), strides) for each in samples)
    labels = _words(turn for turn in clip.turns if turn.role == "assistant")
    return RowSize(sound + _words(clip.turns), sound, labels)


def _words(turns: Iterable[Turn]) -> int:
    """Tokens of what is said, from above."""
    return sum(len(turn.text.encode()) for turn in turns) // BYTES_PER_TOKEN + FORM_TOKENS
