"""Which projector learns soonest, between sparrow's own encoder and language model?

    python recipes/sparrow/align.py --work DIR --kinds stack mlp concat pool --steps 3000

Only the projector learns, from random, on what the encoder hears of the clips that make.py left in
DIR. For each kind `DIR/align/<kind>.jsonl` holds a line for every measurement: loss, the listening
gap on held-out clips and, now and then, the word error rate of what is answered. The gap says when
the model begins to listen: it is near zero until then.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.samplers import build_batches
from dlm.data.types import AudioSegment, Example, Message
from dlm.features.extractor import AudioFeatures
from dlm.inference.engine import InferenceEngine
from dlm.inference.evaluate import compute_losses, evaluate_model
from dlm.models.adapters import apply_adapter
from dlm.models.composed import ComposedAudioLM
from dlm.models.cpu_kernels import use_cpu_kernels
from dlm.models.load import load_base_model
from dlm.plan.audio_lengths import AudioTokenizerSpec, count_audio_tokens
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.projector_spec import (
    ProjectorLike,
    compute_projector_strides,
    get_projector_learning_rate,
)
from dlm.plan.types import AdapterSpec, BatchPlan, TrainingPlan
from dlm.training.events import StepCompleted
from dlm.training.trainer import TrainerCallbacks, train_model
from hearing import hear_split

CLIPS_PER_STEP = 64
EARLY, EARLY_STEPS, GAP_STEPS, WER_STEPS = 150, 10, 50, 250
GAP_CLIPS, WER_CLIPS = 64, 100
LISTENS = 1.0  # nats a token: a gap from which the model is said to listen
FRAMES_PER_SECOND = 50
ONLY = AdapterSpec("projector", 8, 16, 0.0, ("projector",), None)


@dataclass(frozen=True)
class Kept:
    """What the encoder heard of every clip of a split, end to end, in half precision."""

    values: np.ndarray  # (frames of all clips, width)
    starts: np.ndarray  # (clips + 1,)
    places: dict[Path, int]
    strides: AudioTokenizerSpec

    def __call__(self, sound: AudioSegment) -> tuple[AudioFeatures, ...]:
        at = self.places[sound.path]
        values = torch.tensor(self.values[self.starts[at] : self.starts[at + 1]]).float()
        samples = len(values) * self.strides.hop_length * self.strides.encoder_stride
        return (
            AudioFeatures(
                values, len(values), samples, count_audio_tokens(samples, self.strides), True
            ),
        )


def align(work: Path, name: str, shape: ProjectorLike, *, steps: int, rate: float | None) -> None:
    """Teach one projector and write down how it goes."""
    model = fresh(shape)
    test, train = (kept(work, split, model) for split in ("test", "train"))
    apply_adapter(model, ONLY, seed=0)
    for part in (model.encoder, model.lm):
        part.to(torch.bfloat16)
    use_cpu_kernels(model, ("bf16_attention",))
    chat = ChatEncoder(model.tokenizer, model.spec)
    batches = build_batches(clips(work, "train"), _batches(model), chat, train)
    plan = _training(steps, rate or get_projector_learning_rate(shape))
    asked = clips(work, "test")
    using = InferenceEngine(model, chat, test, 50)
    began = time.monotonic()
    with (work / "align" / f"{name}.jsonl").open("w", encoding="utf-8") as log:
        for event in train_model(
            model, batches, plan, TrainerCallbacks(save_version_fn=lambda folder: None)
        ):
            every = (
                EARLY_STEPS
                if isinstance(event, StepCompleted) and event.step <= EARLY
                else GAP_STEPS
            )
            if not isinstance(event, StepCompleted) or event.step % every:
                continue
            told = {
                "step": event.step,
                "loss": event.loss,
                **compute_losses(using, asked[:GAP_CLIPS]),
            }
            if event.step % WER_STEPS == 0 or event.step == steps:
                some = asked if event.step == steps else asked[::3][:WER_CLIPS]
                told |= evaluate_model(using, some).scores | {"clips": len(some)}
            told |= {"seconds": time.monotonic() - began}
            log.write(json.dumps(told) + "\n")
            log.flush()
            model.train()


def fresh(shape: ProjectorLike) -> ComposedAudioLM:
    """Sparrow with a new projector in the place of its own."""
    sparrow = load_base_model(find_catalog_spec("sparrow"))
    stride, queries = compute_projector_strides(shape, FRAMES_PER_SECOND)
    strides = replace(sparrow.spec.audio_spec, projector=stride, queries=queries)
    asked = {"kind": shape} if isinstance(shape, str) else dict(shape)
    config = {**sparrow.config, "projector": asked}
    torch.manual_seed(0)
    model = ComposedAudioLM(replace(sparrow.spec, strides=strides), config, sparrow.tokenizer)
    own = sparrow.state_dict()
    parts = {name: each for name, each in own.items() if not name.startswith("projector.")}
    model.load_state_dict(parts, strict=False)
    return model.eval()


def kept(work: Path, split: str, model: ComposedAudioLM) -> Kept:
    """What sparrow's encoder hears of a split, heard once."""
    folder = work / "align"
    folder.mkdir(exist_ok=True)
    store, index = folder / f"{split}.npy", folder / f"{split}.starts.npy"
    mels = hear_split(work, split)
    if not index.exists():
        model.encoder.to(torch.bfloat16)
        counts = [-(-int(count) // 2) for count in np.diff(mels.starts)]
        starts = np.cumsum([0, *counts])
        shape = (int(starts[-1]), model.encoder.config.d_model)
        values = np.lib.format.open_memmap(store, "w+", np.float16, shape)
        for some in _alike(counts):
            _hear(model, [mels.mel(at) for at in some], [values[starts[at] :] for at in some])
        values.flush()
        np.save(index, starts)
        model.encoder.float()
    places = {work / line["path"]: at for at, line in enumerate(mels.lines)}
    return Kept(np.load(store, mmap_mode="r"), np.load(index), places, model.spec.audio_spec)


@torch.no_grad()
def _hear(model: ComposedAudioLM, mels: list[np.ndarray], targets: list[np.ndarray]) -> None:
    frames = torch.tensor([len(mel) for mel in mels])
    padded = torch.zeros(len(mels), mels[0].shape[1], int(frames.max()))
    for row, mel in zip(padded, mels, strict=True):
        row[:, : len(mel)] = torch.from_numpy(mel.T.astype("float32"))
    heard = model.encode_audio(padded, frames)
    for target, values, count in zip(
        targets, heard.hidden_states, heard.lengths.tolist(), strict=True
    ):
        target[:count] = values[:count].half().numpy()


def _alike(counts: list[int]) -> Iterator[list[int]]:
    """Clips of like length, 64 at a time."""
    order = sorted(range(len(counts)), key=counts.__getitem__)
    for start in range(0, len(order), 64):
        yield order[start : start + 64]


def clips(work: Path, split: str) -> list[Example]:
    """A manifest as clips to transcribe."""
    lines = (work / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    made = []
    for line in map(json.loads, lines):
        turns = (
            Message("user", (AudioSegment(work / line["path"]),)),
            Message("assistant", (line["text"],)),
        )
        made.append(Example(turns, line["path"], "transcribe"))
    return made


def _batches(model: ComposedAudioLM) -> BatchPlan:
    return BatchPlan(
        spec=model.spec,
        global_batch_size=CLIPS_PER_STEP,
        micro_batch_size=CLIPS_PER_STEP,
        max_tokens=1024,
        auto_resample=False,
        max_windows=None,
        use_cached_features=True,
        seed=7,
    )


def _training(steps: int, rate: float) -> TrainingPlan:
    return TrainingPlan(
        num_steps=steps,
        learning_rate=rate,
        learning_rates={},
        weight_decay=0.0,
        max_grad_norm=1.0,
        lr_scheduler="cosine",
        warmup_steps=100,
        max_skipped_steps=5,
        save_interval_seconds=1e9,
        save_steps=None,
        precision="bf16",
        device="cpu",
        seed=7,
    )


def table(work: Path) -> None:
    """Say when each kind began to listen, and what it makes of held-out clips at the end."""
    for path in sorted((work / "align").glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        listens = next((row["step"] for row in rows if row.get("gap", 0) >= LISTENS), None)
        told = {name: rows[-1].get(name) for name in ("step", "loss", "gap", "wer", "seconds")}
        print(path.stem, json.dumps({"listens": listens, **told}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kinds", nargs="*", default=["stack", "mlp", "concat", "pool"])
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--steps", type=int, default=3000)
    given = parser.parse_args()
    for kind in given.kinds:
        shape = {"kind": kind, "stride": given.stride}
        align(given.work, kind, shape, steps=given.steps, rate=given.rate)
    table(given.work)
