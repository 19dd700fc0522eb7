"""Every number of a run: what is asked for, what is derived, what cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm.config.parser import Document
from dlm.config.schema import DlmConfig
from dlm.errors import PlanError, UsageError
from dlm.plan.fit_table import make_fake_gpu
from dlm.plan.hardware import Gpu, Hardware, detect_hardware
from dlm.plan.memory import (
    SequenceLengths,
    count_trainable_parameters,
    estimate_memory,
    estimate_sequence_lengths,
)
from dlm.plan.model_spec import MODEL_CATALOG, ModelSpec
from dlm.plan.planner import check_disk_space, estimate_disk_bytes, make_plan
from dlm.plan.types import CliOverrides, Plan
from tests.tiny_models import LAPTOP, make_tiny_spec

GIB = 1 << 30
H200 = Gpu("NVIDIA H200", 140 * GIB, 138 * GIB, True)
OLD = Gpu("Tesla P100", 16 * GIB, 15 * GIB, False)
SERVER = replace(LAPTOP, memory=128 * GIB, free_memory=120 * GIB, bf16=True, gpus=(H200,))


def plan(
    clips: int = 100,
    *,
    base: ModelSpec | None = None,
    machine: Hardware = LAPTOP,
    wishes: CliOverrides | None = None,
    **training: object,
) -> Plan:
    known = {"dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "base_model": "tiny", "training": training}
    document = Document(Path("my.dlm"), DlmConfig(**known), (), "", "0" * 64)
    return make_plan(document, base or make_tiny_spec(), clips, machine, cli_overrides=wishes)


def test_the_base_says_what_the_document_leaves_open() -> None:
    drawn = plan(100)
    assert drawn.model.adapter.kind == "full"
    assert drawn.model.adapter.components == ("encoder", "projector", "lm")
    assert drawn.training.learning_rate == 3e-3
    assert (drawn.batches.global_batch_size, drawn.batches.micro_batch_size) == (8, 8)
    assert drawn.training.num_steps == 2 * 13
    assert drawn.training.warmup_steps == round(26 * 0.1)
    assert (drawn.model.seed, drawn.batches.seed, drawn.training.seed) == (42, 42, 42)
    assert (drawn.model.device, drawn.model.precision) == ("cpu", "fp32")
    assert not drawn.batches.use_cached_features


def test_the_document_overrides_the_base() -> None:
    drawn = plan(
        100,
        adapter="lora",
        lora_r=4,
        lora_alpha=12,
        lora_dropout=0.1,
        lora={"where": ["lm", "projector"]},
        target_modules=["q_proj"],
        learning_rate=1e-3,
        rates={"lora": 2e-4},
        num_epochs=5,
        micro_batch_size=2,
        grad_accum=3,
        lr_scheduler="linear",
        warmup_ratio=0.0,
        sequence_len=512,
        max_grad_norm=0.5,
        weight_decay=0.01,
        seed=7,
        stability={"max_skipped_steps": 2},
    )
    adapter, training = drawn.model.adapter, drawn.training
    assert (adapter.kind, adapter.rank, adapter.alpha, adapter.dropout) == ("lora", 4, 12, 0.1)
    assert (adapter.components, adapter.target_modules) == (("lm", "projector"), ("q_proj",))
    assert (drawn.batches.global_batch_size, drawn.batches.micro_batch_size) == (6, 2)
    assert training.num_steps == 5 * 17
    assert (training.learning_rate, training.learning_rates) == (1e-3, {"lora": 2e-4})
    assert (training.lr_scheduler, training.warmup_steps) == ("linear", 0)
    assert (training.max_grad_norm, training.weight_decay) == (0.5, 0.01)
    assert (training.max_skipped_steps, training.seed, drawn.batches.max_tokens) == (2, 7, 512)
    assert drawn.batches.use_cached_features, "the encoder is frozen, so what it hears is kept"


def test_the_command_line_overrides_the_document() -> None:
    wishes = CliOverrides(steps=9, seed=0, device="cpu")
    drawn = plan(100, machine=SERVER, wishes=wishes, num_epochs=5, seed=7, save_steps=3)
    assert (drawn.training.num_steps, drawn.training.save_steps) == (9, 3)
    assert (drawn.model.seed, drawn.batches.seed, drawn.training.seed) == (0, 0, 0)
    assert drawn.training.device == drawn.model.device == "cpu"
    assert plan(100, num_epochs=5).training.num_steps == 5 * 13


@pytest.mark.parametrize("count", [0, -1])
def test_a_wish_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"steps is {count}"):
        plan(wishes=CliOverrides(steps=count))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed is -1"):
        plan(wishes=CliOverrides(seed=-1))


@pytest.mark.parametrize("clips", [1, 3, 8, 9])
def test_a_small_set_makes_small_steps(clips: int) -> None:
    drawn = plan(clips)
    assert drawn.batches.global_batch_size == min(clips, 8)
    assert drawn.training.num_steps == 2 * -(-clips // 8)


@pytest.mark.parametrize(
    ("kind", "where"),
    [("full", ("encoder", "projector", "lm")), ("projector", ("projector",)), ("dora", ("lm",))],
)
def test_what_an_adapter_trains(kind: str, where: tuple[str, ...]) -> None:
    adapter = plan(adapter=kind).model.adapter
    assert adapter.components == where
    assert adapter.is_trainable("encoder") == ("encoder" in where)


def test_features_are_not_kept_while_the_encoder_learns() -> None:
    assert plan(adapter="projector").batches.use_cached_features
    assert not plan(adapter="lora", lora={"where": ["lm", "encoder"]}).batches.use_cached_features


@pytest.mark.parametrize(
    ("machine", "asked", "precision"),
    [
        (LAPTOP, None, "fp32"),
        (replace(LAPTOP, bf16=True), None, "bf16"),
        (replace(LAPTOP, bf16=True), "fp32", "fp32"),
        (LAPTOP, "bf16", "bf16"),
        (SERVER, None, "bf16"),
        (replace(SERVER, gpus=(OLD,)), None, "fp32"),
    ],
)
def test_precision_is_what_is_asked_or_what_is_fast(
    machine: Hardware, asked: str | None, precision: str
) -> None:
    drawn = plan(machine=machine, **({"precision": asked} if asked else {}))
    assert (drawn.model.precision, drawn.training.precision) == (precision, precision)


QWEN = MODEL_CATALOG["qwen2-audio-7b-instruct"]


def on_a_card(gib: int, base: ModelSpec = QWEN, clips: int = 100, **training: object) -> Plan:
    return plan(clips, base=base, machine=replace(SERVER, gpus=(make_fake_gpu(gib),)), **training)


def test_large_frozen_weights_are_held_in_bf16() -> None:
    assert plan(base=QWEN, machine=SERVER).model.weights_dtype == "bf16"
    assert plan(machine=SERVER).model.weights_dtype == "fp32"


@pytest.mark.parametrize(
    ("gib", "base", "micro", "checkpointing"),
    [
        (24, QWEN, 1, True),  # the recipe's card
        (48, QWEN, 2, False),
        (80, QWEN, 4, False),
        (16, MODEL_CATALOG["voxtral-mini-3b"], 1, False),
        (80, MODEL_CATALOG["voxtral-small-24b"], 2, False),
    ],
)
def test_the_memory_decides_how_a_step_is_cut(
    gib: int, base: ModelSpec, micro: int, checkpointing: bool
) -> None:
    drawn = on_a_card(gib, base)
    assert (drawn.batches.micro_batch_size, drawn.batches.global_batch_size) == (micro, 4)
    assert drawn.model.gradient_checkpointing == checkpointing
    lines = {line.name: line for line in drawn.summary}
    full = f", or more of short rows, up to {drawn.batches.max_batch_tokens:,} tokens"
    assert lines["batch"].why == f"micro-batch {micro} x {4 // micro}" + full * (micro < 4)
    assert drawn.batches.max_batch_tokens >= micro * 600
    assert ("with gradient checkpointing, to fit" in lines["memory"].why) == checkpointing


def test_short_and_few_clips_are_cut_alike() -> None:
    assert on_a_card(24, clips=5).batches == on_a_card(24).batches
    few = on_a_card(80, clips=3).batches
    assert (few.micro_batch_size, few.global_batch_size) == (3, 3)


def test_longer_rows_take_more() -> None:
    machine = replace(SERVER, gpus=(make_fake_gpu(48),))
    document = Document(
        Path("my.dlm"),
        DlmConfig(dlm_id="01ARZ3NDEKTSV4RRFFQ69G5FAV", base_model="tiny"),
        (),
        "",
        "0" * 64,
    )
    long = make_plan(document, QWEN, 9, machine, lengths=SequenceLengths(2048, 1500, 500))
    assert long.batches.micro_batch_size == 1
    assert make_plan(document, QWEN, 9, machine).batches.micro_batch_size == 2


@pytest.mark.parametrize(("gib", "least", "most"), [(24, 2, 8), (80, 16, 16)])
def test_a_test_at_the_end_of_a_run_fits_as_well(gib: int, least: int, most: int) -> None:
    """Sixteen answers at once hold 8 GiB of keys and values beside the weights."""
    assert least <= on_a_card(gib).eval_batch_size <= most
    assert on_a_card(80, eval_batch_size=3).eval_batch_size == 3
    assert plan().eval_batch_size == 16


def test_what_is_asked_is_kept() -> None:
    asked = on_a_card(80, micro_batch_size=2, gradient_checkpointing=True)
    assert asked.model.gradient_checkpointing
    assert (asked.batches.micro_batch_size, asked.batches.global_batch_size) == (2, 4)
    assert "as asked" in {line.name: line for line in asked.summary}["memory"].why
    assert not on_a_card(80, gradient_checkpointing=False).model.gradient_checkpointing
    both = on_a_card(80, micro_batch_size=1, grad_accum=7).batches
    assert (both.micro_batch_size, both.global_batch_size) == (1, 7)
    six = on_a_card(80, grad_accum=6).batches
    assert (six.micro_batch_size, six.global_batch_size) == (1, 6)
    with pytest.raises(PlanError, match="needs about"):
        on_a_card(24, gradient_checkpointing=False)
    with pytest.raises(PlanError, match="micro_batch_size: 1 with gradient_checkpointing: true"):
        on_a_card(24, micro_batch_size=64)


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_qlora_packs_the_language_model(bits: int | None) -> None:
    drawn = on_a_card(24, adapter="qlora", bits=bits)
    assert (drawn.model.adapter.kind, drawn.model.adapter.bits) == ("lora", bits or 4)
    line = {each.name: each for each in drawn.summary}["learns"]
    assert line.value == f"qlora, rank 8 on lm, the language model in {bits or 4} bits"
    assert on_a_card(24, adapter="lora").model.adapter.bits is None


def test_bits_are_for_qlora() -> None:
    with pytest.raises(PlanError, match=r"training.bits is 8, and training.adapter is lora; use"):
        on_a_card(24, adapter="lora", bits=8)


def test_a_frozen_encoder_cannot_be_all_that_learns() -> None:
    drawn = plan(adapter="full", freeze_encoder=True)
    assert (
        drawn.model.adapter.components == ("projector", "lm") and drawn.batches.use_cached_features
    )
    with pytest.raises(PlanError, match="nothing would be trained"):
        plan(adapter="lora", lora={"where": ["encoder"]}, freeze_encoder=True)


def test_all_of_a_large_base_takes_16_bytes_a_parameter() -> None:
    with pytest.raises(PlanError, match="what fits: .*base_model: sparrow") as told:
        plan(base=QWEN, machine=replace(SERVER, gpus=(make_fake_gpu(1),)), adapter="full")
    takes = float(str(told.value).split("about ")[1].split(" GiB")[0])
    assert takes * GIB > QWEN.sizes.num_parameters * 16
    tiny = plan(adapter="full").model
    assert (
        estimate_memory(tiny, estimate_sequence_lengths(tiny.spec, 2048), 1).trainable
        == tiny.spec.sizes.num_parameters * 16
    )


def test_a_run_may_go_on_while_others_use_some_of_the_card() -> None:
    """The plan is that of the whole card, so that --resume finds the same."""
    used = replace(make_fake_gpu(80), free_memory=50 * GIB)
    drawn = plan(base=QWEN, machine=replace(SERVER, gpus=(used,)))
    assert drawn.batches == on_a_card(80).batches
    with pytest.raises(PlanError, match=r"and 30\.0 GiB are free; what fits: micro_batch_size: 1"):
        plan(base=QWEN, machine=replace(SERVER, gpus=(replace(used, free_memory=30 * GIB),)))


def test_layers_are_spread_over_all_cards() -> None:
    four = replace(SERVER, gpus=(make_fake_gpu(16),) * 4)
    with pytest.raises(PlanError):
        plan(base=QWEN, machine=four)
    drawn = plan(base=QWEN, machine=four, device_map="auto")
    assert drawn.model.device_map == "auto"
    assert "spread over all of them" in {line.name: line for line in drawn.summary}["device"].value
    with pytest.raises(PlanError, match="device_map spreads a released model, and tiny is small"):
        plan(device_map="auto")


def test_no_cuda_is_said() -> None:
    with pytest.raises(PlanError, match="no CUDA device; use --device cpu"):
        plan(wishes=CliOverrides(device="cuda"))


def test_an_unknown_device_is_said() -> None:
    with pytest.raises(PlanError, match="unknown device 'tpu'; use cpu or cuda"):
        plan(wishes=CliOverrides(device="tpu"))


def test_a_gpu_is_used_where_there_is_one() -> None:
    assert plan(machine=SERVER).model.device == "cuda"


def test_too_little_memory_is_said_in_numbers() -> None:
    qwen = MODEL_CATALOG["qwen2-audio-7b-instruct"]
    with pytest.raises(PlanError, match=r"needs about \d+\.\d GiB of memory and 12\.0 GiB are"):
        plan(base=qwen)


def test_memory_is_counted_where_the_model_runs() -> None:
    small = replace(SERVER, gpus=(replace(H200, free_memory=1 << 20),))
    big = replace(make_tiny_spec(), sizes=replace(make_tiny_spec().sizes, embedding=10_000_000))
    with pytest.raises(PlanError, match="and 1 MiB are free"):
        plan(base=big, machine=small)
    plan(base=big, machine=small, wishes=CliOverrides(device="cpu"))


def test_a_full_disk_is_said_in_numbers() -> None:
    drawn = plan()
    with pytest.raises(PlanError, match=r"writes about 1\.0 GiB and 512 MiB are free; free some"):
        check_disk_space(drawn, GIB, replace(LAPTOP, free_disk=GIB // 2))
    exact = replace(LAPTOP, free_disk=estimate_disk_bytes(drawn) + 5)
    check_disk_space(drawn, 5, exact)
    with pytest.raises(PlanError):
        check_disk_space(drawn, 6, exact)


def test_low_rank_learns_far_less() -> None:
    assert count_trainable_parameters(plan(adapter="lora").model) < count_trainable_parameters(
        plan(adapter="full").model
    )


def test_the_plan_is_said_aloud() -> None:
    lines = {line.name: line for line in plan(100, adapter="lora", seed=5).summary}
    assert list(lines) == ["base", "learns", "device", "memory", "batch", "steps", "rate", "seed"]
    assert lines["base"].value.startswith("tiny")
    assert lines["learns"].value == "lora, rank 8 on lm"
    assert lines["device"].value == "cpu, fp32" and lines["device"].why
    assert (lines["batch"].value, lines["batch"].why) == ("8 clips a step", "micro-batch 8 x 1")
    assert lines["steps"].value == "26" and "100 clips" in lines["steps"].why
    assert lines["rate"].value == "0.003" and "cosine, 3 steps of warm-up" in lines["rate"].why
    assert lines["seed"].value == "5"
    assert "no warm-up" in {line.name: line for line in plan(warmup_ratio=0.0).summary}["rate"].why


def test_this_machine_can_be_surveyed(tmp_path: Path) -> None:
    machine = detect_hardware(tmp_path / "not" / "there" / "yet")
    assert machine.cores >= 1 and machine.free_disk > 0
    assert 0 < machine.free_memory <= machine.memory
    assert machine.default_device == ("cuda" if machine.gpus else "cpu")
    assert machine.bf16 or not machine.amx
