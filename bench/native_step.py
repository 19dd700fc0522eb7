"""Training steps of a native base: `dlm train` against a plain Trainer and the class's processor.

    python bench/native_step.py [--sizes 15M 127M] [--repeats 3] [--json]

Both learn the same LoRA (rank 8 on every linear layer of the language model) on the same 64 clips
of 2 to 14 s, 2 at a time, for 3 epochs, from the same random checkpoint of the real class. Each run
is a process of its own; runs alternate, and the median of the ratios counts. Time is from the first
batch being made to the last step being taken: what dlm hears once and keeps is inside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

RATE, CLIPS, EPOCHS, BATCH, RANK = 16_000, 64, 3, 2, 8
WORDS = "the fire is yellow on monday afternoon and nobody counted birds".split()
SPECIAL = "<|endoftext|> <|im_start|> <|im_end|> <|AUDIO|> <|audio_bos|> <|audio_eos|>".split()
VOCABULARY = 8_000
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = "<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nTranscribe the audio."
ASKED = QUESTION + "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Size:
    """Layers and widths of a checkpoint's encoder and language model."""

    encoder: tuple[int, int]
    lm: tuple[int, int, int]  # layers, width, width of the feed-forward part


SIZES = {"15M": Size((2, 256), (4, 384, 1024)), "127M": Size((6, 512), (8, 768, 3072))}
WAYS = ("trainer-fp32", "trainer-bf16", "dlm")


def main() -> None:
    """Compare, or do one run of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        rate = with_dlm(asked.folder) if asked.one == "dlm" else with_trainer(asked)
        print(json.dumps(rate))
        return
    rows = {size: compare(size, asked.repeats) for size in asked.sizes}
    if asked.json:
        print(json.dumps(rows, indent=2))
        return
    for size, row in rows.items():
        for way in WAYS:
            print(f"{size:5} {way:13} {row[way]:7.2f} clips/s", end="")
            print("" if way == "dlm" else f"   dlm is {row[f'over {way}']:.2f} times as fast")


def compare(size: str, repeats: int) -> dict[str, float]:
    """Clips per second of each way, and how many times as fast dlm is; medians."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint(SIZES[size], folder / "base")
        clips(folder / "clips")
        for _ in range(repeats):
            for way in WAYS:
                found[way].append(one(way, folder))
    row = {way: statistics.median(rates) for way, rates in found.items()}
    for way in WAYS[:-1]:
        pairs = zip(found["dlm"], found[way], strict=True)
        row[f"over {way}"] = statistics.median(ours / theirs for ours, theirs in pairs)
    return {name: round(value, 2) for name, value in row.items()}


def one(way: str, folder: Path) -> float:
    """Clips per second of one run, in a process of its own."""
    command = [sys.executable, __file__, "--one", way, "--folder", str(folder)]
    with tempfile.TemporaryDirectory() as home:
        world = {**os.environ, "DLM_HOME": home}
        done = subprocess.run(command, capture_output=True, text=True, env=world)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def with_dlm(folder: Path) -> float:
    """Clips per second of `dlm train`: from Started to the last step."""
    from dlm import train
    from dlm.training.events import StepCompleted, TrainingStarted

    document = folder / "my.dlm"
    document.write_text(DOCUMENT, encoding="utf-8")
    began = last = 0.0
    for event in train(document):
        if isinstance(event, TrainingStarted):
            began = time.perf_counter()
        if isinstance(event, StepCompleted):
            last = time.perf_counter()
    return CLIPS * EPOCHS / (last - began)


DOCUMENT = f"""---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV
dlm_version: 15
base_model: ./base
training:
  adapter: lora
  lora_r: {RANK}
  lora_alpha: {2 * RANK}
  lora_dropout: 0.0
  micro_batch_size: {BATCH}
  grad_accum: 1
  num_epochs: {EPOCHS}
  learning_rate: 2.0e-4
  lr_scheduler: constant
  warmup_ratio: 0.0
  held_out: 0
  sources: [{{path: clips}}]
---
"""


def with_trainer(asked: argparse.Namespace) -> float:
    """Clips per second of transformers' Trainer over the processor, as its examples do it."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    base = asked.folder / "base"
    processor = Qwen2AudioProcessor.from_pretrained(base)
    layers = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=rf".*language_model.*\.({layers})"
    )
    model = get_peft_model(Qwen2AudioForConditionalGeneration.from_pretrained(base), lora)
    arguments = TrainingArguments(
        output_dir=str(asked.folder / "out"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        learning_rate=2e-4,
        bf16=asked.one.endswith("bf16"),
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    rows = [(path, path.with_suffix(".txt").read_text()) for path in asked.folder.rglob("*.wav")]
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=lambda some: collated(processor, some),
    )
    began = time.perf_counter()
    trainer.train()
    return CLIPS * EPOCHS / (time.perf_counter() - began)


def collated(processor: Qwen2AudioProcessor, rows: list[tuple[Path, str]]) -> dict:
    """A batch with loss on the answers alone."""
    waves = [soundfile.read(path, dtype="float32")[0] for path, _ in rows]
    said = [f"{text}<|im_end|>\n" for _, text in rows]
    batch = processor(
        text=[ASKED + text for text in said],
        audio=waves,
        sampling_rate=RATE,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, mask, text in zip(labels, batch["attention_mask"], said, strict=True):
        row[: int(mask.sum()) - len(processor.tokenizer(text)["input_ids"])] = -100
    return {**batch, "labels": labels}


def checkpoint(size: Size, folder: Path) -> None:
    """A random checkpoint of the real class with its processor."""
    tokenizer = tokenizer_of_bytes()
    layers, width = size.encoder
    depth, hidden, inner = size.lm
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 128,
            "d_model": width,
            "encoder_layers": layers,
            "encoder_attention_heads": width // 64,
            "encoder_ffn_dim": 4 * width,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": depth,
            "num_attention_heads": hidden // 64,
            "num_key_value_heads": hidden // 64,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 2048,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=128)
    Qwen2AudioProcessor(extractor, tokenizer).save_pretrained(folder)


def tokenizer_of_bytes() -> PreTrainedTokenizerFast:
    """A token for each byte, filled up to the vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = [*SPECIAL, *letters]
    filler = [f"<|{number}|>" for number in range(VOCABULARY - len(known))]
    words = {token: number for number, token in enumerate([*known, *filler])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=SPECIAL[1:],
    )
    fast.chat_template = CHATML
    return fast


def clips(folder: Path) -> None:
    """64 recordings of noise, 2 to 14 s long, with a few words each."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number, seconds in enumerate(np.linspace(2, 14, CLIPS)):
        noise = chance.normal(0, 0.1, int(seconds * RATE)).astype("float32")
        soundfile.write(folder / f"{number:02d}.wav", noise, RATE)
        said = " ".join(chance.choice(WORDS, size=3 + number % 5))
        (folder / f"{number:02d}.txt").write_text(said, encoding="utf-8")


if __name__ == "__main__":
    main()
