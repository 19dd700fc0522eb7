"""The records of a training example: messages of text and audio, where they come from, issues.

Example
├── messages  system, user, assistant; each with text and AudioSegments in order
├── speaker   who speaks, where that is known
└── location  "my.dlm:12" or "corpus/a.wav", for every message about it

AudioSegment  a span of a recording   Recording  what the scan read of it   Issue  what is wrong
"""

import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from dlm.errors import DataError, DlmError

Role = Literal["system", "user", "assistant"]
Task = Literal["transcribe", "answer", "text"]
RecordingKey: TypeAlias = tuple[Path, tuple[int, int] | None]  # path, byte range

LANGUAGE_CODE_RE = re.compile("[a-zA-Z]{2}")  # a code of ISO 639-1
LANGUAGE_CODE_HINT = "write two letters such as fr, or none to have it detected"


@dataclass(frozen=True, slots=True)
class Recording:
    """What the scan read of a recording, so that nothing later opens it before it is decoded.

    Attributes:
        sample_rate: in Hz.
        num_channels: channels, before they are mixed to mono.
        num_samples: samples per channel.
        sha256: of its bytes; empty where it was not hashed.
        fingerprint: sha256 of its size, time of change and ends, where that stands for its bytes.
    """

    sample_rate: int
    num_channels: int
    num_samples: int
    sha256: str = ""
    fingerprint: str = ""


@lru_cache(maxsize=4096)
def _intern_folder(path: str) -> Path:
    return Path(path)


@dataclass(frozen=True, slots=True)
class AudioSegment:
    """A span of a recording. Two with the same path, byte range and times are equal.

    Attributes:
        path: the file. It is kept as a folder shared by all segments in it, and a name, to save
            memory.
        start: seconds from the beginning of the recording; None for its beginning.
        end: seconds from the beginning of the recording; None for its end.
        byte_range: first byte and number of bytes, for a recording inside an archive.
        display_path: the path as the author wrote it, for messages.
        transcript: what is said in it, for a teacher that reads.
        recording: what the scan read of the recording; None before the scan.
    """

    if TYPE_CHECKING:
        path: Path
    else:
        path: InitVar[Path]
    start: float | None = None
    end: float | None = None
    byte_range: tuple[int, int] | None = field(default=None, kw_only=True)
    display_path: str | None = field(default=None, compare=False)
    transcript: str | None = field(default=None, compare=False)
    recording: Recording | None = field(default=None, compare=False, kw_only=True)
    folder: Path = field(init=False)
    file_name: str = field(init=False)

    if not TYPE_CHECKING:

        def __post_init__(self, path: Path) -> None:
            folder, _, file_name = str(path).rpartition("/")
            folder = folder if folder or file_name == str(path) else "/"
            object.__setattr__(self, "folder", _intern_folder(folder))
            object.__setattr__(self, "file_name", file_name)

        @property
        def path(self) -> Path:
            return self.folder / self.file_name

    @property
    def name(self) -> str:
        """The recording, as the author would look for it."""
        return self.display_path or str(self.path)

    @property
    def sha256(self) -> str:
        """The sha256 of the recording's bytes; empty where the scan did not hash them."""
        return self.recording.sha256 if self.recording else ""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the recording; empty where the scan did not compute it."""
        return self.recording.fingerprint if self.recording else ""

    @property
    def recording_key(self) -> RecordingKey:
        """Path and byte range: what tells one recording from another."""
        return self.path, self.byte_range


ContentPart = str | AudioSegment


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. Only the text of the assistant carries loss.

    Attributes:
        role: "system", "user" or "assistant".
        content: text and audio, in order.
    """

    role: Role
    content: tuple[ContentPart, ...]

    @property
    def text(self) -> str:
        """The text of the message, without its audio."""
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
    """One training example.

    Attributes:
        messages: the conversation, in order.
        location: where it was written: "file:line" or the name of its recording.
        task: "transcribe" is scored by word error rate, "answer" asks something else about the
            audio, "text" has no audio.
        language: ISO 639-1 code of the transcript.
        speaker: who speaks, where that is known.
        weight: how often it comes in an epoch.
    """

    messages: tuple[Message, ...]
    location: str
    task: Task
    language: str | None = None
    speaker: str | None = None
    weight: float = 1.0

    @property
    def audio_segments(self) -> tuple[AudioSegment, ...]:
        """The audio of the example, in order."""
        return tuple(
            part
            for message in self.messages
            for part in message.content
            if isinstance(part, AudioSegment)
        )

    @property
    def target(self) -> str:
        """The text of the last message: the transcript, the answer or the prose."""
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
    code: str

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.what}; {self.hint}".split())

    @classmethod
    def from_error(cls, error: DlmError, location: str, *, fatal: bool = True) -> "Issue":
        """Make the issue of an error with the example at `location`."""
        is_same = error.where is None or error.where == location
        what = error.what if is_same else f"{error.where}: {error.what}"
        return cls(location, what, error.hint or "correct it or remove the clip", fatal, error.code)


def require_assistant_reply(messages: Sequence[Message]) -> None:
    """Refuse a conversation that does not end with text of the assistant.

    Raises:
        DataError: `data.no_assistant_reply`.
    """
    if not messages or messages[-1].role != "assistant" or not messages[-1].text.strip():
        raise DataError(
            "the conversation does not end with words of the assistant",
            hint="add the assistant turn to train on",
            code="data.no_assistant_reply",
        )
