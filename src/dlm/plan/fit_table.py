"""What fits where: every way of teaching a base, in the bytes of a card.

Cards are counted as they are sold: 24 means 24 GiB, of which one part in sixteen may be kept for
error correction.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from dlm.plan.hardware import Gpu, Hardware
from dlm.plan.memory import (
    GIB,
    SequenceLengths,
    choose_batch_size,
    estimate_memory,
    estimate_sequence_lengths,
    format_bytes,
)
from dlm.plan.model_spec import MODEL_CATALOG, ComponentName, ModelSpec
from dlm.plan.types import AdapterKind, AdapterSpec, Bits, ModelPlan, Precision

LARGE_MODEL_PARAMETERS = (
    300_000_000  # parameters from which a step is four clips, heard one by one if need be
)
LARGE_MODEL_BATCH_SIZE = 4
DEFAULT_SEQUENCE_LEN = 2048  # tokens: training.sequence_len as it stands when nobody sets it
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
    """One way of teaching a base: what it takes at the least, and what fits (0 rows: nothing)."""

    model_key: str
    mode: FinetuneMode
    min_bytes: int  # bytes
    max_batch_size: int
    gradient_checkpointing: bool


def make_fake_gpu(gib: int) -> Gpu:
    """A card of so many GiB, as if it were there."""
    return Gpu(f"a card of {gib} GiB", gib * GIB, gib * GIB * 15 // 16, bf16=True)


def is_large_model(spec: ModelSpec) -> bool:
    """Whether a base is too large to hear many clips at once."""
    return spec.sizes.num_parameters > LARGE_MODEL_PARAMETERS


def choose_frozen_dtype(adapter: AdapterSpec, precision: Precision) -> Precision:
    """The format of the weights that do not learn: that of the products, so that none is cast."""
    return "fp32" if adapter.kind == "full" or adapter.top_layers else precision


def build_fit_table(specs: Iterable[ModelSpec], hardware: Hardware) -> tuple[FitRow, ...]:
    """Every way of teaching each base on this machine's card."""
    room, _ = hardware.get_memory_budget("cuda", all_gpus=False)
    return tuple(
        _build_fit_row(_make_finetune_plan(base, mode), mode, room)
        for base in specs
        for mode in FINETUNE_MODES
    )


def estimate_min_memory(model_plan: ModelPlan, lengths: SequenceLengths) -> int:
    """Bytes for one row at a time, with gradient checkpointing if that takes less."""
    return min(
        estimate_memory(replace(model_plan, gradient_checkpointing=way), lengths, 1).total
        for way in (True, False)
    )


def suggest_alternatives(
    model_plan: ModelPlan, lengths: SequenceLengths, available_bytes: int
) -> str:
    """What would fit into `room` bytes, as settings with their bytes; nothing if nothing does."""
    now, full = estimate_memory(model_plan, lengths, 1).frozen, model_plan.adapter.kind == "full"
    found = []
    if estimate_min_memory(model_plan, lengths) <= available_bytes:
        found.append(
            (
                "micro_batch_size: 1 with gradient_checkpointing: true",
                estimate_min_memory(model_plan, lengths),
            )
        )
    for mode in ("lora", "qlora, 8 bits", "qlora, 4 bits"):
        other = _switch_finetune_mode(model_plan, mode)
        if full or estimate_memory(other, lengths, 1).frozen < now:
            found.append((FINETUNE_MODE_SETTINGS[mode], estimate_min_memory(other, lengths)))
    ready = (
        base for base in MODEL_CATALOG.values() if base.source
    )  # a fresh projector hears nothing
    smaller = sorted(ready, key=lambda base: -base.sizes.num_parameters)
    for base in smaller:
        if base.sizes.num_parameters < model_plan.spec.sizes.num_parameters:
            way = replace(_switch_finetune_mode(model_plan, "lora"), spec=base)
            way = replace(way, weights_dtype=choose_frozen_dtype(way.adapter, way.precision))
            found.append(
                (f"base_model: {base.key} with adapter: lora", estimate_min_memory(way, lengths))
            )
    fitting = [(what, count) for what, count in found if count <= available_bytes][:MAX_SUGGESTIONS]
    return " or ".join(f"{what} ({format_bytes(count)})" for what, count in fitting)


def _build_fit_row(model_plan: ModelPlan, mode: FinetuneMode, available_bytes: int) -> FitRow:
    row = estimate_sequence_lengths(model_plan.spec, DEFAULT_SEQUENCE_LEN)
    chosen = choose_batch_size(model_plan, row, (4, 2, 1), available_bytes)
    rows, again = (chosen[1], chosen[0].gradient_checkpointing) if chosen else (0, False)
    return FitRow(model_plan.spec.key, mode, estimate_min_memory(model_plan, row), rows, again)


def _make_finetune_plan(spec: ModelSpec, mode: FinetuneMode) -> ModelPlan:
    """A base taught in bf16 on a card, with LoRA as it stands when nobody sets it."""
    lora = AdapterSpec(
        "lora", rank=8, alpha=16, dropout=0.05, components=("lm",), target_modules=None
    )
    model = ModelPlan(spec, lora, "cuda", "bf16", "bf16", seed=0)
    return _switch_finetune_mode(model, mode)


def _switch_finetune_mode(model_plan: ModelPlan, mode: FinetuneMode) -> ModelPlan:
    """The same base, taught another way."""
    kind, bits = FINETUNE_MODES[mode]
    where: tuple[ComponentName, ...] = ("encoder", "projector", "lm") if kind == "full" else ("lm",)
    more = 0 if kind == "full" or bits else model_plan.adapter.top_layers
    adapter = replace(model_plan.adapter, kind=kind, bits=bits, components=where, top_layers=more)
    return replace(
        model_plan,
        adapter=adapter,
        weights_dtype=choose_frozen_dtype(adapter, model_plan.precision),
    )
