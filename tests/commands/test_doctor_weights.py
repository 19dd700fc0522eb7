"""`dlm doctor --weights`: tensors by number format, a line for each non-finite one; decoders."""

import json
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from dlm.data.audio_decoders import is_pyav_installed
from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model

WEIGHTS = "model.safetensors"


def test_finite_weights_of_a_model(home: Path) -> None:
    result = dlm("doctor", "--weights", "sparrow")
    assert result.code == 0 and not result.err
    (line,) = [line for line in result.out.splitlines() if line.startswith("sparrow:")]
    assert "all values of" in line and "finite" in line
    report = json.loads(dlm("doctor", "--weights", "sparrow", "--json").out)["weights"]
    assert {item["component"] for item in report["dtype_counts"]} == {"encoder", "projector", "lm"}
    num_bytes = sum(item["size_bytes"] for item in report["dtype_counts"])
    assert 5e6 < num_bytes < 30e6 and report["non_finite_tensors"] == []


@pytest.mark.parametrize("is_installed", [True, False])
def test_decoders_are_named(monkeypatch: pytest.MonkeyPatch, request, is_installed) -> None:
    request.addfinalizer(is_pyav_installed.cache_clear)
    is_pyav_installed.cache_clear()
    if not is_installed:
        monkeypatch.setitem(sys.modules, "av", None)
    lines = dlm("doctor").out.splitlines()
    (decoder,) = [line.split(maxsplit=1)[1] for line in lines if line.startswith("decoder")]
    assert decoder.startswith(f"libsndfile {soundfile.__libsndfile_version__}")
    assert (", PyAV " if is_installed else "; m4a, webm, video: pip install av") in decoder


def test_non_finite_weights_are_named_by_file_and_tensor(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "tiny")
    tensors = load_file(model_dir / WEIGHTS)
    tensors["lm.model.norm.weight"][0] = torch.inf
    save_file(tensors, model_dir / WEIGHTS, metadata={"format": "pt"})
    document = write_document(tmp_path, base_model=model_dir)
    for name in (model_dir, document):
        result = dlm("doctor", "--weights", name)
        assert result.code == 1
        (line,) = result.err.splitlines()
        expected = (
            f"{model_dir / WEIGHTS}: lm.model.norm.weight holds 1 inf and 0 NaN among 32 numbers"
        )
        assert line == expected
    assert dlm("doctor", "--weights", model_dir, "--json").code == 1
    assert dlm("doctor").code == 0, "no weights are read"


def test_unknown_or_missing_models_are_refused(tmp_path: Path) -> None:
    dlm("doctor", "--weights", "sparow").refused("unknown base 'sparow'", "did you mean sparrow")
    dlm("doctor", "--weights", tmp_path / "my.dlm").refused("my.dlm")
    dlm("doctor", "--weights", "voxtral-mini-3b").refused("not on this machine", "hf download")
