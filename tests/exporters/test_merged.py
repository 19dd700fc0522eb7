"""A merged model gives the logits of the version it was made from, and can be trained further."""

import json
from pathlib import Path

import pytest
import torch

from dlm.data.types import Example
from dlm.errors import ModelError
from dlm.exporters.manifest import EXPORT_MANIFEST_FILE
from dlm.exporters.merged import write_merged_model
from dlm.io import hash_tree, sha256_file
from dlm.models.adapters import get_trainable_parameters
from dlm.models.load import load_base_model
from dlm.plan.model_spec import read_model_spec
from dlm.plan.resolve import resolve_model_spec
from dlm.store.records import Version
from tests.models.batches import compute_all_logits, make_batch
from tests.tiny_models import (
    TrainingSetup,
    make_tiny_plan,
    make_training_setup,
    write_tiny_model,
    write_tone_examples,
)

VERSION = Version(
    number=3,
    path=Path("v0003"),
    created_at="2026-11-21T00:00:00+00:00",
    hashes={"adapter_model.safetensors": "ab" * 32},
    document_sha256="0" * 64,
    data_sha256="0" * 64,
    plan={},
    seed=42,
    base_model="tiny",
    base_model_revision="test",
    steps=4,
    seconds=1.0,
    scores={"wer": 0.25, "loss": 0.5},
)
ADAPTERS = {
    "full": {"adapter": "full"},
    "projector": {"adapter": "projector"},
    "lora": {"adapter": "lora", "lora": {"where": ["lm", "projector", "encoder"]}},
    "dora": {"adapter": "dora", "lora": {"where": ["lm", "encoder"]}},
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


def train(model_dir: Path, examples: list[Example], adapter: str) -> TrainingSetup:
    training = {"learning_rate": 2e-2, "warmup_ratio": 0.0, **ADAPTERS[adapter]}
    setup = make_training_setup(make_tiny_plan(model_dir, 6, steps=4, **training), examples)
    list(setup.iter_events())
    setup.model.eval()
    return setup


@pytest.fixture(scope="module")
def export_dir(
    model_dir: Path, examples: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An exported model that was trained with LoRA."""
    folder = tmp_path_factory.mktemp("export")
    write_merged_model(train(model_dir, examples, "lora").model, VERSION, folder)
    return folder


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_merged_model_has_the_logits_of_its_version(
    model_dir: Path, examples: list[Example], tmp_path: Path, adapter: str
) -> None:
    model = train(model_dir, examples, adapter).model
    batch = make_batch(model, examples)
    expected = compute_all_logits(model, batch)
    base_logits = compute_all_logits(load_base_model(read_model_spec(model_dir)), batch)
    assert not torch.allclose(expected, base_logits, atol=1e-2), "training changed it"
    write_merged_model(model, VERSION, tmp_path)
    merged = load_base_model(resolve_model_spec(str(tmp_path), Path()))
    assert torch.allclose(compute_all_logits(merged, batch), expected, atol=1e-4)
    assert not any(".lora_" in name or "base_layer" in name for name in merged.state_dict())
    assert not any("lora" in name for name in get_trainable_parameters(merged))


def test_an_export_that_reads_back_differently_is_refused(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm.exporters.merged.LOGIT_TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="computes other outputs") as caught:
        write_merged_model(load_base_model(read_model_spec(model_dir)), VERSION, tmp_path)
    assert caught.value.code == "model.export_differs"


def test_a_merged_model_is_a_base_model_of_its_own(
    export_dir: Path, model_dir: Path, examples: list[Example]
) -> None:
    spec = read_model_spec(export_dir)
    assert (spec.key, spec.revision) == ("tiny-v0003", VERSION.sha256[:12])
    assert spec.audio_spec == read_model_spec(model_dir).audio_spec
    setup = make_training_setup(make_tiny_plan(export_dir, 6, steps=1), examples)
    assert len(list(setup.iter_events())) == 4, "and can be trained further"


def test_the_manifest_lists_every_file_and_where_it_comes_from(export_dir: Path) -> None:
    manifest = json.loads((export_dir / EXPORT_MANIFEST_FILE).read_text())
    listed = {artifact["path"]: artifact["sha256"] for artifact in manifest["artifacts"]}
    hashes = hash_tree(export_dir)
    del hashes[EXPORT_MANIFEST_FILE]
    assert listed == hashes
    assert {"README.md", "model.safetensors", "config.json", "dlm_base.json"} <= set(listed)
    for artifact in manifest["artifacts"]:
        path = export_dir / artifact["path"]
        assert path.stat().st_size == artifact["size_bytes"]
        assert sha256_file(path) == artifact["sha256"]
    assert (manifest["base_model"], manifest["base_model_revision"]) == ("tiny", "test")
    assert (manifest["adapter_version"], manifest["scores"]) == (3, VERSION.scores)
    assert (manifest["audio_token"], manifest["sample_rate"]) == ("<|audio|>", 16_000)
    assert manifest["max_length_seconds"] == 2.0


def test_the_readme_has_the_scores_and_how_to_use_it(export_dir: Path) -> None:
    readme = (export_dir / "README.md").read_text()
    assert readme.startswith("# tiny-v0003\n") and EXPORT_MANIFEST_FILE in readme
    assert "- loss: 0.5\n- wer: 0.25\n" in readme
