"""show, versions, use_version, export, doctor: what is kept, and what there is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dlm.errors import StoreError
from dlm.verbs.say import DocumentPath, Say, VersionName

if TYPE_CHECKING:
    from dlm.clips.sources import SourceReport
    from dlm.document.document import Document
    from dlm.plan.bases import Base
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


@dataclass(frozen=True)
class Health:
    """What this machine has, and what a document's plan needs of it."""

    machine: "Machine"
    decoder: str
    resampler: str
    cache: Path  # of the hub
    cached: tuple[str, ...]  # bases that lie there
    home: Path
    plan: "tuple[Line, ...]"
    complaint: str | None  # why there is no plan


def show(path: DocumentPath) -> Shown:
    """Tell what a document holds and what was learned from it."""
    from dlm.clips.sources import gather
    from dlm.store.versions import open_store
    from dlm.verbs.prepare import opened

    document, base = opened(path)
    gathered = gather(document)
    store = open_store(document.settings.dlm_id)
    current = store.current()
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
    """Write the model as a folder that works on its own."""
    from dlm.store.versions import open_store
    from dlm.verbs.prepare import opened

    document, base = opened(path)
    store = open_store(document.settings.dlm_id)
    chosen = store.find(version) if version else store.current()
    if chosen is None:
        raise StoreError("nothing was learned yet", where=str(path), mend=f"run `dlm train {path}`")
    folder = out or store.layout.exports / f"{base.key}-{chosen.name}"
    if folder.exists() and any(folder.iterdir()):
        raise StoreError("not empty", where=str(folder), mend="name an empty folder with --out")

    from dlm.model.load import load_version
    from dlm.use.export import export as write

    model = load_version(base, chosen.path, device="cpu")
    write(model, chosen, folder)
    return store.record_export(folder, kind="stitched", version=chosen.name)


def doctor(
    path: Annotated[Path | None, Say("To see what its plan needs of it.", value="DOCUMENT")] = None,
) -> Health:
    """Look at this machine, and at what a document needs of it."""
    import soundfile
    from huggingface_hub.constants import HF_HUB_CACHE

    from dlm.plan.catalogue import CATALOGUE
    from dlm.plan.hardware import survey
    from dlm.store.layout import home

    cache = Path(HF_HUB_CACHE)
    names = {key: f"models--{base.source.replace('/', '--')}" for key, base in CATALOGUE.items()}
    plan, complaint = _plan_of(path)
    return Health(
        machine=survey(home()),
        decoder=f"libsndfile {soundfile.__libsndfile_version__}",
        resampler=_resampler(),
        cache=cache,
        cached=tuple(key for key, name in names.items() if (cache / name).is_dir()),
        home=home(),
        plan=plan,
        complaint=complaint,
    )


def _plan_of(path: Path | None) -> "tuple[tuple[Line, ...], str | None]":
    """The plan of a document, or why there is none."""
    if path is None:
        return (), None
    from dlm.verbs.prepare import prepare

    checked = prepare(path)
    if checked.plan is None or checked.fatal:
        return (), str(checked.fatal[0])
    return checked.plan.lines, None


def _resampler() -> str:
    """The resampler that would be used."""
    from importlib.metadata import PackageNotFoundError, version

    for library in ("soxr", "scipy"):
        try:
            return f"{library} {version(library)}"
        except PackageNotFoundError:
            continue
    return "none: pip install soxr"
