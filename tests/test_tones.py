"""A language model that knows nothing is taught five tones; frozen, it is taught to hear again."""

import math
import random
import shutil
from pathlib import Path

import dlm
from dlm.training.events import Evaluated, StepCompleted

EXAMPLES = Path(__file__).parent.parent / "examples"
HERE = {"base_model.encoder": "sparrow"}
VOCABULARY = 260


def taught(path: Path) -> tuple[list[float], float]:
    """The loss of every step, and the listening gap on the clips held out."""
    events = list(dlm.train(path, overrides=HERE))
    losses = [event.loss for event in events if isinstance(event, StepCompleted)]
    (checked,) = (event for event in events if isinstance(event, Evaluated))
    return losses, checked.scores["gap"]


def test_it_listens_and_a_shuffled_twin_does_not(tmp_path: Path) -> None:
    for name in ("tones", "alignment"):
        shutil.copy(EXAMPLES / f"{name}.dlm", tmp_path)
    dlm.tones(tmp_path / "tones", count=60)

    first, gap = taught(tmp_path / "tones.dlm")
    told = f"loss {first[0]:.3f} to {first[-1]:.3f} in {len(first)} steps, gap {gap:.3f}"
    print(f"\nweek one: {told}")
    assert len(first) == 50
    assert abs(first[0] - math.log(VOCABULARY)) < 0.3
    assert first[-1] < first[0] - 0.5
    assert gap > 0.3

    dlm.export(tmp_path / "tones.dlm", out=tmp_path / "tones-base")
    _, aligned = taught(tmp_path / "alignment.dlm")
    words = sorted((tmp_path / "tones").glob("*.txt"))
    said = [path.read_text(encoding="utf-8") for path in words]
    random.Random(1).shuffle(said)
    for path, text in zip(words, said, strict=True):
        path.write_text(text, encoding="utf-8")
    _, guessed = taught(tmp_path / "alignment.dlm")
    print(f"week two: gap {aligned:.3f}; with the texts shuffled {guessed:.3f}")
    assert aligned > 0.3
    assert abs(guessed) < 0.15
