"""Document -> examples: its own sections, then its sources, with a report of each source.

    section        example
    audio          transcribe: audio, then its transcript
    instruction    after an audio section: answer, one for each question about that audio;
                   elsewhere: text
    conversation   answer if it holds audio, else text
    prose          text, as one assistant message

What is wrong with a section, a record or a source is an `Issue` with its location, so that all of
it is reported at once; what a source leaves out (no transcript, excluded, not audio) is counted.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from dlm.config.data_schema import SourceConfig
from dlm.config.parser import Document, Section
from dlm.config.schema import TrainingConfig
from dlm.data.audio_decoders import PYAV_INSTALL_HINT, is_pyav_installed
from dlm.data.contamination import check_test_split
from dlm.data.file_globs import (
    PYAV_SUFFIXES,
    find_spelling,
    is_inside_folder,
    make_outside_folder_error,
)
from dlm.data.readers.base import (
    EMPTY_TRANSCRIPT,
    ReaderItem,
    SkipCode,
    SkippedItem,
    SourceContext,
    resolve_path,
)
from dlm.data.readers.hf_datasets import is_hub_name
from dlm.data.readers.parquet import is_datasets_cache_file
from dlm.data.readers.records import (
    JSON_RECORD_HINT,
    LIST_PARSERS,
    TABLE_DELIMITERS,
    get_list_suffix,
)
from dlm.data.readers.registry import find_reader
from dlm.data.readers.webdataset import expand_tar_pattern
from dlm.data.types import (
    AudioSegment,
    ContentPart,
    Example,
    Issue,
    Message,
    Task,
    require_assistant_reply,
)
from dlm.errors import DataError, MissingExtra

MAX_STREAM_SAMPLE_EXAMPLES = 256  # of a source that is streamed: checked before training
MAX_REPORTED_NAMES = 5
TABLE_HEADER_HINT = "name its columns in the first line, or name them with columns: {text: ...}"
MISSING_RECORDING_HINT = "put it beside the list, or name the folder of the recordings with audio:"


@dataclass(frozen=True)
class SourceReport:
    """What a source gave and what was left out of it.

    Attributes:
        path: the source, as written.
        audio_count: examples.
        audio_bytes: size of their recordings.
        skipped_audio_no_transcript: recordings without a transcript.
        skipped_rows_no_audio: records without a recording.
        skipped_not_audio: files of another kind, or in a format that is not read.
        skipped_excluded: excluded by `include` and `exclude`.
        skipped_over_max_files: beyond `max_files`.
        skipped_other_split: in another split.
        audio_names: the first few recordings.
        skipped_names: the first few without a transcript or a recording.
        test_benchmarks: benchmarks whose test splits are among its data.
        held_out: whether all of it is held out.
    """

    path: str
    audio_count: int = 0
    audio_bytes: int = 0
    skipped_audio_no_transcript: int = 0
    skipped_rows_no_audio: int = 0
    skipped_not_audio: int = 0
    skipped_excluded: int = 0
    skipped_over_max_files: int = 0
    skipped_other_split: int = 0
    audio_names: tuple[str, ...] = ()
    skipped_names: tuple[str, ...] = ()
    test_benchmarks: tuple[str, ...] = ()
    held_out: bool = False


@dataclass(frozen=True)
class LoadedData:
    """All examples of a document, in order, and what is wrong with the rest.

    Attributes:
        examples: those of the sections, then those of each source.
        sources: a report of each source.
        issues: everything that is wrong.
        record_issues: those of `issues` that are about single records of sources, and fatal.
    """

    examples: tuple[Example, ...]
    sources: tuple[SourceReport, ...]
    issues: tuple[Issue, ...]
    record_issues: tuple[Issue, ...] = ()

    @property
    def held_out_examples(self) -> tuple[Example, ...]:
        """The examples of the source that is held out; none without such a source."""
        held_out: tuple[Example, ...] = ()
        start = len(self.examples)
        for report in reversed(self.sources):
            start -= report.audio_count
            if report.held_out:
                held_out = self.examples[start : start + report.audio_count]
        return held_out


def load_examples(document: Document) -> LoadedData:
    """Load all examples of a document; nothing is decoded, and nothing is raised."""
    items = list(iter_document_examples(document))
    examples = [item for item in items if isinstance(item, Example)]
    issues = [item for item in items if isinstance(item, Issue)]
    record_issues: list[Issue] = []
    reports: list[SourceReport] = []
    config = document.config.training
    for source, held_out in iter_sources(config):
        max_examples = None
        if config.uses_streaming and (source.stream or not held_out):
            max_examples = min(MAX_STREAM_SAMPLE_EXAMPLES, source.max_files or 1 << 62)
        data = load_source_examples(document, source, max_examples=max_examples)
        examples += data.examples
        issues += data.issues
        record_issues += data.record_issues
        (report,) = data.sources
        reports.append(replace(report, held_out=held_out))
        if report.audio_count and not held_out and not config.allow_test_split:
            location = _find_source_location(document, source)
            issues += check_test_split(source, report.test_benchmarks, location)
    if not examples and not any(issue.fatal for issue in issues):
        what = "the document has nothing to train on"
        hint = "add an ::audio:: section, or a folder of clips under training.sources"
        issues.append(Issue(document.path.name, what, hint, fatal=True, code="data.no_examples"))
    return LoadedData(tuple(examples), tuple(reports), tuple(issues), tuple(record_issues))


# Sections of the document


def iter_document_examples(document: Document) -> Iterator[Example | Issue]:
    """Yield the examples of each section, in order, or what is wrong with it."""
    for previous, section in pairwise((None, *document.sections)):
        if section is None:
            continue
        try:
            for example in _make_section_examples(document, section, previous):
                _require_allowed(document, example)
                yield replace(example, language=example.language or get_language(document))
        except DataError as error:
            yield Issue.from_error(error, format_location(document, section.line))


def format_location(document: Document, line: int) -> str:
    """Format a line of the document as a location: my.dlm:12."""
    return f"{document.path.name}:{line}"


def get_language(document: Document) -> str | None:
    """Return the language of examples that name none."""
    return document.config.training.audio.language


def get_system_messages(document: Document) -> tuple[Message, ...]:
    """Return the system message of the document, if it has one."""
    prompt = document.config.system_prompt
    return (Message("system", (prompt,)),) if prompt and prompt.strip() else ()


def make_transcription_messages(
    document: Document, segment: AudioSegment, transcript: str, *, prompt: str | None
) -> tuple[Message, ...]:
    """Make the messages of a transcript; without a prompt, the chat encoder adds the model's."""
    content: tuple[ContentPart, ...] = (segment,)
    if prompt and prompt.strip():
        content = (segment, prompt)
    return (
        *get_system_messages(document),
        Message("user", content),
        Message("assistant", (transcript,)),
    )


