"""What hearing takes in bytes, told from above, and seen in encoders of the real convolutions."""

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
from tests.plan.test_memory import Meter
from tests.tiny_models import SAMPLE_RATE, make_tiny_spec
from tests.waveform_encoders import make_waveform_config

SAMPLES = SAMPLE_RATE // 2
FAMILIES = [("wav2vec2", 1.25), ("wav2vec2_group", 1.25), ("wavlm", 1.25), ("wav2vec2-bert", 4.0)]
SHAPE = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
DROPOUTS = ("hidden", "activation", "attention", "feat_proj")


def config_of(family: str) -> dict:
    """Convolutions as wide as released ones, and small layers."""
    quiet = {f"{name}_dropout": 0.0 for name in DROPOUTS}
    return {**make_waveform_config(family), **SHAPE, **quiet, "conv_dim": [512] * 7}


def base_of(config: dict, layer: LayerSelection = "last") -> ModelSpec:
    """The row of a base that such an encoder hears for."""
    found = derive_encoder_spec(config, layer, where="test")
    row = make_tiny_spec()
    return replace(
        row,
        encoder_input="wave",
        num_mel_bins=0,
        audio_spec=replace(found.audio_spec, window_samples=SAMPLES, projector_stride=4),
        sizes=replace(row.sizes, encoder=found.shape),
        composition=CompositionSpec(
            (ComponentRef("", None, config, layer),), {"kind": "stack"}, ComponentRef("", None, {})
        ),
    )


def most_held(config: dict) -> int:
    """The most bytes alive at once while one window is heard, and learned where that is asked."""
    encoder = build_encoder(config)
    for each in encoder.parameters():
        each.grad = torch.zeros_like(each)
    waves = torch.ones(1, 1, SAMPLES)
    with Meter() as meter:
        heard = run_encoder(
            encoder, waves, torch.tensor([SAMPLES]), layer="last", encoder_input="wave"
        )
        if torch.is_grad_enabled():
            heard.hidden_states.sum().backward()
    return meter.most


@pytest.mark.parametrize(("family", "factor"), FAMILIES)
def test_a_frozen_encoder_at_work(family: str, factor: float) -> None:
    config = config_of(family)
    with torch.no_grad():
        found = most_held(config)
    assert found <= estimate_encoder_workspace_bytes(base_of(config), 4) <= factor * found


@pytest.mark.parametrize(("family", "factor"), FAMILIES)
def test_an_encoder_that_learns(family: str, factor: float) -> None:
    config = config_of(family)
    base, found = base_of(config), most_held(config)
    adapter = AdapterSpec("full", 8, 16, 0.0, ("encoder",), None)
    drawn = ModelPlan(base, adapter, "cpu", "fp32", "fp32", 0)
    sound = count_audio_tokens(SAMPLES, base.audio_spec)
    told = estimate_activation_bytes(drawn, SequenceLengths(sound, sound, 0), 1)
    assert found <= told <= factor * found


def test_what_is_heard_of_a_row_is_counted_to_the_byte() -> None:
    """The features of a batch: all hidden states where the projector weighs them."""
    layers: tuple[LayerSelection, ...] = ("last", 1, "weighted_sum")
    for layer in layers:
        config = config_of("wavlm")
        with torch.no_grad():
            waves, lengths = torch.ones(1, 1, SAMPLES), torch.tensor([SAMPLES])
            heard = run_encoder(
                build_encoder(config), waves, lengths, layer=layer, encoder_input="wave"
            ).hidden_states
        assert estimate_feature_bytes(base_of(config, layer), heard.shape[1]) == heard.nbytes


def test_frames_behind_the_tokens_of_queries() -> None:
    base = base_of(config_of("wavlm"))
    strides = replace(base.audio_spec, projector_stride=15, num_queries=3)
    assert tokens_to_encoder_frames(replace(base, audio_spec=strides), 30) == 150
    assert tokens_to_encoder_frames(base, 30) == 120
