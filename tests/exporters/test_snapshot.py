"""A snapshot of a native base: its README, run as it stands, says what dlm says."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from dlm.errors import ModelError
from dlm.exporters.hf_snapshot import write_hf_snapshot
from dlm.exporters.manifest import EXPORT_MANIFEST_FILE, verify_export
from dlm.exporters.model_card import EXAMPLE_AUDIO_FILE
from dlm.io import hash_tree
from dlm.models.adapters import apply_adapter, get_trainable_parameters, save_adapter
from dlm.models.load import load_base_model
from dlm.plan.model_spec import MODEL_CATALOG, ModelSpec
from dlm.plan.types import AdapterSpec
from dlm.store.records import Version
from tests.pretrained_twins import TWIN_BUILDERS, extract_reference_inputs, write_pretrained_twin
from tests.snapshots import dlm_says, readme_says
from tests.tiny_models import write_tone
from tests.tiny_voxtral import write_tiny_voxtral

# peft 0.21 asks transformers by a name that transformers 6 drops
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

TOLERANCE = 1e-4  # of logits, fp32
ROUGH = 1e-2  # of 4 bits: where a CPU multiplies bf16, bitsandbytes rounds to it, and dlm does not
OMNI = {"qwen2_5_omni", "qwen3_omni_moe"}  # whose processors need torchvision
EVERYWHERE = ("lm", "projector", "encoder")
KINDS = {
    "lora everywhere": AdapterSpec("lora", 4, 8, 0.05, EVERYWHERE, None),
    "dora": AdapterSpec("dora", 4, 8, 0.05, ("lm", "encoder"), None),
    "projector": AdapterSpec("projector", 8, 16, 0.05, ("projector",), None),
    "full": AdapterSpec("full", 8, 16, 0.05, EVERYWHERE, None),
    "whole parts beside lora": AdapterSpec(
        "lora", 4, 8, 0.05, ("lm", "projector"), None, top_layers=1, train_encoder=True
    ),
}
PACKED = AdapterSpec("lora", 2, 4, 0.0, ("lm", "projector"), ("q_proj", "o_proj"), 4)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSpec]:
    """The row of a family, for a tiny checkpoint of it."""
    made: dict[str, ModelSpec] = {}

    def of(family: str) -> ModelSpec:
        if family not in made:
            row = next(base for base in MODEL_CATALOG.values() if base.family == family)
            wide = partial(
                write_tiny_voxtral, hidden_size=64
            )  # a block of four bits, where there is no GPU
            make = wide if family == "voxtral" else partial(write_pretrained_twin, family)
            folder = make(tmp_path_factory.mktemp(family))
            made[family] = replace(row, source=str(folder))
        return made[family]

    return of


def learned(base: ModelSpec, adapter: AdapterSpec, folder: Path) -> Version:
    """A version that differs from the base in everything that learns."""
    model = load_base_model(base, bits=adapter.bits)
    apply_adapter(model, adapter, seed=0)
    chance = torch.Generator().manual_seed(0)
    for each in get_trainable_parameters(model).values():
        each.data += 0.05 * torch.randn(each.shape, generator=chance)
    folder.mkdir()
    save_adapter(model, adapter, folder)
    known = {"document_sha256": "0" * 64, "data_sha256": "0" * 64, "plan": {}, "seed": 42}
    return Version(
        **known,
        number=3,
        path=folder,
        created_at="2026-11-21T00:00:00+00:00",
        hashes={},
        base_model=base.key,
        base_model_revision=base.revision,
        steps=4,
        seconds=1.0,
        scores={"wer": 0.25},
    )


def agree(base: ModelSpec, version: Version, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = None if base.chat_format == "mistral" else "You listen carefully."
    folder.mkdir()
    write_hf_snapshot(base, version, system, folder)
    write_tone(folder / EXAMPLE_AUDIO_FILE, hertz=440, seconds=1.3)
    monkeypatch.chdir(folder)
    ids, logits = readme_says()
    expected_ids, expected = dlm_says(base, version.path, system)
    assert ids == expected_ids
    bare = dlm_says(base, None, system)[1]
    tolerance = ROUGH if "BitsAndBytesConfig" in Path("README.md").read_text() else TOLERANCE
    assert (expected - bare).abs().max() > 10 * tolerance, "it learned something"
    assert (logits - expected).abs().max() < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_says_what_dlm_says(
    kind: str, built: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = built("qwen2_audio")
    version = learned(base, KINDS[kind], tmp_path / "v0003")
    agree(base, version, tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("family", ["voxtral", *sorted({*TWIN_BUILDERS} - {"qwen2_audio", *OMNI})])
def test_the_readme_of_every_family(
    family: str, built: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = built(family)
    version = learned(base, KINDS["lora everywhere"], tmp_path / "v0003")
    agree(base, version, tmp_path / "out", monkeypatch)


def test_the_readme_packs_the_base_as_training_did(
    built: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = built("voxtral")
    version = learned(base, PACKED, tmp_path / "v0003")
    agree(base, version, tmp_path / "out", monkeypatch)
    assert "load_in_4bit=True" in Path("README.md").read_text()


@pytest.mark.parametrize("family", sorted(OMNI))
def test_the_adapter_of_a_thinker(
    family: str, built: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README but for the processor, for which the class's own extractor stands in."""
    base = built(family)
    version = learned(base, KINDS["lora everywhere"], tmp_path / "v0003")
    (tmp_path / "out").mkdir()
    write_hf_snapshot(base, version, None, tmp_path / "out")
    clip = write_tone(tmp_path / "out" / EXAMPLE_AUDIO_FILE, hertz=440, seconds=1.3)
    monkeypatch.chdir(tmp_path / "out")
    ids, expected = dlm_says(base, version.path)
    text = Path("README.md").read_text().partition("processor =")[0]
    names: dict = {}
    exec(text.partition("```python\n")[2], names)
    heard = extract_reference_inputs(base, [soundfile.read(clip, dtype="float32")[0]])
    with torch.no_grad():
        logits = names["model"](input_ids=torch.tensor([ids]), **heard).logits[0]
    assert (logits - expected).abs().max() < TOLERANCE


