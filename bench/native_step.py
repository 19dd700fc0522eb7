"""Measure LoRA training of Qwen2-Audio: `dlm train` against transformers' Trainer.

    python bench/native_step.py [--sizes 15M 127M] [--repeats 3] [--json]

Both train the same LoRA (rank 8 on every linear layer of the language model) on the same 64 clips
of 2 to 14 s, 2 at a time, for 3 epochs, from the same random checkpoint of the class. Each run is a
process of its own; runs alternate, and the median of the ratios counts. Time is from the first
batch to the last step: extracting and encoding the clips is included.
"""

import argparse
import json
import statistics
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

from isolation import run_isolated

SAMPLE_RATE, NUM_CLIPS, NUM_EPOCHS, BATCH_SIZE, LORA_RANK = 16_000, 64, 3, 2, 8
WORDS = "the fire is yellow on monday afternoon and nobody counted birds".split()
SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|AUDIO|> <|audio_bos|> <|audio_eos|>".split()
)
VOCAB_SIZE = 8_000
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = (
    "<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nTranscribe the audio."
    "<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class ModelSize:
    """Shape of a checkpoint.

    Attributes:
        encoder: layers, hidden size.
        lm: layers, hidden size, intermediate size.
    """

    encoder: tuple[int, int]
    lm: tuple[int, int, int]


SIZES = {"15M": ModelSize((2, 256), (4, 384, 1024)), "127M": ModelSize((6, 512), (8, 768, 3072))}
METHODS = ("trainer-fp32", "trainer-bf16", "dlm")


def main() -> None:
    """Compare, or do one run of the comparison in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method == "dlm":
        print(train_with_dlm(args.folder))
        return
    if args.method:
        print(train_with_trainer(args.folder, bf16=args.method.endswith("bf16")))
        return
    results = {size: compare_methods(size, args.repeats) for size in args.sizes}
    if args.json:
        print(json.dumps(results, indent=2))
        return
    for size, result in results.items():
        for method in METHODS:
            print(f"{size:5} {method:13} {result[method]:7.2f} clips/s", end="")
            ratio = result.get(f"over {method}")
            print(f"   dlm is {ratio:.2f} times as fast" if ratio else "")


def compare_methods(size: str, num_repeats: int) -> dict[str, float]:
    """Return the median clips per second of each method, and the median ratio of dlm to it."""
    rates: dict[str, list[float]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(SIZES[size], Path(folder, "base"))
        write_clips(Path(folder, "clips"))
        for _ in range(num_repeats):
            for method in METHODS:
                rates[method].append(run_isolated(__file__, "--method", method, "--folder", folder))
    result = {method: statistics.median(rates[method]) for method in METHODS}
    for method in METHODS[:-1]:
        pairs = zip(rates["dlm"], rates[method], strict=True)
        result[f"over {method}"] = statistics.median(dlm / other for dlm, other in pairs)
    return {name: round(value, 2) for name, value in result.items()}


def train_with_dlm(folder: Path) -> float:
    """Return the clips per second of `dlm train`, from its start to the last step."""
    from dlm import train
    from dlm.training.events import StepCompleted, TrainingStarted

    document = folder / "my.dlm"
    document.write_text(DOCUMENT, encoding="utf-8")
    start = last_step = 0.0
    for event in train(document):
        if isinstance(event, TrainingStarted):
            start = time.perf_counter()
        if isinstance(event, StepCompleted):
            last_step = time.perf_counter()
    return NUM_CLIPS * NUM_EPOCHS / (last_step - start)


DOCUMENT = f"""---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FAV
dlm_version: 15
base_model: ./base
training:
  adapter: lora
  lora_r: {LORA_RANK}
  lora_alpha: {2 * LORA_RANK}
  lora_dropout: 0.0
  micro_batch_size: {BATCH_SIZE}
  grad_accum: 1
  num_epochs: {NUM_EPOCHS}
  learning_rate: 2.0e-4
  lr_scheduler: constant
  warmup_ratio: 0.0
  held_out: 0
  sources: [{{path: clips}}]
---
"""


def train_with_trainer(folder: Path, *, bf16: bool) -> float:
    """Return the clips per second of transformers' Trainer with the class's processor."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    processor = Qwen2AudioProcessor.from_pretrained(folder / "base")
    layers = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    lora = LoraConfig(
        r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=rf".*language_model.*\.({layers})"
    )
    base_model = Qwen2AudioForConditionalGeneration.from_pretrained(folder / "base")
    training_args = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=BATCH_SIZE,
        num_train_epochs=NUM_EPOCHS,
        learning_rate=2e-4,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=get_peft_model(base_model, lora),
        args=training_args,
        train_dataset=[
            (path, path.with_suffix(".txt").read_text()) for path in folder.rglob("*.wav")
        ],
        data_collator=lambda rows: collate(processor, rows),
    )
    start = time.perf_counter()
    trainer.train()
    return NUM_CLIPS * NUM_EPOCHS / (time.perf_counter() - start)


def collate(processor: Qwen2AudioProcessor, rows: list[tuple[Path, str]]) -> dict:
    """Make a batch with loss on the answers alone."""
    answers = [f"{text}<|im_end|>\n" for _, text in rows]
    batch = processor(
        text=[PROMPT + answer for answer in answers],
        audio=[soundfile.read(path, dtype="float32")[0] for path, _ in rows],
        sampling_rate=SAMPLE_RATE,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, mask, answer in zip(labels, batch["attention_mask"], answers, strict=True):
        row[: int(mask.sum()) - len(processor.tokenizer(answer)["input_ids"])] = -100
    return {**batch, "labels": labels}


def write_checkpoint(size: ModelSize, folder: Path) -> None:
    """Write a random checkpoint of the class, with its processor."""
    tokenizer = make_byte_tokenizer()
    encoder_layers, encoder_hidden_size = size.encoder
    num_layers, hidden_size, intermediate_size = size.lm
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 128,
            "d_model": encoder_hidden_size,
            "encoder_layers": encoder_layers,
            "encoder_attention_heads": encoder_hidden_size // 64,
            "encoder_ffn_dim": 4 * encoder_hidden_size,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": hidden_size // 64,
            "num_key_value_heads": hidden_size // 64,
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": 2048,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    feature_extractor = WhisperFeatureExtractor(feature_size=128)
    Qwen2AudioProcessor(feature_extractor, tokenizer).save_pretrained(folder)


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token for each byte, filled up to the vocabulary size."""
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"<|{number}|>" for number in range(VOCAB_SIZE - len(tokens))]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(SPECIAL_TOKENS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=SPECIAL_TOKENS[1:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_clips(folder: Path) -> None:
    """Write 64 recordings of noise, 2 to 14 s long, with transcripts of a few words."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, seconds in enumerate(np.linspace(2, 14, NUM_CLIPS)):
        noise = rng.normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype("float32")
        soundfile.write(folder / f"{number:02d}.wav", noise, SAMPLE_RATE)
        text = " ".join(rng.choice(WORDS, size=3 + number % 5))
        (folder / f"{number:02d}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
