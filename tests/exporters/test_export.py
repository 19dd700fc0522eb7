"""A version that leaves the store: a folder that says the same and can be trusted."""

import json
from pathlib import Path

import pytest
import torch

from dlm.data.types import Example
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
KINDS = {
    "full": {"adapter": "full"},
    "projector": {"adapter": "projector"},
    "lora": {"adapter": "lora", "lora": {"where": ["lm", "projector", "encoder"]}},
    "dora": {"adapter": "dora", "lora": {"where": ["lm", "encoder"]}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_tone_examples(tmp_path_factory.mktemp("clips"))


def taught(folder: Path, clips: list[Example], kind: str = "lora") -> TrainingSetup:
    plan = make_tiny_plan(folder, 6, steps=4, learning_rate=2e-2, warmup_ratio=0.0, **KINDS[kind])
    learned = make_training_setup(plan, clips)
    list(learned.iter_events())
    learned.model.eval()
    return learned


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_says_the_same(
    folder: Path, clips: list[Example], tmp_path: Path, kind: str
) -> None:
    model = taught(folder, clips, kind).model
    batch = make_batch(model, clips)
    before = compute_all_logits(model, batch)
    bare = compute_all_logits(load_base_model(read_model_spec(folder)), batch)
    assert not torch.allclose(before, bare, atol=1e-2), "it learned something"
    write_merged_model(model, VERSION, tmp_path)
    again = load_base_model(resolve_model_spec(str(tmp_path), Path()))
    assert torch.allclose(compute_all_logits(again, batch), before, atol=1e-4)
    assert not any(".lora_" in name or "base_layer" in name for name in again.state_dict())
    assert not any("lora" in name for name in get_trainable_parameters(again))


def test_it_is_a_base_of_its_own(folder: Path, clips: list[Example], tmp_path: Path) -> None:
    write_merged_model(taught(folder, clips).model, VERSION, tmp_path)
    base = read_model_spec(tmp_path)
    assert (base.key, base.revision) == ("tiny-v0003", VERSION.sha256[:12])
    assert base.audio_spec == read_model_spec(folder).audio_spec
    next_ = make_training_setup(make_tiny_plan(tmp_path, 6, steps=1), clips)
    assert len(list(next_.iter_events())) == 4, "and can be taught further"


def test_the_manifest_holds(folder: Path, clips: list[Example], tmp_path: Path) -> None:
    write_merged_model(taught(folder, clips).model, VERSION, tmp_path)
    facts = json.loads((tmp_path / EXPORT_MANIFEST_FILE).read_text())
    listed = {each["path"]: each["sha256"] for each in facts["artifacts"]}
    assert listed == {
        name: each for name, each in hash_tree(tmp_path).items() if name != EXPORT_MANIFEST_FILE
    }
    assert {"README.md", "model.safetensors", "config.json", "dlm_base.json"} <= set(listed)
    for each in facts["artifacts"]:
        assert (tmp_path / each["path"]).stat().st_size == each["size_bytes"]
        assert sha256_file(tmp_path / each["path"]) == each["sha256"]
    assert facts["base_model"] == "tiny" and facts["base_model_revision"] == "test"
    assert (facts["adapter_version"], facts["scores"]) == (3, VERSION.scores)
    assert (facts["audio_token"], facts["sample_rate"]) == ("<|audio|>", 16_000)
    assert facts["max_length_seconds"] == 2.0


def test_the_readme_says_how_to_use_it(folder: Path, clips: list[Example], tmp_path: Path) -> None:
    write_merged_model(taught(folder, clips).model, VERSION, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# tiny-v0003\n")
    assert "- loss: 0.5\n- wer: 0.25\n" in text and EXPORT_MANIFEST_FILE in text
