"""The examples tones.dlm and alignment.dlm, with a small language model and sparrow's encoder."""

import math
import random
import shutil
from pathlib import Path
from statistics import mean

import dlm
from dlm.training.events import Evaluated, StepCompleted

EXAMPLES = Path(__file__).parents[2] / "examples"
# The examples' own language model is ten times as large: it takes minutes without fast bf16.
SMALL = {
    "base_model.encoder": "sparrow",
    "training.precision": "fp32",
    "training.learning_rate": 1e-3,
    "training.num_epochs": 60,
}
SMALL_LM = {
    "model_type": "nanochat",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 2,
    "max_position_embeddings": 1024,
}
VOCAB_SIZE = 260
# Right pairs gave 0.27 to 0.29 over epochs and rates: sparrow's encoder knows speech, and learns
# tones slowly. Shuffled ones gave -0.18 to 0.12 with another encoder.
MIN_GAP, MAX_MEAN_SHUFFLED_GAP = 0.2, 0.2


def train(path: Path, **overrides: object) -> tuple[list[float], float]:
    """Train; the loss of every step, and the listening gap on held-out clips."""
    events = list(dlm.train(path, overrides={**SMALL, **overrides}, fresh=True))
    losses = [event.loss for event in events if isinstance(event, StepCompleted)]
    (evaluated,) = (event for event in events if isinstance(event, Evaluated))
    return losses, evaluated.scores["gap"]


def test_listening_gap_is_large_for_right_texts_and_not_for_shuffled_ones(tmp_path: Path) -> None:
    for name in ("tones", "alignment"):
        shutil.copy(EXAMPLES / f"{name}.dlm", tmp_path)
    dlm.tones(tmp_path / "tones", count=60)

    lm = {"base_model.lm": {"from_scratch": SMALL_LM, "tokenizer": "bytes"}}
    losses, gap = train(tmp_path / "tones.dlm", **lm)
    assert len(losses) == 300
    assert abs(losses[0] - math.log(VOCAB_SIZE)) < 0.3, "an untrained model knows no byte"
    assert losses[-1] < losses[0] - 0.5
    assert gap > MIN_GAP

    dlm.export(tmp_path / "tones.dlm", out=tmp_path / "tones-base")
    _, aligned_gap = train(tmp_path / "alignment.dlm")
    assert aligned_gap > MIN_GAP

    paths = sorted((tmp_path / "tones").glob("*.txt"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    shuffled_gaps = []
    for seed in range(3):
        shuffled = random.Random(seed).sample(texts, len(texts))
        for path, text in zip(paths, shuffled, strict=True):
            path.write_text(text, encoding="utf-8")
        shuffled_gaps.append(train(tmp_path / "alignment.dlm")[1])
    assert mean(shuffled_gaps) < MAX_MEAN_SHUFFLED_GAP, shuffled_gaps
    assert mean(shuffled_gaps) < aligned_gap, shuffled_gaps


def test_the_smoke_test_passes(tmp_path: Path) -> None:
    """Five recordings: an untrained model knows no byte, and 50 steps lower its loss by 0.5."""
    document = shutil.copy(EXAMPLES / "tones.dlm", tmp_path)
    dlm.tones(tmp_path / "tones", smoke=True)
    texts = [path.read_text() for path in sorted((tmp_path / "tones").glob("*.txt"))]
    assert texts == [f"{name} tone\n" for name in ("low", "mid low", "middle", "mid high", "high")]
    overrides = {
        **SMALL,
        "base_model.lm": {"from_scratch": SMALL_LM, "tokenizer": "bytes"},
        "training.held_out": 0,
        "training.num_epochs": 1,
    }
    events = list(dlm.train(document, steps=50, overrides=overrides))
    losses = [event.loss for event in events if isinstance(event, StepCompleted)]
    assert len(losses) == 50 and abs(losses[0] - math.log(VOCAB_SIZE)) < 0.3
    assert losses[-1] < losses[0] - 0.5
