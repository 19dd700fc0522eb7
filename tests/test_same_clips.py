"""The same clips teach the same weights, in whatever form they are kept."""

import json
from pathlib import Path

import pytest
import yaml

from dlm.io import sha256_file
from tests.cli_runner import dlm
from tests.data.keepers import KEEPERS
from tests.tiny_models import write_tiny_model

FORMS = ("folder", "json", "webdataset", "parquet", "nemo tarred")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def learned(folder: Path, form: str, tiny: Path) -> tuple[str, float]:
    """The sha256 of what is learned from the clips in a form, and the listening gap."""
    folder.mkdir()
    training = {"sources": [KEEPERS[form](folder)], "held_out": 0, "micro_batch_size": 2}
    front = {
        "dlm_id": f"01ARZ3NDEKTSV4RRFFQ69G5FA{FORMS.index(form)}",
        "dlm_version": 11,
        "base_model": str(tiny),
        "training": training,
    }
    path = folder / "my.dlm"
    written = yaml.safe_dump(front, allow_unicode=True, sort_keys=False)
    path.write_text(f"---\n{written}---\n", encoding="utf-8")
    trained = dlm("train", path, "--steps", 4)
    assert trained.code == 0, trained.err
    shown = json.loads(dlm("show", path, "--json").out)
    store, (version,) = Path(shown["store"]), shown["versions"]
    weights = next((store / "adapter/versions/v0001").glob("*.safetensors"))
    return sha256_file(weights), version["scores"]["gap"]


def test_they_do(tmp_path: Path, tiny: Path) -> None:
    found = {form: learned(tmp_path / form.replace(" ", "-"), form, tiny) for form in FORMS}
    assert len(set(found.values())) == 1, found
