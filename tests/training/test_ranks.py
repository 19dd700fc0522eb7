"""Two processes that share every step learn what one does."""

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

RANKED = Path(__file__).with_name("ranked.py")
PLAN = """  held_out: 0
  micro_batch_size: 2
  grad_accum: 2
  learning_rate: 0.001
  stages:
    - {train: [projector, lm], steps: 2}
    - {train: [encoder, projector, lm], epochs: 2}
"""
PAIRS = "".join(f"### Q\n{word}?\n### A\n{word}.\n" for word in ("Who", "When", "Where"))
PROSE = f"\nOnce upon a time.\n\n::instruction::\n{PAIRS}"


def alone(document: Path) -> dict[str, torch.Tensor]:
    """Train in this process."""
    checked = run_preflight(document)
    taught = make_training_setup(checked.require_plan(), list(checked.train_examples))
    losses = [event.loss for event in taught.iter_events() if isinstance(event, StepCompleted)]
    found = {name: each.detach() for name, each in get_trainable_parameters(taught.model).items()}
    return {**found, "losses": torch.tensor(losses)}


def shared(document: Path, out: Path) -> dict[str, torch.Tensor]:
    """Train in two processes; what the first of them came to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, RANKED, rank, "2", port, document, out],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [each.communicate(timeout=240)[1] for each in running]
    assert all(each.returncode == 0 for each in running), "\n".join(said)
    return load_file(out)


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """One clip with sound and four without: in each step a rank hears nothing.

    The last step of an epoch has a single clip, so that a rank has none of its own. In the second
    stage more learns than in the first.
    """
    base = write_tiny_model(tmp_path / "base")
    document = write_document(tmp_path, base_model=base, training=PLAN, num_clips=1, body=PROSE)
    one, two = alone(document), shared(document, tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    assert len(one["losses"]) == 6
    assert torch.allclose(one.pop("losses"), two.pop("losses"), atol=1e-5)
    for name, each in one.items():
        assert torch.allclose(each, two[name], atol=1e-4), name
