"""show, versions, use_version, export, verify, doctor: what is kept, and what there is.

stitch: what a document joins, as one folder that others can name.

gc: letting go of what the store keeps and nobody needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.commands.options import (
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


@dataclass(frozen=True)
class DocumentStatus:
    """A document, its sources, and what its store holds."""

    document: "Document"
    spec: "ModelSpec"
    num_examples: int
    sources: "tuple[SourceReport, ...]"
    versions: "tuple[Version, ...]"
    current: str | None
    exports: "tuple[ExportInfo, ...]"
    store: Path
    size_bytes: int
    requested_version: "Version | None" = None  # whose recordings are to be told


@dataclass(frozen=True)
class VerifyResult:
    """How many files were looked at, and a line for each that is not as it was written."""

    path: Path
    files: int
    differences: tuple[str, ...]


@dataclass(frozen=True)
class SystemReport:
    """What this machine has, and what a document's plan needs of it."""

    machine: "Hardware"
    decoder: str
    resampler: str
    cache: Path  # of the hub
    cached: tuple[str, ...]  # bases that lie there, whole
    home: Path
    plan: "tuple[SummaryLine, ...]"
    complaint: str | None  # why there is no plan
    fits: "tuple[FitRow, ...]" = ()  # on the card one thinks of
    weights: "CheckpointReport | None" = None  # of the base one asks about


def show(
    path: DocumentArg,
    *,
    version: Annotated[
        str | None, ParamInfo("Tell which recordings a version learned from.", metavar="VERSION")
    ] = None,
) -> DocumentStatus:
    """Tell what a document holds and what was learned from it."""
    from dlm.commands.preflight import resolve_document
    from dlm.config.parser import read_document
    from dlm.data.load import load_examples
    from dlm.store.versions import open_store

    store = open_store(read_document(path).config.dlm_id)
    current = store.get_current_version()
    document, base = resolve_document(path, current.overrides if current else None)
    gathered = load_examples(document)
    return DocumentStatus(
        document=document,
        spec=base,
        num_examples=len(gathered.examples),
        sources=gathered.sources,
        versions=store.list_versions(),
        current=current.name if current else None,
        exports=store.list_exports(),
        store=store.layout.root,
        size_bytes=store.compute_size_bytes(),
        requested_version=store.get_version(version) if version else None,
    )


def versions(path: DocumentArg) -> DocumentStatus:
    """List what each training left, and which version is in use."""
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

    return open_store(read_document(path).config.dlm_id).set_current_version(version)


def export(
    path: DocumentArg,
    *,
    out: Annotated[
        Path | None, ParamInfo("An empty folder; one in the store when not said.")
    ] = None,
    version: VersionOption = None,
) -> "ExportInfo":
    """Write what was learned as a folder to hand on."""
    from dlm.commands.preflight import resolve_version
    from dlm.exporters.manifest import get_export_name
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir
    from dlm.store.versions import open_store

    document, base, chosen = resolve_version(path, version)
    store = open_store(document.config.dlm_id)
    if out:
        require_empty_dir(out, hint="name an empty folder with --out")
    folder = (out or store.layout.exports_dir / get_export_name(base, chosen)).absolute()

    from dlm.exporters.merged import export_version as write

    replace_dir(folder, partial(write, base, chosen, document.config.system_prompt))
    return store.record_export(folder, kind=base.kind, version_name=chosen.name)


def verify(
    path: Annotated[
        Path,
        ParamInfo(
            "An exported folder; or a document, for its versions.", metavar="FOLDER|DOCUMENT"
        ),
    ],
) -> VerifyResult:
    """Hash every file again, and name those that changed."""
    from dlm.config.parser import read_document
    from dlm.exporters.manifest import verify_export
    from dlm.store.versions import open_store

    if path.is_dir():
        return VerifyResult(path, *verify_export(path))
    store = open_store(read_document(path).config.dlm_id)
    kept = store.list_versions()
    if not kept:
        raise StoreError("nothing was learned yet", where=str(path), hint=f"run `dlm train {path}`")
    return VerifyResult(path, sum(len(each.hashes) for each in kept), store.verify_versions())


