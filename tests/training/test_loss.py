"""The loss equals the cross entropy of label tokens in transformers; the listening gap."""

from pathlib import Path

import pytest
import torch

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.data.types import Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.models.composed import ComposedAudioLM, load_composed_model
from dlm.training.events import Evaluated
from dlm.training.loss import AudioLMLoss, compute_audio_gap, compute_mean_loss
from tests.tiny_models import write_tiny_model, write_tone_examples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ComposedAudioLM:
    return load_composed_model(write_tiny_model(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    prose = Example((Message("assistant", ("Once upon a time.",)),), "prose", "text")
    return [*write_tone_examples(tmp_path_factory.mktemp("clips"), 4), prose]


def make_batch(model: ComposedAudioLM, examples: list[Example]) -> Batch:
    chat_encoder = ChatEncoder(model.tokenizer, model.spec)
    encoded = [chat_encoder.encode_example(example) for example in examples]
    extractor = AudioFeatureExtractor(model.spec, auto_resample=False)
    return collate(
        encoded, extractor, PaddingSpec(chat_encoder.pad_token_id, chat_encoder.audio_token_id)
    )


def test_mean_loss_equals_that_of_transformers(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    batch = make_batch(model, examples)
    with torch.no_grad():
        expected = model.lm(
            inputs_embeds=model.merge_audio_embeddings(batch),
            attention_mask=batch.attention_mask,
            labels=batch.labels,
        )
    assert compute_mean_loss(model, [batch]) == pytest.approx(float(expected.loss), abs=1e-5)


def test_loss_of_an_example_does_not_depend_on_its_batch(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    with torch.no_grad():
        batched = AudioLMLoss(model)(make_batch(model, examples)).total_loss
        single = [
            AudioLMLoss(model)(make_batch(model, [example])).total_loss for example in examples
        ]
    assert torch.allclose(batched, torch.cat(single), atol=1e-4)


def test_mean_is_over_tokens(model: ComposedAudioLM, examples: list[Example]) -> None:
    batches = [make_batch(model, examples[:1]), make_batch(model, examples[1:])]
    reference = compute_mean_loss(model, [make_batch(model, examples)])
    assert compute_mean_loss(model, batches) == pytest.approx(reference, abs=1e-5)


def test_gradients_equal_those_of_transformers(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    batch = make_batch(model, examples)
    names = ["projector.leave.weight", "encoder.conv1.weight", "lm.model.norm.weight"]
    parameters = [model.get_parameter(name) for name in names]
    gradients = torch.autograd.grad(
        AudioLMLoss(model)(batch).total_loss.sum() / batch.num_label_tokens, parameters
    )
    embeddings = model.merge_audio_embeddings(batch)
    loss = model.lm(
        inputs_embeds=embeddings, attention_mask=batch.attention_mask, labels=batch.labels
    ).loss
    for first, second in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(first, second, atol=1e-5)


def test_batch_without_labels_has_loss_zero(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    batch = make_batch(model, examples)
    batch.labels.fill_(-100)
    losses = AudioLMLoss(model)(batch).total_loss
    assert losses.tolist() == [0.0] * len(examples)
    losses.sum().backward()


def test_audio_gap() -> None:
    assert compute_audio_gap(0.5, 2.0) == 1.5
    ignores_audio = [
        Evaluated(1, {"gap": gap}, 4).ignores_audio for gap in (0.0, 0.099, 0.1, 2.0, -0.5)
    ]
    assert ignores_audio == [True, True, False, False, True]
    assert not Evaluated(1, {"loss": 1.0}, 4).ignores_audio, (
        "a gap that was not measured is not small"
    )


def test_paths_do_not_change_the_loss(model: ComposedAudioLM, tmp_path: Path) -> None:
    first, second = (
        compute_mean_loss(model, [make_batch(model, write_tone_examples(tmp_path / n, 3))])
        for n in "ab"
    )
    assert first == second
