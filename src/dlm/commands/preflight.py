"""What a run learns from whose sources are streamed: all they give, but for what it is tested on.

Neither the recordings of a stream nor what is heard of them is kept. Its shards stand for them in
the facts of a run.

The walk that check, train and eval share: document, clips, audit, split, plan.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.config.overrides import apply_overrides
from dlm.config.parser import Document, read_document
from dlm.config.schema import TrainingConfig
from dlm.data.bad_examples import FilterResult, filter_bad_examples, should_skip_bad_examples
from dlm.data.contamination import check_leakage
from dlm.data.load import (
    LoadedData,
    SourceReport,
    attach_transcripts,
    find_missing_transcripts,
    iter_document_examples,
    load_examples,
)
from dlm.data.readers.base import resolve_path
from dlm.data.sampling import count_epoch_examples, count_examples_by_weight
from dlm.data.split import select_examples, train_eval_split
from dlm.data.streaming import open_stream_sources
from dlm.data.types import AudioSegment, Example, Issue
from dlm.data.validate import ValidationReport, validate_examples
from dlm.errors import DataError, PlanError, StoreError
from dlm.plan.audio_lengths import count_audio_tokens
from dlm.plan.hardware import Hardware, detect_hardware
from dlm.plan.memory import estimate_sequence_lengths, format_bytes
from dlm.plan.model_spec import ModelSpec
from dlm.plan.planner import check_disk_space, make_plan
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.schedule import apply_stages
from dlm.plan.types import TOO_LONG_HINT, CliOverrides, Plan, SummaryLine, compute_stretched_length
from dlm.store.layout import MAX_BLOB_BYTES, get_dlm_home
from dlm.store.records import RecordingHash, RunRecord, Version
from dlm.store.versions import open_store, require_unchanged

if TYPE_CHECKING:
    from dlm.batching.chat_template import ChatEncoder
    from dlm.batching.collator import FeatureFn
    from dlm.batching.inspect_labels import LabelView
    from dlm.batching.staged_loader import StagedLoader
    from dlm.features.extractor import AugmentedExtractor
    from dlm.inference.label_check import TranscriptionCheck
    from dlm.plan.types import Plan


def make_stream_loader(
    document: Document,
    held_out_examples: Sequence[Example],
    *,
    plan: "Plan",
    chat_encoder: "ChatEncoder",
    extractor_fn: "Callable[[int], FeatureFn | AugmentedExtractor]",
) -> "StagedLoader":
    """The batches of every stage; a run without stages is one. `listen` is that of each stage."""
    from dlm.batching.staged_loader import StagedLoader
    from dlm.batching.stream_sampler import build_stream_batches

    stages = [(stage.example_patterns, stage.num_steps) for stage in plan.training.stages]
    found = open_stream_sources(document)
    parts = []
    for number, (patterns, steps) in enumerate(stages or [((), plan.training.num_steps)]):
        wanted = _make_example_filter(document.config.training, held_out_examples, patterns)
        parts.append(
            (
                build_stream_batches(
                    found, plan.batches, chat_encoder, extractor_fn(number), wanted
                ),
                steps,
            )
        )
    return StagedLoader(parts)


def find_stream_issues(config: TrainingConfig, document_name: str) -> tuple[Issue, ...]:
    """What cannot be asked of a stream; `name` is the document's."""
    told = []
    if config.train_count is not None:
        what = "training.train_count counts listed clips, and a stream is not listed"
        told.append(Issue(document_name, what, "set max_files of its sources", fatal=True))
    if config.split_by == "content":
        what = "training.split_by is content, and a stream is not read beforehand"
        told.append(Issue(document_name, what, "set it to recording or speaker", fatal=True))
    return tuple(told)


def stream_summary(config: TrainingConfig, num_scanned: int) -> tuple[SummaryLine, ...]:
    """The lines of the plan about a stream."""
    why = "the rest is read as it is learned; neither it nor what is heard of it is kept"
    told = [SummaryLine("stream", f"the first {num_scanned:,} clips looked at", why)]
    if len(config.sources) > 1:
        weights = ", ".join(f"{source.path} {source.weight:g}" for source in config.sources)
        told.append(
            SummaryLine("drawn", weights, "how much comes from each source, beside the others")
        )
    return tuple(told)


