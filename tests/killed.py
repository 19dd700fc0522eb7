"""Trainings that are killed and go on: what they leave must be what an uninterrupted one leaves.

    python tests/killed.py FOLDER KILLS    a line of JSON for each training, first of a whole one

Each command runs in a fork of this process, which has loaded every library and never learned, so
that a training starts in no time. A training dies by SIGKILL: at its n-th call on the store (as the
audit hooks of Python tell it), which is the same moment on every machine, or after some seconds.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import dlm.batching.samplers  # noqa: E402
import dlm.features.extractor  # noqa: E402
import dlm.inference.evaluate  # noqa: E402, F401
from dlm.cli.main import main  # noqa: E402
from dlm.store.versions import open_store  # noqa: E402
from tests.tiny_models import write_document, write_tiny_model  # noqa: E402

DLM_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
STEPS = 5
MOST_GOES = 20
CALLS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
Moment = int | float | None  # the n-th call, seconds, never


@dataclass(frozen=True)
class Place:
    """Where one training happens."""

    document: Path
    home: Path

    @property
    def log(self) -> Path:
        return self.home.with_suffix(".log")


def go(place: Place, *, resume: bool, moment: Moment, calls: Path | None = None) -> int:
    """Train in a fork, killed at `moment`; the exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        run(place, resume=resume, moment=moment, calls=calls)
    if isinstance(moment, float):
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(place: Place, *, resume: bool, moment: Moment, calls: Path | None) -> None:
    """The fork: `dlm train`, its output in a log. Never returns."""
    code = 70
    try:
        log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["DLM_HOME"] = str(place.home)
        words = ["dlm", "train", str(place.document), "--steps", str(STEPS), "--save-every", "1"]
        sys.argv = words + ["--resume"] * resume
        told: list[str] = []
        sys.addaudithook(lambda name, about: called(name, about, place, moment, told))
        main()
    except SystemExit as end:
        code = int(end.code or 0)
        if calls:
            calls.write_text(json.dumps(told))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def called(name: str, about: tuple, place: Place, moment: Moment, told: list[str]) -> None:
    """Count a call on the store, and die at the one that is the moment."""
    if name not in CALLS or not any(str(place.home) in str(each) for each in about[:2]):
        return
    told.append(f"{name} {about[1] if name == 'os.rename' else about[0]}")
    if len(told) == moment:
        os.kill(os.getpid(), signal.SIGKILL)


def look(place: Place) -> list[str]:
    """Open the store: the adapter's sha256 of each version, after every byte was hashed again."""
    store = open_store(DLM_ID, place.home)
    broken = store.verify_versions()
    assert not broken, broken
    return [each.hashes["adapter_model.safetensors"] for each in store.list_versions()]


def finish(place: Place, moments: list[Moment]) -> dict:
    """Train through every kill until it ends; what came of it."""
    codes: list[int] = []
    while (not codes or codes[-1] != 0) and len(codes) < MOST_GOES:
        moment = moments[len(codes)] if len(codes) < len(moments) else None
        codes.append(go(place, resume=bool(codes), moment=moment))
        versions = look(place)
        assert len(versions) <= 1, versions
    return {
        "moments": moments,
        "kills": codes.count(-signal.SIGKILL),
        "codes": codes,
        "versions": look(place),
        "log": place.log.read_text(),
    }


def moments_of(calls: list[str], seconds: float) -> Iterator[list[Moment]]:
    """When to kill: around the commit, at random calls, several in one training, by the clock."""
    chance = random.Random(0)
    commit = next(n for n, told in enumerate(calls, 1) if told.endswith("/versions/v0001"))
    state = next(n for n, told in enumerate(calls, 1) if told.endswith("/state"))
    yield from ([commit], [commit + 1], [state], [chance.randrange(2, state)])
    while True:
        yield [chance.uniform(0.1, 0.6) * seconds]
        yield [chance.randrange(2, len(calls)), chance.randrange(2, state)]
        yield [chance.randrange(2, len(calls))]


def tell(folder: Path, kills: int) -> None:
    """Print a line for the uninterrupted training, then one for each that is killed."""
    document = write_document(
        folder,
        base_model=write_tiny_model(folder / "tiny"),
        training="  held_out: 2\n  micro_batch_size: 2\n",
    )
    whole, calls = Place(document, folder / "whole"), folder / "calls.json"
    began = time.monotonic()
    code = go(whole, resume=False, moment=None, calls=calls)
    seconds = time.monotonic() - began
    line = {"codes": [code], "versions": look(whole), "log": whole.log.read_text()}
    print(json.dumps(line), flush=True)
    told = json.loads(calls.read_text())
    done = 0
    for number, moments in enumerate(moments_of(told, seconds)):
        if done >= kills:
            break
        place = Place(document, folder / f"{number}")
        at = told[moments[0] - 1].rpartition("/")[2] if isinstance(moments[0], int) else ""
        found = finish(place, moments)
        done += found["kills"]
        print(json.dumps({"at": at, **found}), flush=True)


if __name__ == "__main__":
    tell(Path(sys.argv[1]), int(sys.argv[2]))
