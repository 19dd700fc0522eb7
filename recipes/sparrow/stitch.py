"""Encoder, projector and language model learn together to answer: the product's own trainer.

    python recipes/sparrow/stitch.py --work DIR --steps 2300

joins what the stages before left, trains them with `dlm.training.fit` in one process
for each core, and leaves `DIR/sparrow`, the folder that ships. The run's log is `DIR/stitch.log`;
killed and started again, it goes on from its last saved state.
"""

import argparse
import json
import os
import random
import shutil
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import multiprocessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from bridge import SHAPE
from dlm.batches.bucket import pack
from dlm.batches.chat import Chat
from dlm.clips.clip import Clip, Sound, Turn
from dlm.features.ear import Heard
from dlm.model.adapters import adapt
from dlm.model.stitched import Stitched, save_stitched
from dlm.plan.bases import Base
from dlm.plan.frames import Strides, tokens
from dlm.plan.plan import Adapter, BatchPlan, TrainingPlan
from dlm.plan.resolve import find
from dlm.training.events import Event, Finished, Saved, Step
from dlm.training.fit import Hooks, fit
from hearing import hear_split
from questions import PROMPT, ask
from warmup import encoder_config

CLIPS_PER_STEP = 64
RATES = {"encoder": 4e-4, "projector": 1e-3, "lm": 1e-3}
ASKED_SHARE = 0.3  # clips that are asked something else before they are transcribed
HIDDEN_SHARE, WIDEST_BAND, WIDEST_SPAN = 0.5, 12, 20  # of clips; in bins and frames
TELL_STEPS, SAVE_STEPS = 25, 150
EVERYTHING = Adapter("full", 8, 16, 0.0, ("encoder", "projector", "lm"), None)


def stitch(work: Path, *, steps: int, processes: int = 2) -> None:
    """Train until `steps`, going on from the last saved state."""
    if processes == 1:
        _train(0, 1, work, steps)
    else:
        multiprocessing.spawn(_train, (processes, work, steps), processes)


def join(work: Path) -> Stitched:
    """The three parts, as the stages before left them."""
    config = json.loads((work / "lm" / "config.json").read_text(encoding="utf-8"))
    shapes = {
        "encoders": [
            {"config": {**_encoder_shape(), "attn_implementation": "eager"}, "layer": "last"}
        ],
        "projector": SHAPE,
        "lm": {key: value for key, value in config.items() if not key.startswith("_")},
    }
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    model = Stitched(find("sparrow"), shapes, tokenizer)
    heard = load_file(work / "warmup" / "encoder.safetensors")
    part = {name[8:]: each for name, each in heard.items() if name.startswith("encoder.")}
    model.encoder.load_state_dict(part)
    spoken = AutoModelForCausalLM.from_pretrained(work / "lm", dtype=torch.float32)
    model.lm.load_state_dict(spoken.state_dict())
    model.projector.load_state_dict(load_file(work / "projector.safetensors"))
    return model


class HidingEar:
    """Hears the mels that the warm-up kept; a patch of time and one of tone is hidden from half."""

    def __init__(self, work: Path, strides: Strides) -> None:
        self.heard, self.strides = hear_split(work, "train"), strides
        self.places = {work / line["path"]: at for at, line in enumerate(self.heard.lines)}

    def __call__(self, sound: Sound) -> tuple[Heard, ...]:
        mel = torch.from_numpy(self.heard.mel(self.places[sound.path]).T.astype("float32"))
        bins, frames = mel.shape
        if random.random() < HIDDEN_SHARE:
            low, first = random.randrange(bins - WIDEST_BAND), random.randrange(frames)
            mel[low : low + random.randrange(WIDEST_BAND)] = 0.0
            mel[:, first : first + random.randrange(1 + min(WIDEST_SPAN, frames // 16))] = 0.0
        samples = frames * self.strides.hop
        return (Heard(mel, frames, samples, tokens(samples, self.strides), False),)


def clips(work: Path, split: str) -> list[Clip]:
    """A manifest as clips: all are transcribed, some are asked something else before."""
    lines = (work / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_clip(work, json.loads(line)) for line in lines]


def _clip(work: Path, line: dict[str, str]) -> Clip:
    sound = Sound(work / line["path"])
    chance = random.Random(line["path"])
    said = Turn("assistant", (line["text"],))
    if chance.random() >= ASKED_SHARE:
        return Clip((Turn("user", (sound,)), said), line["path"], "transcribe")
    question, answer = ask(line, seed=1)
    turns = (Turn("user", (sound, question)), Turn("assistant", (answer,)))
    return Clip((*turns, Turn("user", (PROMPT,)), said), line["path"], "answer")


def _encoder_shape() -> dict[str, object]:
    """What the encoder's configuration says that Whisper's defaults do not."""
    return {key: value for key, value in encoder_config().to_diff_dict().items() if key[0] != "_"}


def _train(rank: int, processes: int, work: Path, steps: int) -> None:
    """One process of the run; the first one also tells and saves."""
    _join_ranks(rank, processes)
    random.seed(rank)
    model = join(work)
    adapt(model, EVERYTHING, seed=0)
    base = model.base
    share = CLIPS_PER_STEP // processes
    plan = _batches(base, share)
    batches = pack(
        clips(work, "train"), plan, Chat(model.tokenizer, base), HidingEar(work, base.strides)
    )
    state = work / "stitch" / "state"
    hooks = Hooks(
        finish=partial(_finish, model), resume=state if (state / "state.json").exists() else None
    )
    for event in fit(model, batches, _training(steps), hooks):
        if rank == 0:
            _keep(work, event)


def _join_ranks(rank: int, processes: int) -> None:
    torch.set_num_threads(max((os.cpu_count() or 1) // processes, 1))
    if processes > 1:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ.update(where | ranks | {"OMP_NUM_THREADS": "1"})


def _batches(base: Base, share: int) -> BatchPlan:
    return BatchPlan(
        base=base,
        clips_per_step=CLIPS_PER_STEP,
        clips_per_batch=share,
        longest=1024,
        auto_resample=False,
        most_windows=None,
        heard=False,
        seed=7,
    )


def _training(steps: int) -> TrainingPlan:
    return TrainingPlan(
        steps=steps,
        learning_rate=1e-3,
        rates=RATES,
        weight_decay=0.01,
        max_gradient_norm=1.0,
        schedule="cosine",
        warmup_steps=100,
        max_skipped_steps=5,
        save_seconds=180.0,
        save_steps=SAVE_STEPS,
        precision="bf16",
        device="cpu",
        seed=7,
    )


def _keep(work: Path, event: Event) -> None:
    """Tell a step now and then; keep states, and at the end the base itself."""
    if isinstance(event, Step) and event.step % TELL_STEPS == 0:
        told = f"step {event.step}  loss {event.loss:.3f}  norm {event.gradient_norm:.2f}"
        with (work / "stitch.log").open("a", encoding="utf-8") as log:
            log.write(f"{told}  {event.clips / event.seconds:.0f} clips/s\n")
    if isinstance(event, Saved):
        made, place = work / "stitch" / "new", work / ("sparrow" if event.final else "stitch/state")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        event.write(made)
        shutil.rmtree(place, ignore_errors=True)
        made.replace(place)
    if isinstance(event, Finished):
        shutil.rmtree(work / "stitch", ignore_errors=True)


def _finish(model: Stitched, folder: Path) -> None:
    """What ships: half precision keeps it within 10 MB."""
    save_stitched(model, folder, dtype=torch.float16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2300)
    given = parser.parse_args()
    stitch(given.work, steps=given.steps)
