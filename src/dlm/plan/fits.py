"""What fits where: every way of teaching a base, in the bytes of a card.

Cards are counted as they are sold: 24 means 24 GiB, of which one part in sixteen may be kept for
error correction.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from dlm.plan.bases import Base, Role
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.hardware import Gpu, Machine
from dlm.plan.memory import GIB, choose, need, size
from dlm.plan.plan import Adapter, AdapterKind, Bits, ModelPlan, Precision
from dlm.plan.rows import RowSize, row_of

LARGE = 300_000_000  # parameters from which a step is four clips, heard one by one if need be
LARGE_CLIPS_PER_STEP = 4
SEQUENCE = 2048  # tokens: training.sequence_len as it stands when nobody sets it
MENDS = 3  # that one message names

Mode = Literal["lora", "qlora, 8 bits", "qlora, 4 bits", "full"]
MODES: dict[Mode, tuple[AdapterKind, Bits | None]] = {
    "lora": ("lora", None),
    "qlora, 8 bits": ("lora", 8),
    "qlora, 4 bits": ("lora", 4),
    "full": ("full", None),
}
FIELDS: dict[Mode, str] = {
    "lora": "adapter: lora",
    "qlora, 8 bits": "adapter: qlora with bits: 8",
    "qlora, 4 bits": "adapter: qlora",
    "full": "adapter: full",
}


@dataclass(frozen=True)
class Fit:
    """One way of teaching a base: what it takes at the least, and what fits (0 rows: nothing)."""

    base: str
    mode: Mode
    least: int  # bytes
    rows: int
    checkpointing: bool


def card(gib: int) -> Gpu:
    """A card of so many GiB, as if it were there."""
    return Gpu(f"a card of {gib} GiB", gib * GIB, gib * GIB * 15 // 16, bf16=True)


def is_large(base: Base) -> bool:
    """Whether a base is too large to hear many clips at once."""
    return base.sizes.parameters > LARGE


def held_in(adapter: Adapter, precision: Precision) -> Precision:
    """The format of the weights that do not learn: that of the products, so that none is cast."""
    return "fp32" if adapter.kind == "full" or adapter.top_layers else precision


def fits(bases: Iterable[Base], machine: Machine) -> tuple[Fit, ...]:
    """Every way of teaching each base on this machine's card."""
    room, _ = machine.room("cuda", spread=False)
    return tuple(_fit(_taught(base, mode), mode, room) for base in bases for mode in MODES)


def least(model: ModelPlan, row: RowSize) -> int:
    """Bytes for one row at a time, with gradient checkpointing if that takes less."""
    return min(need(replace(model, checkpointing=way), row, 1).total for way in (True, False))


def instead(model: ModelPlan, row: RowSize, room: int) -> str:
    """What would fit into `room` bytes, as settings with their bytes; nothing if nothing does."""
    now, full = need(model, row, 1).weights, model.adapter.kind == "full"
    found = []
    if least(model, row) <= room:
        found.append(("micro_batch_size: 1 with gradient_checkpointing: true", least(model, row)))
    for mode in ("lora", "qlora, 8 bits", "qlora, 4 bits"):
        other = _switched(model, mode)
        if full or need(other, row, 1).weights < now:
            found.append((FIELDS[mode], least(other, row)))
    ready = (base for base in CATALOGUE.values() if base.source)  # a fresh projector hears nothing
    smaller = sorted(ready, key=lambda base: -base.sizes.parameters)
    for base in smaller:
        if base.sizes.parameters < model.base.sizes.parameters:
            way = replace(_switched(model, "lora"), base=base)
            way = replace(way, weights=held_in(way.adapter, way.precision))
            found.append((f"base_model: {base.key} with adapter: lora", least(way, row)))
    fitting = [(what, count) for what, count in found if count <= room][:MENDS]
    return " or ".join(f"{what} ({size(count)})" for what, count in fitting)


def _fit(model: ModelPlan, mode: Mode, room: int) -> Fit:
    row = row_of(model.base, SEQUENCE)
    chosen = choose(model, row, (4, 2, 1), room)
    rows, again = (chosen[1], chosen[0].checkpointing) if chosen else (0, False)
    return Fit(model.base.key, mode, least(model, row), rows, again)


def _taught(base: Base, mode: Mode) -> ModelPlan:
    """A base taught in bf16 on a card, with LoRA as it stands when nobody sets it."""
    lora = Adapter("lora", rank=8, alpha=16, dropout=0.05, where=("lm",), targets=None)
    model = ModelPlan(base, lora, "cuda", "bf16", "bf16", seed=0)
    return _switched(model, mode)


def _switched(model: ModelPlan, mode: Mode) -> ModelPlan:
    """The same base, taught another way."""
    kind, bits = MODES[mode]
    where: tuple[Role, ...] = ("encoder", "projector", "lm") if kind == "full" else ("lm",)
    more = 0 if kind == "full" or bits else model.adapter.top_layers
    adapter = replace(model.adapter, kind=kind, bits=bits, where=where, top_layers=more)
    return replace(model, adapter=adapter, weights=held_in(adapter, model.precision))