def record_shard_fingerprints(run_record: RunRecord, document: Document) -> RunRecord:
    """The facts of a run, with the shards of its sources for their recordings."""
    own = {
        sound.name
        for clip in iter_document_examples(document)
        for sound in _get_audio_segments(clip)
    }
    kept = tuple(each for each in run_record.train_recordings if each.path in own)
    names = (shard.name for feed in open_stream_sources(document) for shard in feed.shards)
    shards = tuple(
        RecordingHash(name, _fingerprint_shard(document, name))
        for name in names
        if name != document.path.name
    )
    spelled = [f"Recording(path={each.path!r}, sha256={each.sha256!r})" for each in shards]
    tail = "," if len(spelled) == 1 else ""
    text = f"({run_record.data_sha256!r}, ({', '.join(spelled)}{tail}))"
    data = hashlib.sha256(text.encode()).hexdigest()
    return replace(run_record, data_sha256=data, train_recordings=kept + shards)


def _make_example_filter(
    config: TrainingConfig, held_out_examples: Sequence[Example], patterns: Sequence[str]
) -> Callable[[Example], Example | None]:
    """Which clips are learned: those of the stage that are not of what is held out."""
    recordings = {
        sound.recording_key for clip in held_out_examples for sound in clip.audio_segments
    }
    speakers = {clip.speaker for clip in held_out_examples} - {None}

    def wanted(clip: Example) -> Example | None:
        if any(sound.recording_key in recordings for sound in clip.audio_segments):
            return None
        if config.split_by == "speaker" and clip.speaker in speakers:
            return None
        if not select_examples((clip,), patterns):
            return None
        return _add_teacher_text(clip) if config.teacher.weight else clip

    return wanted


def _add_teacher_text(example: Example) -> Example:
    """A clip with what is said in it. Raises ClipError where it does not say so itself."""
    (told,) = attach_transcripts((example,), (example,))
    for problem in find_missing_transcripts((told,)):
        raise DataError(problem.what, where=problem.where, hint=problem.hint)
    return told


def _get_audio_segments(example: Example | Issue) -> tuple[AudioSegment, ...]:
    return example.audio_segments if isinstance(example, Example) else ()


def _fingerprint_shard(document: Document, shard: str) -> str:
    """A sha256 of the size of a shard and when it was changed; nothing for one that is no file."""
    path = resolve_path(document, shard)
    if not path.is_file():
        return ""
    found = path.stat()
    return hashlib.sha256(f"{found.st_size} {found.st_mtime_ns}".encode()).hexdigest()


@dataclass(frozen=True)
class Preflight:
    """All that can be known before any weights are loaded."""

    document: Document
    spec: ModelSpec
    validation: ValidationReport
    sources: tuple[SourceReport, ...]
    issues: tuple[Issue, ...]  # every one, the audit's among them
    skipped_issues: tuple[Issue, ...]  # what is wrong with the clips that are left out
    train_examples: tuple[Example, ...]
    held_out_examples: tuple[Example, ...]
    plan: Plan | None  # None where there is nothing to learn from, or it does not fit
    overrides: Mapping[str, Any] = field(default_factory=dict)  # what was asked over the document
    label_view: "LabelView | None" = None  # one row as it is learned, where that was asked for
    transcription_check: "TranscriptionCheck | None" = (
        None  # what a model hears in the clips, where that was asked
    )
    report_path: Path | None = None  # that shows all this, where that was asked for
    copy_recordings: bool = True  # the recordings, into the store

    @property
    def fatal_issues(self) -> tuple[Issue, ...]:
        """What training would fail on."""
        return tuple(problem for problem in self.issues if problem.fatal)

    def require_plan(self) -> Plan:
        """The plan, or ClipError for the first thing that training would fail on."""
        if not self.fatal_issues and self.plan:
            return self.plan
        first = self.fatal_issues[0]
        more = len(self.fatal_issues) - 1
        others = f" (and {more} more: dlm check {self.document.path})" if more else ""
        raise DataError(first.what, where=first.where, hint=first.hint + others)


