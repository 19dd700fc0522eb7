"""Counts of frames and tokens equal what a model returns, for every remainder of every stride."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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

TINY = make_tiny_spec().audio_spec
NUM_SAMPLES = st.integers(min_value=1, max_value=TINY.window_samples)


@pytest.fixture(scope="module")
def model() -> ComposedAudioLM:
    torch.manual_seed(0)
    model = ComposedAudioLM(make_tiny_spec(), make_tiny_config(), make_tiny_tokenizer())
    return model.eval()


@torch.no_grad()
def encode(model: ComposedAudioLM, lengths: list[int]) -> tuple[EncoderOutput, torch.Tensor]:
    """Encoder output and audio embeddings of a batch of audio of these lengths, in samples."""
    num_frames = torch.tensor([count_mel_frames(length, TINY) for length in lengths])
    mel = torch.randn(len(lengths), 80, int(num_frames.max()))
    features = model.encode_audio(mel, num_frames)
    return features, model.project_audio(features)


@given(num_samples=NUM_SAMPLES)
def test_counts_are_what_the_model_returns(model: ComposedAudioLM, num_samples: int) -> None:
    features, embeddings = encode(model, [num_samples])
    num_frames = count_encoder_frames(num_samples, TINY)
    assert features.lengths.tolist() == [num_frames]
    assert features.hidden_states.shape == (1, num_frames, 32)
    assert embeddings.shape == (count_audio_tokens(num_samples, TINY), 32)


@given(lengths=st.lists(NUM_SAMPLES, min_size=2, max_size=4))
def test_counts_of_a_batch_are_the_sum_of_its_audio(
    model: ComposedAudioLM, lengths: list[int]
) -> None:
    features, embeddings = encode(model, lengths)
    assert features.lengths.tolist() == [count_encoder_frames(length, TINY) for length in lengths]
    assert len(embeddings) == sum(count_audio_tokens(length, TINY) for length in lengths)


@pytest.mark.parametrize("extra_frames", range(8))
def test_every_remainder_of_a_token(model: ComposedAudioLM, extra_frames: int) -> None:
    """Audio may end after each of the 8 mel frames of a token, and one sample before or after."""
    edge = 160 * (8 + extra_frames)
    for num_samples in (edge - 1, edge, edge + 1):
        _, embeddings = encode(model, [num_samples])
        assert len(embeddings) == count_audio_tokens(num_samples, TINY)


@pytest.mark.parametrize(
    ("num_samples", "counts"),
    [
        *((1, (1, 1, 1)), (160, (1, 1, 1)), (161, (2, 1, 1)), (321, (3, 2, 1))),
        *((1280, (8, 4, 1)), (1281, (9, 5, 2)), (16_000, (100, 50, 13))),
    ],
)
def test_mel_frames_encoder_frames_and_tokens(
    num_samples: int, counts: tuple[int, int, int]
) -> None:
    assert counts == (
        count_mel_frames(num_samples, TINY),
        count_encoder_frames(num_samples, TINY),
        count_audio_tokens(num_samples, TINY),
    )


def test_floor_tokens_rounds_down() -> None:
    floor = AudioTokenizerSpec(16_000, 160, 2, 2, 480_000, floor_tokens=True)
    samples = (1, 320, 640, 960, 1280)
    assert [count_audio_tokens(length, floor) for length in samples] == [0, 0, 1, 1, 2]


@given(num_samples=NUM_SAMPLES, more_samples=st.integers(min_value=0, max_value=5000))
def test_longer_audio_never_has_fewer_tokens(num_samples: int, more_samples: int) -> None:
    longer = count_audio_tokens(num_samples + more_samples, TINY)
    assert count_audio_tokens(num_samples, TINY) <= longer


@given(numerator=st.integers(0, 10**18), denominator=st.integers(1, 10**6))
def test_ceil_div_is_exact(numerator: int, denominator: int) -> None:
    quotient = ceil_div(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator


def test_rates_in_seconds() -> None:
    assert (TINY.tokens_per_second, TINY.window_seconds) == (12.5, 2.0)


@given(num_samples=st.integers(min_value=1, max_value=5 * TINY.window_samples))
def test_long_audio_has_the_tokens_of_its_windows(num_samples: int) -> None:
    lengths = compute_window_lengths(num_samples, TINY)
    assert sum(lengths) == num_samples
    assert all(length == TINY.window_samples for length in lengths[:-1])
    tokens = [count_audio_tokens(length, TINY) for length in lengths]
    assert count_audio_tokens(num_samples, TINY) == sum(tokens)
    assert count_audio_tokens(num_samples, TINY, max_windows=1) == tokens[0]


def test_a_remainder_without_a_token_is_left_out() -> None:
    """Qwen2-Audio needs two encoder frames for a token, and 320 samples are one."""
    spec = AudioTokenizerSpec(16_000, 160, 2, 2, 480_000, floor_tokens=True, right_context=2)
    assert compute_window_lengths(480_320, spec) == (480_000,)
    assert compute_window_lengths(480_321, spec) == (480_000, 321)
    assert compute_window_lengths(320, spec) == (320,)
    assert count_audio_tokens(320, spec) == 0


def test_counted_padding_has_tokens_and_uncounted_has_none() -> None:
    voxtral = AudioTokenizerSpec(16_000, 160, 2, 4, 480_000, pad_mode="counted")
    samples = (1, 480_000, 480_001)
    assert [count_audio_tokens(length, voxtral) for length in samples] == [375, 375, 750]
    glm_asr = AudioTokenizerSpec(
        16_000, 160, 2, 4, 480_000, floor_tokens=True, pad_mode="uncounted"
    )
    assert [count_audio_tokens(length, glm_asr) for length in (16_000, 480_000)] == [12, 375]


def test_convolutions_over_chunks_round_up_in_each() -> None:
    """Qwen3-ASR makes 13 tokens of 100 mel frames."""
    spec = AudioTokenizerSpec(16_000, 160, 8, 1, 480_000, chunk_frames=100)
    samples = [160 * num_frames for num_frames in (1, 100, 101, 250)]
    assert [count_audio_tokens(length, spec) for length in samples] == [1, 13, 14, 33]
    assert spec.tokens_per_second == 13


def test_a_reflected_mel_has_no_frame_for_less_than_a_hop() -> None:
    """Qwen3-ASR pads to half a second; 159 samples more have no frame."""
    spec = AudioTokenizerSpec(
        16_000, 160, 8, 1, 480_000, chunk_frames=100, reflect_right=True, min_samples=8_000
    )
    assert [count_mel_frames(length, spec) for length in (8_000, 8_159, 8_160)] == [50, 50, 51]
    assert compute_window_lengths(1, spec) == (8_000,)
    assert [count_audio_tokens(length, spec) for length in (1, 8_000, 9_120)] == [7, 7, 8]
    assert compute_window_lengths(480_100, spec) == (480_000,)
