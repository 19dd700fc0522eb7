"""What the warmed-up encoder spells, position by position.

    python recipes/sparrow/letters.py --work DIR

leaves `DIR/letters.jsonl` (manifest lines with `heard`: the letters of every 80 ms, misheard ones
included), from which the language model learns to read, and `DIR/features.npy`: what the encoder
heard in the first of these clips, for the projector's first lesson.
"""

import argparse
import json
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from dlm.models.encoders import run_whisper_encoder
from dlm.plan.audio_lengths import ceil_div
from hearing import LETTERS, Heard, collate, hear_split
from warmup import Speller, encoder_config

CLIPS, KEPT = 9_000, 2_500  # spelled, and of these kept as features
STRIDE = 4  # encoder frames to a position
WIDTH = 256
ROWS = 25

Spelled = tuple[list[str], np.ndarray]  # letters and (positions, STRIDE * WIDTH) of one clip


def spell_clips(work: Path, *, processes: int = 2) -> None:
    """Hear the first clips of the training split."""
    if (work / "features.npy").exists():
        return
    lines = hear_split(work, "train").lines[:CLIPS]
    starts = range(0, len(lines), ROWS)
    jobs = [(work, range(start, min(start + ROWS, len(lines)))) for start in starts]
    with Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        clips = [clip for made in pool.imap(_spell, jobs) for clip in made]
    with (work / "letters.jsonl").open("w", encoding="utf-8") as out:
        for line, (heard, _) in zip(lines, clips, strict=True):
            out.write(json.dumps({**line, "heard": heard}) + "\n")
    np.save(work / "features.npy", np.concatenate([stacked for _, stacked in clips[:KEPT]]))


@cache
def _ready(work: Path) -> tuple[Speller, Heard]:
    """What every process opens once."""
    speller = Speller(encoder_config())
    speller.load_state_dict(load_file(work / "warmup" / "encoder.safetensors"))
    return speller, hear_split(work, "train")


@torch.no_grad()
def _spell(job: tuple[Path, range]) -> list[Spelled]:
    work, clips = job
    speller, train = _ready(work)
    batch = collate(train, [(clip,) for clip in clips])
    with torch.autocast("cpu", torch.bfloat16):
        heard = run_whisper_encoder(speller.encoder, batch.mel, batch.frames).float()
        best = speller.letters(heard).argmax(-1)
    frames = ((batch.frames + 1) // 2).tolist()
    return [
        (_positions(row[:end].tolist()), _stacked(values[:end], keep=clip < KEPT))
        for clip, row, values, end in zip(clips, best, heard, frames, strict=True)
    ]


def _positions(classes: list[int]) -> list[str]:
    """The letters that begin in each position of STRIDE frames."""
    positions = [""] * ceil_div(len(classes), STRIDE)
    for frame, (now, before) in enumerate(zip(classes, [0, *classes], strict=False)):
        if now and now != before:
            positions[frame // STRIDE] += LETTERS[now - 1]
    return positions


def _stacked(values: torch.Tensor, *, keep: bool) -> np.ndarray:
    """(frames, width) -> (positions, STRIDE * width), the last one filled with zeros."""
    if not keep:
        return np.zeros((0, STRIDE * WIDTH), np.float16)
    steps = ceil_div(len(values), STRIDE)
    filled = torch.nn.functional.pad(values, (0, 0, 0, steps * STRIDE - len(values)))
    return filled.reshape(steps, STRIDE * WIDTH).half().numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    spell_clips(parser.parse_args().work)
