"""Every pretrained family has the logits, gradients and answers of transformers' class.

The class is fed by its own feature extractor; fp32. Largest differences seen: 5e-7 in the
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

TOLERANCE = 1e-5
KEYS = [
    "qwen2-audio-7b-instruct",
    "voxtral-mini-3b",
    "audio-flamingo-3",
    "glm-asr-nano",
    "qwen3-asr-1.7b",
    "qwen2.5-omni-7b",
    "qwen3-omni-30b-a3b",
]
NUM_SAMPLES = (16_037, 9_000, 31_999, 3_000, 24_160)  # odd remainders of every stride
SEGMENTS_OF_EXAMPLES = ((0, 1, 2), (3,), (4, 0))  # segments of each example of a batch
WINDOW_SAMPLES = {"qwen3-asr-1.7b": 8 * SAMPLE_RATE, "qwen3-omni-30b-a3b": 8 * SAMPLE_RATE}


@pytest.fixture(scope="module")
def checkpoint_dirs(tmp_path_factory: pytest.TempPathFactory):
    return cache(lambda key: write_pretrained_twin(key, tmp_path_factory.mktemp(key)))


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[AudioSegment]:
    """Noise of five lengths."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    paths = [folder / f"{number}.wav" for number in range(len(NUM_SAMPLES))]
    for path, length in zip(paths, NUM_SAMPLES, strict=True):
        soundfile.write(path, rng.normal(0, 0.1, length), SAMPLE_RATE, "FLOAT")
    return [AudioSegment(path) for path in paths]


def load_twin(key: str, folder: Path, **strides: int) -> PretrainedAudioLM:
    """The model, with a short window where its class has no fixed one: to be quick."""
    short_windows = {
        "qwen2.5-omni-7b": 4 * SAMPLE_RATE,
        "glm-asr-nano": 4 * SAMPLE_RATE,
        "voxtral-mini-3b": VOXTRAL_WINDOW_SECONDS * SAMPLE_RATE,
    }
    window = {"window_samples": short_windows[key]} if key in short_windows else {}
    return load_pretrained_audio_lm(
        folder, make_twin_spec(key, folder, **{**window, **strides}), dtype=torch.float32
    )


def make_conversation(key: str, segments: list[AudioSegment]) -> Example:
    """Sounds with words between them, where the form has a place for words."""
    prompts = [item for segment in segments for item in (segment, "and")][:-1]
    message = Message("user", tuple(segments if key == "qwen3-asr-1.7b" else prompts))
    return Example((message, Message("assistant", ("yes",))), "clip", "answer")


def make_family_batch(
    model: PretrainedAudioLM,
    examples: list[Example],
    *,
    pad_left: bool = False,
    extractor: AudioFeatureExtractor | None = None,
) -> Batch:
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    encoded_examples = [chat_encoder.encode_example(example) for example in examples]
    extractor = extractor or AudioFeatureExtractor(model.spec, auto_resample=False)
    return collate(
        encoded_examples,
        extractor,
        PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id, pad_left=pad_left),
    )


@torch.no_grad()
def compute_logits(model: PretrainedAudioLM, batch: Batch) -> torch.Tensor:
    """Logits where there is text or audio."""
    logits = model.compute_logits(
        model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    )
    return logits[batch.attention_mask.bool()]


def make_reference_inputs(
    model: PretrainedAudioLM, batch: Batch, examples: list[Example]
) -> dict[str, torch.Tensor]:
    """What the class's own forward is given for a batch."""
    size = model.spec.audio_spec.window_samples
    waves = [
        soundfile.read(item.path, dtype="float32")[0]
        for example in examples
        for item in example.audio_segments
    ]
    if model.spec.family != "voxtral":
        waves = [
            wave[index : index + size] for wave in waves for index in range(0, len(wave), size)
        ]
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        **extract_reference_inputs(model.spec, waves),
    }


@torch.no_grad()
def compute_reference_logits(
    model: PretrainedAudioLM, batch: Batch, examples: list[Example]
) -> torch.Tensor:
    return model.whole(**make_reference_inputs(model, batch, examples)).logits[
        batch.attention_mask.bool()
    ]


