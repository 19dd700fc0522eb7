"""The commands that move data: `import`, `export-data`, `tones` and `shards`.

import        source -> preview -> an entry under `training.sources`, or sections (--inline)
export-data   clips of a document -> audiofolder, jsonl or webdataset
tones         recordings of sine tones with transcripts
shards        output of the frozen encoder -> webdataset
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.options import (
    AnyPath,
    DeviceOption,
    DocumentArg,
    OutputDirArg,
    OverridesOption,
    ParamInfo,
    ProgressFn,
    make_exclusive_error,
    require_choice,
    require_range,
)
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError, ModelError, StoreError, TrainingError, UsageError

if TYPE_CHECKING:
    from dlm.config.data_schema import SourceConfig
    from dlm.config.editor import YamlEntry, YamlValue
    from dlm.config.parser import Document
    from dlm.data.export import ExportSummary
    from dlm.data.preview import SourcePreview
    from dlm.exporters.feature_shards import FeatureShardIndex

HF_HUB_PREFIX = "hf:"
EXPORT_SUBSETS = ("all", "learn", "held-out")
DEFAULT_TONES = 100  # recordings


@dataclass(frozen=True)
class SourceImport:
    """A source, and the document as it would be with it.

    Attributes:
        path: the document.
        entry: the source as the document would write it.
        preview: counts, issues and first examples of the source.
        inline: whether its examples become sections.
        old_bytes: the document.
        has_sample: whether the document still has the sample clip of `init`, which is taken out.
        new_bytes: the document with the source.
        num_added: examples that the document gains.
        section_issues: why some examples cannot be sections.
        written: whether the document was written.
    """

    path: Path
    entry: "YamlEntry"
    preview: "SourcePreview" = field(repr=False)
    inline: bool
    old_bytes: bytes = field(repr=False)
    has_sample: bool = field(default=False, repr=False)
    new_bytes: bytes = field(default=b"", repr=False)
    num_added: int = 0
    section_issues: tuple[Issue, ...] = field(default=(), repr=False)
    written: bool = False

    @property
    def issues(self) -> tuple[Issue, ...]:
        """Everything wrong with the source or its examples."""
        return self.preview.issues + self.section_issues

    @property
    def bytes_without_sample(self) -> bytes:
        """The document to add to."""
        from dlm.config.editor import remove_sample_clip

        return remove_sample_clip(self.old_bytes) if self.has_sample else self.old_bytes

    @property
    def entry_yaml(self) -> str:
        """The entry as YAML in one line."""
        from dlm.config.editor import format_yaml_value

        return format_yaml_value(self.entry)

    def write(self) -> None:
        """Write the document.

        Raises:
            DataError: the source gives no clip (`source.empty`).
            StoreError: the document was changed since the preview (`store.changed`).
        """
        from dlm.io import remove_stale_temp_files, write_atomic

        where = str(self.path)
        if not self.num_added:
            what = f"{self.preview.source.path} gives no clip"
            hint = "correct it, or name another source"
            raise DataError(what, where=where, hint=hint, code="source.empty")
        if self.path.read_bytes() != self.old_bytes:
            hint = "import it again"
            raise StoreError("changed meanwhile", where=where, hint=hint, code="store.changed")
        remove_stale_temp_files(self.path.resolve().parent)
        write_atomic(self.path.resolve(), self.new_bytes)


def import_source(
    source: Annotated[
        AnyPath, ParamInfo("A folder, a list, an archive, or hf:org/name.", metavar="SOURCE")
    ],
    *,
    into: Annotated[AnyPath, ParamInfo("The document to add it to.", metavar="DOCUMENT")],
    format: Annotated[str | None, ParamInfo("Format of the source; detected by default.")] = None,
    split: Annotated[str | None, ParamInfo("The split to take, such as train.")] = None,
    language: Annotated[str | None, ParamInfo("Language of the clips, such as fr.")] = None,
    task: Annotated[
        str | None, ParamInfo("Task of the clips.", metavar="transcribe|answer")
    ] = None,
    prompt: Annotated[str | None, ParamInfo("Question about each clip.")] = None,
    column: Annotated[
        Sequence[str],
        ParamInfo("Name of a column in the source: text=sentence.", metavar="OURS=THEIRS"),
    ] = (),
    audio: Annotated[
        AnyPath | None, ParamInfo("Folder of the recordings, if elsewhere.", metavar="DIR")
    ] = None,
    include: Annotated[
        Sequence[str], ParamInfo("Take only files like this, such as **/*.wav.")
    ] = (),
    exclude: Annotated[Sequence[str], ParamInfo("Skip files like this.")] = (),
    max_files: Annotated[int | None, ParamInfo("Maximum number of clips.")] = None,
    weight: Annotated[float | None, ParamInfo("How often its clips come in an epoch.")] = None,
    stream: Annotated[bool, ParamInfo("Read it while training, row by row.")] = False,
    inline: Annotated[bool, ParamInfo("Write its clips as sections in place of an entry.")] = False,
    yes: Annotated[bool, ParamInfo("Write without asking.", ("--yes", "-y"))] = False,
    progress: ProgressFn | None = None,
) -> SourceImport:
    """Preview what a source gives, and add it to a document."""
    from dlm.config.parser import read_document
    from dlm.data.preview import preview_source

    require_range("--max-files", max_files, minimum=1)
    if inline and stream:
        raise make_exclusive_error("--inline", "--stream")
    document_path, source = Path(into), str(source)
    document, old_bytes = read_document(document_path), document_path.read_bytes()
    on_hub = source.startswith(HF_HUB_PREFIX)
    values: dict[str, YamlValue] = {
        "path": source if on_hub else _make_document_path(document, Path(source)),
        "format": format,
        "split": split,
        "language": language,
        "task": task,
        "prompt": prompt,
        "columns": _parse_column_options(column),
        "audio": _make_document_path(document, Path(audio)) if audio else None,
        "include": include,
        "exclude": exclude,
        "max_files": max_files,
        "weight": weight,
        "stream": stream,
    }
    entry = {name: value for name, value in values.items() if value or isinstance(value, float)}
    config = _validate_source(entry)
    if not inline:
        _require_new_source(document, config)
    sample_rate = _find_sample_rate(document)
    preview = preview_source(document, config, sample_rate=sample_rate, progress=progress)
    has_sample = _has_sample_clip(document, old_bytes)
    source_import = SourceImport(document_path, entry, preview, inline, old_bytes, has_sample)
    add_to_document = _add_sections if inline else _add_entry
    source_import = add_to_document(source_import, document)
    if yes and source_import.num_added:
        source_import.write()
        source_import = replace(source_import, written=True)
    return source_import


def export_data(
    path: DocumentArg,
    folder: OutputDirArg,
    *,
    form: Annotated[
        str, ParamInfo("Format of the data.", metavar="audiofolder|jsonl|webdataset")
    ] = "jsonl",
    part: Annotated[str, ParamInfo("Which clips.", metavar="all|learn|held-out")] = "all",
    progress: ProgressFn | None = None,
) -> "ExportSummary":
    """Write clips as a folder: recordings and transcripts."""
    from dlm.data.export import EXPORT_FORMATS, export_examples
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir

    path, folder = Path(path), Path(folder)
    require_choice("--form", form, EXPORT_FORMATS)
    require_choice("--part", part, EXPORT_SUBSETS)
    export_format = next(each for each in EXPORT_FORMATS if each == form)
    require_empty_dir(folder)
    examples, num_unusable = _select_examples(path, part)
    summaries: list[ExportSummary] = []
    replace_dir(
        folder.absolute(),
        lambda new_dir: summaries.append(
            export_examples(new_dir, examples, export_format, progress=progress)
        ),
    )
    return replace(summaries[0], path=folder, num_unusable=num_unusable)


def tones(
    folder: OutputDirArg,
    *,
    count: Annotated[int | None, ParamInfo("Number of recordings; 100 by default.")] = None,
    seed: Annotated[int, ParamInfo("Random seed.")] = 0,
    smoke: Annotated[
        bool, ParamInfo("Only the five recordings of five seconds of the smoke test.")
    ] = False,
) -> Path:
    """Make recordings of five tones, each with its transcript."""
    from dlm.data.synthetic import write_smoke_tones, write_tones
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir

    folder = Path(folder)
    require_range("--count", count, minimum=1)
    require_range("--seed", seed, minimum=0)
    if smoke and count is not None:
        raise make_exclusive_error("--smoke", "--count")
    require_empty_dir(folder)
    num_recordings = DEFAULT_TONES if count is None else count
    replace_dir(
        folder,
        lambda new_dir: (
            write_smoke_tones(new_dir, seed=seed)
            if smoke
            else write_tones(new_dir, num_recordings=num_recordings, seed=seed)
        ),
    )
    return folder


def shards(
    path: DocumentArg,
    folder: OutputDirArg,
    *,
    samples: Annotated[int, ParamInfo("Maximum number of clips in a shard.")] = 10_000,
    megabytes: Annotated[int, ParamInfo("Maximum size of a shard, in megabytes.")] = 1_000,
    device: DeviceOption = None,
    overrides: OverridesOption = None,
    progress: ProgressFn | None = None,
) -> "FeatureShardIndex":
    """Write the frozen encoder's output as webdataset shards."""
    from dlm.commands.preflight import run_preflight
    from dlm.exporters.feature_shards import ShardLimits, make_lazy_encode_fn, write_feature_shards
    from dlm.features.extractor import AudioFeatureExtractor
    from dlm.plan.types import CliOverrides
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir
    from dlm.store.versions import open_store

    path, folder = Path(path), Path(folder)
    require_range("--samples", samples, minimum=1)
    require_range("--megabytes", megabytes, minimum=1)
    require_empty_dir(folder)
    preflight = run_preflight(path, cli_overrides=CliOverrides(device=device), overrides=overrides)
    plan, spec = preflight.require_plan(), preflight.spec
    if plan.batches.augmentation:
        raise TrainingError(
            "training.audio.augment changes the clips in every epoch: features are not cached",
            where=str(path),
            hint="write features without augmentation: --set training.audio.augment.share=0",
            code="training.features_change",
        )
    if not plan.batches.use_cached_features:
        what = "its encoder is trained: features are not cached"
        hint = "set training.freeze_encoder: true, or another training.adapter"
        raise TrainingError(what, where=str(path), hint=hint, code="training.features_change")

    extractor = AudioFeatureExtractor(
        spec,
        auto_resample=plan.batches.auto_resample,
        max_windows=plan.batches.max_windows,
        encode_fn=make_lazy_encode_fn(plan.model),
        cache_dir=open_store(preflight.document.config.dlm_id).layout.features_dir,
    )
    splits = {"learn": preflight.train_examples, "held-out": preflight.held_out_examples}
    limits = ShardLimits(samples, megabytes * 1_000_000)
    indexes: list[FeatureShardIndex] = []
    replace_dir(
        folder,
        lambda new_dir: indexes.append(
            write_feature_shards(
                new_dir, splits, spec, extractor=extractor, limits=limits, progress=progress
            )
        ),
    )
    return indexes[0]


