"""What is loaded is what was released: nothing missing, random, infinite, pickled or run."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlm.errors import ModelError
from dlm.models.adapters import apply_adapter, read_adapter_spec, save_adapter
from dlm.models.pretrained import load_pretrained_audio_lm
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ModelSpec
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec
from tests.pretrained_twins import TWIN_BUILDERS, write_pretrained_twin

TENSOR_NAME = "multi_modal_projector.linear.weight"


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-Audio."""
    return write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("bases") / "ear")


@pytest.fixture
def copied_dir(checkpoint_dir: Path, tmp_path: Path) -> Path:
    """One of its own for a test to spoil."""
    return shutil.copytree(checkpoint_dir, tmp_path / "ear")


def test_every_tensor_comes_from_the_file(checkpoint_dir: Path) -> None:
    hf_model = load_model(checkpoint_dir).whole
    tensors_by_name = {
        name.removeprefix("model."): tensor for name, tensor in hf_model.state_dict().items()
    }
    for name, tensor in load_file(checkpoint_dir / "model.safetensors").items():
        loaded = tensors_by_name[
            name.replace("language_model.model.", "language_model.").replace(
                "language_model.lm_head", "lm_head"
            )
        ]
        assert torch.equal(loaded, tensor), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({TENSOR_NAME: None}, f"1 missing, first model.{TENSOR_NAME}"),
        ({"more.weight": torch.zeros(2)}, "1 unknown, first more.weight"),
        (
            {TENSOR_NAME: torch.zeros(32, 31)},
            f"1 of another shape, first model.{TENSOR_NAME} ([32, 31], not [32",
        ),
        (
            {TENSOR_NAME: torch.full((32, 32), math.nan)},
            f"{TENSOR_NAME} holds values that are not finite",
        ),
        (
            {TENSOR_NAME: torch.full((32, 32), -math.inf)},
            f"{TENSOR_NAME} holds values that are not finite",
        ),
    ],
    ids=["missing", "unknown", "shape", "nan", "inf"],
)
def test_a_tensor_that_does_not_fit_is_named(
    copied_dir: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    change_tensors(copied_dir, changes)
    assert message in get_refusal(copied_dir)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_one_non_finite_value_is_found_in_every_dtype(copied_dir: Path, dtype: torch.dtype) -> None:
    tensor = torch.ones(32, 32)
    tensor[7, 9] = math.nan
    change_tensors(copied_dir, {TENSOR_NAME: tensor.to(dtype)})
    assert f"model.safetensors: {TENSOR_NAME} holds" in get_refusal(copied_dir)


@pytest.mark.parametrize("family", [*TWIN_BUILDERS, "voxtral"])
def test_each_class_is_loaded_and_its_parameters_counted(family: str, tmp_path: Path) -> None:
    """Also where the head is the table of words, and beside a half that speaks."""
    folder = write_pretrained_twin(family, tmp_path / family)
    spec = resolve_model_spec(family, tmp_path)
    model = load_pretrained_audio_lm(folder, spec, dtype=torch.float32)
    parameters = list(model.named_parameters())
    assert spec.sizes.num_parameters == sum(parameter.numel() for _, parameter in parameters)
    encoder_sizes = [
        parameter.numel()
        for name, parameter in parameters
        if name.startswith(model.param_prefixes["encoder"])
    ]
    vision_sizes = [parameter.numel() for name, parameter in parameters if ".visual." in name]
    projector_sizes = [
        parameter.numel()
        for name, parameter in parameters
        if name.startswith(model.param_prefixes["projector"])
    ]
    assert spec.sizes.encoder.num_parameters == sum(encoder_sizes) + sum(vision_sizes)
    assert spec.sizes.projector == sum(projector_sizes)
    assert spec.sizes.lm.num_layers == model.whole.config.get_text_config().num_hidden_layers
    assert spec.sizes.vocab_size == model.whole.config.get_text_config().vocab_size


def test_a_pickle_is_never_read(copied_dir: Path) -> None:
    (copied_dir / "model.safetensors").unlink()
    (copied_dir / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "holds its weights as a pickle (pytorch_model.bin); only safet" in get_refusal(
        copied_dir
    )


def test_a_truncated_file_is_refused(copied_dir: Path) -> None:
    path = copied_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "where its header promises" in get_refusal(copied_dir)


def test_a_damaged_file_in_the_cache_of_the_hub_names_how_to_delete_it(
    checkpoint_dir: Path, tmp_path: Path
) -> None:
    cache_dir = shutil.copytree(checkpoint_dir, tmp_path / "models--me--my-ear" / "snapshots" / "x")
    (cache_dir / "model.safetensors").write_bytes(b"\0" * 20)
    assert get_refusal(cache_dir).endswith("; `hf cache rm model/me/my-ear`, then run it again")


def test_weights_of_another_class_are_refused(checkpoint_dir: Path) -> None:
    spec = replace(find_catalog_spec("voxtral-mini-3b"), source=str(checkpoint_dir))
    with pytest.raises(
        ModelError, match="is of class qwen2_audio, and voxtral-mini-3b is of class"
    ):
        load_pretrained_audio_lm(checkpoint_dir, spec, dtype=torch.float32)


def test_code_in_the_folder_is_not_run(copied_dir: Path, tmp_path: Path) -> None:
    """Neither that of the model nor that of the tokenizer."""
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Ear: pass\n"
    (copied_dir / "ear.py").write_text(code)
    for name, auto_map in (
        ("config.json", {"AutoConfig": "ear.Ear", "AutoModel": "ear.Ear"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["ear.Ear", "ear.Ear"]}),
    ):
        config = json.loads((copied_dir / name).read_text())
        (copied_dir / name).write_text(json.dumps({**config, "auto_map": auto_map}))
    load_model(copied_dir)
    assert not (tmp_path / "ran").exists()


def test_another_audio_token_in_the_config_is_refused(copied_dir: Path) -> None:
    """The released classes look for sound at that token."""
    config = json.loads((copied_dir / "config.json").read_text())
    key = next(key for key in ("audio_token_index", "audio_token_id") if key in config)
    (copied_dir / "config.json").write_text(json.dumps({**config, key: 5}))
    assert "its config says that token 5 stands for audio" in get_refusal(copied_dir)


def test_an_adapter_of_weights_that_changed_is_refused(copied_dir: Path, tmp_path: Path) -> None:
    spec = resolve_model_spec(str(copied_dir), Path())
    adapter = AdapterSpec("projector", 8, 16, 0.0, ("projector",), None)
    model = load_pretrained_audio_lm(copied_dir, spec, dtype=torch.float32)
    apply_adapter(model, adapter, seed=0)
    version_dir = tmp_path / "v0001"
    version_dir.mkdir()
    save_adapter(model, adapter, version_dir)
    assert read_adapter_spec(version_dir, spec) == adapter
    change_tensors(copied_dir, {TENSOR_NAME: torch.ones(32, 32)})
    other = resolve_model_spec(str(copied_dir), Path())
    message = f"made for ear .{spec.revision}., not for ear .{other.revision}."
    with pytest.raises(ModelError, match=message):
        read_adapter_spec(version_dir, other)


def load_model(folder: Path):
    """The folder as the base that it is, in fp32."""
    return load_pretrained_audio_lm(folder, make_spec(folder), dtype=torch.float32)


def make_spec(folder: Path) -> ModelSpec:
    """The spec of the folder."""
    return replace(
        find_catalog_spec("qwen2-audio-7b-instruct"), key="ear", source=str(folder), revision="x"
    )


def change_tensors(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Write the weights again, without some tensors or with others."""
    tensors = {**load_file(folder / "model.safetensors"), **changes}
    remaining = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(remaining, folder / "model.safetensors", metadata={"format": "pt"})


def get_refusal(folder: Path) -> str:
    """The line that it is refused with."""
    with pytest.raises(ModelError) as message:
        load_model(folder)
    assert "\n" not in str(message.value)
    assert str(folder) in str(message.value)
    return str(message.value)
