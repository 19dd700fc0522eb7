"""The one arithmetic: what it says is what a model really returns, for every remainder."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from dlm.models.audio_lm import EncoderOutput
from dlm.models.composed import ComposedAudioLM
from dlm.plan.audio_lengths import (
    AudioTokenizerSpec,
    ceil_div,
    compute_window_lengths,
    count_audio_tokens,
    count_encoder_frames,
    count_mel_frames,
)
from tests.tiny_models import make_tiny_config, make_tiny_spec, make_tiny_tokenizer

STRIDES = make_tiny_spec().audio_spec
LENGTHS = some.integers(min_value=1, max_value=STRIDES.window_samples)


@pytest.fixture(scope="module")
def model() -> ComposedAudioLM:
    torch.manual_seed(0)
    return ComposedAudioLM(make_tiny_spec(), make_tiny_config(), make_tiny_tokenizer()).eval()


def returned(model: ComposedAudioLM, lengths: list[int]) -> tuple[EncoderOutput, torch.Tensor]:
    """What the model makes of sounds of these lengths, in samples, heard together."""
    frames = torch.tensor([count_mel_frames(samples, STRIDES) for samples in lengths])
    mel = torch.randn(len(lengths), 80, int(frames.max()))
    with torch.no_grad():
        features = model.encode_audio(mel, frames)
        return features, model.project_audio(features)


@given(samples=LENGTHS)
def test_the_count_is_what_the_model_returns(model: ComposedAudioLM, samples: int) -> None:
    features, audio = returned(model, [samples])
    assert features.lengths.tolist() == [count_encoder_frames(samples, STRIDES)]
    assert features.hidden_states.shape == (1, count_encoder_frames(samples, STRIDES), 32)
    assert audio.shape == (count_audio_tokens(samples, STRIDES), 32)


@given(lengths=some.lists(LENGTHS, min_size=2, max_size=4))
def test_counts_of_a_batch_are_those_of_its_sounds(
    model: ComposedAudioLM, lengths: list[int]
) -> None:
    features, audio = returned(model, lengths)
    assert features.lengths.tolist() == [count_encoder_frames(each, STRIDES) for each in lengths]
    assert len(audio) == sum(count_audio_tokens(each, STRIDES) for each in lengths)


@pytest.mark.parametrize("stretch", range(8))
def test_every_remainder_of_mel_frames(model: ComposedAudioLM, stretch: int) -> None:
    """All 8 ways a clip can end within its last token, one sample before and after."""
    for samples in (lambda edge: (edge - 1, edge, edge + 1))(160 * (8 + stretch)):
        _, audio = returned(model, [samples])
        assert len(audio) == count_audio_tokens(samples, STRIDES)


def test_known_numbers() -> None:
    told = [
        (
            count_mel_frames(n, STRIDES),
            count_encoder_frames(n, STRIDES),
            count_audio_tokens(n, STRIDES),
        )
        for n in EDGES
    ]
    assert told == [(1, 1, 1), (1, 1, 1), (2, 1, 1), (3, 2, 1), (8, 4, 1), (9, 5, 2), (100, 50, 13)]


EDGES = [1, 160, 161, 321, 1280, 1281, 16_000]


def test_a_projector_that_drops_rounds_down() -> None:
    drops = AudioTokenizerSpec(
        sample_rate=16_000,
        hop_length=160,
        encoder_stride=2,
        projector_stride=2,
        window_samples=480_000,
        floor_tokens=True,
    )
    assert [count_audio_tokens(n, drops) for n in (1, 320, 640, 960, 1280)] == [0, 0, 1, 1, 2]


@given(samples=LENGTHS, more=some.integers(min_value=0, max_value=5000))
def test_more_sound_is_never_fewer_tokens(samples: int, more: int) -> None:
    assert count_audio_tokens(samples, STRIDES) <= count_audio_tokens(samples + more, STRIDES)


@given(one=some.integers(min_value=0, max_value=10**18), other=some.integers(1, 10**6))
def test_ceil_div_is_exact(one: int, other: int) -> None:
    assert (ceil_div(one, other) - 1) * other < one <= ceil_div(one, other) * other


def test_seconds() -> None:
    assert STRIDES.tokens_per_second == 12.5
    assert STRIDES.window_seconds == 2.0


@given(samples=some.integers(min_value=1, max_value=5 * STRIDES.window_samples))
def test_a_long_span_is_the_sum_of_its_windows(samples: int) -> None:
    cut = compute_window_lengths(samples, STRIDES)
    assert sum(cut) == samples and all(each == STRIDES.window_samples for each in cut[:-1])
    assert count_audio_tokens(samples, STRIDES) == sum(
        count_audio_tokens(each, STRIDES) for each in cut
    )
    assert count_audio_tokens(samples, STRIDES, max_windows=1) == count_audio_tokens(
        cut[0], STRIDES
    )


def test_a_rest_without_a_token_is_left_out() -> None:
    """Qwen2-Audio needs two encoder frames for a token: 320 samples are one frame."""
    strides = AudioTokenizerSpec(16_000, 160, 2, 2, 480_000, floor_tokens=True, right_context=2)
    assert compute_window_lengths(480_320, strides) == (480_000,)
    assert compute_window_lengths(480_321, strides) == (480_000, 321)
    assert compute_window_lengths(320, strides) == (320,) and count_audio_tokens(320, strides) == 0


def test_silence_counts_where_a_base_says_so() -> None:
    """Voxtral: 375 tokens for each window begun."""
    strides = AudioTokenizerSpec(16_000, 160, 2, 4, 480_000, pad_mode="counted")
    assert [count_audio_tokens(each, strides) for each in (1, 480_000, 480_001)] == [375, 375, 750]
    heard = AudioTokenizerSpec(16_000, 160, 2, 4, 480_000, floor_tokens=True, pad_mode="heard")
    assert [count_audio_tokens(each, heard) for each in (16_000, 480_000)] == [12, 375]


def test_convolutions_that_take_chunks_round_each_up() -> None:
    """Qwen3-ASR: 100 mel frames are 13 tokens."""
    strides = AudioTokenizerSpec(16_000, 160, 8, 1, 480_000, chunk_frames=100)
    assert [count_audio_tokens(160 * each, strides) for each in (1, 100, 101, 250)] == [
        1,
        13,
        14,
        33,
    ]
    assert strides.tokens_per_second == 13


def test_a_mirrored_end_has_no_frame_for_a_part_of_a_hop() -> None:
    """Qwen3-ASR: half a second at the least, and 159 samples more are no frame."""
    strides = AudioTokenizerSpec(
        16_000, 160, 8, 1, 480_000, chunk_frames=100, reflect_right=True, min_samples=8_000
    )
    assert [count_mel_frames(each, strides) for each in (8_000, 8_159, 8_160)] == [50, 50, 51]
    assert compute_window_lengths(1, strides) == (8_000,)
    assert [count_audio_tokens(each, strides) for each in (1, 8_000, 9_120)] == [7, 7, 8]
    assert compute_window_lengths(480_100, strides) == (480_000,), "a rest of no frame is left out"
