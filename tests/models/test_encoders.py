"""Encoders that take waves: equal to transformers' own, a batch like its clips, counted exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from dlm.config.model_schema import ComposedModelConfig
from dlm.errors import ModelError
from dlm.models.adapters import get_trainable_parameters
from dlm.models.audio_lm import EncoderOutput
from dlm.models.encoders import build_encoder, get_encoder_dims, run_encoder, run_whisper_encoder
from dlm.models.load import load_model
from dlm.plan.audio_lengths import count_encoder_frames
from dlm.plan.model_spec import LayerSelection
from dlm.plan.resolve import resolve_model_spec
from dlm.plan.types import AdapterSpec, ModelPlan
from tests.tiny_models import make_tiny_config
from tests.waveform_encoders import (
    WAVEFORM_FAMILIES,
    build_waveform_encoder,
    get_waveform_audio_spec,
    make_waveform_config,
)

LAYERS: tuple[LayerSelection, ...] = ("last", 1, 2, "weighted_sum")
IDLE = {  # what a class holds and never asks
    "unispeech-sat": "masked_spec_embed",
    "wav2vec2-conformer": "encoder.pos_conv_embed",
}
WHISPER = make_tiny_config()["encoders"][0]["config"] | {"encoder_layers": 2}


@pytest.fixture(scope="module")
def encoders() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    return {
        family: build_waveform_encoder(family).requires_grad_(False) for family in WAVEFORM_FAMILIES
    }


def wave(samples: int, seed: int = 0) -> torch.Tensor:
    """Noise that is neither centred nor of unit variance."""
    return 0.1 + 0.3 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def heard_alone(
    encoder: PreTrainedModel, clip: torch.Tensor, layer: LayerSelection
) -> EncoderOutput:
    return run_encoder(
        encoder, clip[None, None], torch.tensor([len(clip)]), layer=layer, encoder_input="wave"
    )


def theirs(encoder: PreTrainedModel, config: dict[str, Any], clip: torch.Tensor) -> Any:
    """What transformers' class hears, by its own feature extractor."""
    reference = AutoModel.from_config(AutoConfig.for_model(**config)).eval()
    reference.load_state_dict(encoder.state_dict(), strict=False)
    if config["model_type"] == "wav2vec2-bert":
        extractor = SeamlessM4TFeatureExtractor(80, 16_000, 80)
    else:
        normalises = (
            config.get("feat_extract_norm") == "layer" or "data2vec" in config["model_type"]
        )
        extractor = Wav2Vec2FeatureExtractor(do_normalize=normalises)
    taken = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt")
    return reference(**taken, output_hidden_states=True)


def of_layer(heard: Any, layer: LayerSelection) -> torch.Tensor:
    if layer == "last":
        return heard.last_hidden_state
    return (
        torch.cat(heard.hidden_states, 2) if layer == "weighted_sum" else heard.hidden_states[layer]
    )


@torch.no_grad()
@pytest.mark.parametrize("family", WAVEFORM_FAMILIES)
def test_one_clip_is_heard_as_by_its_class(encoders, family: str) -> None:
    encoder, clip = encoders[family], wave(4000)
    found = theirs(encoder, make_waveform_config(family), clip)
    for layer in LAYERS:
        heard, want = heard_alone(encoder, clip, layer), of_layer(found, layer)
        count = int(heard.lengths[0])
        assert heard.hidden_states.shape[1] == count and abs(want.shape[1] - count) <= 1
        assert torch.allclose(heard.hidden_states, want[:, :count], atol=1e-5)
        states, width = get_encoder_dims(encoder, layer)
        assert heard.hidden_states.shape[2] == states * width
        assert states == (3 if layer == "weighted_sum" else 1)


