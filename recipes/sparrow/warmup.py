"""The encoder's first lessons: spell what is heard, letter by letter (CTC).

    python recipes/sparrow/warmup.py --work DIR --minutes 60

leaves `DIR/warmup/encoder.safetensors` (keys `encoder.*` are a WhisperEncoder, `letters.*` the
spelling head) and `DIR/warmup/config.json`; killed and started again, it goes on where it was.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from dlm.models.encoders import run_whisper_encoder
from hearing import (
    BINS,
    LETTERS,
    Batch,
    Heard,
    collate,
    groups,
    hear_split,
    hide_patches,
    unspell,
)
from together import Twins, run

PEAK_RATE, FLOOR_SHARE, RISING_STEPS = 1.5e-3, 0.07, 200
ROWS = 20  # in the batch of one process
SAVE_SECONDS, SCORE_SECONDS, TELL_STEPS = 180, 240, 50


class Speller(nn.Module):
    """An encoder and the letters it hears."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder = WhisperEncoder(config)
        self.letters = nn.Linear(config.d_model, len(LETTERS) + 1)

    def forward(self, mel: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        heard = run_whisper_encoder(self.encoder, mel, frames)  # (rows, encoder frames, width)
        return self.letters(heard).float().log_softmax(-1)


@dataclass
class State:
    """What a killed run needs to go on."""

    twins: Twins
    optimizer: torch.optim.AdamW
    step: int = 0
    passes: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    curve: list[dict[str, float]] = field(default_factory=list)


def encoder_config() -> WhisperConfig:
    """Sparrow's encoder: 3.8 M weights, a window of 15 s."""
    return WhisperConfig(
        attn_implementation="eager",  # on short spans faster than the fused kernel
        d_model=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=1024,
        num_mel_bins=BINS,
        max_source_positions=750,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )


def warm_up(work: Path, *, minutes: float, processes: int = 2) -> None:
    """Train for `minutes` of wall-clock time in all, resumed runs included."""
    (work / "warmup").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test", "unheard"):
        hear_split(work, split, processes=processes)
    run(_train, processes, processes, work, minutes)


def _train(rank: int, processes: int, work: Path, minutes: float) -> None:
    """What each process does; the first one also speaks, scores and saves."""
    train, test, unheard = (hear_split(work, name) for name in ("train", "test", "unheard"))
    state = _open(work / "warmup")
    torch.manual_seed(1_000 * state.step + rank)
    before, began = state.seconds, time.monotonic()
    if before >= 60 * minutes:
        return
    saved = scored = began
    for batch in _endless(train, state, rank=rank, processes=processes):
        _step(state, batch, now=before + time.monotonic() - began, minutes=minutes)
        done = state.seconds >= 60 * minutes
        if rank == 0 and state.step % TELL_STEPS == 0:
            _tell(state, processes)
        if rank == 0 and (done or time.monotonic() - scored > SCORE_SECONDS):
            _score(state, test, unheard)
            scored = time.monotonic()
        if rank == 0 and (done or time.monotonic() - saved > SAVE_SECONDS):
            _save(state, work / "warmup")
            saved = time.monotonic()
        if done:
            return


def _open(folder: Path) -> State:
    """A fresh state, or the one that a run before left."""
    torch.manual_seed(0)
    speller = Speller(encoder_config())
    twins = Twins(speller)
    optimizer = torch.optim.AdamW(
        twins.weights, lr=0, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    state = State(twins, optimizer)
    if (folder / "state.json").exists():
        kept = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        speller.load_state_dict(load_file(folder / "encoder.safetensors"))
        _load_moments(state.optimizer, load_file(folder / "optimizer.safetensors"))
        state.step, state.passes, state.seconds = kept["step"], kept["passes"], kept["seconds"]
        state.curve = kept["curve"]
    return state


def _save(state: State, folder: Path) -> None:
    """Every file appears whole; the small one that says "go on from here" comes last."""
    weights = {name: value.contiguous() for name, value in state.twins.exact.state_dict().items()}
    _replace(folder / "encoder.safetensors", weights)
    _replace(folder / "optimizer.safetensors", _moments(state.optimizer))
    config = encoder_config().to_json_string()
    (folder / "config.json").write_text(config, encoding="utf-8")
    kept = {
        "step": state.step,
        "passes": state.passes,
        "seconds": state.seconds,
        "curve": state.curve,
    }
    part = folder / "state.part"
    part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    part.replace(folder / "state.json")


def _replace(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    part = path.with_suffix(".part")
    save_file(tensors, part)
    part.replace(path)


def _moments(optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    kept = optimizer.state_dict()["state"]
    return {f"{weight}.{name}": kept[weight][name] for weight in kept for name in kept[weight]}


def _load_moments(optimizer: torch.optim.AdamW, kept: dict[str, torch.Tensor]) -> None:
    whole = optimizer.state_dict()
    for key, value in kept.items():
        weight, name = key.split(".")
        whole["state"].setdefault(int(weight), {})[name] = value
    optimizer.load_state_dict(whole)


def _endless(train: Heard, state: State, *, rank: int, processes: int) -> Iterator[Batch]:
    """This process's share of pass after pass, the same number of batches for each process."""
    while True:
        state.passes += 1
        for number, group in enumerate(groups(train, ROWS, seed=state.passes)):
            if number % processes == rank:
                yield collate(train, group)


def _step(state: State, batch: Batch, *, now: float, minutes: float) -> None:
    """One update from the batches of all processes; `now` seconds have gone."""
    state.twins.refresh()
    filled = torch.full_like(batch.frames, batch.mel.shape[2])  # padded with silence, not masked
    scores = state.twins.fast(hide_patches(batch), filled)
    loss = nn.functional.ctc_loss(
        scores.transpose(0, 1), batch.letters, (filled + 1) // 2, batch.lengths
    )
    loss.backward()
    state.loss, state.seconds = state.twins.average([float(loss.detach()), now])
    nn.utils.clip_grad_norm_(state.twins.weights, 1.0)
    for group in state.optimizer.param_groups:
        group["lr"] = _rate(state.step, state.seconds / (60 * minutes))
    state.optimizer.step()
    state.step += 1


def _rate(step: int, share: float) -> float:
    """The learning rate when `share` of the time has gone."""
    rising = min(1.0, (step + 1) / RISING_STEPS)
    falling = FLOOR_SHARE + (1 - FLOOR_SHARE) * (1 + math.cos(math.pi * min(share, 1))) / 2
    return PEAK_RATE * rising * falling


def _tell(state: State, processes: int) -> None:
    clips = state.step * ROWS * processes  # roughly
    print(
        f"step {state.step}  pass {state.passes}  {state.seconds / 60:.1f} min  "
        f"loss {state.loss:.3f}  {clips / state.seconds:.0f} clips/s",
        flush=True,
    )


@torch.no_grad()
def _score(state: State, test: Heard, unheard: Heard) -> None:
    """Letters and words wrong, greedily read, by kind of voice."""
    espeak = [n for n, line in enumerate(test.lines) if line["engine"] == "espeak"][:100]
    flite = [n for n, line in enumerate(test.lines) if line["engine"] == "flite"][:60]
    row: dict[str, float] = {"step": state.step, "minutes": round(state.seconds / 60, 1)}
    for name, heard, clips in (
        ("espeak", test, espeak),
        ("flite", test, flite),
        ("unheard", unheard, list(range(len(unheard.lines)))),
    ):
        said, read = _read(state.twins.exact, heard, clips)
        row[f"{name}_cer"] = round(jiwer.cer(said, read), 4)
        row[f"{name}_wer"] = round(jiwer.wer(said, read), 4)
    state.curve.append(row)
    print("score", json.dumps(row), f"| {said[0]} -> {read[0]}", flush=True)


def _read(speller: Speller, heard: Heard, clips: list[int]) -> tuple[list[str], list[str]]:
    """What was said in each clip, and what the speller reads."""
    said, read = [], []
    for start in range(0, len(clips), 20):
        rows = [(clip,) for clip in clips[start : start + 20]]
        batch = collate(heard, rows)
        with torch.autocast("cpu", torch.bfloat16):
            best = speller(batch.mel, batch.frames).argmax(-1)
        for row, line, frames in zip(rows, best.tolist(), batch.frames.tolist(), strict=True):
            said.append(heard.text(row))
            read.append(unspell(line[: (frames + 1) // 2]))
    return said, read


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    wanted = parser.parse_args()
    warm_up(wanted.work, minutes=wanted.minutes)
