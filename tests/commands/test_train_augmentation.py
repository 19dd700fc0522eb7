"""`dlm train` with training.audio.augment: printed, trained, resumed, refused."""

import json
from pathlib import Path

import pytest

import dlm as api
from tests.cli_runner import dlm
from tests.composed_models import make_base_model_field, write_composed_document
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import write_document, write_tiny_model, write_tone

AUGMENT = """\
  held_out: 2
  adapter: lora
  lora: {where: [lm, projector]}
  micro_batch_size: 2
  audio:
    augment:
      speed: [0.9, 1.1]
      noise: noises
      room: 0.5
"""


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path) -> Path:
    write_tone(tmp_path / "noises/rain.wav", hertz=2000)
    return write_document(tmp_path, base_model=tiny_model, training=AUGMENT)


def list_hashes(document: Path) -> list[dict[str, str]]:
    return [version["hashes"] for version in json.loads(dlm("versions", document, "--json").out)]


def test_resumed_run_makes_the_same_version(document: Path, home: Path) -> None:
    result = dlm("train", document, "--steps", 4)
    assert result.code == 0, result.err
    output = " ".join(result.out.split())
    expected = "augment speed 0.9 to 1.1, rooms of 0.2 to 0.8 s for 50%, "
    expected += "noise from noises 5 to 20 dB below"
    assert f"{expected} (features not cached: each epoch gets another variant)" in output, (
        result.out
    )
    num_cached = len(list(home.rglob("features/*.safetensors")))
    assert num_cached == 2, "only held-out clips are encoded without augmentation"
    stops = iter([False, True])
    list(api.train(document, steps=4, stop=lambda: next(stops)))
    assert dlm("train", document, "--steps", 4, "--resume").code == 0
    first, second = list_hashes(document)
    assert first == second


def test_changed_noise_is_not_resumed(document: Path) -> None:
    list(api.train(document, steps=4, stop=lambda: True))
    write_tone(document.parent / "noises/rain.wav", hertz=2000, seconds=0.9)
    dlm("train", document, "--steps", 4, "--resume").refused("started from another plan")


def test_feature_shards_need_audio_without_augmentation(document: Path, tmp_path: Path) -> None:
    disabled = "training.audio.augment.share=0"
    result = dlm("shards", document, tmp_path / "out")
    result.refused("changes the clips in every epoch: features are not cached", f"--set {disabled}")
    assert dlm("shards", document, tmp_path / "out", "--set", disabled).code == 0


def test_missing_noise_is_refused_before_weights_load(document: Path) -> None:
    (document.parent / "noises/rain.wav").unlink()
    line = 1 + document.read_text().splitlines().index("      noise: noises")
    expected = f"{document}:{line}: no recordings of noise in noises"
    dlm("train", document).refused(expected)
    assert expected in dlm("check", document).err


def test_clip_that_is_too_long_when_slowed_is_refused(document: Path) -> None:
    """72 tokens as recorded, more at the slowest speed."""
    write_tone(document.parent / "clips/0.wav", hertz=200, seconds=5.8)
    options = ["--set", "training.sequence_len=76", "--set", "training.held_out=0"]
    disabled = ["--set", "training.audio.augment.share=0"]
    words = "its audio takes 81 tokens, and training.sequence_len is 76"
    result = dlm("check", document, *options)
    assert result.code == 1 and words in result.err, result.err
    assert "tokens, and" not in dlm("check", document, *options, *disabled).err


def assert_trains_reproducibly(document: Path, *words: str) -> None:
    """Train twice with a frozen encoder: no step is skipped, both versions are the same."""
    for _ in range(2):
        result = dlm("train", document, "--steps", 2, "--device", "cpu", *words)
        assert result.code == 0, result.err
        assert "features not cached: each epoch gets another variant" in " ".join(
            result.out.split()
        )
        assert "skipped" not in result.err
    first, second = list_hashes(document)
    assert first == second


WAVEFORM_AUGMENTATION = {"speed": [0.8, 1.2], "noise": "synthetic", "codec": ["telephone"]}
MEL_AUGMENTATION = {**WAVEFORM_AUGMENTATION, "mask_time": {}, "mask_frequency": {"bins": 8}}


@pytest.mark.parametrize("encoder", ["wavlm", "wav2vec2-bert"])
def test_waveform_encoders_train_on_augmented_audio(tmp_path: Path, encoder: str) -> None:
    document = write_composed_document(
        tmp_path,
        make_base_model_field(encoder),
        adapter="projector",
        precision="bf16",
        audio={"augment": WAVEFORM_AUGMENTATION},
    )
    assert_trains_reproducibly(document)
    mask = "training.audio.augment.mask_time.count=1"
    dlm("train", document, "--set", mask).refused("mask_time masks a mel, and", "take it out")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("key", ["qwen2-audio-7b-instruct", "voxtral-mini-3b"])
def test_pretrained_models_train_on_augmented_audio(tmp_path: Path, key: str) -> None:
    write_pretrained_twin(key, tmp_path / "base")
    document = write_composed_document(
        tmp_path, "./base", seconds=1.8, adapter="lora", audio={"augment": MEL_AUGMENTATION}
    )
    assert_trains_reproducibly(document)
