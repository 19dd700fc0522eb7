"""Examples -> a data set that others read (`dlm export-data`), or sections of a document.

    audiofolder   metadata.jsonl   file_name, text, prompt, language, speaker, duration (seconds)
                  audio/
    jsonl         clips.jsonl      the same with `audio`; conversations as `messages` with <audio>
                  audio/           tags, and `audios`
    webdataset    data-000000.tar  000000-a.wav and 000000-a.json for each example

A whole recording is copied as it is, out of its archive too; a span is cut out as a WAV of 16
bits, or of 24 where it needs them. The same examples give the same bytes.

A section (`dlm import --inline`) is parsed again, and refused if it does not give the same example
up to white space.
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
EXPORT_AUDIO_KEYS = {"audiofolder": "file_name", "jsonl": "audio"}
EXPORT_AUDIO_DIR = "audio"
MAX_TAR_SHARD_EXAMPLES, MAX_TAR_SHARD_BYTES = 10_000, 1_000_000_000
MAX_FILE_NAME_CHARS = 40
PCM_FULL_SCALE = {"PCM_16": 1 << 15, "PCM_24": 1 << 23}
SECONDS_DECIMALS = 6  # to which the bounds of equal segments agree
# C0 without line ends and tabs, DEL, C1, and marks that turn the direction of what follows
CONTROL_CHARS_RE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
IMPORT_AS_SOURCE_HINT = "import the source without --inline"


@dataclass(frozen=True)
class ExportSummary:
    """What was written.

    Attributes:
        path: the folder.
        export_format: its format.
        num_examples: examples written.
        seconds: duration of their audio.
        num_recordings: files of audio.
        num_without_audio: examples left out because they have no audio.
        num_answers: examples that are answers, not transcripts.
        source_path: what a document names below the folder to read it.
        num_unusable: examples left out because they cannot be used.
    """

    path: Path
    export_format: ExportFormat
    num_examples: int
    seconds: float
    num_recordings: int
    num_without_audio: int
    num_answers: int
    source_path: str
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
    """Write examples into an empty folder.

    Args:
        folder: an empty folder.
        examples: those without audio are left out and counted.
        export_format: audiofolder, jsonl or webdataset.
        max_shard_examples: examples in a tar.
        progress: called with the number of the example and their count.

    Raises:
        DataError: the format cannot hold an example, or its audio cannot be read.
    """
    with_audio = [example for example in examples if example.audio_segments]
    for example in with_audio:
        _check_exportable(example, export_format)
    state = _ExportState()
    remaining = _report_progress(with_audio, progress)
    if export_format == "webdataset":
        _write_tar_shards(folder, remaining, state, max_shard_examples)
    else:
        _write_list(folder, remaining, state, export_format)
    return ExportSummary(
        path=folder,
        export_format=export_format,
        num_examples=len(with_audio),
        seconds=state.seconds,
        num_recordings=state.num_recordings,
        num_without_audio=len(examples) - len(with_audio),
        num_answers=sum(example.task == "answer" for example in with_audio),
        source_path=EXPORT_LIST_FILES["jsonl"] if export_format == "jsonl" else "",
    )


def _report_progress(
    examples: Sequence[Example], progress: ExportProgressFn | None
) -> Iterator[Example]:
    for number, example in enumerate(examples, start=1):
        if progress:
            progress(number, len(examples))
        yield example


def _check_exportable(example: Example, export_format: ExportFormat) -> None:
    """Refuse what would be read as something else."""
    is_plain, is_jsonl = is_plain_transcription(example.messages), export_format == "jsonl"
    if not is_plain and not is_jsonl:
        raise DataError(
            f"it is a conversation, and {export_format} holds a recording and a text",
            where=example.location,
            hint="take --form jsonl",
            code="data.export_conversation",
        )
    if is_jsonl and any(MESSAGE_AUDIO_TAG_RE.search(turn.text) for turn in example.messages):
        raise DataError(
            "its text holds an <audio> tag",
            where=example.location,
            hint="take it out" + (", or take --form webdataset" if is_plain else ""),
            code="data.audio_tag_in_text",
        )


def _write_list(
    folder: Path, examples: Iterator[Example], state: _ExportState, export_format: ExportFormat
) -> None:
    """Write a list and its recordings; in jsonl, records share a recording."""
    written: dict[AudioSegment, tuple[str, float]] = {}
    (folder / EXPORT_AUDIO_DIR).mkdir()
    list_path = folder / EXPORT_LIST_FILES[export_format]
    with list_path.open("x", encoding="utf-8", newline="\n") as file:
        for example in examples:
            for segment in example.audio_segments:
                if segment not in written or export_format == "audiofolder":
                    stem = _make_file_stem(state.num_recordings, segment)
                    path, seconds = _save_recording(segment, folder / EXPORT_AUDIO_DIR / stem)
                    written[segment] = f"{EXPORT_AUDIO_DIR}/{path.name}", seconds
                    state.num_recordings += 1
            names, durations = zip(
                *(written[segment] for segment in example.audio_segments), strict=True
            )
            record = _make_export_record(example, export_format, names, sum(durations))
            file.write(_format_json(record) + "\n")
            state.seconds += sum(durations)


def _write_tar_shards(
    folder: Path, examples: Iterator[Example], state: _ExportState, max_shard_examples: int
) -> None:
    """Write tars one after the other, each recording beside its record."""
    shard_numbers, example = count(), next(examples, None)
    while example is not None:
        num_examples = num_bytes = 0
        with tarfile.open(folder / f"data-{next(shard_numbers):06}.tar", "x") as shard:
            while (
                example is not None
                and num_examples < max_shard_examples
                and num_bytes < MAX_TAR_SHARD_BYTES
            ):
                (segment,) = example.audio_segments
                key = _make_file_stem(state.num_recordings, segment)
                path, seconds = _save_recording(segment, folder / key)
                size = path.stat().st_size
                with path.open("rb") as recording:
                    _add_tar_member(shard, path.name, recording, size)
                path.unlink()
                record = _make_export_record(example, "webdataset", (), seconds)
                content = _format_json(record).encode()
                _add_tar_member(shard, f"{key}.json", io.BytesIO(content), len(content))
                num_examples, num_bytes = num_examples + 1, num_bytes + size
                state.num_recordings += 1
                state.seconds += seconds
                example = next(examples, None)


def _add_tar_member(shard: tarfile.TarFile, name: str, data: BinaryIO, num_bytes: int) -> None:
    """Add a file; a new TarInfo has no time and no owner, so that equal data gives equal bytes."""
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    shard.addfile(info, data)


def _make_export_record(
    example: Example, export_format: ExportFormat, audio_names: tuple[str, ...], seconds: float
) -> ExampleRecord:
    """The record of an example, without its recordings."""
    record: ExampleRecord = {}
    is_transcript = is_plain_transcription(example.messages) and example.task == "transcribe"
    if export_format == "jsonl" and not is_transcript:
        record["messages"] = [
            {"role": message.role, "content": _format_tagged_text(message)}
            for message in example.messages
        ]
        record["audios"] = list(audio_names)
    else:
        if key := EXPORT_AUDIO_KEYS.get(export_format):
            record[key] = audio_names[0]
        record |= {"text": example.target, "prompt": example.messages[0].text or None}
    record |= {
        "language": example.language,
        "speaker": example.speaker,
        "duration": round(seconds, 6),
    }
    if export_format == "audiofolder":
        return record  # whose records all have the same columns
    return {key: value for key, value in record.items() if value is not None}


def _format_tagged_text(message: Message) -> str:
    return "".join(part if isinstance(part, str) else "<audio>" for part in message.content)


def _make_file_stem(number: int, segment: AudioSegment) -> str:
    """A unique file name: a number, and what is safe of the name of the recording."""
    safe_name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(segment.name).stem)[:MAX_FILE_NAME_CHARS]
    return f"{number:06}-{safe_name.strip('-')}".strip("-")


def _save_recording(segment: AudioSegment, stem: Path) -> tuple[Path, float]:
    """Write a recording, or a span of one, to `stem` with a suffix: the file, its seconds."""
    suffix = Path(segment.name).suffix.lower()
    with open_audio(segment) as stream:
        seconds = stream.num_samples / stream.info.sample_rate
    is_whole = segment.start is None and segment.end is None
    if is_whole and suffix in AUDIO_SUFFIXES | PYAV_SUFFIXES:
        copy = stem.with_name(f"{stem.name}{suffix}")
        offset, num_left = segment.byte_range or (0, segment.path.stat().st_size)
        with segment.path.open("rb") as source, copy.open("xb") as target:
            source.seek(offset)
            while chunk := source.read(min(num_left, COPY_CHUNK_BYTES)):
                num_left -= target.write(chunk)
        return copy, seconds
    wav_path = stem.with_name(f"{stem.name}.wav")
    _write_wav_segment(segment, wav_path)
    return wav_path, seconds


def _write_wav_segment(segment: AudioSegment, wav_path: Path) -> None:
    """Write a segment as a WAV of 16 bits where those hold every sample, or of 24."""
    with open_audio(segment) as stream:
        subtype = "PCM_16" if all(map(_fits_16_bits, stream.blocks)) else "PCM_24"
    scale = PCM_FULL_SCALE[subtype]
    with open_audio(segment) as stream:
        rate, channels = stream.info.sample_rate, stream.info.num_channels
        wav = io.BytesIO()  # libsndfile does not say that a disk is full
        with soundfile.SoundFile(wav, "w", rate, channels, subtype, format="WAV") as target:
            for block in stream.blocks:
                samples = np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1)
                target.write((samples * ((1 << 31) / scale)).astype(np.int32))
    with wav_path.open("xb") as file:
        file.write(wav.getbuffer())


def _fits_16_bits(block: Waveform) -> bool:
    scaled = block.astype(np.float64) * PCM_FULL_SCALE["PCM_16"]
    return bool((scaled == np.rint(scaled)).all() and (scaled < PCM_FULL_SCALE["PCM_16"]).all())


def _format_json(record: ExampleRecord) -> str:
    return json.dumps(record, ensure_ascii=False)


# Sections of a document


def format_section(example: Example, document: Document) -> str:
    """Format an example as a section: ::audio:: for a transcript, else ::conversation::.

    Raises:
        DataError: no section of this document gives this example.
    """
    if any(segment.byte_range for segment in example.audio_segments):
        raise _make_section_error(
            "its recording lies in an archive, which no section can name", example
        )
    if any("\0" in str(segment.path) for segment in example.audio_segments):
        raise _make_section_error(
            "the path of its recording holds a zero byte, which no section can", example
        )
    messages = strip_system_messages(example, document)
    texts = [message.text for message in messages] + [s.name for s in example.audio_segments]
    if any(CONTROL_CHARS_RE.search(text) for text in texts):
        hint = f"take them out, or {IMPORT_AS_SOURCE_HINT}"
        what = "it holds control characters, which a terminal would obey"
        raise _make_section_error(what, example, hint=hint)
    try:
        if example.task == "transcribe" and is_plain_transcription(messages):
            text = _format_audio_section(example, messages, document)
        else:
            text = _format_conversation_section(example, messages, document)
        parsed = _parse_section(text, document)
    except DocumentError as error:
        raise _make_section_error(error.what, example) from error
    if [_make_comparison_key(other) for other in parsed] != [_make_comparison_key(example)]:
        raise _make_section_error("no section gives exactly this clip", example)
    return text


def _make_section_error(
    what: str, example: Example, *, hint: str = IMPORT_AS_SOURCE_HINT
) -> DataError:
    return DataError(what, where=example.location, hint=hint, code="data.no_section_for_clip")


def strip_system_messages(example: Example, document: Document) -> tuple[Message, ...]:
    """Return the messages of an example without the system prompt of the document."""
    system = get_system_messages(document)
    has_prompt = example.messages[: len(system)] == system
    return example.messages[len(system) :] if has_prompt else example.messages


def is_plain_transcription(messages: tuple[Message, ...]) -> bool:
    """Whether messages are audio, with or without a question, and one text."""
    kinds = [[type(part) for part in message.content] for message in messages]
    return kinds in ([[AudioSegment], [str]], [[AudioSegment, str], [str]])


def _format_audio_section(
    example: Example, messages: tuple[Message, ...], document: Document
) -> str:
    (segment,) = example.audio_segments
    attributes: dict[str, str] = {}
    for name, seconds in (("start", segment.start), ("end", segment.end)):
        if seconds is not None:
            attributes[name] = f"{seconds:.9f}".rstrip("0").rstrip(".")
    if example.language:
        attributes["language"] = example.language
    if prompt := messages[0].text:
        attributes["prompt"] = prompt
    path = make_document_path(document.folder, segment.path)
    return format_audio_fence(path, messages[-1].text, **attributes)


def _format_conversation_section(
    example: Example, messages: tuple[Message, ...], document: Document
) -> str:
    if any(
        segment.start is not None or segment.end is not None for segment in example.audio_segments
    ):
        what = "it is about a span of a recording, which no conversation can name"
        raise _make_section_error(
            what, example, hint=f"cut the recording, or {IMPORT_AS_SOURCE_HINT}"
        )

    def format_part(part: ContentPart) -> str:
        if isinstance(part, str):
            return part
        return f"<audio>{make_document_path(document.folder, part.path)}</audio>"

    return format_conversation(
        [(message.role, "".join(map(format_part, message.content))) for message in messages]
    )


def _parse_section(text: str, document: Document) -> list[Example]:
    """The examples of a section, if it were in the document."""
    header = f"dlm_id: {document.config.dlm_id}\nbase_model: any\n"
    parsed = parse_document(f"---\n{header}---\n{text}\n", document.path)
    items = iter_document_examples(replace(document, sections=parsed.sections))
    return [item for item in items if isinstance(item, Example)]


def _make_comparison_key(example: Example) -> list[object]:
    """What an example teaches: its task, and who says what about which audio."""
    key: list[object] = [example.task]
    for message in example.messages:
        key.append(message.role)
        for part in message.content:
            if isinstance(part, str):
                key.append(" ".join(part.split()))
            else:
                span = (
                    None if seconds is None else round(seconds, SECONDS_DECIMALS)
                    for seconds in (part.start, part.end)
                )
                key.append((os.path.realpath(part.path), *span))
    return key
