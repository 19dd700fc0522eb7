"""How many bytes a run holds: the arithmetic behind every "it fits", and what fits instead.

    weights       what stays as it is, in its own format
    learning      what learns: fp32, with its gradient and Adam's two moments
    passing       what a batch leaves behind on the way forward, for the way back
    runtime       what the device's own library takes

The first two are exact. The third counts what each layer keeps for its gradients, as transformers
and peft write them: a little more than real models are seen to take, and never less.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dlm.plan.bases import Base, Role, Tower
from dlm.plan.frames import ceil_div
from dlm.plan.listening import feature_bytes, frames_of, kept_bytes, windows_of, working_bytes
from dlm.plan.plan import Adapter, Bits, ModelPlan
from dlm.plan.rows import RowSize

LEARNED_BYTES = 16  # a parameter that learns, its gradient and two moments, fp32
BLOCK = 64  # weights of 4 bits that share a scale (bitsandbytes)
SCALES = 256  # scales of 8 bits that share one of fp32
TABLES_BYTES = 64 + 1024 + 4  # what 4 and 8 bits stand for, and the mean of the scales
CUDA_BYTES = 600 << 20  # kernels and work space
MOST_SCORES = 640  # keys whose scores a processor keeps in bf16: those of longer rows take too much
GIB = 1 << 30


@dataclass(frozen=True)
class Need:
    """Bytes by what takes them."""

    weights: int
    learning: int
    passing: int
    runtime: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.learning + self.passing + self.runtime


def need(model: ModelPlan, row: RowSize, rows: int) -> Need:
    """What learning takes with `rows` rows like `row` at once."""
    return Need(
        weights=weight_bytes(model),
        learning=trainable(model) * LEARNED_BYTES,
        passing=passing_bytes(model, row, rows),
        runtime=_runtime(model),
    )


def choose(
    model: ModelPlan,
    row: RowSize,
    counts: tuple[int, ...],
    room: int,
    *,
    checkpointing: bool | None = None,
) -> tuple[ModelPlan, int] | None:
    """The plan that fits into `room` bytes, and its rows at once: the first of `counts` that fits.

    Layers are thought through again only where the last of them does not fit otherwise, or as
    asked for.
    """
    ways = [(bool(checkpointing), count) for count in counts]
    if checkpointing is None:
        ways.append((True, counts[-1]))
    for again, rows in ways:
        tried = replace(model, checkpointing=again)
        if need(tried, row, rows).total <= room:
            return tried, rows
    return None


def answered(model: ModelPlan, row: RowSize, most: int, room: int) -> int:
    """How many rows are answered at once in `room` bytes, once learning is over."""
    held = weight_bytes(model) + trainable(model) * LEARNED_BYTES + _runtime(model)
    return max(min((room - held) // _answer_bytes(model, row), most), 1)


def _answer_bytes(model: ModelPlan, row: RowSize) -> int:
    """What answering one row takes: keys and values of all layers, one of them at work, logits."""
    lm, each = model.base.sizes.lm, _each(model)
    kept = 2 * lm.layers * _query(lm) * lm.kv_heads // lm.heads
    at_work = 6 * lm.width + 3 * lm.inner + 6 * _query(lm)
    spoken = row.labels * model.base.sizes.vocabulary * (each + 8)
    return row.tokens * (kept + at_work) * each + spoken


def trainable(model: ModelPlan) -> int:
    """How many parameters learn."""
    return _own(model) + _added(model)


def _own(model: ModelPlan) -> int:
    """Those of the base itself that learn."""
    adapter, sizes = model.adapter, model.base.sizes
    parts = {
        "encoder": sizes.encoder.parameters,  # with its positions, which stay as they are
        "projector": sizes.projector,
        "lm": sizes.lm.parameters + sizes.words,
    }
    top = adapter.top_layers * ceil_div(sizes.lm.parameters, sizes.lm.layers)
    return top + sum(parts[role] for role in adapter.whole)


def _added(model: ModelPlan) -> int:
    """Low-rank weights: `rank` rows and columns a layer; with DoRA each output's length too."""
    adapter = model.adapter
    length = adapter.kind == "dora"
    return sum(
        (tower.layers - _top(adapter, role)) * (adapter.rank * (into + out) + length * out)
        for role, tower in _towers(model.base)
        if role in adapter.low_rank
        for into, out in _adapted(tower, role, adapter)
    )


