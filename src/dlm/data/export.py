"""Clips handed on as data that others read, and dlm too: recordings, and a list of what is said.

    audiofolder   metadata.jsonl   a row a clip: file_name, text, prompt, language, speaker and
                  audio/           duration in seconds
    jsonl         clips.jsonl      the same with audio for file_name; what is no plain transcript
                  audio/           as messages with <audio> tags, and audios
    webdataset    data-000000.tar  000000-a.wav and 000000-a.json, a pair a clip

A recording that is heard whole is copied as found, out of its archive too; a span is cut out as a
wav of 16 bits, or of 24 where more is heard. The same clips make the same bytes.

A clip as a section of a document: ::audio:: for a transcript, ::conversation:: for the rest.

What is written is read again, and a clip that would not come back as it is, but for its line
breaks and blanks, is refused.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile

from dlm.config.editor import format_audio_fence, format_conversation, make_document_path
from dlm.config.parser import Document, parse_document
from dlm.data.audio_file import Waveform
from dlm.data.audio_io import open_audio
from dlm.data.file_globs import AUDIO_SUFFIXES, PYAV_SUFFIXES
from dlm.data.load import get_system_messages, iter_document_examples
from dlm.data.readers.conversations import MESSAGE_AUDIO_TAG_RE
from dlm.data.types import AudioSegment, ContentPart, Example, Message
from dlm.errors import DataError, DocumentError
from dlm.io import COPY_CHUNK_BYTES

ExportFormat = Literal["audiofolder", "jsonl", "webdataset"]
ExportProgressFn = Callable[[int, int], None]
ExampleRecord = dict[str, object]

EXPORT_FORMATS: tuple[ExportFormat, ...] = ("audiofolder", "jsonl", "webdataset")
EXPORT_LIST_FILES = {"audiofolder": "metadata.jsonl", "jsonl": "clips.jsonl"}
EXPORT_AUDIO_DIR = "audio"
MAX_TAR_SHARD_EXAMPLES, MAX_TAR_SHARD_BYTES = 10_000, 1_000_000_000
MAX_FILE_NAME_CHARS = 40
PCM_FULL_SCALE = {"PCM_16": 1 << 15, "PCM_24": 1 << 23}  # a sample of full scale


@dataclass(frozen=True)
class ExportSummary:
    """What was written. Some clips have no sound or a bad one; `answers` are no transcripts."""

    path: Path
    export_format: ExportFormat
    num_examples: int
    seconds: float
    num_recordings: int
    num_without_audio: int
    num_answers: int
    source_path: str  # what a document names to read it, below the folder
    num_unusable: int = 0


@dataclass
class _ExportState:
    """What was written so far."""

    seconds: float = 0.0
    num_recordings: int = 0


def export_examples(
    folder: Path,
    examples: Sequence[Example],
    export_format: ExportFormat,
    *,
    max_shard_examples: int = MAX_TAR_SHARD_EXAMPLES,
    progress: ExportProgressFn | None = None,
) -> ExportSummary:
    """Write clips into an empty folder. Raises ClipError for one that the form cannot hold."""
    heard = [clip for clip in examples if clip.audio_segments]
    for clip in heard:
        _check_exportable(clip, export_format)
    numbers = count(1)

    def told(clip: Example) -> Example:
        if progress:
            progress(next(numbers), len(heard))
        return clip

    hand = _ExportState()
    if export_format == "webdataset":
        _write_tar_shards(folder, map(told, heard), hand, max_shard_examples)
    else:
        _write_list(folder, map(told, heard), hand, export_format)
    return ExportSummary(
        path=folder,
        export_format=export_format,
        num_examples=len(heard),
        seconds=hand.seconds,
        num_recordings=hand.num_recordings,
        num_without_audio=len(examples) - len(heard),
        num_answers=sum(clip.task == "answer" for clip in heard),
        source_path=EXPORT_LIST_FILES["jsonl"] if export_format == "jsonl" else "",
    )


def _check_exportable(example: Example, export_format: ExportFormat) -> None:
    """Refuse what would come back as something else."""
    plain, jsonl = is_plain_transcription(example.messages), export_format == "jsonl"
    if not plain and not jsonl:
        what = f"it is a conversation, and {export_format} holds a recording and a text"
        raise DataError(what, where=example.location, hint="take --form jsonl")
    if jsonl and any(MESSAGE_AUDIO_TAG_RE.search(turn.text) for turn in example.messages):
        mend = "take it out" + (", or take --form webdataset" if plain else "")
        raise DataError("its text holds an <audio> tag", where=example.location, hint=mend)


def _write_list(
    folder: Path, examples: Iterator[Example], state: _ExportState, export_format: ExportFormat
) -> None:
    """A list, and a folder of recordings beside it, each of them once where rows may share."""
    kept: dict[AudioSegment, tuple[str, float]] = {}
    (folder / EXPORT_AUDIO_DIR).mkdir()
    with (folder / EXPORT_LIST_FILES[export_format]).open(
        "x", encoding="utf-8", newline="\n"
    ) as rows:
        for clip in examples:
            for sound in clip.audio_segments:
                if sound not in kept or export_format == "audiofolder":
                    name = _make_file_stem(state.num_recordings, sound)
                    saved, seconds = _save_recording(sound, folder / EXPORT_AUDIO_DIR / name)
                    kept[sound] = f"{EXPORT_AUDIO_DIR}/{saved.name}", seconds
                    state.num_recordings += 1
            names, lasting = zip(*(kept[sound] for sound in clip.audio_segments), strict=True)
            rows.write(
                _format_json(_make_export_record(clip, export_format, names, sum(lasting))) + "\n"
            )
            state.seconds += sum(lasting)


def _write_tar_shards(
    folder: Path, examples: Iterator[Example], state: _ExportState, max_shard_examples: int
) -> None:
    """One tar after the other, a recording and what is said in it side by side."""
    shards, clip = count(), next(examples, None)
    while clip is not None:
        first, size = state.num_recordings, 0
        with tarfile.open(folder / f"data-{next(shards):06}.tar", "x") as shard:
            while (
                clip is not None
                and state.num_recordings - first < max_shard_examples
                and size < MAX_TAR_SHARD_BYTES
            ):
                key = _make_file_stem(state.num_recordings, clip.audio_segments[0])
                saved, seconds = _save_recording(clip.audio_segments[0], folder / key)
                row = _format_json(_make_export_record(clip, "webdataset", (), seconds)).encode()
                with saved.open("rb") as recording:
                    _add_tar_member(shard, saved.name, recording, saved.stat().st_size)
                _add_tar_member(shard, f"{key}.json", io.BytesIO(row), len(row))
                size += saved.stat().st_size
                saved.unlink()
                state.num_recordings, state.seconds = (
                    state.num_recordings + 1,
                    state.seconds + seconds,
                )
                clip = next(examples, None)


def _add_tar_member(shard: tarfile.TarFile, name: str, data: BinaryIO, size: int) -> None:
    """Add a file of no time and no owner: a TarInfo says so by itself."""
    about = tarfile.TarInfo(name)
    about.size = size
    shard.addfile(about, data)


def _make_export_record(
    example: Example, export_format: ExportFormat, audio_names: tuple[str, ...], seconds: float
) -> ExampleRecord:
    """What is known of a clip, beside its recordings."""
    known: ExampleRecord = {
        "language": example.language,
        "speaker": example.speaker,
        "duration": round(seconds, 6),
    }
    if export_format == "jsonl" and not (
        is_plain_transcription(example.messages) and example.task == "transcribe"
    ):
        messages = [
            {"role": turn.role, "content": _format_tagged_text(turn)} for turn in example.messages
        ]
        known = {"messages": messages, "audios": list(audio_names), **known}
    else:
        said: ExampleRecord = {"text": example.target, "prompt": example.messages[0].text or None}
        key = {"audiofolder": "file_name", "jsonl": "audio"}.get(export_format)
        known = {**({key: audio_names[0]} if key else {}), **said, **known}
    if export_format == "audiofolder":
        return known  # where every row has the same columns
    return {key: value for key, value in known.items() if value is not None}


def _format_tagged_text(message: Message) -> str:
    return "".join(part if isinstance(part, str) else "<audio>" for part in message.content)


def _make_file_stem(number: int, segment: AudioSegment) -> str:
    """A name of its own for a recording, and what can be kept of the one it had."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(segment.name).stem)[:MAX_FILE_NAME_CHARS].strip(
        "-"
    )
    return f"{number:06}-{plain}".strip("-")


