"""Pretrain sparrow's encoder with CTC on letters (Graves et al., 2006).

    python recipes/sparrow/pretrain_encoder_ctc.py --work DIR --minutes 60

writes `DIR/encoder_ctc/encoder.safetensors` (keys `encoder.*` are those of a WhisperEncoder,
`ctc_head.*` its CTC head) and `config.json` beside it. An interrupted run is resumed.
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
from safetensors.torch import load_file, save
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from data_parallel import MixedPrecisionModel, compute_learning_rate, run_data_parallel
from dlm.io import write_atomic
from dlm.models.encoders import run_whisper_encoder
from mel_features import (
    LETTERS,
    NUM_MEL_BINS,
    CtcBatch,
    MelSplit,
    collate,
    decode_greedily,
    load_mel_split,
    make_batches,
    mask_mels,
)

PEAK_RATE, FLOOR_FRACTION, WARMUP_STEPS = 1.5e-3, 0.07, 200
BATCH_SIZE = 20  # of one process
SAVE_SECONDS, EVAL_SECONDS, LOG_STEPS = 180, 240, 50


class CtcModel(nn.Module):
    """An encoder with a CTC head over letters."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder = WhisperEncoder(config)
        self.ctc_head = nn.Linear(config.d_model, len(LETTERS) + 1)

    def forward(self, mels: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Compute log probabilities: (batch, encoder frames, classes)."""
        hidden = run_whisper_encoder(self.encoder, mels, num_frames)
        return self.ctc_head(hidden).float().log_softmax(-1)


@dataclass
class TrainState:
    """What an interrupted run resumes from.

    Attributes:
        model: with its master weights.
        optimizer: over them.
        step: steps done.
        epoch: of the training split, from 1.
        seconds: trained so far, in all runs.
        loss: of the last step.
        eval_log: scores of every evaluation.
    """

    model: MixedPrecisionModel
    optimizer: torch.optim.AdamW
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    eval_log: list[dict[str, float]] = field(default_factory=list)


def make_encoder_config() -> WhisperConfig:
    """Return the config of sparrow's encoder: 3.8 M parameters, a window of 15 s."""
    return WhisperConfig(
        attn_implementation="eager",  # on short windows faster than the fused kernel
        d_model=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=1024,
        num_mel_bins=NUM_MEL_BINS,
        max_source_positions=750,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )


def pretrain_encoder(work_dir: Path, *, minutes: float, num_processes: int = 2) -> None:
    """Train for `minutes` of wall-clock time, earlier interrupted runs included."""
    (work_dir / "encoder_ctc").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test", "unheard"):
        load_mel_split(work_dir, split, num_processes=num_processes)
    run_data_parallel(_train, num_processes, num_processes, work_dir, minutes)


def _train(rank: int, num_processes: int, work_dir: Path, minutes: float) -> None:
    """Train in one process; the first one also logs, evaluates and saves."""
    train, test, unheard = (load_mel_split(work_dir, name) for name in ("train", "test", "unheard"))
    state = _load_state(work_dir / "encoder_ctc")
    torch.manual_seed(1_000 * state.step + rank)
    seconds_before, start = state.seconds, time.monotonic()
    if seconds_before >= 60 * minutes:
        return
    last_save = last_eval = start
    for batch in _iter_batches(train, state, rank=rank, num_processes=num_processes):
        seconds = seconds_before + time.monotonic() - start
        _train_step(state, batch, seconds=seconds, minutes=minutes)
        finished = state.seconds >= 60 * minutes
        if rank == 0 and state.step % LOG_STEPS == 0:
            num_clips = state.step * BATCH_SIZE * num_processes  # roughly
            print(
                f"step {state.step}  epoch {state.epoch}  {state.seconds / 60:.1f} min  "
                f"loss {state.loss:.3f}  {num_clips / state.seconds:.0f} clips/s",
                flush=True,
            )
        if rank == 0 and (finished or time.monotonic() - last_eval > EVAL_SECONDS):
            _evaluate(state, test, unheard)
            last_eval = time.monotonic()
        if rank == 0 and (finished or time.monotonic() - last_save > SAVE_SECONDS):
            _save_state(state, work_dir / "encoder_ctc")
            last_save = time.monotonic()
        if finished:
            return


def _load_state(folder: Path) -> TrainState:
    """Return the state of the interrupted run, or a new one."""
    torch.manual_seed(0)
    ctc_model = CtcModel(make_encoder_config())
    model = MixedPrecisionModel(ctc_model)
    optimizer = torch.optim.AdamW(
        model.parameters, lr=0, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    state = TrainState(model, optimizer)
    if (folder / "state.json").exists():
        ctc_model.load_state_dict(load_file(folder / "encoder.safetensors"))
        optimizer_state = optimizer.state_dict()
        for key, value in load_file(folder / "optimizer.safetensors").items():
            index, name = key.split(".")
            optimizer_state["state"].setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(optimizer_state)
        progress = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state.step, state.epoch = progress["step"], progress["epoch"]
        state.seconds, state.eval_log = progress["seconds"], progress["eval_log"]
    return state


def _save_state(state: TrainState, folder: Path) -> None:
    """Write a checkpoint; state.json comes last, since a run resumes where it exists."""
    weights = state.model.fp32_model.state_dict()
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_atomic(folder / "encoder.safetensors", save(contiguous))
    moments = {
        f"{index}.{name}": tensor
        for index, tensors in state.optimizer.state_dict()["state"].items()
        for name, tensor in tensors.items()
    }
    write_atomic(folder / "optimizer.safetensors", save(moments))
    write_atomic(folder / "config.json", make_encoder_config().to_json_string())
    progress = {
        "step": state.step,
        "epoch": state.epoch,
        "seconds": state.seconds,
        "eval_log": state.eval_log,
    }
    write_atomic(folder / "state.json", json.dumps(progress, indent=1))


def _iter_batches(
    train: MelSplit, state: TrainState, *, rank: int, num_processes: int
) -> Iterator[CtcBatch]:
    """Yield the batches of this process, epoch after epoch; every process gets the same number."""
    while True:
        state.epoch += 1
        for index, rows in enumerate(make_batches(train, BATCH_SIZE, seed=state.epoch)):
            if index % num_processes == rank:
                yield collate(train, rows)


def _train_step(state: TrainState, batch: CtcBatch, *, seconds: float, minutes: float) -> None:
    """Update the weights from the batches of all processes, after `seconds` of training."""
    state.model.sync_weights()
    # padding is silence, and is not masked
    num_frames = torch.full_like(batch.num_frames, batch.mels.shape[2])
    log_probs = state.model.bf16_model(mask_mels(batch), num_frames)
    loss = nn.functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, (num_frames + 1) // 2, batch.target_lengths
    )
    loss.backward()
    state.loss, state.seconds = state.model.all_reduce_gradients([float(loss.detach()), seconds])
    progress = state.seconds / (60 * minutes)
    learning_rate = compute_learning_rate(
        state.step, progress, PEAK_RATE, FLOOR_FRACTION, WARMUP_STEPS
    )
    state.model.apply_step(state.optimizer, learning_rate)
    state.step += 1


@torch.no_grad()
def _evaluate(state: TrainState, test: MelSplit, unheard: MelSplit) -> None:
    """Print and record CER and WER of greedy decoding, by kind of voice."""
    engines = {
        engine: [n for n, row in enumerate(test.manifest) if row["engine"] == engine]
        for engine in ("espeak", "flite")
    }
    scores: dict[str, float] = {"step": state.step, "minutes": round(state.seconds / 60, 1)}
    for name, split, clips in (
        ("espeak", test, engines["espeak"][:100]),
        ("flite", test, engines["flite"][:60]),
        ("unheard", unheard, list(range(len(unheard.manifest)))),
    ):
        references = [split.get_text((clip,)) for clip in clips]
        hypotheses = _transcribe(state.model.fp32_model, split, clips)
        scores[f"{name}_cer"] = round(jiwer.cer(references, hypotheses), 4)
        scores[f"{name}_wer"] = round(jiwer.wer(references, hypotheses), 4)
    state.eval_log.append(scores)
    print("eval", json.dumps(scores), f"| {references[0]} -> {hypotheses[0]}", flush=True)


def _transcribe(ctc_model: nn.Module, split: MelSplit, clips: list[int]) -> list[str]:
    """Transcribe clips with greedy decoding, 20 at a time."""
    hypotheses = []
    for start in range(0, len(clips), 20):
        batch = collate(split, [(clip,) for clip in clips[start : start + 20]])
        with torch.autocast("cpu", torch.bfloat16):
            classes = ctc_model(batch.mels, batch.num_frames).argmax(-1)
        for row, num_frames in zip(classes.tolist(), batch.num_frames.tolist(), strict=True):
            hypotheses.append(decode_greedily(row[: (num_frames + 1) // 2]))
    return hypotheses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    pretrain_encoder(args.work, minutes=args.minutes)
