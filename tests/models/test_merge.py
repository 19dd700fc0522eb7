"""Sound where the placeholders stand, and rows that do not touch each other."""

from dataclasses import replace

import pytest
import torch

from dlm.data.types import Example
from dlm.errors import DataError
from dlm.models.composed import ComposedAudioLM
from tests.models.batches import compute_all_logits, make_batch


def test_sound_stands_where_the_placeholders_do(
    model: ComposedAudioLM, clips: list[Example]
) -> None:
    batch = make_batch(model, clips)
    merged = model.merge_audio_embeddings(batch)
    spots = batch.input_ids == model.audio_token_id
    audio = model.project_audio(model.encode_audio(batch.audio_features, batch.audio_lengths))
    assert torch.equal(merged[spots], audio)
    assert torch.equal(merged[~spots], model.embed_input_ids(batch.input_ids)[~spots])


def test_two_sounds_in_a_row_keep_their_order(model: ComposedAudioLM, clips: list[Example]) -> None:
    both, one, other = (make_batch(model, [clips[n]]) for n in (5, 1, 3))
    first, second = (
        model.project_audio(model.encode_audio(each.audio_features, each.audio_lengths))
        for each in (one, other)
    )
    found = model.merge_audio_embeddings(both)[both.input_ids == model.audio_token_id]
    assert torch.allclose(found, torch.cat([first, second]), atol=1e-5)


def test_logits_of_a_batch_are_those_of_its_clips(
    model: ComposedAudioLM, clips: list[Example]
) -> None:
    together = compute_all_logits(model, make_batch(model, clips))
    for number, clip in enumerate(clips):
        alone = compute_all_logits(model, make_batch(model, [clip]))[0]
        assert torch.allclose(together[number, : len(alone)], alone, atol=1e-5), clip.location


@pytest.mark.parametrize("change", [-1, 1])
def test_a_miscount_names_its_clip(
    model: ComposedAudioLM, clips: list[Example], change: int
) -> None:
    batch = make_batch(model, clips)
    spans = batch.audio_token_counts.clone()
    spans[2] += change
    with pytest.raises(DataError) as told:
        model.merge_audio_embeddings(replace(batch, audio_token_counts=spans))
    place = clips[2].location
    assert str(told.value).startswith(f"{place}: 8 placeholders for {8 + change} tokens of audio")


def test_a_placeholder_without_sound_names_its_clip(
    model: ComposedAudioLM, clips: list[Example]
) -> None:
    batch = make_batch(model, [clips[6]])
    batch.input_ids[0, 1] = model.audio_token_id
    with pytest.raises(DataError, match="prose: 1 placeholders for 0 tokens"):
        model.merge_audio_embeddings(batch)


def test_features_heard_before_merge_like_mel(model: ComposedAudioLM, clips: list[Example]) -> None:
    batch = make_batch(model, clips)
    heard = model.encode_audio(batch.audio_features, batch.audio_lengths)
    known = replace(
        batch, audio_features=heard.hidden_states, audio_lengths=heard.lengths, is_encoded=True
    )
    assert torch.equal(model.merge_audio_embeddings(known), model.merge_audio_embeddings(batch))


def test_speaking_at_some_positions_equals_speaking_at_all(
    model: ComposedAudioLM, clips: list[Example]
) -> None:
    batch = make_batch(model, clips)
    hidden = model.forward_lm(model.merge_audio_embeddings(batch), batch.attention_mask)
    spots = batch.labels != -100
    everywhere = model.compute_logits(hidden)
    assert torch.allclose(model.compute_logits(hidden[spots]), everywhere[spots], atol=1e-6)
    theirs = model.lm(
        inputs_embeds=model.merge_audio_embeddings(batch), attention_mask=batch.attention_mask
    ).logits
    assert torch.allclose(everywhere, theirs, atol=1e-6)
