"""Qwen2-Audio behind the four questions says what transformers' own class says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    WhisperFeatureExtractor,
)

from dlm.batches.chat import Chat
from dlm.batches.collate import Padding, collate
from dlm.clips.clip import Clip, Sound, Turn
from dlm.errors import BaseError
from dlm.features.ear import Ear
from dlm.model.adapters import adapt, learning
from dlm.model.native import load_native
from dlm.plan.bases import Base
from dlm.plan.plan import Adapter
from dlm.plan.resolve import find
from tests.tiny import CHATML, tiny_tokenizer

SAMPLES = (16_037, 9_000, 31_999)  # odd remainders of every stride


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the real class."""
    place = tmp_path_factory.mktemp("qwen2-audio")
    tokenizer = tiny_tokenizer(("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"))
    tokenizer.chat_template = CHATML
    ear = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    lm = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", "num_mel_bins": 128, **ear},
        text_config={"model_type": "qwen2", **lm, **heads},
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    Qwen2AudioForConditionalGeneration(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    """The catalogue's row, for the small checkpoint."""
    return replace(find("qwen2-audio-7b-instruct"), source=str(folder))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Sound]:
    """Noise of three lengths."""
    place = tmp_path_factory.mktemp("sounds")
    chance = np.random.default_rng(0)
    for number, length in enumerate(SAMPLES):
        soundfile.write(place / f"{number}.wav", chance.normal(0, 0.1, length), 16_000, "FLOAT")
    return [Sound(place / f"{number}.wav") for number in range(len(SAMPLES))]


def test_logits_equal_the_class_s_own_forward(
    folder: Path, base: Base, sounds: list[Sound]
) -> None:
    """Three sounds in one row; 1e-5, fp32."""
    model = load_native(folder, base, dtype=torch.float32)
    chat = Chat(model.tokenizer, base)
    clip = Clip((Turn("user", (*sounds, "?")), Turn("assistant", ("yes",))), "a", "answer")
    padding = Padding(chat.pad, chat.placeholder)
    batch = collate([chat.row(clip)], Ear(base, auto_resample=False), padding)

    waves = [soundfile.read(sound.path, dtype="float32")[0] for sound in sounds]
    extract = WhisperFeatureExtractor(feature_size=128)
    heard = extract(waves, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.whole(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            input_features=heard.input_features,
            feature_attention_mask=heard.attention_mask,
        ).logits
        found = model.speak(model.think(model.merge(batch), batch.attention))
    assert (found - expected).abs().max() < 1e-5


def test_lora_sits_on_the_language_model_alone(folder: Path, base: Base) -> None:
    """Where the original also changed the encoder without saying so."""
    model = load_native(folder, base, dtype=torch.bfloat16)
    adapt(model, Adapter("lora", 8, 16, 0.0, ("lm",), None), seed=0)
    names = learning(model)
    assert names
    assert all(name.startswith("whole.model.language_model.") for name in names)
    assert all(each.dtype == torch.float32 for each in names.values())


def test_a_missing_tensor_is_named(folder: Path, base: Base, tmp_path: Path) -> None:
    """Never silently random."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[sorted(tensors)[0]]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseError, match="missing_keys"):
        load_native(tmp_path, base, dtype=torch.float32)
