"""Train sparrow's projector and language model on the encoder's hidden states, with dlm's trainer.

    python recipes/sparrow/train_all.py --work DIR --whisper FOLDER

composes what the stages before wrote, trains on all rows, and writes `DIR/sparrow`, the folder in
the package. The encoder stays frozen, so its cached hidden states are the input. The log is
`DIR/train_all.log`. An interrupted run is resumed from its last checkpoint.
"""

import argparse
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.samplers import build_batches
from dlm.data.types import AudioSegment, Example, Message, Recording
from dlm.features.extractor import AudioFeatures
from dlm.models.adapters import apply_adapter
from dlm.models.composed import ComposedAudioLM, save_composed_model
from dlm.plan.audio_lengths import AudioTokenizerSpec, count_audio_tokens
from dlm.plan.hardware import detect_hardware
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import AdapterSpec, BatchPlan, TrainingPlan
from dlm.training.events import CheckpointSaved, StepCompleted, TrainingEvent, TrainingFinished
from dlm.training.trainer import TrainerCallbacks, train_model
from encoder_features import load_features, load_rows, load_trained_encoder
from questions import TRANSCRIBE_PROMPT, can_be_asked, draw_question, make_example
from synthesize_speech import ManifestRow
from train_encoder import PROJECTOR_CONFIG

BATCH_SIZE = 32
NUM_STEPS, LEARNING_RATES = 2_700, {"projector": 1e-3, "lm": 7e-4}
QUESTION_PROBABILITY = 0.15  # that a question comes before the transcription
MASK_PROBABILITY, MAX_MASKED_FRAMES = 0.5, 20  # of hidden states, 20 ms each
LOG_STEPS, SAVE_STEPS = 25, 200
FULL_FINETUNING = AdapterSpec("full", 8, 16, 0.0, ("projector", "lm"), None)


def train_sparrow(work_dir: Path, whisper_dir: Path, *, num_threads: int = 2) -> None:
    """Train on all rows, from the last checkpoint if there is one."""
    if (work_dir / "sparrow").exists():
        return
    torch.set_num_threads(num_threads)
    random.seed(0)
    model = _compose_pretrained(work_dir, whisper_dir)
    rows = load_rows(work_dir, "train", all_versions=True)
    apply_adapter(model, FULL_FINETUNING, seed=0)
    spec = model.spec
    extractor = CachedFeatureExtractor(work_dir, rows, spec.audio_spec, mask=True)
    batches = build_batches(
        [make_feature_example(work_dir, row, extractor.get_recording(row)) for row in rows],
        make_batch_plan(spec, BATCH_SIZE),
        ChatEncoder(model.tokenizer, spec),
        extractor,
    )
    checkpoint_dir = work_dir / "train_all" / "checkpoint"
    callbacks = TrainerCallbacks(
        # half precision keeps it within 30 MB
        save_version_fn=lambda folder: save_composed_model(model, folder, dtype=torch.float16),
        resume_dir=checkpoint_dir if (checkpoint_dir / "state.json").exists() else None,
    )
    plan = replace(make_training_plan(work_dir, NUM_STEPS), learning_rates=LEARNING_RATES)
    for event in train_model(model, batches, plan, callbacks):
        _handle_event(work_dir, event)


def _compose_pretrained(work_dir: Path, whisper_dir: Path) -> ComposedAudioLM:
    """Compose the trained encoder and the pretrained projector and language model."""
    encoder = load_trained_encoder(work_dir, whisper_dir)
    encoder_config = encoder.config.to_diff_dict() | {"model_type": "whisper"}
    lm_config = json.loads((work_dir / "lm" / "config.json").read_text(encoding="utf-8"))
    config = {
        "encoders": [{"config": _drop_private_keys(encoder_config), "layer": "last"}],
        "projector": PROJECTOR_CONFIG,
        "lm": _drop_private_keys(lm_config),
    }
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    model = ComposedAudioLM(find_catalog_spec("sparrow"), config, tokenizer)
    model.encoder.load_state_dict(encoder.state_dict())
    lm = AutoModelForCausalLM.from_pretrained(work_dir / "lm", dtype=torch.float32)
    model.lm.load_state_dict(lm.state_dict())
    model.projector.load_state_dict(load_file(work_dir / "projector.safetensors"))
    return model