def _save_recording(segment: AudioSegment, stem: Path) -> tuple[Path, float]:
    """Write a recording, or the span of one, beside `stem`: the file, and its seconds."""
    suffix = Path(segment.name).suffix.lower()
    with open_audio(segment) as span:
        seconds = span.num_samples / span.info.sample_rate
    whole = segment.start is None and segment.end is None
    if whole and suffix in AUDIO_SUFFIXES | PYAV_SUFFIXES:
        copy = stem.with_name(f"{stem.name}{suffix}")
        first, left = segment.byte_range or (0, segment.path.stat().st_size)
        with segment.path.open("rb") as source, copy.open("xb") as target:
            source.seek(first)
            while chunk := source.read(min(left, COPY_CHUNK_BYTES)):
                left -= target.write(chunk)
        return copy, seconds
    cut = stem.with_name(f"{stem.name}.wav")
    _write_wav_segment(segment, cut)
    return cut, seconds


def _write_wav_segment(segment: AudioSegment, wav_path: Path) -> None:
    """Write what a sound hears as samples of 16 bits, where those hold it, or of 24."""
    with open_audio(segment) as span:
        kind = "PCM_16" if all(_fits_16_bits(block) for block in span.blocks) else "PCM_24"
    full = PCM_FULL_SCALE[kind]
    with open_audio(segment) as span:
        rate, channels = span.info.sample_rate, span.info.num_channels
        with soundfile.SoundFile(wav_path, "x", rate, channels, kind) as target:
            for block in span.blocks:
                whole = np.clip(np.rint(block.astype(np.float64) * full), -full, full - 1)
                target.write((whole * ((1 << 31) / full)).astype(np.int32))


