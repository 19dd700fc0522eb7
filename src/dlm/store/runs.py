"""Runs in the store: events of a training pass through, and checkpoints and a log are written.

    CheckpointSaved              checkpoint of the run, from which it resumes after a kill
    CheckpointSaved(is_final)    remembered, and committed only at TrainingFinished, with its scores
    TrainingFinished             version committed -> log.jsonl -> run.json "finished"
                                 -> checkpoint removed
    every event                  a line of log.jsonl

A run that was killed after its commit has its version already: it is reported, not made again.
"""

import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dlm.errors import StoreError
from dlm.io import PRIVATE_FILE_MODE, wrap_write_errors, write_atomic
from dlm.legacy import upgrade_event
from dlm.store.atomic_dirs import (
    WriteFn,
    find_changed_checkpoint_files,
    iter_checkpoint_repairs,
    read_checkpoint_step,
    save_checkpoint,
)
from dlm.store.records import (
    RUN_TYPE_ADAPTER,
    RunInfo,
    RunRecord,
    RunStatus,
    Version,
    VersionRecord,
    dump_record_json,
    load_record_json,
    to_jsonable,
)
from dlm.store.versions import Store, get_utc_timestamp
from dlm.training.events import CheckpointSaved, TrainingEvent, TrainingFinished

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        id: time of its start and a random number.
        path: its folder.
        started_at: time of its start, UTC.
        status: whether it is over.
        record: what it started from.
        step: of its checkpoint; None without one.
        version: that it committed, if it did.
    """

    id: str
    path: Path
    started_at: str
    status: RunStatus
    record: RunRecord
    step: int | None = None
    version: Version | None = None

    @property
    def checkpoint_dir(self) -> Path:
        """The folder of its checkpoint."""
        return self.path / "state"

    @property
    def log_path(self) -> Path:
        """Its events: one JSON object a line."""
        return self.path / "log.jsonl"


def persist_events(
    events: Iterator[TrainingEvent], store: Store, *, record: RunRecord, run: Run | None = None
) -> Iterator[TrainingEvent]:
    """Pass on every event, and write checkpoints, log and version.

    Args:
        events: of the trainer; not consumed when `run` has its version already.
        store: where to write; it is locked meanwhile.
        record: what the run starts from.
        run: the one that is resumed; None for a new one.

    Raises:
        StoreError: the disk is full, another process writes, weights are not finite, or the run
            ended without weights (`store.nothing_written`).
    """
    with store.lock():
        run = run or start_run(store, record)
        if run.version is not None:
            yield _report_committed_run(run, run.version)
        else:
            yield from _persist_run_events(events, store, record, run)


def start_run(store: Store, record: RunRecord) -> Run:
    """Begin a new run in the store."""
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    run = Run(run_id, store.layout.run_dir(run_id), get_utc_timestamp(), "unfinished", record)
    write_run_info(run)
    return run


def list_runs(store: Store) -> tuple[Run, ...]:
    """Return all runs, oldest first. Raises StoreError (`store.outside`)."""
    versions = {version.run: version for version in store.list_versions()}
    runs = []
    for path in store.layout.runs_dir.glob("*"):
        info = load_record_json(RUN_TYPE_ADAPTER, store.layout.require_inside(path) / "run.json")
        if info is not None:
            run = Run(path.name, path, info.started_at, info.status, info.record)
            step = read_checkpoint_step(path)
            runs.append(replace(run, step=step, version=versions.get(path.name)))
    return tuple(sorted(runs, key=lambda run: (run.started_at, run.id)))


def find_resumable_run(store: Store) -> Run | None:
    """Return the newest unfinished run that has a checkpoint, or a version to report."""
    resumable = [
        run
        for run in list_runs(store)
        if run.status == "unfinished" and (run.step is not None or run.version)
    ]
    return resumable[-1] if resumable else None


def require_whole_checkpoint(run: Run) -> None:
    """Hash a checkpoint before a run goes on from it. Raises StoreError (`store.changed_state`)."""
    changed = find_changed_checkpoint_files(run.path)
    if changed:
        raise StoreError(
            "was changed or removed since the checkpoint was saved",
            where=str(run.checkpoint_dir / changed[0]),
            hint="put it back from a backup, or start over with --fresh",
            code="store.changed_state",
        )


def abandon_run(store: Store, run: Run) -> None:
    """Give up a run: its checkpoint is removed, its log stays."""
    with store.lock():
        _close_run(run, "abandoned")


def read_run_log(run: Run) -> Iterator[dict[str, object]]:
    """Yield the events of a run in order, without a line that a kill cut short.

    A damaged line is left out, and said.
    """
    if run.log_path.is_file():
        for number, line in enumerate(run.log_path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict) and "event" in event:
                yield upgrade_event(event)
            else:
                _logger.warning("%s: line %d is damaged and left out", run.log_path, number)


def _persist_run_events(
    events: Iterator[TrainingEvent], store: Store, record: RunRecord, run: Run
) -> Iterator[TrainingEvent]:
    write_final: WriteFn | None = None
    _truncate_partial_line(run.log_path)
    for event in events:
        if isinstance(event, CheckpointSaved) and event.is_final:
            write_final = event.write_fn
        elif isinstance(event, CheckpointSaved):
            save_checkpoint(run.path, event.write_fn, step=event.step)
        elif isinstance(event, TrainingFinished) and write_final:
            results = {
                "steps": event.step,
                "seconds": event.seconds,
                "scores": event.scores,
                "comparison": event.comparison,
            }
            version_record = VersionRecord(**{**vars(record), **results, "run": run.id})
            store.commit_version(write_final, version_record)
        elif isinstance(event, TrainingFinished) and event.reason == "done":
            raise StoreError(
                "the run ended without weights to save",
                where=str(run.path),
                hint="train again",
                code="store.nothing_written",
            )
        _append_event(run.log_path, event)
        if isinstance(event, TrainingFinished) and write_final:
            _close_run(run, "finished")
        yield event


def _report_committed_run(run: Run, version: Version) -> TrainingFinished:
    """Close a run that was killed after its commit, and report its results."""
    finished = TrainingFinished(
        version.steps,
        version.steps,
        version.seconds,
        version.scores,
        comparison=version.comparison,
    )
    _truncate_partial_line(run.log_path)
    if not any(line["event"] == "TrainingFinished" for line in read_run_log(run)):
        _append_event(run.log_path, finished)
    _close_run(run, "finished")
    return finished


def _truncate_partial_line(log_path: Path) -> None:
    """Remove a line that a kill cut short."""
    if log_path.is_file():
        length = log_path.read_bytes().rfind(b"\n") + 1
        with wrap_write_errors(log_path):
            os.truncate(log_path, length)


def _append_event(log_path: Path, event: TrainingEvent) -> None:
    line = {"at": get_utc_timestamp(), "event": type(event).__name__, **vars(event)}
    with wrap_write_errors(log_path), log_path.open("a", encoding="utf-8") as file:
        os.fchmod(file.fileno(), PRIVATE_FILE_MODE)
        file.write(json.dumps(to_jsonable(line), ensure_ascii=False) + "\n")
        if isinstance(event, CheckpointSaved | TrainingFinished):
            file.flush()
            os.fsync(file.fileno())


def _close_run(run: Run, status: RunStatus) -> None:
    write_run_info(replace(run, status=status))
    for repair in iter_checkpoint_repairs(run.path, unfinished=False):
        repair()


def write_run_info(run: Run) -> None:
    """Write the record of a run and its status. Raises StoreError."""
    info = RunInfo(started_at=run.started_at, status=run.status, record=run.record)
    write_atomic(run.path / "run.json", dump_record_json(info), private=True)
