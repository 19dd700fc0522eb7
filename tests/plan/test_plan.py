"""Every number of a run: what is asked for, what is derived, what cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest

from dlm.document.document import Document
from dlm.document.settings import Settings
from dlm.errors import PlanError, UsageError
from dlm.plan.bases import Base
from dlm.plan.catalogue import CATALOGUE
from dlm.plan.hardware import Gpu, Machine, survey
from dlm.plan.plan import (
    Plan,
    Wishes,
    check_disk,
    disk_bytes,
    draw_up,
    memory_bytes,
    trainable,
)
from dlm.plan.resolve import find
from tests.tiny import LAPTOP, tiny_base

GIB = 1 << 30
H200 = Gpu("NVIDIA H200", 140 * GIB, 138 * GIB, True)
OLD = Gpu("Tesla P100", 16 * GIB, 15 * GIB, False)
SERVER = replace(LAPTOP, memory=128 * GIB, free_memory=120 * GIB, bf16=True, gpus=(H200,))


def plan(
    clips: int = 100,
    *,
    base: Base | None = None,
    machine: Machine = LAPTOP,
    wishes: Wishes | None = None,
    **training: object,
) -> Plan:
    known = {"dlm_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "base_model": "tiny", "training": training}
    document = Document(Path("my.dlm"), Settings(**known), (), "", "0" * 64)
    return draw_up(document, base or tiny_base(), clips, machine, wishes=wishes)


def test_the_base_says_what_the_document_leaves_open() -> None:
    drawn = plan(100)
    assert drawn.model.adapter.kind == "full"
    assert drawn.model.adapter.where == ("encoder", "projector", "lm")
    assert drawn.training.learning_rate == 3e-3
    assert (drawn.batches.clips_per_step, drawn.batches.clips_per_batch) == (8, 8)
    assert drawn.training.steps == 2 * 13
    assert drawn.training.warmup_steps == round(26 * 0.1)
    assert (drawn.model.seed, drawn.batches.seed, drawn.training.seed) == (42, 42, 42)
    assert (drawn.model.device, drawn.model.precision) == ("cpu", "fp32")
    assert not drawn.batches.heard


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
    assert (adapter.where, adapter.targets) == (("lm", "projector"), ("q_proj",))
    assert (drawn.batches.clips_per_step, drawn.batches.clips_per_batch) == (6, 2)
    assert training.steps == 5 * 17
    assert (training.learning_rate, training.rates) == (1e-3, {"lora": 2e-4})
    assert (training.schedule, training.warmup_steps) == ("linear", 0)
    assert (training.max_gradient_norm, training.weight_decay) == (0.5, 0.01)
    assert (training.max_skipped_steps, training.seed, drawn.batches.longest) == (2, 7, 512)
    assert drawn.batches.heard, "the encoder is frozen, so what it hears is kept"


def test_the_command_line_overrides_the_document() -> None:
    wishes = Wishes(steps=9, seed=0, device="cpu", save_steps=3)
    drawn = plan(100, machine=SERVER, wishes=wishes, num_epochs=5, seed=7)
    assert (drawn.training.steps, drawn.training.save_steps) == (9, 3)
    assert (drawn.model.seed, drawn.batches.seed, drawn.training.seed) == (0, 0, 0)
    assert drawn.training.device == drawn.model.device == "cpu"
    assert plan(100, wishes=Wishes(epochs=3), num_epochs=5).training.steps == 3 * 13


@pytest.mark.parametrize("name", ["steps", "epochs", "save_steps"])
@pytest.mark.parametrize("count", [0, -1])
def test_a_wish_that_cannot_be_is_refused(name: str, count: int) -> None:
    with pytest.raises(UsageError, match=f"{name} is {count}"):
        plan(wishes=Wishes(**{name: count}))


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="seed is -1"):
        plan(wishes=Wishes(seed=-1))


@pytest.mark.parametrize("clips", [1, 3, 8, 9])
def test_a_small_set_makes_small_steps(clips: int) -> None:
    drawn = plan(clips)
    assert drawn.batches.clips_per_step == min(clips, 8)
    assert drawn.training.steps == 2 * -(-clips // 8)


@pytest.mark.parametrize(
    ("kind", "where"),
    [("full", ("encoder", "projector", "lm")), ("projector", ("projector",)), ("dora", ("lm",))],
)
def test_what_an_adapter_trains(kind: str, where: tuple[str, ...]) -> None:
    adapter = plan(adapter=kind).model.adapter
    assert adapter.where == where
    assert adapter.trains("encoder") == ("encoder" in where)


def test_features_are_not_kept_while_the_encoder_learns() -> None:
    assert plan(adapter="projector").batches.heard
    assert not plan(adapter="lora", lora={"where": ["lm", "encoder"]}).batches.heard


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
    machine: Machine, asked: str | None, precision: str
) -> None:
    drawn = plan(machine=machine, **({"precision": asked} if asked else {}))
    assert (drawn.model.precision, drawn.training.precision) == (precision, precision)


def test_large_frozen_weights_are_held_in_bf16() -> None:
    large = replace(tiny_base(), sizes=find("qwen2-audio-7b").sizes, adapter="lora")
    drawn = plan(base=large, machine=SERVER)
    assert drawn.model.weights == "bf16"
    assert (drawn.batches.clips_per_batch, drawn.batches.clips_per_step) == (1, 4)
    assert plan(machine=SERVER).model.weights == "fp32"


def test_no_cuda_is_said() -> None:
    with pytest.raises(PlanError, match="no CUDA device; use --device cpu"):
        plan(wishes=Wishes(device="cuda"))


def test_an_unknown_device_is_said() -> None:
    with pytest.raises(PlanError, match="unknown device 'tpu'; use cpu or cuda"):
        plan(wishes=Wishes(device="tpu"))


def test_a_gpu_is_used_where_there_is_one() -> None:
    assert plan(machine=SERVER).model.device == "cuda"


def test_too_little_memory_is_said_in_numbers() -> None:
    qwen = CATALOGUE["qwen2-audio-7b-instruct"]
    with pytest.raises(PlanError, match=r"needs about \d+\.\d GiB of memory and 12\.0 are free"):
        plan(base=qwen)


def test_memory_is_counted_where_the_model_runs() -> None:
    small = replace(SERVER, gpus=(replace(H200, free=1 << 20),))
    big = replace(tiny_base(), sizes=replace(tiny_base().sizes, words=10_000_000))
    with pytest.raises(PlanError, match="0.0 are free"):
        plan(base=big, machine=small)
    plan(base=big, machine=small, wishes=Wishes(device="cpu"))


def test_memory_counts_weights_and_what_learning_takes() -> None:
    full = plan().model
    assert memory_bytes(full) == tiny_base().sizes.parameters * (4 + 12)
    lora = plan(adapter="lora").model
    assert tiny_base().sizes.parameters * 4 < memory_bytes(lora) < memory_bytes(plan().model)


def test_a_full_disk_is_said_in_numbers() -> None:
    drawn = plan()
    with pytest.raises(PlanError, match=r"writes about 1\.0 GiB and 0\.5 are free; free some"):
        check_disk(drawn, GIB, replace(LAPTOP, free_disk=GIB // 2))
    exact = replace(LAPTOP, free_disk=disk_bytes(drawn) + 5)
    check_disk(drawn, 5, exact)
    with pytest.raises(PlanError):
        check_disk(drawn, 6, exact)


def test_low_rank_learns_far_less() -> None:
    assert trainable(plan(adapter="lora").model) < trainable(plan(adapter="full").model)


def test_the_plan_is_said_aloud() -> None:
    lines = {line.name: line for line in plan(100, adapter="lora", seed=5).lines}
    assert list(lines) == ["base", "learns", "device", "memory", "batch", "steps", "rate", "seed"]
    assert lines["base"].value.startswith("tiny")
    assert lines["learns"].value == "lora, rank 8 on lm"
    assert lines["device"].value == "cpu, fp32" and lines["device"].why
    assert (lines["batch"].value, lines["batch"].why) == ("8 clips a step", "at most 8 at once")
    assert lines["steps"].value == "26" and "100 clips" in lines["steps"].why
    assert lines["rate"].value == "0.003" and "cosine, 3 steps of warm-up" in lines["rate"].why
    assert lines["seed"].value == "5"
    assert "no warm-up" in {line.name: line for line in plan(warmup_ratio=0.0).lines}["rate"].why


def test_this_machine_can_be_surveyed(tmp_path: Path) -> None:
    machine = survey(tmp_path / "not" / "there" / "yet")
    assert machine.cores >= 1 and machine.free_disk > 0
    assert 0 < machine.free_memory <= machine.memory
    assert machine.device == ("cuda" if machine.gpus else "cpu")
    assert machine.bf16 or not machine.amx
