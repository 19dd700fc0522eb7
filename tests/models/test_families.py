"""Every native class behind the four questions says what the class's own forward says.

Its own forward is fed by its own feature extractor; fp32. Largest differences seen: 5e-7 in the
logits, of size 1, and 2e-7 in gradients of size 0.5.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import AudioSegment, Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.adapters import apply_adapter, get_trainable_parameters
from dlm.models.generate import GenerationConfig, generate
from dlm.models.pretrained import PretrainedAudioLM, load_pretrained_audio_lm
from dlm.plan.types import AdapterSpec
from dlm.training.loss import AudioLMLoss
from tests.pretrained_twins import (
    VOXTRAL_WINDOW_SECONDS,
    extract_reference_inputs,
    make_twin_spec,
    write_pretrained_twin,
)
from tests.tiny_models import SAMPLE_RATE

CLOSE = 1e-5
KEYS = [
    "qwen2-audio-7b-instruct",
    "voxtral-mini-3b",
    "audio-flamingo-3",
    "glm-asr-nano",
    "qwen3-asr-1.7b",
    "qwen2.5-omni-7b",
    "qwen3-omni-30b-a3b",
]
SAMPLES = (16_037, 9_000, 31_999, 3_000, 24_160)  # odd remainders of every stride
ROWS = ((0, 1, 2), (3,), (4, 0))  # sounds of each row of a batch
WINDOW = {"qwen3-asr-1.7b": 8 * SAMPLE_RATE, "qwen3-omni-30b-a3b": 8 * SAMPLE_RATE}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    return cache(lambda key: write_pretrained_twin(key, tmp_path_factory.mktemp(key)))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    """Noise of five lengths."""
    place, chance = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    paths = [place / f"{number}.wav" for number in range(len(SAMPLES))]
    for path, length in zip(paths, SAMPLES, strict=True):
        soundfile.write(path, chance.normal(0, 0.1, length), SAMPLE_RATE, "FLOAT")
    return [AudioSegment(path) for path in paths]


def loaded(key: str, folder: Path, **strides: int) -> PretrainedAudioLM:
    """The model, with a short window where its class has no fixed one: to be quick."""
    short = {
        "qwen2.5-omni-7b": 4 * SAMPLE_RATE,
        "glm-asr-nano": 4 * SAMPLE_RATE,
        "voxtral-mini-3b": VOXTRAL_WINDOW_SECONDS * SAMPLE_RATE,
    }
    window = {"window_samples": short[key]} if key in short else {}
    return load_pretrained_audio_lm(
        folder, make_twin_spec(key, folder, **{**window, **strides}), dtype=torch.float32
    )


def clip_of(key: str, sounds: list[AudioSegment]) -> Example:
    """Sounds with words between them, where the form has a place for words."""
    asked = [each for sound in sounds for each in (sound, "and")][:-1]
    turn = Message("user", tuple(sounds if key == "qwen3-asr-1.7b" else asked))
    return Example((turn, Message("assistant", ("yes",))), "clip", "answer")


def batch_of(
    model: PretrainedAudioLM,
    clips: list[Example],
    *,
    pad_left: bool = False,
    ear: AudioFeatureExtractor | None = None,
) -> Batch:
    chat = build_chat_encoder(model.tokenizer, model.spec)
    rows = [chat.encode_example(clip) for clip in clips]
    ear = ear or AudioFeatureExtractor(model.spec, auto_resample=False)
    return collate(
        rows, ear, PaddingSpec(chat.pad_token_id, chat.audio_token_id, pad_left=pad_left)
    )


@torch.no_grad()
def found(model: PretrainedAudioLM, batch: Batch) -> torch.Tensor:
    """Logits where there is text or sound."""
    logits = model.compute_logits(
        model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    )
    return logits[batch.attention_mask.bool()]


def own(model: PretrainedAudioLM, batch: Batch, clips: list[Example]) -> dict[str, torch.Tensor]:
    """What the class's own forward is given for a batch."""
    size = model.spec.audio_spec.window_samples
    waves = [
        soundfile.read(each.path, dtype="float32")[0]
        for clip in clips
        for each in clip.audio_segments
    ]
    if model.spec.family != "voxtral":
        waves = [wave[at : at + size] for wave in waves for at in range(0, len(wave), size)]
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        **extract_reference_inputs(model.spec, waves),
    }


@torch.no_grad()
def expected(model: PretrainedAudioLM, batch: Batch, clips: list[Example]) -> torch.Tensor:
    return model.whole(**own(model, batch, clips)).logits[batch.attention_mask.bool()]


@pytest.mark.parametrize("key", KEYS)
def test_logits_equal_the_class_s_own(key: str, folders, sounds) -> None:
    """Rows of one to three sounds, padded on either side; each alone says what it says in them."""
    model = loaded(key, folders(key))
    clips = [clip_of(key, [sounds[at] for at in each]) for each in ROWS]
    batch = batch_of(model, clips)
    together = found(model, batch)
    assert together.std() > 0.1
    assert (together - expected(model, batch, clips)).abs().max() < CLOSE
    other = batch_of(model, clips, pad_left=True)
    assert (found(model, other) - expected(model, other, clips)).abs().max() < CLOSE
    alone = torch.cat([found(model, batch_of(model, [clip])) for clip in clips])
    assert (together - alone).abs().max() < CLOSE


