"""Train Whisper tiny.en's encoder and sparrow's projector with CTC on the language model's tokens.

    python recipes/sparrow/train_encoder.py --work DIR --whisper FOLDER --minutes 40

writes `DIR/encoder.safetensors`, `DIR/projector.safetensors` (the weights of
`dlm.models.projectors.ConcatProjector`) and `DIR/ctc_embeddings.safetensors` (an embedding for each
token; the placeholder's is the blank's), and every few minutes `DIR/train_encoder.safetensors`,
from which an interrupted run continues. With CTC (Graves et al., 2006) a position of 80 ms is
scored against the embeddings of all tokens, so that the projector speaks in embeddings, and the
language model that starts from them can read it. The convolutions and the first layer stay
Whisper's, and a layer learns the slower the lower it is: what Whisper knows of people's voices is
kept.

    python recipes/sparrow/train_encoder.py --work DIR --whisper FOLDER --score FOLDER ...

prints the WER of greedy decoding on folders of recordings beside their texts.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from augment import augment_waveform
from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment
from dlm.features.log_mel import compute_log_mel
from dlm.inference.metrics import compute_character_errors, compute_word_errors
from dlm.models.audio_lm import EncoderOutput
from dlm.models.composed import ComposedAudioLM
from dlm.models.encoders import run_whisper_encoder
from dlm.models.load import load_base_model
from dlm.models.projectors import Projector, build_projector
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.hardware import detect_hardware
from dlm.plan.model_ref import find_catalog_spec
from encoder_features import (
    HIDDEN_SIZE,
    HOP_LENGTH,
    NUM_MEL_BINS,
    count_repeats,
    load_row_waveform,
    load_rows,
    load_whisper_encoder,
)
from synthesize_speech import SAMPLE_RATE, ManifestRow
from train_tokenizer import AUDIO_TOKEN

LM_HIDDEN_SIZE = 192
PROJECTOR_CONFIG = {"kind": "concat", "hidden": 512, "activation": "gelu", "norm": True}
STRIDE = 4  # encoder frames of a position
FIRST_TRAINED_LAYER, FIRST_ENCODER_STEP = 1, 300
ENCODER_RATE, LAYER_DECAY = 3e-4, 0.6  # of the last layer, and of a layer to the one above it
STARTED_EMBEDDING_RATE = 2e-4  # so that the language model that is there can read them
PROJECTOR_RATE, FLOOR_FRACTION, WARMUP_STEPS, LOG_STEPS = 2e-3, 0.02, 200, 50
BATCH_SECONDS, POOL_SECONDS = 80.0, 640.0  # of a step, and of what is sorted by length together
MEL_PAD_MULTIPLE = 64  # frames: a CPU's library compiles a product for every new length
AUGMENT_AGAIN_PROBABILITY = 0.4
NUM_MASKS, MAX_MASKED_FRAMES, MAX_MASKED_BINS = 2, 40, 14  # SpecAugment (Park et al. 2019)
SAVE_MINUTES, RUN_STATE, START = 4.0, "train_encoder.safetensors", "start.safetensors"
SPECTRAL_FLOOR = -0.5  # about what silence has


class CtcModel(nn.Module):
    """The encoder, the projector and the embeddings that its outputs are scored against.

    Args:
        encoder: Whisper's.
        vocab_size: tokens, the placeholder among them.
        blank_id: the placeholder's id.
    """

    def __init__(self, encoder: WhisperEncoder, vocab_size: int, blank_id: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.blank_id, self.temperature = blank_id, 1.0
        self.projector: Projector = build_projector(
            PROJECTOR_CONFIG,
            encoder_dims=((1, HIDDEN_SIZE),),
            audio_spec=find_catalog_spec("sparrow").audio_spec,
            out_features=LM_HIDDEN_SIZE,
        )
        self.embeddings = nn.Parameter(torch.randn(vocab_size, LM_HIDDEN_SIZE) * 0.05)

    def forward(self, mels: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Project log-mels (rows, NUM_MEL_BINS, frames) to (positions, LM_HIDDEN_SIZE) each."""
        hidden = run_whisper_encoder(self.encoder, mels, lengths)
        return self.project(hidden, (lengths + 1) // 2)

    def project(self, hidden: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Project hidden states (rows, frames, HIDDEN_SIZE) to (positions, LM_HIDDEN_SIZE) each."""
        tokens = self.projector(EncoderOutput(hidden, lengths))
        return list(tokens.split([ceil_div(length, STRIDE) for length in lengths.tolist()]))

    def score(self, outputs: torch.Tensor) -> torch.Tensor:
        """Compute log probabilities of tokens: (..., LM_HIDDEN_SIZE) -> (..., vocab_size)."""
        return (self.temperature * outputs @ self.embeddings.T).float().log_softmax(-1)

    def decode(self, outputs: torch.Tensor) -> list[int]:
        """The best token of each position, repetitions merged and blanks left out."""
        tokens = self.score(outputs).argmax(-1).tolist()
        pairs = zip(tokens, [self.blank_id, *tokens], strict=False)
        return [token for token, before in pairs if token not in (before, self.blank_id)]

    @torch.no_grad()
    def match_scale(self) -> None:
        """Scale the projector's norm, so that its outputs have the RMS of the embeddings."""
        norm = self.projector.norm
        scale = self.embeddings.square().mean().sqrt() / norm.weight.square().mean().sqrt()
        norm.weight.mul_(scale)
        self.temperature /= float(scale)

    def save(self, work_dir: Path) -> None:
        """Write the encoder, the projector and the embeddings."""
        embeddings = {
            "embeddings": self.embeddings.detach(),
            "temperature": torch.tensor(self.temperature),
        }
        save_file(self.encoder.state_dict(), work_dir / "encoder.safetensors")
        save_file(embeddings, work_dir / "ctc_embeddings.safetensors")
        save_file(self.projector.state_dict(), work_dir / "projector.safetensors")


def start_from_sparrow(work_dir: Path, sparrow_dir: Path) -> None:
    """Write the projector, the language model and the tokenizer of a sparrow that is there.

    The stages begin with them then, instead of with random weights.
    """
    model = load_base_model(replace(find_catalog_spec("sparrow"), source=str(sparrow_dir)))
    assert isinstance(model, ComposedAudioLM)
    model.float()
    model.lm.save_pretrained(work_dir / "lm")
    model.tokenizer.save_pretrained(work_dir / "tokenizer")
    tensors = {f"projector.{name}": w for name, w in model.projector.state_dict().items()}
    tensors["embeddings"] = model.embed_tokens.get_parameter("weight").detach().clone()
    save_file(tensors, work_dir / START)


def load_ctc_model(
    work_dir: Path, whisper_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> CtcModel:
    """Load what `CtcModel.save` wrote.

    If nothing is there, Whisper's encoder with what `start_from_sparrow` wrote, or random weights.
    """
    torch.manual_seed(0)
    encoder = load_whisper_encoder(whisper_dir)
    model = CtcModel(encoder, len(tokenizer), tokenizer.convert_tokens_to_ids(AUDIO_TOKEN))
    if (work_dir / START).exists():
        model.load_state_dict(load_file(work_dir / START), strict=False)
        norm = model.projector.norm.weight.data
        norm /= norm.square().mean().sqrt()  # as at random: match_scale undoes it
    if (work_dir / "projector.safetensors").exists():
        saved = load_file(work_dir / "ctc_embeddings.safetensors")
        model.embeddings.data.copy_(saved["embeddings"])
        model.temperature = float(saved["temperature"])
        model.projector.load_state_dict(load_file(work_dir / "projector.safetensors"))
        model.encoder.load_state_dict(load_file(work_dir / "encoder.safetensors"))
    return model


class RowBatches(IterableDataset):
    """Batches of augmented log-mels and the row of each, of similar length together, without end.

    Args:
        work_dir: of the clips.
        rows: of load_rows.
    """

    def __init__(self, work_dir: Path, rows: list[ManifestRow]) -> None:
        self._rows = rows
        self._waveforms = [
            (load_row_waveform(work_dir, row) * 32_767).astype(np.int16) for row in rows
        ]

    def __iter__(self) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        torch.set_num_threads(1)
        rng = random.Random(time.time_ns())
        while True:
            order = [i for i, row in enumerate(self._rows) for _ in range(count_repeats(row))]
            rng.shuffle(order)
            seconds = np.array([len(waveform) for waveform in self._waveforms]) / SAMPLE_RATE
            ends = np.searchsorted(
                np.cumsum(seconds[order]),
                np.arange(1, seconds[order].sum() / POOL_SECONDS + 1) * POOL_SECONDS,
            )
            for start, end in zip([0, *ends], ends, strict=False):
                pool = sorted(order[start:end], key=lambda index: seconds[index])
                batches = _split_by_seconds(pool, seconds)
                rng.shuffle(batches)
                for batch in batches:
                    yield batch, [self._make_mel(index, rng) for index in batch]

    def _make_mel(self, index: int, rng: random.Random) -> torch.Tensor:
        waveform = self._waveforms[index].astype(np.float32) / 32_767
        if rng.random() < AUGMENT_AGAIN_PROBABILITY:
            waveform = augment_waveform(waveform, np.random.default_rng(rng.getrandbits(32)))
        mel = compute_mel(waveform)
        for _ in range(NUM_MASKS):
            first, length = rng.randrange(mel.shape[1]), rng.randrange(MAX_MASKED_FRAMES)
            mel[:, first : first + min(length, mel.shape[1] // 10)] = SPECTRAL_FLOOR
            first, length = rng.randrange(NUM_MEL_BINS), rng.randrange(MAX_MASKED_BINS)
            mel[first : first + length] = SPECTRAL_FLOOR
        return mel


def _split_by_seconds(pool: list[int], seconds: np.ndarray) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for index in pool:
        if batches[-1] and seconds[index] * (len(batches[-1]) + 1) > BATCH_SECONDS:
            batches.append([])
        batches[-1].append(index)
    return batches


def compute_mel(waveform: np.ndarray) -> torch.Tensor:
    """Compute the encoder's input, (NUM_MEL_BINS, frames), of a waveform at 16 kHz."""
    return compute_log_mel(
        waveform, rate=SAMPLE_RATE, hop_length=HOP_LENGTH, num_mel_bins=NUM_MEL_BINS
    )


def collate_mels(mels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad log-mels to a common length: (rows, NUM_MEL_BINS, frames) and their lengths."""
    lengths = torch.tensor([mel.shape[1] for mel in mels])
    padded_length = ceil_div(int(lengths.max()), MEL_PAD_MULTIPLE) * MEL_PAD_MULTIPLE
    padded = torch.stack([nn.functional.pad(m, (0, padded_length - m.shape[1])) for m in mels])
    return padded, lengths


def train_encoder(
    work_dir: Path, whisper_dir: Path, *, minutes: float, num_threads: int = 2
) -> None:
    """Train for `minutes`, those of interrupted runs counted, print the scores, and save."""
    torch.set_num_threads(num_threads)
    random.seed(0)
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    rows = load_rows(work_dir, "train")
    targets = [tokenizer(row["text"], add_special_tokens=False)["input_ids"] for row in rows]
    model = load_ctc_model(work_dir, whisper_dir, tokenizer)
    embedding_rate = STARTED_EMBEDDING_RATE if (work_dir / START).exists() else PROJECTOR_RATE
    groups = _list_parameter_groups(model, embedding_rate)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    state_path = work_dir / RUN_STATE
    done_seconds, step = _load_run_state(state_path, model, optimizer)
    use_bf16 = detect_hardware(work_dir).amx
    batches = iter(DataLoader(RowBatches(work_dir, rows), batch_size=None, num_workers=1))
    start = last_save = time.monotonic()
    losses: list[float] = []
    while (seconds := done_seconds + time.monotonic() - start) < 60 * minutes:
        progress = seconds / (60 * minutes)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        decay = FLOOR_FRACTION + (1 - FLOOR_FRACTION) * cosine
        for group in optimizer.param_groups:
            warmup = min(1.0, max(0.0, (step + 1 - group["first_step"]) / WARMUP_STEPS))
            group["lr"] = group["peak_rate"] * warmup * decay
        indices, mels = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            outputs = model(*collate_mels(mels))
            log_probs = model.score(nn.utils.rnn.pad_sequence(outputs))
        loss = compute_ctc_loss(
            log_probs,
            [len(output) for output in outputs],
            [targets[index] for index in indices],
            model.blank_id,
        )
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        losses.append(float(loss.detach()))
        step += 1
        if step % LOG_STEPS == 0:
            mean = sum(losses[-LOG_STEPS:]) / LOG_STEPS
            print(f"ctc: step {step}  {progress:.0%}  loss {mean:.3f}", flush=True)
        if time.monotonic() - last_save > 60 * SAVE_MINUTES:
            last_save = time.monotonic()
            _save_run_state(state_path, model, optimizer, seconds, step)
    model.match_scale()
    model.eval()
    for split in ("test", "unheard"):
        print_scores(model, tokenizer, work_dir, split)
    model.save(work_dir)
    state_path.unlink(missing_ok=True)


def _save_run_state(
    path: Path, model: CtcModel, optimizer: torch.optim.Optimizer, seconds: float, step: int
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    temp_path = path.with_suffix(".part")
    save_file({**tensors, "progress": torch.tensor([seconds, step])}, temp_path)
    temp_path.replace(path)


def _load_run_state(
    path: Path, model: CtcModel, optimizer: torch.optim.Optimizer | None
) -> tuple[float, int]:
    """Load a run's state if there is one, and return its seconds and steps."""
    if not path.exists():
        return 0.0, 0
    tensors = load_file(path)
    seconds, step = tensors.pop("progress").tolist()
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name in [name for name in tensors if name.startswith("optimizer.")]:
        _, index, moment = name.split(".")
        moments.setdefault(int(index), {})[moment] = tensors.pop(name)
    model.load_state_dict({n.removeprefix("model."): tensor for n, tensor in tensors.items()})
    if optimizer is not None:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return seconds, int(step)


def _list_parameter_groups(model: CtcModel, embedding_rate: float) -> list[dict[str, object]]:
    """Parameters with their highest learning rate and first step; the lowest ones are frozen.

    The encoder begins when the projector, which begins elsewhere, gives it gradients of use.
    """
    model.encoder.requires_grad_(False)
    last = len(model.encoder.layers) - 1
    parts: list[tuple[list[nn.Parameter], float, int]] = [
        (list(model.projector.parameters()), PROJECTOR_RATE, 0),
        ([model.embeddings], embedding_rate, 0),
        (list(model.encoder.layer_norm.parameters()), ENCODER_RATE, FIRST_ENCODER_STEP),
    ]
    for index in range(FIRST_TRAINED_LAYER, last + 1):
        rate = ENCODER_RATE * LAYER_DECAY ** (last - index)
        layer = list(model.encoder.layers[index].parameters())
        parts.append((layer, rate, FIRST_ENCODER_STEP))
    for parameters, _, _ in parts:
        for parameter in parameters:
            parameter.requires_grad_(True)
    return [
        {"params": parameters, "peak_rate": rate, "first_step": first_step}
        for parameters, rate, first_step in parts
    ]


def compute_ctc_loss(
    log_probs: torch.Tensor, lengths: list[int], targets: list[list[int]], blank_id: int
) -> torch.Tensor:
    """Compute the CTC loss a token of log probabilities (positions, rows, vocab_size)."""
    loss: torch.Tensor = nn.functional.ctc_loss(
        log_probs,
        torch.tensor([token for target in targets for token in target], dtype=torch.long),
        torch.tensor(lengths),
        torch.tensor([len(target) for target in targets]),
        blank=blank_id,
        zero_infinity=True,
    )
    return loss


@torch.no_grad()
def print_scores(
    model: CtcModel, tokenizer: PreTrainedTokenizerBase, work_dir: Path, split: str
) -> None:
    """Print CER and WER of greedy decoding by engine, with an example."""
    rows = load_rows(work_dir, split)
    texts = [
        tokenizer.decode(model.decode(_project_one(model, load_row_waveform(work_dir, row))))
        for row in rows
    ]
    for engine in sorted({row["engine"] for row in rows}):
        pairs = [(r["text"], t) for r, t in zip(rows, texts, strict=True) if r["engine"] == engine]
        _print_rates(f"{split} {engine}", pairs)


@torch.no_grad()
def score_recordings(work_dir: Path, whisper_dir: Path, folders: list[Path]) -> None:
    """Print the scores on recordings of people, which are never trained on."""
    from evaluate import list_people_clips, normalize

    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    model = load_ctc_model(work_dir, whisper_dir, tokenizer)
    _load_run_state(work_dir / RUN_STATE, model, None)
    model.eval()
    for folder in folders:
        pairs = []
        for row in list_people_clips(folder, 1):
            waveform = load_audio(
                AudioSegment(folder / row["path"]), sample_rate=SAMPLE_RATE, resample=True
            )
            if len(waveform) < 30 * SAMPLE_RATE:
                text = tokenizer.decode(model.decode(_project_one(model, waveform)))
                pairs.append((normalize(row["text"]), normalize(text)))
        _print_rates(folder.name, pairs)
        _print_rates(f"{folder.name} >=3", [p for p in pairs if len(p[0].split()) >= 3])


def _project_one(model: CtcModel, waveform: np.ndarray) -> torch.Tensor:
    mel = compute_mel(waveform)
    return model(mel[None], torch.tensor([mel.shape[1]]))[0]


def _print_rates(name: str, pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    rates = {
        "CER": round(compute_character_errors(references, hypotheses).rate, 4),
        "WER": round(compute_word_errors(references, hypotheses).rate, 4),
    }
    print(f"ctc: {name}: {len(pairs)} clips {json.dumps(rates)} {pairs[:3]}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--score", type=Path, nargs="*")
    args = parser.parse_args()
    if args.score:
        score_recordings(args.work, args.whisper, args.score)
    else:
        train_encoder(args.work, args.whisper, minutes=args.minutes, num_threads=args.threads)
