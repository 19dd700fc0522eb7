"""Killed at any instant, the store opens and holds every committed version."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlm.errors import StoreError
from dlm.store.runs import find_resumable_run, list_runs, read_run_log
from dlm.store.versions import Store, open_store
from tests.store.fake_runs import DLM_ID, FEW, train, weights

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("fake_runs.py")
RANDOM_KILLS = 6
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
from pathlib import Path
from tests.store.fake_runs import DLM_ID, facts, fit, version_facts, weights
from dlm.errors import StoreError
from dlm.store.runs import persist_events
from dlm.store.versions import open_store
from dlm.training.events import CheckpointSaved, TrainingStarted
store = open_store(DLM_ID, Path(sys.argv[1]))
big = lambda folder: weights(1.0, folder)
events = [TrainingStarted(0, 2, 1, 1), CheckpointSaved(1, False, big)]
sound = Path(sys.argv[1]).parent / "sound.wav"
for attempt in (
    lambda: store.commit_version(big, version_facts()),
    lambda: list(persist_events(iter(events), store, record=facts())),
    lambda: store.add_blob(sound),
):
    try:
        attempt()
    except StoreError as error:
        print(error)
"""


def launch(home: Path, *what: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(home), *what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout and process.stdout.readline() == "ready\n"


def end(process: subprocess.Popen[str], how: int = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.communicate()


def check(store: Store) -> None:
    """Everything committed is whole, listed and of one run each; nothing half-written is left."""
    versions = store.list_versions()
    assert store.verify_versions() == ()
    assert not list(store.layout.root.rglob(".pending-*"))
    assert not list(store.layout.runs_dir.glob("*/state.*"))
    assert len({version.run for version in versions}) == len(versions)
    assert store.get_current_version() == (versions[-1] if versions else None)
    pointer = store.layout.current_path
    assert (pointer.read_text().strip() if pointer.exists() else None) == (
        versions[-1].name if versions else None
    )
    assert all(run.version for run in list_runs(store) if run.status == "finished")


def test_killed_at_random_moments(home: Path) -> None:
    chance = random.Random(7)
    for _ in range(RANDOM_KILLS):
        process = launch(home, "loop")
        ready(process)
        time.sleep(chance.uniform(0.02, 0.3))
        end(process)
        check(open_store(DLM_ID, home))
    store = open_store(DLM_ID, home)
    train(store)
    check(store)
    assert find_resumable_run(store) is None
    assert len({version.sha256 for version in store.list_versions()}) == 1, (
        "resumed to the same bytes"
    )


def test_killed_before_every_call_to_the_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill is no power cut
    process = launch(home, "crash")
    told, _ = process.communicate(timeout=60)
    kills = len(told.split()) - 1  # the last one lived
    assert process.returncode == 0 and kills > 100
    reference = open_store(DLM_ID, home / str(kills + 1)).list_versions()
    assert len(reference) == 2
    for number in range(1, kills + 1):
        store = open_store(DLM_ID, home / str(number))
        check(store)
        unfinished = [run for run in list_runs(store) if run.status == "unfinished"]
        pending = find_resumable_run(store)
        saved = any(
            line["event"] == "CheckpointSaved" for run in unfinished for line in read_run_log(run)
        )
        assert pending or not saved, "a state that was saved is there"
        committed = len(store.list_versions())
        train(store, steps=FEW)
        check(store)
        reported = pending is not None and pending.version is not None
        assert len(store.list_versions()) == committed + (0 if reported else 1)
        assert {version.sha256 for version in store.list_versions()} == {reference[0].sha256}
        assert len(unfinished) <= 1


def test_a_second_training_is_refused(home: Path) -> None:
    process = launch(home, "hold")
    ready(process)
    try:
        store = open_store(DLM_ID, home)
        with pytest.raises(StoreError) as error, store.lock():
            pass
    finally:
        end(process)
    line = str(error.value)
    assert line.startswith(f"another dlm (pid {process.pid}, since 2")
    assert line.endswith(
        f"is training this document; wait for it to end, or stop it with `kill {process.pid}`"
    )


def test_the_lock_of_the_dead_is_taken_over(home: Path) -> None:
    process = launch(home, "hold")
    ready(process)
    end(process)
    store = open_store(DLM_ID, home)
    assert f'"pid": {process.pid}' in store.layout.lock_path.read_text(), "it is left behind"
    train(store)
    assert len(store.list_versions()) == 1


def test_a_store_in_use_can_be_read(home: Path) -> None:
    train(open_store(DLM_ID, home))
    process = launch(home, "hold")
    ready(process)
    try:
        store = open_store(DLM_ID, home)
        store.layout.current_path.unlink()
        busy = store.layout.versions_dir / f".pending-{process.pid}"
        busy.mkdir()
        weights(1.0, busy)
        again = open_store(DLM_ID, home)
        assert again.get_current_version() == again.list_versions()[0]
        assert busy.exists(), "what another process writes is left to it"
    finally:
        end(process)
    check(open_store(DLM_ID, home))


def test_a_full_disk_is_one_line_and_the_store_untouched(home: Path) -> None:
    store = open_store(DLM_ID, home)
    train(store)
    (home.parent / "sound.wav").write_bytes(b"sound" * 10_000)
    before = {path for path in store.layout.root.rglob("*") if "runs" not in path.parts}
    command = [sys.executable, "-c", FULL_DISK, str(home)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = told.stdout.splitlines()
    places = (".pending-", "state.new", "blobs")
    assert len(lines) == len(places), told
    for line, place in zip(lines, places, strict=True):
        assert str(store.layout.root) in line and place in line
        assert "the file is larger than this disk or its limit allows (" in line
        assert " bytes free); free some space, or set DLM_HOME to a folder on a larger" in line
    after = {path for path in store.layout.root.rglob("*") if "runs" not in path.parts}
    assert after - before == {store.layout.blobs_dir}
    check(open_store(DLM_ID, home))
