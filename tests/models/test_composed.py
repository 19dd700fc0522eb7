"""Composed models as folders: saved, loaded, and refused where files or tensors do not fit."""

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
from dlm.models.audio_lm import EncoderOutput
from dlm.models.composed import ComposedAudioLM, load_composed_model, save_composed_model
from dlm.models.load import load_base_model
from dlm.plan.model_spec import read_model_spec
from tests.models.batches import compute_all_logits, make_batch
from tests.tiny_models import SPECIAL_TOKENS, make_tiny_config, make_tiny_spec, write_tiny_model

WEIGHTS_FILE = "model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def copied_dir(model_dir: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return shutil.copytree(model_dir, tmp_path / "copy")


def test_a_saved_model_is_loaded_as_it_was(
    model: ComposedAudioLM, examples: list[Example], tmp_path: Path
) -> None:
    save_composed_model(model, tmp_path)
    loaded = load_base_model(read_model_spec(tmp_path))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    batch = make_batch(model, examples)
    assert torch.equal(compute_all_logits(model, batch), compute_all_logits(loaded, batch))
    assert not loaded.training
    assert loaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert set(loaded.tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)


def test_a_model_saved_in_half_precision_has_nearly_the_same_logits(
    model: ComposedAudioLM, examples: list[Example], tmp_path: Path
) -> None:
    save_composed_model(model, tmp_path / "half", dtype=torch.float16)
    save_composed_model(model, tmp_path / "full")
    half_size, full_size = (
        (tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("half", "full")
    )
    assert half_size < 0.6 * full_size
    half = load_composed_model(tmp_path / "half")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    batch = make_batch(model, examples)
    logits = compute_all_logits(half, batch)
    assert torch.allclose(logits, compute_all_logits(model, batch), atol=2e-3)


def test_a_tied_head_is_saved_once(model_dir: Path) -> None:
    assert "lm.lm_head.weight" not in load_file(model_dir / WEIGHTS_FILE)
    model = load_composed_model(model_dir)
    assert model.lm_head.weight is model.embed_tokens.weight


def test_an_untied_head_is_saved_and_required(tmp_path: Path) -> None:
    config = make_tiny_config()
    config["lm"]["tie_word_embeddings"] = False
    model_dir = write_tiny_model(tmp_path, config=config)
    head = load_composed_model(model_dir).lm_head.weight
    assert torch.equal(head, load_file(model_dir / WEIGHTS_FILE)["lm.lm_head.weight"])
    change_tensors(model_dir, lambda tensors: tensors.pop("lm.lm_head.weight"))
    with pytest.raises(ModelError, match="1 tensors are missing, first lm.lm_head.weight"):
        load_composed_model(model_dir)


def change_tensors(model_dir: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(model_dir / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, model_dir / WEIGHTS_FILE)


def set_value(value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors["projector.norm.weight"][3].fill_(value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("projector.enter.bias"), "missing, first projector.enter.bias"),
        (lambda t: t.update(odd=torch.ones(2)), "unknown, first odd"),
        (
            lambda t: t.update({"projector.norm.weight": torch.ones(1)}),
            "of another shape, first projector.norm.weight",
        ),
        (set_value(torch.nan), "not finite, first projector.norm.weight"),
        (set_value(torch.inf), "not finite, first projector.norm.weight"),
    ],
    ids=["missing", "extra", "misshapen", "nan", "inf"],
)
def test_a_tensor_that_does_not_fit_is_named(
    copied_dir: Path, change: Callable[[Tensors], object], problem: str
) -> None:
    change_tensors(copied_dir, change)
    with pytest.raises(ModelError) as caught:
        load_composed_model(copied_dir)
    assert caught.value.code == "model.damaged_checkpoint"
    assert str(caught.value).startswith(f"{copied_dir / WEIGHTS_FILE}: 1 tensors are {problem}")


def test_both_shapes_of_a_misshapen_tensor_are_named(copied_dir: Path) -> None:
    path = copied_dir / "config.json"
    config = json.loads(path.read_text())
    config["projector"]["hidden"] = 16
    path.write_text(json.dumps(config))
    expected = r"3 tensors .* first projector.enter.bias, \[32\] where \[16\] is needed; "
    with pytest.raises(ModelError, match=expected):
        load_composed_model(copied_dir)


class MkdirWhenUnpickled:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "training_args.bin"])
@pytest.mark.parametrize("has_weights", [True, False])
def test_a_pickle_is_never_read(
    copied_dir: Path, tmp_path: Path, name: str, has_weights: bool
) -> None:
    (copied_dir / name).write_bytes(pickle.dumps(MkdirWhenUnpickled(tmp_path / "unpickled")))
    if has_weights:
        load_composed_model(copied_dir)
    else:
        (copied_dir / WEIGHTS_FILE).unlink()
        with pytest.raises(ModelError, match=WEIGHTS_FILE):
            load_composed_model(copied_dir)
    assert not (tmp_path / "unpickled").exists()


def test_a_pickle_named_safetensors_is_refused(copied_dir: Path, tmp_path: Path) -> None:
    pickled = pickle.dumps(MkdirWhenUnpickled(tmp_path / "unpickled"))
    (copied_dir / WEIGHTS_FILE).write_bytes(pickled)
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_composed_model(copied_dir)
    assert caught.value.code == "model.damaged_checkpoint"
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("name", ["config.json", WEIGHTS_FILE, "tokenizer.json", "dlm_base.json"])
@pytest.mark.parametrize("damage", ["missing", "half", "empty"])
def test_a_damaged_file_is_one_line(copied_dir: Path, name: str, damage: str) -> None:
    path = copied_dir / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"{}")
    with pytest.raises(ModelError) as caught:
        load_composed_model(copied_dir)
    assert caught.value.code
    assert str(caught.value).startswith(str(copied_dir)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("component", ["encoders", "projector", "lm"])
def test_a_component_missing_in_the_config_is_named(copied_dir: Path, component: str) -> None:
    config = json.loads((copied_dir / "config.json").read_text())
    del config[component]
    (copied_dir / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=component):
        load_composed_model(copied_dir)


def test_the_spec_is_saved_with_the_weights(model_dir: Path) -> None:
    spec = read_model_spec(model_dir)
    assert spec.source == str(model_dir)
    assert {**vars(spec), "source": "folder"} == vars(make_tiny_spec())


@torch.no_grad()
def test_each_audio_embedding_depends_on_its_own_frames(model: ComposedAudioLM) -> None:
    """On four frames and no others, the last on the two that are left and zeros."""
    hidden = torch.randn(1, 10, 32)
    audio = model.project_audio(EncoderOutput(hidden, torch.tensor([10])))
    assert audio.shape == (3, 32)
    for token in range(3):
        changed = hidden.clone()
        changed[0, 4 * token] += 1.0
        other = model.project_audio(EncoderOutput(changed, torch.tensor([10])))
        has_changed = ((audio - other).abs().amax(dim=1) > 1e-6).tolist()
        assert has_changed == [index == token for index in range(3)]
    padded = torch.cat([hidden, torch.zeros(1, 2, 32)], dim=1)
    assert torch.allclose(
        model.project_audio(EncoderOutput(padded, torch.tensor([12]))), audio, atol=1e-6
    )
