"""Killed at any instant, the store opens with every committed version; locks; full disks."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlm.errors import StoreError
from dlm.store.damage import find_damaged_records
from dlm.store.runs import find_resumable_run, list_runs, read_run_log
from dlm.store.versions import Store, open_store
from tests.store.fake_runs import DLM_ID, FEW_STEPS, train, write_weights

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("fake_runs.py")
NUM_RANDOM_KILLS = 6
FULL_DISK_PROGRAM = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
from pathlib import Path
from tests.store.fake_runs import DLM_ID, make_run_record, make_version_record, write_weights
from dlm.errors import StoreError
from dlm.store.runs import persist_events
from dlm.store.versions import open_store
from dlm.training.events import CheckpointSaved, TrainingStarted
store = open_store(DLM_ID, Path(sys.argv[1]))
write = lambda folder: write_weights(1.0, folder)
events = [TrainingStarted(0, 2, 1, 1), CheckpointSaved(1, False, write)]
recording = Path(sys.argv[1]).parent / "recording.wav"
for attempt in (
    lambda: store.commit_version(write, make_version_record()),
    lambda: list(persist_events(iter(events), store, record=make_run_record())),
    lambda: store.add_blob(recording.open("rb")),
):
    try:
        attempt()
    except StoreError as error:
        print(error)
"""


def start_program(home: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(home), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout and process.stdout.readline() == "ready\n"


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def check_store(store: Store) -> None:
    """Everything committed is whole, listed and of one run each; nothing half-written is left."""
    versions = store.list_versions()
    assert store.verify_files() == () and find_damaged_records(store) == ()
    assert not list(store.layout.root.rglob(".pending-*"))
    assert not list(store.layout.runs_dir.glob("*/state.*"))
    assert len({version.run for version in versions}) == len(versions)
    assert store.get_current_version() == (versions[-1] if versions else None)
    pointer = store.layout.current_path
    assert (pointer.read_text().strip() if pointer.exists() else None) == (
        versions[-1].name if versions else None
    )
    assert all(run.version for run in list_runs(store) if run.status == "finished")


def test_a_store_killed_at_random_moments_opens_and_resumes(home: Path) -> None:
    rng = random.Random(7)
    for _ in range(NUM_RANDOM_KILLS):
        process = start_program(home, "loop")
        wait_until_ready(process)
        time.sleep(rng.uniform(0.02, 0.3))
        kill(process)
        check_store(open_store(DLM_ID, home))
    store = open_store(DLM_ID, home)
    train(store)
    check_store(store)
    assert find_resumable_run(store) is None
    hashes = {version.sha256 for version in store.list_versions()}
    assert len(hashes) == 1, "resumed to the same bytes"


def test_a_store_killed_before_any_call_to_the_disk_opens_and_resumes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill is no power cut
    process = start_program(home, "crash")
    output, _ = process.communicate(timeout=60)
    num_kills = len(output.split()) - 1  # the last one lived
    assert process.returncode == 0 and num_kills > 100
    reference = open_store(DLM_ID, home / str(num_kills + 1)).list_versions()
    assert len(reference) == 2
    for number in range(1, num_kills + 1):
        store = open_store(DLM_ID, home / str(number))
        check_store(store)
        unfinished = [run for run in list_runs(store) if run.status == "unfinished"]
        resumable = find_resumable_run(store)
        was_saved = any(
            line["event"] == "CheckpointSaved" for run in unfinished for line in read_run_log(run)
        )
        assert resumable or not was_saved, "a checkpoint that was saved is there"
        num_committed = len(store.list_versions())
        train(store, num_steps=FEW_STEPS)
        check_store(store)
        is_reported = resumable is not None and resumable.version is not None
        assert len(store.list_versions()) == num_committed + (0 if is_reported else 1)
        assert {version.sha256 for version in store.list_versions()} == {reference[0].sha256}
        assert len(unfinished) <= 1


def test_a_second_training_is_refused(home: Path) -> None:
    process = start_program(home, "hold")
    wait_until_ready(process)
    try:
        store = open_store(DLM_ID, home)
        with pytest.raises(StoreError) as caught, store.lock():
            pass
    finally:
        kill(process)
    line = str(caught.value)
    assert line.startswith(f"another dlm (pid {process.pid}, since 2")
    assert line.endswith(
        f"is training this document; wait for it to end, or stop it with `kill {process.pid}`"
    )


def test_the_lock_of_a_dead_process_is_taken_over(home: Path) -> None:
    process = start_program(home, "hold")
    wait_until_ready(process)
    kill(process)
    store = open_store(DLM_ID, home)
    assert f'"pid": {process.pid}' in store.layout.lock_path.read_text(), "it is left behind"
    train(store)
    assert len(store.list_versions()) == 1


def test_a_store_that_another_process_writes_can_be_read(home: Path) -> None:
    train(open_store(DLM_ID, home))
    process = start_program(home, "hold")
    wait_until_ready(process)
    try:
        store = open_store(DLM_ID, home)
        store.layout.current_path.unlink()
        pending = store.layout.versions_dir / f".pending-{process.pid}"
        pending.mkdir()
        write_weights(1.0, pending)
        reopened = open_store(DLM_ID, home)
        assert reopened.get_current_version() == reopened.list_versions()[0]
        assert pending.exists(), "what another process writes is left to it"
    finally:
        kill(process)
    check_store(open_store(DLM_ID, home))


def test_a_full_disk_is_one_line_and_the_store_is_unchanged(home: Path) -> None:
    store = open_store(DLM_ID, home)
    train(store)
    (home.parent / "recording.wav").write_bytes(b"sound" * 10_000)
    before = {path for path in store.layout.root.rglob("*") if "runs" not in path.parts}
    command = [sys.executable, "-c", FULL_DISK_PROGRAM, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    for line, path in zip(lines, (".pending-", "state.new", "blobs"), strict=True):
        assert str(store.layout.root) in line and path in line
        assert "the file is larger than this disk or its limit allows (" in line
        assert " bytes free); free some space, or set DLM_HOME to a folder on a larger" in line
    after = {path for path in store.layout.root.rglob("*") if "runs" not in path.parts}
    assert after - before == {store.layout.blobs_dir}
    check_store(open_store(DLM_ID, home))