def doctor(
    path: Annotated[
        Path | None, ParamInfo("To see what its plan needs of it.", metavar="DOCUMENT")
    ] = None,
    *,
    gpu: Annotated[
        int | None, ParamInfo("As if a card of so many GiB were here.", metavar="GIB")
    ] = None,
    weights: Annotated[
        str | None,
        ParamInfo(
            "Read every number of a base, or of the one a document names.", metavar="BASE|DOCUMENT"
        ),
    ] = None,
) -> SystemReport:
    """Look at this machine, and at what a document needs of it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from dlm.commands.preflight import run_preflight
    from dlm.data.audio_decoders import PYAV_INSTALL_HINT, is_pyav_installed
    from dlm.data.audio_io import get_audio_backends
    from dlm.plan.fit_table import build_fit_table, make_fake_gpu
    from dlm.plan.hardware import detect_hardware
    from dlm.plan.hub import find_cached_model
    from dlm.plan.model_spec import MODEL_CATALOG
    from dlm.store.layout import get_dlm_home

    released = [base for base in MODEL_CATALOG.values() if base.kind == "native"]
    require_range("--gpu", gpu, minimum=1)
    machine = detect_hardware(get_dlm_home())
    if gpu:
        machine = replace(machine, gpus=(make_fake_gpu(gpu),))
    checked, means = run_preflight(path, hardware=machine) if path else None, get_audio_backends()
    found = checked.plan if checked else None
    return SystemReport(
        machine=machine,
        decoder=means["decoder"]
        + ("" if is_pyav_installed() else f"; m4a, webm, video: {PYAV_INSTALL_HINT}"),
        resampler=means.get("resampler", "none: pip install soxr"),
        cache=Path(HF_HUB_CACHE),
        cached=tuple(
            base.key for base in released if find_cached_model(base.source, base.revision)
        ),
        home=get_dlm_home(),
        plan=found.summary if found else (),
        complaint=str(checked.fatal_issues[0]) if checked and checked.fatal_issues else None,
        fits=build_fit_table((checked.spec,) if checked else MODEL_CATALOG.values(), machine)
        if gpu
        else (),
        weights=_inspect_checkpoint(weights) if weights else None,
    )


def _inspect_checkpoint(base_model: str) -> "CheckpointReport":
    """What lies in the files of a base, named as in a document or by one."""
    from dlm.commands.preflight import resolve_document
    from dlm.plan.resolve import resolve_model_spec

    base = (
        resolve_document(Path(base_model))[1]
        if base_model.endswith(".dlm")
        else resolve_model_spec(base_model, Path())
    )

    from dlm.models.inspect_checkpoint import inspect_checkpoint

    return inspect_checkpoint(base)


@dataclass(frozen=True)
class StitchResult:
    """The folder that was written, and the base it holds."""

    folder: Path
    spec: "ModelSpec"
    size_bytes: int


def stitch(
    path: DocumentArg,
    *,
    out: Annotated[Path, ParamInfo("An empty folder to write it into.")],
    overrides: OverridesOption = None,
) -> StitchResult:
    """Write the base a document stitches as one folder."""
    from dlm.commands.preflight import resolve_document
    from dlm.store.atomic_dirs import replace_dir, require_empty_dir

    document, base = resolve_document(path, overrides)
    if base.composition is None:
        mend = "name parts: base_model: {encoder: ..., projector: ..., lm: ...}"
        raise UsageError(f"{base.key} is a base already", where=str(path), hint=mend)
    require_empty_dir(out, hint="name an empty folder with --out")

    from dlm.exporters.merged import write_composed_model
    from dlm.models.load import load_base_model

    replace_dir(out.absolute(), lambda folder: write_composed_model(load_base_model(base), folder))
    size = sum(each.stat().st_size for each in out.rglob("*") if each.is_file())
    return StitchResult(out.absolute(), base, size)


@dataclass(frozen=True)
class GcResult:
    """What nobody needs, and whether it is gone."""

    document: Path
    unneeded: "tuple[GarbageItem, ...]"
    removed: bool


def gc(
    path: DocumentArg,
    *,
    dry_run: Annotated[bool, ParamInfo("Only tell what would be removed.")] = False,
    progress: ProgressFn | None = None,
) -> GcResult:
    """Remove what is kept of clips that were taken out.

    What a version learned from stays.
    """
    from dlm.config.overrides import apply_overrides
    from dlm.config.parser import read_document
    from dlm.store.gc import find_garbage, remove_garbage
    from dlm.store.versions import open_store

    document = apply_overrides(
        read_document(path), {"training.allow_test_split": True}
    )  # nothing is learned
    store = open_store(document.config.dlm_id)
    used = store.get_current_version()
    sounds = _collect_recordings(document)
    if used and used.overrides:
        sounds += _collect_recordings(apply_overrides(document, used.overrides))
    named = _hash_named_recordings(sounds, progress)
    if dry_run:
        return GcResult(path, find_garbage(store, named), removed=False)
    with store.lock():
        found = find_garbage(store, named)
        remove_garbage(store, found)
    return GcResult(path, found, removed=True)


def _collect_recordings(document: "Document") -> "list[AudioSegment]":
    """A sound of every recording that the document names. Raises ClipError if some are away."""
    from dlm.data.bad_examples import filter_bad_examples
    from dlm.data.load import load_examples

    gathered, name = load_examples(document), document.path.name
    sifted = filter_bad_examples(document.config.training, gathered, gathered.issues, where=name)
    first = next((problem for problem in sifted.issues if problem.fatal), None)
    if first:
        raise DataError(first.what, where=first.where, hint=first.hint)
    sounds = (sound for clip in gathered.examples for sound in clip.audio_segments)
    return list({sound.recording: sound for sound in sounds}.values())


def _hash_named_recordings(
    segments: "Sequence[AudioSegment]", progress: ProgressFn | None
) -> set[str]:
    """The sha256 of the recordings: of one that is away, its copy could not be told from others."""
    from dlm.data.audio_io import hash_recording

    hashes = set()
    for done, sound in enumerate(segments, start=1):
        try:
            hashes.add(hash_recording(sound))
        except DataError as error:
            mend = "put it back, or take it out of the document: what is kept of it cannot be told"
            raise DataError(error.what, where=sound.name, hint=mend) from error
        if progress is not None:
            progress(done, len(segments))
    return hashes
