"""What the sections of a document teach: each becomes clips, or a problem with its line.

audio          transcribe: its sound, then its transcript
instruction    straight after audio: answer, one clip for each question about that sound
               elsewhere: text
conversation   answer if anything is heard in it, else text
prose          text: one assistant turn

What one source has given so far, what was left out of it, and what its author should know.

Which clips a document points at: those it writes out, then those of its sources.

Nothing is raised: what is wrong is a Problem with its place, so that all can be told at once.

What becomes of clips that cannot be used: nothing is learned, or they are left out and told.

    training.bad_clips   error   each of them stops training
                         skip    they are left out, counted and told in one line
                         empty   error under 100 clips, skip from there on, and in a stream

Only what is wrong with single clips and rows is passed over, and no more than 5 % of all: what is
wrong with a source or the document as a whole stops training as ever.

What is said in each sound, as far as the document knows: what a teacher reads in its place.

    ::audio path="a.wav" transcript="Half past."::      a.wav says "Half past."
    ::instruction:: about a.wav                         so it does here
    a conversation about b.wav alone                    nobody knows: a problem

Nothing here looks at a sound: it is words that a teacher is given.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from dlm.config.data_schema import SourceConfig
from dlm.config.parser import Document, Section
from dlm.config.schema import TrainingConfig
from dlm.data.audio_decoders import PYAV_INSTALL_HINT, is_pyav_installed
from dlm.data.contamination import check_test_split
from dlm.data.file_globs import PYAV_SUFFIXES, is_inside_folder, make_outside_folder_error
from dlm.data.readers.base import (
    EMPTY_TRANSCRIPT,
    ReaderItem,
    SkippedItem,
    SkipReason,
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


def iter_document_examples(document: Document) -> Iterator[Example | Issue]:
    """The clips of every section, in order, and what is wrong with those that give none."""
    for before, section in pairwise((None, *document.sections)):
        if section is None:
            continue
        try:
            yield from _make_section_examples(document, section, before)
        except DataError as error:
            yield Issue.from_error(error, format_location(document, section.line))


def format_location(document: Document, line: int) -> str:
    """A line of the document, for messages."""
    return f"{document.path.name}:{line}"


def get_system_messages(document: Document) -> tuple[Message, ...]:
    """The system turn, if the document has one."""
    prompt = document.config.system_prompt
    return (Message("system", (prompt,)),) if prompt and prompt.strip() else ()


def make_transcription_messages(
    document: Document, segment: AudioSegment, transcript: str, *, prompt: str | None
) -> tuple[Message, ...]:
    """The turns of a sound and its transcript. Without a prompt the base puts its own later."""
    asked: tuple[ContentPart, ...] = (segment, prompt) if prompt and prompt.strip() else (segment,)
    return (
        *get_system_messages(document),
        Message("user", asked),
        Message("assistant", (transcript,)),
    )


def _make_section_examples(
    document: Document, section: Section, previous_section: Section | None
) -> Iterator[Example]:
    match section.kind:
        case "audio":
            yield _make_transcription_example(document, section)
        case "instruction":
            heard = (
                previous_section
                if previous_section is not None and previous_section.kind == "audio"
                else None
            )
            yield from _make_qa_examples(document, section, heard)
        case "conversation":
            yield _make_conversation_example(document, section)
        case "prose" if section.text.strip():
            spoken = Message("assistant", (section.text.strip(),))
            yield Example((spoken,), format_location(document, section.line), "text")


def _make_transcription_example(document: Document, section: Section) -> Example:
    sound, attributes = _make_section_segment(document, section), section.attributes
    transcript = attributes.get("transcript", "").strip()
    if not transcript:
        raise DataError(EMPTY_TRANSCRIPT, hint=f"write what is said in {sound.name}")
    turns = make_transcription_messages(
        document, sound, transcript, prompt=attributes.get("prompt")
    )
    place = format_location(document, section.line)
    return Example(turns, place, "transcribe", attributes.get("language"))


def _make_qa_examples(
    document: Document, section: Section, audio_section: Section | None
) -> Iterator[Example]:
    """One clip for each question, about the sound of the section before if that is audio."""
    sounds = () if audio_section is None else (_make_section_segment(document, audio_section),)
    language = None if audio_section is None else audio_section.attributes.get("language")
    for pair in section.qa_pairs:
        asked = Message("user", (*sounds, pair.question))
        turns = (*get_system_messages(document), asked, Message("assistant", (pair.answer,)))
        task: Task = "answer" if sounds else "text"
        yield Example(turns, format_location(document, pair.line), task, language)


def _make_conversation_example(document: Document, section: Section) -> Example:
    turns = tuple(
        Message(written.role, tuple(_make_content_part(document, part) for part in written.content))
        for written in section.messages
    )
    require_assistant_reply(turns)
    if turns[0].role != "system":
        turns = (*get_system_messages(document), *turns)
    clip = Example(turns, format_location(document, section.line), "answer")
    return clip if clip.audio_segments else Example(turns, clip.location, "text")


def _make_content_part(document: Document, raw_part: str | Path) -> ContentPart:
    return (
        raw_part
        if isinstance(raw_part, str)
        else AudioSegment(resolve_path(document, raw_part), display_path=str(raw_part))
    )


def _make_section_segment(document: Document, section: Section) -> AudioSegment:
    """The sound an audio section names."""
    written = section.attributes.get("path", "")
    if not written.strip():
        raise DataError("AUDIO section has no path", hint='write path="clips/your-clip.wav"')
    start, end = (_parse_section_seconds(section, name) for name in ("start", "end"))
    return AudioSegment(resolve_path(document, written), start, end, written)


def _parse_section_seconds(section: Section, name: str) -> float | None:
    written = section.attributes.get(name)
    try:
        return None if written is None else float(written)
    except ValueError as error:
        what = f'{name}="{written}" is not a number of seconds'
        raise DataError(what, hint=f'write {name}="1.5"') from error


MAX_REPORTED_NAMES = 5
TABLE_HEADER_HINT = (
    "name its columns in the first line, or say which they are with columns: {text: ...}"
)
MISSING_RECORDING_HINT = "put it beside the list, or say where the recordings are with audio:"


@dataclass(frozen=True)
class SourceReport:
    """What a source gave and what was left out, with the first few names of each."""

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
    skipped_names: tuple[str, ...] = ()  # of audio without a transcript, or rows without audio
    test_benchmarks: tuple[str, ...] = ()  # the benchmarks whose test splits its clips are
    held_out: bool = False  # all of it is kept for testing


@dataclass
class SourceCollector:
    """What one source has given so far; names are as the author would write them."""

    examples: list[Example] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    record_issues: list[Issue] = field(
        default_factory=list
    )  # those of single rows, among the problems
    test_benchmarks: list[str] = field(
        default_factory=list
    )  # benchmarks whose test splits its clips are
    audio_bytes: int = 0
    counted_recordings: set[int] = field(default_factory=set)  # hashes of the recordings' paths
    skip_counts: Counter[SkipReason] = field(default_factory=Counter)
    skipped_names: dict[SkipReason, list[str]] = field(
        default_factory=dict
    )  # the first few of each
    num_over_max_files: int = 0

    def make_report(self, path: str) -> SourceReport:
        """The counts of the source `path`."""
        untold = [
            *self.skipped_names.get("no transcript", ()),
            *self.skipped_names.get("no recording", ()),
        ]
        return SourceReport(
            path,
            audio_count=len(self.examples),
            audio_bytes=self.audio_bytes,
            skipped_audio_no_transcript=self.skip_counts["no transcript"],
            skipped_rows_no_audio=self.skip_counts["no recording"],
            skipped_not_audio=self.skip_counts["not audio"] + self.skip_counts["not read"],
            skipped_excluded=self.skip_counts["excluded"],
            skipped_over_max_files=self.num_over_max_files,
            skipped_other_split=self.skip_counts["other split"],
            audio_names=tuple(
                clip.audio_segments[0].name for clip in self.examples[:MAX_REPORTED_NAMES]
            ),
            skipped_names=tuple(untold[:MAX_REPORTED_NAMES]),
            test_benchmarks=tuple(dict.fromkeys(self.test_benchmarks)),
        )

    def add_record_issue(self, issue: Issue) -> None:
        """Note what is wrong with one row."""
        self.issues.append(issue)
        if issue.fatal:
            self.record_issues.append(issue)

    def count_skipped(self, item: SkippedItem) -> None:
        """Count what is passed over, and remember the first few of its kind."""
        self.skip_counts[item.reason] += 1
        names = self.skipped_names.setdefault(item.reason, [])
        if len(names) < MAX_REPORTED_NAMES:
            names.append(item.name)

    def count_audio_bytes(self, path: Path) -> None:
        """Count a recording's bytes, once; one that is not there is told when it is heard."""
        name = hash(str(path))
        if name not in self.counted_recordings:
            self.counted_recordings.add(name)
            with suppress(OSError):
                self.audio_bytes += path.stat().st_size

    def iter_warnings(self, path: str, location: str) -> Iterator[Issue]:
        """What the author of the source `path` should know, though training goes on."""
        untold, foreign = (
            self.skipped_names.get(why, ["x"])[0] for why in ("no transcript", "not read")
        )
        lacks = Path(foreign).suffix.lower() in PYAV_SUFFIXES and not is_pyav_installed()
        txt = Path(untold).with_suffix(".txt")
        mends: dict[SkipReason, tuple[str, str]] = {
            "no transcript": (
                "without a transcript, skipped",
                f"write {txt.as_posix()}",
            ),
            "no recording": ("without a recording, skipped", MISSING_RECORDING_HINT),
            "not read": (
                "in a format that is not read",
                f"install PyAV, which reads it: {PYAV_INSTALL_HINT}"
                if lacks
                else "save it as wav or flac",
            ),
        }
        for why, (told, mend) in mends.items():
            if count := self.skip_counts[why]:
                what = f"{count} {told}: {_format_skipped_names(self.skipped_names[why], count)}"
                yield Issue(location, what, mend, fatal=False)
        if not self.examples and not self.issues:
            mend = "put recordings there, each with its transcript in a .txt of the same name"
            suffix = get_list_suffix(Path(path))
            if suffix in (*LIST_PARSERS, *TABLE_DELIMITERS):
                mend = TABLE_HEADER_HINT if suffix in TABLE_DELIMITERS else JSON_RECORD_HINT
            yield Issue(location, f"no clips in {path}", mend, fatal=False)