@torch.no_grad()
@pytest.mark.parametrize("layer", ["last", "weighted_sum"])
@pytest.mark.parametrize("family", WAVEFORM_FAMILIES)
def test_a_batch_hears_what_each_clip_hears(encoders, family: str, layer: LayerSelection) -> None:
    lengths = [560, 719, 4000, 2500]
    clips = [wave(length, seed) for seed, length in enumerate(lengths)]
    batch = torch.full((len(lengths), 1, 4100), 7.0)  # what lies past the end must not matter
    for row, clip in zip(batch, clips, strict=True):
        row[0, : len(clip)] = clip
    together = run_encoder(
        encoders[family], batch, torch.tensor(lengths), layer=layer, encoder_input="wave"
    )
    for heard, count, clip in zip(together.hidden_states, together.lengths, clips, strict=True):
        alone = heard_alone(encoders[family], clip, layer)
        assert count == alone.lengths[0] == alone.hidden_states.shape[1]
        assert torch.allclose(heard[:count], alone.hidden_states[0], atol=1e-5)
        assert not heard[count:].any()


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2_group", "wav2vec2-bert"])
def test_frames_are_counted_before_they_are_heard(encoders, family: str) -> None:
    strides = get_waveform_audio_spec(family)
    shortest = 560 if family == "wav2vec2-bert" else 400
    assert strides.min_samples == shortest
    for samples in (*range(shortest, shortest + 1300, 79), 719, 720, 721, 16_000, 16_399):
        heard = heard_alone(encoders[family], wave(samples), "last")
        assert (
            heard.hidden_states.shape[1]
            == int(heard.lengths[0])
            == count_encoder_frames(samples, strides)
        )
        assert heard.hidden_states.isfinite().all()


@torch.no_grad()
def test_a_release_may_say_that_it_normalises(encoders) -> None:
    """The level of a clip is heard where no norm takes it away."""
    clip = wave(1000)
    for family, told, same in (("wav2vec2", False, False), ("wavlm", True, True)):
        other = build_encoder({**make_waveform_config(family), "do_normalize": told}).eval()
        other.load_state_dict(encoders[family].state_dict())
        ours = [heard_alone(other, loud * clip, "last").hidden_states for loud in (1.0, 3.0)]
        assert torch.allclose(*ours, atol=1e-4) is same


@pytest.mark.parametrize("family", WAVEFORM_FAMILIES)
def test_nothing_is_dropped_or_masked_while_it_learns(family: str) -> None:
    quiet = {f"{name}_dropout": 0.0 for name in ("hidden", "activation", "attention", "feat_proj")}
    harsh = {"layerdrop": 0.9, "mask_time_prob": 0.9, "mask_feature_prob": 0.9, "add_adapter": True}
    config = make_waveform_config(family) | quiet | harsh | {"conformer_conv_dropout": 0.0}
    encoder = build_encoder(config).train()
    clip = wave(1500)
    learned, heard = (
        heard_alone(each, clip, "last").hidden_states for each in (encoder, encoder.eval())
    )
    assert torch.allclose(learned, heard, atol=1e-5)
    learned.sum().backward()
    idle = [name for name, each in encoder.named_parameters() if each.grad is None]
    assert [name for name in idle if not name.startswith(IDLE.get(family, "?"))] == []


