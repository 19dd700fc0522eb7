"""The plan's arithmetic against what real, tiny models hold: bytes of weights, of what learns, and
of what a batch leaves behind for its gradients."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import is_tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from dlm.batching.collator import Batch
from dlm.data.types import AudioSegment, Example, Message
from dlm.models.adapters import get_trainable_parameters
from dlm.models.load import load_base_model, load_model
from dlm.plan.fit_table import choose_frozen_dtype
from dlm.plan.hardware import GIB, format_bytes
from dlm.plan.memory import (
    choose_eval_batch_size,
    compute_quantized_bytes,
    count_trainable_parameters,
    estimate_activation_bytes,
    estimate_frozen_bytes,
    estimate_memory,
    estimate_sequence_lengths,
)
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ModelSpec, ParameterCounts, TransformerShape, read_model_spec
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec, ModelPlan, SequenceLengths, TrainingPlan
from dlm.training.loss import AudioLMLoss
from dlm.training.optimizer import build_optimizer
from tests.pretrained_twins import TWIN_BUILDERS, write_pretrained_twin
from tests.tiny_models import make_tiny_config, write_tiny_model

FAMILIES = ("stitched", *TWIN_BUILDERS)
EVERYWHERE = ("encoder", "projector", "lm")
TRAINING = TrainingPlan(
    num_steps=1,
    learning_rate=1e-3,
    learning_rates={},
    weight_decay=0.0,
    max_grad_norm=1.0,
    lr_scheduler="constant",
    warmup_steps=0,
    max_skipped_steps=1,
    save_interval_seconds=60.0,
    save_steps=None,
    precision="fp32",
    device="cpu",
    seed=0,
)


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory):
    """A base of each family, made when it is first asked for."""

    @cache
    def base(family: str) -> ModelSpec:
        folder = tmp_path_factory.mktemp(family)
        if family == "stitched":
            return _stitched(write_tiny_model(folder, config=_wide()))
        return resolve_model_spec(str(write_pretrained_twin(family, folder)), Path())

    return base


def _wide() -> dict:
    """The tiny stitched base, wide enough that what it passes on outweighs what is fixed."""
    wide = make_tiny_config()
    wide["encoders"][0]["config"] |= {"d_model": 64, "encoder_ffn_dim": 256, "encoder_layers": 2}
    wide["lm"] |= {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
    return wide


def _stitched(folder: Path) -> ModelSpec:
    """The row of a stitched base, with the sizes it really has."""
    model, shape = load_base_model(read_model_spec(folder)), _wide()
    lm, ear = shape["lm"], shape["encoders"][0]["config"]
    words = model.embed_tokens.weight.numel()
    sizes = ParameterCounts(
        encoder=TransformerShape(
            count(model.encoder),
            num_layers=2,
            hidden_size=64,
            intermediate_size=256,
            num_heads=2,
            num_kv_heads=2,
        ),
        projector=count(model.projector),
        lm=TransformerShape(
            count(model.decoder) - words,
            num_layers=lm["num_hidden_layers"],
            hidden_size=lm["hidden_size"],
            intermediate_size=lm["intermediate_size"],
            num_heads=2,
            num_kv_heads=1,
            head_dim=16,
        ),
        embedding=words,
        vocab_size=lm["vocab_size"],
    )
    assert ear["d_model"] == sizes.encoder.hidden_size
    return replace(read_model_spec(folder), source=str(folder), sizes=sizes)


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def plan(base: ModelSpec, kind: str = "lora", *where: str, **changes: object) -> ModelPlan:
    adapter = AdapterSpec(kind, 8, 16, 0.05, where or ("lm",), None)
    fields = {name: changes.pop(name) for name in list(changes) if name in vars(adapter)}
    return ModelPlan(base, replace(adapter, **fields), "cpu", "fp32", "fp32", 0, **changes)


@pytest.mark.parametrize(
    ("family", "kind", "where", "changes"),
    [
        *((family, "dora", ("lm", "projector"), {"rank": 3}) for family in FAMILIES),
        ("stitched", "lora", ("lm",), {}),
        ("qwen2_audio", "lora", ("lm",), {"target_modules": ("q_proj", "mlp.down_proj")}),
        ("qwen2_audio", "projector", ("projector",), {}),
    ],
)
def test_weights_and_what_learns_are_counted_to_the_byte(
    folders, family: str, kind: str, where: tuple[str, ...], changes: dict
) -> None:
    drawn = plan(folders(family), kind, *where, **changes)
    model = load_model(drawn)
    learns = get_trainable_parameters(model)
    assert count_trainable_parameters(drawn) == sum(each.numel() for each in learns.values())
    stays = [each for name, each in model.named_parameters() if name not in learns]
    assert estimate_frozen_bytes(drawn) == sum(each.nbytes for each in stays)
    assert held(model) == estimate_memory(drawn, SequenceLengths(8, 4, 2), 1).trainable


@pytest.mark.parametrize("family", ["stitched", "qwen2_audio", "audioflamingo3"])
def test_the_encoder_learns_by_its_own_shapes(folders, family: str) -> None:
    drawn = plan(folders(family), "dora", "encoder", "lm")
    assert count_trainable_parameters(drawn) == sum(
        each.numel() for each in get_trainable_parameters(load_model(drawn)).values()
    )


@pytest.mark.parametrize("family", ["stitched", "qwen2_audio"])
def test_all_of_a_base_but_its_fixed_positions(folders, family: str) -> None:
    drawn = plan(folders(family), "full", *EVERYWHERE)
    model = load_model(drawn)
    fixed = [each for name, each in model.named_parameters() if "embed_positions" in name]
    learns = sum(each.numel() for each in get_trainable_parameters(model).values())
    assert count_trainable_parameters(drawn) == learns + sum(each.numel() for each in fixed)
    assert estimate_frozen_bytes(drawn) == 0


def held(model) -> int:
    """Bytes of what learns, of its gradients and of Adam's moments, after a step."""
    optimizer, learns = build_optimizer(model, TRAINING), get_trainable_parameters(model)
    for each in learns.values():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    moments = [
        state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
    ]
    grads = [each.grad for each in learns.values()]
    return sum(each.nbytes for each in (*learns.values(), *grads, *moments))


