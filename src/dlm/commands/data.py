"""import, export-data: clips brought into a document, and handed on as a folder of data.

tones, shards: recordings that dlm makes itself, and features handed on.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.options import (
    DeviceOption,
    DocumentArg,
    OverridesOption,
    ParamInfo,
    ProgressFn,
    require_range,
)
from dlm.data.types import AudioSegment, Example, Issue
from dlm.errors import DataError, StoreError, TrainingError, UsageError

if TYPE_CHECKING:
    from dlm.config.data_schema import SourceConfig
    from dlm.config.editor import YamlEntry, YamlValue
    from dlm.config.parser import Document
    from dlm.data.export import ExportSummary
    from dlm.data.preview import SourcePreview
    from dlm.exporters.feature_shards import FeatureShardIndex


HF_HUB_PREFIX = "hf:"
EXPORT_SUBSETS = ("all", "learn", "held-out")

SourceArg = Annotated[
    str, ParamInfo("A folder, a list, an archive, or hf:org/name of the Hub.", metavar="SOURCE")
]
IntoOption = Annotated[Path, ParamInfo("The document to write it into.", metavar="DOCUMENT")]
FormatOption = Annotated[
    str | None, ParamInfo("How the clips are kept; found out by looking when not said.")
]
SplitOption = Annotated[str | None, ParamInfo("The part to take, such as train.")]
LanguageOption = Annotated[str | None, ParamInfo("Language spoken in the clips, such as fr.")]
TaskOption = Annotated[
    str | None, ParamInfo("What its clips are for.", metavar="transcribe|answer")
]
PromptOption = Annotated[str | None, ParamInfo("What the model is asked about each clip.")]
ColumnOption = Annotated[
    tuple[str, ...],
    ParamInfo(
        "What it calls a column of ours: text=sentence; say it again.", metavar="OURS=THEIRS"
    ),
]
AudioDirOption = Annotated[
    Path | None, ParamInfo("Folder of the recordings, where they lie elsewhere.", metavar="DIR")
]
IncludeOption = Annotated[
    tuple[str, ...], ParamInfo("Take files like this, such as **/*.wav; say it again.")
]
ExcludeOption = Annotated[tuple[str, ...], ParamInfo("Leave files like this out; say it again.")]
MaxFilesOption = Annotated[int | None, ParamInfo("Take at most so many clips.")]
WeightOption = Annotated[float | None, ParamInfo("How often its clips come in a pass.")]
StreamOption = Annotated[bool, ParamInfo("Read it row by row as it is learned.")]
InlineOption = Annotated[bool, ParamInfo("Write its clips out as sections, in place of an entry.")]
YesOption = Annotated[bool, ParamInfo("Write without asking.", ("--yes", "-y"))]
ExportFormatOption = Annotated[
    str, ParamInfo("How the data is kept.", metavar="audiofolder|jsonl|webdataset")
]
SubsetOption = Annotated[str, ParamInfo("Which clips.", metavar="all|learn|held-out")]


@dataclass(frozen=True)
class SourceImport:
    """What a source gives, and the document as it would be with it."""

    path: Path
    entry: "YamlEntry"  # as the document would write it
    preview: "SourcePreview"
    inline: bool
    old_bytes: bytes = field(repr=False)  # the document
    new_bytes: bytes = field(default=b"", repr=False)
    num_added: int = 0  # clips that the document gains
    section_issues: tuple[Issue, ...] = ()  # why a clip can be no section
    written: bool = False

    @property
    def issues(self) -> tuple[Issue, ...]:
        """Everything that is wrong with the source or its clips."""
        return self.preview.issues + self.section_issues

    @property
    def entry_yaml(self) -> str:
        """The entry in a line, as YAML."""
        from dlm.config.editor import format_yaml_value

        return format_yaml_value(self.entry)

    def write(self) -> None:
        """Write the document. Raises StoreError where it is no longer the one looked at."""
        from dlm.io import write_atomic

        where = str(self.path)
        if not self.num_added:
            what = f"{self.preview.source.path} gives no clip"
            raise DataError(what, where=where, hint="mend it, or name another source")
        if self.path.read_bytes() != self.old_bytes:
            raise StoreError("changed meanwhile", where=where, hint="import it again")
        write_atomic(self.path.resolve(), self.new_bytes)


OutputDirArg = Annotated[Path, ParamInfo("An empty folder, or one to make.", metavar="FOLDER")]


def import_source(
    source: SourceArg,
    *,
    into: IntoOption,
    format: FormatOption = None,
    split: SplitOption = None,
    language: LanguageOption = None,
    task: TaskOption = None,
    prompt: PromptOption = None,
    column: ColumnOption = (),
    audio: AudioDirOption = None,
    include: IncludeOption = (),
    exclude: ExcludeOption = (),
    max_files: MaxFilesOption = None,
    weight: WeightOption = None,
    stream: StreamOption = False,
    inline: InlineOption = False,
    yes: YesOption = False,
    progress: ProgressFn | None = None,
) -> SourceImport:
    """Look at what a source gives, and write it into a document."""
    from dlm.config.parser import read_document
    from dlm.data.preview import preview_source

    require_range("--max-files", max_files, minimum=1)
    if inline and stream:
        mend = "leave one of them out"
        raise UsageError("--inline and --stream exclude each other", hint=mend)
    document, before = read_document(into), into.read_bytes()
    said: dict[str, YamlValue] = {
        "path": source
        if source.startswith(HF_HUB_PREFIX)
        else _path_in_document(document, Path(source)),
        "format": format,
        "split": split,
        "language": language,
        "task": task,
        "prompt": prompt,
        "columns": _parse_column_options(column),
        "audio": _path_in_document(document, audio) if audio else None,
        "include": include,
        "exclude": exclude,
        "max_files": max_files,
        "weight": weight,
        "stream": stream,
    }
    entry = {name: value for name, value in said.items() if value or isinstance(value, float)}
    asked = _validate_source(entry)
    if not inline:
        _require_new_source(document, asked)
    preview = preview_source(document, asked, progress=progress)
    found = SourceImport(into, entry, preview, inline=inline, old_bytes=before)
    found = _add_sections(found, document) if inline else _add_entry(found)
    if yes and found.num_added:
        found.write()
        return replace(found, written=True)
    return found


def export_data(
    path: DocumentArg,
    folder: OutputDirArg,
    *,
    form: ExportFormatOption = "jsonl",
    part: SubsetOption = "all",
    progress: ProgressFn | None = None,
) -> "ExportSummary":
    """Write the document's clips as a folder of data: recordings, and what is said in them."""
    from dlm.data.export import EXPORT_FORMATS, export_examples
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir

    kind = next((each for each in EXPORT_FORMATS if each == form), None)
    if kind is None:
        raise UsageError(f"--form is '{form}'", hint=f"choose one of {', '.join(EXPORT_FORMATS)}")
    if part not in EXPORT_SUBSETS:
        raise UsageError(f"--part is '{part}'", hint=f"choose one of {', '.join(EXPORT_SUBSETS)}")
    require_empty_dir(folder)
    clips, unusable = _select_examples(path, part)
    written: list[ExportSummary] = []
    replace_dir(
        folder.absolute(),
        lambda new: written.append(export_examples(new, clips, kind, progress=progress)),
    )
    return replace(written[0], path=folder, num_unusable=unusable)


