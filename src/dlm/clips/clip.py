"""What a clip is: turns of text and sound, and where the author wrote them.

Clip
├── turns   system, user, assistant; each a row of parts, text or Sound
└── place   "my.dlm:12" or "corpus/a.wav", for every message about it

Problem     what is wrong with one, where, and the mend
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dlm.errors import DlmError

Role = Literal["system", "user", "assistant"]
Task = Literal["transcribe", "answer", "text"]

LANGUAGE = re.compile("[a-zA-Z]{2}")  # a code of ISO 639-1
LANGUAGE_MEND = "write two letters such as fr, or none to have it detected"


@dataclass(frozen=True)
class Sound:
    """One span of one recording. `start` and `end` are seconds from its beginning, or the whole.

    `written` is the path as the author wrote it, for messages, and `said` what is said in it, for a
    teacher that reads; two sounds that differ in these alone are equal.
    """

    path: Path
    start: float | None = None
    end: float | None = None
    written: str | None = field(default=None, compare=False)
    said: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The recording, as the author would look for it."""
        return self.written or str(self.path)


Part = str | Sound


@dataclass(frozen=True)
class Turn:
    """What one side says: text and sound in order. Only an assistant's text carries loss."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text, without its sounds."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class Clip:
    """One thing to learn from: turns, in the order they are said.

    A `transcribe` clip is scored by words, an `answer` clip asks something else about its sound,
    a `text` clip has no sound (prose, or a question about nothing heard).
    """

    turns: tuple[Turn, ...]
    place: str
    task: Task
    language: str | None = None

    @property
    def sounds(self) -> tuple[Sound, ...]:
        """Every span of sound in the clip, in order."""
        return tuple(part for turn in self.turns for part in turn.parts if isinstance(part, Sound))

    @property
    def target(self) -> str:
        """What the model must say last: the transcript, the answer or the prose."""
        return self.turns[-1].text


@dataclass(frozen=True)
class Problem:
    """What is wrong, where, and how to mend it. Training fails if it is `fatal`."""

    where: str
    what: str
    mend: str
    fatal: bool

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.what}; {self.mend}".split())

    @classmethod
    def of(cls, error: DlmError, place: str, *, fatal: bool = True) -> "Problem":
        """What an error says, told of the clip at `place`."""
        near = error.where is None or error.where == place
        what = error.what if near else f"{error.where}: {error.what}"
        return cls(place, what, error.mend or "mend it or take the clip out", fatal)