def _make_document_path(document: "Document", path: Path) -> str:
    from dlm.config.editor import make_document_path

    return make_document_path(document.folder, path.expanduser())


def _parse_column_options(column_args: Sequence[str]) -> dict[str, str]:
    """Parse `text=sentence` into {our name: the source's}."""
    columns: dict[str, str] = {}
    for column_arg in column_args:
        our_name, _, their_name = column_arg.partition("=")
        if not our_name or not their_name:
            raise UsageError(
                f"'{column_arg}' names no column",
                where="--column",
                hint="write it as --column text=sentence",
                code="usage.bad_column",
            )
        columns[our_name] = their_name
    return columns


def _validate_source(entry: "YamlEntry") -> "SourceConfig":
    """Check an entry as the document's schema does (`usage.bad_value`)."""
    from pydantic import ValidationError

    from dlm.config.data_schema import SourceConfig
    from dlm.config.yaml_loader import describe_validation_error

    try:
        return SourceConfig.model_validate(entry)
    except ValidationError as error:
        details = error.errors()[0]
        name = str(details["loc"][0]).replace("_", "-")
        flag = "SOURCE" if name == "path" else f"--{name}"
        what, hint = describe_validation_error(details)
        raise UsageError(what, where=flag, hint=hint, code="usage.bad_value") from error