def _path_in_document(document: "Document", path: Path) -> str:
    from dlm.config.editor import make_document_path

    return make_document_path(document.folder, path.expanduser())


def _parse_column_options(column_args: tuple[str, ...]) -> dict[str, str]:
    """What `--column` said, by our names."""
    columns: dict[str, str] = {}
    for each in column_args:
        ours, _, theirs = each.partition("=")
        if not ours or not theirs:
            mend = "write it as --column text=sentence"
            raise UsageError(f"'{each}' names no column", where="--column", hint=mend)
        columns[ours] = theirs
    return columns


def _validate_source(entry: "YamlEntry") -> "SourceConfig":
    """The entry as a document reads it. Raises UsageError for a value that cannot be."""
    from pydantic import ValidationError

    from dlm.config.data_schema import SourceConfig
    from dlm.config.yaml_loader import describe_validation_error

    try:
        return SourceConfig.model_validate(entry)
    except ValidationError as error:
        mistake = error.errors()[0]
        name = str(mistake["loc"][0]).replace("_", "-")
        flag = "SOURCE" if name == "path" else f"--{name}"
        what, mend = describe_validation_error(mistake)
        raise UsageError(what, where=flag, hint=mend) from error


def _require_new_source(document: "Document", source: "SourceConfig") -> None:
    """Refuse a source that the document names already."""
    from dlm.data.readers.base import resolve_path

    there = {
        (os.path.realpath(resolve_path(document, each.path)), each.split)
        for each in document.config.training.sources
    }
    if (os.path.realpath(resolve_path(document, source.path)), source.split) in there:
        what = f"{source.path} is a source of it already"
        mend = "change its entry in the document, or name another"
        raise UsageError(what, where=str(document.path), hint=mend)