@pytest.fixture
def written(built: Callable, tmp_path: Path) -> Path:
    """A snapshot, as small as it can be."""
    base = built("qwen2_audio")
    version = learned(base, KINDS["projector"], tmp_path / "v0003")
    (tmp_path / "out").mkdir()
    write_hf_snapshot(base, version, None, tmp_path / "out")
    return tmp_path / "out"


def test_the_manifest_tells_of_every_other_file(written: Path) -> None:
    told = json.loads((written / EXPORT_MANIFEST_FILE).read_text())
    listed = {each["path"]: each["sha256"] for each in told["artifacts"]}
    assert listed == {
        name: sha for name, sha in hash_tree(written).items() if name != EXPORT_MANIFEST_FILE
    }
    assert {"README.md", "adapter/adapter_config.json", "processor/tokenizer.json"} <= set(listed)
    expected = {
        "export_target": "hf_snapshot",
        "base_model": "qwen2-audio-7b-instruct",
        "base_model_revision": "0a095220c30b7b31434169c3086508ef3ea5bf0a",
        "base_model_architecture": "Qwen2AudioForConditionalGeneration",
        "modality": "audio-language",
        "audio_token": "<|AUDIO|>",
        "num_audio_tokens": 750,
        "sample_rate": 16_000,
        "max_length_seconds": 30.0,
        "adapter_version": 3,
    }
    assert expected.items() <= told.items()
    assert re.fullmatch(r"dlm \d+\.\d+\S*", told["created_by"])


def test_the_adapter_holds_what_peft_needs_and_no_more(written: Path) -> None:
    files = {path.name for path in (written / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    names = load_file(written / "adapter/adapter_model.safetensors")
    assert set(names) == {
        f"base_model.model.model.multi_modal_projector.linear.{each}" for each in ("weight", "bias")
    }


def test_a_file_that_differs_is_named(written: Path) -> None:
    files = len(hash_tree(written)) - 1
    assert verify_export(written) == (files, ())
    (written / "README.md").unlink()
    (written / "adapter/more.bin").write_bytes(b"more")
    config = written / "adapter/adapter_config.json"
    config.write_bytes(config.read_bytes() + b" ")
    found = verify_export(written)[1]
    told = ["README.md: is gone", "adapter/adapter_config.json: was changed", "more.bin: was added"]
    assert len(found) == len(told)
    assert all(words in line for words, line in zip(told, found, strict=True))


def test_a_base_without_a_processor(built: Callable, tmp_path: Path) -> None:
    base = replace(built("qwen2_audio"), source=str(tmp_path / "base"))
    for file in Path(built("qwen2_audio").source).iterdir():
        if "processor" not in file.name and file.name != "tokenizer_config.json":
            (tmp_path / "base").mkdir(exist_ok=True)
            (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    version = learned(built("qwen2_audio"), KINDS["projector"], tmp_path / "v0003")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="processor"):
        write_hf_snapshot(base, version, None, tmp_path / "out")
