"""`dlm eval --manual-loss`: the loss of each token of a clip, equal to the trainer's."""

import json
from pathlib import Path

import pytest

from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model


@pytest.fixture
def document(tmp_path: Path) -> Path:
    model = write_tiny_model(tmp_path / "base")
    return write_document(tmp_path, base_model=model, training="  held_out: 0\n", num_clips=2)


def test_every_label_token_has_its_loss(document: Path) -> None:
    done = dlm("eval", document, "--base", "--manual-loss", "clips/0.wav")
    head, columns, *rows = done.out.splitlines()
    assert "4 label tokens, loss " in head and head.startswith("my.dlm:")
    recomputed, trained = (
        float(head.split(word)[0].split()[-1]) for word in (" recomp", " in train")
    )
    assert recomputed == pytest.approx(trained, abs=1e-4)
    assert columns.split() == ["token", "loss", "predicted"]
    tokens, losses = zip(*(row.split()[:2] for row in rows), strict=True)
    assert tokens == ("'o'", "'n'", "'e'", "'<|im_end|>'")
    assert sum(map(float, losses)) / 4 == pytest.approx(recomputed, abs=1e-3)


def test_a_version_and_json(document: Path) -> None:
    assert dlm("train", document, "--steps", 30, "--learning-rate", 0.01).code == 0
    report = json.loads(dlm("eval", document, "--manual-loss", "*", "--json").out)
    example_loss = report["row"]
    assert report["scores"] == {"loss": example_loss["trainer_loss"]}
    assert example_loss["recomputed_loss"] == pytest.approx(example_loss["trainer_loss"], abs=1e-4)
    tokens = example_loss["token_losses"]
    assert tokens[-1]["token"] == "<|im_end|>"
    assert all(
        token["predicted_token"] == token["token"] for token in tokens if token["loss"] < 0.5
    )
    assert example_loss["recomputed_loss"] < 2


def test_an_unknown_clip_is_refused(document: Path) -> None:
    done = dlm("eval", document, "--base", "--manual-loss", "clips/9.wav")
    done.refused("no clips to evaluate on", "its recording")


def test_a_clip_is_named_as_the_shell_gives_it(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the kind: a path relative to where the command runs. Neighbours: absolute, a line of the
    document, a name as the document writes it."""
    expected = dlm("eval", document, "--base", "--manual-loss", "clips/1.wav").out
    monkeypatch.chdir(document.parent.parent)
    clip, line = document.parent / "clips/1.wav", expected.partition(": ")[0].partition(":")[2]
    for name in (clip, clip.relative_to(Path.cwd()), f"{document.relative_to(Path.cwd())}:{line}"):
        assert dlm("eval", document, "--base", "--manual-loss", name).out == expected
