"""Encoder, projector and language model learn together to answer: the product's own trainer.

    python recipes/sparrow/stitch.py --work DIR --steps 2300

joins what the stages before left, trains them with `dlm.training.trainer` in one process
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
from hearing import hear_split
from questions import PROMPT, ask
from warmup import encoder_config

CLIPS_PER_STEP = 64
RATES = {"encoder": 4e-4, "projector": 1e-3, "lm": 1e-3}
ASKED_SHARE = 0.3  # clips that are asked something else before they are transcribed
HIDDEN_SHARE, WIDEST_BAND, WIDEST_SPAN = 0.5, 12, 20  # of clips; in bins and frames
TELL_STEPS, SAVE_STEPS = 25, 150
EVERYTHING = AdapterSpec("full", 8, 16, 0.0, ("encoder", "projector", "lm"), None)


def stitch(work: Path, *, steps: int, processes: int = 2) -> None:
    """Train until `steps`, going on from the last saved state."""
    if processes == 1:
        _train(0, 1, work, steps)
    else:
        multiprocessing.spawn(_train, (processes, work, steps), processes)


def join(work: Path) -> ComposedAudioLM:
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
    model = ComposedAudioLM(find_catalog_spec("sparrow"), shapes, tokenizer)
    heard = load_file(work / "warmup" / "encoder.safetensors")
    part = {name[8:]: each for name, each in heard.items() if name.startswith("encoder.")}
    model.encoder.load_state_dict(part)
    spoken = AutoModelForCausalLM.from_pretrained(work / "lm", dtype=torch.float32)
    model.lm.load_state_dict(spoken.state_dict())
    model.projector.load_state_dict(load_file(work / "projector.safetensors"))
    return model


class HidingEar:
    """Hears the mels that the warm-up kept; a patch of time and one of tone is hidden from half."""

    def __init__(self, work: Path, strides: AudioTokenizerSpec) -> None:
        self.heard, self.strides = hear_split(work, "train"), strides
        self.places = {work / line["path"]: at for at, line in enumerate(self.heard.lines)}

    def __call__(self, sound: AudioSegment) -> tuple[AudioFeatures, ...]:
        mel = torch.from_numpy(self.heard.mel(self.places[sound.path]).T.astype("float32"))
        bins, frames = mel.shape
        if random.random() < HIDDEN_SHARE:
            low, first = random.randrange(bins - WIDEST_BAND), random.randrange(frames)
            mel[low : low + random.randrange(WIDEST_BAND)] = 0.0
            mel[:, first : first + random.randrange(1 + min(WIDEST_SPAN, frames // 16))] = 0.0
        samples = frames * self.strides.hop_length
        return (
            AudioFeatures(mel, frames, samples, count_audio_tokens(samples, self.strides), False),
        )


def clips(work: Path, split: str) -> list[Example]:
    """A manifest as clips: all are transcribed, some are asked something else before."""
    lines = (work / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_clip(work, json.loads(line)) for line in lines]


def _clip(work: Path, line: dict[str, str]) -> Example:
    sound = AudioSegment(work / line["path"])
    chance = random.Random(line["path"])
    said = Message("assistant", (line["text"],))
    if chance.random() >= ASKED_SHARE:
        return Example((Message("user", (sound,)), said), line["path"], "transcribe")
    question, answer = ask(line, seed=1)
    turns = (Message("user", (sound, question)), Message("assistant", (answer,)))
    return Example((*turns, Message("user", (PROMPT,)), said), line["path"], "answer")


def _encoder_shape() -> dict[str, object]:
    """What the encoder's configuration says that Whisper's defaults do not."""
    return {key: value for key, value in encoder_config().to_diff_dict().items() if key[0] != "_"}


def _train(rank: int, processes: int, work: Path, steps: int) -> None:
    """One process of the run; the first one also tells and saves."""
    _join_ranks(rank, processes)
    random.seed(rank)
    model = join(work)
    apply_adapter(model, EVERYTHING, seed=0)
    base = model.spec
    share = CLIPS_PER_STEP // processes
    plan = _batches(base, share)
    batches = build_batches(
        clips(work, "train"),
        plan,
        ChatEncoder(model.tokenizer, base),
        HidingEar(work, base.audio_spec),
    )
    state = work / "stitch" / "state"
    hooks = TrainerCallbacks(
        save_version_fn=partial(_finish, model),
        resume_dir=state if (state / "state.json").exists() else None,
    )
    for event in train_model(model, batches, _training(steps), hooks):
        if rank == 0:
            _keep(work, event)


def _join_ranks(rank: int, processes: int) -> None:
    torch.set_num_threads(max((os.cpu_count() or 1) // processes, 1))
    if processes > 1:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ.update(where | ranks | {"OMP_NUM_THREADS": "1"})


def _batches(base: ModelSpec, share: int) -> BatchPlan:
    return BatchPlan(
        spec=base,
        global_batch_size=CLIPS_PER_STEP,
        micro_batch_size=share,
        max_tokens=1024,
        auto_resample=False,
        max_windows=None,
        use_cached_features=False,
        seed=7,
    )


def _training(steps: int) -> TrainingPlan:
    return TrainingPlan(
        num_steps=steps,
        learning_rate=1e-3,
        learning_rates=RATES,
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


def _keep(work: Path, event: TrainingEvent) -> None:
    """Tell a step now and then; keep states, and at the end the base itself."""
    if isinstance(event, StepCompleted) and event.step % TELL_STEPS == 0:
        told = f"step {event.step}  loss {event.loss:.3f}  norm {event.grad_norm:.2f}"
        with (work / "stitch.log").open("a", encoding="utf-8") as log:
            log.write(f"{told}  {event.num_examples / event.seconds:.0f} clips/s\n")
    if isinstance(event, CheckpointSaved):
        made, place = (
            work / "stitch" / "new",
            work / ("sparrow" if event.is_final else "stitch/state"),
        )
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        event.write_fn(made)
        shutil.rmtree(place, ignore_errors=True)
        made.replace(place)
    if isinstance(event, TrainingFinished):
        shutil.rmtree(work / "stitch", ignore_errors=True)


def _finish(model: ComposedAudioLM, folder: Path) -> None:
    """What ships: half precision keeps it within 10 MB."""
    save_composed_model(model, folder, dtype=torch.float16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2300)
    given = parser.parse_args()
    stitch(given.work, steps=given.steps)
