"""Rows and sounds padded into one batch."""

from pathlib import Path

import pytest
import torch

from dlm.batches.chat import IGNORE, Chat
from dlm.batches.collate import Batch, Padding, collate
from dlm.clips.clip import Clip, Turn
from dlm.features.ear import Ear
from dlm.plan.frames import encoder_frames, mel_frames, tokens
from tests.tiny import spoken, tiny_base, tiny_tokenizer, tone

BASE = tiny_base()
CHAT = Chat(tiny_tokenizer(), BASE)
LENGTHS = [1600, 8000, 9601, 20_000]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    made = [
        spoken(tone(folder / f"{n}.wav", hertz=200 + n, seconds=n / 16_000), "x" * (n // 800))
        for n in LENGTHS
    ]
    (one,), (other,) = made[0].sounds, made[3].sounds
    both = Clip((Turn("user", (one, "and ", other)), Turn("assistant", ("yes",))), "two", "answer")
    prose = Clip((Turn("assistant", ("prose",)),), "prose", "text")
    return [*made, both, prose]


def batch_of(clips: list[Clip], *, left: bool = False, encoded: bool = False) -> Batch:
    hear = (lambda mel, frames: mel.T[::2]) if encoded else None
    ear = Ear(BASE, auto_resample=False, hear=hear)
    return collate([CHAT.row(clip) for clip in clips], ear, padding(left=left))


def padding(*, left: bool = False) -> Padding:
    return Padding(CHAT.pad, CHAT.placeholder, left=left)


def test_placeholders_are_as_many_as_the_sound_has_tokens(clips: list[Clip]) -> None:
    batch = batch_of(clips)
    found = (batch.ids == CHAT.placeholder).sum(dim=1).tolist()
    single = [tokens(samples, BASE.strides) for samples in LENGTHS]
    assert found == [*single, single[0] + single[3], 0]
    assert batch.spans.tolist() == [*single, single[0], single[3]]
    assert batch.windows_per_row == (1, 1, 1, 1, 2, 0)
    assert batch.places[-2:] == ("two", "prose")
    assert batch.audio_samples == sum(LENGTHS) + LENGTHS[0] + LENGTHS[3]


def test_placeholders_of_a_sound_stand_together(clips: list[Clip]) -> None:
    batch = batch_of(clips[4:5])
    spots = (batch.ids[0] == CHAT.placeholder).int()
    assert int((spots.diff() == 1).sum()) == 2


def test_mel_is_padded_with_zeros_to_the_longest(clips: list[Clip]) -> None:
    batch = batch_of(clips[:4])
    assert batch.sounds.shape == (4, 80, mel_frames(20_000, BASE.strides))
    assert batch.frames.tolist() == [mel_frames(samples, BASE.strides) for samples in LENGTHS]
    for sound, frames in zip(batch.sounds, batch.frames, strict=True):
        assert not sound[:, frames:].any() and sound[:, :frames].any()
    assert not batch.encoded


def test_features_are_padded_with_zeros_to_the_longest(clips: list[Clip]) -> None:
    batch = batch_of(clips[:4], encoded=True)
    assert batch.sounds.shape == (4, encoder_frames(20_000, BASE.strides), 80)
    assert batch.frames.tolist() == [encoder_frames(samples, BASE.strides) for samples in LENGTHS]
    for sound, frames in zip(batch.sounds, batch.frames, strict=True):
        assert not sound[frames:].any() and sound[:frames].any()
    assert batch.encoded


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_on_one_side_and_masked(clips: list[Clip], left: bool) -> None:
    batch = batch_of(clips, left=left)
    for number, clip in enumerate(clips):
        alone = batch_of([clip], left=left)
        length = alone.ids.shape[1]
        kept = slice(-length, None) if left else slice(0, length)
        assert torch.equal(batch.ids[number, kept], alone.ids[0])
        assert torch.equal(batch.labels[number, kept], alone.labels[0])
        assert batch.attention[number].sum() == length == batch.attention[number, kept].sum()
        empty = batch.attention[number] == 0
        assert (batch.ids[number, empty] == CHAT.pad).all()
        assert (batch.labels[number, empty] == IGNORE).all()


def test_no_placeholder_carries_loss(clips: list[Clip]) -> None:
    batch = batch_of(clips)
    assert (batch.labels[batch.ids == CHAT.placeholder] == IGNORE).all()
    assert not (batch.labels == CHAT.placeholder).any()


def test_label_tokens_are_those_that_something_predicts(clips: list[Clip]) -> None:
    prose = batch_of(clips[5:])
    assert prose.label_tokens == len("prose") + 1 - 1, "its first token has nothing before it"
    assert batch_of(clips[:1]).label_tokens == len("xx") + 1


def test_a_batch_without_sound_has_none(clips: list[Clip]) -> None:
    batch = batch_of(clips[5:])
    assert batch.sounds is None and not batch.encoded
    assert batch.frames.tolist() == batch.spans.tolist() == []


def test_it_moves_as_a_whole(clips: list[Clip]) -> None:
    moved = batch_of(clips).to("meta")
    tensors = [each for each in vars(moved).values() if isinstance(each, torch.Tensor)]
    assert len(tensors) == 6 and all(each.device.type == "meta" for each in tensors)


def test_a_path_is_only_a_name(tmp_path: Path) -> None:
    """The same clips from another folder make the same tensors."""
    one, other = (spoken(tone(tmp_path / f"{n}/a.wav", hertz=300), "a") for n in "12")
    assert torch.equal(batch_of([one]).sounds, batch_of([other]).sounds)
