"""What lies in a base's files: formats, sizes, and each tensor that is not finite, by its name."""

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

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


def plant(file: Path, name: str, *values: float) -> None:
    tensors = load_file(file)
    tensors[name].view(-1)[: len(values)] = torch.tensor(values).to(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})


def test_every_tensor_is_counted_by_part_and_format(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    half = [name for name in tensors if name.startswith("lm.model.layers")]
    tensors |= {name: tensors[name].bfloat16() for name in half}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    found = inspect_checkpoint(read_model_spec(folder))
    assert found.non_finite_tensors == ()
    expected: dict[tuple[str, str], list[int]] = {}
    for name, tensor in tensors.items():
        kind = "BF16" if name in half else "F32"
        both = expected.setdefault((name.split(".")[0], kind), [0, 0])
        both[0] += 1
        both[1] += tensor.numel() * (2 if name in half else 4)
    told = {
        (each.component, each.dtype): [each.num_tensors, each.size_bytes]
        for each in found.dtype_counts
    }
    assert told == expected and len(told) == 4


@pytest.mark.parametrize("chunk", [1 << 24, 7])
def test_numbers_that_are_not_finite_are_named_and_counted(folder: Path, chunk: int) -> None:
    names = sorted(load_file(folder / WEIGHTS))
    plant(folder / WEIGHTS, names[3], float("inf"), float("nan"), 1.0, *[float("-inf")] * 9)
    plant(folder / WEIGHTS, names[7], float("nan"))
    found = inspect_checkpoint(read_model_spec(folder), chunk_size=chunk)
    assert [(each.file, each.tensor_name) for each in found.non_finite_tensors] == [
        (folder / WEIGHTS, names[3]),
        (folder / WEIGHTS, names[7]),
    ]
    assert found.non_finite_tensors[0].what.startswith("holds 10 inf and 1 NaN among ")


def test_formats_that_have_no_order_are_looked_at(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["projector.eight"] = torch.ones(4).to(torch.float8_e4m3fn)
    tensors["projector.eight"].view(torch.uint8)[2] = 0x7F  # NaN
    tensors["projector.whole"] = torch.arange(4)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    found = inspect_checkpoint(read_model_spec(folder))
    assert [each.tensor_name for each in found.non_finite_tensors] == ["projector.eight"]
    assert {"F8_E4M3", "I64"} <= {each.dtype for each in found.dtype_counts}


def test_each_part_of_a_recipe_is_looked_at_where_it_lies(folder: Path, tmp_path: Path) -> None:
    """The encoder of one base, a language model as transformers saves it, no weights between."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    lm = tmp_path / "lm"
    Qwen3ForCausalLM(Qwen3Config(**shape, intermediate_size=32)).save_pretrained(lm)
    parts = (ComponentRef(str(folder), None, {}), ComponentRef("", None, {}))
    recipe = CompositionSpec(parts, {"kind": "stack"}, ComponentRef(str(lm), None, {}))
    base = stitched(folder, recipe)
    found = inspect_checkpoint(base)
    assert {each.component for each in found.dtype_counts} == {"encoder", "lm"}
    ears = [name for name in load_file(folder / WEIGHTS) if name.startswith("encoder.")]
    assert next(
        each for each in found.dtype_counts if each.component == "encoder"
    ).num_tensors == len(ears)

    plant(folder / WEIGHTS, "lm.model.norm.weight", float("nan"))  # of a part that is not used
    assert inspect_checkpoint(base).non_finite_tensors == ()
    plant(lm / WEIGHTS, "model.norm.weight", float("nan"))
    plant(folder / WEIGHTS, ears[0], float("inf"))
    faults = inspect_checkpoint(base).non_finite_tensors
    assert {(each.file, each.tensor_name) for each in faults} == {
        (lm / WEIGHTS, "model.norm.weight"),
        (folder / WEIGHTS, ears[0]),
    }


def test_a_projector_from_a_version_is_looked_at(folder: Path, tmp_path: Path) -> None:
    version = tmp_path / "v0001"
    version.mkdir()
    save_file({"projector.linear": torch.tensor([1.0, float("inf")])}, version / "own.safetensors")
    part = ComponentRef("", None, {})
    base = stitched(
        folder, CompositionSpec((part,), {"kind": "stack", "source": str(version)}, part)
    )
    (fault,) = inspect_checkpoint(base).non_finite_tensors
    assert (fault.file.name, fault.tensor_name) == ("own.safetensors", "projector.linear")


def test_what_is_not_here_or_not_whole(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"not on this machine.*hf download"):
        inspect_checkpoint(find_catalog_spec("qwen2-audio-7b-instruct"))
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its header promises"):
        inspect_checkpoint(read_model_spec(folder))


def stitched(folder: Path, recipe: CompositionSpec) -> ModelSpec:
    return replace(read_model_spec(folder), composition=recipe)
