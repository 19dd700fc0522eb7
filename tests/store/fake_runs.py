"""Fake runs that learn by adding, and a program that is killed while it records them.

python fake_runs.py HOME train  [KILL_AT]   start or resume a run; SIGKILL at the n-th disk call
python fake_runs.py HOME loop               train for ever, saying "ready" first
python fake_runs.py HOME hold               hold the lock, saying "ready" first
python fake_runs.py HOME crash              train in forks, killed at each disk call in turn
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
STEPS = 6
FEW = 4  # two states, so that one replaces the other
SHA = "0" * 64


def facts(**changes: object) -> RunRecord:
    told = {
        "document_sha256": SHA,
        "data_sha256": SHA,
        "plan": {"steps": STEPS, "rates": (1e-3, 1e-4)},
        "seed": 42,
        "base": "sparrow",
        "base_revision": "1",
        "train_recordings": (RecordingHash("clips/a.wav", SHA),),
    }
    return RunRecord(**{**told, **changes})


def version_facts(**changes: object) -> VersionRecord:
    told = {"steps": STEPS, "seconds": 1.5, "scores": {"wer": 0.25}}
    return VersionRecord(**{**vars(facts()), **told, **changes})


def weights(value: float, folder: Path) -> None:
    save_file({"lora.A": np.full((64, 64), value, np.float32)}, folder / "adapter.safetensors")
    (folder / "config").mkdir()
    (folder / "config" / "adapter.json").write_text('{"rank": 8}')


def fit(state: Path | None = None, *, steps: int = STEPS) -> Iterator[TrainingEvent]:
    """Events of a run whose weights are the sum of its steps, so that lost or doubled ones show."""
    step, total = 0, 0.0
    if state:
        kept = load_file(state / "state.safetensors")
        step, total = int(kept["step"][0]), float(kept["total"][0])
    yield TrainingStarted(step, steps, 4096, 8192)
    while step < steps:
        step, total = step + 1, total + step
        yield StepCompleted(step, 1 / step, {"lora": 1e-3}, 0.5, 2, 10, 3.0, 0.01)
        if step % 2 == 0:
            yield CheckpointSaved(step, False, partial(_save_state, step, total))
    yield CheckpointSaved(step, True, partial(weights, total))
    yield Evaluated(step, {"loss": 0.5, "gap": 1.0}, 4)
    yield TrainingFinished(step, steps, 1.5, {"wer": 0.25})


def train(store: Store, *, steps: int = STEPS) -> list[TrainingEvent]:
    """What the verb does: go on with the run that was cut short, or begin one."""
    with store.lock():
        run = find_resumable_run(store)
        state = run.checkpoint_dir if run and run.step is not None else None
        return list(persist_events(fit(state, steps=steps), store, record=facts(), run=run))


def kill_at(number: int) -> Callable[[], int]:
    """SIGKILL this process just before its `number`-th call that changes what the disk holds."""
    made = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*given: object, **named: object) -> object:
            nonlocal made
            made += 1
            if made == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return counting

    os.fsync = counted(lambda descriptor: None)  # a kill is no power cut
    for name in ("rename", "replace", "mkdir", "unlink", "rmdir", "truncate"):
        setattr(os, name, counted(vars(os)[name]))
    return lambda: made


def crash(home: Path) -> None:
    """Two trainings, killed in a fork before each disk call in turn: what is there is told."""
    collect_environment()  # looked up once, not in every fork
    number, alive = 0, True
    while alive:
        number += 1
        root = home / str(number)
        child = os.fork()
        if child == 0:
            kill_at(number)
            for _ in range(2):
                train(open_store(DLM_ID, root), steps=FEW)
            os._exit(0)
        alive = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        print(number, flush=True)


def _save_state(step: int, total: float, folder: Path) -> None:
    kept = {"step": np.array([step]), "total": np.array([total])}
    save_file(kept, folder / "state.safetensors")


def _main(home: str, what: str, *rest: str) -> None:
    if what == "crash":
        return crash(Path(home))
    store = open_store(DLM_ID, Path(home))
    if what == "hold":
        with store.lock():
            print("ready", flush=True)
            time.sleep(60)
    print("ready", flush=True)
    train(store)
    while what == "loop":
        train(store)
    return None


if __name__ == "__main__":
    _main(*sys.argv[1:])
