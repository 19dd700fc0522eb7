"""Trainings from a stream that are killed and go on: `python -m tests.training.streaming FOLDER`.

Each process is a fork of this one, which has loaded every library and never learned. Two ranks
share a run by gloo, each with two workers; a rank dies by SIGKILL after the step it is told, and
the other one with it. What every rank learned from in each step is written down as it learns.

    a line of JSON    {"steps": {"1": [places], ...}, "sha256": ..., "kills": n}
                      of a whole run of two ranks, of one that was killed
                      {"versions": [sha256], "codes": [...]}
                      of `dlm train`, whole, then killed
"""

import hashlib
import json
import os
import signal
import socket
import sys
import tarfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

from dlm.batching import stream_sampler as buffered
from dlm.batching.chat_template import ChatEncoder
from dlm.batching.staged_loader import StagedLoader
from dlm.commands.preflight import run_preflight
from dlm.commands.train import build_staged_loader
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.adapters import get_trainable_parameters
from dlm.models.load import load_model
from dlm.store.atomic_dirs import read_checkpoint_step, save_checkpoint
from dlm.training.events import CheckpointSaved, StepCompleted
from dlm.training.trainer import TrainerCallbacks, train_model
from tests.kill_training import (
    TrainingPaths,
    hash_versions,
    train_in_fork,
    train_until_done,
)
from tests.tiny_models import write_document, write_tiny_model, write_tone

RANKS = 2
SHARDS, CLIPS = 8, 3  # a pass of 24 clips, 4 in each step
WINDOW = 2  # steps: three windows in a pass
STEPS = 9
KILLS = {0: 2, 1: 8}  # the rank that dies, and after which step: in the first pass, in the second
TRAINING = f"""  held_out: 0
  steps: {STEPS}
  micro_batch_size: 2
  grad_accum: 2
  sources:
    - {{path: shards, stream: true}}
"""


@dataclass(frozen=True)
class Watched:
    """A course whose batches are written down as they are handed to who learns."""

    course: StagedLoader
    log: Path

    def iter_batches(self, start: int, stop: int, *where: object) -> Iterator[list]:
        for number, batches in enumerate(self.course.iter_batches(start, stop, *where), start + 1):
            places = [place for batch in batches for place in batch.locations]
            with self.log.open("a") as file:
                file.write(json.dumps([number, places]) + "\n")
            yield batches

    def get_cursor(self, done: int) -> tuple[int, ...]:
        return self.course.get_cursor(done)


def write_shards(folder: Path) -> None:
    """Tars of recordings and what is said in them; some begin with one of which it is not known."""
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            if shard % 3 == 0:
                tar.add(write_tone(folder.parent / "wav/untold.wav", hertz=900), "untold.wav")
            for row in range(CLIPS):
                name = f"{shard}-{row}"
                wav = write_tone(
                    folder.parent / "wav" / f"{name}.wav", hertz=200 + 40 * shard + row
                )
                text = wav.with_suffix(".txt")
                text.write_text(f"clip {name}")
                tar.add(wav, wav.name)
                tar.add(text, text.name)


def learn(document: Path, folder: Path, rank: int, last: int | None) -> None:
    """One rank of a run, from where its state is; it dies after the step `last`."""
    checked = run_preflight(document)
    plan = checked.require_plan()
    training = replace(plan.training, save_steps=1)
    model = load_model(plan.model)
    chat = ChatEncoder(model.tokenizer, model.spec)
    ear = AudioFeatureExtractor(plan.batches.spec, auto_resample=False, memory_bytes=0)
    made = build_staged_loader(checked, plan, chat, lambda stage, use_cached: ear)
    watched = Watched(made, folder / f"{rank}.jsonl")
    resume = folder / "state" if read_checkpoint_step(folder) is not None else None
    hooks = TrainerCallbacks(save_version_fn=lambda folder: None, resume_dir=resume)
    for event in train_model(model, watched, training, hooks):
        if isinstance(event, StepCompleted) and event.step == last:
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(event, CheckpointSaved) and not event.is_final and rank == 0:
            save_checkpoint(folder, event.write_fn, step=event.step)
    if rank == 0:
        tensors = {name: each.detach() for name, each in get_trainable_parameters(model).items()}
        (folder / "sha256").write_text(hashlib.sha256(save(tensors)).hexdigest())


def start(document: Path, folder: Path, rank: int, port: int, last: int | None) -> int:
    """Fork a rank."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(RANKS),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        torch.set_num_threads(1)
        learn(document, folder, rank, last)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def together(document: Path, folder: Path, kill: tuple[int, int] | None) -> bool:
    """Run all ranks; whether they came to the end. A killed one takes the others with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dies, last = kill or (None, None)
    ranks = [
        start(document, folder, rank, port, last if rank == dies else None) for rank in range(RANKS)
    ]
    codes = []
    while ranks:
        child, status = os.wait()
        ranks.remove(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[0]:
            for other in ranks:
                os.kill(other, signal.SIGKILL)
    assert codes[0] in (0, -signal.SIGKILL), codes
    return codes[0] == 0


def shared(document: Path, folder: Path, kills: dict[int, int]) -> dict:
    """Learn through every kill; what was learned from in each step that counts."""
    folder.mkdir()
    for kill in kills.items():
        assert not together(document, folder, kill)
    assert together(document, folder, None)
    steps: dict[int, list[str]] = {}
    for rank in range(RANKS):
        lines = (folder / f"{rank}.jsonl").read_text().splitlines()
        mine = dict(map(json.loads, lines))  # of a step taken twice, the last
        for number, places in mine.items():
            steps.setdefault(number, []).extend(places)
    return {"steps": steps, "sha256": (folder / "sha256").read_text(), "kills": len(kills)}


def tell(folder: Path) -> None:
    """Print what came of each training."""
    buffered.MIN_WINDOW_STEPS = buffered.MIN_WINDOW_EXAMPLES = WINDOW
    write_shards(folder / "shards")
    base = write_tiny_model(folder / "tiny")
    document = write_document(folder, base_model=base, training=TRAINING, num_clips=0)
    for name, kills in (("whole", {}), ("killed", KILLS)):
        print(json.dumps(shared(document, folder / name, kills)), flush=True)
    alone, calls = TrainingPaths(document, folder / "alone"), folder / "calls.json"
    code = train_in_fork(alone, resume=False, kill_point=None, calls_path=calls)
    print(json.dumps({"codes": [code], "versions": hash_versions(alone)}), flush=True)
    told = json.loads(calls.read_text())
    saved = [number for number, each in enumerate(told, 1) if each.endswith("/state")]
    again = TrainingPaths(document, folder / "again")
    print(json.dumps(train_until_done(again, [saved[1] + 1])), flush=True)


if __name__ == "__main__":
    tell(Path(sys.argv[1]))