def _add_entry(source_import: SourceImport) -> SourceImport:
    """What is to be written: one more entry."""
    from dlm.config.editor import add_source

    added = len(source_import.preview.examples)
    return replace(
        source_import,
        new_bytes=add_source(source_import.old_bytes, source_import.entry),
        num_added=added,
    )


def _add_sections(source_import: SourceImport, document: "Document") -> SourceImport:
    """What is to be written: a section for each clip that one can hold."""
    from dlm.config.editor import append_section
    from dlm.data.export import format_section

    sections: list[str] = []
    refused: list[Issue] = []
    _require_new_recordings(document, source_import.preview.examples)
    for clip in source_import.preview.examples:
        try:
            sections.append(format_section(clip, document))
        except DataError as error:
            refused.append(Issue.from_error(error, clip.location))
    after = (
        append_section(source_import.old_bytes, "\n\n".join(sections))
        if sections
        else source_import.old_bytes
    )
    return replace(
        source_import, new_bytes=after, num_added=len(sections), section_issues=tuple(refused)
    )


def _require_new_recordings(document: "Document", examples: tuple[Example, ...]) -> None:
    """Refuse a recording that has a section already."""
    from dlm.data.load import iter_document_examples

    own = [clip for clip in iter_document_examples(document) if isinstance(clip, Example)]
    there = {_segment_key(sound) for clip in own for sound in clip.audio_segments}
    again = [
        each for clip in examples for each in clip.audio_segments if _segment_key(each) in there
    ]
    if again:
        what = f"{again[0].name} has a section of it already"
        mend = "take that out first, or name another source"
        raise UsageError(what, where=str(document.path), hint=mend)


def _segment_key(segment: AudioSegment) -> tuple[str, float | None, float | None]:
    return os.path.realpath(segment.path), segment.start, segment.end


