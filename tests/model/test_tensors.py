"""What lies in a base's files: formats, sizes, and each tensor that is not finite, by its name."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from dlm.errors import BaseError
from dlm.model.tensors import inspect
from dlm.plan.bases import Base, Part, Recipe, read_facts
from dlm.plan.resolve import find
from tests.tiny import make_tiny

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "tiny")


def plant(file: Path, name: str, *values: float) -> None:
    tensors = load_file(file)
    tensors[name].view(-1)[: len(values)] = torch.tensor(values).to(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})


def test_every_tensor_is_counted_by_part_and_format(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    half = [name for name in tensors if name.startswith("lm.model.layers")]
    tensors |= {name: tensors[name].bfloat16() for name in half}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    found = inspect(read_facts(folder))
    assert found.faults == ()
    expected: dict[tuple[str, str], list[int]] = {}
    for name, tensor in tensors.items():
        kind = "BF16" if name in half else "F32"
        both = expected.setdefault((name.split(".")[0], kind), [0, 0])
        both[0] += 1
        both[1] += tensor.numel() * (2 if name in half else 4)
    told = {(each.part, each.format): [each.tensors, each.size_bytes] for each in found.formats}
    assert told == expected and len(told) == 4


@pytest.mark.parametrize("chunk", [1 << 24, 7])
def test_numbers_that_are_not_finite_are_named_and_counted(folder: Path, chunk: int) -> None:
    names = sorted(load_file(folder / WEIGHTS))
    plant(folder / WEIGHTS, names[3], float("inf"), float("nan"), 1.0, *[float("-inf")] * 9)
    plant(folder / WEIGHTS, names[7], float("nan"))
    found = inspect(read_facts(folder), chunk=chunk)
    assert [(each.file, each.tensor) for each in found.faults] == [
        (folder / WEIGHTS, names[3]),
        (folder / WEIGHTS, names[7]),
    ]
    assert found.faults[0].what.startswith("holds 10 inf and 1 NaN among ")


def test_formats_that_have_no_order_are_looked_at(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["projector.eight"] = torch.ones(4).to(torch.float8_e4m3fn)
    tensors["projector.eight"].view(torch.uint8)[2] = 0x7F  # NaN
    tensors["projector.whole"] = torch.arange(4)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    found = inspect(read_facts(folder))
    assert [each.tensor for each in found.faults] == ["projector.eight"]
    assert {"F8_E4M3", "I64"} <= {each.format for each in found.formats}


def test_each_part_of_a_recipe_is_looked_at_where_it_lies(folder: Path, tmp_path: Path) -> None:
    """The encoder of one base, a language model as transformers saves it, no weights between."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    lm = tmp_path / "lm"
    Qwen3ForCausalLM(Qwen3Config(**shape, intermediate_size=32)).save_pretrained(lm)
    parts = (Part(str(folder), None, {}), Part("", None, {}))
    recipe = Recipe(parts, {"kind": "stack"}, Part(str(lm), None, {}))
    base = stitched(folder, recipe)
    found = inspect(base)
    assert {each.part for each in found.formats} == {"encoder", "lm"}
    ears = [name for name in load_file(folder / WEIGHTS) if name.startswith("encoder.")]
    assert next(each for each in found.formats if each.part == "encoder").tensors == len(ears)

    plant(folder / WEIGHTS, "lm.model.norm.weight", float("nan"))  # of a part that is not used
    assert inspect(base).faults == ()
    plant(lm / WEIGHTS, "model.norm.weight", float("nan"))
    plant(folder / WEIGHTS, ears[0], float("inf"))
    faults = inspect(base).faults
    assert {(each.file, each.tensor) for each in faults} == {
        (lm / WEIGHTS, "model.norm.weight"),
        (folder / WEIGHTS, ears[0]),
    }


def test_a_projector_from_a_version_is_looked_at(folder: Path, tmp_path: Path) -> None:
    version = tmp_path / "v0001"
    version.mkdir()
    save_file({"projector.linear": torch.tensor([1.0, float("inf")])}, version / "own.safetensors")
    part = Part("", None, {})
    base = stitched(folder, Recipe((part,), {"kind": "stack", "source": str(version)}, part))
    (fault,) = inspect(base).faults
    assert (fault.file.name, fault.tensor) == ("own.safetensors", "projector.linear")


def test_what_is_not_here_or_not_whole(folder: Path) -> None:
    with pytest.raises(BaseError, match=r"not on this machine.*hf download"):
        inspect(find("qwen2-audio-7b-instruct"))
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BaseError, match="its header promises"):
        inspect(read_facts(folder))


def stitched(folder: Path, recipe: Recipe) -> Base:
    return replace(read_facts(folder), recipe=recipe)
