"""The commands about what is stored: `show`, `versions`, `use`, `export`, `verify`, `stitch`, `gc`;
and `doctor`, about this machine and a base's weights.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.options import (
    AnyPath,
    DocumentArg,
    OverridesOption,
    ParamInfo,
    ProgressFn,
    VersionOption,
    require_range,
)
from dlm.errors import DataError, StoreError, UsageError

if TYPE_CHECKING:
    from dlm.config.parser import Document
    from dlm.data.load import SourceReport
    from dlm.data.types import AudioSegment
    from dlm.models.inspect_checkpoint import CheckpointReport
    from dlm.plan.fit_table import FitRow
    from dlm.plan.hardware import Hardware
    from dlm.plan.model_spec import ModelSpec
    from dlm.plan.types import SummaryLine
    from dlm.store.gc import GarbageItem
    from dlm.store.records import ExportInfo, Version

_logger = logging.getLogger(__name__)

EMPTY_OUT_HINT = "name an empty folder with --out"


@dataclass(frozen=True, repr=False)
class DocumentStatus:
    """A document, its sources, and what its store holds.

    Attributes:
        document: the document, with the overrides of the version in use.
        spec: its base.
        num_examples: number of examples, of a stream those that were read.
        sources: what each source gave.
        versions: oldest first.
        current: name of the version in use; None before the first training.
        exports: versions that were exported.
        store: folder of the store.
        size_bytes: size of the store.
        requested_version: the version that was asked for.
        damaged: records of the store that cannot be read.
    """

    document: "Document"
    spec: "ModelSpec"
    num_examples: int
    sources: "tuple[SourceReport, ...]"
    versions: "tuple[Version, ...]"
    current: str | None
    exports: "tuple[ExportInfo, ...]"
    store: Path
    size_bytes: int
    requested_version: "Version | None" = None
    damaged: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(version.name for version in self.versions)
        return (
            f"DocumentStatus('{self.document.path}', base_model='{self.spec.key}', "
            f"num_examples={self.num_examples:,}, versions=[{names}], current={self.current})"
        )


@dataclass(frozen=True)
class VerifyResult:
    """The files of an export or of a document's versions, hashed again.

    Attributes:
        path: the exported folder, or the document.
        files: number of files.
        differences: a line for each file that changed.
        mended: a line for each record of a store that was mended.
    """

    path: Path
    files: int
    differences: tuple[str, ...]
    mended: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SystemReport:
    """What this machine has, and what a document's plan needs of it.

    Attributes:
        machine: CPU, memory, disk and GPUs.
        decoder: the library that decodes audio.
        resampler: the library that resamples audio.
        cache: folder of the hub's cache.
        cached: keys of catalog models that are complete there.
        home: folder of the stores.
        plan: the plan of the document; empty without one.
        complaint: why the document has no plan.
        fits: what each model takes on the GPU that was asked about.
        weights: what the weight files of a base hold.
    """

    machine: "Hardware"
    decoder: str
    resampler: str
    cache: Path
    cached: tuple[str, ...]
    home: Path
    plan: "tuple[SummaryLine, ...]"
    complaint: str | None
    fits: "tuple[FitRow, ...]" = ()
    weights: "CheckpointReport | None" = None


@dataclass(frozen=True)
class StitchResult:
    """A composed base that was written as one folder.

    Attributes:
        folder: path of the folder.
        spec: the base.
        size_bytes: size of the folder.
    """

    folder: Path
    spec: "ModelSpec" = field(repr=False)
    size_bytes: int


@dataclass(frozen=True)
class GcResult:
    """What nothing in a store needs.

    Attributes:
        document: the document.
        unneeded: files and folders.
        removed: whether they were removed.
    """

    document: Path
    unneeded: "tuple[GarbageItem, ...]"
    removed: bool


def show(
    path: DocumentArg,
    *,
    version: Annotated[
        str | None,
        ParamInfo("List the recordings that a version was trained on.", metavar="VERSION"),
    ] = None,
) -> DocumentStatus:
    """Show a document's clips, sources, versions and exports."""
    from dlm.commands.preflight import resolve_document
    from dlm.config.parser import read_document
    from dlm.data.load import load_examples
    from dlm.store.damage import find_damaged_records
    from dlm.store.versions import open_store

    path = Path(path)
    store = open_store(read_document(path).config.dlm_id)
    current = None
    with suppress(StoreError):  # the damaged records are told
        current = store.get_current_version()
    document, spec = resolve_document(path, current.overrides if current else None)
    loaded = load_examples(document)
    return DocumentStatus(
        document=document,
        spec=spec,
        num_examples=len(loaded.examples),
        sources=loaded.sources,
        versions=store.list_versions(),
        current=current.name if current else None,
        exports=store.list_exports(),
        store=store.layout.root,
        size_bytes=store.compute_size_bytes(),
        requested_version=store.get_version(version) if version else None,
        damaged=tuple(map(str, find_damaged_records(store))),
    )