def _require_new_source(document: "Document", source: "SourceConfig") -> None:
    """Refuse a source that the document has already (`usage.repeated_source`)."""
    from dlm.data.readers.base import resolve_path

    def make_key(config: "SourceConfig") -> tuple[str, str | None]:
        return os.path.realpath(resolve_path(document, config.path)), config.split

    if make_key(source) in map(make_key, document.config.training.sources):
        raise UsageError(
            f"{source.path} is a source of it already",
            where=str(document.path),
            hint="change its entry in the document, or name another",
            code="usage.repeated_source",
        )


def _find_sample_rate(document: "Document") -> int | None:
    """The rate that recordings must have; None where any will do, or the base is not here."""
    from dlm.plan.model_ref import is_hub_model_name
    from dlm.plan.resolve import resolve_model_spec

    base_model = document.config.base_model
    if document.config.training.audio.auto_resample or not isinstance(base_model, str):
        return None
    if is_hub_model_name(base_model):  # an import asks no hub about the base
        return None
    with suppress(ModelError):  # which `dlm check` raises
        return resolve_model_spec(base_model, document.folder).audio_spec.sample_rate
    return None


def _has_sample_clip(document: "Document", data: bytes) -> bool:
    """Whether the sample clip of `init` is there as it was written, without its recording."""
    from dlm.config.editor import SAMPLE_AUDIO_PATH, remove_sample_clip

    is_recorded = (document.folder / SAMPLE_AUDIO_PATH).exists()
    return not is_recorded and remove_sample_clip(data) != data


