"""Records of a store that cannot be read: found, told by name, and mended where that is possible.

    version.json          restored from manifest.json, which has the same record
    run.json              of a run that has its version: restored from the version's record
    evaluations/*.json    removed: the clips are scored again when the scores are needed
    anything else         is only told: nothing that might still be of use is removed

While anything is unreadable, `gc` removes nothing and `train` does not begin.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from dlm.errors import StoreError
from dlm.io import remove_path
from dlm.store.atomic_dirs import (
    CHECKPOINT_INFO_FILE,
    find_changed_checkpoint_files,
    read_checkpoint_step,
)
from dlm.store.records import (
    CLIP_SCORES_TYPE_ADAPTER,
    EXPORT_TYPE_ADAPTER,
    RUN_TYPE_ADAPTER,
    RunRecord,
    load_record_json,
)
from dlm.store.runs import Run, list_runs, write_run_info
from dlm.store.versions import REPAIR_HINT, VERSION_FILE, Store


@dataclass(frozen=True)
class DamagedRecord:
    """A record that cannot be read.

    Attributes:
        path: relative to the store.
        remedy: what to do where it cannot be mended.
        mend_fn: mends it and returns how; None where it could not.
    """

    path: Path
    remedy: str
    mend_fn: Callable[[], str | None] = lambda: None

    def __str__(self) -> str:
        return f"{self.path}: is gone or damaged"


def find_damaged_records(store: Store) -> tuple[DamagedRecord, ...]:
    """Find every record that cannot be read. Raises StoreError (`store.outside`)."""
    layout = store.layout
    records = [
        DamagedRecord(
            (layout.versions_dir / name / VERSION_FILE).relative_to(layout.root),
            "put it back from a backup, or move the folder of this version elsewhere",
            partial(_restore_version, store, name),
        )
        for name in store.list_damaged_versions()
    ]
    records += _iter_damaged_runs(store)
    for path in sorted(layout.evaluations_dir.glob("*.json")):
        if load_record_json(CLIP_SCORES_TYPE_ADAPTER, layout.require_inside(path)) is None:
            mend_fn = partial(_remove_scores, path)
            records.append(DamagedRecord(path.relative_to(layout.root), "remove it", mend_fn))
    for path in sorted(layout.exports_dir.glob("*.json")):
        if load_record_json(EXPORT_TYPE_ADAPTER, layout.require_inside(path)) is None:
            remedy = "the exported folder is not concerned: move this record elsewhere"
            records.append(DamagedRecord(path.relative_to(layout.root), remedy))
    return tuple(records)


def find_changed_states(store: Store) -> tuple[str, ...]:
    """Hash the checkpoints of all runs again: a line for each file that was changed."""
    return tuple(
        f"runs/{run.id}/state/{name}: was changed since the checkpoint was saved"
        for run in list_runs(store)
        for name in find_changed_checkpoint_files(run.path)
    )


def require_readable(store: Store) -> None:
    """Refuse to go on while a record cannot be read. Raises StoreError (`store.damaged`)."""
    records = find_damaged_records(store)
    if records:
        others = f" (and {len(records) - 1} more)" if len(records) > 1 else ""
        raise StoreError(
            f"is gone or damaged{others}",
            where=str(store.layout.root / records[0].path),
            hint=f"{REPAIR_HINT}, and says what else can be done",
            code="store.damaged",
        )


def _iter_damaged_runs(store: Store) -> Iterator[DamagedRecord]:
    layout = store.layout
    for path in sorted(layout.runs_dir.glob("*")):
        info_path = layout.require_inside(path) / "run.json"
        # a kill may leave a folder in which nothing was written yet
        is_begun = info_path.exists() or any(path.glob("log.jsonl")) or any(path.glob("state*"))
        if is_begun and load_record_json(RUN_TYPE_ADAPTER, info_path) is None:
            remedy = "put it back from a backup, or move the folder of this run elsewhere"
            mend_fn = partial(_restore_run, store, path)
            yield DamagedRecord(info_path.relative_to(layout.root), remedy, mend_fn)
        state_dir = path / "state"
        if state_dir.is_dir() and read_checkpoint_step(path) is None:
            remedy = "put it back from a backup, or move the folder of this checkpoint elsewhere"
            yield DamagedRecord((state_dir / CHECKPOINT_INFO_FILE).relative_to(layout.root), remedy)


def _restore_version(store: Store, name: str) -> str | None:
    restored = store.restore_version_record(name)
    return f"was restored from {store.layout.manifest_path.name}" if restored else None


def _restore_run(store: Store, path: Path) -> str | None:
    version = store.find_version_by_run(path.name)
    if version is None:
        return None
    record = RunRecord(**{each.name: getattr(version, each.name) for each in fields(RunRecord)})
    write_run_info(Run(path.name, path, version.created_at, "finished", record))
    return f"was restored from {version.name}"


def _remove_scores(path: Path) -> str:
    remove_path(path)
    return "was removed: these clips are scored again when that is needed"
