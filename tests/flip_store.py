"""Stores in which one bit is flipped: what commands say and do, beside those of the whole store.

    python -m tests.flip_store FOLDER FLIPS    a line of JSON for each flip,
                                                the first for the whole store

The store holds two versions, an export and an unfinished run. Every file of it has its turn. On
a copy with the flip, commands read it, verify it and resume the run, in a fork of this process.

    told        a command says something that it does not say of the whole store
    harmless    all that comes out is the same
    silent      something else came out, and nothing was said
    broken      a command ended otherwise than by an error of ours
"""

import io
import json
import os
import random
import re
import shutil
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import dlm as api
from dlm.cli.main import main
from tests.tiny_models import write_document, write_tiny_model

NUM_STEPS = 3
SAVE_OPTIONS = ("--save-every", "1")
# times, speeds and paths differ from run to run
CHANGING_RE = re.compile(r"[\d.]+ (clips/s|s of audio/s|s left|s\b|MB|GB)|\d+ bytes|in \d\S*")
COMMANDS = (
    ("versions", "my.dlm", "--json"),
    ("show", "my.dlm"),
    ("prompt", "my.dlm", "What?", "--audio", "clips/0.wav", "--max-tokens", "5"),
    ("train", "my.dlm", "--steps", str(NUM_STEPS), *SAVE_OPTIONS, "--resume"),
    ("verify", "my.dlm"),
)


def run_command(*args: str) -> tuple[object, str, str]:
    """Run `dlm args...` in this process: exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["dlm", *args]
    code: object = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 70
            traceback.print_exc()
    return code, out.getvalue(), err.getvalue()


def observe(home: Path) -> dict[str, object]:
    """What the commands print of a store, and what is in use and learned afterwards."""
    os.environ["DLM_HOME"] = str(home)
    said, results, broken = [], [], []
    for command in COMMANDS:
        code, out, err = run_command(*command)
        lines = [CHANGING_RE.sub("", line).replace(str(home), "") for line in err.splitlines()]
        # progress of a training is a result, what is said of the store is not
        said += [(command[0], code), *(line for line in lines if not line.startswith("step "))]
        if command[0] == "prompt":
            results.append(out)
        if code not in (0, 1, 2) or "Traceback" in err:
            broken.append(err)
    for export in sorted(home.glob("store/*/exports/*/")):
        code, _, err = run_command("verify", str(export))
        said += [code, err.replace(str(home), "")]
    for adapter in sorted(home.rglob("adapter_model.safetensors")):
        results.append(hash(adapter.read_bytes()))
    code, out, _ = run_command("versions", "my.dlm", "--json")
    for version in json.loads(out) if code == 0 and out else ():
        kept = ("name", "scores", "steps", "overrides", "seed", "base", "accepted", "comparison")
        results.append([version[name] for name in kept])
    (store,) = (home / "store").iterdir()
    results.append((store / "adapter" / "current.txt").read_text(errors="replace"))
    return {"said": said, "results": results, "broken": broken}


def observe_in_fork(home: Path) -> dict[str, object]:
    """The same in a fork, since a training changes this process."""
    answer = home.with_suffix(".json")
    child = os.fork()
    if child == 0:
        try:
            answer.write_text(json.dumps(observe(home), default=str))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return json.loads(answer.read_text()) if answer.exists() else {"broken": ["no answer"]}


def make_store(folder: Path, home: Path) -> None:
    """Train two versions, export one and begin a third run."""
    os.environ["DLM_HOME"] = str(home)
    training = "  held_out: 2\n  micro_batch_size: 2\n  freeze_encoder: true\n"
    write_document(folder, base_model=write_tiny_model(folder / "tiny"), training=training)
    os.chdir(folder)
    for seed in (1, 2):
        list(api.train("my.dlm", steps=2, seed=seed))
    api.export("my.dlm")
    events = api.train("my.dlm", steps=NUM_STEPS, overrides={"training.save_steps": 1})
    next(event for event in events if type(event).__name__ == "CheckpointSaved")
    next(events)
    events.close()


def flip_bit(path: Path, rng: random.Random) -> int:
    """Flip a bit of a file; return the offset of its byte."""
    data = bytearray(path.read_bytes())
    offset = rng.randrange(len(data))
    data[offset] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return offset


def judge(whole: dict, flipped: dict) -> str:
    """Tell what a flip came to."""
    if flipped["broken"]:
        return "broken"
    if flipped["said"] != whole["said"]:
        return "told"
    return "harmless" if flipped["results"] == whole["results"] else "silent"


def print_flips(folder: Path, num_flips: int) -> None:
    """Print a line for each flip."""
    home, copy = folder / "home", folder / "copy"
    child = os.fork()
    if child == 0:
        make_store(folder, home)
        os._exit(0)
    os.waitpid(child, 0)
    os.chdir(folder)
    shutil.copytree(home, copy)
    whole = observe_in_fork(copy)
    rng = random.Random(0)
    paths = [path.relative_to(home) for path in sorted(home.rglob("*")) if path.is_file()]
    names = [path for path in paths if (home / path).stat().st_size]
    rng.shuffle(names)
    for number in range(-1, num_flips):  # the first is the whole store again
        shutil.rmtree(copy)
        copy.with_suffix(".json").unlink(missing_ok=True)
        shutil.copytree(home, copy)
        name = names[number % len(names)]
        offset = flip_bit(copy / name, rng) if number >= 0 else None
        flipped = observe_in_fork(copy)
        result = {"file": str(name), "offset": offset, "outcome": judge(whole, flipped)}
        if result["outcome"] in ("silent", "broken"):
            result["flipped"], result["whole"] = flipped, whole
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    print_flips(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
