"""What each CPU kernel brings to a LoRA step: the time without it over the time with it.

    python bench/cpu_kernels.py [--sizes 15M 127M] [--repeats 15] [--json]
    DNNL_MAX_CPU_ISA=AVX512_CORE python bench/cpu_kernels.py     as on a CPU without bf16 products

A language model of random weights takes training steps of 2 x 320 tokens with 40 labels each, LoRA
of rank 8 on every linear layer. Steps with all kernels and with all but one alternate in one
process; the median of the ratios counts. Times are CPU seconds of one thread, so that other work on
the machine changes them little.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch

from dlm.config.model_schema import ComposedModelConfig
from dlm.models.adapters import apply_adapter
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.cpu_kernels import CPU_KERNELS, CpuKernel, sparse_last_mlp, use_cpu_kernels
from dlm.models.load import load_base_model
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec

BATCH_SIZE, NUM_TOKENS, NUM_LABELS = 2, 320, 40
SIZES = {"15M": (4, 384, 1024), "127M": (8, 768, 3072)}  # layers, hidden and intermediate size
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
FP32_KERNELS: tuple[CpuKernel, ...] = ("fused_lora", "sparse_last_mlp")


def main() -> None:
    """Measure every kernel at every size and dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ratios = {
        f"{size} {dtype}": measure_kernels(size, dtype, args.repeats)
        for size in args.sizes
        for dtype in DTYPES
    }
    if args.json:
        print(json.dumps(ratios, indent=2))
        return
    for name, row in ratios.items():
        print(name, *(f"{kernel} {ratio:.2f}" for kernel, ratio in row.items()), sep="   ")


def measure_kernels(size: str, dtype: str, repeats: int) -> dict[str, float]:
    """Return for each kernel, and for all, the time without over the time with."""
    model = make_model(size, DTYPES[dtype])
    kernels = CPU_KERNELS if dtype == "bf16" else FP32_KERNELS
    variants = {kernel: tuple(k for k in kernels if k != kernel) for kernel in kernels}
    fast = with_kernels(model, kernels)
    return {
        name: compare(fast, with_kernels(model, variant), repeats)
        for name, variant in {**variants, "all": ()}.items()
    }


def make_model(size: str, dtype: torch.dtype) -> AudioLanguageModel:
    """Make a composed model with a random language model of this size, and LoRA on it."""
    num_layers, hidden_size, intermediate_size = SIZES[size]
    lm = {
        "model_type": "qwen2",
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
        "num_key_value_heads": hidden_size // 64,
        "vocab_size": 8_000,
        "max_position_embeddings": 2048,
    }
    encoder = {
        "model_type": "whisper",
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
    }
    fields = {
        "encoder": {"from_scratch": encoder},
        "projector": {"kind": "stack", "stride": 4, "hidden": 32},
        "lm": {"from_scratch": lm, "tokenizer": "bytes"},
    }
    spec = resolve_model_spec(ComposedModelConfig.model_validate(fields), Path())
    model = load_base_model(spec, dtype=dtype)
    apply_adapter(model, AdapterSpec("lora", 8, 16, 0.0, ("lm",), None), seed=0)
    return model.train()


def with_kernels(model: AudioLanguageModel, kernels: tuple[CpuKernel, ...]) -> AudioLanguageModel:
    """Return a copy of the model with these kernels in use."""
    model = copy.deepcopy(model)
    use_cpu_kernels(model, kernels)
    return model


def compare(fast: AudioLanguageModel, slow: AudioLanguageModel, repeats: int) -> float:
    """Return the median ratio of the times of alternating steps, after two of each."""
    pairs = [(time_step(slow), time_step(fast)) for _ in range(repeats + 2)][2:]
    return round(statistics.median(slow_time / fast_time for slow_time, fast_time in pairs), 3)


def time_step(model: AudioLanguageModel) -> float:
    """Return the CPU seconds of one forward and backward pass."""
    weight = model.embed_tokens.get_parameter("weight")
    shape = (BATCH_SIZE, NUM_TOKENS, weight.shape[1])
    embeddings = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    has_label = torch.zeros(shape[:2], dtype=torch.bool)
    has_label[:, -NUM_LABELS:] = True
    labels = torch.arange(BATCH_SIZE * NUM_LABELS)
    start = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=weight.dtype == torch.bfloat16):
        with sparse_last_mlp(model, has_label):
            hidden = model.forward_lm(embeddings, torch.ones(shape[:2], dtype=torch.long))
        logits = model.compute_logits(hidden[has_label]).float()
        loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    seconds = time.process_time() - start
    model.zero_grad(set_to_none=True)
    return seconds


if __name__ == "__main__":
    main()
