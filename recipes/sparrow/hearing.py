"""Spoken clips as batches of letters to be heard: mels kept once, rows of like length together."""

import json
import random
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import soundfile
import torch

from dlm.features.log_mel import compute_log_mel

RATE, HOP, BINS = 16_000, 160, 80
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"  # letter i is class i + 1; class 0 is the blank
JOINED_SHARE = 0.04  # rows that are several clips end to end, so that long spans are heard too
LONGEST_FRAMES = 1_480  # within the 15 s window


@dataclass(frozen=True)
class Heard:
    """A split in memory: all mel frames end to end, where each clip starts, and its manifest."""

    mels: np.ndarray  # (frames of all clips, bins), half precision
    starts: np.ndarray  # (clips + 1,)
    lines: list[dict[str, str]]

    def mel(self, clip: int) -> np.ndarray:
        return self.mels[self.starts[clip] : self.starts[clip + 1]]

    def frames(self, clips: tuple[int, ...]) -> int:
        return int(sum(self.starts[clip + 1] - self.starts[clip] for clip in clips))

    def text(self, clips: tuple[int, ...]) -> str:
        return " ".join(self.lines[clip]["text"] for clip in clips)


@dataclass(frozen=True)
class Batch:
    """Rows of one length or nearly."""

    mel: torch.Tensor  # (rows, bins, frames)
    frames: torch.Tensor  # (rows,)
    letters: torch.Tensor  # (letters of all rows,)
    lengths: torch.Tensor  # (rows,)


def hear_split(work: Path, split: str, *, processes: int = 2) -> Heard:
    """The mels of a split, made on the first call and read from disk on the next."""
    manifest = (work / f"{split}.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in manifest.splitlines()]
    store, index = work / f"{split}.mel.npy", work / f"{split}.starts.npy"
    if not index.exists():
        with Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            paths = [work / line["path"] for line in lines]
            mels = pool.map(_mel_of, paths, chunksize=200)
        np.save(store, np.concatenate(mels))
        np.save(index, np.cumsum([0] + [len(mel) for mel in mels]))
    return Heard(np.load(store, mmap_mode="r"), np.load(index), lines)


def groups(heard: Heard, rows: int, *, seed: int) -> list[list[tuple[int, ...]]]:
    """One pass over a split in a random order: rows of like length, about `rows` clips of sound.

    The number of groups is even, so that two processes have the same work.
    """
    chance = random.Random(seed)
    order = sorted(
        _rows(heard, chance), key=lambda row: heard.frames(row) + chance.uniform(-12, 12)
    )
    budget = rows * heard.starts[-1] / len(heard.lines)
    made: list[list[tuple[int, ...]]] = [[]]
    for row in order:
        if made[-1] and heard.frames(row) * (len(made[-1]) + 1) > budget:
            made.append([])
        made[-1].append(row)
    chance.shuffle(made)
    return made[: len(made) // 2 * 2]


def collate(heard: Heard, rows: list[tuple[int, ...]]) -> Batch:
    """Rows of one or more clips as one batch."""
    frames = torch.tensor([heard.frames(row) for row in rows])
    mel = np.zeros((len(rows), int(frames.max()), BINS), np.float16)
    for place, row in zip(mel, rows, strict=True):
        sound = np.concatenate([heard.mel(clip) for clip in row])
        place[: len(sound)] = sound
        place[len(sound) :] = sound.min()  # silence
    spelled = [spell(heard.text(row)) for row in rows]
    return Batch(
        torch.from_numpy(mel).transpose(1, 2).float(),
        frames,
        torch.tensor([letter for word in spelled for letter in word]),
        torch.tensor([len(word) for word in spelled]),
    )


def spell(text: str) -> list[int]:
    """The classes of a text's letters."""
    return [LETTERS.index(letter) + 1 for letter in text]


def unspell(classes: list[int]) -> str:
    """The text of the best class at each frame: repetitions joined, blanks dropped."""
    kept = [now for now, before in zip(classes, [0, *classes], strict=False) if now != before]
    return "".join(LETTERS[letter - 1] for letter in kept if letter)


def hide_patches(batch: Batch) -> torch.Tensor:
    """The mel with a band of tones and a span of time blanked in half of the rows."""
    rows, bins, steps = batch.mel.shape
    often = torch.rand(rows) < 0.5
    low, start = torch.rand(rows) * (bins - 12), torch.rand(rows) * batch.frames
    high = low + torch.rand(rows) * 12 * often
    end = start + torch.rand(rows) * (batch.frames * 0.06).clamp(max=20) * often
    tone, step = torch.arange(bins), torch.arange(steps)
    banded = (tone >= low[:, None]) & (tone < high[:, None])
    spanned = (step >= start[:, None]) & (step < end[:, None])
    return batch.mel.masked_fill(banded[:, :, None] | spanned[:, None, :], 0.0)


def _rows(heard: Heard, chance: random.Random) -> list[tuple[int, ...]]:
    """Every clip once: most alone, some joined to the next few."""
    clips = list(range(len(heard.lines)))
    chance.shuffle(clips)
    rows: list[tuple[int, ...]] = []
    while clips:
        row = (clips.pop(),)
        if chance.random() < JOINED_SHARE:
            for _ in range(chance.randint(1, 4)):
                if clips and heard.frames((*row, clips[-1])) <= LONGEST_FRAMES:
                    row = (*row, clips.pop())
        rows.append(row)
    return rows


def _mel_of(path: Path) -> np.ndarray:
    samples, _ = soundfile.read(path, dtype="float32")
    return compute_log_mel(samples, rate=RATE, hop_length=HOP, num_mel_bins=BINS).T.half().numpy()