def run_preflight(
    path: Path,
    *,
    cli_overrides: CliOverrides | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    hardware: Hardware | None = None,
    full_scan: bool = False,
) -> Preflight:
    """Look at everything that can be known without weights, on this machine or on another.

    With `full` every sound is decoded, however many there are.
    """
    document, base = resolve_document(path, overrides)
    gathered, asked = load_examples(document), document.config.training
    heard = validate_examples(
        gathered,
        rate=base.audio_spec.sample_rate,
        window_seconds=base.audio_spec.window_seconds,
        audio_config=asked.audio,
        progress=progress,
        full_scan=full_scan,
    )
    gathered = replace(gathered, examples=heard.examples)
    learn, held_out = train_eval_split(gathered, asked, heard.example_stats.content_hashes)
    apart = tuple(
        _check_split(
            document, len(gathered.examples), num_train=len(learn), num_held_out=len(held_out)
        )
    )
    learn = learn[: asked.train_count]
    if asked.teacher.weight:
        learn = attach_transcripts(learn, gathered.examples)
    told = (
        *heard.issues,
        *check_leakage(learn, held_out, heard.example_stats),
        *_check_sequence_lengths(base, asked, learn, heard),
        *apart,
        *(find_stream_issues(asked, document.path.name) if asked.uses_streaming else ()),
    )
    sifted = filter_bad_examples(
        asked, gathered, told, unusable_segments=heard.unusable_segments, where=document.path.name
    )
    learn, held_out = sifted.drop_unusable(learn), sifted.drop_unusable(held_out)
    hardware, copies = (
        hardware or detect_hardware(get_dlm_home()),
        0 if asked.uses_streaming else count_recording_bytes(learn),
    )
    written = copies if copies <= MAX_BLOB_BYTES else 0
    plan, problems = _make_checked_plan(
        document,
        base,
        heard,
        learn,
        hardware=hardware,
        cli_overrides=cli_overrides,
        copy_bytes=written,
    )
    if plan:
        batches = replace(plan.batches, skip_bad_examples=should_skip_bad_examples(asked, gathered))
        about = (
            stream_summary(asked, len(learn) + len(held_out))
            if asked.uses_streaming
            else _weight_summary(learn)
        )
        lines = (*about, *copy_summary(copies), *_override_summary(overrides or {}))
        plan = replace(plan, batches=batches, summary=(*plan.summary, *lines))
    return Preflight(
        document=document,
        spec=base,
        validation=heard,
        sources=gathered.sources,
        issues=(*sifted.issues, *problems),
        skipped_issues=sifted.skipped_issues,
        train_examples=learn,
        held_out_examples=held_out,
        plan=plan,
        overrides=overrides or {},
        copy_recordings=copies <= MAX_BLOB_BYTES and not asked.uses_streaming,
    )


def resolve_document(
    path: Path, overrides: Mapping[str, Any] | None = None
) -> tuple[Document, ModelSpec]:
    """The document, with what is asked over it, and the base it names."""
    document = apply_overrides(read_document(path), overrides or {})
    return document, resolve_model_spec(document.config.base_model, document.folder)


def filter_usable_examples(
    document: Document, spec: ModelSpec, data: LoadedData, examples: Sequence[Example]
) -> tuple[Example, ...]:
    """Those of the `clips` gathered that training would use.

    Raises ClipError for what would stop it, short of what is wrong with single clips.
    """
    asked, where = document.config.training, document.path.name
    told = filter_bad_examples(asked, data, data.issues, where=where).issues
    first = next((problem for problem in told if problem.fatal), None)
    if first:
        raise DataError(first.what, where=first.where, hint=first.hint)
    if not should_skip_bad_examples(asked, data):
        return tuple(examples)
    heard = validate_examples(
        replace(data, examples=tuple(examples), issues=()),
        rate=spec.audio_spec.sample_rate,
        window_seconds=spec.audio_spec.window_seconds,
        audio_config=asked.audio,
    )
    return FilterResult((), heard.fatal_issues, heard.unusable_segments).drop_unusable(examples)


def resolve_version(
    path: Path, version_name: str | None, *, hint_suffix: str = ""
) -> tuple[Document, ModelSpec, Version]:
    """A version, and the document as it was for its training: with what was asked over it."""
    document = read_document(path)
    store = open_store(document.config.dlm_id)
    version = store.get_version(version_name) if version_name else store.get_current_version()
    document = apply_overrides(document, version.overrides if version else {})
    base = resolve_model_spec(document.config.base_model, document.folder)
    if version is None:
        mend = f"run `dlm train {path}`{hint_suffix}"
        raise StoreError("nothing was learned yet", where=str(path), hint=mend)
    require_unchanged(version)
    return document, base, version


