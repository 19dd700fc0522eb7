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

NAME = "multi_modal_projector.linear.weight"


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-Audio."""
    return write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("bases") / "ear")


@pytest.fixture
def copy(ear: Path, tmp_path: Path) -> Path:
    """One of its own for a test to spoil."""
    return shutil.copytree(ear, tmp_path / "ear")


def test_every_tensor_is_the_file_s_own(ear: Path) -> None:
    whole = load(ear).whole
    found = {name.removeprefix("model."): tensor for name, tensor in whole.state_dict().items()}
    for name, tensor in load_file(ear / "model.safetensors").items():
        mine = found[
            name.replace("language_model.model.", "language_model.").replace(
                "language_model.lm_head", "lm_head"
            )
        ]
        assert torch.equal(mine, tensor), name


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ({NAME: None}, f"1 missing, first model.{NAME}"),
        ({"more.weight": torch.zeros(2)}, "1 unknown, first more.weight"),
        ({NAME: torch.zeros(32, 31)}, f"1 of another shape, first model.{NAME} ([32, 31], not [32"),
        ({NAME: torch.full((32, 32), math.nan)}, f"{NAME} holds numbers that are not finite"),
        ({NAME: torch.full((32, 32), -math.inf)}, f"{NAME} holds numbers that are not finite"),
    ],
    ids=["missing", "unknown", "shape", "nan", "inf"],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(
    copy: Path, spoil: dict[str, torch.Tensor | None], told: str
) -> None:
    respoiled(copy, spoil)
    assert told in refusal(copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_one_number_that_is_not_finite_is_found_in_every_format(
    copy: Path, dtype: torch.dtype
) -> None:
    tensor = torch.ones(32, 32)
    tensor[7, 9] = math.nan
    respoiled(copy, {NAME: tensor.to(dtype)})
    assert f"model.safetensors: {NAME} holds" in refusal(copy)


@pytest.mark.parametrize("family", [*TWIN_BUILDERS, "voxtral"])
def test_each_class_is_loaded_whole_and_counted_exactly(family: str, tmp_path: Path) -> None:
    """Also where the head is the table of words, and beside a half that speaks."""
    folder = write_pretrained_twin(family, tmp_path / family)
    base = resolve_model_spec(family, tmp_path)
    model = load_pretrained_audio_lm(folder, base, dtype=torch.float32)
    named = list(model.named_parameters())
    assert base.sizes.num_parameters == sum(each.numel() for _, each in named)
    ears = [
        each.numel() for name, each in named if name.startswith(model.param_prefixes["encoder"])
    ]
    eyes = [each.numel() for name, each in named if ".visual." in name]
    between = [
        each.numel() for name, each in named if name.startswith(model.param_prefixes["projector"])
    ]
    assert base.sizes.encoder.num_parameters == sum(ears) + sum(eyes)
    assert base.sizes.projector == sum(between)
    assert base.sizes.lm.num_layers == model.whole.config.get_text_config().num_hidden_layers
    assert base.sizes.vocab_size == model.whole.config.get_text_config().vocab_size


def test_a_pickle_is_never_read(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "holds its weights as a pickle (pytorch_model.bin); only safet" in refusal(copy)


def test_weights_that_were_cut_off_are_refused(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "where its header promises" in refusal(copy)


def test_what_is_damaged_in_the_cache_is_told_how_to_fetch_again(ear: Path, tmp_path: Path) -> None:
    place = shutil.copytree(ear, tmp_path / "models--me--my-ear" / "snapshots" / "x")
    (place / "model.safetensors").write_bytes(b"\0" * 20)
    assert refusal(place).endswith("; `hf cache rm model/me/my-ear`, then run it again")


def test_the_weights_of_another_class_are_refused(ear: Path) -> None:
    row = replace(find_catalog_spec("voxtral-mini-3b"), source=str(ear))
    with pytest.raises(
        ModelError, match="is of class qwen2_audio, and voxtral-mini-3b is of class"
    ):
        load_pretrained_audio_lm(ear, row, dtype=torch.float32)


def test_code_beside_the_weights_is_not_run(copy: Path, tmp_path: Path) -> None:
    """Neither that of the model nor that of the tokenizer."""
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Ear: pass\n"
    (copy / "ear.py").write_text(code)
    for name, classes in (
        ("config.json", {"AutoConfig": "ear.Ear", "AutoModel": "ear.Ear"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["ear.Ear", "ear.Ear"]}),
    ):
        known = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({**known, "auto_map": classes}))
    load(copy)
    assert not (tmp_path / "ran").exists()


def test_a_token_that_the_config_names_otherwise_is_refused(copy: Path) -> None:
    """The released classes look for sound at that token."""
    config = json.loads((copy / "config.json").read_text())
    key = next(key for key in ("audio_token_index", "audio_token_id") if key in config)
    (copy / "config.json").write_text(json.dumps({**config, key: 5}))
    assert "its config says that token 5 stands for audio" in refusal(copy)


def test_an_adapter_for_weights_that_changed_is_refused(copy: Path, tmp_path: Path) -> None:
    base = resolve_model_spec(str(copy), Path())
    adapter = AdapterSpec("projector", 8, 16, 0.0, ("projector",), None)
    model = load_pretrained_audio_lm(copy, base, dtype=torch.float32)
    apply_adapter(model, adapter, seed=0)
    version = tmp_path / "v0001"
    version.mkdir()
    save_adapter(model, adapter, version)
    assert read_adapter_spec(version, base) == adapter
    respoiled(copy, {NAME: torch.ones(32, 32)})
    other = resolve_model_spec(str(copy), Path())
    told = f"made for ear .{base.revision}., not for ear .{other.revision}."
    with pytest.raises(ModelError, match=told):
        read_adapter_spec(version, other)


def load(folder: Path):
    """The folder as the base that it is, in fp32."""
    return load_pretrained_audio_lm(folder, base_in(folder), dtype=torch.float32)


def base_in(folder: Path) -> ModelSpec:
    """The row of the folder."""
    return replace(
        find_catalog_spec("qwen2-audio-7b-instruct"), key="ear", source=str(folder), revision="x"
    )


def respoiled(folder: Path, spoil: dict[str, torch.Tensor | None]) -> None:
    """Write the weights again, without some tensors or with others."""
    tensors = {**load_file(folder / "model.safetensors"), **spoil}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    """The line that it is refused with."""
    with pytest.raises(ModelError) as told:
        load(folder)
    assert "\n" not in str(told.value)
    assert str(folder) in str(told.value)
    return str(told.value)
