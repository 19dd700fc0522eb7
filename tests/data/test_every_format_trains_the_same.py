"""The same examples give the same weights, whatever the format of their source."""

import json
from pathlib import Path

import pytest
import yaml

from dlm.io import sha256_file
from tests.cli_runner import dlm
from tests.data.readers.format_fixtures import FORMAT_FIXTURES
from tests.tiny_models import write_tiny_model

FORMATS = ("folder", "json", "webdataset", "parquet", "nemo tarred")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def train_from_format(folder: Path, format_name: str, tiny: Path) -> tuple[str, float]:
    """Train from a format: the sha256 of the adapter, and the listening gap."""
    folder.mkdir()
    training = {
        "sources": [FORMAT_FIXTURES[format_name](folder)],
        "held_out": 0,
        "micro_batch_size": 2,
    }
    header = {
        "dlm_id": f"01ARZ3NDEKTSV4RRFFQ69G5FA{FORMATS.index(format_name)}",
        "dlm_version": 11,
        "base_model": str(tiny),
        "training": training,
    }
    path = folder / "my.dlm"
    header_text = yaml.safe_dump(header, allow_unicode=True, sort_keys=False)
    path.write_text(f"---\n{header_text}---\n", encoding="utf-8")
    trained = dlm("train", path, "--steps", 4)
    assert trained.code == 0, trained.err
    shown = json.loads(dlm("show", path, "--json").out)
    store, (version,) = Path(shown["store"]), shown["versions"]
    weights = next((store / "adapter/versions/v0001").glob("*.safetensors"))
    return sha256_file(weights), version["scores"]["gap"]


def test_every_format_trains_the_same_weights(tmp_path: Path, tiny: Path) -> None:
    results = {
        format_name: train_from_format(tmp_path / format_name.replace(" ", "-"), format_name, tiny)
        for format_name in FORMATS
    }
    assert len(set(results.values())) == 1, results