@pytest.mark.parametrize("family", ["stitched", "qwen2_audio"])
def test_bf16_halves_what_stays(folders, family: str) -> None:
    drawn = replace(plan(folders(family)), weights_dtype="bf16")
    model = load_model(drawn)
    learns = get_trainable_parameters(model)
    stays = [each for name, each in model.named_parameters() if name not in learns]
    assert estimate_frozen_bytes(drawn) == sum(each.nbytes for each in stays)
    joins = {id(each) for each in model.projector.parameters()} if family == "stitched" else set()
    assert {each.dtype for each in stays if id(each) not in joins} == {torch.bfloat16}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_counted_to_the_byte(folders, family: str, bits: int) -> None:
    drawn = plan(folders(family), bits=bits)
    model = load_model(drawn)
    learns = get_trainable_parameters(model)
    stays = [each for name, each in model.named_parameters() if name not in learns]
    assert estimate_frozen_bytes(drawn) == sum(map(packed, stays))


def packed(weights: nn.Parameter) -> int:
    """Bytes of a parameter and of the scales beside it."""
    about = vars(weights)
    if about.get("quant_state") is not None:
        state = about["quant_state"]
        inner = state.state2
        beside = (state.absmax, state.code, state.offset, inner.absmax, inner.code)
        return weights.nbytes + sum(each.nbytes for each in beside)
    return weights.nbytes + (about["SCB"].nbytes if about.get("SCB") is not None else 0)


def test_packed_bytes() -> None:
    assert compute_quantized_bytes(4096 * 4096, 4096, 8) == 4096 * 4096 + 4 * 4096
    per_weight = compute_quantized_bytes(4096 * 4096, 4096, 4) / 4096**2
    assert 0.5156 < per_weight < 0.516  # 4.127 bits (Dettmers et al. 2023, section 3)
    assert compute_quantized_bytes(1, 1, 4) == 1 + 1 + 4 + 1092


def batch_of(model, tokens: int, sound: int, labels: int, rows: int) -> Batch:
    """Rows of just these sizes, with mels or, where the encoder is frozen, features."""
    strides, windows = model.spec.audio_spec, rows
    ids = torch.full((rows, tokens), 5)
    ids[:, :sound] = model.audio_token_id
    marks = torch.full((rows, tokens), -100)
    marks[:, tokens - labels :] = 5
    frames = sound * strides.projector_stride
    learns = any(
        name.startswith(model.param_prefixes["encoder"]) for name in get_trainable_parameters(model)
    )
    mel = frames * strides.encoder_stride
    bins, width = model.spec.num_mel_bins, model.spec.sizes.encoder.hidden_size
    shape = (windows, bins, mel + strides.right_context) if learns else (windows, frames, width)
    steps = mel if learns else sound if strides.floor_tokens else frames
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=marks,
        audio_features=torch.zeros(shape),
        audio_lengths=torch.full((windows,), steps),
        audio_token_counts=torch.full((windows,), sound),
        is_encoded=not learns,
        locations=("x",) * rows,
        windows_per_example=(1,) * rows,
        num_audio_samples=0,
        teacher_examples=(None,) * rows,
    )