def _make_section_examples(
    document: Document, section: Section, previous_section: Section | None
) -> Iterator[Example]:
    match section.kind:
        case "audio":
            yield _make_transcription_example(document, section)
        case "instruction":
            follows_audio = previous_section is not None and previous_section.kind == "audio"
            yield from _make_qa_examples(
                document, section, previous_section if follows_audio else None
            )
        case "conversation":
            yield _make_conversation_example(document, section)
        case "prose" if section.text.strip():
            message = Message("assistant", (section.text.strip(),))
            yield Example((message,), format_location(document, section.line), "text")


def _make_transcription_example(document: Document, section: Section) -> Example:
    segment, attributes = _make_section_segment(document, section), section.attributes
    transcript = attributes.get("transcript", "").strip()
    if not transcript:
        hint = f"write what is said in {segment.name}"
        raise DataError(EMPTY_TRANSCRIPT, hint=hint, code="data.empty_transcript")
    messages = make_transcription_messages(
        document, segment, transcript, prompt=attributes.get("prompt")
    )
    location = format_location(document, section.line)
    return Example(messages, location, "transcribe", attributes.get("language"))


def _make_qa_examples(
    document: Document, section: Section, audio_section: Section | None
) -> Iterator[Example]:
    """One example for each question; about the audio of the section before, if there is one."""
    segments: tuple[AudioSegment, ...] = ()
    language = None
    if audio_section is not None:
        segments = (_make_section_segment(document, audio_section),)
        language = audio_section.attributes.get("language")
    task: Task = "answer" if segments else "text"
    for pair in section.qa_pairs:
        messages = (
            *get_system_messages(document),
            Message("user", (*segments, pair.question)),
            Message("assistant", (pair.answer,)),
        )
        yield Example(messages, format_location(document, pair.line), task, language)


def _make_conversation_example(document: Document, section: Section) -> Example:
    messages = tuple(
        Message(block.role, tuple(_make_content_part(document, part) for part in block.content))
        for block in section.messages
    )
    require_assistant_reply(messages)
    if messages[0].role != "system":
        messages = (*get_system_messages(document), *messages)
    example = Example(messages, format_location(document, section.line), "answer")
    return example if example.audio_segments else replace(example, task="text")


