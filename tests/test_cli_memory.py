"""What fits, told and done by the command line: doctor --gpu, qlora, gradient checkpointing."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dlm.config.schema import TrainingConfig
from tests.cli_runner import dlm
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import write_document, write_tiny_model, write_tone

BIG = "qwen2-audio-7b-instruct"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("qwen"))


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_trains_saves_and_answers(qwen: Path, tmp_path: Path, bits: int) -> None:
    training = f"  adapter: qlora\n  bits: {bits}\n  gradient_checkpointing: true\n  held_out: 1\n"
    document = write_document(tmp_path, base_model=qwen, training=training, num_clips=3)
    done = dlm("train", document, "--steps", "2", "--device", "cpu")
    assert done.code == 0, done.err
    told = done.out + done.err
    assert f"the language model in {bits} bits" in told
    assert "with gradient checkpointing, as asked" in told
    assert "bitsandbytes" not in told and "MatMul8bitLt" not in told
    asked = ("prompt", document, "What?", "--audio", write_tone(tmp_path / "a.wav", hertz=300))
    answered = dlm(*asked, "--max-tokens", "3", "--device", "cpu")
    assert answered.code == 0, answered.err
    assert not answered.err
    assert dlm("train", document, "--steps", "2", "--device", "cpu", "--resume").code == 0


@pytest.mark.parametrize("kind", ["native", "stitched"])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_was_learned_over_packed_weights_leaves_the_store(
    qwen: Path, tmp_path: Path, kind: str, bits: int
) -> None:
    base = qwen if kind == "native" else write_tiny_model(tmp_path / "base")
    training = f"  adapter: qlora\n  bits: {bits}\n  held_out: 0\n"
    document = write_document(tmp_path, base_model=base, training=training, num_clips=2)
    assert dlm("train", document, "--steps", "1", "--device", "cpu").code == 0
    done = dlm("export", document, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert dlm("verify", tmp_path / "out").code == 0
    if kind == "stitched":
        other = write_document(tmp_path / "other", base_model=tmp_path / "out", num_clips=2)
        asked = ("What?", "--audio", tmp_path / "clips/0.wav", "--max-tokens", "2")
        answered = dlm("prompt", other, *asked, "--base", "--device", "cpu")
        assert answered.code == 0, answered.err


def test_a_released_model_is_spread(qwen: Path, tmp_path: Path) -> None:
    """Over all there is: here over one CPU."""
    training = "  adapter: lora\n  device_map: auto\n  held_out: 0\n"
    document = write_document(tmp_path, base_model=qwen, training=training, num_clips=2)
    done = dlm("train", document, "--steps", "1")
    assert done.code == 0, done.err
    assert "spread over all of them" in done.out + done.err
    stitched = write_document(
        tmp_path, base_model=write_tiny_model(tmp_path / "base"), training=training
    )
    dlm("train", stitched).refused("training.device_map spreads a released model", "take the field")


def test_doctor_thinks_of_a_card_for_a_document(tmp_path: Path) -> None:
    document = write_document(tmp_path, base_model=BIG, training="  adapter: lora\n", num_clips=3)
    text = document.read_text(encoding="utf-8").replace("  precision: fp32\n", "")
    document.write_text(text, encoding="utf-8")
    done = dlm("doctor", document, "--gpu", "24")
    assert done.code == 0, done.err
    assert "a card of 24 GiB" in done.out
    assert "micro-batch 1 x " in done.out and "with gradient checkpointing, to fit" in done.out
    (line,) = [line for line in done.out.splitlines() if line.startswith(BIG)]
    assert line.split()[1:4] == ["1", "at", "once*,"]
    assert not [line for line in done.out.splitlines() if line.startswith("voxtral")]
    small = dlm("doctor", document, "--gpu", "16")
    assert small.code == 1
    assert "of memory and 15.0 GiB are free; what fits: adapter: qlora" in small.err
    assert any(line.startswith(BIG) for line in small.out.splitlines())


def test_doctor_shows_every_base_for_a_card() -> None:
    done = dlm("doctor", "--gpu", "80")
    assert done.code == 0 and not done.err
    for base in ("sparrow", BIG, "voxtral-small-24b"):
        assert any(line.startswith(f"{base} ") for line in done.out.splitlines())
    shown = json.loads(dlm("doctor", "--gpu", "80", "--json").out)
    assert shown["machine"]["gpus"][0]["memory"] == 80 << 30
    modes = {each["mode"] for each in shown["fits"] if each["model_key"] == BIG}
    assert modes == {"lora", "qlora, 8 bits", "qlora, 4 bits", "full"}
    assert json.loads(dlm("doctor", "--json").out)["fits"] == []


@pytest.mark.parametrize("gib", ["0", "-3"])
def test_a_card_that_cannot_be(gib: str) -> None:
    dlm("doctor", "--gpu", gib).refused(f"--gpu is {gib}", code=2)


def test_the_page_says_what_is_so() -> None:
    """Its table is compared by scripts/docs --check; its settings can be read."""
    page = (Path(__file__).parent.parent / "docs/recipes/memory.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert TrainingConfig(**yaml.safe_load(settings)["training"]).bits == 4
    assert "| `qwen2-audio-7b-instruct` | lora | 17.6 | no | 1\\* | 2 | 4 |" in page


def test_bits_without_qlora_are_refused(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base")
    document = write_document(tmp_path, base_model=base, training="  bits: 4\n", num_clips=3)
    dlm("train", document, "--steps", "1").refused("training.bits is 4", "use adapter: qlora")
    document.write_text(document.read_text().replace("bits: 4", "bits: 5"), encoding="utf-8")
    dlm("check", document).refused("training.bits", "4")
