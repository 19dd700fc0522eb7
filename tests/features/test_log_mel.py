"""The log-mel of a clip is Whisper's own, at the clip's true length."""

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRFeatureExtractor, WhisperFeatureExtractor

from dlm.features.log_mel import compute_log_mel
from tests.tiny_models import SAMPLE_RATE

LENGTHS = [1, 2, 159, 160, 161, 199, 200, 201, 399, 400, 401, 1600, 16_037, 31_999, 32_000]


@pytest.fixture(scope="module", params=[80, 128])
def reference(request: pytest.FixtureRequest) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=request.param, chunk_length=4)


def voice(samples: int) -> np.ndarray:
    """Audio that is loud from the first sample to the last."""
    time = np.arange(samples) / SAMPLE_RATE
    noise = np.random.default_rng(samples).normal(0, 0.05, samples)
    return (0.3 * np.sin(2 * np.pi * 440 * time) + noise).astype(np.float32)


@pytest.mark.parametrize("samples", LENGTHS)
def test_equals_whisper_on_frames_with_audio(
    samples: int, reference: WhisperFeatureExtractor
) -> None:
    bins = reference.feature_size
    mel = compute_log_mel(voice(samples), rate=SAMPLE_RATE, hop_length=160, num_mel_bins=bins)
    theirs = reference(
        voice(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt"
    ).input_features[0]
    assert mel.shape == (bins, -(-samples // 160))
    assert mel.dtype == torch.float32
    assert torch.allclose(mel, theirs[:, : mel.shape[1]], atol=1e-4)


@pytest.mark.parametrize("short", [0, 1, 159, 160, 199, 200, 201, 400])
def test_waveform_is_reflected_at_the_end_of_the_window(
    short: int, reference: WhisperFeatureExtractor
) -> None:
    """A clip that ends within 200 samples of the window is reflected into it."""
    segment = voice(4 * SAMPLE_RATE - short)
    mel = compute_log_mel(
        segment,
        rate=SAMPLE_RATE,
        hop_length=160,
        num_mel_bins=reference.feature_size,
        reflect_at=4 * SAMPLE_RATE,
    )
    theirs = reference(segment, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[0]
    assert torch.allclose(mel, theirs[:, : mel.shape[1]], atol=1e-4)


@pytest.mark.parametrize("samples", [8_000, 8_001, 8_159, 16_037])
def test_waveform_is_reflected_at_its_end_for_qwen3(samples: int) -> None:
    """As in Qwen3-ASR's own extractor, with no frame for a part of a hop."""
    how = {"sampling_rate": SAMPLE_RATE, "padding": True, "n_window": 0, "return_tensors": "pt"}
    theirs = Qwen3ASRFeatureExtractor()(voice(samples), **how).input_features[0]
    mel = compute_log_mel(
        voice(samples), rate=SAMPLE_RATE, hop_length=160, num_mel_bins=128, reflect_at=samples
    )
    assert mel.shape == theirs.shape
    assert torch.allclose(mel, theirs, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 160, 16_037])
def test_silence_is_finite_and_constant(samples: int) -> None:
    mel = compute_log_mel(
        np.zeros(samples, np.float32), rate=SAMPLE_RATE, hop_length=160, num_mel_bins=80
    )
    assert (mel == mel.flatten()[0]).all() and mel.isfinite().all()


def test_log_mel_is_relative_to_the_loudest_bin() -> None:
    mel = compute_log_mel(voice(8000), rate=SAMPLE_RATE, hop_length=160, num_mel_bins=80)
    assert mel.max() - mel.min() <= 2.0 + 1e-6


def test_input_waveform_is_not_modified() -> None:
    samples = voice(1000)
    before = samples.copy()
    compute_log_mel(samples, rate=SAMPLE_RATE, hop_length=160, num_mel_bins=80)
    assert (samples == before).all()