def _add_entry(source_import: SourceImport, document: "Document") -> SourceImport:
    """Add the source as an entry under `training.sources`."""
    from dlm.config.editor import add_source

    return replace(
        source_import,
        new_bytes=add_source(source_import.bytes_without_sample, source_import.entry),
        num_added=len(source_import.preview.examples),
    )


def _add_sections(source_import: SourceImport, document: "Document") -> SourceImport:
    """Add a section for each example that can be written as one."""
    from dlm.config.editor import append_section
    from dlm.data.export import format_section

    sections: list[str] = []
    issues: list[Issue] = []
    _require_new_recordings(document, source_import.preview.examples)
    for example in source_import.preview.examples:
        try:
            sections.append(format_section(example, document))
        except DataError as error:
            issues.append(Issue.from_error(error, example.location))
    new_bytes = source_import.bytes_without_sample
    if sections:
        new_bytes = append_section(new_bytes, "\n\n".join(sections))
    return replace(
        source_import,
        new_bytes=new_bytes,
        num_added=len(sections),
        section_issues=tuple(issues),
    )


def _require_new_recordings(document: "Document", examples: Sequence[Example]) -> None:
    """Refuse a recording that has a section already (`usage.repeated_section`)."""
    from dlm.data.load import iter_document_examples

    def make_key(segment: AudioSegment) -> tuple[str, float | None, float | None]:
        return os.path.realpath(segment.path), segment.start, segment.end

    in_document = {
        make_key(segment)
        for example in iter_document_examples(document)
        if isinstance(example, Example)
        for segment in example.audio_segments
    }
    for segment in (segment for example in examples for segment in example.audio_segments):
        if make_key(segment) in in_document:
            raise UsageError(
                f"{segment.name} has a section of it already",
                where=str(document.path),
                hint="take that out first, or name another source",
                code="usage.repeated_section",
            )


def _select_examples(path: Path, subset: str) -> tuple[list[Example], int]:
    """The usable examples of a subset as their sources have them, and how many are unusable.

    Raises:
        UsageError: a streamed source, which is not read as a whole (`usage.streamed_source`).
        DataError: training would stop, or no example has audio (`data.no_audio`).
    """
    from dlm.config.parser import read_document
    from dlm.data.bad_examples import should_skip_bad_examples
    from dlm.data.export import strip_system_messages
    from dlm.data.load import MAX_STREAM_SAMPLE_EXAMPLES, load_examples
    from dlm.data.preview import probe_example_audio
    from dlm.data.split import train_eval_split

    document = read_document(path)
    loaded, config = load_examples(document), document.config.training
    if config.uses_streaming and subset != "held-out":
        what = f"only the first {MAX_STREAM_SAMPLE_EXAMPLES} clips of each source would be written"
        hint = "take `stream: true` out of its sources"
        raise UsageError(
            f"{what}: it streams", where=str(path), hint=hint, code="usage.streamed_source"
        )
    skip_bad = should_skip_bad_examples(config, loaded)
    ignored = loaded.record_issues if skip_bad else ()
    fatal = [issue for issue in loaded.issues if issue.fatal and issue not in ignored]
    if fatal:
        more = f" (and {len(fatal) - 1} more: dlm check {path})" if fatal[1:] else ""
        issue = fatal[0]
        raise DataError(issue.what, where=issue.where, hint=issue.hint + more, code=issue.code)
    train, held_out = train_eval_split(loaded, config)
    chosen = {"all": loaded.examples, "learn": train, "held-out": held_out}[subset]
    usable: list[Example] = []
    for example in chosen:
        try:
            probe_example_audio(example)
        except DataError:
            if not skip_bad:
                raise
            continue
        usable.append(replace(example, messages=strip_system_messages(example, document)))
    if not any(example.audio_segments for example in usable):
        what, hint = "no clip with audio in this part", "take --part all, or add clips"
        raise DataError(what, where=str(path), hint=f"{hint} to the document", code="data.no_audio")
    return usable, len(chosen) - len(usable)