def _make_content_part(document: Document, raw_part: str | Path) -> ContentPart:
    if isinstance(raw_part, str):
        return raw_part
    path = find_spelling(resolve_path(document, raw_part))
    return AudioSegment(path, display_path=str(raw_part))


def _make_section_segment(document: Document, section: Section) -> AudioSegment:
    """The audio that an audio section names."""
    path = section.attributes.get("path", "")
    if not path.strip():
        hint = 'write path="clips/your-clip.wav"'
        raise DataError("AUDIO section has no path", hint=hint, code="data.no_audio_path")
    start, end = (_parse_section_seconds(section, name) for name in ("start", "end"))
    return AudioSegment(find_spelling(resolve_path(document, path)), start, end, display_path=path)


def _parse_section_seconds(section: Section, name: str) -> float | None:
    text = section.attributes.get(name)
    try:
        return None if text is None else float(text)
    except ValueError as error:
        what = f'{name}="{text}" is not a number of seconds'
        raise DataError(what, hint=f'write {name}="1.5"', code="data.bad_seconds") from error


# Sources


def iter_sources(config: TrainingConfig) -> Iterator[tuple[SourceConfig, bool]]:
    """Yield every source and whether it is held out; one that only `held_out` names comes last."""
    held_out = config.held_out if isinstance(config.held_out, SourceConfig) else None
    is_listed = False
    for source in config.sources:
        is_held_out = held_out is not None and _is_same_source(source, held_out)
        is_listed = is_listed or is_held_out
        yield source, is_held_out
    if held_out is not None and not is_listed:
        yield held_out, True


def _is_same_source(source: SourceConfig, held_out_source: SourceConfig) -> bool:
    """Whether `held_out` means this source: by its path alone, or by all of its fields."""
    is_path_only = held_out_source == SourceConfig(path=held_out_source.path)
    if is_path_only and Path(source.path) == Path(held_out_source.path):
        return True
    return source == held_out_source


def load_source_examples(
    document: Document, source: SourceConfig, *, max_examples: int | None = None
) -> LoadedData:
    """Load the examples of one source, or its first `max_examples`; nothing is raised."""
    collector = _SourceCollector()
    location = _find_source_location(document, source)
    try:
        context = resolve_source(document, source)
        for shard in find_reader(context).list_shards(context):
            num_before = len(collector.examples)
            if max_examples is None or num_before < max_examples:
                for item in shard.read(0):
                    collector.add_item(apply_source_rules(document, context, item), source)
                    num_read = len(collector.examples) + len(collector.record_issues)
                    if max_examples is not None and num_read >= max_examples:
                        break
            # a shard that a sample of a stream does not reach counts too
            if shard.test_benchmark and (
                max_examples is not None or len(collector.examples) > num_before
            ):
                collector.test_benchmarks.append(shard.test_benchmark)
        collector.issues += collector.iter_warnings(source.path, location)
    except (DataError, MissingExtra) as error:
        collector.issues.append(Issue.from_error(error, location))
    return LoadedData(
        tuple(collector.examples),
        (collector.make_report(source.path),),
        tuple(collector.issues),
        tuple(collector.record_issues),
    )


def resolve_source(document: Document, source: SourceConfig) -> SourceContext:
    """Find a source on disk or on the hub.

    Raises:
        DataError: it is not there, or lies outside the folder of the document under
            `sources_policy: strict`.
    """
    context = SourceContext.from_source(document, source)
    is_remote = is_hub_name(context.root)
    if not is_remote and not any(path.exists() for path in expand_tar_pattern(context.root)):
        what = f"source not found: {source.path}"
        raise DataError(what, hint="make the folder or correct its path", code="source.not_found")
    allowed_folder = _get_allowed_folder(document)
    if allowed_folder is not None and (
        is_remote or not is_inside_folder(allowed_folder, context.root)
    ):
        raise make_outside_folder_error(source.path)
    return context