@pytest.mark.parametrize("key", KEYS)
def test_a_sound_beyond_the_window_is_heard_in_windows(key: str, folders, tmp_path: Path) -> None:
    """At the class's own window of 30 s, or at a smaller one where the class has none so short."""
    strides = {"window_samples": WINDOW[key]} if key in WINDOW else {}
    model = loaded(key, folders(key), **strides)
    length = model.spec.audio_spec.window_samples + 5_007
    noise = np.random.default_rng(1).normal(0, 0.1, length)
    soundfile.write(tmp_path / "long.wav", noise, SAMPLE_RATE, "FLOAT")
    clips = [clip_of(key, [AudioSegment(tmp_path / "long.wav")])]
    batch = batch_of(model, clips)
    assert batch.windows_per_example == (2,)
    if (
        model.spec.audio_spec.reflect_right
    ):  # attention ends where the window does: cut or not, it is the same
        whole = loaded(key, folders(key))
        want = expected(whole, batch_of(whole, clips), clips)
    else:
        want = expected(model, batch, clips)
    assert (found(model, batch) - want).abs().max() < CLOSE


@pytest.mark.parametrize("key", KEYS)
def test_gradients_equal_the_class_s_own(key: str, folders, sounds) -> None:
    """LoRA on the language model and the encoder, and the projector, for one row's own loss."""
    model = loaded(key, folders(key))
    apply_adapter(
        model, AdapterSpec("lora", 4, 8, 0.0, ("lm", "projector", "encoder"), None), seed=0
    )
    for name, each in get_trainable_parameters(model).items():
        if ".lora_B" in name:  # zero at first, which would hide lora_A
            torch.nn.init.normal_(each, std=0.02)
    clips = [clip_of(key, [sounds[0], sounds[3]])]
    batch = batch_of(model, clips)
    mine = gradients(model, AudioLMLoss(model)(batch).total_loss.sum() / batch.num_label_tokens)
    loss = model.whole(**own(model, batch, clips), labels=batch.labels).loss
    theirs = gradients(model, loss)
    assert mine.keys() == theirs.keys()
    for name, each in mine.items():
        assert (each - theirs[name]).abs().max() < CLOSE, name
    for part in ("encoder", "projector", "lm"):
        assert any(
            name.startswith(model.param_prefixes[part]) and each.abs().max() > 1e-6
            for name, each in mine.items()
        )


def gradients(model: PretrainedAudioLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: each.grad.clone()
        for name, each in get_trainable_parameters(model).items()
        if each.grad is not None
    }


@pytest.mark.parametrize("key", KEYS)
def test_what_the_frozen_encoder_heard_is_kept(key: str, folders, sounds, tmp_path: Path) -> None:
    """In memory, on disk and heard afresh, the logits are the same.

    So are the answers of a batch, of each question alone, and of the class's own generate.
    """
    model = loaded(key, folders(key)).requires_grad_(False)
    clips = [clip_of(key, [sounds[at] for at in each]) for each in ROWS]
    fresh = found(model, batch_of(model, clips))
    for _ in range(2):
        ear = AudioFeatureExtractor(
            model.spec, auto_resample=False, encode_fn=model.encode_single, cache_dir=tmp_path
        )
        assert (found(model, batch_of(model, clips, ear=ear)) - fresh).abs().max() < CLOSE
    chat = build_chat_encoder(model.tokenizer, model.spec)
    asked = [chat.encode_prompt(clip.messages[:1], "here") for clip in clips]
    how = GenerationConfig(max_new_tokens=8)
    singly = [generate(model, chat, [each], ear, how)[0] for each in asked]
    assert any(singly)
    assert generate(model, chat, asked, ear, how) == singly
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    batch = collate(asked[:1], AudioFeatureExtractor(model.spec, auto_resample=False), padding)
    ends = {
        "eos_token_id": [chat.eos_token_id, *model.eos_token_ids],
        "pad_token_id": chat.pad_token_id,
    }
    spoken = model.whole.generate(
        **own(model, batch, clips[:1]), **ends, max_new_tokens=8, do_sample=False
    )
    assert chat.decode(spoken[0, batch.input_ids.shape[1] :].tolist()).strip() == singly[0]


@pytest.mark.parametrize("key", KEYS)
def test_lora_sits_where_it_is_asked_to(key: str, folders) -> None:
    """Nothing of the encoder learns with the language model, in any class."""
    model = loaded(key, folders(key))
    apply_adapter(model, AdapterSpec("lora", 4, 8, 0.0, ("lm",), None), seed=0)
    names = get_trainable_parameters(model)
    assert names and all(name.startswith(model.param_prefixes["lm"]) for name in names)
    other = loaded(key, folders(key))
    apply_adapter(other, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None), seed=0)
    names = get_trainable_parameters(other)
    assert names and all(name.startswith(other.param_prefixes["projector"]) for name in names)
