"""Streamed runs that are killed and resumed: `python -m tests.training.run_streaming FOLDER`.

Each process is a fork of this one, which has imported every library and never trained. Two ranks
share a run by gloo, each with two workers; one is killed by SIGKILL after a given step, and the
other one with it. Each rank logs the locations of the examples of every step.

    a line of JSON    {"steps": {"1": [locations], ...}, "sha256": ..., "kills": n}
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

from dlm.batching import stream_sampler as stream_sampler
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
SHARDS, EXAMPLES_PER_SHARD = 8, 3  # a pass of 24 clips, 4 in each step
WINDOW_STEPS = 2  # steps: three windows in a pass
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
class LoggingLoader:
    """A loader that logs the locations of its batches."""

    loader: StagedLoader
    log: Path

    def iter_batches(self, start: int, stop: int, *rank_and_cursor: object) -> Iterator[list]:
        for number, batches in enumerate(
            self.loader.iter_batches(start, stop, *rank_and_cursor), start + 1
        ):
            locations = [location for batch in batches for location in batch.locations]
            with self.log.open("a") as file:
                file.write(json.dumps([number, locations]) + "\n")
            yield batches

    def get_cursor(self, num_steps: int) -> tuple[int, ...]:
        return self.loader.get_cursor(num_steps)


def write_shards(folder: Path) -> None:
    """Tars of recordings with transcripts; some begin with a recording that has none."""
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            if shard % 3 == 0:
                tar.add(write_tone(folder.parent / "wav/untold.wav", hertz=900), "untold.wav")
            for index in range(EXAMPLES_PER_SHARD):
                name = f"{shard}-{index}"
                wav = write_tone(
                    folder.parent / "wav" / f"{name}.wav", hertz=200 + 40 * shard + index
                )
                text = wav.with_suffix(".txt")
                text.write_text(f"clip {name}")
                tar.add(wav, wav.name)
                tar.add(text, text.name)


def train_rank(document: Path, folder: Path, rank: int, last_step: int | None) -> None:
    """Train one rank from its checkpoint; it is killed after `last_step`."""
    preflight = run_preflight(document)
    plan = preflight.require_plan()
    training = replace(plan.training, save_steps=1)
    model = load_model(plan.model)
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    extractor = AudioFeatureExtractor(plan.batches.spec, auto_resample=False, memory_bytes=0)
    loader = build_staged_loader(preflight, plan, chat_encoder, lambda stage, use_cached: extractor)
    logging_loader = LoggingLoader(loader, folder / f"{rank}.jsonl")
    resume_dir = folder / "state" if read_checkpoint_step(folder) is not None else None
    callbacks = TrainerCallbacks(save_version_fn=lambda folder: None, resume_dir=resume_dir)
    for event in train_model(model, logging_loader, training, callbacks):
        if isinstance(event, StepCompleted) and event.step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(event, CheckpointSaved) and not event.is_final and rank == 0:
            save_checkpoint(folder, event.write_fn, step=event.step)
    if rank == 0:
        tensors = {
            name: parameter.detach() for name, parameter in get_trainable_parameters(model).items()
        }
        (folder / "sha256").write_text(hashlib.sha256(save(tensors)).hexdigest())


def fork_rank(document: Path, folder: Path, rank: int, port: int, last_step: int | None) -> int:
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
        train_rank(document, folder, rank, last_step)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_ranks(document: Path, folder: Path, kill: tuple[int, int] | None) -> bool:
    """Run all ranks; return whether they finished. With one that is killed, the others are."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    killed_rank, last_step = kill or (None, None)
    processes = [
        fork_rank(document, folder, rank, port, last_step if rank == killed_rank else None)
        for rank in range(RANKS)
    ]
    codes = []
    while processes:
        child, status = os.wait()
        processes.remove(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[0]:
            for other in processes:
                os.kill(other, signal.SIGKILL)
    assert codes[0] in (0, -signal.SIGKILL), codes
    return codes[0] == 0


def train_through_kills(document: Path, folder: Path, kills: dict[int, int]) -> dict:
    """Train through every kill; return the locations of each step that counts."""
    folder.mkdir()
    for kill in kills.items():
        assert not run_ranks(document, folder, kill)
    assert run_ranks(document, folder, None)
    steps: dict[int, list[str]] = {}
    for rank in range(RANKS):
        lines = (folder / f"{rank}.jsonl").read_text().splitlines()
        own_steps = dict(map(json.loads, lines))  # of a step that was taken twice, the second
        for number, locations in own_steps.items():
            steps.setdefault(number, []).extend(locations)
    return {"steps": steps, "sha256": (folder / "sha256").read_text(), "kills": len(kills)}


def print_results(folder: Path) -> None:
    """Print the result of each run."""
    stream_sampler.MIN_WINDOW_STEPS = stream_sampler.MIN_WINDOW_EXAMPLES = WINDOW_STEPS
    write_shards(folder / "shards")
    model_dir = write_tiny_model(folder / "tiny")
    document = write_document(folder, base_model=model_dir, training=TRAINING, num_clips=0)
    for name, kills in (("whole", {}), ("killed", KILLS)):
        print(json.dumps(train_through_kills(document, folder / name, kills)), flush=True)
    alone, calls = TrainingPaths(document, folder / "alone"), folder / "calls.json"
    code = train_in_fork(alone, resume=False, kill_point=None, calls_path=calls)
    print(json.dumps({"codes": [code], "versions": hash_versions(alone)}), flush=True)
    store_calls = json.loads(calls.read_text())
    saved = [number for number, call in enumerate(store_calls, 1) if call.endswith("/state")]
    again = TrainingPaths(document, folder / "again")
    print(json.dumps(train_until_done(again, [saved[1] + 1])), flush=True)


if __name__ == "__main__":
    print_results(Path(sys.argv[1]))
