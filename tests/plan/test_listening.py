"""What hearing takes in bytes, told from above, and seen in encoders of the real convolutions."""

from dataclasses import replace

import pytest
import torch

from dlm.model.encoder import build, hear
from dlm.plan.bases import Base, Layer, Part, Recipe
from dlm.plan.frames import tokens
from dlm.plan.hearing import hearing_of
from dlm.plan.listening import feature_bytes, frames_of, working_bytes
from dlm.plan.memory import passing_bytes
from dlm.plan.plan import Adapter, ModelPlan
from dlm.plan.rows import RowSize
from tests.plan.test_memory import Meter
from tests.tiny import RATE, tiny_base
from tests.waves import wave_config

SAMPLES = RATE // 2
FAMILIES = [("wav2vec2", 1.25), ("wav2vec2_group", 1.25), ("wavlm", 1.25), ("wav2vec2-bert", 4.0)]
SHAPE = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
DROPOUTS = ("hidden", "activation", "attention", "feat_proj")


def config_of(family: str) -> dict:
    """Convolutions as wide as released ones, and small layers."""
    quiet = {f"{name}_dropout": 0.0 for name in DROPOUTS}
    return {**wave_config(family), **SHAPE, **quiet, "conv_dim": [512] * 7}


def base_of(config: dict, layer: Layer = "last") -> Base:
    """The row of a base that such an encoder hears for."""
    found = hearing_of(config, layer, where="test")
    row = tiny_base()
    return replace(
        row,
        ear="wave",
        bins=0,
        strides=replace(found.strides, window=SAMPLES, projector=4),
        sizes=replace(row.sizes, encoder=found.tower),
        recipe=Recipe((Part("", None, config, layer),), {"kind": "stack"}, Part("", None, {})),
    )


def most_held(config: dict) -> int:
    """The most bytes alive at once while one window is heard, and learned where that is asked."""
    encoder = build(config)
    for each in encoder.parameters():
        each.grad = torch.zeros_like(each)
    waves = torch.ones(1, 1, SAMPLES)
    with Meter() as meter:
        heard = hear(encoder, waves, torch.tensor([SAMPLES]), layer="last", takes="wave")
        if torch.is_grad_enabled():
            heard.values.sum().backward()
    return meter.most


@pytest.mark.parametrize(("family", "factor"), FAMILIES)
def test_a_frozen_encoder_at_work(family: str, factor: float) -> None:
    config = config_of(family)
    with torch.no_grad():
        found = most_held(config)
    assert found <= working_bytes(base_of(config), 4) <= factor * found


@pytest.mark.parametrize(("family", "factor"), FAMILIES)
def test_an_encoder_that_learns(family: str, factor: float) -> None:
    config = config_of(family)
    base, found = base_of(config), most_held(config)
    adapter = Adapter("full", 8, 16, 0.0, ("encoder",), None)
    drawn = ModelPlan(base, adapter, "cpu", "fp32", "fp32", 0)
    sound = tokens(SAMPLES, base.strides)
    told = passing_bytes(drawn, RowSize(sound, sound, 0), 1)
    assert found <= told <= factor * found


def test_what_is_heard_of_a_row_is_counted_to_the_byte() -> None:
    """The features of a batch: all hidden states where the projector weighs them."""
    layers: tuple[Layer, ...] = ("last", 1, "weighted_sum")
    for layer in layers:
        config = config_of("wavlm")
        with torch.no_grad():
            waves, lengths = torch.ones(1, 1, SAMPLES), torch.tensor([SAMPLES])
            heard = hear(build(config), waves, lengths, layer=layer, takes="wave").values
        assert feature_bytes(base_of(config, layer), heard.shape[1]) == heard.nbytes


def test_frames_behind_the_tokens_of_queries() -> None:
    base = base_of(config_of("wavlm"))
    strides = replace(base.strides, projector=15, queries=3)
    assert frames_of(replace(base, strides=strides), 30) == 150
    assert frames_of(base, 30) == 120