def _top(adapter: Adapter, role: Role) -> int:
    """How many last layers of a part learn as they are, in place of low-rank weights."""
    return adapter.top_layers if role == "lm" else 0


def weight_bytes(model: ModelPlan) -> int:
    """What stays as it is."""
    each = 4 if model.weights == "fp32" else 2
    frozen = (model.base.sizes.parameters - _own(model)) * each
    if model.base.kind == "stitched" and not model.adapter.trains("projector"):
        frozen += model.base.sizes.projector * (4 - each)  # it joins two models, in fp32
    elsewhere = (model.encoder_device or model.device) != model.device
    if elsewhere and not model.adapter.trains("encoder"):
        frozen -= model.base.sizes.encoder.parameters * each
    bits, lm = model.adapter.bits, model.base.sizes.lm
    if bits is None:
        return frozen
    shapes = linear_layers(lm, "lm").values()
    packed = sum(packed_bytes(into * out, out, bits) for into, out in shapes)
    return frozen + lm.layers * (packed - sum(into * out for into, out in shapes) * each)


def packed_bytes(count: int, rows: int, bits: Bits) -> int:
    """A matrix of `count` weights in `rows` rows, with its scales."""
    if bits == 8:
        return count + 4 * rows
    scales = ceil_div(count, BLOCK)
    return ceil_div(count, 2) + scales + 4 * ceil_div(scales, SCALES) + TABLES_BYTES


def passing_bytes(model: ModelPlan, row: RowSize, rows: int) -> int:
    """What a batch leaves behind until its gradients are there."""
    base, sizes = model.base, model.base.sizes
    frames, learns = frames_of(base, row.sound), model.adapter.trains("encoder")
    heard = 0 if learns else feature_bytes(base, frames)
    if learns:
        layers = 1 if model.checkpointing else sizes.encoder.layers
        heard = kept_bytes(base, frames, layers=layers)
        heard += _tower_bytes(model, "encoder", sizes.encoder, steps=frames, fed=frames)
    thought = _tower_bytes(model, "lm", sizes.lm, steps=row.tokens, fed=row.labels)
    compared = 12 * model.taught  # flattened logits, those of the others, gradients
    spoken = row.labels * sizes.vocabulary * (_each(model) + 8 + compared)  # and of the words
    merged = row.tokens * sizes.lm.width * 4 * 4
    at_once = rows * windows_of(base, row.sound) if model.afresh else 1
    hearing = 0 if learns else working_bytes(base, _each(model)) * at_once
    once = _copies(model) + _unpacked(model) + hearing
    return rows * (heard + merged + thought + spoken) + once


def _tower_bytes(model: ModelPlan, role: Role, tower: Tower, *, steps: int, fed: int) -> int:
    """All layers of a tower, and the gradients inside one of them.

    The feed-forward part of the last sees `fed` steps (model/last.py), and learns before the rest.
    With checkpointing a layer keeps what goes into it, and is whole only while it learns; what
    bitsandbytes multiplies in 8 bits it keeps all the same.
    """
    top, gradients = _top(model.adapter, role), 2 * tower.inner * _each(model)
    upper = _layer_bytes(model, role, tower, whole=True) if top else 0
    lower = _layer_bytes(model, role, tower, whole=role in model.adapter.whole)
    if model.device == "cpu" and model.weights == "bf16" and role == "lm" and steps <= MOST_SCORES:
        lower += tower.heads * steps * 2  # the scores of attention (model/attention.py)
    if not model.checkpointing:
        layers, last = top * upper + (tower.layers - top) * lower, upper if top else lower
        bare = _layer_bytes(
            model, role, replace(tower, inner=0), whole=bool(top) or role in model.adapter.whole
        )
        ending = steps * (layers - last + bare) + fed * (last - bare + gradients)
        return max(ending, steps * (layers - last + gradients))
    stream = tower.width * (4 if model.weights == "fp32" else 2)
    stays = stream + (_inputs(model, tower) if model.adapter.bits == 8 and role == "lm" else 0)
    return steps * (tower.layers * stays + max(upper, lower) + gradients)


