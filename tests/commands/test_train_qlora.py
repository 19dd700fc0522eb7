"""`dlm train` with quantized weights, gradient checkpointing and device_map."""

from pathlib import Path

import pytest

from tests.cli_runner import dlm
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import write_document, write_tiny_model, write_tone

BIG = "qwen2-audio-7b-instruct"


@pytest.fixture(scope="module")
def pretrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("qwen"))


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_trains_saves_and_answers(pretrained_model: Path, tmp_path: Path, bits: int) -> None:
    training = f"  adapter: qlora\n  bits: {bits}\n  gradient_checkpointing: true\n  held_out: 1\n"
    document = write_document(tmp_path, base_model=pretrained_model, training=training, num_clips=3)
    result = dlm("train", document, "--steps", "2", "--device", "cpu")
    assert result.code == 0, result.err
    output = result.out + result.err
    assert f"the language model in {bits} bits" in output
    assert "with gradient checkpointing, as set" in output
    assert "bitsandbytes" not in output and "MatMul8bitLt" not in output
    arguments = ("prompt", document, "What?", "--audio", write_tone(tmp_path / "a.wav", hertz=300))
    answer = dlm(*arguments, "--max-tokens", "3", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert not answer.err
    assert dlm("train", document, "--steps", "2", "--device", "cpu", "--resume").code == 0


@pytest.mark.parametrize("kind", ["native", "stitched"])
@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_version_is_exported(
    pretrained_model: Path, tmp_path: Path, kind: str, bits: int
) -> None:
    model_dir = pretrained_model if kind == "native" else write_tiny_model(tmp_path / "base")
    training = f"  adapter: qlora\n  bits: {bits}\n  held_out: 0\n"
    document = write_document(tmp_path, base_model=model_dir, training=training, num_clips=2)
    assert dlm("train", document, "--steps", "1", "--device", "cpu").code == 0
    result = dlm("export", document, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert dlm("verify", tmp_path / "out").code == 0
    if kind == "stitched":
        export_document = write_document(
            tmp_path / "other", base_model=tmp_path / "out", num_clips=2
        )
        arguments = ("What?", "--audio", tmp_path / "clips/0.wav", "--max-tokens", "2")
        answer = dlm("prompt", export_document, *arguments, "--base", "--device", "cpu")
        assert answer.code == 0, answer.err


def test_device_map_of_a_pretrained_model(pretrained_model: Path, tmp_path: Path) -> None:
    """All devices are one CPU here."""
    training = "  adapter: lora\n  device_map: auto\n  held_out: 0\n"
    document = write_document(tmp_path, base_model=pretrained_model, training=training, num_clips=2)
    result = dlm("train", document, "--steps", "1", "--device", "cpu")
    assert result.code == 0, result.err
    assert "spread over all of them" in result.out + result.err
    composed = write_document(
        tmp_path, base_model=write_tiny_model(tmp_path / "base"), training=training
    )
    dlm("train", composed).refused("take the field", error="plan.device_map_of_composed")


def test_bits_without_qlora_are_refused(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "base")
    document = write_document(tmp_path, base_model=model_dir, training="  bits: 4\n", num_clips=3)
    dlm("train", document, "--steps", "1").refused(
        "training.bits is 4", error="plan.bits_without_qlora"
    )
    document.write_text(document.read_text().replace("bits: 4", "bits: 5"), encoding="utf-8")
    dlm("check", document).refused("training.bits", "4")
