"""The table of `dlm doctor --gpu`: which adapter of which model fits a GPU; what fits instead.

GPUs are named by the GiB they are sold with; one sixteenth may go to error correction. Also here:
from which size on a model is large, and the number format of frozen weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from dlm.plan.hardware import GIB, Gpu, Hardware, format_bytes
from dlm.plan.memory import choose_batch_size, estimate_memory, estimate_sequence_lengths
from dlm.plan.model_spec import MODEL_CATALOG, ComponentName, ModelSpec
from dlm.plan.types import (
    AdapterKind,
    AdapterSpec,
    Bits,
    ModelPlan,
    Precision,
    SequenceLengths,
)

LARGE_MODEL_PARAMETERS = 300_000_000  # above it a step has LARGE_MODEL_BATCH_SIZE examples
LARGE_MODEL_BATCH_SIZE = 4
DEFAULT_SEQUENCE_LEN = 2048  # tokens: the default of training.sequence_len
MAX_SUGGESTIONS = 3  # that one message names

FinetuneMode = Literal["lora", "qlora, 8 bits", "qlora, 4 bits", "full"]
FINETUNE_MODES: dict[FinetuneMode, tuple[AdapterKind, Bits | None]] = {
    "lora": ("lora", None),
    "qlora, 8 bits": ("lora", 8),
    "qlora, 4 bits": ("lora", 4),
    "full": ("full", None),
}
FINETUNE_MODE_SETTINGS: dict[FinetuneMode, str] = {
    "lora": "adapter: lora",
    "qlora, 8 bits": "adapter: qlora with bits: 8",
    "qlora, 4 bits": "adapter: qlora",
    "full": "adapter: full",
}


@dataclass(frozen=True)
class FitRow:
    """One way to fine-tune a model on a GPU.

    Attributes:
        model_key: of the catalog.
        mode: adapter and bits.
        min_bytes: least memory it takes.
        max_batch_size: largest micro batch size up to 4 that fits; 0 where none does.
        gradient_checkpointing: whether that needs gradient checkpointing.
    """

    model_key: str
    mode: FinetuneMode
    min_bytes: int
    max_batch_size: int
    gradient_checkpointing: bool


def make_fake_gpu(gib: int) -> Gpu:
    """Make a GPU of so many GiB that need not exist."""
    return Gpu(f"a card of {gib} GiB", gib * GIB, gib * GIB * 15 // 16, bf16=True)


def is_large_model(spec: ModelSpec) -> bool:
    """Return whether a model is too large for batches of many examples."""
    return spec.sizes.num_parameters > LARGE_MODEL_PARAMETERS


def choose_frozen_dtype(adapter: AdapterSpec, precision: Precision) -> Precision:
    """Choose the number format of frozen weights: that of the forward pass, without casts."""
    return "fp32" if adapter.kind == "full" or adapter.top_layers else precision


def build_fit_table(specs: Iterable[ModelSpec], hardware: Hardware) -> tuple[FitRow, ...]:
    """Build a row for each way to fine-tune each model, in bf16, on the first GPU."""
    total_bytes, _ = hardware.get_memory_budget("cuda", all_gpus=False)
    rows = []
    for spec in specs:
        lora = AdapterSpec("lora", 8, 16, 0.05, components=("lm",), target_modules=None)
        default_plan = ModelPlan(spec, lora, "cuda", "bf16", "bf16", seed=0)
        lengths = estimate_sequence_lengths(spec, DEFAULT_SEQUENCE_LEN)
        for mode in FINETUNE_MODES:
            model_plan = _switch_finetune_mode(default_plan, mode)
            fitting = choose_batch_size(model_plan, lengths, (4, 2, 1), total_bytes)
            batch_size = fitting[1] if fitting else 0
            recomputes = fitting[0].gradient_checkpointing if fitting else False
            min_bytes = estimate_min_memory(model_plan, lengths)
            rows.append(FitRow(spec.key, mode, min_bytes, batch_size, recomputes))
    return tuple(rows)


def estimate_min_memory(model_plan: ModelPlan, lengths: SequenceLengths) -> int:
    """Estimate the bytes of batches of one, with gradient checkpointing if that takes less."""
    return min(
        estimate_memory(
            replace(model_plan, gradient_checkpointing=recompute), lengths, batch_size=1
        ).total
        for recompute in (True, False)
    )


def suggest_alternatives(
    model_plan: ModelPlan, lengths: SequenceLengths, available_bytes: int
) -> str:
    """Suggest settings that fit, with their bytes; empty if none does.

    In this order: a smaller batch, fewer trained or smaller frozen weights, a smaller model.
    """
    min_bytes = estimate_min_memory(model_plan, lengths)
    options = [("micro_batch_size: 1 with gradient_checkpointing: true", min_bytes)]
    frozen_bytes = estimate_memory(model_plan, lengths, 1).frozen
    for mode in ("lora", "qlora, 8 bits", "qlora, 4 bits"):
        other = _switch_finetune_mode(model_plan, mode)
        takes_less = estimate_memory(other, lengths, 1).frozen < frozen_bytes
        if takes_less or model_plan.adapter.kind == "full":
            options.append((FINETUNE_MODE_SETTINGS[mode], estimate_min_memory(other, lengths)))
    trained_specs = (spec for spec in MODEL_CATALOG.values() if spec.source)
    for spec in sorted(trained_specs, key=lambda spec: -spec.sizes.num_parameters):
        if spec.sizes.num_parameters < model_plan.spec.sizes.num_parameters:
            other = _switch_finetune_mode(replace(model_plan, spec=spec), "lora")
            setting = f"base_model: {spec.key} with adapter: lora"
            options.append((setting, estimate_min_memory(other, lengths)))
    fitting = [option for option in options if option[1] <= available_bytes][:MAX_SUGGESTIONS]
    return " or ".join(f"{setting} ({format_bytes(num_bytes)})" for setting, num_bytes in fitting)


def _switch_finetune_mode(model_plan: ModelPlan, mode: FinetuneMode) -> ModelPlan:
    """The same model with another adapter."""
    kind, bits = FINETUNE_MODES[mode]
    is_full = kind == "full"
    components: tuple[ComponentName, ...] = ("encoder", "projector", "lm") if is_full else ("lm",)
    top_layers = 0 if is_full or bits else model_plan.adapter.top_layers
    adapter = replace(
        model_plan.adapter, kind=kind, bits=bits, components=components, top_layers=top_layers
    )
    weights_dtype = choose_frozen_dtype(adapter, model_plan.precision)
    return replace(model_plan, adapter=adapter, weights_dtype=weights_dtype)
