"""4 and 8 bits: which weights are quantized, training over them, and versions with bits."""

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
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """A pretrained model and a composed one."""
    pretrained_dir = write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("native"))
    composed_dir = write_tiny_model(tmp_path_factory.mktemp("stitched"))
    return {
        "native": resolve_model_spec(str(pretrained_dir), Path()),
        "stitched": replace(read_model_spec(composed_dir), source=str(composed_dir)),
    }


def make_plan(spec: ModelSpec, bits: int | None, **changes: object) -> ModelPlan:
    adapter = AdapterSpec("lora", 4, 8, 0.0, ("lm",), None, bits)
    return replace(ModelPlan(spec, adapter, "cpu", "fp32", "fp32", 0), **changes)


def get_quantized_layers(model: AudioLanguageModel) -> set[str]:
    """The linear layers whose weights are not floats."""
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.dtype.is_floating_point
    }


def get_decoder_layers(model: AudioLanguageModel) -> set[str]:
    """The linear layers of the decoder, without low-rank ones."""
    decoder = {id(item) for item in model.decoder.modules()}
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in decoder and ".lora_" not in name
    }


@BITS
@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_only_the_language_model_is_quantized(
    specs: dict[str, ModelSpec], kind: str, bits: int
) -> None:
    model = load_model(make_plan(specs[kind], bits))
    assert get_quantized_layers(model) == get_decoder_layers(model) != set()
    names = get_trainable_parameters(model)
    assert names and all(".lora_" in name for name in names)
    assert {item.dtype for item in names.values()} == {torch.float32}


@pytest.mark.parametrize("family", sorted({*TWIN_BUILDERS} - {"qwen2_audio", "qwen3_omni_moe"}))
def test_every_family_can_be_quantized(family: str, tmp_path: Path) -> None:
    model = load_base_model(
        resolve_model_spec(str(write_pretrained_twin(family, tmp_path)), Path()), bits=4
    )
    assert get_quantized_layers(model) == get_decoder_layers(model) != set()


@BITS
@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_quantized_weights_give_nearly_the_same_logits(
    specs: dict[str, ModelSpec], kind: str, bits: int, tmp_path: Path
) -> None:
    examples = write_examples(tmp_path)[1:4]
    fp32_model, quantized_model = (load_base_model(specs[kind], bits=item) for item in (None, bits))
    batch = make_batch(fp32_model, examples)
    expected, logits = (
        compute_all_logits(fp32_model, batch),
        compute_all_logits(quantized_model, batch),
    )
    error = (logits - expected).norm() / expected.norm()
    assert 0 < error < {4: 0.3, 8: 0.015}[bits], "over 8 seeds .23 to .41, and .005 to .008"


def test_other_frozen_weights_are_bf16(specs: dict[str, ModelSpec]) -> None:
    model = load_model(make_plan(specs["native"], 4, weights_dtype="bf16", precision="bf16"))
    assert {item.dtype for item in model.parameters() if not item.requires_grad} == {
        torch.bfloat16,
        torch.uint8,
    }
    assert {item.dtype for item in get_trainable_parameters(model).values()} == {torch.float32}


@BITS
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_over_quantized_weights_lowers_the_loss(
    specs: dict[str, ModelSpec], bits: int, checkpointing: bool, tmp_path: Path
) -> None:
    """As much as over unquantized weights, and nothing but LoRA changes."""
    examples = write_tone_examples(tmp_path, 4)
    fields = {"lora_r": 16, "learning_rate": 1e-2, "gradient_checkpointing": checkpointing}
    runs = []
    for adapter_fields in ({"adapter": "lora"}, {"adapter": "qlora", "bits": bits}):
        model_plan = make_tiny_plan(
            Path(specs["stitched"].source), len(examples), steps=10, **fields, **adapter_fields
        )
        setup = make_training_setup(model_plan, examples)
        before = {name: item.detach().clone() for name, item in setup.model.named_parameters()}
        runs.append(
            [event.loss for event in setup.iter_events() if isinstance(event, StepCompleted)]
        )
    fp32_losses, losses = runs
    assert losses[-1] < losses[0] - 0.3
    assert losses[-1] == pytest.approx(fp32_losses[-1], abs=0.05)
    changed_names = {
        name
        for name, item in setup.model.named_parameters()
        if not torch.equal(item.detach(), before[name])
    }
    assert changed_names == set(get_trainable_parameters(setup.model))


@BITS
@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_a_version_is_loaded_with_its_bits(
    specs: dict[str, ModelSpec], kind: str, bits: int, tmp_path: Path
) -> None:
    model_plan = make_plan(specs[kind], bits)
    model = load_model(model_plan)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for item in get_trainable_parameters(model).values():
            item.add_(0.3 * torch.randn(item.shape, generator=rng))
    save_adapter(model, model_plan.adapter, tmp_path)
    assert read_adapter_spec(tmp_path, specs[kind]).bits == bits
    loaded = load_version(specs[kind], tmp_path, device="cpu")
    assert get_quantized_layers(loaded) == get_quantized_layers(model)
    (tmp_path / "clips").mkdir()
    batch = make_batch(model, write_examples(tmp_path / "clips")[1:4])
    assert torch.equal(compute_all_logits(loaded, batch), compute_all_logits(model.eval(), batch))


@BITS
@pytest.mark.parametrize("has_run", [False, True])
def test_dequantized_layers_give_the_same_logits(
    specs: dict[str, ModelSpec], bits: int, has_run: bool, tmp_path: Path
) -> None:
    model = load_model(make_plan(specs["stitched"], bits)).eval()
    batch = make_batch(model, write_examples(tmp_path)[1:4])
    if has_run:  # 8 bits move their scales in the first forward
        compute_all_logits(model, batch)
    dequantized = copy.deepcopy(model)
    dequantize_linear_layers(dequantized)
    assert not get_quantized_layers(dequantized) and get_decoder_layers(
        dequantized
    ) == get_decoder_layers(model)
    difference = (
        (compute_all_logits(dequantized, batch) - compute_all_logits(model, batch)).abs().max()
    )
    assert difference < 1e-4


@pytest.mark.parametrize("kind", ["native", "stitched"])
def test_without_bitsandbytes_the_extra_is_named(
    specs: dict[str, ModelSpec], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"^bitsandbytes is not installed; pip install 'dlm\["):
        load_model(make_plan(specs[kind], 4))


def test_bitsandbytes_logs_nothing(
    specs: dict[str, ModelSpec], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """It would log every layer that casts to float16."""
    model = load_base_model(specs["stitched"], bits=8)
    compute_all_logits(model, make_batch(model, write_examples(tmp_path)[1:2]))
    assert not [item for item in caplog.records if item.name.startswith("bitsandbytes")]
    assert logging.getLogger("bitsandbytes").level == logging.ERROR
