"""The loss by hand: token by token, and equal to the trainer's."""

import json
from pathlib import Path

import pytest

from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model


@pytest.fixture
def document(tmp_path: Path) -> Path:
    base = write_tiny_model(tmp_path / "base")
    return write_document(tmp_path, base_model=base, training="  held_out: 0\n", num_clips=2)


def test_every_label_token_has_its_loss(document: Path) -> None:
    done = dlm("eval", document, "--base", "--manual-loss", "clips/0.wav")
    head, columns, *rows = done.out.splitlines()
    assert "4 label tokens, loss " in head and head.startswith("my.dlm:")
    by_hand, trained = (float(head.split(word)[0].split()[-1]) for word in (" by", " as"))
    assert by_hand == pytest.approx(trained, abs=1e-4)
    assert columns.split() == ["token", "loss", "predicted"]
    tokens, losses = zip(*(row.split()[:2] for row in rows), strict=True)
    assert tokens == ("'o'", "'n'", "'e'", "'<|im_end|>'")
    assert sum(map(float, losses)) / 4 == pytest.approx(by_hand, abs=1e-3)


def test_in_json_and_of_a_version(document: Path) -> None:
    assert dlm("train", document, "--steps", 30, "--learning-rate", 0.01).code == 0
    found = json.loads(dlm("eval", document, "--manual-loss", "*", "--json").out)
    row = found["row"]
    assert found["scores"] == {"loss": row["trainer_loss"]}
    assert row["recomputed_loss"] == pytest.approx(row["trainer_loss"], abs=1e-4)
    assert [each["token"] for each in row["token_losses"]][-1] == "<|im_end|>"
    assert all(
        each["predicted_token"] == each["token"]
        for each in row["token_losses"]
        if each["loss"] < 0.5
    )
    assert row["recomputed_loss"] < 2


def test_a_clip_that_is_not_there(document: Path) -> None:
    asked = dlm("eval", document, "--base", "--manual-loss", "clips/9.wav")
    asked.refused("no clips to evaluate on", "its recording")
