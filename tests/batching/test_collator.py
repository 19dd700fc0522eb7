"""Sequences and audio padded into one batch."""

from pathlib import Path

import pytest
import torch

from dlm.batching.chat_template import IGNORE_INDEX, ChatEncoder
from dlm.batching.collator import Batch, PaddingSpec, collate
from dlm.data.types import Example, Message
from dlm.features.extractor import AudioFeatureExtractor
from dlm.plan.audio_lengths import count_audio_tokens, count_encoder_frames, count_mel_frames
from tests.tiny_models import make_example, make_tiny_spec, make_tiny_tokenizer, write_tone

BASE = make_tiny_spec()
CHAT = ChatEncoder(make_tiny_tokenizer(), BASE)
LENGTHS = [1600, 8000, 9601, 20_000]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("clips")
    made = [
        make_example(
            write_tone(folder / f"{n}.wav", hertz=200 + n, seconds=n / 16_000), "x" * (n // 800)
        )
        for n in LENGTHS
    ]
    (one,), (other,) = made[0].audio_segments, made[3].audio_segments
    both = Example(
        (Message("user", (one, "and ", other)), Message("assistant", ("yes",))), "two", "answer"
    )
    prose = Example((Message("assistant", ("prose",)),), "prose", "text")
    return [*made, both, prose]


def batch_of(examples: list[Example], *, pad_left: bool = False, encoded: bool = False) -> Batch:
    encode_fn = (lambda mel, frames: mel.T[::2]) if encoded else None
    extractor = AudioFeatureExtractor(BASE, auto_resample=False, encode_fn=encode_fn)
    return collate(
        [CHAT.encode_example(example) for example in examples], extractor, padding(left=pad_left)
    )


def padding(*, left: bool = False) -> PaddingSpec:
    return PaddingSpec(CHAT.pad_token_id, CHAT.audio_token_id, pad_left=left)


def test_placeholders_match_the_audio_tokens(examples: list[Example]) -> None:
    batch = batch_of(examples)
    counts = (batch.input_ids == CHAT.audio_token_id).sum(dim=1).tolist()
    single = [count_audio_tokens(samples, BASE.audio_spec) for samples in LENGTHS]
    assert counts == [*single, single[0] + single[3], 0]
    assert batch.audio_token_counts.tolist() == [*single, single[0], single[3]]
    assert batch.windows_per_example == (1, 1, 1, 1, 2, 0)
    assert batch.locations[-2:] == ("two", "prose")
    assert batch.num_audio_samples == sum(LENGTHS) + LENGTHS[0] + LENGTHS[3]


def test_placeholders_of_a_segment_are_contiguous(examples: list[Example]) -> None:
    batch = batch_of(examples[4:5])
    spots = (batch.input_ids[0] == CHAT.audio_token_id).int()
    assert int((spots.diff() == 1).sum()) == 2


def test_log_mels_are_padded_with_zeros(examples: list[Example]) -> None:
    batch = batch_of(examples[:4])
    assert batch.audio_features.shape == (4, 80, count_mel_frames(20_000, BASE.audio_spec))
    assert batch.audio_lengths.tolist() == [
        count_mel_frames(samples, BASE.audio_spec) for samples in LENGTHS
    ]
    for segment, frames in zip(batch.audio_features, batch.audio_lengths, strict=True):
        assert not segment[:, frames:].any() and segment[:, :frames].any()
    assert not batch.is_encoded


def test_encoder_outputs_are_padded_with_zeros(examples: list[Example]) -> None:
    batch = batch_of(examples[:4], encoded=True)
    assert batch.audio_features.shape == (4, count_encoder_frames(20_000, BASE.audio_spec), 80)
    assert batch.audio_lengths.tolist() == [
        count_encoder_frames(samples, BASE.audio_spec) for samples in LENGTHS
    ]
    for segment, frames in zip(batch.audio_features, batch.audio_lengths, strict=True):
        assert not segment[frames:].any() and segment[:frames].any()
    assert batch.is_encoded


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_on_one_side_and_masked(examples: list[Example], left: bool) -> None:
    batch = batch_of(examples, pad_left=left)
    for number, example in enumerate(examples):
        alone = batch_of([example], pad_left=left)
        length = alone.input_ids.shape[1]
        columns = slice(-length, None) if left else slice(0, length)
        assert torch.equal(batch.input_ids[number, columns], alone.input_ids[0])
        assert torch.equal(batch.labels[number, columns], alone.labels[0])
        assert (
            batch.attention_mask[number].sum()
            == length
            == batch.attention_mask[number, columns].sum()
        )
        empty = batch.attention_mask[number] == 0
        assert (batch.input_ids[number, empty] == CHAT.pad_token_id).all()
        assert (batch.labels[number, empty] == IGNORE_INDEX).all()


def test_placeholders_carry_no_loss(examples: list[Example]) -> None:
    batch = batch_of(examples)
    assert (batch.labels[batch.input_ids == CHAT.audio_token_id] == IGNORE_INDEX).all()
    assert not (batch.labels == CHAT.audio_token_id).any()


def test_num_label_tokens_excludes_the_first_token(examples: list[Example]) -> None:
    prose = batch_of(examples[5:])
    assert prose.num_label_tokens == len("prose") + 1 - 1, "its first token has nothing before it"
    assert batch_of(examples[:1]).num_label_tokens == len("xx") + 1


def test_batch_without_audio_has_no_features(examples: list[Example]) -> None:
    batch = batch_of(examples[5:])
    assert batch.audio_features is None and not batch.is_encoded
    assert batch.audio_lengths.tolist() == batch.audio_token_counts.tolist() == []


def test_batch_moves_to_a_device(examples: list[Example]) -> None:
    moved = batch_of(examples).to("meta")
    tensors = [each for each in vars(moved).values() if isinstance(each, torch.Tensor)]
    assert len(tensors) == 6 and all(each.device.type == "meta" for each in tensors)


def test_collate_does_not_open_recordings(tmp_path: Path) -> None:
    """The same clips from another folder make the same tensors."""
    one, other = (make_example(write_tone(tmp_path / f"{n}/a.wav", hertz=300), "a") for n in "12")
    assert torch.equal(batch_of([one]).audio_features, batch_of([other]).audio_features)
