"""`dlm doctor`: the machine, and what a document needs of it."""

import json
import re
from pathlib import Path

import pytest

from tests.cli_runner import dlm, parse_rows
from tests.tiny_models import write_document, write_tiny_model


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def test_the_machine_is_described() -> None:
    done = dlm("doctor")
    assert (done.code, done.err) == (0, "")
    rows = parse_rows(done.out)
    assert list(rows) == "cpu,gpu,memory,disk,decoder,resampler,hub cache".split(",")
    assert re.fullmatch(r"\d+ cores, bf16 (fast, by AMX|fast, by AVX-512|slow here)", rows["cpu"])
    assert re.fullmatch(r"[\d.]+ of [\d.]+ GiB free", rows["memory"])
    assert rows["decoder"].startswith("libsndfile ")
    assert rows["resampler"].startswith(("soxr ", "scipy ", "none"))
    assert json.loads(dlm("doctor", "--json").out)["machine"]["cores"] >= 1


def test_the_plan_of_a_document_is_described(tiny_model: Path) -> None:
    document = write_document(Path(), base_model=tiny_model)
    done = dlm("doctor", document)
    assert (done.code, done.err) == (0, "")
    assert "tiny, 60,320 parameters" in done.out
    assert re.search(r"memory +about \d+ MiB \(\d+ MiB stay, \d+ MiB learn, \d+ MiB for", done.out)
    Path("clips/1.wav").unlink()
    done = dlm("doctor", document)
    assert done.code == 1
    assert done.err.startswith("my.dlm:11: audio not found: clips/1.wav")


def test_a_plan_that_does_not_fit_names_what_would(tmp_path: Path) -> None:
    document = write_document(Path(), base_model="qwen2-audio-7b-instruct")
    text = document.read_text().replace("precision: fp32", "adapter: full")
    document.write_text(text)
    done = dlm("doctor", document, "--gpu", 24)
    assert done.code == 1
    assert "training needs about" in done.err and "what fits: adapter: lora (" in done.err
