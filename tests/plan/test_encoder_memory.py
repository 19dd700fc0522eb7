"""The memory of waveform encoders: estimates against encoders with convolutions of real width."""

from dataclasses import replace

import pytest
import torch

from dlm.models.encoders import build_encoder, run_encoder
from dlm.plan.audio_lengths import count_audio_tokens
from dlm.plan.encoder_lm_specs import derive_encoder_spec
from dlm.plan.memory import (
    estimate_activation_bytes,
    estimate_encoder_workspace_bytes,
    estimate_feature_bytes,
    tokens_to_encoder_frames,
)
from dlm.plan.model_spec import ComponentRef, CompositionSpec, LayerSelection, ModelSpec
from dlm.plan.types import AdapterSpec, ModelPlan, SequenceLengths
from tests.plan.test_memory import PeakMemoryMeter
from tests.tiny_models import SAMPLE_RATE, make_tiny_spec
from tests.waveform_encoders import make_waveform_config

SAMPLES = SAMPLE_RATE // 2
FAMILIES = [("wav2vec2", 1.25), ("wav2vec2_group", 1.25), ("wavlm", 1.25), ("wav2vec2-bert", 4.0)]
SMALL_LAYERS = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
DROPOUTS = ("hidden", "activation", "attention", "feat_proj")


def make_config(family: str) -> dict:
    """Convolutions as wide as in released models, and small layers."""
    dropouts = {f"{name}_dropout": 0.0 for name in DROPOUTS}
    return {**make_waveform_config(family), **SMALL_LAYERS, **dropouts, "conv_dim": [512] * 7}


def make_spec(config: dict, layer: LayerSelection = "last") -> ModelSpec:
    """The spec of a model with such an encoder."""
    encoder_spec = derive_encoder_spec(config, layer, where="test")
    tiny_spec = make_tiny_spec()
    return replace(
        tiny_spec,
        encoder_input="wave",
        num_mel_bins=0,
        audio_spec=replace(encoder_spec.audio_spec, window_samples=SAMPLES, projector_stride=4),
        sizes=replace(tiny_spec.sizes, encoder=encoder_spec.shape),
        composition=CompositionSpec(
            (ComponentRef("", None, config, layer),), {"kind": "stack"}, ComponentRef("", None, {})
        ),
    )


def measure_peak_bytes(config: dict) -> int:
    """The most bytes alive at once while one window is encoded, with gradients if enabled."""
    encoder = build_encoder(config)
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    waveforms = torch.ones(1, 1, SAMPLES)
    with PeakMemoryMeter() as meter:
        output = run_encoder(
            encoder, waveforms, torch.tensor([SAMPLES]), layer="last", encoder_input="wave"
        )
        if torch.is_grad_enabled():
            output.hidden_states.sum().backward()
    return meter.peak_bytes


@pytest.mark.parametrize(("family", "max_ratio"), FAMILIES)
def test_workspace_of_a_frozen_encoder_is_bounded(family: str, max_ratio: float) -> None:
    config = make_config(family)
    with torch.no_grad():
        measured = measure_peak_bytes(config)
    assert (
        measured <= estimate_encoder_workspace_bytes(make_spec(config), 4) <= max_ratio * measured
    )


@pytest.mark.parametrize(("family", "max_ratio"), FAMILIES)
def test_activations_of_a_trained_encoder_are_bounded(family: str, max_ratio: float) -> None:
    config = make_config(family)
    spec, measured = make_spec(config), measure_peak_bytes(config)
    adapter = AdapterSpec("full", 8, 16, 0.0, ("encoder",), None)
    plan = ModelPlan(spec, adapter, "cpu", "fp32", "fp32", 0)
    num_tokens = count_audio_tokens(SAMPLES, spec.audio_spec)
    estimate = estimate_activation_bytes(plan, SequenceLengths(num_tokens, num_tokens, 0), 1)
    assert measured <= estimate <= max_ratio * measured


def test_encoder_output_is_counted_to_the_byte() -> None:
    """All hidden states count where the projector weights them."""
    layers: tuple[LayerSelection, ...] = ("last", 1, "weighted_sum")
    for layer in layers:
        config = make_config("wavlm")
        with torch.no_grad():
            waveforms, lengths = torch.ones(1, 1, SAMPLES), torch.tensor([SAMPLES])
            output = run_encoder(
                build_encoder(config), waveforms, lengths, layer=layer, encoder_input="wave"
            ).hidden_states
        assert estimate_feature_bytes(make_spec(config, layer), output.shape[1]) == output.nbytes


def test_encoder_frames_of_tokens() -> None:
    spec = make_spec(make_config("wavlm"))
    audio_spec = replace(spec.audio_spec, projector_stride=15, num_queries=3)
    assert tokens_to_encoder_frames(replace(spec, audio_spec=audio_spec), 30) == 150
    assert tokens_to_encoder_frames(spec, 30) == 120
