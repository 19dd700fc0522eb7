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

from dlm.batches.bucket import pack
from dlm.batches.chat import Chat
from dlm.clips.clip import Clip, Sound, Turn
from dlm.features.ear import Heard
from dlm.model.adapters import adapt
from dlm.model.attention import attend_in_bf16
from dlm.model.load import load_base
from dlm.model.stitched import Stitched
from dlm.plan.frames import Strides, tokens
from dlm.plan.plan import Adapter, BatchPlan, TrainingPlan
from dlm.plan.projectors import Written, projector_learning_rate, projector_strides
from dlm.plan.resolve import find
from dlm.training.events import Step
from dlm.training.fit import Hooks, fit
from dlm.use.evaluate import evaluate, losses
from dlm.use.ready import Ready
from hearing import hear_split

CLIPS_PER_STEP = 64
EARLY, EARLY_STEPS, GAP_STEPS, WER_STEPS = 150, 10, 50, 250
GAP_CLIPS, WER_CLIPS = 64, 100
LISTENS = 1.0  # nats a token: a gap from which the model is said to listen
FRAMES_PER_SECOND = 50
ONLY = Adapter("projector", 8, 16, 0.0, ("projector",), None)


@dataclass(frozen=True)
class Kept:
    """What the encoder heard of every clip of a split, end to end, in half precision."""

    values: np.ndarray  # (frames of all clips, width)
    starts: np.ndarray  # (clips + 1,)
    places: dict[Path, int]
    strides: Strides

    def __call__(self, sound: Sound) -> tuple[Heard, ...]:
        at = self.places[sound.path]
        values = torch.tensor(self.values[self.starts[at] : self.starts[at + 1]]).float()
        samples = len(values) * self.strides.hop * self.strides.encoder
        return (Heard(values, len(values), samples, tokens(samples, self.strides), True),)


def align(work: Path, name: str, shape: Written, *, steps: int, rate: float | None) -> None:
    """Teach one projector and write down how it goes."""
    model = fresh(shape)
    test, train = (kept(work, split, model) for split in ("test", "train"))
    adapt(model, ONLY, seed=0)
    for part in (model.encoder, model.lm):
        part.to(torch.bfloat16)
    attend_in_bf16(model.decoder)
    chat = Chat(model.tokenizer, model.base)
    batches = pack(clips(work, "train"), _batches(model), chat, train)
    plan = _training(steps, rate or projector_learning_rate(shape))
    asked = clips(work, "test")
    using = Ready(model, chat, test, 50)
    began = time.monotonic()
    with (work / "align" / f"{name}.jsonl").open("w", encoding="utf-8") as log:
        for event in fit(model, batches, plan, Hooks(finish=lambda folder: None)):
            every = EARLY_STEPS if isinstance(event, Step) and event.step <= EARLY else GAP_STEPS
            if not isinstance(event, Step) or event.step % every:
                continue
            told = {"step": event.step, "loss": event.loss, **losses(using, asked[:GAP_CLIPS])}
            if event.step % WER_STEPS == 0 or event.step == steps:
                some = asked if event.step == steps else asked[::3][:WER_CLIPS]
                told |= evaluate(using, some).scores | {"clips": len(some)}
            told |= {"seconds": time.monotonic() - began}
            log.write(json.dumps(told) + "\n")
            log.flush()
            model.train()


def fresh(shape: Written) -> Stitched:
    """Sparrow with a new projector in the place of its own."""
    sparrow = load_base(find("sparrow"))
    stride, queries = projector_strides(shape, FRAMES_PER_SECOND)
    strides = replace(sparrow.base.strides, projector=stride, queries=queries)
    asked = {"kind": shape} if isinstance(shape, str) else dict(shape)
    config = {**sparrow.config, "projector": asked}
    torch.manual_seed(0)
    model = Stitched(replace(sparrow.base, strides=strides), config, sparrow.tokenizer)
    own = sparrow.state_dict()
    parts = {name: each for name, each in own.items() if not name.startswith("projector.")}
    model.load_state_dict(parts, strict=False)
    return model.eval()


def kept(work: Path, split: str, model: Stitched) -> Kept:
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
    return Kept(np.load(store, mmap_mode="r"), np.load(index), places, model.base.strides)


@torch.no_grad()
def _hear(model: Stitched, mels: list[np.ndarray], targets: list[np.ndarray]) -> None:
    frames = torch.tensor([len(mel) for mel in mels])
    padded = torch.zeros(len(mels), mels[0].shape[1], int(frames.max()))
    for row, mel in zip(padded, mels, strict=True):
        row[:, : len(mel)] = torch.from_numpy(mel.T.astype("float32"))
    heard = model.hear(padded, frames)
    for target, values, count in zip(targets, heard.values, heard.frames.tolist(), strict=True):
        target[:count] = values[:count].half().numpy()


def _alike(counts: list[int]) -> Iterator[list[int]]:
    """Clips of like length, 64 at a time."""
    order = sorted(range(len(counts)), key=counts.__getitem__)
    for start in range(0, len(order), 64):
        yield order[start : start + 64]


def clips(work: Path, split: str) -> list[Clip]:
    """A manifest as clips to transcribe."""
    lines = (work / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    made = []
    for line in map(json.loads, lines):
        turns = (Turn("user", (Sound(work / line["path"]),)), Turn("assistant", (line["text"],)))
        made.append(Clip(turns, line["path"], "transcribe"))
    return made


def _batches(model: Stitched) -> BatchPlan:
    return BatchPlan(
        base=model.base,
        clips_per_step=CLIPS_PER_STEP,
        clips_per_batch=CLIPS_PER_STEP,
        longest=1024,
        auto_resample=False,
        most_windows=None,
        heard=True,
        seed=7,
    )


def _training(steps: int, rate: float) -> TrainingPlan:
    return TrainingPlan(
        steps=steps,
        learning_rate=rate,
        rates={},
        weight_decay=0.0,
        max_gradient_norm=1.0,
        schedule="cosine",
        warmup_steps=100,
        max_skipped_steps=5,
        save_seconds=1e9,
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
