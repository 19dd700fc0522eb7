"""What `dlm gc` removes from the store: files that no version and no document needs.

    recordings    copies that no version was trained on and the document does not name
    features      cached encoder output of recordings that the document does not name
    answers       cached answers of a teacher, which do not name a recording: all of them, once
                  anything else is removed
    states        checkpoints of unfinished runs before the newest one
    unfinished    files that a kill left

Versions, and the recordings they were trained on, always stay. Features and answers are computed
again when they are needed.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dlm.io import find_stale_cache_files, get_disk_usage, remove_path
from dlm.store.runs import Run, abandon_run, find_resumable_run, list_runs
from dlm.store.versions import Store

GarbageKind = Literal["recordings", "features", "answers", "states", "unfinished"]
GARBAGE_KINDS: tuple[GarbageKind, ...] = get_args(GarbageKind)


@dataclass(frozen=True)
class GarbageItem:
    """Something that nobody needs.

    Attributes:
        kind: what it is.
        path: a file, or the folder of a checkpoint.
        size_bytes: on disk.
        name: of the recording as the document had it, if that is known.
    """

    kind: GarbageKind
    path: Path
    size_bytes: int
    name: str | None = None


def find_garbage(store: Store, referenced: Collection[str]) -> tuple[GarbageItem, ...]:
    """Find what can be removed.

    Args:
        store: of the document.
        referenced: sha256 of all recordings that the document names.

    Raises:
        StoreError: a link leads out of the store (`store.outside`).
    """
    runs, layout = list_runs(store), store.layout
    names = {each.sha256: each.path for run in runs for each in run.record.train_recordings}
    cache_files = sorted(layout.features_dir.glob("*.safetensors"))
    garbage = [
        *_find_recordings(store, referenced, names),
        *_find_features(cache_files, referenced, names),
        *_find_stale_checkpoints(runs, find_resumable_run(store)),
        *(
            _make_garbage_item("unfinished", path)
            for path in sorted(find_stale_cache_files(layout.features_dir))
        ),
    ]
    if garbage:
        answers = [path for path in cache_files if "-" not in path.name]
        garbage += [_make_garbage_item("answers", path) for path in answers]
    return tuple(sorted(garbage, key=lambda item: GARBAGE_KINDS.index(item.kind)))


def remove_garbage(store: Store, garbage: Collection[GarbageItem]) -> None:
    """Remove it, with the store locked.

    Raises:
        StoreError: another process writes, or a link leads out of the store (`store.outside`).
    """
    checkpoints = {item.path for item in garbage if item.kind == "states"}
    with store.lock():
        for run in list_runs(store):
            if run.checkpoint_dir in checkpoints:
                abandon_run(store, run)
        for item in garbage:
            remove_path(store.layout.require_inside(item.path))


def _find_recordings(
    store: Store, referenced: Collection[str], names: dict[str, str]
) -> Iterator[GarbageItem]:
    trained_on = {
        each.sha256 for version in store.list_versions() for each in version.train_recordings
    }
    for path in sorted(store.layout.blobs_dir.glob("*")):
        if path.name not in referenced and path.name not in trained_on:
            yield _make_garbage_item("recordings", path, names.get(path.name))


def _find_features(
    cache_files: list[Path], referenced: Collection[str], names: dict[str, str]
) -> Iterator[GarbageItem]:
    for path in cache_files:
        recording_sha256, dash, _ = path.name.partition("-")
        if dash and recording_sha256 not in referenced:
            yield _make_garbage_item("features", path, names.get(recording_sha256))


def _find_stale_checkpoints(runs: tuple[Run, ...], newest: Run | None) -> Iterator[GarbageItem]:
    """Of several unfinished runs, only the newest can be resumed."""
    for run in runs:
        is_older = run.status == "unfinished" and newest is not None and run.id != newest.id
        if is_older and run.checkpoint_dir.exists():
            yield _make_garbage_item("states", run.checkpoint_dir)


def _make_garbage_item(kind: GarbageKind, path: Path, name: str | None = None) -> GarbageItem:
    return GarbageItem(kind, path, get_disk_usage(path), name)
