"""What fits on which GPU, and what an error suggests in place of what does not."""

import re
from dataclasses import replace

import pytest

from dlm.config.schema import TrainingConfig
from dlm.errors import PlanError
from dlm.plan.fit_table import (
    DEFAULT_SEQUENCE_LEN,
    FINETUNE_MODE_SETTINGS,
    FINETUNE_MODES,
    FitRow,
    build_fit_table,
    is_large_model,
    make_fake_gpu,
)
from dlm.plan.hardware import GIB, Hardware
from dlm.plan.model_spec import MODEL_CATALOG
from tests.plan.test_planner import QWEN, plan_on_gpu, plan_run
from tests.tiny_models import LAPTOP, make_tiny_spec

GPUS_GIB = (16, 24, 48, 80)


def assume_gpu(gib: int) -> Hardware:
    return replace(LAPTOP, gpus=(make_fake_gpu(gib),))


def build_rows(gib: int, key: str) -> dict[str, FitRow]:
    return {row.mode: row for row in build_fit_table((MODEL_CATALOG[key],), assume_gpu(gib))}


def list_batch_sizes(gib: int, key: str) -> dict[str, int]:
    return {mode: row.max_batch_size for mode, row in build_rows(gib, key).items()}


def test_common_gpus() -> None:
    qwen = {gib: list_batch_sizes(gib, QWEN.key) for gib in GPUS_GIB}
    assert [qwen[gib]["lora"] for gib in GPUS_GIB] == [0, 1, 2, 4]
    assert all(qwen[gib]["qlora, 4 bits"] for gib in GPUS_GIB)
    assert not any(qwen[gib]["full"] for gib in GPUS_GIB)
    voxtral = [list_batch_sizes(gib, "voxtral-small-24b")["lora"] for gib in GPUS_GIB]
    assert [bool(batch_size) for batch_size in voxtral] == [False, False, False, True]
    assert list_batch_sizes(80, "sparrow") == dict.fromkeys(FINETUNE_MODES, 4)


@pytest.mark.parametrize("key", MODEL_CATALOG)
def test_more_memory_never_holds_less(key: str) -> None:
    by_gpu = [list_batch_sizes(gib, key) for gib in (1, *GPUS_GIB, 4000)]
    for mode in FINETUNE_MODES:
        batch_sizes = [sizes[mode] for sizes in by_gpu]
        assert batch_sizes == sorted(batch_sizes)
        assert batch_sizes[-1] == 4


@pytest.mark.parametrize("key", ["qwen2-audio-7b", "voxtral-mini-3b", "glm-asr-nano"])
def test_fewer_bits_take_less_memory(key: str) -> None:
    num_bytes = {mode: row.min_bytes for mode, row in build_rows(24, key).items()}
    assert num_bytes["qlora, 4 bits"] < num_bytes["qlora, 8 bits"] < num_bytes["lora"]
    assert num_bytes["lora"] < num_bytes["full"]


@pytest.mark.parametrize("gib", [4, 8, 12, 16])
def test_every_suggested_alternative_fits(gib: int) -> None:
    with pytest.raises(PlanError) as caught:
        plan_on_gpu(gib, adapter="lora")
    line = str(caught.value)
    assert re.search(r"needs about 17\.\d GiB of memory and \d+\.\d GiB are free; what fits:", line)
    suggestions = line.split("what fits: ")[1].split(" or ")
    assert 1 <= len(suggestions) <= 3
    for suggestion in suggestions:
        spec, training = QWEN, {"adapter": "lora"}
        setting = suggestion.split(" (")[0]
        if setting.startswith("base_model: "):
            spec = MODEL_CATALOG[setting.split()[1]]
        elif "bits: 8" in setting:
            training = {"adapter": "qlora", "bits": 8}
        else:
            assert setting == FINETUNE_MODE_SETTINGS["qlora, 4 bits"]
            training = {"adapter": "qlora"}
        assert plan_on_gpu(gib, spec, **training).batches.micro_batch_size >= 1


@pytest.mark.parametrize(
    ("gib", "adapter", "words"),
    [
        (24, "full", r"what fits: adapter: lora \(17\.\d GiB\) or adapter: qlora"),
        (4, None, r"what fits: base_model: [\w.-]+ with adapter: lora \(\d"),
    ],
)
def test_suggestions_start_with_the_smallest_change(
    gib: int, adapter: str | None, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        plan_on_gpu(gib, adapter=adapter)


def test_small_model_is_suggested_without_a_gpu() -> None:
    with pytest.raises(PlanError, match="base_model: sparrow with adapter: lora|base_model: glm"):
        plan_run(spec=QWEN)


def test_nothing_is_suggested_where_nothing_fits() -> None:
    sizes = replace(make_tiny_spec().sizes, embedding=10**9)
    hardware = replace(LAPTOP, memory=16 << 20, free_memory=1 << 20)
    with pytest.raises(PlanError, match="use a larger machine: no base fits this one"):
        plan_run(spec=replace(make_tiny_spec(), sizes=sizes), hardware=hardware)


def test_one_sixteenth_of_a_gpu_is_reserved() -> None:
    assert make_fake_gpu(16).free_memory == 15 * GIB
    assert assume_gpu(48).get_memory_budget("cuda", all_gpus=False) == (45 * GIB, 45 * GIB)


def test_table_assumes_the_defaults_of_a_document() -> None:
    assert TrainingConfig().sequence_len == DEFAULT_SEQUENCE_LEN
    assert is_large_model(QWEN) and not is_large_model(MODEL_CATALOG["sparrow"])
