"""`training.audio.augment` as a user meets it: said in the plan, learned with, gone on with."""

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
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path) -> Path:
    write_tone(tmp_path / "noises/rain.wav", hertz=2000)
    return write_document(tmp_path, base_model=tiny, training=AUGMENT)


def hashes(document: Path) -> list[dict[str, str]]:
    return [version["hashes"] for version in json.loads(dlm("versions", document, "--json").out)]


def test_a_run_goes_on_to_the_same_bits(document: Path, home: Path) -> None:
    done = dlm("train", document, "--steps", 4)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    told = "augment speed 0.9 to 1.1, rooms of 0.2 to 0.8 s for 50%, "
    told += "noise from noises 5 to 20 dB below"
    assert f"{told} (features not cached: each epoch gets another variant)" in said, done.out
    kept = len(list(home.rglob("features/*.safetensors")))
    assert kept == 2, "only what is held out is heard as it is"
    stops = iter([False, True])
    list(api.train(document, steps=4, stop=lambda: next(stops)))
    assert dlm("train", document, "--steps", 4, "--resume").code == 0
    one, other = hashes(document)
    assert one == other


def test_other_noise_is_another_run(document: Path) -> None:
    list(api.train(document, steps=4, stop=lambda: True))
    write_tone(document.parent / "noises/rain.wav", hertz=2000, seconds=0.9)
    dlm("train", document, "--steps", 4, "--resume").refused("started from another plan")


def test_shards_are_of_clips_as_they_are(document: Path, tmp_path: Path) -> None:
    asked = "training.audio.augment.share=0"
    done = dlm("shards", document, tmp_path / "out")
    done.refused("changes its clips in every pass: no features stay", f"--set {asked}")
    assert dlm("shards", document, tmp_path / "out", "--set", asked).code == 0


def test_what_cannot_be_is_told_before_anything_is_loaded(document: Path) -> None:
    (document.parent / "noises/rain.wav").unlink()
    line = 1 + document.read_text().splitlines().index("      noise: noises")
    told = f"{document}:{line}: no recordings of noise in noises"
    dlm("train", document).refused(told)
    assert told in dlm("check", document).err


def test_a_clip_too_long_when_slowed_is_told(document: Path) -> None:
    """72 tokens as it was recorded, a few more when it is played slowly."""
    write_tone(document.parent / "clips/0.wav", hertz=200, seconds=5.8)
    base = ["--set", "training.sequence_len=76", "--set", "training.held_out=0"]
    off = ["--set", "training.audio.augment.share=0"]
    words = "its audio takes 81 tokens, and training.sequence_len is 76"
    done = dlm("check", document, *base)
    assert done.code == 1 and words in done.err, done.err
    assert "tokens, and" not in dlm("check", document, *base, *off).err


def assert_learns(document: Path, *words: str) -> None:
    """Twice, with the encoder frozen: finite losses, and the same bits."""
    for _ in range(2):
        done = dlm("train", document, "--steps", 2, "--device", "cpu", *words)
        assert done.code == 0, done.err
        assert "features not cached: each epoch gets another variant" in " ".join(done.out.split())
        assert "skipped" not in done.err
    one, other = hashes(document)
    assert one == other


WAVES = {"speed": [0.8, 1.2], "noise": "synthetic", "codec": ["telephone"]}
MELS = {**WAVES, "mask_time": {}, "mask_frequency": {"bins": 8}}


@pytest.mark.parametrize("ear", ["wavlm", "wav2vec2-bert"])
def test_a_wave_is_changed_as_well(tmp_path: Path, ear: str) -> None:
    document = write_composed_document(
        tmp_path,
        make_base_model_field(ear),
        adapter="projector",
        precision="bf16",
        audio={"augment": WAVES},
    )
    assert_learns(document)
    mask = "training.audio.augment.mask_time.count=1"
    dlm("train", document, "--set", mask).refused("mask_time masks a mel, and", "take it out")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("key", ["qwen2-audio-7b-instruct", "voxtral-mini-3b"])
def test_a_released_base_hears_every_version(tmp_path: Path, key: str) -> None:
    write_pretrained_twin(key, tmp_path / "base")
    document = write_composed_document(
        tmp_path, "./base", seconds=1.8, adapter="lora", audio={"augment": MELS}
    )
    assert_learns(document)
