"""Voxtral behind the four questions says what transformers' own class and processor say."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import VoxtralProcessor

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.batching.mistral_chat import build_chat_encoder
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError, PlanError
from dlm.features.extractor import AudioFeatureExtractor
from dlm.inference.engine import InferenceEngine
from dlm.inference.transcribe import transcribe_files
from dlm.models.adapters import apply_adapter, get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.load import load_base_model
from dlm.plan.model_ref import find_catalog_spec
from dlm.plan.model_spec import ModelSpec
from tests.models.batches import compute_all_logits, make_adapter_spec
from tests.tiny_models import SAMPLE_RATE, make_example, write_tone
from tests.tiny_voxtral import load_voxtral_processor, write_tiny_voxtral

SECONDS = (1.5, 30.5)  # within the window, and half a second beyond it
TOKENS = 375  # of a window: every clip takes whole windows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the true geometry: windows of 30 s."""
    return write_tiny_voxtral(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def base(folder: Path) -> ModelSpec:
    return replace(find_catalog_spec("voxtral-mini-3b"), source=str(folder))


@pytest.fixture(scope="module")
def model(base: ModelSpec) -> AudioLanguageModel:
    return load_base_model(base).requires_grad_(False)


@pytest.fixture(scope="module")
def chat(model: AudioLanguageModel, base: ModelSpec) -> ChatEncoder:
    return build_chat_encoder(model.tokenizer, base)


@pytest.fixture(scope="module")
def processor(folder: Path) -> VoxtralProcessor:
    return load_voxtral_processor(folder)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    place = tmp_path_factory.mktemp("sounds")
    names = enumerate(SECONDS)
    return [
        AudioSegment(write_tone(place / f"{n}.wav", hertz=200 + n, seconds=long))
        for n, long in names
    ]


def batch_of(chat: ChatEncoder, base: ModelSpec, clips: list[Example]) -> Batch:
    padding = PaddingSpec(chat.pad_token_id, chat.audio_token_id)
    return collate(
        [chat.encode_example(clip) for clip in clips],
        AudioFeatureExtractor(base, auto_resample=False),
        padding,
    )


def test_a_request_equals_the_class_s_own_forward(
    model: AudioLanguageModel,
    chat: ChatEncoder,
    base: ModelSpec,
    processor: VoxtralProcessor,
    sounds: list[AudioSegment],
) -> None:
    """Two clips in a batch, one of two windows; 1e-5, fp32."""
    waves = [soundfile.read(sound.path, dtype="float32")[0] for sound in sounds]
    clips = [replace(make_example(sound.path, "Bonjour."), language="fr") for sound in sounds]
    batch = batch_of(chat, base, clips)
    heard = processor.apply_transcription_request(
        audio=waves, model_id="x", language="fr", sampling_rate=SAMPLE_RATE, format=["WAV"] * 2
    )
    assert batch.windows_per_example == (1, 2)
    assert (batch.input_ids == chat.audio_token_id).sum(dim=1).tolist() == [TOKENS, 2 * TOKENS]
    with torch.no_grad():
        expected = model.whole(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            input_features=heard["input_features"],
        ).logits
    told = batch.attention_mask.bool()
    assert (compute_all_logits(model, batch) - expected)[told].abs().max() < 1e-5


def test_a_conversation_equals_the_class_s_own_forward(
    model: AudioLanguageModel,
    chat: ChatEncoder,
    base: ModelSpec,
    processor: VoxtralProcessor,
    sounds: list[AudioSegment],
) -> None:
    """Two sounds in a turn, asked as the processor asks; 1e-5, fp32."""
    parts = [
        {"type": "audio", "base64": base64.b64encode(sound.path.read_bytes()).decode()}
        for sound in sounds
    ]
    asked = [{"role": "user", "content": [*parts, {"type": "text", "text": "Which is longer?"}]}]
    heard = processor.apply_chat_template(asked)
    with torch.no_grad():
        expected = model.whole(**heard).logits
    row = chat.encode_prompt((Message("user", (*sounds, "Which is longer?")),), "here")
    batch = collate(
        [row],
        AudioFeatureExtractor(base, auto_resample=False),
        PaddingSpec(chat.pad_token_id, chat.audio_token_id),
    )
    assert torch.equal(batch.input_ids, heard["input_ids"])
    assert (compute_all_logits(model, batch) - expected).abs().max() < 1e-5


def test_a_recording_is_transcribed_by_whole_windows(
    model: AudioLanguageModel, chat: ChatEncoder, base: ModelSpec, tmp_path: Path
) -> None:
    """A window costs the same however little it holds, so it is filled."""
    using = InferenceEngine(model, chat, AudioFeatureExtractor(base, auto_resample=False), 16)
    path = write_tone(tmp_path / "long.wav", hertz=300, seconds=14)
    (found,) = transcribe_files(using, [path], language="fr")
    assert [(each.start, each.end) for each in found.segments] == [(0.0, 14.0)]
    with pytest.raises(DataError, match="'xx' is not a language code"):
        next(transcribe_files(using, [path], language="xx"))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_tower_is_frozen_after_wrapping(base: ModelSpec, kind: str) -> None:
    """By the names of the layers alone, half of what learns would lie in the tower."""
    model = load_base_model(base)
    targets = ("q_proj", "k_proj", "v_proj", "out_proj", "o_proj")
    with pytest.raises(PlanError, match="out_proj"):  # a layer that only the tower has
        apply_adapter(model, make_adapter_spec(kind, "lm", targets=targets), seed=0)
    apply_adapter(
        model,
        make_adapter_spec(kind, "lm", targets=("q_proj", "k_proj", "v_proj", "o_proj")),
        seed=0,
    )
    names = get_trainable_parameters(model)
    assert len(names) == 2 * 4 * (3 if kind == "dora" else 2)  # two layers of four, A and B
    assert all(name.startswith("whole.model.language_model.") for name in names)
    tower = model.whole.get_submodule("model.audio_tower")
    model.train()
    assert not any(module.training for module in tower.modules())
