"""AugmentedExtractor: a variant in each epoch, each recording decoded once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dlm.batching.chat_template import ChatEncoder
from dlm.batching.collator import Batch
from dlm.batching.samplers import build_batches, count_segment_tokens
from dlm.data.types import AudioSegment, Example
from dlm.errors import DataError
from dlm.features.augment import Augmenter
from dlm.features.extractor import AudioFeatureExtractor, AugmentedExtractor, WaveformCache
from dlm.plan.types import AugmentationSpec, BatchPlan, SpecAugmentMasks
from tests.tiny_models import (
    SAMPLE_RATE,
    make_example,
    make_tiny_spec,
    make_tiny_tokenizer,
    write_tone,
    write_tone_examples,
)

CHANGES = AugmentationSpec(
    1.0,
    speed_percent=(60, 150),
    noise_source="synthetic",
    snr_db=(5.0, 20.0),
    time_masks=SpecAugmentMasks(2, 20, 0.2),
)
PLAN = BatchPlan(
    spec=make_tiny_spec(),
    global_batch_size=4,
    micro_batch_size=2,
    max_tokens=512,
    auto_resample=False,
    max_windows=None,
    use_cached_features=False,
    seed=42,
    augmentation=CHANGES,
)


def make_augmented(
    changes: AugmentationSpec = CHANGES,
    seed: str = "42/0",
    memory_bytes: int = 1 << 30,
    **extractor: object,
) -> AugmentedExtractor:
    spec = make_tiny_spec()
    made = Augmenter(changes, spec.audio_spec, seed)
    return AugmentedExtractor(
        AudioFeatureExtractor(spec, auto_resample=False, **extractor),
        made,
        WaveformCache(memory_bytes),
    )


def variants(extractor: AugmentedExtractor, segment: AudioSegment, epochs: int) -> list[bytes]:
    return [
        extractor.for_epoch(epoch)(segment)[0].values.numpy().tobytes() for epoch in range(epochs)
    ]


def test_each_epoch_has_its_own_reproducible_variant(tmp_path: Path) -> None:
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300))
    first = variants(make_augmented(), segment, 6)
    assert len(set(first)) == 6
    assert variants(make_augmented(), segment, 6) == first
    assert not set(variants(make_augmented(seed="42/1"), segment, 6)) & set(first)


def test_variants_do_not_depend_on_the_path_of_a_recording(tmp_path: Path) -> None:
    """The same bytes and span are changed alike, another span of them otherwise."""
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300))
    copy = tmp_path / "other/b.wav"
    copy.parent.mkdir()
    copy.write_bytes(segment.path.read_bytes())
    assert variants(make_augmented(), AudioSegment(copy), 3) == variants(
        make_augmented(), segment, 3
    )
    (tmp_path / "two").write_bytes(b"x" * 7 + copy.read_bytes())
    inside = AudioSegment(tmp_path / "two", byte_range=(7, copy.stat().st_size))
    assert variants(make_augmented(), inside, 3) == variants(make_augmented(), segment, 3)
    louder = make_augmented(AugmentationSpec(1.0, gain_db=(-60.0, 60.0)))
    spans = [louder.for_epoch(0)(AudioSegment(copy, 0.0, end))[0].values for end in (0.5, 0.55)]
    assert not torch.allclose(spans[0][:, :40], spans[1][:, :40], atol=1e-3)


def test_waveforms_are_cached_between_epochs(tmp_path: Path) -> None:
    extractor, segment = make_augmented(), AudioSegment(write_tone(tmp_path / "a.wav", hertz=300))
    variants(extractor, segment, 1)
    segment.path.unlink()
    assert len(variants(extractor, segment, 3)) == 3


def test_waveforms_beyond_the_memory_budget_are_decoded_again(tmp_path: Path) -> None:
    extractor = make_augmented(memory_bytes=1)
    one, other = (AudioSegment(write_tone(tmp_path / f"{n}.wav", hertz=200 + n)) for n in range(2))
    first = variants(extractor, one, 2)
    variants(extractor, other, 1)
    assert variants(extractor, one, 2) == first
    variants(extractor, other, 1)
    one.path.unlink()
    with pytest.raises(DataError, match="0.wav"):
        variants(extractor, one, 1)


def test_without_changes_features_equal_those_of_the_plain_extractor(tmp_path: Path) -> None:
    segment = AudioSegment(write_tone(tmp_path / "a.wav", hertz=300, seconds=4.5))
    plain = AudioFeatureExtractor(make_tiny_spec(), auto_resample=False)(segment)
    augmented = make_augmented(replace(CHANGES, probability=0.0)).for_epoch(3)(segment)
    assert len(plain) == len(augmented) == 3
    assert all(
        torch.equal(one.values, two.values) for one, two in zip(plain, augmented, strict=True)
    )


def test_variant_lengths_match_their_tokens_and_stay_below_the_planned_maximum(
    tmp_path: Path,
) -> None:
    lengths = (0.05, 0.4, 1.0, 1.7, 2.0, 3.1, 4.5)
    spec, extractor = make_tiny_spec(), make_augmented()
    for seconds in lengths:
        segment = AudioSegment(write_tone(tmp_path / f"{seconds}.wav", hertz=300, seconds=seconds))
        foreseen = count_segment_tokens(segment, spec.audio_spec, None, CHANGES)
        features = [
            sum(each.num_tokens for each in extractor.for_epoch(epoch)(segment))
            for epoch in range(12)
        ]
        assert max(features) <= foreseen
        assert seconds < 0.3 or len(set(features)) > 1
        windows = len(extractor.for_epoch(0)(segment))
        assert windows == 1 if seconds <= 2 else windows > 1
    assert len(make_augmented(max_windows=1).for_epoch(0)(segment)) == 1


def batches(
    examples: list[Example], extractor: AugmentedExtractor, step: int, **plan: object
) -> list[Batch]:
    packed = build_batches(
        examples,
        replace(PLAN, **plan),
        ChatEncoder(make_tiny_tokenizer(), make_tiny_spec()),
        extractor,
    )
    return packed.get_step_batches(step)


def by_location(made: list[Batch]) -> dict[str, bytes]:
    features = {}
    for batch in made:
        for location, segment, frames in zip(
            batch.locations, batch.audio_features, batch.audio_lengths, strict=True
        ):
            features[location] = segment[:, :frames].numpy().tobytes()
    return features


def test_variants_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Other batches, other clips, another order, another step first: the same bytes."""
    examples = write_tone_examples(tmp_path, 4)
    whole = [by_location(batches(examples, make_augmented(), step)) for step in range(3)]
    assert all(set(each) == {clip.location for clip in examples} for each in whole)
    for location in whole[0]:
        assert len({each[location] for each in whole}) == 3
    alone = [
        by_location(batches(examples, make_augmented(), step, micro_batch_size=1))
        for step in (2, 1, 0)
    ]
    assert alone == whole[::-1]
    fewer = batches(examples[:2], make_augmented(), 1, global_batch_size=2)
    assert by_location(fewer) == {location: whole[1][location] for location in ("0.wav", "1.wav")}


