"""What `base_model` names, and the facts of it.

    sparrow                  a key of the catalogue
    hf:org/name[@revision]   a released model, or a base that `dlm export` wrote, on the hub
    ms:org/name[@revision]   the same, on ModelScope
    ./folder                 the same, on this machine; the path is relative to the document
    {encoder: ..., ...}      parts, which plan/stitch.py joins

What lies on this machine tells its own sizes, so that a plan is true before anything is loaded.
"""

from dataclasses import replace
from pathlib import Path

from dlm.document.stitching import Stitching
from dlm.plan.bases import FACTS, Base, read_facts
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.derive import derive, licence_of, read_config, row_of
from dlm.plan.hub import SCHEME, file_on_hub, settle, snapshot, weights_on_hub
from dlm.plan.origin import find, is_stitched
from dlm.plan.recipes import RECIPES
from dlm.plan.scope import SCOPE
from dlm.plan.stitch import stitched
from dlm.plan.weights import fingerprint, read_weights


def resolve(name: str | Stitching, folder: Path) -> Base:
    """The facts of what `base_model` names; a folder is relative to `folder`."""
    if isinstance(name, Stitching):
        return stitched(name, folder)
    if name.startswith((SCHEME, SCOPE)):
        repository, _, revision = name.removeprefix(SCHEME).partition("@")
        return _on_hub(repository, revision or None)
    if name in RECIPES:
        return replace(stitched(RECIPES[name], folder), key=name)
    if name in CATALOGUE:
        return _as_found(CATALOGUE[name])
    place = (folder / Path(name).expanduser()).absolute()
    if (place / FACTS).is_file():
        return read_facts(place)
    return _in_folder(place) if place.is_dir() else find(name)


def _as_found(base: Base) -> Base:
    """A row of the catalogue, with the sizes of the files where they lie in the cache."""
    folder = snapshot(base.source, base.revision) if base.kind == "native" else None
    return derive(base, read_config(folder), read_weights(folder)) if folder else base


def _in_folder(place: Path) -> Base:
    config, weights = read_config(place), read_weights(place)
    base = derive(row_of(config, str(place)), config, weights)
    return replace(
        base,
        key=place.resolve().name,
        source=str(place),
        revision=fingerprint(place, weights),
        license=licence_of(place),
    )


def _on_hub(repository: str, asked: str | None) -> Base:
    folder = settle(repository, asked)
    revision, config = folder.name, read_config(folder)
    if is_stitched(config):
        facts = read_facts(file_on_hub(repository, revision, FACTS).parent)
        return replace(facts, source=repository, revision=revision)
    named = repository if repository.startswith(SCOPE) else f"{SCHEME}{repository}"
    row = row_of(config, named, repository)
    complete = snapshot(repository, revision)
    weights = read_weights(complete) if complete else weights_on_hub(repository, revision)
    return replace(
        derive(row, config, weights),
        key=repository.rsplit("/", 1)[-1],
        source=repository,
        revision=revision,
        license=licence_of(folder),
    )