def apply_source_rules(document: Document, context: SourceContext, item: ReaderItem) -> ReaderItem:
    """Apply the rules of a source to what its reader gives.

    Patterns exclude, `sources_policy: strict` refuses recordings outside the folder of the
    document; the weight of the source, and the system prompt and the language of the document are
    added.
    """
    if not isinstance(item, Example):
        return item
    item = _respell_paths(item)
    allowed_folder = _get_allowed_folder(document)
    for segment in item.audio_segments:
        if "\0" in segment.file_name or "\0" in str(segment.folder):
            what = "the path of its recording holds a zero byte"
            error = DataError(what, hint="correct the path", code="data.bad_path")
            return Issue.from_error(error, item.location)
        if not context.matches_path(_get_pattern_path(context, segment)):
            return SkippedItem(segment.name, "data.excluded")
        if allowed_folder is not None and _is_outside_folder(segment.path, allowed_folder):
            name = "it" if segment.name == item.location else segment.name
            return Issue.from_error(make_outside_folder_error(name), item.location)
    messages = item.messages
    if messages[0].role != "system":
        messages = (*get_system_messages(document), *messages)
    language = item.language or get_language(document)
    return replace(item, messages=messages, language=language, weight=context.source.weight)


def _require_allowed(document: Document, example: Example) -> None:
    """Refuse a recording of a section outside the folder, under `sources_policy: strict`."""
    allowed_folder = _get_allowed_folder(document)
    for segment in example.audio_segments:
        if allowed_folder is not None and not is_inside_folder(allowed_folder, segment.path):
            raise make_outside_folder_error(segment.name)


def _respell_paths(example: Example) -> Example:
    """The example, its recordings named as their files are."""
    if all(find_spelling(segment.path) == segment.path for segment in example.audio_segments):
        return example
    messages = tuple(
        Message(
            message.role,
            tuple(
                part if isinstance(part, str) else replace(part, path=find_spelling(part.path))
                for part in message.content
            ),
        )
        for message in example.messages
    )
    return replace(example, messages=messages)


def _is_outside_folder(path: Path, folder: Path) -> bool:
    """Whether a recording lies elsewhere; what `datasets` unpacked lies where its source does."""
    return not is_inside_folder(folder, path) and not is_datasets_cache_file(path)


def _get_allowed_folder(document: Document) -> Path | None:
    """The folder that sources must stay in; None without such a rule."""
    return document.folder if document.config.training.sources_policy == "strict" else None


def _get_pattern_path(context: SourceContext, segment: AudioSegment) -> str:
    """A recording as patterns see it: relative to the source, or to the folder of its list."""
    if segment.byte_range is not None:
        return segment.name.removeprefix(f"{context.name}/")
    folder = context.root if context.root.is_dir() else context.root.parent
    if segment.path.is_relative_to(folder):
        return segment.path.relative_to(folder).as_posix()
    return segment.name


def _find_source_location(document: Document, source: SourceConfig) -> str:
    """The line of the document that names the source, as far as it can be found."""
    key = r"(?:\b(?:path|sources|held_out)\s*:|\bsources\s*:.*[\[,]|^\s*-)"
    pattern = re.compile(rf"{key}\s*['\"]?{re.escape(source.path)}['\"]?\s*(?:$|[],}}#])")
    for number, line in enumerate(document.text.split("\n"), start=1):
        if pattern.search(line):
            return format_location(document, number)
    return document.path.name


