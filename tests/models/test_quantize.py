"""4 and 8 bits: which weights are packed, that LoRA over them learns for real, and comes back."""

import copy
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dlm.errors import MissingExtra
from dlm.models.adapters import get_trainable_parameters, read_adapter_spec, save_adapter
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.load import load_base_model, load_model, load_version
from dlm.models.quantize import dequantize_linear_layers
from dlm.plan.model_spec import ModelSpec, read_model_spec
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec, ModelPlan
from dlm.training.events import StepCompleted
from tests.models.batches import compute_all_logits, make_batch, write_examples
from tests.pretrained_twins import TWIN_BUILDERS, write_pretrained_twin
from tests.tiny_models import (
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

BITS = pytest.mark.parametrize("bits", [4, 8])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """A native base and a stitched one."""
    native = write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("native"))
    stitched = write_tiny_model(tmp_path_factory.mktemp("stitched"))
    return {
        "native": resolve_model_spec(str(native), Path()),
        "stitched": replace(read_model_spec(stitched), source=str(stitched)),
    }


def plan(base: ModelSpec, bits: int | None, **changes: object) -> ModelPlan:
    adapter = AdapterSpec("lora", 4, 8, 0.0, ("lm",), None, bits)
    return replace(ModelPlan(base, adapter, "cpu", "fp32", "fp32", 0), **changes)


def packed(model: AudioLanguageModel) -> set[str]:
    """The linear layers whose weights are no floats."""
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.dtype.is_floating_point
    }


def inside(model: AudioLanguageModel) -> set[str]:
    """The linear layers of the language model, without its head and what was added."""
    decoder = {id(each) for each in model.decoder.modules()}
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in decoder and ".lora_" not in name
    }


@BITS
@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_the_language_model_alone_is_packed(
    bases: dict[str, ModelSpec], kind: str, bits: int
) -> None:
    model = load_model(plan(bases[kind], bits))
    assert packed(model) == inside(model) != set()
    names = get_trainable_parameters(model)
    assert names and all(".lora_" in name for name in names)
    assert {each.dtype for each in names.values()} == {torch.float32}


@pytest.mark.parametrize("family", sorted({*TWIN_BUILDERS} - {"qwen2_audio", "qwen3_omni_moe"}))
def test_of_every_family(family: str, tmp_path: Path) -> None:
    model = load_base_model(
        resolve_model_spec(str(write_pretrained_twin(family, tmp_path)), Path()), bits=4
    )
    assert packed(model) == inside(model) != set()


@BITS
@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_packed_weights_say_nearly_the_same(
    bases: dict[str, ModelSpec], kind: str, bits: int, tmp_path: Path
) -> None:
    clips = write_examples(tmp_path)[1:4]
    exact, close = (load_base_model(bases[kind], bits=each) for each in (None, bits))
    batch = make_batch(exact, clips)
    wanted, found = compute_all_logits(exact, batch), compute_all_logits(close, batch)
    error = (found - wanted).norm() / wanted.norm()
    assert 0 < error < {4: 0.3, 8: 0.05}[bits], "the shares that packing these weights costs"


def test_weights_are_held_and_multiplied_in_bf16(bases: dict[str, ModelSpec]) -> None:
    model = load_model(plan(bases["native"], 4, weights_dtype="bf16", precision="bf16"))
    assert {each.dtype for each in model.parameters() if not each.requires_grad} == {
        torch.bfloat16,
        torch.uint8,
    }
    assert {each.dtype for each in get_trainable_parameters(model).values()} == {torch.float32}


@BITS
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_learns_for_real(
    bases: dict[str, ModelSpec], bits: int, checkpointing: bool, tmp_path: Path
) -> None:
    """As far as LoRA over the unpacked weights does, and nothing else changes."""
    clips = write_tone_examples(tmp_path, 4)
    asked = {"lora_r": 16, "learning_rate": 1e-2, "gradient_checkpointing": checkpointing}
    runs = []
    for how in ({"adapter": "lora"}, {"adapter": "qlora", "bits": bits}):
        drawn = make_tiny_plan(Path(bases["stitched"].source), len(clips), steps=10, **asked, **how)
        taught = make_training_setup(drawn, clips)
        before = {name: each.detach().clone() for name, each in taught.model.named_parameters()}
        runs.append(
            [event.loss for event in taught.iter_events() if isinstance(event, StepCompleted)]
        )
    plain, losses = runs
    assert losses[-1] < losses[0] - 0.3
    assert losses[-1] == pytest.approx(plain[-1], abs=0.05)
    changed = {
        name
        for name, each in taught.model.named_parameters()
        if not torch.equal(each.detach(), before[name])
    }
    assert changed == set(get_trainable_parameters(taught.model))


@BITS
@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_a_version_remembers_its_bits(
    bases: dict[str, ModelSpec], kind: str, bits: int, tmp_path: Path
) -> None:
    drawn = plan(bases[kind], bits)
    model = load_model(drawn)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in get_trainable_parameters(model).values():
            each.add_(0.3 * torch.randn(each.shape, generator=chance))
    save_adapter(model, drawn.adapter, tmp_path)
    assert read_adapter_spec(tmp_path, bases[kind]).bits == bits
    back = load_version(bases[kind], tmp_path, device="cpu")
    assert packed(back) == packed(model)
    (tmp_path / "clips").mkdir()
    batch = make_batch(model, write_examples(tmp_path / "clips")[1:4])
    assert torch.equal(compute_all_logits(back, batch), compute_all_logits(model.eval(), batch))


@BITS
@pytest.mark.parametrize("heard_first", [False, True])
def test_unpacked_it_says_the_same(
    bases: dict[str, ModelSpec], bits: int, heard_first: bool, tmp_path: Path
) -> None:
    model = load_model(plan(bases["stitched"], bits)).eval()
    batch = make_batch(model, write_examples(tmp_path)[1:4])
    if heard_first:  # 8 bits move their scales with the first answer
        compute_all_logits(model, batch)
    unpacked = copy.deepcopy(model)
    dequantize_linear_layers(unpacked)
    assert not packed(unpacked) and inside(unpacked) == inside(model)
    difference = (
        (compute_all_logits(unpacked, batch) - compute_all_logits(model, batch)).abs().max()
    )
    assert difference < {4: 1e-4, 8: 0.05}[bits], "8 bits round what they multiply as well"


@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_without_the_library_one_line_names_the_extra(
    bases: dict[str, ModelSpec], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"^bitsandbytes is not installed; pip install 'dlm\["):
        load_model(plan(bases[kind], 4))


def test_the_library_keeps_to_itself(
    bases: dict[str, ModelSpec], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """It would tell of every layer that casts to float16."""
    model = load_base_model(bases["stitched"], bits=8)
    compute_all_logits(model, make_batch(model, write_examples(tmp_path)[1:2]))
    assert not [each for each in caplog.records if each.name.startswith("bitsandbytes")]
    assert logging.getLogger("bitsandbytes").level == logging.ERROR