@pytest.mark.parametrize("family", ["wav2vec2", "data2vec-audio"])
def test_convolutions_that_stay_keep_nothing(family: str) -> None:
    """Where only layers learn, the wave leaves no gradients behind: they would fill a GPU."""
    encoder = build_waveform_encoder(family).train().requires_grad_(False)
    encoder.encoder.layers.requires_grad_(True)
    taken: list[torch.Tensor] = []
    encoder.feature_projection.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    assert heard_alone(encoder, wave(1500), "last").hidden_states.requires_grad
    assert [each.requires_grad for each in taken] == [False]


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "wav2vec2-bert"])
def test_every_low_rank_weight_is_asked(tmp_path: Path, family: str) -> None:
    parts = {
        "encoder": {"from_scratch": make_waveform_config(family)},
        "projector": {"kind": "stack", "stride": 4, "hidden": 16},
        "lm": {"from_scratch": make_tiny_config()["lm"], "tokenizer": "bytes"},
    }
    base = resolve_model_spec(ComposedModelConfig.model_validate(parts), tmp_path)
    lora = AdapterSpec("lora", 2, 4, 0.0, ("encoder",), None)
    model = load_model(ModelPlan(base, lora, "cpu", "fp32", "fp32", 0)).train()
    model.encode_audio(wave(1500)[None, None], torch.tensor([1500])).hidden_states.sum().backward()
    slots = get_trainable_parameters(model)
    assert any("intermediate_dense" in name or "ffn" in name for name in slots)
    assert [name for name, each in slots.items() if each.grad is None] == []


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match=r"qwen3 is not the class .*whisper, .*wavlm"):
        build_encoder({"model_type": "qwen3"})
    with pytest.raises(ModelError, match=r"not the config of a wav2vec2 \(.*conv_dim") as found:
        build_encoder(make_waveform_config("wav2vec2") | {"conv_dim": [8]})
    assert "\n" not in str(found.value)
    with pytest.raises(ModelError, match="has no layer 3; .* 1 to 2"):
        get_encoder_dims(build_waveform_encoder("wavlm"), 3)


@torch.no_grad()
def test_whispers_layers_are_those_of_transformers() -> None:
    encoder = build_encoder(WHISPER).eval()
    mel = torch.randn(2, 80, 200)
    theirs = encoder(mel, output_hidden_states=True)
    for layer in LAYERS:
        ours = run_encoder(encoder, mel, torch.tensor([200, 200]), layer=layer, encoder_input="mel")
        assert torch.allclose(ours.hidden_states, of_layer(theirs, layer), atol=1e-5)
        assert ours.hidden_states.shape[2] == torch.tensor(get_encoder_dims(encoder, layer)).prod()
        ragged = run_encoder(
            encoder, mel, torch.tensor([200, 77]), layer=layer, encoder_input="mel"
        )
        alone = run_encoder(
            encoder, mel[1:, :, :77], torch.tensor([77]), layer=layer, encoder_input="mel"
        )
        assert torch.allclose(ragged.hidden_states[1, :39], alone.hidden_states[0], atol=1e-5)
        assert not ragged.hidden_states[1, 39:].any()


@torch.no_grad()
@pytest.mark.parametrize("bins", [80, 128])
def test_whisper_makes_its_own_mel_of_a_wave(bins: int) -> None:
    """At full length the one of its feature extractor; a shorter one is heard without the rest."""
    encoder = build_encoder(WHISPER | {"num_mel_bins": bins}).eval()
    extractor = WhisperFeatureExtractor(bins, chunk_length=2)
    clip = wave(32_000)
    mel = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
    ours = heard_alone(encoder, clip, "last")
    assert torch.allclose(ours.hidden_states, encoder(mel).last_hidden_state, atol=2e-5)
    batch = torch.stack([clip, clip])[:, None]
    both = run_encoder(
        encoder, batch, torch.tensor([32_000, 5001]), layer="last", encoder_input="wave"
    )
    assert both.lengths.tolist() == [100, 16]
    short = heard_alone(encoder, clip[:5001], "last").hidden_states[0]
    assert torch.allclose(both.hidden_states[1, :16], short, atol=1e-5)
    assert not both.hidden_states[1, 16:].any()


@torch.no_grad()
@pytest.mark.parametrize("tower", ["qwen2_audio_encoder", "voxtral_encoder"])
def test_a_tower_is_a_whisper(tower: str) -> None:
    """Its own forward, but for the mean over two frames that Qwen2-Audio's ends with."""
    config = AutoConfig.for_model(
        tower,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        max_source_positions=50,
        num_mel_bins=80,
    )
    reference = AutoModel.from_config(config).eval()
    encoder = build_encoder(config.to_dict()).eval()
    encoder.load_state_dict(reference.state_dict())
    mel, frames = torch.randn(1, 80, 100), torch.tensor([100])
    theirs = reference(mel, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(run_whisper_encoder(encoder, mel, frames, 1), theirs, atol=1e-5)