def _select_examples(path: Path, subset: str) -> tuple[list[Example], int]:
    """The clips of a part that can be used, as their sources have them, and how many cannot."""
    from dlm.config.parser import read_document
    from dlm.data.bad_examples import should_skip_bad_examples
    from dlm.data.export import strip_system_messages
    from dlm.data.load import MAX_STREAM_SAMPLE_EXAMPLES, load_examples
    from dlm.data.preview import probe_example_audio
    from dlm.data.split import train_eval_split

    document = read_document(path)
    gathered, asked = load_examples(document), document.config.training
    if asked.uses_streaming and subset != "held-out":
        what = (
            f"only the first {MAX_STREAM_SAMPLE_EXAMPLES} "
            "clips of each source would be written: it streams"
        )
        raise UsageError(what, where=str(path), hint="take `stream: true` out of its sources")
    skipped = should_skip_bad_examples(asked, gathered)
    passed = gathered.record_issues if skipped else ()
    fatal = [each for each in gathered.issues if each.fatal and each not in passed]
    if fatal:
        more = f" (and {len(fatal) - 1} more: dlm check {path})" if fatal[1:] else ""
        raise DataError(fatal[0].what, where=fatal[0].where, hint=fatal[0].hint + more)
    learn, held_out = train_eval_split(gathered, asked)
    chosen = {"all": gathered.examples, "learn": learn, "held-out": held_out}[subset]
    usable: list[Example] = []
    for clip in chosen:
        try:
            probe_example_audio(clip)
        except DataError:
            if not skipped:
                raise
            continue
        usable.append(replace(clip, messages=strip_system_messages(clip, document)))
    if not any(clip.audio_segments for clip in usable):
        mend = "take --part all, or add clips to the document"
        raise DataError("no clip with sound in this part", where=str(path), hint=mend)
    return usable, len(chosen) - len(usable)


def tones(
    folder: OutputDirArg,
    *,
    count: Annotated[int, ParamInfo("How many recordings.")] = 100,
    seed: Annotated[int, ParamInfo("Where every random choice starts.")] = 0,
) -> Path:
    """Make recordings of five tones, each with its words beside it."""
    from dlm.data.synthetic import write_tones
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir

    require_range("--count", count, minimum=1)
    require_range("--seed", seed, minimum=0)
    require_empty_dir(folder)
    replace_dir(folder, lambda new: write_tones(new, num_recordings=count, seed=seed))
    return folder


def shards(
    path: DocumentArg,
    folder: OutputDirArg,
    *,
    samples: Annotated[int, ParamInfo("Clips in a shard of webdataset, at the most.")] = 10_000,
    megabytes: Annotated[int, ParamInfo("Megabytes in a shard, at the most.")] = 1_000,
    device: DeviceOption = None,
    overrides: OverridesOption = None,
    progress: ProgressFn | None = None,
) -> "FeatureShardIndex":
    """Write what the frozen encoder hears of every clip, as shards."""
    from dlm.commands.preflight import run_preflight
    from dlm.exporters.feature_shards import ShardLimits, make_lazy_encode_fn, write_feature_shards
    from dlm.features.extractor import AudioFeatureExtractor
    from dlm.plan.types import CliOverrides
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir
    from dlm.store.versions import open_store

    require_range("--samples", samples, minimum=1)
    require_range("--megabytes", megabytes, minimum=1)
    require_empty_dir(folder)
    checked = run_preflight(path, cli_overrides=CliOverrides(device=device), overrides=overrides)
    plan, base = checked.require_plan(), checked.spec
    if plan.batches.augmentation:
        mend = "write what is heard of them as they are: --set training.audio.augment.share=0"
        what = "training.audio.augment changes its clips in every pass: no features stay"
        raise TrainingError(what, where=str(path), hint=mend)
    if not plan.batches.use_cached_features:
        mend = "set training.freeze_encoder: true, or another training.adapter"
        raise TrainingError("its encoder learns: no features stay", where=str(path), hint=mend)

    ear = AudioFeatureExtractor(
        base,
        auto_resample=plan.batches.auto_resample,
        max_windows=plan.batches.max_windows,
        encode_fn=make_lazy_encode_fn(plan.model),
        cache_dir=open_store(checked.document.config.dlm_id).layout.features_dir,
    )
    written: list[FeatureShardIndex] = []
    parts = {"learn": checked.train_examples, "held-out": checked.held_out_examples}
    limits = ShardLimits(samples, megabytes * 1_000_000)
    replace_dir(
        folder,
        lambda new: written.append(
            write_feature_shards(new, parts, base, extractor=ear, limits=limits, progress=progress)
        ),
    )
    return written[0]