def _layer_bytes(model: ModelPlan, role: Role, tower: Tower, *, whole: bool) -> int:
    """What one layer keeps of one step.

    Its two norms keep what they are given, in fp32; attention its three inputs and its output; the
    feed-forward part what its activation multiplies; each layer that learns, its input.
    """
    each, adapter = _each(model), model.adapter
    norms = 8 * tower.width * (1 + whole) + 16
    attention = 4 * _query(tower) * (each + whole) + 4 * tower.heads
    inner = (3 if role == "lm" else 1) * tower.inner * each
    kept = _inputs(model, tower) if whole or (adapter.bits == 8 and role == "lm") else 0
    if role in adapter.low_rank and not whole:
        kept += _low_rank_bytes(model, role, tower)
    return norms + attention + inner + kept


def _low_rank_bytes(model: ModelPlan, role: Role, tower: Tower) -> int:
    """What the low-rank weights of one layer keep: each its own input once dropout is drawn."""
    each, adapter = _each(model), model.adapter
    shapes = _adapted(tower, role, adapter)
    kept = len(shapes) * adapter.rank * each
    if adapter.dropout:
        ours = adapter.kind == "lora" and adapter.bits is None  # which casts nothing
        mask = 1 if model.device == "cuda" else 2 if ours and model.weights == "bf16" else 4
        kept += sum(into for into, _ in shapes) * (each + mask)
    else:
        kept += _inputs(model, tower)
    return kept + (sum(2 * out * each for _, out in shapes) if adapter.kind == "dora" else 0)


def _inputs(model: ModelPlan, tower: Tower) -> int:
    """What goes into the linear layers of one layer; several share theirs."""
    return (2 * tower.width + tower.inner) * _each(model)


def _copies(model: ModelPlan) -> int:
    """What is multiplied in bf16 and held in fp32 is there in both."""
    if model.precision == "fp32":
        return 0
    count = trainable(model)
    if model.weights == "fp32":
        count = max(count, model.base.sizes.parameters)
    return 2 * count


def _unpacked(model: ModelPlan) -> int:
    """The largest matrix, while it is unpacked, or measured for DoRA."""
    lm, adapter = model.base.sizes.lm, model.adapter
    largest = max(into * out for into, out in linear_layers(lm, "lm").values())
    return largest * (12 if adapter.kind == "dora" else _each(model) if adapter.bits else 0)


def linear_layers(tower: Tower, role: Role) -> dict[str, tuple[int, int]]:
    """The linear layers in one layer of a tower, by name: inputs and outputs."""
    width, inner, query = tower.width, tower.inner, _query(tower)
    pair = query * tower.kv_heads // tower.heads
    layers = {"q_proj": (width, query), "k_proj": (width, pair), "v_proj": (width, pair)}
    if role == "lm" and _is_mixture(tower):
        return {**layers, "o_proj": (query, width)}  # experts lie together, in no linear layer
    if role == "lm":
        gates = {name: (width, inner) for name in ("gate_proj", "up_proj")}
        return {**layers, "o_proj": (query, width), **gates, "down_proj": (inner, width)}
    return {**layers, "out_proj": (query, width), "fc1": (width, inner), "fc2": (inner, width)}


def _is_mixture(tower: Tower) -> bool:
    """Whether a tower holds other weights than its shapes tell: experts, few of them at work."""
    width, query = tower.width, _query(tower)
    attention = 2 * width * query * (tower.heads + tower.kv_heads) // tower.heads
    vectors = 8 * (width + query)  # norms and biases, and room to spare
    rest = tower.parameters - tower.layers * (attention + 3 * width * tower.inner)
    return not 0 <= rest <= tower.layers * vectors


def _adapted(tower: Tower, role: Role, adapter: Adapter) -> list[tuple[int, int]]:
    """The linear layers that low-rank weights sit on."""
    layers = linear_layers(tower, role)
    if adapter.targets is None:
        return list(layers.values())
    named = {target.rsplit(".", 1)[-1] for target in adapter.targets}
    return [shape for name, shape in layers.items() if name in named]


def _towers(base: Base) -> Iterator[tuple[Role, Tower]]:
    yield "encoder", base.sizes.encoder
    yield "lm", base.sizes.lm


def _query(tower: Tower) -> int:
    """Width of all heads together."""
    return tower.heads * (tower.head_width or tower.width // tower.heads)


def _runtime(model: ModelPlan) -> int:
    return CUDA_BYTES if model.device == "cuda" else 0


def _each(model: ModelPlan) -> int:
    """Bytes of a number on its way."""
    return 2 if model.precision == "bf16" else 4


def size(count: int) -> str:
    """Bytes in the unit that suits them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{ceil_div(count, 1 << 20)} MiB"