def test_placeholders_of_a_batch_match_the_variants(tmp_path: Path) -> None:
    chat = ChatEncoder(make_tiny_tokenizer(), make_tiny_spec())
    examples, spans = write_tone_examples(tmp_path, 4), set()
    for step in range(4):
        for batch in batches(examples, make_augmented(), step):
            assert not batch.is_encoded
            features = (batch.input_ids == chat.audio_token_id).sum(dim=1)
            assert torch.equal(features, batch.audio_token_counts)
            spans |= {int(each) for each in batch.audio_token_counts}
    assert len(spans) > 4


def test_examples_are_refused_by_their_longest_variant(tmp_path: Path) -> None:
    examples = [make_example(write_tone(tmp_path / "a.wav", hertz=99, seconds=1.0), "x")]
    extractor = make_augmented()
    packed = build_batches(
        examples,
        replace(PLAN, augmentation=None),
        chat := ChatEncoder(make_tiny_tokenizer(), make_tiny_spec()),
        AudioFeatureExtractor(make_tiny_spec(), auto_resample=False),
    )
    length = int(packed.get_step_batches(0)[0].attention_mask.sum())
    build_batches(examples, replace(PLAN, augmentation=None, max_tokens=length), chat, extractor)
    with pytest.raises(DataError, match=f"{length + 8} tokens, and training.sequence_len"):
        build_batches(examples, replace(PLAN, max_tokens=length), chat, extractor)
    assert (
        count_segment_tokens(examples[0].audio_segments[0], PLAN.spec.audio_spec, None, CHANGES)
        == 21
    )
    assert SAMPLE_RATE / 0.6 < 21 * 1280 <= SAMPLE_RATE / 0.6 + 1280
