"""Hidden states of sparrow's encoder for every clip, computed once; it is frozen from now on.

    python recipes/sparrow/encoder_features.py --work DIR --whisper FOLDER

writes `DIR/features/<split>/<number>.npy`, float16 (frames, 384), for every clip of the manifests,
and `<number>-<clips>.npy` for rows of several clips in a row, so that long recordings are learned
too. In training, what natural voices say is there in several versions (`<number>.<version>.npy`),
each augmented again: without, the language model learns the hidden states by heart. FOLDER is
Whisper tiny.en as transformers has it, whose weights are replaced by those that train_encoder.py
wrote. A file that exists is not computed again.
"""

import argparse
import random
import zlib
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from augment import augment_waveform
from dlm.features.log_mel import compute_log_mel
from dlm.models.encoders import load_encoder, run_whisper_encoder
from dlm.plan.model_ref import read_hf_config
from synthesize_speech import SAMPLE_RATE, SPLITS, ManifestRow, read_manifest

HOP_LENGTH, NUM_MEL_BINS = 160, 80
HIDDEN_SIZE = 384
CONCAT_PROBABILITY = 0.2  # that a clip begins a row of several, besides the row of its own
MAX_ROW_SECONDS = 20.0
NATURAL_REPEATS = 4
PAUSE_SECONDS = (0.1, 0.8)  # between clips of a row


def load_rows(work_dir: Path, split: str, *, all_versions: bool = False) -> list[ManifestRow]:
    """Return the rows of a split: every clip, and in training also several in a row.

    `clips` are their files, `features` the file of their hidden states, `version` 0 for the clips
    as they are; with `all_versions` there are others of natural voices in training.
    """
    manifest = read_manifest(work_dir / f"{split}.jsonl")
    rows = []
    for index, row in enumerate(manifest):
        features = f"features/{split}/{Path(row['path']).stem}"
        row["version"] = 0
        rows.append({**row, "clips": [row["path"]], "features": f"{features}.npy"})
        rng = random.Random(row["path"])
        if split == "train" and rng.random() < CONCAT_PROBABILITY:
            parts = _take_seconds(work_dir, manifest[index : index + rng.randint(2, 5)])
            text = " ".join(part["text"] for part in parts if part["text"])
            clips = [part["path"] for part in parts]
            file_name = f"{features}-{len(clips)}.npy"
            rows.append({**row, "text": text, "clips": clips, "features": file_name})
    if split != "train" or not all_versions:
        return rows
    return [
        {**row, "version": version, "features": row["features"].replace(".npy", suffix)}
        for row in rows
        for version in range(count_repeats(row))
        for suffix in (f".{version}.npy" if version else ".npy",)
    ]


def count_repeats(row: ManifestRow) -> int:
    """How often an epoch has a row: what a natural voice says counts more."""
    return NATURAL_REPEATS if row["engine"] in ("kokoro", "piper") else 1


def _take_seconds(work_dir: Path, manifest: list[ManifestRow]) -> list[ManifestRow]:
    """The first clips, as many as MAX_ROW_SECONDS hold with the longest pauses; one or more."""
    seconds = np.cumsum([soundfile.info(work_dir / row["path"]).duration for row in manifest])
    return manifest[: max(1, sum(seconds + PAUSE_SECONDS[1] * len(manifest) < MAX_ROW_SECONDS))]


def compute_features(
    work_dir: Path, whisper_dir: Path, *, num_processes: int = 2, splits: tuple[str, ...] = ()
) -> None:
    """Compute the hidden states of every row that has none."""
    jobs = [
        (work_dir, whisper_dir, row)
        for split in splits or SPLITS
        for row in load_rows(work_dir, split, all_versions=True)
        if not (work_dir / row["features"]).exists()
    ]
    with Pool(num_processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for index, _ in enumerate(pool.imap_unordered(_compute_row, jobs, chunksize=16)):
            if index % 1_000 == 0:
                print(f"features: {index} of {len(jobs)}", flush=True)


def load_whisper_encoder(whisper_dir: Path) -> WhisperEncoder:
    """Load Whisper's encoder."""
    encoder = load_encoder(whisper_dir, read_hf_config(whisper_dir))
    assert isinstance(encoder, WhisperEncoder)
    return encoder


@cache
def load_trained_encoder(work_dir: Path, whisper_dir: Path) -> WhisperEncoder:
    """Load the encoder of train_encoder.py, on the first call."""
    encoder = load_whisper_encoder(whisper_dir)
    encoder.load_state_dict(load_file(work_dir / "encoder.safetensors"))
    return encoder.eval()


@torch.no_grad()
def _compute_row(job: tuple[Path, Path, ManifestRow]) -> None:
    work_dir, whisper_dir, row = job
    waveform = load_row_waveform(work_dir, row)
    if row["version"]:
        waveform = augment_waveform(
            waveform, np.random.default_rng(zlib.crc32(row["features"].encode()))
        )
    mel = compute_log_mel(
        waveform,
        rate=SAMPLE_RATE,
        hop_length=HOP_LENGTH,
        num_mel_bins=NUM_MEL_BINS,
    )
    num_frames = torch.tensor([mel.shape[1]])
    hidden = run_whisper_encoder(
        load_trained_encoder(work_dir, whisper_dir), mel[None], num_frames
    )[0]
    save_features(work_dir, row, hidden)


def save_features(work_dir: Path, row: ManifestRow, hidden: torch.Tensor) -> None:
    """Write the hidden states of a row, (frames, HIDDEN_SIZE), as float16."""
    path = work_dir / row["features"]
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = path.with_suffix(f".{random.random()}")
    with temp_path.open("wb") as file:
        np.save(file, hidden.half().numpy())
    temp_path.replace(path)


def load_row_waveform(work_dir: Path, row: ManifestRow) -> np.ndarray:
    """Load the clips of a row with pauses between them: float32 (samples,)."""
    rng = random.Random(row["features"])
    parts: list[np.ndarray] = []
    for clip in row["clips"]:
        pause = int(rng.uniform(*PAUSE_SECONDS) * SAMPLE_RATE) if parts else 0
        parts += [np.zeros(pause, np.float32), soundfile.read(work_dir / clip, dtype="float32")[0]]
    return np.concatenate(parts)[: int(MAX_ROW_SECONDS * SAMPLE_RATE)]


def load_features(work_dir: Path, rows: list[ManifestRow]) -> list[np.ndarray]:
    """Load the hidden states of rows, float16 (frames, HIDDEN_SIZE) each."""
    return [np.load(work_dir / row["features"]) for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    compute_features(args.work, args.whisper, num_processes=args.processes)
