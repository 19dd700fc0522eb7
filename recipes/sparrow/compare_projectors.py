"""Compare projectors between sparrow's frozen encoder and language model: loss, gap, WER by step.

    python recipes/sparrow/compare_projectors.py --work DIR --kinds stack mlp concat pool

Only the projector is trained, from random weights, on the encoder's output for the clips that
make.py left in DIR. `DIR/projectors/<kind>.jsonl` gets a row for every measurement: loss, the
listening gap on held-out clips and, less often, WER. The gap is near zero until the model uses the
audio.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.samplers import build_batches
from dlm.inference.engine import InferenceEngine
from dlm.inference.evaluate import compute_losses, evaluate_model
from dlm.models.adapters import apply_adapter
from dlm.models.composed import ComposedAudioLM
from dlm.models.load import load_base_model
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.projector_spec import (
    ProjectorLike,
    compute_projector_strides,
    get_projector_learning_rate,
)
from dlm.plan.types import AdapterSpec
from dlm.training.events import StepCompleted
from dlm.training.trainer import TrainerCallbacks, train_model
from encoder_features import load_rows
from train_all import (
    BATCH_SIZE,
    CachedFeatureExtractor,
    make_batch_plan,
    make_feature_example,
    make_training_plan,
)

EVAL_BATCH_SIZE = 50
EARLY_STEPS, EARLY_EVAL_STEPS, EVAL_STEPS, WER_STEPS = 150, 10, 50, 250
NUM_GAP_CLIPS, NUM_WER_CLIPS = 64, 100
MIN_GAP = 1.0  # nats per token: from this gap on, the model is said to use the audio
FRAMES_PER_SECOND = 50
PROJECTOR_ONLY = AdapterSpec("projector", 8, 16, 0.0, ("projector",), None)


def train_projector(
    work_dir: Path, config: ProjectorLike, log_file: Path, *, num_steps: int, learning_rate: float
) -> None:
    """Train one projector, and log its measurements."""
    model = build_model(config)
    apply_adapter(model, PROJECTOR_ONLY, seed=0)
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    extractors, examples = {}, {}
    for split in ("test", "train"):
        rows = load_rows(work_dir, split)
        extractor = CachedFeatureExtractor(work_dir, rows, model.spec.audio_spec, mask=False)
        extractors[split] = extractor
        examples[split] = [
            make_feature_example(
                work_dir, row, extractor.get_recording(row), question_probability=0.0
            )
            for row in rows
        ]
    batch_plan = make_batch_plan(model.spec, BATCH_SIZE)
    batches = build_batches(examples["train"], batch_plan, chat_encoder, extractors["train"])
    plan = replace(
        make_training_plan(work_dir, num_steps),
        learning_rate=learning_rate,
        learning_rates={},
        weight_decay=0.0,
        save_interval_seconds=1e9,
        save_steps=None,
    )
    engine = InferenceEngine(model, chat_encoder, extractors["test"], EVAL_BATCH_SIZE)
    callbacks = TrainerCallbacks(save_version_fn=lambda folder: None)
    start = time.monotonic()
    with log_file.open("w", encoding="utf-8") as log:
        for event in train_model(model, batches, plan, callbacks):
            if not isinstance(event, StepCompleted):
                continue
            if event.step % (EARLY_EVAL_STEPS if event.step <= EARLY_STEPS else EVAL_STEPS):
                continue
            row = {"step": event.step, "loss": event.loss}
            row |= compute_losses(engine, examples["test"][:NUM_GAP_CLIPS])
            if event.step % WER_STEPS == 0 or event.step == num_steps:
                is_last = event.step == num_steps
                evaluated = examples["test"] if is_last else examples["test"][::3][:NUM_WER_CLIPS]
                row |= evaluate_model(engine, evaluated).scores | {"clips": len(evaluated)}
            row["seconds"] = time.monotonic() - start
            log.write(json.dumps(row) + "\n")
            log.flush()
            model.train()


def build_model(config: ProjectorLike) -> ComposedAudioLM:
    """Build sparrow with a new projector."""
    sparrow = load_base_model(find_catalog_spec("sparrow"))
    stride, num_queries = compute_projector_strides(config, FRAMES_PER_SECOND)
    audio_spec = replace(sparrow.spec.audio_spec, projector_stride=stride, num_queries=num_queries)
    torch.manual_seed(0)
    model = ComposedAudioLM(
        replace(sparrow.spec, audio_spec=audio_spec),
        {**sparrow.config, "projector": {"kind": config} if isinstance(config, str) else config},
        sparrow.tokenizer,
    )
    weights = sparrow.state_dict()
    frozen = {key: weights[key] for key in weights if not key.startswith("projector.")}
    model.load_state_dict(frozen, strict=False)
    return model.eval()


def print_summary(log_files: list[Path]) -> None:
    """Print when each model began to use the audio, and its last measurement."""
    for path in log_files:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        first = next((row["step"] for row in rows if row.get("gap", 0) >= MIN_GAP), None)
        last = {name: rows[-1].get(name) for name in ("step", "loss", "gap", "wer", "seconds")}
        print(path.stem, json.dumps({"first_step_with_gap": first, **last}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kinds", nargs="*", default=["stack", "mlp", "concat", "pool"])
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    for kind in args.kinds:
        config = {"kind": kind, "stride": args.stride}
        train_projector(
            args.work,
            config,
            args.work / "projectors" / f"{kind}.jsonl",
            num_steps=args.steps,
            learning_rate=args.rate or get_projector_learning_rate(config),
        )
    print_summary(sorted((args.work / "projectors").glob("*.jsonl")))
