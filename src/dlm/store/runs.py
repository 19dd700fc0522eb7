"""The store's ear: a run's events pass through, and what must last is kept on the way.

    Saved              the state of the run, which lets it go on after a kill
    Saved(final)       remembered, and made a version only at Finished, with its scores
    Finished           version committed  ->  log.jsonl  ->  run.json "finished"  ->  state removed
    every event        a line of log.jsonl

A run that was killed after its commit has its version already: it is reported, not made again.
"""

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dlm.errors import StoreError
from dlm.io import wrap_write_errors, write_atomic
from dlm.legacy import upgrade_event
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
from dlm.store.versions import (
    Store,
    WriteFn,
    get_utc_timestamp,
    iter_checkpoint_repairs,
    read_checkpoint_step,
    save_checkpoint,
)
from dlm.training.events import CheckpointSaved, TrainingEvent, TrainingFinished


@dataclass(frozen=True)
class Run:
    """One training. `step` is that of its state; `version` is what it left."""

    id: str
    path: Path
    started_at: str
    status: RunStatus
    record: RunRecord
    step: int | None = None
    version: Version | None = None

    @property
    def checkpoint_dir(self) -> Path:
        """The folder that lets it go on."""
        return self.path / "state"

    @property
    def log_path(self) -> Path:
        """What it said: one JSON object a line."""
        return self.path / "log.jsonl"


def persist_events(
    events: Iterator[TrainingEvent], store: Store, *, record: RunRecord, run: Run | None = None
) -> Iterator[TrainingEvent]:
    """Pass on every event, and keep what must last. `run` is the one that goes on, or a new one.

    When `run` has its version already, nothing is asked of `events`.
    """
    with store.lock():
        run = run or start_run(store, record)
        if run.version is not None:
            yield _report_committed_run(run, run.version)
        else:
            yield from _handle_events(events, store, record=record, run=run)


def start_run(store: Store, record: RunRecord) -> Run:
    """Begin a new run in the store."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    run = Run(name, store.layout.run_dir(name), get_utc_timestamp(), "unfinished", record)
    _write_run_info(run)
    return run


def list_runs(store: Store) -> tuple[Run, ...]:
    """Every run, oldest first."""
    left = {version.run: version for version in store.list_versions()}
    found = []
    for path in store.layout.runs_dir.glob("*"):
        told = load_record_json(RUN_TYPE_ADAPTER, store.layout.require_inside(path) / "run.json")
        if told is not None:
            about = (path.name, path, told.started_at, told.status, told.record)
            found.append(Run(*about, step=read_checkpoint_step(path), version=left.get(path.name)))
    return tuple(sorted(found, key=lambda run: (run.started_at, run.id)))


def find_resumable_run(store: Store) -> Run | None:
    """The newest unfinished run that can go on, or whose version only has to be reported."""
    ready = [
        run
        for run in list_runs(store)
        if run.status == "unfinished" and (run.step is not None or run.version)
    ]
    return ready[-1] if ready else None


def abandon_run(store: Store, run: Run) -> None:
    """Give a run up: its state goes, its log stays."""
    with store.lock():
        _close_run(run, "abandoned")


def read_run_log(run: Run) -> Iterator[dict[str, object]]:
    """What the run said, in order; a line that a kill cut short is left out."""
    if run.log_path.is_file():
        for line in run.log_path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield upgrade_event(json.loads(line))


def _handle_events(
    events: Iterator[TrainingEvent], store: Store, *, record: RunRecord, run: Run
) -> Iterator[TrainingEvent]:
    final: WriteFn | None = None
    _truncate_partial_line(run.log_path)
    for event in events:
        if isinstance(event, CheckpointSaved) and event.is_final:
            final = event.write_fn
        elif isinstance(event, CheckpointSaved):
            save_checkpoint(run.path, event.write_fn, step=event.step)
        elif isinstance(event, TrainingFinished):
            _commit_version(store, final, event=event, record=record, run=run)
        _append_event(run.log_path, event)
        if isinstance(event, TrainingFinished) and final:
            _close_run(run, "finished")
        yield event


def _commit_version(
    store: Store, write_fn: WriteFn | None, *, event: TrainingFinished, record: RunRecord, run: Run
) -> None:
    if write_fn is not None:
        came_to = {"steps": event.step, "seconds": event.seconds, "scores": event.scores}
        store.commit_version(write_fn, VersionRecord(**{**vars(record), **came_to, "run": run.id}))
    elif event.reason == "done":
        raise StoreError(
            "the run ended without anything to keep", where=str(run.path), hint="train again"
        )


def _report_committed_run(run: Run, version: Version) -> TrainingFinished:
    """Say what a run came to that was killed after its commit, and close it."""
    finished = TrainingFinished(version.steps, version.steps, version.seconds, version.scores)
    _truncate_partial_line(run.log_path)
    if not any(line["event"] == "TrainingFinished" for line in read_run_log(run)):
        _append_event(run.log_path, finished)
    _close_run(run, "finished")
    return finished


def _truncate_partial_line(log_path: Path) -> None:
    """Remove the line that a kill cut short."""
    if log_path.is_file():
        told = log_path.read_bytes()
        with wrap_write_errors(log_path):
            os.truncate(log_path, told.rfind(b"\n") + 1)


def _append_event(log_path: Path, event: TrainingEvent) -> None:
    line = {"at": get_utc_timestamp(), "event": type(event).__name__, **vars(event)}
    with wrap_write_errors(log_path), log_path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(to_jsonable(line), ensure_ascii=False) + "\n")
        if isinstance(event, CheckpointSaved | TrainingFinished):
            file.flush()
            os.fsync(file.fileno())


def _close_run(run: Run, status: RunStatus) -> None:
    _write_run_info(replace(run, status=status))
    for mend in iter_checkpoint_repairs(run.path, unfinished=False):
        mend()


def _write_run_info(run: Run) -> None:
    told = RunInfo(started_at=run.started_at, status=run.status, record=run.record)
    write_atomic(run.path / "run.json", dump_record_json(told))
