"""The README of a snapshot, run as it is, gives the token ids and logits of dlm."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
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
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec
from dlm.store.records import Version
from tests.pretrained_twins import TWIN_BUILDERS, extract_reference_inputs, write_pretrained_twin
from tests.snapshots import run_readme, run_with_dlm
from tests.tiny_models import write_tone
from tests.tiny_voxtral import write_tiny_voxtral

# peft 0.21 asks transformers by a name that transformers 6 drops
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

TOLERANCE = 1e-4  # of logits, fp32
# of 4 bits: where a CPU multiplies bf16, bitsandbytes rounds to it, and dlm does not
TOLERANCE_4_BIT = 1e-2
OMNI_FAMILIES = {"qwen2_5_omni", "qwen3_omni_moe"}  # whose processors need torchvision
OTHER_FAMILIES = ["voxtral", *sorted({*TWIN_BUILDERS} - {"qwen2_audio", *OMNI_FAMILIES})]
ALL_COMPONENTS = ("lm", "projector", "encoder")
ADAPTERS = {
    "lora everywhere": AdapterSpec("lora", 4, 8, 0.05, ALL_COMPONENTS, None),
    "dora": AdapterSpec("dora", 4, 8, 0.05, ("lm", "encoder"), None),
    "projector": AdapterSpec("projector", 8, 16, 0.05, ("projector",), None),
    "full": AdapterSpec("full", 8, 16, 0.05, ALL_COMPONENTS, None),
    "whole modules beside lora": AdapterSpec(
        "lora", 4, 8, 0.05, ("lm", "projector"), None, top_layers=1, train_encoder=True
    ),
}
ADAPTER_4_BIT = AdapterSpec("lora", 2, 4, 0.0, ("lm", "projector"), ("q_proj", "o_proj"), 4)
SpecFn = Callable[[str], ModelSpec]


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory: pytest.TempPathFactory) -> SpecFn:
    """The spec of a family, for a tiny checkpoint of it."""
    specs: dict[str, ModelSpec] = {}

    def get_spec(family: str) -> ModelSpec:
        if family not in specs:
            folder = tmp_path_factory.mktemp(family)
            if family == "voxtral":
                # as wide as a block of four bits, where there is no GPU
                source = write_tiny_voxtral(folder, hidden_size=64)
            else:
                source = write_pretrained_twin(family, folder)
            spec = next(spec for spec in MODEL_CATALOG.values() if spec.family == family)
            specs[family] = replace(spec, source=str(source))
            if spec.is_encoder_decoder:  # its window is that of its positions
                specs[family] = resolve_model_spec(str(source), Path())
        return specs[family]

    return get_spec


def make_version(spec: ModelSpec, adapter: AdapterSpec, folder: Path) -> Version:
    """A version with other values for everything that is trained."""
    model = load_base_model(spec, bits=adapter.bits)
    apply_adapter(model, adapter, seed=0)
    rng = torch.Generator().manual_seed(0)
    for parameter in get_trainable_parameters(model).values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=rng)
    folder.mkdir()
    save_adapter(model, adapter, folder)
    return Version(
        document_sha256="0" * 64,
        data_sha256="0" * 64,
        plan={},
        seed=42,
        number=3,
        path=folder,
        created_at="2026-11-21T00:00:00+00:00",
        hashes={},
        base_model=spec.key,
        base_model_revision=spec.revision,
        steps=4,
        seconds=1.0,
        scores={"wer": 0.25},
    )


def check_readme(
    spec: ModelSpec, version: Version, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assert that the README of a snapshot gives what dlm gives."""
    system_prompt = None if spec.chat_format == "mistral" else "You listen carefully."
    folder.mkdir()
    write_hf_snapshot(spec, version, system_prompt, folder)
    write_tone(folder / EXAMPLE_AUDIO_FILE, hertz=440, seconds=1.3)
    monkeypatch.chdir(folder)
    input_ids, logits = run_readme()
    expected_ids, expected = run_with_dlm(spec, version.path, system_prompt)
    assert input_ids == expected_ids
    base_logits = run_with_dlm(spec, None, system_prompt)[1]
    is_4_bit = "BitsAndBytesConfig" in Path("README.md").read_text()
    tolerance = TOLERANCE_4_BIT if is_4_bit else TOLERANCE
    assert (expected - base_logits).abs().max() > 10 * tolerance, "training changed it"
    assert (logits - expected).abs().max() < tolerance


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_readme_of_every_adapter_gives_the_logits_of_dlm(
    adapter: str, spec_of: SpecFn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("qwen2_audio")
    version = make_version(spec, ADAPTERS[adapter], tmp_path / "v0003")
    check_readme(spec, version, tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_the_readme_of_every_family_gives_the_logits_of_dlm(
    family: str, spec_of: SpecFn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(family)
    version = make_version(spec, ADAPTERS["lora everywhere"], tmp_path / "v0003")
    check_readme(spec, version, tmp_path / "out", monkeypatch)


def test_the_readme_quantizes_the_base_model_as_training_did(
    spec_of: SpecFn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("voxtral")
    version = make_version(spec, ADAPTER_4_BIT, tmp_path / "v0003")
    check_readme(spec, version, tmp_path / "out", monkeypatch)
    assert "load_in_4bit=True" in Path("README.md").read_text()


@pytest.mark.parametrize("family", sorted(OMNI_FAMILIES))
def test_the_readme_of_an_omni_thinker_loads_its_adapter(
    family: str, spec_of: SpecFn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the processor, in whose place is the feature extractor of its class."""
    spec = spec_of(family)
    version = make_version(spec, ADAPTERS["lora everywhere"], tmp_path / "v0003")
    (tmp_path / "out").mkdir()
    write_hf_snapshot(spec, version, None, tmp_path / "out")
    clip = write_tone(tmp_path / "out" / EXAMPLE_AUDIO_FILE, hertz=440, seconds=1.3)
    monkeypatch.chdir(tmp_path / "out")
    input_ids, expected = run_with_dlm(spec, version.path)
    code = Path("README.md").read_text().partition("processor =")[0].partition("```python\n")[2]
    variables: dict = {}
    exec(code, variables)
    features = extract_reference_inputs(spec, [soundfile.read(clip, dtype="float32")[0]])
    with torch.no_grad():
        output = variables["model"](input_ids=torch.tensor([input_ids]), **features)
    assert (output.logits[0] - expected).abs().max() < TOLERANCE


@pytest.fixture
def snapshot(spec_of: SpecFn, tmp_path: Path) -> Path:
    """A snapshot, as small as it can be."""
    spec = spec_of("qwen2_audio")
    version = make_version(spec, ADAPTERS["projector"], tmp_path / "v0003")
    (tmp_path / "out").mkdir()
    write_hf_snapshot(spec, version, None, tmp_path / "out")
    return tmp_path / "out"


def test_the_manifest_lists_every_other_file(snapshot: Path) -> None:
    manifest = json.loads((snapshot / EXPORT_MANIFEST_FILE).read_text())
    listed = {artifact["path"]: artifact["sha256"] for artifact in manifest["artifacts"]}
    hashes = hash_tree(snapshot)
    del hashes[EXPORT_MANIFEST_FILE]
    assert listed == hashes and verify_export(snapshot) == (len(hashes), ())
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
    assert expected.items() <= manifest.items()
    assert re.fullmatch(r"dlm \d+\.\d+\S*", manifest["created_by"])


def test_the_adapter_folder_holds_what_peft_needs_and_no_more(snapshot: Path) -> None:
    files = {path.name for path in (snapshot / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    names = load_file(snapshot / "adapter/adapter_model.safetensors")
    linear = "base_model.model.model.multi_modal_projector.linear"
    assert set(names) == {f"{linear}.weight", f"{linear}.bias"}


def test_a_base_model_without_a_processor_is_refused(spec_of: SpecFn, tmp_path: Path) -> None:
    spec = spec_of("qwen2_audio")
    source = tmp_path / "without_processor"
    source.mkdir()
    for path in Path(spec.source).iterdir():
        if "processor" not in path.name and path.name != "tokenizer_config.json":
            (source / path.name).write_bytes(path.read_bytes())
    version = make_version(spec, ADAPTERS["projector"], tmp_path / "v0003")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="processor") as caught:
        write_hf_snapshot(replace(spec, source=str(source)), version, None, tmp_path / "out")
    assert caught.value.code == "model.no_processor"
