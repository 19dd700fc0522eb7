"""show, versions, use_version, export, verify, doctor: what is kept, and what there is."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.errors import StoreError
from dlm.verbs.say import DocumentPath, Say, VersionName, within

if TYPE_CHECKING:
    from dlm.clips.haul import SourceReport
    from dlm.document.document import Document
    from dlm.model.tensors import Inspection
    from dlm.plan.bases import Base
    from dlm.plan.fits import Fit
    from dlm.plan.hardware import Machine
    from dlm.plan.plan import Line
    from dlm.store.facts import Export, Version


@dataclass(frozen=True)
class Shown:
    """A document, its sources, and what its store holds."""

    document: "Document"
    base: "Base"
    clips: int
    sources: "tuple[SourceReport, ...]"
    versions: "tuple[Version, ...]"
    current: str | None
    exports: "tuple[Export, ...]"
    store: Path
    size_bytes: int
    asked: "Version | None" = None  # whose recordings are to be told


@dataclass(frozen=True)
class Verified:
    """How many files were looked at, and a line for each that is not as it was written."""

    path: Path
    files: int
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """What this machine has, and what a document's plan needs of it."""

    machine: "Machine"
    decoder: str
    resampler: str
    cache: Path  # of the hub
    cached: tuple[str, ...]  # bases that lie there, whole
    home: Path
    plan: "tuple[Line, ...]"
    complaint: str | None  # why there is no plan
    fits: "tuple[Fit, ...]" = ()  # on the card one thinks of
    weights: "Inspection | None" = None  # of the base one asks about


def show(
    path: DocumentPath,
    *,
    version: Annotated[
        str | None, Say("Tell which recordings a version learned from.", value="VERSION")
    ] = None,
) -> Shown:
    """Tell what a document holds and what was learned from it."""
    from dlm.clips.sources import gather
    from dlm.document.parse import read
    from dlm.store.versions import open_store
    from dlm.verbs.prepare import opened

    store = open_store(read(path).settings.dlm_id)
    current = store.current()
    document, base = opened(path, current.overrides if current else None)
    gathered = gather(document)
    return Shown(
        document=document,
        base=base,
        clips=len(gathered.clips),
        sources=gathered.sources,
        versions=store.versions(),
        current=current.name if current else None,
        exports=store.exports(),
        store=store.layout.root,
        size_bytes=store.size_bytes(),
        asked=store.find(version) if version else None,
    )


def versions(path: DocumentPath) -> Shown:
    """List what each training left, and which version is in use."""
    return show(path)


def use_version(
    path: DocumentPath,
    version: Annotated[str, Say("The version to put in use, such as v0002.", value="VERSION")],
) -> "Version":
    """Put another version in use: roll back, or forward again."""
    from dlm.document.parse import read
    from dlm.store.versions import open_store

    return open_store(read(path).settings.dlm_id).use(version)


def export(
    path: DocumentPath,
    *,
    out: Annotated[Path | None, Say("An empty folder; one in the store when not said.")] = None,
    version: VersionName = None,
) -> "Export":
    """Write what was learned as a folder to hand on."""
    from dlm.store.folders import replace_folder
    from dlm.store.versions import open_store
    from dlm.use.manifest import folder_name
    from dlm.verbs.prepare import learned

    document, base, chosen = learned(path, version)
    store = open_store(document.settings.dlm_id)
    if out and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise StoreError("not empty", where=str(out), mend="name an empty folder with --out")
    folder = (out or store.layout.exports / folder_name(base, chosen)).absolute()

    from dlm.use.export import export as write

    replace_folder(folder, partial(write, base, chosen, document.settings.system_prompt))
    return store.record_export(folder, kind=base.kind, version=chosen.name)


def verify(
    path: Annotated[
        Path, Say("An exported folder; or a document, for its versions.", value="FOLDER|DOCUMENT")
    ],
) -> Verified:
    """Hash every file again, and name those that changed."""
    from dlm.document.parse import read
    from dlm.store.versions import open_store
    from dlm.use.manifest import differences

    if path.is_dir():
        return Verified(path, *differences(path))
    store = open_store(read(path).settings.dlm_id)
    kept = store.versions()
    if not kept:
        raise StoreError("nothing was learned yet", where=str(path), mend=f"run `dlm train {path}`")
    return Verified(path, sum(len(each.hashes) for each in kept), store.verify())


def doctor(
    path: Annotated[Path | None, Say("To see what its plan needs of it.", value="DOCUMENT")] = None,
    *,
    gpu: Annotated[int | None, Say("As if a card of so many GiB were here.", value="GIB")] = None,
    weights: Annotated[
        str | None,
        Say("Read every number of a base, or of the one a document names.", value="BASE|DOCUMENT"),
    ] = None,
) -> Health:
    """Look at this machine, and at what a document needs of it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from dlm.clips.audio import heard_with
    from dlm.clips.ffmpeg import INSTALL, installed
    from dlm.plan.catalogue import CATALOGUE
    from dlm.plan.fits import card, fits
    from dlm.plan.hardware import survey
    from dlm.plan.hub import snapshot
    from dlm.store.layout import home
    from dlm.verbs.prepare import prepare

    released = [base for base in CATALOGUE.values() if base.kind == "native"]
    within("--gpu", gpu, least=1)
    machine = survey(home())
    if gpu:
        machine = replace(machine, gpus=(card(gpu),))
    checked, means = prepare(path, machine=machine) if path else None, heard_with()
    found = checked.plan if checked else None
    return Health(
        machine=machine,
        decoder=means["decoder"] + ("" if installed() else f"; m4a, webm, video: {INSTALL}"),
        resampler=means.get("resampler", "none: pip install soxr"),
        cache=Path(HF_HUB_CACHE),
        cached=tuple(base.key for base in released if snapshot(base.source, base.revision)),
        home=home(),
        plan=found.lines if found else (),
        complaint=str(checked.fatal[0]) if checked and checked.fatal else None,
        fits=fits((checked.base,) if checked else CATALOGUE.values(), machine) if gpu else (),
        weights=_inspected(weights) if weights else None,
    )


def _inspected(name: str) -> "Inspection":
    """What lies in the files of a base, named as in a document or by one."""
    from dlm.plan.resolve import resolve
    from dlm.verbs.prepare import opened

    base = opened(Path(name))[1] if name.endswith(".dlm") else resolve(name, Path())

    from dlm.model.tensors import inspect

    return inspect(base)
