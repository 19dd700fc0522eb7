"""Decode the training clips with the CTC encoder, one position for every 80 ms.

    python recipes/sparrow/decode_ctc.py --work DIR

writes `DIR/ctc_letters.jsonl` (manifest rows with `letters`: those of every position, errors
included), which the language model is trained to read, and `DIR/encoder_output.npy`, the encoder's
output for the first of these clips, to which the projector is fitted.
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
from mel_features import LETTERS, MelSplit, collate, load_mel_split
from pretrain_encoder_ctc import CtcModel, make_encoder_config

NUM_CLIPS, NUM_FEATURE_CLIPS = 9_000, 2_500  # decoded, and of these written to encoder_output.npy
STRIDE = 4  # encoder frames of a position
HIDDEN_SIZE = 256
BATCH_SIZE = 25

DecodedClip = tuple[list[str], np.ndarray]  # letters, (positions, STRIDE * HIDDEN_SIZE)


def decode_train_clips(work_dir: Path, *, num_processes: int = 2) -> None:
    """Decode the first clips of the training split."""
    if (work_dir / "encoder_output.npy").exists():
        return
    manifest = load_mel_split(work_dir, "train").manifest[:NUM_CLIPS]
    jobs = [
        (work_dir, range(start, min(start + BATCH_SIZE, len(manifest))))
        for start in range(0, len(manifest), BATCH_SIZE)
    ]
    with Pool(num_processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        decoded = [clip for batch in pool.imap(_decode_batch, jobs) for clip in batch]
    with (work_dir / "ctc_letters.jsonl").open("w", encoding="utf-8") as file:
        for row, (letters, _) in zip(manifest, decoded, strict=True):
            file.write(json.dumps({**row, "letters": letters}) + "\n")
    features = [values for _, values in decoded[:NUM_FEATURE_CLIPS]]
    np.save(work_dir / "encoder_output.npy", np.concatenate(features))


@cache
def _load_model(work_dir: Path) -> tuple[CtcModel, MelSplit]:
    """Load the model and the clips, once in every process."""
    ctc_model = CtcModel(make_encoder_config())
    ctc_model.load_state_dict(load_file(work_dir / "encoder_ctc" / "encoder.safetensors"))
    return ctc_model, load_mel_split(work_dir, "train")


@torch.no_grad()
def _decode_batch(job: tuple[Path, range]) -> list[DecodedClip]:
    work_dir, clips = job
    ctc_model, train = _load_model(work_dir)
    batch = collate(train, [(clip,) for clip in clips])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = run_whisper_encoder(ctc_model.encoder, batch.mels, batch.num_frames).float()
        classes = ctc_model.ctc_head(hidden).argmax(-1)
    lengths = ((batch.num_frames + 1) // 2).tolist()
    return [
        (
            _group_letters(row[:length].tolist()),
            _stack_frames(values[: length if clip < NUM_FEATURE_CLIPS else 0]),
        )
        for clip, row, values, length in zip(clips, classes, hidden, lengths, strict=True)
    ]


def _group_letters(classes: list[int]) -> list[str]:
    """Return the letters that begin in each position."""
    letters = [""] * ceil_div(len(classes), STRIDE)
    for frame, (class_id, previous) in enumerate(zip(classes, [0, *classes], strict=False)):
        if class_id and class_id != previous:
            letters[frame // STRIDE] += LETTERS[class_id - 1]
    return letters


def _stack_frames(values: torch.Tensor) -> np.ndarray:
    """Stack (frames, HIDDEN_SIZE) to (positions, STRIDE * HIDDEN_SIZE), padded with zeros."""
    num_positions = ceil_div(len(values), STRIDE)
    padded = torch.nn.functional.pad(values, (0, 0, 0, num_positions * STRIDE - len(values)))
    return padded.reshape(num_positions, STRIDE * HIDDEN_SIZE).half().numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    decode_train_clips(parser.parse_args().work)
