"""Log-mels of synthesized clips, computed once, and their batches for CTC: targets, SpecAugment."""

import random
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import soundfile
import torch

from dlm.features.log_mel import compute_log_mel
from synthesize_speech import SAMPLE_RATE, ManifestRow, read_manifest

HOP_LENGTH, NUM_MEL_BINS = 160, 80
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"  # letter i is class i + 1; class 0 is the blank
CONCAT_PROBABILITY = 0.04  # that a row is several clips, so that long windows are trained on too
MAX_FRAMES = 1_480  # within the encoder's window of 15 s

ClipRow = tuple[int, ...]  # the clips that follow each other in a row of a batch


@dataclass(frozen=True)
class MelSplit:
    """The log-mels of a split.

    Attributes:
        mels: (frames of all clips, num_mel_bins), float16.
        starts: (clips + 1,) first frame of each clip.
        manifest: a row for each clip.
    """

    mels: np.ndarray
    starts: np.ndarray
    manifest: list[ManifestRow]

    def get_mel(self, clip: int) -> np.ndarray:
        return self.mels[self.starts[clip] : self.starts[clip + 1]]

    def count_frames(self, row: ClipRow) -> int:
        return int(sum(self.starts[clip + 1] - self.starts[clip] for clip in row))

    def get_text(self, row: ClipRow) -> str:
        return " ".join(self.manifest[clip]["text"] for clip in row)


@dataclass(frozen=True)
class CtcBatch:
    """Rows of similar length.

    Attributes:
        mels: (batch, num_mel_bins, frames).
        num_frames: (batch,) frames that are not padding.
        targets: (letters of all rows,) classes.
        target_lengths: (batch,) letters of each row.
    """

    mels: torch.Tensor
    num_frames: torch.Tensor
    targets: torch.Tensor
    target_lengths: torch.Tensor


def load_mel_split(work_dir: Path, split: str, *, num_processes: int = 2) -> MelSplit:
    """Return the log-mels of a split, computed on the first call and read from disk later."""
    manifest = read_manifest(work_dir / f"{split}.jsonl")
    mel_file, index_file = work_dir / f"{split}.mel.npy", work_dir / f"{split}.starts.npy"
    if not index_file.exists():
        with Pool(num_processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            paths = [work_dir / row["path"] for row in manifest]
            mels = pool.map(_compute_mel, paths, chunksize=200)
        np.save(mel_file, np.concatenate(mels))
        np.save(index_file, np.cumsum([0] + [len(mel) for mel in mels]))
    return MelSplit(np.load(mel_file, mmap_mode="r"), np.load(index_file), manifest)


def _compute_mel(path: Path) -> np.ndarray:
    samples, _ = soundfile.read(path, dtype="float32")
    mel = compute_log_mel(
        samples, rate=SAMPLE_RATE, hop_length=HOP_LENGTH, num_mel_bins=NUM_MEL_BINS
    )
    return mel.T.half().numpy()


def make_batches(split: MelSplit, batch_size: int, *, seed: int) -> list[list[ClipRow]]:
    """Return one epoch in random order: rows of similar length, about `batch_size` clips of audio.

    The number of batches is even, so that two processes get the same number.
    """
    rng = random.Random(seed)
    rows = sorted(
        _make_rows(split, rng), key=lambda row: split.count_frames(row) + rng.uniform(-12, 12)
    )
    max_frames = batch_size * split.starts[-1] / len(split.manifest)
    batches: list[list[ClipRow]] = [[]]
    for row in rows:
        if batches[-1] and split.count_frames(row) * (len(batches[-1]) + 1) > max_frames:
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches[: len(batches) // 2 * 2]


def _make_rows(split: MelSplit, rng: random.Random) -> list[ClipRow]:
    """Return every clip once: most alone in a row, some with the next few."""
    clips = list(range(len(split.manifest)))
    rng.shuffle(clips)
    rows: list[ClipRow] = []
    while clips:
        row = (clips.pop(),)
        if rng.random() < CONCAT_PROBABILITY:
            for _ in range(rng.randint(1, 4)):
                if clips and split.count_frames((*row, clips[-1])) <= MAX_FRAMES:
                    row = (*row, clips.pop())
        rows.append(row)
    return rows


def collate(split: MelSplit, rows: list[ClipRow]) -> CtcBatch:
    """Pad rows with silence to one batch."""
    num_frames = torch.tensor([split.count_frames(row) for row in rows])
    mels = np.zeros((len(rows), int(num_frames.max()), NUM_MEL_BINS), np.float16)
    for padded, row in zip(mels, rows, strict=True):
        mel = np.concatenate([split.get_mel(clip) for clip in row])
        padded[: len(mel)] = mel
        padded[len(mel) :] = mel.min()  # silence
    targets = [[LETTERS.index(letter) + 1 for letter in split.get_text(row)] for row in rows]
    return CtcBatch(
        torch.from_numpy(mels).transpose(1, 2).float(),
        num_frames,
        torch.tensor([class_id for target in targets for class_id in target]),
        torch.tensor([len(target) for target in targets]),
    )


def decode_greedily(classes: list[int]) -> str:
    """Decode the best class of each frame to text: merge repetitions, drop blanks."""
    changes = [now for now, before in zip(classes, [0, *classes], strict=False) if now != before]
    return "".join(LETTERS[class_id - 1] for class_id in changes if class_id)


def mask_mels(batch: CtcBatch) -> torch.Tensor:
    """Mask a band of mel bins and a span of frames in half of the rows (SpecAugment)."""
    batch_size, num_mel_bins, max_frames = batch.mels.shape
    is_masked = torch.rand(batch_size) < 0.5
    low = torch.rand(batch_size) * (num_mel_bins - 12)
    start = torch.rand(batch_size) * batch.num_frames
    high = low + torch.rand(batch_size) * 12 * is_masked
    stop = start + torch.rand(batch_size) * (batch.num_frames * 0.06).clamp(max=20) * is_masked
    mel_bin, frame = torch.arange(num_mel_bins), torch.arange(max_frames)
    band = (mel_bin >= low[:, None]) & (mel_bin < high[:, None])
    span = (frame >= start[:, None]) & (frame < stop[:, None])
    return batch.mels.masked_fill(band[:, :, None] | span[:, None, :], 0.0)
