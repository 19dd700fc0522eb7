"""Train sparrow's encoder, projector and language model as one, with `dlm.training.trainer`.

    python recipes/sparrow/train_all.py --work DIR --steps 2300

composes what the stages before wrote, trains with a process per core, and writes `DIR/sparrow`,
the folder in the package. The log is `DIR/train_all.log`. An interrupted run is resumed from its
last checkpoint.
"""

import argparse
import json
import os
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import multiprocessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.samplers import build_batches
from dlm.data.types import AudioSegment, Example, Message
from dlm.features.extractor import AudioFeatures
from dlm.models.adapters import apply_adapter
from dlm.models.composed import ComposedAudioLM, save_composed_model
from dlm.plan.audio_lengths import AudioTokenizerSpec, count_audio_tokens
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import AdapterSpec, BatchPlan, TrainingPlan
from dlm.training.events import CheckpointSaved, StepCompleted, TrainingEvent, TrainingFinished
from dlm.training.trainer import TrainerCallbacks, train_model
from fit_projector import PROJECTOR_CONFIG
from mel_features import load_mel_split
from pretrain_encoder_ctc import make_encoder_config
from questions import TRANSCRIBE_PROMPT, draw_question, make_example
from synthesize_speech import ManifestRow, read_manifest

GLOBAL_BATCH_SIZE = 64
LEARNING_RATES = {"encoder": 4e-4, "projector": 1e-3, "lm": 1e-3}
QUESTION_PROBABILITY = 0.3  # that a question comes before the transcription
MASK_PROBABILITY, MAX_MASKED_BINS, MAX_MASKED_FRAMES = 0.5, 12, 20
LOG_STEPS, SAVE_STEPS = 25, 150
MASTER_PORT = "29511"
FULL_FINETUNING = AdapterSpec("full", 8, 16, 0.0, ("encoder", "projector", "lm"), None)


def train_sparrow(work_dir: Path, *, num_steps: int, num_processes: int = 2) -> None:
    """Train up to `num_steps`, from the last checkpoint if there is one."""
    if num_processes == 1:
        _train(0, 1, work_dir, num_steps)
    else:
        multiprocessing.spawn(_train, (num_processes, work_dir, num_steps), num_processes)