def versions(path: DocumentArg) -> DocumentStatus:
    """List the versions, and which one is in use."""
    return show(path)


def use_version(
    path: DocumentArg,
    version: Annotated[
        str, ParamInfo("The version to put in use, such as v0002.", metavar="VERSION")
    ],
) -> "Version":
    """Put another version in use: roll back, or forward again."""
    from dlm.config.parser import read_document
    from dlm.store.versions import open_store

    return open_store(read_document(Path(path)).config.dlm_id).set_current_version(version)


def export(
    path: DocumentArg,
    *,
    out: Annotated[
        AnyPath | None, ParamInfo("An empty folder; by default one in the store.")
    ] = None,
    version: VersionOption = None,
) -> "ExportInfo":
    """Write a version as a folder that other programs load."""
    from dlm.commands.preflight import resolve_version
    from dlm.exporters.manifest import get_export_name
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir
    from dlm.store.versions import open_store

    document, spec, record = resolve_version(Path(path), version)
    store = open_store(document.config.dlm_id)
    if out:
        require_empty_dir(Path(out), hint=EMPTY_OUT_HINT)
    inside = store.layout.exports_dir / get_export_name(spec, record)
    folder = Path(out or store.layout.require_inside(inside)).absolute()

    from dlm.exporters.merged import export_version

    write_fn = partial(export_version, spec, record, document.config.system_prompt)
    replace_dir(folder, write_fn, private=out is None)
    exported = store.describe_export(folder, kind=spec.kind, version_name=record.name)
    try:
        store.record_export(exported)
    except StoreError as error:
        if out is None:
            raise
        _logger.warning("the export is whole, and is not listed in the store: %s", error)
    return exported


def verify(
    path: Annotated[
        AnyPath,
        ParamInfo(
            "An exported folder; or a document, for its versions.", metavar="FOLDER|DOCUMENT"
        ),
    ],
    *,
    repair: Annotated[
        bool, ParamInfo("Mend records of the document's store that cannot be read.")
    ] = False,
) -> VerifyResult:
    """Hash every file again, and list those that changed."""
    from dlm.config.parser import read_document
    from dlm.exporters.manifest import verify_export
    from dlm.store.damage import find_changed_states, find_damaged_records
    from dlm.store.versions import open_store

    path = Path(path)
    if path.is_dir():
        return VerifyResult(path, *verify_export(path))
    store = open_store(read_document(path).config.dlm_id)
    mended: list[str] = []
    if repair:
        with store.lock():
            for damaged in find_damaged_records(store):
                if done := damaged.mend_fn():
                    mended.append(f"{damaged.path}: {done}")
        store.repair()
    records, unreadable = store.list_versions(), find_damaged_records(store)
    if not records and not unreadable:
        what, hint = "nothing was learned yet", f"run `dlm train {path}`"
        raise StoreError(what, where=str(path), hint=hint, code="store.no_version")
    num_files = sum(len(record.hashes) for record in records)
    advice = "cannot be mended: {}" if repair else "try `dlm verify --repair`, or {}"
    lines = [f"{each}; {advice.format(each.remedy)}" for each in unreadable]
    lines += (*store.verify_files(), *find_changed_states(store))
    return VerifyResult(path, num_files, tuple(lines), tuple(mended))


def stitch(
    path: DocumentArg,
    *,
    out: Annotated[AnyPath, ParamInfo("An empty folder to write it to.")],
    overrides: OverridesOption = None,
) -> StitchResult:
    """Write the composed base of a document as one folder."""
    from dlm.commands.preflight import resolve_document
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir

    path, out = Path(path), Path(out)
    document, spec = resolve_document(path, overrides)
    if spec.composition is None:
        raise UsageError(
            f"{spec.key} is a base already",
            where=str(path),
            hint="name components: base_model: {encoder: ..., projector: ..., lm: ...}",
            code="usage.not_composed",
        )
    require_empty_dir(out, hint=EMPTY_OUT_HINT)

    from dlm.exporters.merged import write_composed_model
    from dlm.models.load import load_base_model

    replace_dir(out.absolute(), lambda folder: write_composed_model(load_base_model(spec), folder))
    size_bytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return StitchResult(out.absolute(), spec, size_bytes)