def _drop_private_keys(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


class CachedFeatureExtractor:
    """Returns the hidden states of rows; with `mask`, half of them with a span of frames masked."""

    def __init__(
        self,
        work_dir: Path,
        rows: list[ManifestRow],
        audio_spec: AudioTokenizerSpec,
        *,
        mask: bool,
    ) -> None:
        self._audio_spec, self._work_dir, self._mask = audio_spec, work_dir, mask
        paths = [work_dir / row["features"] for row in rows]
        self._features = dict(zip(paths, load_features(work_dir, rows), strict=True))

    def get_recording(self, row: ManifestRow) -> Recording:
        """Return the sizes of the audio of a row, to which its hidden states belong."""
        num_frames = 2 * len(self._features[self._work_dir / row["features"]])  # mel frames
        num_samples = num_frames * self._audio_spec.hop_length
        return Recording(self._audio_spec.sample_rate, 1, num_samples)

    def __call__(self, segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        """Return the one window of a segment."""
        values = torch.from_numpy(self._features[segment.path].astype(np.float32))
        if self._mask and random.random() < MASK_PROBABILITY:
            start = random.randrange(len(values))
            max_masked_frames = min(MAX_MASKED_FRAMES, len(values) // 8)
            values[start : start + random.randrange(1 + max_masked_frames)] = 0.0
        num_samples = 2 * len(values) * self._audio_spec.hop_length
        num_tokens = count_audio_tokens(num_samples, self._audio_spec)
        return (AudioFeatures(values, len(values), num_samples, num_tokens, is_encoded=True),)


def make_feature_example(
    work_dir: Path,
    row: ManifestRow,
    recording: Recording,
    *,
    question_probability: float = QUESTION_PROBABILITY,
) -> Example:
    """Make a transcription of a row's hidden states, or a question and then a transcription."""
    segment_row = {**row, "path": row["features"]}
    is_question = random.Random(row["features"]).random() < question_probability
    if not is_question or not can_be_asked(row):
        return make_example(work_dir, segment_row, row["text"], recording=recording)
    question, answer = draw_question(row, seed=1)
    example = make_example(work_dir, segment_row, answer, question, recording=recording)
    transcription = (
        Message("user", (TRANSCRIBE_PROMPT,)),
        Message("assistant", (row["text"],)),
    )
    return Example((*example.messages, *transcription), row["features"], "answer")


def make_batch_plan(spec: ModelSpec, micro_batch_size: int) -> BatchPlan:
    """Return the batches of a run."""
    return BatchPlan(
        spec=spec,
        global_batch_size=micro_batch_size,
        micro_batch_size=micro_batch_size,
        max_tokens=1024,
        auto_resample=False,
        max_windows=None,
        use_cached_features=True,
        seed=7,
    )


def make_training_plan(work_dir: Path, num_steps: int) -> TrainingPlan:
    """Return the optimizer's settings and the schedule of a run."""
    return TrainingPlan(
        num_steps=num_steps,
        learning_rate=1e-3,
        learning_rates={},
        weight_decay=0.01,
        max_grad_norm=1.0,
        lr_scheduler="cosine",
        warmup_steps=100,
        max_skipped_steps=5,
        save_interval_seconds=180.0,
        save_steps=SAVE_STEPS,
        precision="bf16" if detect_hardware(work_dir).amx else "fp32",
        device="cpu",
        seed=7,
    )


def _handle_event(work_dir: Path, event: TrainingEvent) -> None:
    """Log steps, write checkpoints and the final model, and remove the checkpoint at the end."""
    run_dir = work_dir / "train_all"
    if isinstance(event, StepCompleted) and event.step % LOG_STEPS == 0:
        with (work_dir / "train_all.log").open("a", encoding="utf-8") as log:
            log.write(
                f"step {event.step}  loss {event.loss:.3f}  norm {event.grad_norm:.2f}  "
                f"{event.num_examples / event.seconds:.0f} clips/s\n"
            )
    if isinstance(event, CheckpointSaved):
        target_dir = work_dir / "sparrow" if event.is_final else run_dir / "checkpoint"
        temp_dir = run_dir / "temp"
        shutil.rmtree(temp_dir, ignore_errors=True)
        temp_dir.mkdir(parents=True)
        event.write_fn(temp_dir)
        shutil.rmtree(target_dir, ignore_errors=True)
        temp_dir.replace(target_dir)
    if isinstance(event, TrainingFinished):
        shutil.rmtree(run_dir, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    train_sparrow(args.work, args.whisper, num_threads=args.threads)
