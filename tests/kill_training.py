"""Trainings that are killed and resumed, to compare with one that is not interrupted.

    python -m tests.kill_training FOLDER KILLS    a line of JSON for each training, the
                                                  uninterrupted one first

Each command runs in a fork of this process, which has all libraries loaded and never trained, so
that a training starts quickly. It dies by SIGKILL: at its n-th call on the store (counted by
an audit hook), which is the same moment on every machine, or after some seconds.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dlm.batching.samplers
import dlm.features.extractor
import dlm.inference.evaluate  # noqa: F401
from dlm.cli.main import main
from dlm.store.damage import find_damaged_records
from dlm.store.versions import open_store
from tests.tiny_models import DLM_ID, write_document, write_tiny_model

NUM_STEPS = 5
MAX_ATTEMPTS = 20
STORE_CALLS = {
    *("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
}
KillPoint = int | float | None  # the n-th call on the store, seconds, never


@dataclass(frozen=True)
class TrainingPaths:
    """The document of a training, and the folder of its store."""

    document: Path
    home: Path

    @property
    def log(self) -> Path:
        """The output of all attempts."""
        return self.home.with_suffix(".log")


def train_in_fork(
    paths: TrainingPaths, *, resume: bool, kill_point: KillPoint, calls_path: Path | None = None
) -> int:
    """Train in a fork, killed at `kill_point`; return the exit code, or minus the signal.

    A training that is not killed writes its calls on the store to `calls_path`.
    """
    child = os.fork()
    if child == 0:
        _train_and_exit(paths, resume=resume, kill_point=kill_point, calls_path=calls_path)
    if isinstance(kill_point, float):
        time.sleep(kill_point)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _train_and_exit(
    paths: TrainingPaths, *, resume: bool, kill_point: KillPoint, calls_path: Path | None
) -> None:
    """The fork: `dlm train`, its output in a log. Never returns."""
    exit_code = 70
    calls: list[str] = []

    def count_call(name: str, args: tuple) -> None:
        if name in STORE_CALLS and any(str(paths.home) in str(arg) for arg in args[:2]):
            calls.append(f"{name} {args[1] if name == 'os.rename' else args[0]}")
            if len(calls) == kill_point:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["DLM_HOME"] = str(paths.home)
        options = ["--steps", str(NUM_STEPS), "--save-every", "1", *["--resume"] * resume]
        sys.argv = ["dlm", "train", str(paths.document), *options]
        sys.addaudithook(count_call)
        main()
    except SystemExit as end:
        exit_code = int(end.code or 0)
        if calls_path:
            calls_path.write_text(json.dumps(calls))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_code)


def hash_versions(paths: TrainingPaths) -> list[str]:
    """Open the store and verify it; return the sha256 of each version's adapter."""
    store = open_store(DLM_ID, paths.home)
    changed = store.verify_files()
    assert not changed and not find_damaged_records(store), changed
    return [version.hashes["adapter_model.safetensors"] for version in store.list_versions()]


def train_until_done(paths: TrainingPaths, kill_points: list[KillPoint]) -> dict:
    """Train, killed at each of `kill_points` in turn and resumed, until it ends."""
    codes: list[int] = []
    while (not codes or codes[-1] != 0) and len(codes) < MAX_ATTEMPTS:
        kill_point = kill_points[len(codes)] if len(codes) < len(kill_points) else None
        codes.append(train_in_fork(paths, resume=bool(codes), kill_point=kill_point))
        versions = hash_versions(paths)
        assert len(versions) <= 1, versions
    return {
        "kill_points": kill_points,
        "kills": codes.count(-signal.SIGKILL),
        "codes": codes,
        "versions": hash_versions(paths),
        "log": paths.log.read_text(),
    }


def iter_kill_points(calls: list[str], seconds: float) -> Iterator[list[KillPoint]]:
    """Yield when to kill: around the commit, at random calls, twice in a training, by the clock."""
    rng = random.Random(0)
    commit = next(n for n, call in enumerate(calls, 1) if call.endswith("/versions/v0001"))
    checkpoint = next(n for n, call in enumerate(calls, 1) if call.endswith("/state"))
    yield from ([commit], [commit + 1], [checkpoint], [rng.randrange(2, checkpoint)])
    while True:
        yield [rng.uniform(0.1, 0.6) * seconds]
        yield [rng.randrange(2, len(calls)), rng.randrange(2, checkpoint)]
        yield [rng.randrange(2, len(calls))]


def print_trainings(folder: Path, min_kills: int) -> None:
    """Print a line for the uninterrupted training, then one for each that is killed."""
    document = write_document(
        folder,
        base_model=write_tiny_model(folder / "tiny"),
        training="  held_out: 2\n  micro_batch_size: 2\n",
    )
    paths, calls_path = TrainingPaths(document, folder / "uninterrupted"), folder / "calls.json"
    start_time = time.monotonic()
    code = train_in_fork(paths, resume=False, kill_point=None, calls_path=calls_path)
    seconds = time.monotonic() - start_time
    result = {"codes": [code], "versions": hash_versions(paths), "log": paths.log.read_text()}
    print(json.dumps(result), flush=True)
    calls = json.loads(calls_path.read_text())
    num_kills = 0
    for number, kill_points in enumerate(iter_kill_points(calls, seconds)):
        if num_kills >= min_kills:
            break
        result = train_until_done(TrainingPaths(document, folder / f"{number}"), kill_points)
        num_kills += result["kills"]
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    print_trainings(Path(sys.argv[1]), int(sys.argv[2]))