@dataclass
class _SourceCollector:
    """What one source gave so far.

    Attributes:
        examples: within `max_files`.
        issues: everything that is wrong.
        record_issues: those of `issues` that are about single records, and fatal.
        test_benchmarks: benchmarks whose test splits are among its shards.
        audio_bytes: size of the recordings.
        counted_recordings: hashes of their paths.
        skip_counts: what was left out, by code.
        skipped_names: the first few of each code.
    """

    examples: list[Example] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    record_issues: list[Issue] = field(default_factory=list)
    test_benchmarks: list[str] = field(default_factory=list)
    audio_bytes: int = 0
    counted_recordings: set[int] = field(default_factory=set)
    skip_counts: Counter[SkipCode] = field(default_factory=Counter)
    skipped_names: dict[SkipCode, list[str]] = field(default_factory=dict)

    def add_item(self, item: ReaderItem, source: SourceConfig) -> None:
        """Take in an example, a skipped item or an issue."""
        if isinstance(item, Issue):
            self.issues.append(item)
            if item.fatal:
                self.record_issues.append(item)
        elif isinstance(item, SkippedItem):
            self.skip_counts[item.code] += 1
            names = self.skipped_names.setdefault(item.code, [])
            if len(names) < MAX_REPORTED_NAMES:
                names.append(item.name)
        elif source.max_files is not None and len(self.examples) >= source.max_files:
            self.skip_counts["data.over_max_files"] += 1
        else:
            self.examples.append(item)
            for segment in item.audio_segments:
                self._count_audio_bytes(segment.path)

    def _count_audio_bytes(self, path: Path) -> None:
        """Count the bytes of a recording, once; a missing one is reported by the scan."""
        key = hash(str(path))
        if key not in self.counted_recordings:
            self.counted_recordings.add(key)
            with suppress(OSError):
                self.audio_bytes += path.stat().st_size

    def make_report(self, path: str) -> SourceReport:
        """Make the report of the source `path`."""
        incomplete_names = [
            *self.skipped_names.get("data.no_transcript", ()),
            *self.skipped_names.get("data.no_recording", ()),
        ]
        return SourceReport(
            path,
            audio_count=len(self.examples),
            audio_bytes=self.audio_bytes,
            skipped_audio_no_transcript=self.skip_counts["data.no_transcript"],
            skipped_rows_no_audio=self.skip_counts["data.no_recording"],
            skipped_not_audio=self.skip_counts["data.not_audio"]
            + self.skip_counts["audio.unknown_format"],
            skipped_excluded=self.skip_counts["data.excluded"],
            skipped_over_max_files=self.skip_counts["data.over_max_files"],
            skipped_other_split=self.skip_counts["data.other_split"],
            audio_names=tuple(
                example.audio_segments[0].name for example in self.examples[:MAX_REPORTED_NAMES]
            ),
            skipped_names=tuple(incomplete_names[:MAX_REPORTED_NAMES]),
            test_benchmarks=tuple(dict.fromkeys(self.test_benchmarks)),
        )

    def iter_warnings(self, path: str, location: str) -> Iterator[Issue]:
        """Yield a warning for each code of skipped items that its author should know of."""
        warnings: dict[SkipCode, str] = {
            "data.no_transcript": "without a transcript, skipped",
            "data.no_recording": "without a recording, skipped",
            "audio.unknown_format": "in a format that is not read",
        }
        for code, what in warnings.items():
            if count := self.skip_counts[code]:
                names = self.skipped_names[code]
                num_more = count - len(names)
                more = f" and {num_more} more" if num_more > 0 else ""
                what = f"{count} {what}: {', '.join(names)}{more}"
                hint = _make_skip_hint(code, names[0])
                yield Issue(location, what, hint, fatal=False, code=code)
        if not self.examples and not self.issues:
            suffix = get_list_suffix(Path(path))
            hint = "put recordings there, each with its transcript in a .txt of the same name"
            if suffix in TABLE_DELIMITERS:
                hint = TABLE_HEADER_HINT
            elif suffix in LIST_PARSERS:
                hint = JSON_RECORD_HINT
            yield Issue(location, f"no clips in {path}", hint, fatal=False, code="source.empty")


def _make_skip_hint(code: SkipCode, name: str) -> str:
    """What to do about the items skipped with a code; `name` is the first of them."""
    if code == "data.no_transcript":
        return f"write {Path(name).with_suffix('.txt').as_posix()}"
    if code == "data.no_recording":
        return MISSING_RECORDING_HINT
    if Path(name).suffix.lower() in PYAV_SUFFIXES and not is_pyav_installed():
        return f"install PyAV, which reads it: {PYAV_INSTALL_HINT}"
    return "save it as wav or flac"


# Transcripts that a teacher model reads in place of the audio


def attach_transcripts(
    examples: Iterable[Example], transcribed_examples: Sequence[Example]
) -> tuple[Example, ...]:
    """Attach to each segment its transcript, where one of `transcribed_examples` has it.

    Of several transcripts of a segment, the one that no question asked for is taken.
    """
    transcriptions = [example for example in transcribed_examples if example.task == "transcribe"]
    transcriptions.sort(key=lambda example: not example.messages[-2].text.strip())
    transcripts = {example.audio_segments[0]: example.target for example in transcriptions}

    def attach(part: ContentPart) -> ContentPart:
        if isinstance(part, str) or part.transcript is not None:
            return part
        return replace(part, transcript=transcripts.get(part))

    return tuple(
        replace(
            example,
            messages=tuple(
                replace(message, content=tuple(map(attach, message.content)))
                for message in example.messages
            ),
        )
        for example in examples
    )


def find_missing_transcripts(examples: Iterable[Example]) -> Iterator[Issue]:
    """Yield an issue for each example with audio whose transcript is not known."""
    for example in examples:
        for segment in example.audio_segments:
            if segment.transcript is None:
                what = f"{segment.name} has no transcript, which training.teacher reads"
                hint = "add an ::audio:: section with its transcript, or take training.teacher out"
                yield Issue(
                    example.location, what, hint, fatal=True, code="data.teacher_no_transcript"
                )
                break
