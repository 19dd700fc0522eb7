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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.samplers import build_batches
from dlm.data.types import AudioSegment
from dlm.features.extractor import AudioFeatures
from dlm.inference.engine import InferenceEngine
from dlm.inference.evaluate import compute_losses, evaluate_model
from dlm.models.adapters import apply_adapter
from dlm.models.composed import ComposedAudioLM
from dlm.models.cpu_kernels import use_cpu_kernels
from dlm.models.load import load_base_model
from dlm.plan.audio_lengths import AudioTokenizerSpec, ceil_div, count_audio_tokens
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.projector_spec import (
    ProjectorLike,
    compute_projector_strides,
    get_projector_learning_rate,
)
from dlm.plan.types import AdapterSpec
from dlm.training.events import StepCompleted
from dlm.training.trainer import TrainerCallbacks, train_model
from mel_features import load_mel_split
from questions import make_example
from synthesize_speech import read_manifest
from train_all import GLOBAL_BATCH_SIZE, make_batch_plan, make_training_plan

EVAL_BATCH_SIZE, ENCODE_BATCH_SIZE = 50, 64
EARLY_STEPS, EARLY_EVAL_STEPS, EVAL_STEPS, WER_STEPS = 150, 10, 50, 250
NUM_GAP_CLIPS, NUM_WER_CLIPS = 64, 100
MIN_GAP = 1.0  # nats per token: from this gap on, the model is said to use the audio
FRAMES_PER_SECOND = 50
PROJECTOR_ONLY = AdapterSpec("projector", 8, 16, 0.0, ("projector",), None)


@dataclass(frozen=True)
class EncodedSplit:
    """The encoder's output for every clip of a split; called with a segment, its features.

    Attributes:
        values: (frames of all clips, hidden_size), float16.
        starts: (clips + 1,) first frame of each clip.
        clips: index of each audio file.
        audio_spec: of the model.
    """

    values: np.ndarray
    starts: np.ndarray
    clips: dict[Path, int]
    audio_spec: AudioTokenizerSpec

    def __call__(self, segment: AudioSegment) -> tuple[AudioFeatures, ...]:
        clip = self.clips[segment.path]
        values = torch.tensor(self.values[self.starts[clip] : self.starts[clip + 1]]).float()
        spec = self.audio_spec
        num_samples = len(values) * spec.hop_length * spec.encoder_stride
        num_tokens = count_audio_tokens(num_samples, spec)
        return (AudioFeatures(values, len(values), num_samples, num_tokens, is_encoded=True),)


def train_projector(
    work_dir: Path, config: ProjectorLike, log_file: Path, *, num_steps: int, learning_rate: float
) -> None:
    """Train one projector, and log its measurements."""
    model = build_model(config)
    test, train = (encode_split(work_dir, split, model) for split in ("test", "train"))
    apply_adapter(model, PROJECTOR_ONLY, seed=0)
    for component in (model.encoder, model.lm):
        component.to(torch.bfloat16)
    use_cpu_kernels(model, ("bf16_attention",))
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    examples = {
        split: [
            make_example(work_dir, row, row["text"])
            for row in read_manifest(work_dir / f"{split}.jsonl")
        ]
        for split in ("test", "train")
    }
    batch_plan = replace(make_batch_plan(model.spec, GLOBAL_BATCH_SIZE), use_cached_features=True)
    batches = build_batches(examples["train"], batch_plan, chat_encoder, train)
    plan = replace(
        make_training_plan(num_steps),
        learning_rate=learning_rate,
        learning_rates={},
        weight_decay=0.0,
        save_interval_seconds=1e9,
        save_steps=None,
    )
    engine = InferenceEngine(model, chat_encoder, test, EVAL_BATCH_SIZE)
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


def encode_split(work_dir: Path, split: str, model: ComposedAudioLM) -> EncodedSplit:
    """Return the encoder's output for a split, computed on the first call and then read."""
    folder = work_dir / "projectors"
    folder.mkdir(exist_ok=True)
    values_file, index_file = folder / f"{split}.npy", folder / f"{split}.starts.npy"
    mels = load_mel_split(work_dir, split)
    if not index_file.exists():
        model.encoder.to(torch.bfloat16)
        lengths = [ceil_div(int(num_frames), 2) for num_frames in np.diff(mels.starts)]
        starts = np.cumsum([0, *lengths])
        shape = (int(starts[-1]), model.encoder.config.d_model)
        values = np.lib.format.open_memmap(values_file, "w+", np.float16, shape)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        for first in range(0, len(order), ENCODE_BATCH_SIZE):
            clips = order[first : first + ENCODE_BATCH_SIZE]
            encoded = _encode_mels(model, [mels.get_mel(clip) for clip in clips])
            for clip, output in zip(clips, encoded, strict=True):
                values[starts[clip] : starts[clip + 1]] = output
        values.flush()
        np.save(index_file, starts)
        model.encoder.float()
    clips_by_path = {work_dir / row["path"]: n for n, row in enumerate(mels.manifest)}
    values, starts = np.load(values_file, mmap_mode="r"), np.load(index_file)
    return EncodedSplit(values, starts, clips_by_path, model.spec.audio_spec)


@torch.no_grad()
def _encode_mels(model: ComposedAudioLM, mels: list[np.ndarray]) -> list[np.ndarray]:
    """Encode log-mels (frames, num_mel_bins) to (encoder frames, hidden_size)."""
    num_frames = torch.tensor([len(mel) for mel in mels])
    padded = torch.zeros(len(mels), mels[0].shape[1], int(num_frames.max()))
    for row, mel in zip(padded, mels, strict=True):
        row[:, : len(mel)] = torch.from_numpy(mel.T.astype("float32"))
    output = model.encode_audio(padded, num_frames)
    return [
        values[:length].half().numpy()
        for values, length in zip(output.hidden_states, output.lengths.tolist(), strict=True)
    ]


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
