"""Fake runs whose weights are the sum of their steps, and a program that is killed in them.

python fake_runs.py HOME train  start or resume a run, printing "ready" first
python fake_runs.py HOME loop   the same, again and again
python fake_runs.py HOME hold   hold the lock, printing "ready" first
python fake_runs.py HOME crash  train in forks, killed before each call to the disk in turn
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from dlm.store.records import RecordingHash, RunRecord, VersionRecord, collect_environment
from dlm.store.runs import find_resumable_run, persist_events
from dlm.store.versions import Store, open_store
from dlm.training.events import (
    CheckpointSaved,
    Evaluated,
    StepCompleted,
    TrainingEvent,
    TrainingFinished,
    TrainingStarted,
)

DLM_ID = "01HZ4X7TGZM3J1A2B3C4D5E6F7"
NUM_STEPS = 6
FEW_STEPS = 4  # two checkpoints, so that one replaces the other
SHA256 = "0" * 64


def make_run_record(**changes: object) -> RunRecord:
    fields = {
        "document_sha256": SHA256,
        "data_sha256": SHA256,
        "plan": {"steps": NUM_STEPS, "rates": (1e-3, 1e-4)},
        "seed": 42,
        "base_model": "sparrow",
        "base_model_revision": "1",
        "train_recordings": (RecordingHash("clips/a.wav", SHA256),),
    }
    return RunRecord(**{**fields, **changes})


def make_version_record(**changes: object) -> VersionRecord:
    results = {"steps": NUM_STEPS, "seconds": 1.5, "scores": {"wer": 0.25}}
    return VersionRecord(**{**vars(make_run_record()), **results, **changes})


def write_weights(value: float, folder: Path) -> None:
    save_file({"lora.A": np.full((64, 64), value, np.float32)}, folder / "adapter.safetensors")
    (folder / "config").mkdir()
    (folder / "config" / "adapter.json").write_text('{"rank": 8}')


def iter_events(
    checkpoint_dir: Path | None = None, *, num_steps: int = NUM_STEPS
) -> Iterator[TrainingEvent]:
    """Events of a run whose weights are the sum of its steps: lost or doubled steps show."""
    step, total = 0, 0.0
    if checkpoint_dir:
        state = load_file(checkpoint_dir / "state.safetensors")
        step, total = int(state["step"][0]), float(state["total"][0])
    yield TrainingStarted(step, num_steps, 4096, 8192)
    while step < num_steps:
        step, total = step + 1, total + step
        yield StepCompleted(step, 1 / step, {"lora": 1e-3}, 0.5, 2, 10, 3.0, 0.01)
        if step % 2 == 0:
            yield CheckpointSaved(step, False, partial(_write_state, step, total))
    yield CheckpointSaved(step, True, partial(write_weights, total))
    yield Evaluated(step, {"loss": 0.5, "gap": 1.0}, 4)
    yield TrainingFinished(step, num_steps, 1.5, {"wer": 0.25})


def train(store: Store, *, num_steps: int = NUM_STEPS) -> list[TrainingEvent]:
    """What the command does: resume the unfinished run, or begin one."""
    with store.lock():
        run = find_resumable_run(store)
        checkpoint_dir = run.checkpoint_dir if run and run.step is not None else None
        events = iter_events(checkpoint_dir, num_steps=num_steps)
        return list(persist_events(events, store, record=make_run_record(), run=run))


def kill_before_call(number: int) -> None:
    """SIGKILL this process just before its n-th call that changes what the disk holds."""
    num_calls = 0

    def count_calls(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            nonlocal num_calls
            num_calls += 1
            if num_calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    os.fsync = count_calls(lambda descriptor: None)  # a kill is no power cut
    for name in ("rename", "replace", "mkdir", "unlink", "rmdir", "truncate"):
        setattr(os, name, count_calls(vars(os)[name]))


def crash_at_every_call(home: Path) -> None:
    """Two trainings, killed in a fork before each disk call in turn; print each call's number."""
    collect_environment()  # looked up once, not in every fork
    number, was_killed = 0, True
    while was_killed:
        number += 1
        root = home / str(number)
        child = os.fork()
        if child == 0:
            kill_before_call(number)
            for _ in range(2):
                train(open_store(DLM_ID, root), num_steps=FEW_STEPS)
            os._exit(0)
        was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        print(number, flush=True)


def _write_state(step: int, total: float, folder: Path) -> None:
    state = {"step": np.array([step]), "total": np.array([total])}
    save_file(state, folder / "state.safetensors")


def _main(home: str, mode: str) -> None:
    if mode == "crash":
        return crash_at_every_call(Path(home))
    store = open_store(DLM_ID, Path(home))
    if mode == "hold":
        with store.lock():
            print("ready", flush=True)
            time.sleep(60)
    print("ready", flush=True)
    train(store)
    while mode == "loop":
        train(store)
    return None


if __name__ == "__main__":
    _main(*sys.argv[1:])
