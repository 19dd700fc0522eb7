"""The checks before any weights load, shared by check, train, eval, doctor and export-data.

document -> examples -> audio scan -> train and held-out split -> filter of bad examples -> plan
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.config.overrides import apply_overrides
from dlm.config.parser import Document, read_document
from dlm.config.schema import TrainingConfig
from dlm.data.audio_scan import HashMethod, HashMethodFn
from dlm.data.bad_examples import FilterResult, filter_bad_examples, should_skip_bad_examples
from dlm.data.contamination import check_leakage
from dlm.data.load import (
    LoadedData,
    SourceReport,
    attach_transcripts,
    find_missing_transcripts,
    load_examples,
)
from dlm.data.sampling import count_epoch_examples, count_examples_by_weight
from dlm.data.split import select_examples, train_eval_split
from dlm.data.types import AudioSegment, Example, Issue, RecordingKey
from dlm.data.validate import ValidationReport, validate_examples
from dlm.errors import DataError, DlmError, PlanError, StoreError
from dlm.plan.audio_lengths import count_audio_tokens
from dlm.plan.augmentation import plan_augmentation
from dlm.plan.hardware import Hardware, detect_hardware
from dlm.plan.languages import make_language_error, set_padding, set_task
from dlm.plan.memory import estimate_sequence_lengths
from dlm.plan.model_spec import ModelSpec
from dlm.plan.planner import MAX_COPIED_BYTES, NO_OVERRIDES, make_plan
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import (
    ONE_WINDOW_HINT,
    TOO_LONG_HINT,
    CliOverrides,
    Plan,
    TrainSetInfo,
    compute_stretched_length,
)
from dlm.store.layout import get_dlm_home
from dlm.store.records import Version
from dlm.store.versions import open_store, require_unchanged

if TYPE_CHECKING:
    from dlm.batching.inspect_labels import LabelView
    from dlm.inference.label_check import TranscriptionCheck

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Preflight:
    """All that is known of a run before any weights load.

    Attributes:
        document: with the overrides of fields.
        spec: the base model.
        validation: what the audio scan and the checks of examples came to.
        sources: what each source gave.
        issues: everything that is wrong or odd, the validation's included.
        skipped_issues: what is wrong with examples that are left out.
        train_examples: what is trained on.
        held_out_examples: what is measured on.
        plan: None where there is nothing to train on, or it does not fit.
        overrides: fields that the command line sets over the document.
        label_view: the tokens and labels of one example, where requested.
        transcription_check: what a model transcribes, where requested.
        report_path: of a page that shows all this, where requested.
    """

    document: Document
    spec: ModelSpec
    validation: ValidationReport
    sources: tuple[SourceReport, ...]
    issues: tuple[Issue, ...]
    skipped_issues: tuple[Issue, ...]
    train_examples: tuple[Example, ...]
    held_out_examples: tuple[Example, ...]
    plan: Plan | None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label_view: "LabelView | None" = None
    transcription_check: "TranscriptionCheck | None" = None
    report_path: Path | None = None

    def __repr__(self) -> str:
        return (
            f"Preflight('{self.document.path}', base_model='{self.spec.key}', "
            f"num_train={len(self.train_examples):,}, "
            f"num_held_out={len(self.held_out_examples):,}, "
            f"num_issues={len(self.issues):,}, num_fatal={len(self.fatal_issues):,})"
        )

    @property
    def fatal_issues(self) -> tuple[Issue, ...]:
        """What training would fail on."""
        return tuple(issue for issue in self.issues if issue.fatal)

    def require_plan(self) -> Plan:
        """Return the plan.

        Raises:
            DataError: the first fatal issue of the data.
            PlanError: the first fatal issue of the plan (`plan.*`).
        """
        if not self.fatal_issues and self.plan:
            return self.plan
        num_others = len(self.fatal_issues) - 1
        others = f" (and {num_others} more: dlm check {self.document.path})" if num_others else ""
        raise _make_error(self.fatal_issues[0], hint_suffix=others)


def run_preflight(
    path: Path,
    *,
    cli_overrides: CliOverrides = NO_OVERRIDES,
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    hardware: Hardware | None = None,
    full_scan: bool = False,
    hash_recordings: bool = False,
    resume: bool = False,
) -> Preflight:
    """Check everything that can be known without weights, and make the plan.

    Args:
        path: the document.
        cli_overrides: steps, seed and device of the command line.
        overrides: fields it sets over the document, by dotted name.
        progress: is called with the audio segments scanned so far, and all of them.
        hardware: to plan for; None for this machine.
        full_scan: whether all audio is decoded, however much there is.
        hash_recordings: whether the recordings to train on are hashed while the scan has them
            open, however many there are.
        resume: whether a run goes on: what is wrong with held-out clips only leaves them out of
            its scores.

    Raises:
        DlmError: the document or its sources cannot be read. What is wrong with examples is an
            issue of the result.
    """
    document, spec = resolve_document(path, overrides)
    config, data = document.config.training, load_examples(document)
    report = _validate(
        data,
        spec,
        config,
        progress=progress,
        full_scan=full_scan,
        hash_method_fn=_make_hash_method_fn(data, config) if hash_recordings else None,
    )
    data = replace(data, examples=report.examples)  # with the recordings that the scan found
    train, held_out = train_eval_split(data, config, report.example_stats.content_hashes)
    split_issues = tuple(_check_split(document, data, train, held_out))
    train = train[: config.train_count]
    if config.teacher.weight:
        train = attach_transcripts(train, data.examples)
    template_issues, template_changes = _check_template(spec, (*train, *held_out))
    issues = (
        *report.issues,
        *template_issues,
        *check_leakage(train, held_out, report.example_stats),
        *_check_sequence_lengths(spec, config, train, report),
        *_check_transcription_model(spec, config, (*train, *held_out), report),
        *split_issues,
        *(_check_stream_options(config, document.path.name) if config.uses_streaming else ()),
        *_check_chat_format(document, spec),
    )
    if resume:
        issues, held_out = _leave_unscored(issues, train, held_out, report)
    filtered = filter_bad_examples(
        config,
        data,
        issues,
        unusable_segments=report.unusable_segments,
        where=document.path.name,
    )
    train, held_out = filtered.drop_unusable(train), filtered.drop_unusable(held_out)
    plan = None
    plan_issues: tuple[Issue, ...] = ()
    try:
        plan = make_plan(
            config,
            spec,
            replace(
                _describe_train_set(spec, config, data, report, train, held_out),
                template_changes=template_changes,
            ),
            hardware or detect_hardware(get_dlm_home()),
            cli_overrides=cli_overrides,
            field_overrides=overrides,
            augmentation=plan_augmentation(document, spec),
        )
    except PlanError as error:
        where, hint = error.where or str(document.path), error.hint or ""
        plan_issues = (Issue(where, error.what, hint, fatal=True, code=error.code),)
    return Preflight(
        document=document,
        spec=spec,
        validation=report,
        sources=data.sources,
        issues=(*filtered.issues, *plan_issues),
        skipped_issues=filtered.skipped_issues,
        train_examples=train,
        held_out_examples=held_out,
        plan=plan if train else None,
        overrides=overrides or {},
    )


def resolve_document(
    path: Path, overrides: Mapping[str, Any] | None = None
) -> tuple[Document, ModelSpec]:
    """Read a document with overrides of its fields, and resolve the base model it names."""
    document = apply_overrides(read_document(path), overrides or {})
    spec = resolve_model_spec(document.config.base_model, document.folder)
    audio_config = document.config.training.audio
    return document, set_padding(set_task(spec, audio_config.task), audio_config.pad_to_window)


def resolve_version(
    path: Path, version_name: str | None, *, hint_suffix: str = ""
) -> tuple[Document, ModelSpec, Version]:
    """Find a version, and the document as it was for its training, with its overrides.

    Args:
        path: the document.
        version_name: such as "v0001"; None for the one in use.
        hint_suffix: is added to the hint of the error where there is none.

    Raises:
        StoreError: there is no version (`store.no_version`), or not this one.
    """
    document = read_document(path)
    store = open_store(document.config.dlm_id)
    version = store.get_version(version_name) if version_name else store.get_current_version()
    document = apply_overrides(document, version.overrides if version else {})
    spec = resolve_model_spec(document.config.base_model, document.folder)
    if version is None:
        hint = f"run `dlm train {path}`{hint_suffix}"
        raise StoreError(
            "nothing was learned yet", where=str(path), hint=hint, code="store.no_version"
        )
    require_unchanged(version)
    if spec.is_encoder_decoder:  # as it was trained, whatever the document asks for by now
        pads_to_window = version.get_trained_option("audio_spec", "pad_mode") != "none"
        is_translation = version.get_trained_option("task") == "translate"
        spec = set_task(spec, "translate" if is_translation else "transcribe")
        spec = set_padding(spec, pads_to_window)
    known_revision = version.base_model_revision
    if spec.key == version.base_model and known_revision not in (None, spec.revision):
        what = "was trained on another state of its base: its weights were changed since"
        _logger.warning("%s %s (%s)", version.name, what, spec.key)
    return document, spec, version


def filter_usable_examples(
    document: Document, spec: ModelSpec, data: LoadedData, examples: Sequence[Example]
) -> tuple[Example, ...]:
    """Return those of `examples` that training would use.

    Raises:
        DataError: what would stop training, apart from what is wrong with single examples.
    """
    config = document.config.training
    filtered = filter_bad_examples(config, data, data.issues, where=document.path.name)
    for issue in filtered.issues:
        if issue.fatal:
            raise _make_error(issue)
    if not should_skip_bad_examples(config, data):
        return tuple(examples)
    report = _validate(replace(data, examples=tuple(examples), issues=()), spec, config)
    bad_examples = FilterResult((), report.fatal_issues, report.unusable_segments)
    return bad_examples.drop_unusable(examples)


def _validate(
    data: LoadedData,
    spec: ModelSpec,
    config: TrainingConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
    full_scan: bool = False,
    hash_method_fn: HashMethodFn | None = None,
) -> ValidationReport:
    return validate_examples(
        data,
        sample_rate=spec.audio_spec.sample_rate,
        window_seconds=spec.audio_spec.window_seconds,
        audio_config=config.audio,
        progress=progress,
        full_scan=full_scan,
        hash_method_fn=hash_method_fn,
    )


def _make_hash_method_fn(data: LoadedData, config: TrainingConfig) -> HashMethodFn:
    """The hash by which a run names a recording: of all its bytes if the run copies it."""

    @cache
    def choose_methods() -> dict[RecordingKey, HashMethod]:
        train, held_out = data.examples, data.examples[:0]
        if config.split_by != "content":  # for which recordings would have to be decoded
            train, held_out = train_eval_split(data, config)
            train = train[: config.train_count]
        copied = not config.uses_streaming and _count_recording_bytes(train) <= MAX_COPIED_BYTES
        methods: dict[RecordingKey, HashMethod] = {}
        for example in held_out:  # their scores are kept by it
            methods |= {segment.recording_key: "fingerprint" for segment in example.audio_segments}
        method: HashMethod = "sha256" if copied else "fingerprint"
        for example in train:
            methods |= {segment.recording_key: method for segment in example.audio_segments}
        return methods

    def get_method(segment: AudioSegment) -> HashMethod | None:
        return choose_methods().get(segment.recording_key)

    return get_method


def _make_error(issue: Issue, *, hint_suffix: str = "") -> DlmError:
    error_class = PlanError if issue.code.startswith("plan.") else DataError
    return error_class(
        issue.what, where=issue.where, hint=issue.hint + hint_suffix, code=issue.code
    )


def _leave_unscored(
    issues: tuple[Issue, ...],
    train: Sequence[Example],
    held_out: tuple[Example, ...],
    report: ValidationReport,
) -> tuple[tuple[Issue, ...], tuple[Example, ...]]:
    """The issues, those of held-out examples no longer fatal; and the examples that are scored."""
    unusable = report.unusable_segments
    scored = tuple(
        example
        for example in held_out
        if not any(segment in unusable for segment in example.audio_segments)
    )
    locations = {example.location for example in held_out}
    locations -= {example.location for example in (*train, *scored)}
    return tuple(
        replace(issue, fatal=False, hint="it is left out of the scores")
        if issue.fatal and issue.where in locations
        else issue
        for issue in issues
    ), scored


def _check_split(
    document: Document, data: LoadedData, train: Sequence[Example], held_out: Sequence[Example]
) -> Iterator[Issue]:
    """Examples that are in neither part, as they are related to held-out ones."""
    where, count = document.path.name, len(data.examples) - len(train) - len(held_out)
    if held_out and not train:
        hint = "add a source to train on, or hold out another"
        yield Issue(where, "every clip is held out", hint, fatal=True, code="data.all_held_out")
    elif count:
        split_by = document.config.training.split_by
        what = f"{count:,} clip{'s share' if count > 1 else ' shares'} a {split_by} with the "
        what += f"source that is held out, and {'are' if count > 1 else 'is'} not trained on"
        hint = "nothing to do if that is meant"
        yield Issue(where, what, hint, fatal=False, code="data.related_to_held_out")


def _check_sequence_lengths(
    spec: ModelSpec, config: TrainingConfig, examples: tuple[Example, ...], report: ValidationReport
) -> Iterator[Issue]:
    """Examples that cannot be encoded, as far as that is known without a tokenizer."""
    if config.teacher.weight:
        yield from find_missing_transcripts(examples)
    durations, audio_spec = report.example_stats.get_durations(), spec.audio_spec
    for example in examples:
        if spec.placeholder and any(
            spec.placeholder in message.text for message in example.messages
        ):
            what = f"the text holds the special token {spec.placeholder}"
            hint = "write it differently"
            yield Issue(example.location, what, hint, fatal=True, code="data.special_token")
        num_tokens = sum(
            count_audio_tokens(
                compute_stretched_length(
                    round(seconds * audio_spec.sample_rate),
                    config.audio.augment.min_speed_percent,
                    audio_spec.window_samples,
                ),
                audio_spec,
                config.audio.max_windows,
            )
            for seconds in durations.get(example.location, ())
        )
        if num_tokens > spec.context_length:
            limit = f"the context of {spec.key} is {spec.context_length}"
            hint = "cut the clip with start= and end="
        elif num_tokens > config.sequence_len:
            limit, hint = f"training.sequence_len is {config.sequence_len}", TOO_LONG_HINT
        else:
            continue
        what = f"its audio takes {num_tokens} tokens, and {limit}"
        yield Issue(example.location, what, hint, fatal=True, code="data.too_long")


def _check_transcription_model(
    spec: ModelSpec, config: TrainingConfig, examples: tuple[Example, ...], report: ValidationReport
) -> Iterator[Issue]:
    """What an encoder-decoder model cannot take: long clips, and languages without a token."""
    if not spec.is_encoder_decoder:
        return
    durations, window_seconds = report.example_stats.get_durations(), spec.audio_spec.window_seconds
    for example in examples:
        if error := make_language_error(spec, example):
            yield Issue.from_error(error, example.location)
        longest = max(durations.get(example.location, ()), default=0.0)
        if longest > window_seconds and config.audio.max_windows is None:
            what = f"it lasts {longest:.1f} s, and {spec.key} takes {window_seconds:g} s at once"
            yield Issue(
                example.location, what, ONE_WINDOW_HINT, fatal=True, code="data.not_one_window"
            )


def _check_stream_options(config: TrainingConfig, document_name: str) -> Iterator[Issue]:
    """Options that need all examples before training."""
    if config.train_count is not None:
        what = "training.train_count counts listed clips, and a stream is not listed"
        hint = "set max_files of its sources"
        yield Issue(document_name, what, hint, fatal=True, code="data.not_for_streams")
    if config.split_by == "content":
        what = "training.split_by is content, and a stream is not read beforehand"
        hint = "set it to recording or speaker"
        yield Issue(document_name, what, hint, fatal=True, code="data.not_for_streams")


def _check_chat_format(document: Document, spec: ModelSpec) -> Iterator[Issue]:
    """A pretrained language model that gets plain text because it has no chat template."""
    base_model, composition = document.config.base_model, spec.composition
    if isinstance(base_model, str) or composition is None or not composition.lm.source:
        return
    if spec.chat_format == "plain" and base_model.chat is None:
        what = "its language model has no chat template, and gets audio, question and answer as "
        hint = "name an instruct model for conversations, or set base_model.chat to plain"
        yield Issue(
            document.path.name, f"{what}plain text", hint, fatal=False, code="model.plain_chat"
        )


def _check_template(
    spec: ModelSpec, examples: Sequence[Example]
) -> tuple[list[Issue], tuple[str, ...]]:
    """Render one conversation of each order of roles, where there are several turns.

    Returns:
        Those that the chat template refuses, and what is done to others for it to take them.
    """
    by_roles: dict[tuple[str, ...], Example] = {}
    for example in examples:
        by_roles.setdefault(tuple(message.role for message in example.messages), example)
    by_roles.pop(("user", "assistant"), None)
    by_roles = {roles: example for roles, example in by_roles.items() if len(roles) > 1}
    if spec.chat_format not in ("template", "parts") or not by_roles:
        return [], ()
    from dlm.batching.mistral_chat import build_chat_encoder
    from dlm.models.load import load_tokenizer

    issues: list[Issue] = []
    chat_encoder = build_chat_encoder(load_tokenizer(spec), spec)
    for example in by_roles.values():
        try:
            chat_encoder.encode_example(example)
        except DlmError as error:
            if error.code != "data.special_token":  # it is found in every example
                where, hint = error.where or example.location, error.hint or ""
                issues.append(Issue(where, error.what, hint, fatal=True, code=error.code))
    return issues, tuple(chat_encoder.describe_changes(by_roles))


def _describe_train_set(
    spec: ModelSpec,
    config: TrainingConfig,
    data: LoadedData,
    report: ValidationReport,
    train: tuple[Example, ...],
    held_out: tuple[Example, ...],
) -> TrainSetInfo:
    """What the plan needs to know about the examples."""
    return TrainSetInfo(
        num_examples=count_epoch_examples(example.weight for example in train),
        lengths=estimate_sequence_lengths(
            spec,
            config.sequence_len,
            train,
            report.example_stats.get_durations(),
            min_speed_percent=config.audio.augment.min_speed_percent,
        ),
        num_stage_examples=tuple(
            count_epoch_examples(example.weight for example in select_examples(train, stage.clips))
            for stage in config.stages
        ),
        weight_groups=tuple(count_examples_by_weight(example.weight for example in train)),
        recording_bytes=0 if config.uses_streaming else _count_recording_bytes(train),
        num_scanned_examples=len(train) + len(held_out),
        skip_bad_examples=should_skip_bad_examples(config, data),
    )


def _count_recording_bytes(examples: Sequence[Example]) -> int:
    """Bytes of the recordings, each counted once; those that are not there count nothing."""
    segments = {
        segment.recording_key: segment for example in examples for segment in example.audio_segments
    }
    total = 0
    for segment in segments.values():
        try:
            total += segment.byte_range[1] if segment.byte_range else segment.path.stat().st_size
        except OSError:
            continue  # reported by the audio scan
    return total
