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
from dlm.files import write_atomic, writing
from dlm.store.facts import (
    RUN,
    RunFacts,
    RunRecord,
    Status,
    Version,
    VersionFacts,
    from_json,
    plain,
    to_json,
)
from dlm.store.folders import Fill, keep_state, state_repairs, state_step
from dlm.store.versions import Store, now
from dlm.training.events import Event, Finished, Saved


@dataclass(frozen=True)
class Run:
    """One training. `step` is that of its state; `version` is what it left."""

    id: str
    path: Path
    started_at: str
    status: Status
    facts: RunFacts
    step: int | None = None
    version: Version | None = None

    @property
    def state(self) -> Path:
        """The folder that lets it go on."""
        return self.path / "state"

    @property
    def log(self) -> Path:
        """What it said: one JSON object a line."""
        return self.path / "log.jsonl"


def record(
    events: Iterator[Event], store: Store, *, facts: RunFacts, run: Run | None = None
) -> Iterator[Event]:
    """Pass on every event, and keep what must last. `run` is the one that goes on, or a new one.

    When `run` has its version already, nothing is asked of `events`.
    """
    with store.lock():
        run = run or start_run(store, facts)
        if run.version is not None:
            yield _report(run, run.version)
        else:
            yield from _listen(events, store, facts=facts, run=run)


def start_run(store: Store, facts: RunFacts) -> Run:
    """Begin a new run in the store."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    run = Run(name, store.layout.run(name), now(), "unfinished", facts)
    _write(run)
    return run


def runs(store: Store) -> tuple[Run, ...]:
    """Every run, oldest first."""
    left = {version.run: version for version in store.versions()}
    found = []
    for path in store.layout.runs.glob("*"):
        told = from_json(RUN, store.layout.inside(path) / "run.json")
        if told is not None:
            about = (path.name, path, told.started_at, told.status, told.facts)
            found.append(Run(*about, step=state_step(path), version=left.get(path.name)))
    return tuple(sorted(found, key=lambda run: (run.started_at, run.id)))


def find_resumable(store: Store) -> Run | None:
    """The newest unfinished run that can go on, or whose version only has to be reported."""
    ready = [
        run
        for run in runs(store)
        if run.status == "unfinished" and (run.step is not None or run.version)
    ]
    return ready[-1] if ready else None


def abandon(store: Store, run: Run) -> None:
    """Give a run up: its state goes, its log stays."""
    with store.lock():
        _close(run, "abandoned")


def read_log(run: Run) -> Iterator[dict[str, object]]:
    """What the run said, in order; a line that a kill cut short is left out."""
    if run.log.is_file():
        for line in run.log.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


def _listen(events: Iterator[Event], store: Store, *, facts: RunFacts, run: Run) -> Iterator[Event]:
    final: Fill | None = None
    _mend_log(run.log)
    for event in events:
        if isinstance(event, Saved) and event.final:
            final = event.write
        elif isinstance(event, Saved):
            keep_state(run.path, event.write, step=event.step)
        elif isinstance(event, Finished):
            _commit(store, final, event=event, facts=facts, run=run)
        _append(run.log, event)
        if isinstance(event, Finished) and final:
            _close(run, "finished")
        yield event


def _commit(
    store: Store, final: Fill | None, *, event: Finished, facts: RunFacts, run: Run
) -> None:
    if final is not None:
        came_to = {"steps": event.step, "seconds": event.seconds, "scores": event.scores}
        store.commit(final, VersionFacts(**{**vars(facts), **came_to, "run": run.id}))
    elif event.reason == "done":
        raise StoreError(
            "the run ended without anything to keep", where=str(run.path), mend="train again"
        )


def _report(run: Run, version: Version) -> Finished:
    """Say what a run came to that was killed after its commit, and close it."""
    finished = Finished(version.steps, version.steps, version.seconds, version.scores)
    _mend_log(run.log)
    if not any(line["event"] == "Finished" for line in read_log(run)):
        _append(run.log, finished)
    _close(run, "finished")
    return finished


def _mend_log(log: Path) -> None:
    """Remove the line that a kill cut short."""
    if log.is_file():
        told = log.read_bytes()
        with writing(log):
            os.truncate(log, told.rfind(b"\n") + 1)


def _append(log: Path, event: Event) -> None:
    line = {"at": now(), "event": type(event).__name__, **vars(event)}
    with writing(log), log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain(line), ensure_ascii=False) + "\n")
        if isinstance(event, Saved | Finished):
            file.flush()
            os.fsync(file.fileno())


def _close(run: Run, status: Status) -> None:
    _write(replace(run, status=status))
    for mend in state_repairs(run.path, unfinished=False):
        mend()


def _write(run: Run) -> None:
    told = RunRecord(started_at=run.started_at, status=run.status, facts=run.facts)
    write_atomic(run.path / "run.json", to_json(told))