@pytest.mark.parametrize("key", KEYS)
def test_logits_equal_those_of_the_class(key: str, checkpoint_dirs, segments) -> None:
    """Examples of one to three segments, padded on either side; each alone has the same logits."""
    model = load_twin(key, checkpoint_dirs(key))
    examples = [
        make_conversation(key, [segments[index] for index in item]) for item in SEGMENTS_OF_EXAMPLES
    ]
    batch = make_family_batch(model, examples)
    logits = compute_logits(model, batch)
    assert logits.std() > 0.1
    assert (logits - compute_reference_logits(model, batch, examples)).abs().max() < TOLERANCE
    other = make_family_batch(model, examples, pad_left=True)
    assert (
        compute_logits(model, other) - compute_reference_logits(model, other, examples)
    ).abs().max() < TOLERANCE
    single_logits = torch.cat(
        [compute_logits(model, make_family_batch(model, [example])) for example in examples]
    )
    assert (logits - single_logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("key", KEYS)
def test_audio_longer_than_the_window_is_cut_into_windows(
    key: str, checkpoint_dirs, tmp_path: Path
) -> None:
    """At the class's own window of 30 s, or at a smaller one where the class has none so short."""
    strides = {"window_samples": WINDOW_SAMPLES[key]} if key in WINDOW_SAMPLES else {}
    model = load_twin(key, checkpoint_dirs(key), **strides)
    length = model.spec.audio_spec.window_samples + 5_007
    noise = np.random.default_rng(1).normal(0, 0.1, length)
    soundfile.write(tmp_path / "long.wav", noise, SAMPLE_RATE, "FLOAT")
    examples = [make_conversation(key, [AudioSegment(tmp_path / "long.wav")])]
    batch = make_family_batch(model, examples)
    assert batch.windows_per_example == (2,)
    if (
        model.spec.audio_spec.reflect_right
    ):  # attention ends where the window does: cut or not, it is the same
        whole = load_twin(key, checkpoint_dirs(key))
        reference_logits = compute_reference_logits(
            whole, make_family_batch(whole, examples), examples
        )
    else:
        reference_logits = compute_reference_logits(model, batch, examples)
    assert (compute_logits(model, batch) - reference_logits).abs().max() < TOLERANCE


@pytest.mark.parametrize("key", KEYS)
def test_gradients_equal_those_of_the_class(key: str, checkpoint_dirs, segments) -> None:
    """LoRA on the language model and the encoder, and the projector, for one example's own loss."""
    model = load_twin(key, checkpoint_dirs(key))
    apply_adapter(
        model, AdapterSpec("lora", 4, 8, 0.0, ("lm", "projector", "encoder"), None), seed=0
    )
    for name, item in get_trainable_parameters(model).items():
        if ".lora_B" in name:  # zero at first, which would hide lora_A
            torch.nn.init.normal_(item, std=0.02)
    examples = [make_conversation(key, [segments[0], segments[3]])]
    batch = make_family_batch(model, examples)
    grads = compute_gradients(
        model, AudioLMLoss(model)(batch).total_loss.sum() / batch.num_label_tokens
    )
    loss = model.whole(**make_reference_inputs(model, batch, examples), labels=batch.labels).loss
    reference_grads = compute_gradients(model, loss)
    assert grads.keys() == reference_grads.keys()
    for name, item in grads.items():
        assert (item - reference_grads[name]).abs().max() < TOLERANCE, name
    for component in ("encoder", "projector", "lm"):
        assert any(
            name.startswith(model.param_prefixes[component]) and item.abs().max() > 1e-6
            for name, item in grads.items()
        )


def compute_gradients(model: PretrainedAudioLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: item.grad.clone()
        for name, item in get_trainable_parameters(model).items()
        if item.grad is not None
    }


@pytest.mark.parametrize("key", KEYS)
def test_cached_encoder_output_changes_no_logit_and_no_answer(
    key: str, checkpoint_dirs, segments, tmp_path: Path
) -> None:
    """In memory, on disk and encoded again, the logits are the same.

    So are the answers of a batch, of each question alone, and of the class's own generate.
    """
    model = load_twin(key, checkpoint_dirs(key)).requires_grad_(False)
    examples = [
        make_conversation(key, [segments[index] for index in item]) for item in SEGMENTS_OF_EXAMPLES
    ]
    expected_logits = compute_logits(model, make_family_batch(model, examples))
    for _ in range(2):
        extractor = AudioFeatureExtractor(
            model.spec, auto_resample=False, encode_fn=model.encode_single, cache_dir=tmp_path
        )
        assert (
            compute_logits(model, make_family_batch(model, examples, extractor=extractor))
            - expected_logits
        ).abs().max() < TOLERANCE
    chat_encoder = build_chat_encoder(model.tokenizer, model.spec)
    prompts = [chat_encoder.encode_prompt(example.messages[:1], "here") for example in examples]
    config = GenerationConfig(max_new_tokens=8)
    answers = [generate(model, chat_encoder, [item], extractor, config)[0] for item in prompts]
    assert any(answers)
    assert generate(model, chat_encoder, prompts, extractor, config) == answers
    padding = PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id)
    batch = collate(prompts[:1], AudioFeatureExtractor(model.spec, auto_resample=False), padding)
    stop_tokens = {
        "eos_token_id": [chat_encoder.eos_token_id, *model.eos_token_ids],
        "pad_token_id": chat_encoder.pad_token_id,
    }
    token_ids = model.whole.generate(
        **make_reference_inputs(model, batch, examples[:1]),
        **stop_tokens,
        max_new_tokens=8,
        do_sample=False,
    )
    assert (
        chat_encoder.decode(token_ids[0, batch.input_ids.shape[1] :].tolist()).strip() == answers[0]
    )


@pytest.mark.parametrize("key", KEYS)
def test_lora_is_on_the_named_component_only(key: str, checkpoint_dirs) -> None:
    """Nothing of the encoder learns with the language model, in any class."""
    model = load_twin(key, checkpoint_dirs(key))
    apply_adapter(model, AdapterSpec("lora", 4, 8, 0.0, ("lm",), None), seed=0)
    names = get_trainable_parameters(model)
    assert names and all(name.startswith(model.param_prefixes["lm"]) for name in names)
    other = load_twin(key, checkpoint_dirs(key))
    apply_adapter(other, AdapterSpec("projector", 4, 8, 0.0, ("projector",), None), seed=0)
    names = get_trainable_parameters(other)
    assert names and all(name.startswith(other.param_prefixes["projector"]) for name in names)
