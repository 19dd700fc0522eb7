"""Asking a model about sounds."""

from collections.abc import Iterator
from pathlib import Path

from dlm.clips.clip import Part, Sound, Turn
from dlm.errors import UsageError
from dlm.model.generate import Decoding, stream
from dlm.plan.bases import Base
from dlm.use.ready import Ready


def turns_of(question: str, sounds: list[Path], base: Base, system: str | None) -> tuple[Turn, ...]:
    """A question as turns: sounds first, or where the question places them itself.

    Raises UsageError when the question places more or fewer sounds than there are.
    """
    heard = [Sound(path) for path in sounds]
    pieces = question.split(base.placeholder)
    parts: list[Part] = [*heard, question]
    if len(pieces) > 1:
        if len(pieces) - 1 != len(heard):
            raise UsageError(
                f"the question has {len(pieces) - 1} {base.placeholder}, and there are "
                f"{len(heard)} --audio",
                mend="give as many as there are sounds, or none",
            )
        parts = [pieces[0]]
        for sound, piece in zip(heard, pieces[1:], strict=True):
            parts += [sound, piece.lstrip("\n")]
    told = (Turn("system", (system,)),) if system else ()
    return (*told, Turn("user", tuple(part for part in parts if part != "")))


def ask(using: Ready, turns: tuple[Turn, ...], how: Decoding) -> Iterator[str]:
    """The answer, piece by piece."""
    row = using.chat.question(turns, "the question")
    return stream(using.model, using.chat, row, using.ear, how)
