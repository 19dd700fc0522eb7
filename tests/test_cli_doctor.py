"""`dlm doctor --weights`: a base's tensors by format, and each fault in a line."""

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


def test_a_base_that_is_whole(home: Path) -> None:
    done = dlm("doctor", "--weights", "sparrow")
    assert done.code == 0 and not done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("sparrow:")]
    assert "every number of" in line and "finite" in line
    told = json.loads(dlm("doctor", "--weights", "sparrow", "--json").out)["weights"]
    assert {each["component"] for each in told["dtype_counts"]} == {"encoder", "projector", "lm"}
    size = sum(each["size_bytes"] for each in told["dtype_counts"])
    assert 5e6 < size < 10e6 and told["non_finite_tensors"] == []


@pytest.mark.parametrize("is_installed", [True, False])
def test_it_names_the_decoders(monkeypatch: pytest.MonkeyPatch, request, is_installed) -> None:
    request.addfinalizer(is_pyav_installed.cache_clear)
    is_pyav_installed.cache_clear()
    if not is_installed:
        monkeypatch.setitem(sys.modules, "av", None)
    lines = dlm("doctor").out.splitlines()
    (decoder,) = [line.split(maxsplit=1)[1] for line in lines if line.startswith("decoder")]
    assert decoder.startswith(f"libsndfile {soundfile.__libsndfile_version__}")
    assert (
        ", PyAV " if is_installed else "; m4a, webm, video: pip install 'dlm[audio]'"
    ) in decoder


def test_a_planted_infinity_is_named_by_file_and_tensor(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "tiny")
    tensors = load_file(base / WEIGHTS)
    tensors["lm.model.norm.weight"][0] = torch.inf
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    document = write_document(tmp_path, base_model=base)
    for name in (base, document):
        done = dlm("doctor", "--weights", name)
        assert done.code == 1
        (line,) = done.err.splitlines()
        where = f"{base / WEIGHTS}: lm.model.norm.weight holds 1 inf and 0 NaN among 32 numbers"
        assert line == where
    assert dlm("doctor", "--weights", base, "--json").code == 1
    assert dlm("doctor").code == 0, "the weights of nothing are asked for"


def test_mistakes(tmp_path: Path) -> None:
    dlm("doctor", "--weights", "sparow").refused("unknown base 'sparow'", "did you mean sparrow")
    dlm("doctor", "--weights", tmp_path / "my.dlm").refused("my.dlm")
    dlm("doctor", "--weights", "voxtral-mini-3b").refused("not on this machine", "hf download")