class Meter(TorchDispatchMode):
    """Watches every tensor that is made, and keeps the most bytes that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.alive = {key: each for key, each in self.alive.items() if not each[0].expired()}
        given = {each.untyped_storage()._cdata for each in tree_leaves(args) if is_tensor(each)}
        for each in filter(is_tensor, tree_leaves(made)):
            storage = each.untyped_storage()
            if storage._cdata not in given:
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, sum(count for _, count in self.alive.values()))
        return made


def peak(model, batch: Batch, *, mixed: bool) -> int:
    """The most bytes alive at once on the way forward and back, weights and gradients apart."""
    for each in get_trainable_parameters(model).values():
        each.grad = torch.zeros_like(each)
    model.train()
    with Meter() as meter:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = AudioLMLoss(model)(batch).total_loss.sum()
        loss.backward()
    return meter.most


CASES = [
    ("lora", ("lm",), {}, 1.25),
    ("lora", ("lm",), {"dropout": 0.0}, 1.25),
    ("lora", ("lm",), {"precision": "bf16"}, 1.25),
    ("lora", ("lm",), {"precision": "bf16", "bits": 4}, 1.25),
    ("full", EVERYWHERE, {"precision": "bf16"}, 1.25),
    ("lora", ("encoder", "lm"), {}, 1.25),
    ("dora", ("lm",), {}, 1.25),
    ("projector", ("projector",), {}, 1.25),
    ("lora", ("lm",), {"bits": 4}, 1.25),
    ("lora", ("lm",), {"bits": 8}, 1.25),
    ("full", EVERYWHERE, {}, 1.25),
    ("lora", ("lm",), {"gradient_checkpointing": True}, 1.25),
    ("lora", ("lm",), {"gradient_checkpointing": True, "bits": 8}, 1.25),
    ("dora", ("lm",), {"gradient_checkpointing": True}, 1.25),
    (
        "full",
        EVERYWHERE,
        {"gradient_checkpointing": True},
        1.7,
    ),  # a layer of each tower, one after the other
]


@pytest.mark.parametrize(
    ("kind", "where", "changes", "factor"), CASES, ids=lambda each: str(each).replace(" ", "")
)
def test_what_a_batch_leaves_behind(
    folders, kind: str, where: tuple[str, ...], changes: dict, factor: float
) -> None:
    """Never less than what was alive at once, and at most so many times as much."""
    fields = {name: value for name, value in changes.items() if name != "precision"}
    drawn = plan(folders("stitched"), kind, *where, **fields)
    precision = changes.get("precision", "fp32")
    drawn = replace(
        drawn, precision=precision, weights_dtype=choose_frozen_dtype(drawn.adapter, precision)
    )
    row, rows = SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=40), 2
    model = load_model(drawn)
    found = peak(
        model,
        batch_of(model, row.num_tokens, row.num_audio_tokens, row.num_labels, rows),
        mixed=drawn.precision == "bf16",
    )
    told = estimate_activation_bytes(drawn, row, rows)
    assert found <= told <= factor * found


def test_what_answers_hold(folders) -> None:
    """Keys and values, and a layer at work: told from above, at most twice as much."""
    drawn, rows, size_of = (
        plan(folders("stitched")),
        4,
        SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=0),
    )
    model = load_model(drawn).eval()
    with torch.inference_mode(), Meter() as meter:
        embedded = torch.zeros(rows, size_of.num_tokens, model.spec.sizes.lm.hidden_size)
        attention = torch.ones(rows, size_of.num_tokens, dtype=torch.long)
        model.compute_next_logits(embedded, attention, DynamicCache())
    takes = estimate_frozen_bytes(drawn) + estimate_memory(drawn, size_of, 1).trainable
    told = (
        next(
            room
            for room in range(takes, takes + 8 * meter.most, meter.most // 50)
            if choose_eval_batch_size(drawn, size_of, 16, room) == rows
        )
        - takes
    )
    assert meter.most <= told <= 2 * meter.most


def test_checkpointing_saves_memory(folders) -> None:
    base, row = (
        folders("stitched"),
        SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=40),
    )
    found = {}
    for way in (False, True):
        model = load_model(plan(base, gradient_checkpointing=way))
        found[way] = peak(model, batch_of(model, 200, 25, 40, 2), mixed=False)
    assert found[True] < 0.85 * found[False]
    told = [
        estimate_activation_bytes(plan(base, gradient_checkpointing=way), row, 2)
        for way in (False, True)
    ]
    assert told[1] < 0.9 * told[0]


def test_each_thing_that_grows_is_counted(folders) -> None:
    base = folders("stitched")
    drawn, row = plan(base), SequenceLengths(num_tokens=200, num_audio_tokens=25, num_labels=40)
    once = estimate_activation_bytes(drawn, row, 1)
    assert estimate_activation_bytes(drawn, row, 2) > 1.9 * once - 1_000_000
    for larger in (
        replace(row, num_tokens=400),
        replace(row, num_labels=80),
        replace(row, num_audio_tokens=50),
    ):
        assert estimate_activation_bytes(drawn, larger, 1) > once
    again = replace(drawn, gradient_checkpointing=True)  # which feeds the last layer all positions
    more = [estimate_activation_bytes(again, replace(row, num_labels=each), 1) for each in (40, 41)]
    assert more[1] - more[0] == base.sizes.vocab_size * 12
    assert (
        estimate_activation_bytes(drawn, replace(row, num_labels=41), 1) - once
        > base.sizes.vocab_size * 12
    )
    assert estimate_memory(drawn, row, 1).runtime == 0
    assert estimate_memory(replace(drawn, device="cuda"), row, 1).runtime > 0


def test_experts_are_not_packed() -> None:
    """They lie in one tensor, which bitsandbytes leaves as it is."""
    base = find_catalog_spec("qwen3-omni-30b-a3b")
    dense, packed = (
        estimate_frozen_bytes(replace(plan(base, bits=bits), weights_dtype="bf16"))
        for bits in (None, 4)
    )
    assert 0.9 * dense < packed < dense


def clip(*texts: str, sounds: int = 1) -> Example:
    heard = (AudioSegment(Path("a.wav")),) * sounds
    turns = [Message("user", (*heard, texts[0]) if sounds else (texts[0],))]
    return Example((*turns, Message("assistant", (texts[1],))), "my.dlm:3", "transcribe")


@pytest.mark.parametrize("key", ["qwen2-audio-7b-instruct", "voxtral-mini-3b", "qwen3-asr-1.7b"])
def test_any_row_has_room_for_half_a_minute(key: str) -> None:
    base = find_catalog_spec(key)
    short = estimate_sequence_lengths(base, 2048, [clip("?", "yes")], {"my.dlm:3": (0.5,)})
    assert short == estimate_sequence_lengths(base, 2048)
    assert short.num_audio_tokens == round(30 * base.audio_spec.tokens_per_second)
    assert short.num_tokens == short.num_audio_tokens + 256


def test_a_long_row_is_counted_from_its_clips() -> None:
    base = find_catalog_spec("qwen2-audio-7b-instruct")
    long = clip("", "word " * 400)
    row = estimate_sequence_lengths(base, 4096, [clip("?", "yes"), long], {"my.dlm:3": (45.0,)})
    assert (row.num_audio_tokens, row.num_labels) == (45 * 25, 1000 + 64)
    assert row.num_tokens == row.num_audio_tokens + row.num_labels
    assert estimate_sequence_lengths(base, 1024, [long], {"my.dlm:3": (45.0,)}).num_tokens == 1024
    voxtral = find_catalog_spec("voxtral-mini-3b")
    both = estimate_sequence_lengths(
        voxtral, 8192, [clip("", "yes", sounds=3)], {"my.dlm:3": (1.0, 2.0, 31.0)}
    )
    assert both.num_audio_tokens == (1 + 1 + 2) * 375, "silence that fills a window counts"


def test_sizes_are_readable() -> None:
    assert [format_bytes(count) for count in (1, 5 << 20, 100 << 20, GIB, 17 * GIB + GIB // 2)] == [
        "1 MiB",
        "5 MiB",
        "100 MiB",
        "1.0 GiB",
        "17.5 GiB",
    ]
