"""What a clip is: turns of text and sound, and where the author wrote them.

Clip
├── turns    system, user, assistant; each a row of parts, text or Sound
├── speaker  who speaks, where that is known
└── place    "my.dlm:12" or "corpus/a.wav", for every message about it

Problem     what is wrong with one, where, and the mend
"""

import re
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dlm.errors import DataError, DlmError

Role = Literal["system", "user", "assistant"]
Task = Literal["transcribe", "answer", "text"]

LANGUAGE_CODE_RE = re.compile("[a-zA-Z]{2}")  # a code of ISO 639-1
LANGUAGE_CODE_HINT = "write two letters such as fr, or none to have it detected"


@lru_cache(maxsize=4096)
def _folder(path: str) -> Path:
    return Path(path)


@dataclass(frozen=True, slots=True)
class AudioSegment:
    """One span of one recording. `start` and `end` are seconds from its beginning, or the whole.

    `inside` says where in `path` the recording lies, first byte and bytes, if that is an archive.

    `written` is the path as the author wrote it, for messages, and `said` what is said in it, for a
    teacher that reads; two sounds that differ in these alone are equal. The folder is shared by all
    sounds in it, so that a sound takes little more than its name.
    """

    if TYPE_CHECKING:
        path: Path
    else:
        path: InitVar[Path]  # kept as folder and file, and put together when asked for
    start: float | None = None
    end: float | None = None
    byte_range: tuple[int, int] | None = field(default=None, kw_only=True)
    display_path: str | None = field(default=None, compare=False)
    transcript: str | None = field(default=None, compare=False)
    folder: Path = field(init=False)
    file: str = field(init=False)

    if not TYPE_CHECKING:

        def __post_init__(self, path: Path) -> None:
            folder, _, file = str(path).rpartition("/")
            object.__setattr__(
                self, "folder", _folder(folder if folder or file == str(path) else "/")
            )
            object.__setattr__(self, "file", file)

        @property
        def path(self) -> Path:
            """Where the recording lies."""
            return self.folder / self.file

    @property
    def name(self) -> str:
        """The recording, as the author would look for it."""
        return self.display_path or str(self.path)

    @property
    def recording(self) -> tuple[Path, tuple[int, int] | None]:
        """Which recording this is a span of."""
        return self.path, self.byte_range


ContentPart = str | AudioSegment


@dataclass(frozen=True, slots=True)
class Message:
    """What one side says: text and sound in order. Only an assistant's text carries loss."""

    role: Role
    content: tuple[ContentPart, ...]

    @property
    def text(self) -> str:
        """The turn's text, without its sounds."""
        return "".join(part for part in self.content if isinstance(part, str))

    @property
    def audio_segments(self) -> tuple[AudioSegment, ...]:
        """The audio of the message, in order."""
        return tuple(part for part in self.content if isinstance(part, AudioSegment))

    @property
    def is_audio_only(self) -> bool:
        """Whether the user asks nothing about the audio."""
        return self.role == "user" and not self.text.strip()


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn from: turns, in the order they are said.

    A `transcribe` clip is scored by words, an `answer` clip asks something else about its sound,
    a `text` clip has no sound (prose, or a question about nothing heard). `weight` is how often it
    comes in a pass.
    """

    messages: tuple[Message, ...]
    location: str
    task: Task
    language: str | None = None
    speaker: str | None = None
    weight: float = 1.0

    @property
    def audio_segments(self) -> tuple[AudioSegment, ...]:
        """Every span of sound in the clip, in order."""
        return tuple(
            part
            for turn in self.messages
            for part in turn.content
            if isinstance(part, AudioSegment)
        )

    @property
    def target(self) -> str:
        """What the model must say last: the transcript, the answer or the prose."""
        return self.messages[-1].text


@dataclass(frozen=True, slots=True)
class Issue:
    """Something wrong with the data, as one line: `where: what; hint`.

    Attributes:
        where: location of the example, "file:line" or the name of its recording.
        what: what is wrong.
        hint: what to do about it.
        fatal: whether training would fail on it.
        code: stable name of the kind of mistake, as of an error.
    """

    where: str
    what: str
    hint: str
    fatal: bool
    code: str = ""

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.what}; {self.hint}".split())

    @classmethod
    def from_error(cls, error: DlmError, location: str, *, fatal: bool = True) -> "Issue":
        """Make the issue of an error with the example at `location`."""
        near = error.where is None or error.where == location
        what = error.what if near else f"{error.where}: {error.what}"
        return cls(location, what, error.hint or "correct it or remove the clip", fatal, error.code)


def require_assistant_reply(messages: tuple[Message, ...]) -> None:
    """Refuse a conversation in which nothing is left to learn at its end."""
    if not messages or messages[-1].role != "assistant" or not messages[-1].text.strip():
        what = "the conversation does not end with words of the assistant"
        raise DataError(what, hint="add the assistant turn that is to be learned")