def _fits_16_bits(block: Waveform) -> bool:
    """Whether 16 bits hold a block."""
    scaled = block.astype(np.float64) * PCM_FULL_SCALE["PCM_16"]
    return bool((scaled == np.rint(scaled)).all() and (scaled < PCM_FULL_SCALE["PCM_16"]).all())


def _format_json(record: ExampleRecord) -> str:
    return json.dumps(record, ensure_ascii=False)


SECONDS_DECIMALS = 6  # decimals of a second that two spans may differ behind
IMPORT_AS_SOURCE_HINT = "import the source without --inline"


def format_section(example: Example, document: Document) -> str:
    """The text of a section that gives this clip. Raises ClipError where none can."""
    if any(sound.byte_range for sound in example.audio_segments):
        what = "its recording lies in an archive, which no section can name"
        raise DataError(what, where=example.location, hint=IMPORT_AS_SOURCE_HINT)
    if any("\0" in str(segment.path) for segment in example.audio_segments):
        what = "the path of its recording holds a zero byte, which no section can"
        raise DataError(what, where=example.location, hint=IMPORT_AS_SOURCE_HINT)
    own = strip_system_messages(example, document)
    plain = example.task == "transcribe" and is_plain_transcription(own)
    try:
        text = (
            _format_audio_section(example, own, document)
            if plain
            else _format_conversation_section(example, own, document)
        )
        back = _parse_section(text, document)
    except DocumentError as error:
        raise DataError(error.what, where=example.location, hint=IMPORT_AS_SOURCE_HINT) from error
    if [_make_comparison_key(each) for each in back] != [_make_comparison_key(example)]:
        what = "no section says just what it says"
        raise DataError(what, where=example.location, hint=IMPORT_AS_SOURCE_HINT)
    return text


def strip_system_messages(example: Example, document: Document) -> tuple[Message, ...]:
    """The turns of a clip, without what the document tells the model before every conversation."""
    told = get_system_messages(document)
    return (
        example.messages[len(told) :] if example.messages[: len(told)] == told else example.messages
    )


def is_plain_transcription(messages: tuple[Message, ...]) -> bool:
    """Whether they are a sound, perhaps a question about it, and what is said in it."""
    kinds = [[type(part) for part in turn.content] for turn in messages]
    return kinds in ([[AudioSegment], [str]], [[AudioSegment, str], [str]])


def _format_audio_section(
    example: Example, messages: tuple[Message, ...], document: Document
) -> str:
    (sound,) = example.audio_segments
    given: dict[str, str] = {}
    for name, seconds in (("start", sound.start), ("end", sound.end)):
        if seconds is not None:
            given[name] = f"{seconds:.9f}".rstrip("0").rstrip(".")
    if example.language:
        given["language"] = example.language
    if asked := messages[0].text:
        given["prompt"] = asked
    return format_audio_fence(
        make_document_path(document.folder, sound.path), messages[-1].text, **given
    )


def _format_conversation_section(
    example: Example, messages: tuple[Message, ...], document: Document
) -> str:
    if any(sound.start is not None or sound.end is not None for sound in example.audio_segments):
        what = "it hears a span of a recording, which no conversation can name"
        raise DataError(
            what, where=example.location, hint=f"cut the recording, or {IMPORT_AS_SOURCE_HINT}"
        )
    folder = document.folder
    return format_conversation(
        [
            (turn.role, "".join(_format_content_part(part, folder) for part in turn.content))
            for turn in messages
        ]
    )


def _format_content_part(content_part: ContentPart, folder: Path) -> str:
    return (
        content_part
        if isinstance(content_part, str)
        else f"<audio>{make_document_path(folder, content_part.path)}</audio>"
    )


def _parse_section(text: str, document: Document) -> list[Example]:
    """The clips of a section, were it in the document."""
    front = f"dlm_id: {document.config.dlm_id}\nbase_model: any\n"
    written = parse_document(f"---\n{front}---\n{text}\n", document.path)
    found = list(iter_document_examples(replace(document, sections=written.sections)))
    return [each for each in found if isinstance(each, Example)]


def _make_comparison_key(example: Example) -> list[object]:
    """What a clip teaches: who says what of which sound."""
    gist: list[object] = [example.task]
    for turn in example.messages:
        gist.append(turn.role)
        for part in turn.content:
            if isinstance(part, AudioSegment):
                span = (
                    None if at is None else round(at, SECONDS_DECIMALS)
                    for at in (part.start, part.end)
                )
                gist.append((os.path.realpath(part.path), *span))
            else:
                gist.append(" ".join(part.split()))
    return gist