def _check_sequence_lengths(
    spec: ModelSpec, config: TrainingConfig, examples: tuple[Example, ...], report: ValidationReport
) -> Iterator[Issue]:
    """Clips that no row can be made of, as far as that is known without a tokenizer."""
    if config.teacher.weight:
        yield from find_missing_transcripts(examples)
    lasting = report.example_stats.get_durations()
    most, slowest = config.audio.max_windows, config.audio.augment.min_speed_percent
    for clip in examples:
        if spec.placeholder and any(spec.placeholder in turn.text for turn in clip.messages):
            what = f"the text holds the special token {spec.placeholder}"
            yield Issue(clip.location, what, "write it another way", fatal=True)
        lengths = (
            round(each * spec.audio_spec.sample_rate) for each in lasting.get(clip.location, ())
        )
        samples = (
            compute_stretched_length(each, slowest, spec.audio_spec.window_samples)
            for each in lengths
        )
        count = sum(count_audio_tokens(each, spec.audio_spec, most) for each in samples)
        what = f"its sound takes {count} tokens, and "
        if count > spec.context_length:
            what += f"{spec.key} thinks of {spec.context_length} at once"
            yield Issue(clip.location, what, "cut the clip with start= and end=", fatal=True)
        elif count > config.sequence_len:
            what += f"training.sequence_len is {config.sequence_len}"
            yield Issue(clip.location, what, TOO_LONG_HINT, fatal=True)


def _make_checked_plan(
    document: Document,
    spec: ModelSpec,
    report: ValidationReport,
    examples: tuple[Example, ...],
    *,
    hardware: Hardware,
    cli_overrides: CliOverrides | None,
    copy_bytes: int,
) -> tuple[Plan | None, tuple[Issue, ...]]:
    where, lasting = str(document.path), report.example_stats.get_durations()
    asked = document.config.training
    slowest = asked.audio.augment.min_speed_percent
    row = estimate_sequence_lengths(
        spec, asked.sequence_len, examples, lasting, min_speed_percent=slowest
    )
    try:
        plan = make_plan(
            document,
            spec,
            _count_epoch_examples(examples),
            hardware,
            cli_overrides=cli_overrides,
            lengths=row,
        )
        counts = [
            _count_epoch_examples(select_examples(examples, stage.clips)) for stage in asked.stages
        ]
        plan = apply_stages(plan, asked, counts, cli_overrides or CliOverrides())
        check_disk_space(plan, copy_bytes, hardware)
    except PlanError as error:
        return None, (Issue(error.where or where, error.what, error.hint or "", True),)
    return (plan, ()) if examples else (None, ())


def _count_epoch_examples(examples: Iterable[Example]) -> int:
    """How many clips come in a pass."""
    return count_epoch_examples(clip.weight for clip in examples)


def _check_split(
    document: Document, num_examples: int, *, num_train: int, num_held_out: int
) -> Iterator[Issue]:
    """What is in neither part, as it belongs to a source that is held out; or that all of it is."""
    count = num_examples - num_train - num_held_out
    if num_held_out and not num_train:
        mend = "add a source to learn from, or hold out another"
        yield Issue(document.path.name, "every clip is held out", mend, fatal=True)
    elif count:
        by = document.config.training.split_by
        what = f"{count:,} clip{'s share' if count > 1 else ' shares'} a {by} with the source that "
        what += f"is held out, and {'are' if count > 1 else 'is'} not learned from"
        yield Issue(document.path.name, what, "nothing to do if that is meant", fatal=False)


def _weight_summary(examples: tuple[Example, ...]) -> Iterator[SummaryLine]:
    """How often clips come in a pass, where that is not once."""
    found = count_examples_by_weight(clip.weight for clip in examples)
    if any(weight != 1 for weight, _, _ in found):
        told = (f"{many:,} at {weight:g} come {much:,} times" for weight, many, much in found)
        yield SummaryLine("weights", ", ".join(told), "in a pass, by the weight of their source")


def copy_summary(num_bytes: int) -> Iterator[SummaryLine]:
    """What the store does not keep."""
    if num_bytes > MAX_BLOB_BYTES:
        why = f"more than {format_bytes(MAX_BLOB_BYTES)}: a version names them by their sha256"
        yield SummaryLine(
            "recordings", f"{format_bytes(num_bytes)}, not copied into the store", why
        )


def _override_summary(overrides: Mapping[str, Any]) -> Iterator[SummaryLine]:
    """What is asked over the document."""
    if overrides:
        told = ", ".join(f"{name} = {value}" for name, value in overrides.items())
        yield SummaryLine("asked for", told, "over the document")


def count_recording_bytes(examples: Iterable[Example]) -> int:
    """Bytes of the recordings, each counted once; those that are not there count nothing."""
    found, told = 0, set[int]()
    for sound in (sound for clip in examples for sound in clip.audio_segments):
        key = hash(sound.recording_key)
        if key not in told:
            told.add(key)
            found += sound.byte_range[1] if sound.byte_range else _file_size(sound.path)
    return found


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
