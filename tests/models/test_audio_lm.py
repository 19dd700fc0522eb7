"""Audio embeddings stand in the places of placeholders; examples of a batch do not mix."""

from dataclasses import replace

import pytest
import torch

from dlm.data.types import Example
from dlm.errors import DataError
from dlm.models.composed import ComposedAudioLM
from tests.models.batches import compute_all_logits, make_batch


def test_audio_embeddings_replace_the_placeholders(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    batch = make_batch(model, examples)
    embeddings = model.merge_audio_embeddings(batch)
    is_audio = batch.input_ids == model.audio_token_id
    audio = model.project_audio(model.encode_audio(batch.audio_features, batch.audio_lengths))
    assert torch.equal(embeddings[is_audio], audio)
    assert torch.equal(embeddings[~is_audio], model.embed_input_ids(batch.input_ids)[~is_audio])


def test_two_audio_segments_of_an_example_keep_their_order(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    pair, *singles = (make_batch(model, [examples[n]]) for n in (5, 1, 3))
    expected = [
        model.project_audio(model.encode_audio(batch.audio_features, batch.audio_lengths))
        for batch in singles
    ]
    audio = model.merge_audio_embeddings(pair)[pair.input_ids == model.audio_token_id]
    assert torch.allclose(audio, torch.cat(expected), atol=1e-5)


def test_logits_of_a_batch_equal_those_of_its_examples(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    logits = compute_all_logits(model, make_batch(model, examples))
    for index, example in enumerate(examples):
        expected = compute_all_logits(model, make_batch(model, [example]))[0]
        assert torch.allclose(logits[index, : len(expected)], expected, atol=1e-5), index


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_count_of_audio_tokens_names_the_example(
    model: ComposedAudioLM, examples: list[Example], change: int
) -> None:
    batch = make_batch(model, examples)
    counts = batch.audio_token_counts.clone()
    counts[2] += change
    with pytest.raises(DataError) as caught:
        model.merge_audio_embeddings(replace(batch, audio_token_counts=counts))
    assert caught.value.code == "data.placeholder_count"
    assert caught.value.where == examples[2].location
    assert caught.value.what == f"8 placeholders for {8 + change} tokens of audio"


def test_placeholder_without_audio_names_the_example(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    batch = make_batch(model, [examples[6]])
    batch.input_ids[0, 1] = model.audio_token_id
    with pytest.raises(DataError) as caught:
        model.merge_audio_embeddings(batch)
    assert (caught.value.code, caught.value.where) == ("data.placeholder_count", "prose")


def test_cached_encoder_output_merges_like_log_mels(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    batch = make_batch(model, examples)
    output = model.encode_audio(batch.audio_features, batch.audio_lengths)
    cached = replace(
        batch, audio_features=output.hidden_states, audio_lengths=output.lengths, is_encoded=True
    )
    assert torch.equal(model.merge_audio_embeddings(cached), model.merge_audio_embeddings(batch))


def test_logits_at_some_positions_equal_those_of_all(
    model: ComposedAudioLM, examples: list[Example]
) -> None:
    batch = make_batch(model, examples)
    embeddings = model.merge_audio_embeddings(batch)
    hidden = model.forward_lm(embeddings, batch.attention_mask)
    has_label = batch.labels != -100
    logits = model.compute_logits(hidden)
    assert torch.allclose(model.compute_logits(hidden[has_label]), logits[has_label], atol=1e-6)
    theirs = model.lm(inputs_embeds=embeddings, attention_mask=batch.attention_mask).logits
    assert torch.allclose(logits, theirs, atol=1e-6)


def test_encoding_one_window_gives_the_same_bits_each_time(model: ComposedAudioLM) -> None:
    log_mel = torch.randn(80, 123)
    outputs = [model.encode_single(log_mel, 123) for _ in range(2)]
    assert torch.equal(*outputs)
    assert outputs[0].shape == (62, 32)
