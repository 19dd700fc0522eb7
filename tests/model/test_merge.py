"""Sound where the placeholders stand, and rows that do not touch each other."""

from dataclasses import replace

import pytest
import torch

from dlm.clips.clip import Clip
from dlm.errors import ClipError
from dlm.model.stitched import Stitched
from tests.model.twin import batch_of, logits_of


def test_sound_stands_where_the_placeholders_do(model: Stitched, clips: list[Clip]) -> None:
    batch = batch_of(model, clips)
    merged = model.merge(batch)
    spots = batch.ids == model.placeholder
    audio = model.project(model.hear(batch.sounds, batch.frames))
    assert torch.equal(merged[spots], audio)
    assert torch.equal(merged[~spots], model.embed(batch.ids)[~spots])


def test_two_sounds_in_a_row_keep_their_order(model: Stitched, clips: list[Clip]) -> None:
    both, one, other = (batch_of(model, [clips[n]]) for n in (5, 1, 3))
    first, second = (model.project(model.hear(each.sounds, each.frames)) for each in (one, other))
    found = model.merge(both)[both.ids == model.placeholder]
    assert torch.allclose(found, torch.cat([first, second]), atol=1e-5)


def test_logits_of_a_batch_are_those_of_its_clips(model: Stitched, clips: list[Clip]) -> None:
    together = logits_of(model, batch_of(model, clips))
    for number, clip in enumerate(clips):
        alone = logits_of(model, batch_of(model, [clip]))[0]
        assert torch.allclose(together[number, : len(alone)], alone, atol=1e-5), clip.place


@pytest.mark.parametrize("change", [-1, 1])
def test_a_miscount_names_its_clip(model: Stitched, clips: list[Clip], change: int) -> None:
    batch = batch_of(model, clips)
    spans = batch.spans.clone()
    spans[2] += change
    with pytest.raises(ClipError) as told:
        model.merge(replace(batch, spans=spans))
    place = clips[2].place
    assert str(told.value).startswith(f"{place}: 8 placeholders for {8 + change} tokens of sound")


def test_a_placeholder_without_sound_names_its_clip(model: Stitched, clips: list[Clip]) -> None:
    batch = batch_of(model, [clips[6]])
    batch.ids[0, 1] = model.placeholder
    with pytest.raises(ClipError, match="prose: 1 placeholders for 0 tokens"):
        model.merge(batch)


def test_features_heard_before_merge_like_mel(model: Stitched, clips: list[Clip]) -> None:
    batch = batch_of(model, clips)
    heard = model.hear(batch.sounds, batch.frames)
    known = replace(batch, sounds=heard.values, frames=heard.frames, encoded=True)
    assert torch.equal(model.merge(known), model.merge(batch))


def test_speaking_at_some_positions_equals_speaking_at_all(
    model: Stitched, clips: list[Clip]
) -> None:
    batch = batch_of(model, clips)
    hidden = model.think(model.merge(batch), batch.attention)
    spots = batch.labels != -100
    everywhere = model.speak(hidden)
    assert torch.allclose(model.speak(hidden[spots]), everywhere[spots], atol=1e-6)
    theirs = model.lm(inputs_embeds=model.merge(batch), attention_mask=batch.attention).logits
    assert torch.allclose(everywhere, theirs, atol=1e-6)