def _format_skipped_names(names: list[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


MAX_STREAM_SAMPLE_EXAMPLES = 256  # clips of a source that are looked at before it is streamed


@dataclass(frozen=True)
class LoadedData:
    """All clips of a document, in order, and what is wrong with the rest.

    What is `broken` are single rows, which are among the problems.
    """

    examples: tuple[Example, ...]
    sources: tuple[SourceReport, ...]
    issues: tuple[Issue, ...]
    record_issues: tuple[Issue, ...] = ()

    @property
    def held_out_examples(self) -> tuple[Example, ...]:
        """The clips of the source that is kept for testing, if one is."""
        kept: tuple[Example, ...] = ()
        first = len(self.examples)
        for report in reversed(self.sources):
            first -= report.audio_count
            if report.held_out:
                kept = self.examples[first : first + report.audio_count]
        return kept


def load_examples(document: Document) -> LoadedData:
    """Everything the document gives to learn from."""
    found = list(iter_document_examples(document))
    clips = [clip for clip in found if isinstance(clip, Example)]
    problems = [problem for problem in found if isinstance(problem, Issue)]
    broken: list[Issue] = []
    reports: list[SourceReport] = []
    asked = document.config.training
    for source, tested in iter_sources(asked):
        sampled = asked.uses_streaming and (source.stream or not tested)
        most = (
            min(MAX_STREAM_SAMPLE_EXAMPLES, source.max_files or MAX_STREAM_SAMPLE_EXAMPLES)
            if sampled
            else None
        )
        given = load_source_examples(document, source, max_examples=most)
        clips += given.examples
        problems += given.issues
        broken += given.record_issues
        (report,) = given.sources
        reports.append(replace(report, held_out=tested))
        if report.audio_count and not tested and not asked.allow_test_split:
            place = _find_source_location(document, source)
            problems += check_test_split(source, report.test_benchmarks, place)
    if not clips and not any(problem.fatal for problem in problems):
        mend = "add an ::audio:: section, or a folder of clips under training.sources"
        what = "the document gives nothing to learn"
        problems.append(Issue(document.path.name, what, mend, fatal=True))
    return LoadedData(tuple(clips), tuple(reports), tuple(problems), tuple(broken))


def load_source_examples(
    document: Document, source: SourceConfig, *, max_examples: int | None = None
) -> LoadedData:
    """Everything that one source gives, or its first so many clips."""
    haul = SourceCollector()
    try:
        _read_source(document, source, haul, max_examples=max_examples)
    except (DataError, MissingExtra) as error:
        haul.issues.append(Issue.from_error(error, _find_source_location(document, source)))
    reports = (haul.make_report(source.path),)
    return LoadedData(tuple(haul.examples), reports, tuple(haul.issues), tuple(haul.record_issues))


def iter_sources(config: TrainingConfig) -> Iterator[tuple[SourceConfig, bool]]:
    """Every source, and whether it is kept for testing; one that only held_out names comes last."""
    named = config.held_out if isinstance(config.held_out, SourceConfig) else None
    listed = [(each, named is not None and _is_same_source(each, named)) for each in config.sources]
    yield from listed
    if named is not None and not any(tested for _, tested in listed):
        yield named, True


def _is_same_source(source: SourceConfig, held_out_source: SourceConfig) -> bool:
    """Whether a source is the one that is named: by its path alone or by everything."""
    by_path = held_out_source == SourceConfig(path=held_out_source.path) and Path(
        source.path
    ) == Path(held_out_source.path)
    return by_path or source == held_out_source


def resolve_source(document: Document, source: SourceConfig) -> SourceContext:
    """A source where it lies. Raises ClipError where it is not, or where it may not be."""
    origin = SourceContext.from_source(document, source)
    afar = is_hub_name(origin.root)
    if not afar and not any(path.exists() for path in expand_tar_pattern(origin.root)):
        what = f"source not found: {source.path}"
        raise DataError(what, hint="make the folder or mend its path")
    home = _get_allowed_folder(document)
    if home is not None and (afar or not is_inside_folder(home, origin.root)):
        raise make_outside_folder_error(source.path)
    return origin


def apply_source_rules(document: Document, context: SourceContext, item: ReaderItem) -> ReaderItem:
    """What a source makes of what its format gives: one of its clips, or why it is none."""
    if not isinstance(item, Example):
        return item
    if any("\0" in each.file or "\0" in str(each.folder) for each in item.audio_segments):
        error = DataError("the path of its recording holds a zero byte", hint="mend the path")
        return Issue.from_error(error, item.location)
    home = _get_allowed_folder(document)
    away = next(
        (
            each
            for each in item.audio_segments
            if not context.matches_path(_get_pattern_path(context, each))
        ),
        None,
    )
    if away is not None:
        return SkippedItem(away.name, "excluded")
    outside = next(
        (each for each in item.audio_segments if home and _is_outside_folder(each.path, home)), None
    )
    if outside is not None:
        name = "it" if outside.name == item.location else outside.name
        return Issue.from_error(make_outside_folder_error(name), item.location)
    told = item.messages[0].role == "system"
    turns = item.messages if told else (*get_system_messages(document), *item.messages)
    return replace(item, messages=turns, weight=context.source.weight)


def _read_source(
    document: Document,
    source: SourceConfig,
    collector: SourceCollector,
    *,
    max_examples: int | None,
) -> None:
    """Everything in one source, in the order of its rows, up to so many clips."""
    origin = resolve_source(document, source)
    for shard in find_reader(origin).list_shards(origin):
        before = len(collector.examples)
        for given in shard.read(0) if max_examples is None or before < max_examples else ():
            _collect_item(apply_source_rules(document, origin, given), source, collector)
            if (
                max_examples is not None
                and len(collector.examples) + len(collector.record_issues) >= max_examples
            ):
                break
        if shard.test_benchmark and (max_examples is not None or len(collector.examples) > before):
            collector.test_benchmarks.append(shard.test_benchmark)
    collector.issues += collector.iter_warnings(
        source.path, _find_source_location(document, source)
    )


def _collect_item(item: ReaderItem, source: SourceConfig, collector: SourceCollector) -> None:
    """Note what a source gives: a clip, a skip or a problem."""
    if isinstance(item, Issue):
        collector.add_record_issue(item)
    elif isinstance(item, SkippedItem):
        collector.count_skipped(item)
    elif source.max_files is not None and len(collector.examples) >= source.max_files:
        collector.num_over_max_files += 1
    else:
        for sound in item.audio_segments:
            collector.count_audio_bytes(sound.path)
        collector.examples.append(item)


def _get_allowed_folder(document: Document) -> Path | None:
    """The folder that sources may not leave."""
    return document.folder if document.config.training.sources_policy == "strict" else None


def _get_pattern_path(context: SourceContext, segment: AudioSegment) -> str:
    """A recording as the source's patterns see it: relative to the source or to its list."""
    if segment.byte_range is not None:
        return segment.name.removeprefix(f"{context.name}/")
    folder = context.root if context.root.is_dir() else context.root.parent
    return (
        segment.path.relative_to(folder).as_posix()
        if segment.path.is_relative_to(folder)
        else segment.name
    )


def _is_outside_folder(path: Path, folder: Path) -> bool:
    """Whether a recording lies elsewhere; one that was unpacked lies where its source does."""
    return not is_inside_folder(folder, path) and not is_datasets_cache_file(path)


def _find_source_location(document: Document, source: SourceConfig) -> str:
    """The line of the document that names the source, as far as it can be found."""
    key = r"(?:\b(?:path|sources|held_out)\s*:|\bsources\s*:.*[\[,]|^\s*-)"
    written = re.escape(source.path)
    form = re.compile(rf"{key}\s*['\"]?{written}['\"]?\s*(?:$|[],}}#])")
    for number, line in enumerate(document.text.split("\n"), start=1):
        if form.search(line):
            return format_location(document, number)
    return document.path.name


MIN_EXAMPLES_TO_SKIP_BAD = 100  # from here on a few bad ones do not stop training
MAX_BAD_FRACTION = 0.05  # more than that is no accident
MAX_REPORTED_LOCATIONS = 3


@dataclass(frozen=True)
class FilterResult:
    """What is left to say, and what is wrong with the clips and rows that are left out."""

    issues: tuple[Issue, ...]
    skipped_issues: tuple[Issue, ...] = ()
    unusable_segments: Collection[AudioSegment] = ()  # that cannot be used

    def drop_unusable(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """The clips that are not left out."""
        bad = {problem.where for problem in self.skipped_issues}
        return tuple(
            clip
            for clip in examples
            if clip.location not in bad
            and not any(sound in self.unusable_segments for sound in clip.audio_segments)
        )


def should_skip_bad_examples(config: TrainingConfig, data: LoadedData) -> bool:
    """Whether clips that cannot be used are left out."""
    if config.bad_clips is not None:
        return config.bad_clips == "skip"
    return config.uses_streaming or count_examples(data) >= MIN_EXAMPLES_TO_SKIP_BAD


def count_examples(data: LoadedData) -> int:
    """All clips and the rows that should have been clips."""
    return len(data.examples) + len(data.record_issues)


def filter_bad_examples(
    config: TrainingConfig,
    data: LoadedData,
    issues: Sequence[Issue],
    *,
    unusable_segments: Collection[AudioSegment] = (),
    where: str,
) -> FilterResult:
    """What each problem does. `sounds` cannot be used; `where` names the document."""
    if not should_skip_bad_examples(config, data):
        return FilterResult(tuple(issues))
    places = {clip.location for clip in data.examples} | {each.where for each in data.record_issues}
    bad = tuple(each for each in issues if each.fatal and each.where in places)
    if not bad:
        return FilterResult(tuple(issues))
    left = tuple(each for each in issues if not (each.fatal and each.where in places))
    found = FilterResult(left, bad, unusable_segments)
    many, broken = count_examples(data), {each.where for each in data.record_issues}
    out = len(data.examples) - len(found.drop_unusable(data.examples)) + len(broken)
    if exceeds_bad_fraction(out, many):
        return FilterResult((make_too_many_bad_issue(bad, out, many, where=where), *issues))
    told = (
        f"{_describe_bad_count(out, many)} and "
        f"{'is' if out == 1 else 'are'} left out: {_format_locations(bad)}"
    )
    mend = "nothing to do, or mend them: `dlm check --json` names all"
    return replace(found, issues=(*found.issues, Issue(where, told, mend, fatal=False)))


class BadExampleCounter:
    """Clips, of so many, that turn out on the way not to be usable, and what is wrong with each."""

    def __init__(self, num_examples: int, *, skip_bad_examples: bool) -> None:
        self.num_examples = num_examples
        self.issues: dict[str, Issue] = {}  # by the place of the clip
        self._skip_bad_examples = skip_bad_examples

    def record_error(self, error: DataError, location: str) -> None:
        """Leave the clip at `place` out, or raise where the run ends with it or it is too many."""
        if not self._skip_bad_examples:
            raise error
        self.issues[location] = Issue.from_error(error, location)
        out = len(self.issues)
        if exceeds_bad_fraction(out, self.num_examples):
            bad = make_too_many_bad_issue(
                self.issues.values(), out, self.num_examples, where=location
            )
            raise DataError(bad.what, where=bad.where, hint=bad.hint, code=bad.code) from error


def exceeds_bad_fraction(num_bad: int, num_examples: int) -> bool:
    """Whether so many bad clips, of all there are, stop training."""
    return num_bad > MAX_BAD_FRACTION * num_examples


def make_too_many_bad_issue(
    bad_issues: Iterable[Issue], num_bad: int, num_examples: int, *, where: str
) -> Issue:
    """Why training stops."""
    what = (
        f"{_describe_bad_count(num_bad, num_examples)}, more than "
        f"{MAX_BAD_FRACTION:.0%}: {_format_locations(bad_issues)}"
    )
    hint = "correct them, or take them out"
    return Issue(where, what, hint, fatal=True, code="data.too_many_bad")


def _describe_bad_count(num_bad: int, num_examples: int) -> str:
    return f"{num_bad:,} of {num_examples:,} clip{'s' * (num_examples != 1)} cannot be used"


def _format_locations(bad_issues: Iterable[Issue]) -> str:
    """The first few places, each once."""
    names = list(dict.fromkeys(each.where for each in bad_issues))
    more = len(names) - MAX_REPORTED_LOCATIONS
    return ", ".join(names[:MAX_REPORTED_LOCATIONS]) + (f" and {more:,} more" if more > 0 else "")


def attach_transcripts(
    examples: Iterable[Example], transcribed_examples: Sequence[Example]
) -> tuple[Example, ...]:
    """The clips, each of their sounds with its transcript where one of `known_from` has it.

    Of several that write down a sound, one that is not asked anything about it says best.
    """
    written = [clip for clip in transcribed_examples if clip.task == "transcribe"]
    written.sort(key=lambda clip: not clip.messages[-2].text.strip())
    known = {clip.audio_segments[0]: clip.target for clip in written}

    def told(part: ContentPart) -> ContentPart:
        if isinstance(part, str) or part.transcript is not None:
            return part
        return replace(part, transcript=known.get(part))

    return tuple(
        replace(
            clip,
            messages=tuple(
                replace(turn, content=tuple(map(told, turn.content))) for turn in clip.messages
            ),
        )
        for clip in examples
    )


def find_missing_transcripts(examples: Iterable[Example]) -> Iterator[Issue]:
    """The first sound of each clip of which nobody knows what is said."""
    for clip in examples:
        sound = next((sound for sound in clip.audio_segments if sound.transcript is None), None)
        if sound is not None:
            what = f"what is said in {sound.name} is not known, and training.teacher reads it"
            mend = "add an ::audio:: section with its transcript, or take training.teacher out"
            yield Issue(clip.location, what, mend, fatal=True)
