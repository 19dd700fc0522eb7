"""Two ranks that share every step train the same weights as one process."""

import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from dlm.commands.preflight import run_preflight
from dlm.models.adapters import get_trainable_parameters
from dlm.training.events import StepCompleted
from tests.tiny_models import make_training_setup, write_document, write_tiny_model

RUN_RANK = Path(__file__).with_name("run_rank.py")
TRAINING = """  held_out: 0
  micro_batch_size: 2
  grad_accum: 2
  learning_rate: 0.001
  stages:
    - {train: [projector, lm], steps: 2}
    - {train: [encoder, projector, lm], epochs: 2}
"""
PAIRS = "".join(f"### Q\n{word}?\n### A\n{word}.\n" for word in ("Who", "When", "Where"))
PROSE = f"\nOnce upon a time.\n\n::instruction::\n{PAIRS}"


def train_here(document: Path) -> dict[str, torch.Tensor]:
    """Train in this process."""
    preflight = run_preflight(document)
    setup = make_training_setup(preflight.require_plan(), list(preflight.train_examples))
    losses = [event.loss for event in setup.iter_events() if isinstance(event, StepCompleted)]
    tensors = {
        name: parameter.detach()
        for name, parameter in get_trainable_parameters(setup.model).items()
    }
    return {**tensors, "losses": torch.tensor(losses)}


def train_on_two_ranks(document: Path, out_path: Path) -> dict[str, torch.Tensor]:
    """Train on two ranks; the weights and losses of rank 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, RUN_RANK, rank, "2", port, document, out_path],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    stderr = [process.communicate(timeout=240)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(stderr)
    return load_file(out_path)


def test_two_ranks_train_the_same_weights_as_one_process(tmp_path: Path) -> None:
    """One example with audio and four without: in every step a rank has no audio.

    The last step of an epoch has a single example, so that a rank has none. The second stage trains
    more parameters than the first.
    """
    base = write_tiny_model(tmp_path / "base")
    document = write_document(tmp_path, base_model=base, training=TRAINING, num_clips=1, body=PROSE)
    single, ranks = train_here(document), train_on_two_ranks(document, tmp_path / "two.safetensors")
    assert single.keys() == ranks.keys()
    assert len(single["losses"]) == 6
    assert torch.allclose(single.pop("losses"), ranks.pop("losses"), atol=1e-5)
    for name, tensor in single.items():
        assert torch.allclose(tensor, ranks[name], atol=1e-4), name
