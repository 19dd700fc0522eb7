"""A base as a folder: what is written is what is read, and what does not fit is refused by name."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlm.data.types import Example
from dlm.errors import ModelError
from dlm.models.composed import ComposedAudioLM, load_composed_model, save_composed_model
from dlm.models.load import load_base_model
from dlm.plan.model_spec import read_model_spec
from tests.models.batches import compute_all_logits, make_batch
from tests.tiny_models import SPECIAL_TOKENS, make_tiny_config, make_tiny_spec, write_tiny_model

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def test_what_is_saved_is_what_is_loaded(
    model: ComposedAudioLM, clips: list[Example], tmp_path: Path
) -> None:
    save_composed_model(model, tmp_path)
    again = load_base_model(read_model_spec(tmp_path))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    batch = make_batch(model, clips)
    assert torch.equal(compute_all_logits(model, batch), compute_all_logits(again, batch))
    assert not again.training
    assert again.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert set(again.tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


def test_half_precision_halves_the_file_and_little_else(
    model: ComposedAudioLM, clips: list[Example], tmp_path: Path
) -> None:
    save_composed_model(model, tmp_path / "half", dtype=torch.float16)
    save_composed_model(model, tmp_path / "whole")
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    half = load_composed_model(tmp_path / "half")
    assert {each.dtype for each in half.parameters()} == {torch.float32}
    batch = make_batch(model, clips)
    assert torch.allclose(
        compute_all_logits(half, batch), compute_all_logits(model, batch), atol=2e-3
    )


def test_a_tied_head_is_written_once(folder: Path) -> None:
    assert "lm.lm_head.weight" not in load_file(folder / WEIGHTS)
    model = load_composed_model(folder)
    assert model.lm_head.weight is model.embed_tokens.weight


def test_a_head_of_its_own_is_kept_and_missed(tmp_path: Path) -> None:
    config = make_tiny_config()
    config["lm"]["tie_word_embeddings"] = False
    folder = write_tiny_model(tmp_path, config=config)
    model = load_composed_model(folder)
    assert torch.equal(model.lm_head.weight, load_file(folder / WEIGHTS)["lm.lm_head.weight"])
    change(folder, lambda tensors: tensors.pop("lm.lm_head.weight"))
    with pytest.raises(ModelError, match="1 tensors are missing, first lm.lm_head.weight"):
        load_composed_model(folder)


def change(folder: Path, how: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    how(tensors)
    save_file(tensors, folder / WEIGHTS)


def set_nan(tensors: Tensors) -> None:
    tensors["projector.norm.weight"][3] = torch.nan


def set_inf(tensors: Tensors) -> None:
    tensors["projector.norm.weight"][3] = torch.inf


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda t: t.pop("projector.enter.bias"), "missing, first projector.enter.bias"),
        (lambda t: t.update(odd=torch.ones(2)), "unknown, first odd"),
        (
            lambda t: t.update({"projector.norm.weight": torch.ones(1)}),
            "of another shape, first projector.norm.weight",
        ),
        (set_nan, "not finite, first projector.norm.weight"),
        (set_inf, "not finite, first projector.norm.weight"),
    ],
    ids=["missing", "extra", "misshapen", "nan", "inf"],
)
def test_a_tensor_that_does_not_fit_is_named(
    copy: Path, how: Callable[[Tensors], object], told: str
) -> None:
    change(copy, how)
    with pytest.raises(ModelError) as raised:
        load_composed_model(copy)
    assert str(raised.value).startswith(f"{copy / WEIGHTS}: 1 tensors are {told}")


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "training_args.bin"])
@pytest.mark.parametrize("instead", [False, True])
def test_a_pickle_is_never_read(copy: Path, tmp_path: Path, name: str, instead: bool) -> None:
    (copy / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    if instead:
        (copy / WEIGHTS).unlink()
        with pytest.raises(ModelError, match=WEIGHTS):
            load_composed_model(copy)
    else:
        load_composed_model(copy)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_named_safetensors_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / WEIGHTS).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ModelError, match="cannot be read"):
        load_composed_model(copy)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json", "dlm_base.json"])
@pytest.mark.parametrize("damage", ["gone", "half", "hollow"])
def test_a_damaged_folder_is_one_line(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"{}")
    with pytest.raises(ModelError) as told:
        load_composed_model(copy)
    assert str(told.value).startswith(str(copy)) and "\n" not in str(told.value)


@pytest.mark.parametrize("part", ["encoders", "projector", "lm"])
def test_a_part_that_is_not_configured_is_named(copy: Path, part: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config[part]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=part):
        load_composed_model(copy)


def test_the_facts_travel_with_the_folder(folder: Path) -> None:
    base = read_model_spec(folder)
    assert base.source == str(folder)
    assert {**vars(base), "source": "folder"} == vars(make_tiny_spec())
