"""What the author wrote, read and checked.

Document
├── settings   the frontmatter (settings.py)
└── sections   prose, audio, instruction, conversation, each with its line
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dlm.document.settings import Settings

Kind = Literal["prose", "audio", "instruction", "conversation"]


@dataclass(frozen=True)
class Pair:
    """One question and its answer under `::instruction::`; `line` is that of `### Q`."""

    question: str
    answer: str
    line: int


@dataclass(frozen=True)
class WrittenTurn:
    """One turn under `::conversation::`.

    Parts are text (str) and sounds (Path as written, relative to the document), in order;
    a sound is written `<audio>clips/a.wav</audio>`.
    """

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Path, ...]
    line: int


@dataclass(frozen=True)
class Section:
    """One fenced part of the document. Only the field that fits its kind is filled."""

    kind: Kind
    line: int  # of the fence; of the first prose line
    text: str = ""  # prose: its text
    attributes: dict[str, str] = field(default_factory=dict)  # audio: path, transcript, ...
    pairs: tuple[Pair, ...] = ()  # instruction
    turns: tuple[WrittenTurn, ...] = ()  # conversation


@dataclass(frozen=True)
class Document:
    """A `.dlm` file. `source` is its text with LF line ends; `sha256` is of its bytes on disk."""

    path: Path
    settings: Settings
    sections: tuple[Section, ...]
    source: str
    sha256: str

    @property
    def folder(self) -> Path:
        """What the paths in the document are relative to."""
        return self.path.parent
