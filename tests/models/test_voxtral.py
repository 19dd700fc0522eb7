"""Voxtral has the inputs and logits of transformers' class and processor."""

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
WINDOW_TOKENS = 375  # of a window: every clip takes whole windows


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the true geometry: windows of 30 s."""
    return write_tiny_voxtral(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def spec(checkpoint_dir: Path) -> ModelSpec:
    return replace(find_catalog_spec("voxtral-mini-3b"), source=str(checkpoint_dir))


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> AudioLanguageModel:
    return load_base_model(spec).requires_grad_(False)


@pytest.fixture(scope="module")
def chat_encoder(model: AudioLanguageModel, spec: ModelSpec) -> ChatEncoder:
    return build_chat_encoder(model.tokenizer, spec)


@pytest.fixture(scope="module")
def processor(checkpoint_dir: Path) -> VoxtralProcessor:
    return load_voxtral_processor(checkpoint_dir)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    folder = tmp_path_factory.mktemp("sounds")
    names = enumerate(SECONDS)
    return [
        AudioSegment(write_tone(folder / f"{n}.wav", hertz=200 + n, seconds=seconds))
        for n, seconds in names
    ]


def make_voxtral_batch(
    chat_encoder: ChatEncoder, spec: ModelSpec, examples: list[Example]
) -> Batch:
    padding = PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id)
    return collate(
        [chat_encoder.encode_example(example) for example in examples],
        AudioFeatureExtractor(spec, auto_resample=False),
        padding,
    )


def test_transcription_requests_have_the_logits_of_the_class(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    spec: ModelSpec,
    processor: VoxtralProcessor,
    segments: list[AudioSegment],
) -> None:
    """Two clips in a batch, one of two windows; 1e-5, fp32."""
    waveforms = [soundfile.read(segment.path, dtype="float32")[0] for segment in segments]
    examples = [
        replace(make_example(segment.path, "Bonjour."), language="fr") for segment in segments
    ]
    batch = make_voxtral_batch(chat_encoder, spec, examples)
    inputs = processor.apply_transcription_request(
        audio=waveforms, model_id="x", language="fr", sampling_rate=SAMPLE_RATE, format=["WAV"] * 2
    )
    assert batch.windows_per_example == (1, 2)
    assert (batch.input_ids == chat_encoder.audio_token_id).sum(dim=1).tolist() == [
        WINDOW_TOKENS,
        2 * WINDOW_TOKENS,
    ]
    with torch.no_grad():
        expected = model.whole(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            input_features=inputs["input_features"],
        ).logits
    is_token = batch.attention_mask.bool()
    assert (compute_all_logits(model, batch) - expected)[is_token].abs().max() < 1e-5


def test_conversations_have_the_logits_of_the_class(
    model: AudioLanguageModel,
    chat_encoder: ChatEncoder,
    spec: ModelSpec,
    processor: VoxtralProcessor,
    segments: list[AudioSegment],
) -> None:
    """Two segments in a message, encoded as the processor does; 1e-5, fp32."""
    content_parts = [
        {"type": "audio", "base64": base64.b64encode(segment.path.read_bytes()).decode()}
        for segment in segments
    ]
    messages = [
        {"role": "user", "content": [*content_parts, {"type": "text", "text": "Which is longer?"}]}
    ]
    inputs = processor.apply_chat_template(messages)
    with torch.no_grad():
        expected = model.whole(**inputs).logits
    encoded = chat_encoder.encode_prompt(
        (Message("user", (*segments, "Which is longer?")),), "here"
    )
    batch = collate(
        [encoded],
        AudioFeatureExtractor(spec, auto_resample=False),
        PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id),
    )
    assert torch.equal(batch.input_ids, inputs["input_ids"])
    assert (compute_all_logits(model, batch) - expected).abs().max() < 1e-5


def test_a_recording_is_transcribed_in_whole_windows(
    model: AudioLanguageModel, chat_encoder: ChatEncoder, spec: ModelSpec, tmp_path: Path
) -> None:
    """A window costs the same however little it holds, so it is filled."""
    engine = InferenceEngine(
        model, chat_encoder, AudioFeatureExtractor(spec, auto_resample=False), 16
    )
    path = write_tone(tmp_path / "long.wav", hertz=300, seconds=14)
    (transcript,) = transcribe_files(engine, [path], language="fr")
    assert [(part.start, part.end) for part in transcript.segments] == [(0.0, 14.0)]
    with pytest.raises(DataError, match="'xx' is not a language code"):
        next(transcribe_files(engine, [path], language="xx"))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_lora_on_the_language_model_leaves_the_encoder_frozen(spec: ModelSpec, kind: str) -> None:
    """By the names of the layers alone, half of what learns would lie in the tower."""
    model = load_base_model(spec)
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
    encoder = model.whole.get_submodule("model.audio_tower")
    model.train()
    assert not any(module.training for module in encoder.modules())
