"""The loss is the plain cross entropy of the label tokens, and nothing else."""

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
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    prose = Example((Message("assistant", ("Once upon a time.",)),), "prose", "text")
    return [*write_tone_examples(tmp_path_factory.mktemp("clips"), 4), prose]


def batch_of(model: ComposedAudioLM, clips: list[Example]) -> Batch:
    chat = ChatEncoder(model.tokenizer, model.spec)
    rows = [chat.encode_example(clip) for clip in clips]
    ear = AudioFeatureExtractor(model.spec, auto_resample=False)
    return collate(rows, ear, PaddingSpec(chat.pad_token_id, chat.audio_token_id))


def test_a_batch_equals_transformers_full_logits(
    model: ComposedAudioLM, clips: list[Example]
) -> None:
    batch = batch_of(model, clips)
    with torch.no_grad():
        theirs = model.lm(
            inputs_embeds=model.merge_audio_embeddings(batch),
            attention_mask=batch.attention_mask,
            labels=batch.labels,
        )
    assert compute_mean_loss(model, [batch]) == pytest.approx(float(theirs.loss), abs=1e-5)


def test_each_row_is_its_own_sum(model: ComposedAudioLM, clips: list[Example]) -> None:
    with torch.no_grad():
        together = AudioLMLoss(model)(batch_of(model, clips)).total_loss
        alone = [AudioLMLoss(model)(batch_of(model, [clip])).total_loss for clip in clips]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_the_mean_is_over_tokens_not_rows(model: ComposedAudioLM, clips: list[Example]) -> None:
    parts = [batch_of(model, clips[:1]), batch_of(model, clips[1:])]
    whole = compute_mean_loss(model, [batch_of(model, clips)])
    assert compute_mean_loss(model, parts) == pytest.approx(whole, abs=1e-5)


def test_gradients_are_those_of_transformers(model: ComposedAudioLM, clips: list[Example]) -> None:
    batch = batch_of(model, clips)
    names = ["projector.leave.weight", "encoder.conv1.weight", "lm.model.norm.weight"]
    some = [model.get_parameter(name) for name in names]
    ours = torch.autograd.grad(
        AudioLMLoss(model)(batch).total_loss.sum() / batch.num_label_tokens, some
    )
    merged = model.merge_audio_embeddings(batch)
    loss = model.lm(
        inputs_embeds=merged, attention_mask=batch.attention_mask, labels=batch.labels
    ).loss
    for one, other in zip(ours, torch.autograd.grad(loss, some), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_nothing_to_learn_is_a_loss_of_zero(model: ComposedAudioLM, clips: list[Example]) -> None:
    batch = batch_of(model, clips)
    batch.labels.fill_(-100)
    rows = AudioLMLoss(model)(batch).total_loss
    assert rows.tolist() == [0.0] * len(clips)
    rows.sum().backward()


def test_the_gap_is_what_the_sound_is_worth() -> None:
    assert compute_audio_gap(0.5, 2.0) == 1.5
    deaf = [Evaluated(1, {"gap": gap}, 4).ignores_audio for gap in (0.0, 0.099, 0.1, 2.0, -0.5)]
    assert deaf == [True, True, False, False, True]
    assert not Evaluated(1, {"loss": 1.0}, 4).ignores_audio, "unknown is not deaf"


def test_paths_are_not_part_of_the_loss(model: ComposedAudioLM, tmp_path: Path) -> None:
    one, other = (
        compute_mean_loss(model, [batch_of(model, write_tone_examples(tmp_path / n, 3))])
        for n in "ab"
    )
    assert one == other