def _train(rank: int, num_processes: int, work_dir: Path, num_steps: int) -> None:
    """Train in one process; the first one also logs and saves."""
    _set_rank(rank, num_processes)
    random.seed(rank)
    model = _compose_pretrained(work_dir)
    apply_adapter(model, FULL_FINETUNING, seed=0)
    spec = model.spec
    batch_plan = make_batch_plan(spec, GLOBAL_BATCH_SIZE // num_processes)
    batches = build_batches(
        [_make_train_example(work_dir, row) for row in read_manifest(work_dir / "train.jsonl")],
        batch_plan,
        ChatEncoder(model.tokenizer, spec),
        MaskedMelExtractor(work_dir, spec.audio_spec),
    )
    checkpoint_dir = work_dir / "train_all" / "checkpoint"
    callbacks = TrainerCallbacks(
        # half precision keeps it within 10 MB
        save_version_fn=lambda folder: save_composed_model(model, folder, dtype=torch.float16),
        resume_dir=checkpoint_dir if (checkpoint_dir / "state.json").exists() else None,
    )
    for event in train_model(model, batches, make_training_plan(num_steps), callbacks):
        if rank == 0:
            _handle_event(work_dir, event)


def _set_rank(rank: int, num_processes: int) -> None:
    torch.set_num_threads(max((os.cpu_count() or 1) // num_processes, 1))
    if num_processes > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=MASTER_PORT,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(num_processes),
            OMP_NUM_THREADS="1",
        )


def _compose_pretrained(work_dir: Path) -> ComposedAudioLM:
    """Compose the pretrained encoder, projector and language model."""
    encoder_config = make_encoder_config().to_diff_dict()
    lm_config = json.loads((work_dir / "lm" / "config.json").read_text(encoding="utf-8"))
    config = {
        "encoders": [
            {
                "config": _drop_private_keys(encoder_config) | {"attn_implementation": "eager"},
                "layer": "last",
            }
        ],
        "projector": PROJECTOR_CONFIG,
        "lm": _drop_private_keys(lm_config),
    }
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    model = ComposedAudioLM(find_catalog_spec("sparrow"), config, tokenizer)
    ctc_weights = load_file(work_dir / "encoder_ctc" / "encoder.safetensors")
    model.encoder.load_state_dict(
        {
            key.removeprefix("encoder."): tensor
            for key, tensor in ctc_weights.items()
            if key.startswith("encoder.")
        }
    )
    lm = AutoModelForCausalLM.from_pretrained(work_dir / "lm", dtype=torch.float32)
    model.lm.load_state_dict(lm.state_dict())
    model.projector.load_state_dict(load_file(work_dir / "projector.safetensors"))
    return model


def _drop_private_keys(config: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


class MaskedMelExtractor:
    """Returns the log-mels of `load_mel_split`, half of them with SpecAugment masks."""

    def __init__(self, work_dir: Path, audio_spec: AudioTokenizerSpec) -> None:
        self._split, self._audio_spec = load_mel_split(work_dir, "train"), audio_spec
        self._clips = {work_dir / row["path"]: n for n, row in enumerate(self._split.manifest)}

    def __call__(self, segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        """Return the one window of a segment."""
        mel = torch.from_numpy(self._split.get_mel(self._clips[segment.path]).T.astype("float32"))
        num_mel_bins, num_frames = mel.shape
        if random.random() < MASK_PROBABILITY:
            low = random.randrange(num_mel_bins - MAX_MASKED_BINS)
            start = random.randrange(num_frames)
            mel[low : low + random.randrange(MAX_MASKED_BINS)] = 0.0
            max_masked_frames = min(MAX_MASKED_FRAMES, num_frames // 16)
            mel[:, start : start + random.randrange(1 + max_masked_frames)] = 0.0
        num_samples = num_frames * self._audio_spec.hop_length
        num_tokens = count_audio_tokens(num_samples, self._audio_spec)
        return (AudioFeatures(mel, num_frames, num_samples, num_tokens, is_encoded=False),)


def _make_train_example(work_dir: Path, row: ManifestRow) -> Example:
    """Make a transcription, or a question and then a transcription."""
    if random.Random(row["path"]).random() >= QUESTION_PROBABILITY:
        return make_example(work_dir, row, row["text"])
    question, answer = draw_question(row, seed=1)
    example = make_example(work_dir, row, answer, question)
    transcription = (
        Message("user", (TRANSCRIBE_PROMPT,)),
        Message("assistant", (row["text"],)),
    )
    return Example((*example.messages, *transcription), row["path"], "answer")


def make_batch_plan(spec: ModelSpec, micro_batch_size: int) -> BatchPlan:
    """Return the batches of a run, GLOBAL_BATCH_SIZE clips a step."""
    return BatchPlan(
        spec=spec,
        global_batch_size=GLOBAL_BATCH_SIZE,
        micro_batch_size=micro_batch_size,
        max_tokens=1024,
        auto_resample=False,
        max_windows=None,
        use_cached_features=False,
        seed=7,
    )


def make_training_plan(num_steps: int) -> TrainingPlan:
    """Return the optimizer's settings and the schedule of a run."""
    return TrainingPlan(
        num_steps=num_steps,
        learning_rate=1e-3,
        learning_rates=LEARNING_RATES,
        weight_decay=0.01,
        max_grad_norm=1.0,
        lr_scheduler="cosine",
        warmup_steps=100,
        max_skipped_steps=5,
        save_interval_seconds=180.0,
        save_steps=SAVE_STEPS,
        precision="bf16",
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
    parser.add_argument("--steps", type=int, default=2300)
    args = parser.parse_args()
    train_sparrow(args.work, num_steps=args.steps)
