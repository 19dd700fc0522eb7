"""Where clips come from: a folder, a list, an archive or a dataset, and what is taken of it."""

from typing import Annotated, Literal, TypeGuard

from pydantic import BeforeValidator, Field, Strict

from dlm.document.record import Names, Positive, Record, Text, none_when_empty

SourceFormat = Literal[
    "folder",
    "audiofolder",
    "json",
    "table",
    "parquet",
    "hub",
    "webdataset",
    "nemo",
    "granary",
    "lhotse",
    "kaldi",
    "librispeech",
    "commonvoice",
    "musiccaps",
    "audiocaps",
    "clotho",
]
Asked = Literal["transcribe", "answer"]
COLUMNS = (
    *("audio", "text", "language", "speaker", "prompt", "start", "end", "id"),
    *("messages", "conversations", "audios"),
)


def _of_ours(value: object) -> object:
    """Columns by our names, none of them misspelt."""
    odd = next((name for name in value if name not in COLUMNS), None) if _is_map(value) else None
    if odd is not None:
        raise ValueError(f"must name columns of ours, of {', '.join(COLUMNS)}; {odd} is none")
    return value


def _is_map(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


class Source(Record):
    """Recordings and what is said in them, in any of the formats of clips/formats/every.py."""

    path: Text = Field(
        description="Folder or file, relative to the document; hf:org/name[/config] of the Hub."
    )
    format: SourceFormat | None = Field(
        default=None, description="How the clips are kept; found out by looking when empty."
    )
    include: Names = Field(
        default=("**/*",), description="Patterns of the files to take, such as **/*.wav."
    )
    exclude: Names = Field(default=(), description="Patterns of the files to leave out.")
    max_files: int | None = Field(
        default=None, ge=1, description="Take at most this many clips; all when empty."
    )
    weight: Positive = Field(
        default=1.0, description="How often its clips come in a pass: 2 twice, 0.5 every other one."
    )
    split: Text | None = Field(
        default=None, description="The part to take where there are several, such as train."
    )
    language: Text | None = Field(
        default=None, description="Language spoken in the clips, such as fr."
    )
    task: Asked | None = Field(
        default=None, description="transcribe or answer; what the format is for when empty."
    )
    prompt: Text | None = Field(
        default=None,
        description="What the model is asked about each clip; the base's own if empty.",
    )
    columns: Annotated[dict[Text, Text], BeforeValidator(_of_ours)] = Field(
        default_factory=dict,
        description="Names of its columns by ours, such as {text: sentence, audio: file}.",
    )
    audio: Text | None = Field(
        default=None, description="Folder of the recordings, where they do not lie beside the list."
    )
    stream: bool = Field(
        default=False, description="Read it row by row as it is learned, without listing it first."
    )


def _sources_by_path(value: object) -> object:
    """A source that is only a path may be written as one, and a single one without a list."""
    listed = [value] if isinstance(value, str) else none_when_empty(value)
    if not isinstance(listed, list | tuple):
        return listed
    return [{"path": each} if isinstance(each, str) else each for each in listed]


Sources = Annotated[tuple[Source, ...], Strict(False), BeforeValidator(_sources_by_path)]
