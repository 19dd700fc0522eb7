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

from dlm.io import find_stale_cache_files, get_disk_usage, remove_path
from dlm.store.runs import abandon_run, find_resumable_run, list_runs
from dlm.store.versions import Store

GarbageKind = Literal["recordings", "features", "answers", "states", "unfinished"]
GARBAGE_KINDS: tuple[GarbageKind, ...] = (
    "recordings",
    "features",
    "answers",
    "states",
    "unfinished",
)


@dataclass(frozen=True)
class GarbageItem:
    """Something that nobody needs. `name` is how the document called it, where that is known."""

    kind: GarbageKind
    path: Path
    size_bytes: int
    name: str | None = None


def find_garbage(store: Store, referenced: Collection[str]) -> tuple[GarbageItem, ...]:
    """What can go; `named` are the sha256 of all recordings that the document names."""
    found = [
        *_find_recordings(store, referenced),
        *_find_features(store, referenced),
        *_find_stale_checkpoints(store),
    ]
    found += [
        _make_garbage_item("unfinished", path)
        for path in sorted(find_stale_cache_files(store.layout.features_dir))
    ]
    if found:
        found += [
            _make_garbage_item("answers", path)
            for path in _list_cache_files(store)
            if "-" not in path.name
        ]
    return tuple(sorted(found, key=lambda each: GARBAGE_KINDS.index(each.kind)))


def remove_garbage(store: Store, garbage: Collection[GarbageItem]) -> None:
    """Let it go; nobody else may write meanwhile."""
    with store.lock():
        for run in list_runs(store):
            if any(each.kind == "states" and each.path == run.checkpoint_dir for each in garbage):
                abandon_run(store, run)
        for each in garbage:
            remove_path(store.layout.require_inside(each.path))


def _find_recordings(store: Store, referenced: Collection[str]) -> Iterator[GarbageItem]:
    learned = {
        each.sha256 for version in store.list_versions() for each in version.train_recordings
    }
    names = {
        each.sha256: each.path for run in list_runs(store) for each in run.record.train_recordings
    }
    for path in sorted(store.layout.blobs_dir.glob("*")):
        if path.name not in referenced and path.name not in learned:
            yield _make_garbage_item("recordings", path, names.get(path.name))


def _find_features(store: Store, referenced: Collection[str]) -> Iterator[GarbageItem]:
    names = {
        each.sha256: each.path for run in list_runs(store) for each in run.record.train_recordings
    }
    for path in _list_cache_files(store):
        blob, dash, _ = path.name.partition("-")
        if dash and blob not in referenced:
            yield _make_garbage_item("features", path, names.get(blob))


def _list_cache_files(store: Store) -> list[Path]:
    return sorted(store.layout.features_dir.glob("*.safetensors"))


def _find_stale_checkpoints(store: Store) -> Iterator[GarbageItem]:
    """Of several runs that were cut short, only the newest can go on."""
    newest = find_resumable_run(store)
    for run in list_runs(store):
        if (
            run.status == "unfinished"
            and run.checkpoint_dir.exists()
            and newest
            and run.id != newest.id
        ):
            yield _make_garbage_item("states", run.checkpoint_dir)


def _make_garbage_item(kind: GarbageKind, path: Path, name: str | None = None) -> GarbageItem:
    return GarbageItem(kind, path, get_disk_usage(path), name)
