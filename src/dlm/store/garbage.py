"""What the store keeps that nobody needs any more: found and told, and removed where that is asked.

    recordings    no version learned from them, and no clip of the document names them
    features      of recordings that the document does not name
    answers       of a teacher, which do not say to what: all of them, once anything else goes
    states        of runs that were cut short before a later one
    unfinished    files that a kill left behind

A version and what it learned from always stay. Features and answers are had again when needed.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dlm.files import discard, tree_bytes, unfinished
from dlm.store.record import abandon, find_resumable, runs
from dlm.store.versions import Store

Kind = Literal["recordings", "features", "answers", "states", "unfinished"]
KINDS: tuple[Kind, ...] = ("recordings", "features", "answers", "states", "unfinished")


@dataclass(frozen=True)
class Unneeded:
    """Something that nobody needs. `name` is how the document called it, where that is known."""

    kind: Kind
    path: Path
    size_bytes: int
    name: str | None = None


def find_unneeded(store: Store, named: Collection[str]) -> tuple[Unneeded, ...]:
    """What can go; `named` are the sha256 of all recordings that the document names."""
    found = [*_recordings(store, named), *_features(store, named), *_states(store)]
    found += [_of("unfinished", path) for path in sorted(unfinished(store.layout.features))]
    if found:
        found += [_of("answers", path) for path in _kept(store) if "-" not in path.name]
    return tuple(sorted(found, key=lambda each: KINDS.index(each.kind)))


def remove(store: Store, unneeded: Collection[Unneeded]) -> None:
    """Let it go; nobody else may write meanwhile."""
    with store.lock():
        for run in runs(store):
            if any(each.kind == "states" and each.path == run.state for each in unneeded):
                abandon(store, run)
        for each in unneeded:
            discard(store.layout.inside(each.path))


def _recordings(store: Store, named: Collection[str]) -> Iterator[Unneeded]:
    learned = {each.sha256 for version in store.versions() for each in version.learned_from}
    names = {each.sha256: each.path for run in runs(store) for each in run.facts.learned_from}
    for path in sorted(store.layout.blobs.glob("*")):
        if path.name not in named and path.name not in learned:
            yield _of("recordings", path, names.get(path.name))


def _features(store: Store, named: Collection[str]) -> Iterator[Unneeded]:
    names = {each.sha256: each.path for run in runs(store) for each in run.facts.learned_from}
    for path in _kept(store):
        blob, dash, _ = path.name.partition("-")
        if dash and blob not in named:
            yield _of("features", path, names.get(blob))


def _kept(store: Store) -> list[Path]:
    return sorted(store.layout.features.glob("*.safetensors"))


def _states(store: Store) -> Iterator[Unneeded]:
    """Of several runs that were cut short, only the newest can go on."""
    newest = find_resumable(store)
    for run in runs(store):
        if run.status == "unfinished" and run.state.exists() and newest and run.id != newest.id:
            yield _of("states", run.state)


def _of(kind: Kind, path: Path, name: str | None = None) -> Unneeded:
    return Unneeded(kind, path, tree_bytes(path), name)