def gc(
    path: DocumentArg,
    *,
    dry_run: Annotated[bool, ParamInfo("Only list what would be removed.")] = False,
    progress: ProgressFn | None = None,
) -> GcResult:
    """Remove stored data of clips no longer in the document.

    What a version was trained on is never removed.
    """
    from dlm.config.overrides import apply_overrides
    from dlm.config.parser import read_document
    from dlm.store.damage import require_readable
    from dlm.store.gc import find_garbage, remove_garbage
    from dlm.store.versions import open_store

    path = Path(path)
    # nothing is trained on here
    document = apply_overrides(read_document(path), {"training.allow_test_split": True})
    store = open_store(document.config.dlm_id)
    require_readable(store)
    current = store.get_current_version()
    segments = _list_recordings(document)
    if current and current.overrides:
        segments += _list_recordings(apply_overrides(document, current.overrides))
    used_hashes = _hash_recordings(segments, progress)
    if dry_run:
        return GcResult(path, find_garbage(store, used_hashes), removed=False)
    with store.lock():
        require_readable(store)
        garbage = find_garbage(store, used_hashes)
        remove_garbage(store, garbage)
    return GcResult(path, garbage, removed=True)


def doctor(
    path: Annotated[
        AnyPath | None, ParamInfo("A document, to see what its plan needs.", metavar="DOCUMENT")
    ] = None,
    *,
    gpu: Annotated[
        int | None, ParamInfo("Plan for a GPU with this much memory.", metavar="GIB")
    ] = None,
    weights: Annotated[
        str | None,
        ParamInfo(
            "Check every weight of a base, or of the one a document names.",
            metavar="BASE|DOCUMENT",
        ),
    ] = None,
) -> SystemReport:
    """Show this machine, and what a document needs of it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from dlm.commands.preflight import run_preflight
    from dlm.data.audio_decoders import PYAV_INSTALL_HINT, is_pyav_installed
    from dlm.data.audio_io import get_audio_backends
    from dlm.plan.fit_table import build_fit_table, make_fake_gpu
    from dlm.plan.hardware import detect_hardware
    from dlm.plan.hub import find_cached_model
    from dlm.plan.model_spec import MODEL_CATALOG
    from dlm.plan.summary import summarize_plan
    from dlm.store.layout import get_dlm_home

    require_range("--gpu", gpu, minimum=1)
    hardware = detect_hardware(get_dlm_home())
    if gpu:
        hardware = replace(hardware, gpus=(make_fake_gpu(gpu),))
    preflight = run_preflight(Path(path), hardware=hardware) if path else None
    plan = preflight.plan if preflight else None
    specs = (preflight.spec,) if preflight else MODEL_CATALOG.values()
    backends = get_audio_backends()
    cached = (
        spec.key
        for spec in MODEL_CATALOG.values()
        if spec.kind == "native" and find_cached_model(spec.source, spec.revision)
    )
    return SystemReport(
        machine=hardware,
        decoder=backends["decoder"]
        + ("" if is_pyav_installed() else f"; m4a, webm, video: {PYAV_INSTALL_HINT}"),
        resampler=backends.get("resampler", "none: pip install soxr"),
        cache=Path(HF_HUB_CACHE),
        cached=tuple(cached),
        home=get_dlm_home(),
        plan=summarize_plan(plan) if plan else (),
        complaint=str(preflight.fatal_issues[0]) if preflight and preflight.fatal_issues else None,
        fits=build_fit_table(specs, hardware) if gpu else (),
        weights=_inspect_checkpoint(weights) if weights else None,
    )


def _inspect_checkpoint(base_model: str) -> "CheckpointReport":
    """Read the weight files of a base, named as in a document or by one."""
    from dlm.commands.preflight import resolve_document
    from dlm.plan.resolve import resolve_model_spec

    if base_model.endswith(".dlm"):
        spec = resolve_document(Path(base_model))[1]
    else:
        spec = resolve_model_spec(base_model, Path())

    from dlm.models.inspect_checkpoint import inspect_checkpoint

    return inspect_checkpoint(spec)


def _list_recordings(document: "Document") -> "list[AudioSegment]":
    """A segment of each recording in the document. Raises DataError where some are missing."""
    from dlm.data.bad_examples import filter_bad_examples
    from dlm.data.load import load_examples

    loaded = load_examples(document)
    filtered = filter_bad_examples(
        document.config.training, loaded, loaded.issues, where=document.path.name
    )
    fatal = next((issue for issue in filtered.issues if issue.fatal), None)
    if fatal:
        raise DataError(fatal.what, where=fatal.where, hint=fatal.hint, code=fatal.code)
    segments = (segment for example in loaded.examples for segment in example.audio_segments)
    return list({segment.recording_key: segment for segment in segments}.values())


def _hash_recordings(segments: "Sequence[AudioSegment]", progress: ProgressFn | None) -> set[str]:
    """The sha256 of the recordings. Raises DataError: the copy of a missing one is not known."""
    from dlm.data.audio_io import hash_recording

    hashes = set()
    for num_done, segment in enumerate(segments, start=1):
        try:
            hashes.add(hash_recording(segment))
        except DataError as error:
            raise DataError(
                error.what,
                where=segment.name,
                hint="restore it, or take it out of the document: its data in the store"
                " cannot be identified",
                code=error.code,
            ) from error
        if progress is not None:
            progress(num_done, len(segments))
    return hashes
