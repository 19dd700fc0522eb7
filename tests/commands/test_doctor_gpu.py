"""`dlm doctor --gpu`: what fits a GPU that need not be in the machine."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dlm.config.schema import TrainingConfig
from tests.cli_runner import dlm
from tests.tiny_models import write_document

BIG = "qwen2-audio-7b-instruct"


def test_plan_of_a_document_for_a_gpu(tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=BIG, training="  adapter: lora\n", num_clips=3)
    text = document.read_text(encoding="utf-8").replace("  precision: fp32\n", "")
    document.write_text(text, encoding="utf-8")
    result = dlm("doctor", document, "--gpu", "24")
    assert result.code == 0, result.err
    assert "a card of 24 GiB" in result.out
    assert "micro-batch 1 x " in result.out and "with gradient checkpointing, to fit" in result.out
    (line,) = [line for line in result.out.splitlines() if line.startswith(BIG)]
    assert line.split()[1:4] == ["1", "at", "once*,"]
    assert not [line for line in result.out.splitlines() if line.startswith("voxtral")]
    smaller_gpu = dlm("doctor", document, "--gpu", "16")
    assert smaller_gpu.code == 1
    assert "of memory and 15.0 GiB are free; what fits: adapter: qlora" in smaller_gpu.err
    assert any(line.startswith(BIG) for line in smaller_gpu.out.splitlines())


def test_every_model_is_listed_for_a_gpu() -> None:
    result = dlm("doctor", "--gpu", "80")
    assert result.code == 0 and not result.err
    for base in ("sparrow", BIG, "voxtral-small-24b"):
        assert any(line.startswith(f"{base} ") for line in result.out.splitlines())
    report = json.loads(dlm("doctor", "--gpu", "80", "--json").out)
    assert report["machine"]["gpus"][0]["memory"] == 80 << 30
    modes = {item["mode"] for item in report["fits"] if item["model_key"] == BIG}
    assert modes == {"lora", "qlora, 8 bits", "qlora, 4 bits", "full"}
    assert json.loads(dlm("doctor", "--json").out)["fits"] == []


@pytest.mark.parametrize("gib", ["0", "-3"])
def test_impossible_gpu_is_refused(gib: str) -> None:
    dlm("doctor", "--gpu", gib).refused(f"--gpu is {gib}", error="usage.out_of_range", code=2)


def test_documented_table_and_settings() -> None:
    """The whole table is compared by scripts/docs --check."""
    page = (Path(__file__).parents[2] / "docs/recipes/memory.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert TrainingConfig(**yaml.safe_load(settings)["training"]).bits == 4
    assert "| `qwen2-audio-7b-instruct` | lora | 17.6 | no | 1\\* | 2 | 4 |" in page
