"""Voxtral behind the four questions says what transformers' own class and processor say."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from transformers import VoxtralProcessor

from dlm.batches.chat import Chat
from dlm.batches.collate import Batch, Padding, collate
from dlm.batches.forms import chat_of
from dlm.clips.clip import Clip, Sound, Turn
from dlm.errors import ClipError, PlanError
from dlm.features.ear import Ear
from dlm.model.adapters import adapt, learning
from dlm.model.face import Model
from dlm.model.load import load_base
from dlm.plan.bases import Base
from dlm.plan.resolve import find
from dlm.use.ready import Ready
from dlm.use.transcribe import transcribe
from tests.model.twin import adapter, logits_of
from tests.tiny import RATE, spoken, tone
from tests.voxtral import build_voxtral, processor_of

SECONDS = (1.5, 30.5)  # within the window, and half a second beyond it
TOKENS = 375  # of a window: every clip takes whole windows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the true geometry: windows of 30 s."""
    return build_voxtral(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return replace(find("voxtral-mini-3b"), source=str(folder))


@pytest.fixture(scope="module")
def model(base: Base) -> Model:
    return load_base(base).requires_grad_(False)


@pytest.fixture(scope="module")
def chat(model: Model, base: Base) -> Chat:
    return chat_of(model.tokenizer, base)


@pytest.fixture(scope="module")
def processor(folder: Path) -> VoxtralProcessor:
    return processor_of(folder)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Sound]:
    place = tmp_path_factory.mktemp("sounds")
    names = enumerate(SECONDS)
    return [Sound(tone(place / f"{n}.wav", hertz=200 + n, seconds=long)) for n, long in names]


def batch_of(chat: Chat, base: Base, clips: list[Clip]) -> Batch:
    padding = Padding(chat.pad, chat.placeholder)
    return collate([chat.row(clip) for clip in clips], Ear(base, auto_resample=False), padding)


def test_a_request_equals_the_class_s_own_forward(
    model: Model, chat: Chat, base: Base, processor: VoxtralProcessor, sounds: list[Sound]
) -> None:
    """Two clips in a batch, one of two windows; 1e-5, fp32."""
    waves = [soundfile.read(sound.path, dtype="float32")[0] for sound in sounds]
    clips = [replace(spoken(sound.path, "Bonjour."), language="fr") for sound in sounds]
    batch = batch_of(chat, base, clips)
    heard = processor.apply_transcription_request(
        audio=waves, model_id="x", language="fr", sampling_rate=RATE, format=["WAV"] * 2
    )
    assert batch.windows_per_row == (1, 2)
    assert (batch.ids == chat.placeholder).sum(dim=1).tolist() == [TOKENS, 2 * TOKENS]
    with torch.no_grad():
        expected = model.whole(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            input_features=heard["input_features"],
        ).logits
    told = batch.attention.bool()
    assert (logits_of(model, batch) - expected)[told].abs().max() < 1e-5


def test_a_conversation_equals_the_class_s_own_forward(
    model: Model, chat: Chat, base: Base, processor: VoxtralProcessor, sounds: list[Sound]
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
    row = chat.question((Turn("user", (*sounds, "Which is longer?")),), "here")
    batch = collate([row], Ear(base, auto_resample=False), Padding(chat.pad, chat.placeholder))
    assert torch.equal(batch.ids, heard["input_ids"])
    assert (logits_of(model, batch) - expected).abs().max() < 1e-5


def test_a_recording_is_transcribed_by_whole_windows(
    model: Model, chat: Chat, base: Base, tmp_path: Path
) -> None:
    """A window costs the same however little it holds, so it is filled."""
    using = Ready(model, chat, Ear(base, auto_resample=False), 16)
    path = tone(tmp_path / "long.wav", hertz=300, seconds=14)
    (found,) = transcribe(using, [path], language="fr")
    assert [(each.start, each.end) for each in found.segments] == [(0.0, 14.0)]
    with pytest.raises(ClipError, match="'xx' is not a language code"):
        next(transcribe(using, [path], language="xx"))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_tower_is_frozen_after_wrapping(base: Base, kind: str) -> None:
    """By the names of the layers alone, half of what learns would lie in the tower."""
    model = load_base(base)
    targets = ("q_proj", "k_proj", "v_proj", "out_proj", "o_proj")
    with pytest.raises(PlanError, match="out_proj"):  # a layer that only the tower has
        adapt(model, adapter(kind, "lm", targets=targets), seed=0)
    adapt(model, adapter(kind, "lm", targets=("q_proj", "k_proj", "v_proj", "o_proj")), seed=0)
    names = learning(model)
    assert len(names) == 2 * 4 * (3 if kind == "dora" else 2)  # two layers of four, A and B
    assert all(name.startswith("whole.model.language_model.") for name in names)
    tower = model.whole.get_submodule("model.audio_tower")
    model.train()
    assert not any(module.training for module in tower.modules())
