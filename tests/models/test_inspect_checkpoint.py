"""Inspection of weight files: dtypes, sizes, and each tensor that is not finite."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from dlm.errors import ModelError
from dlm.models.inspect_checkpoint import inspect_checkpoint
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ComponentRef, CompositionSpec, ModelSpec, read_model_spec
from tests.tiny_models import write_tiny_model

WEIGHTS_FILE = "model.safetensors"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def set_values(path: Path, name: str, *values: float) -> None:
    """Write these values to the beginning of a tensor."""
    tensors = load_file(path)
    tensors[name].view(-1)[: len(values)] = torch.tensor(values).to(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})


def test_tensors_are_counted_by_component_and_dtype(model_dir: Path) -> None:
    tensors = load_file(model_dir / WEIGHTS_FILE)
    bf16_names = [name for name in tensors if name.startswith("lm.model.layers")]
    tensors |= {name: tensors[name].bfloat16() for name in bf16_names}
    save_file(tensors, model_dir / WEIGHTS_FILE, metadata={"format": "pt"})
    report = inspect_checkpoint(read_model_spec(model_dir))
    assert report.non_finite_tensors == ()
    expected: dict[tuple[str, str], list[int]] = {}
    for name, tensor in tensors.items():
        dtype, size = ("BF16", 2) if name in bf16_names else ("F32", 4)
        count = expected.setdefault((name.split(".")[0], dtype), [0, 0])
        count[0] += 1
        count[1] += tensor.numel() * size
    counts = {
        (count.component, count.dtype): [count.num_tensors, count.size_bytes]
        for count in report.dtype_counts
    }
    assert counts == expected and len(counts) == 4


@pytest.mark.parametrize("chunk_size", [1 << 24, 7])
def test_non_finite_values_are_named_and_counted(model_dir: Path, chunk_size: int) -> None:
    path = model_dir / WEIGHTS_FILE
    names = sorted(load_file(path))
    set_values(path, names[3], float("inf"), float("nan"), 1.0, *[float("-inf")] * 9)
    set_values(path, names[7], float("nan"))
    non_finite = inspect_checkpoint(
        read_model_spec(model_dir), chunk_size=chunk_size
    ).non_finite_tensors
    assert [(tensor.file, tensor.tensor_name) for tensor in non_finite] == [
        (path, names[3]),
        (path, names[7]),
    ]
    assert non_finite[0].what.startswith("holds 10 inf and 1 NaN among ")


def test_8_bit_floats_and_integers_are_read(model_dir: Path) -> None:
    tensors = load_file(model_dir / WEIGHTS_FILE)
    tensors["projector.eight"] = torch.ones(4).to(torch.float8_e4m3fn)
    tensors["projector.eight"].view(torch.uint8)[2] = 0x7F  # NaN
    tensors["projector.integers"] = torch.arange(4)
    save_file(tensors, model_dir / WEIGHTS_FILE, metadata={"format": "pt"})
    report = inspect_checkpoint(read_model_spec(model_dir))
    assert [tensor.tensor_name for tensor in report.non_finite_tensors] == ["projector.eight"]
    assert {"F8_E4M3", "I64"} <= {count.dtype for count in report.dtype_counts}


def test_each_component_is_read_from_its_own_source(model_dir: Path, tmp_path: Path) -> None:
    """The encoder of a composed model, a language model of transformers, a random projector."""
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    lm_dir = tmp_path / "lm"
    Qwen3ForCausalLM(Qwen3Config(**config, intermediate_size=32)).save_pretrained(lm_dir)
    encoders = (ComponentRef(str(model_dir), None, {}), ComponentRef("", None, {}))
    lm = ComponentRef(str(lm_dir), None, {})
    spec = compose_spec(model_dir, CompositionSpec(encoders, {"kind": "stack"}, lm))
    counts = {count.component: count for count in inspect_checkpoint(spec).dtype_counts}
    encoder_names = [
        name for name in load_file(model_dir / WEIGHTS_FILE) if name.startswith("encoder.")
    ]
    assert counts.keys() == {"encoder", "lm"}
    assert counts["encoder"].num_tensors == len(encoder_names)

    set_values(model_dir / WEIGHTS_FILE, "lm.model.norm.weight", float("nan"))  # is not used
    assert inspect_checkpoint(spec).non_finite_tensors == ()
    set_values(lm_dir / WEIGHTS_FILE, "model.norm.weight", float("nan"))
    set_values(model_dir / WEIGHTS_FILE, encoder_names[0], float("inf"))
    non_finite = inspect_checkpoint(spec).non_finite_tensors
    assert {(tensor.file, tensor.tensor_name) for tensor in non_finite} == {
        (lm_dir / WEIGHTS_FILE, "model.norm.weight"),
        (model_dir / WEIGHTS_FILE, encoder_names[0]),
    }


def test_a_projector_is_read_from_its_version(model_dir: Path, tmp_path: Path) -> None:
    version_dir = tmp_path / "v0001"
    version_dir.mkdir()
    weights = {"projector.linear": torch.tensor([1.0, float("inf")])}
    save_file(weights, version_dir / "own.safetensors")
    random = ComponentRef("", None, {})
    projector = {"kind": "stack", "source": str(version_dir)}
    spec = compose_spec(model_dir, CompositionSpec((random,), projector, random))
    (tensor,) = inspect_checkpoint(spec).non_finite_tensors
    assert (tensor.file.name, tensor.tensor_name) == ("own.safetensors", "projector.linear")


def test_a_model_that_is_not_here_or_not_whole_is_refused(model_dir: Path) -> None:
    with pytest.raises(ModelError, match="hf download") as caught:
        inspect_checkpoint(find_catalog_spec("qwen2-audio-7b-instruct"))
    assert caught.value.code == "model.not_downloaded"
    path = model_dir / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its header promises") as caught:
        inspect_checkpoint(read_model_spec(model_dir))
    assert caught.value.code == "model.damaged_checkpoint"


def compose_spec(model_dir: Path, composition: CompositionSpec) -> ModelSpec:
    return replace(read_model_spec(model_dir), composition=composition)
