"""What fits on which card, and what is named instead of what does not."""

import re
from dataclasses import replace

import pytest

from dlm.config.schema import TrainingConfig
from dlm.errors import PlanError
from dlm.plan.fit_table import (
    DEFAULT_SEQUENCE_LEN,
    FINETUNE_MODE_SETTINGS,
    FINETUNE_MODES,
    build_fit_table,
    is_large_model,
    make_fake_gpu,
)
from dlm.plan.memory import GIB
from dlm.plan.model_spec import MODEL_CATALOG
from tests.plan.test_plan import LAPTOP, QWEN, on_a_card, plan
from tests.tiny_models import make_tiny_spec

CARDS = (16, 24, 48, 80)


def rows(gib: int, key: str) -> dict[str, int]:
    found = build_fit_table((MODEL_CATALOG[key],), replace(LAPTOP, gpus=(make_fake_gpu(gib),)))
    return {fit.mode: fit.max_batch_size for fit in found}


def test_the_cards_people_have() -> None:
    qwen = {gib: rows(gib, QWEN.key) for gib in CARDS}
    assert [qwen[gib]["lora"] for gib in CARDS] == [0, 1, 2, 4]
    assert all(qwen[gib]["qlora, 4 bits"] for gib in CARDS)
    assert not any(qwen[gib]["full"] for gib in CARDS)
    assert [bool(rows(gib, "voxtral-small-24b")["lora"]) for gib in CARDS] == [0, 0, 0, 1]
    assert rows(80, "sparrow") == dict.fromkeys(FINETUNE_MODES, 4)


@pytest.mark.parametrize("key", MODEL_CATALOG)
def test_more_memory_never_holds_less(key: str) -> None:
    for mode in FINETUNE_MODES:
        counts = [rows(gib, key)[mode] for gib in (1, *CARDS, 4000)]
        assert counts == sorted(counts)
        assert counts[-1] == 4, "somewhere it fits"


@pytest.mark.parametrize("key", ["qwen2-audio-7b", "voxtral-mini-3b", "glm-asr-nano"])
def test_fewer_bits_take_less(key: str) -> None:
    least = {
        fit.mode: fit.min_bytes for fit in build_fit_table((MODEL_CATALOG[key],), _machine(24))
    }
    assert least["qlora, 4 bits"] < least["qlora, 8 bits"] < least["lora"] < least["full"]


def _machine(gib: int):
    return replace(LAPTOP, gpus=(make_fake_gpu(gib),))


@pytest.mark.parametrize("gib", [4, 8, 12, 16])
def test_what_is_named_instead_fits(gib: int) -> None:
    """Every alternative of the message, taken at its word."""
    with pytest.raises(PlanError) as told:
        on_a_card(gib, adapter="lora")
    line = str(told.value)
    assert re.search(r"needs about 17\.\d GiB of memory and \d+\.\d GiB are free; what fits:", line)
    named = line.split("what fits: ")[1].split(" or ")
    assert 1 <= len(named) <= 3
    for each in named:
        base, training = QWEN, {"adapter": "lora"}
        asked = each.split(" (")[0]
        if asked.startswith("base_model: "):
            base = MODEL_CATALOG[asked.split()[1]]
        elif "bits: 8" in asked:
            training = {"adapter": "qlora", "bits": 8}
        else:
            assert asked == FINETUNE_MODE_SETTINGS["qlora, 4 bits"]
            training = {"adapter": "qlora"}
        drawn = on_a_card(gib, base, **training)
        assert drawn.batches.micro_batch_size >= 1


def test_lora_is_named_instead_of_all_of_a_base() -> None:
    with pytest.raises(
        PlanError, match=r"what fits: adapter: lora \(17\.\d GiB\) or adapter: qlora"
    ):
        on_a_card(24, adapter="full")


def test_smaller_bases_are_named_where_packing_does_not_help() -> None:
    with pytest.raises(PlanError, match=r"what fits: base_model: [\w.-]+ with adapter: lora \(\d"):
        on_a_card(4)


def test_a_base_of_the_laptop_is_named_without_a_card() -> None:
    with pytest.raises(PlanError, match="base_model: sparrow with adapter: lora|base_model: glm"):
        plan(base=QWEN)


def test_nothing_fits_nothing() -> None:
    big = replace(make_tiny_spec(), sizes=replace(make_tiny_spec().sizes, embedding=10**9))
    with pytest.raises(PlanError, match="use a larger machine: no base fits this one"):
        plan(base=big, machine=replace(LAPTOP, memory=16 << 20, free_memory=1 << 20))


def test_a_card_keeps_some_for_itself() -> None:
    assert make_fake_gpu(16).free_memory == 15 * GIB
    assert _machine(48).get_memory_budget("cuda", all_gpus=False) == (45 * GIB, 45 * GIB)


def test_the_table_stands_on_what_a_document_would_do() -> None:
    assert TrainingConfig().sequence_len == DEFAULT_SEQUENCE_LEN
    assert is_large_model(QWEN) and not is_large_model(MODEL_CATALOG["sparrow"])
