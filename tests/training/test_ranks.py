"""Two processes that share every step learn what one does."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dlm.model.adapters import learning
from dlm.training.events import Step
from dlm.verbs.prepare import prepare
from tests.tiny import lesson, make_tiny, write_document

RANKED = Path(__file__).with_name("ranked.py")
PLAN = """  held_out: 0
  micro_batch_size: 2
  grad_accum: 2
  learning_rate: 0.001
  num_epochs: 3
"""
LORA = f"{PLAN}  adapter: lora\n  lora_dropout: 0.0\n  lora: {{where: [lm, projector]}}\n"
PROSE = "\nOnce upon a time.\n\n::instruction::\n### Q\nWho?\n### A\nNo.\n### Q\nWhy?\n### A\nSo.\n"


def alone(document: Path) -> dict[str, torch.Tensor]:
    """Train in this process."""
    checked = prepare(document)
    taught = lesson(checked.insist(), list(checked.learn))
    losses = [event.loss for event in taught.events() if isinstance(event, Step)]
    found = {name: each.detach() for name, each in learning(taught.model).items()}
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


@pytest.mark.parametrize(
    ("clips", "training", "body", "steps"),
    [(5, PLAN, "", 6), (1, LORA, PROSE, 3)],
    ids=["full", "lora_and_prose"],
)
def test_two_ranks_equal_one(
    tmp_path: Path, clips: int, training: str, body: str, steps: int
) -> None:
    """The last step of an epoch leaves a rank without a clip; prose leaves one without sound."""
    base = make_tiny(tmp_path / "base")
    document = write_document(tmp_path, base=base, training=training, clips=clips, body=body)
    one, two = alone(document), shared(document, tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    assert len(one["losses"]) == steps
    assert torch.allclose(one.pop("losses"), two.pop("losses"), atol=1e-5)
    for name, each in one.items():
        assert torch.allclose(each, two[name], atol=1e-4), name
