"""Encoders equal transformers' own, in a batch too, and their frames are counted exactly."""

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
UNUSED_PARAMETERS = {  # of transformers' classes
    "unispeech-sat": "masked_spec_embed",
    "wav2vec2-conformer": "encoder.pos_conv_embed",
}
WHISPER_CONFIG = make_tiny_config()["encoders"][0]["config"] | {"encoder_layers": 2}


@pytest.fixture(scope="module")
def encoders() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    return {
        family: build_waveform_encoder(family).requires_grad_(False) for family in WAVEFORM_FAMILIES
    }


def make_waveform(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Noise that has neither a mean of zero nor unit variance."""
    return 0.1 + 0.3 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def encode_one(
    encoder: PreTrainedModel, waveform: torch.Tensor, layer: LayerSelection
) -> EncoderOutput:
    lengths = torch.tensor([len(waveform)])
    return run_encoder(encoder, waveform[None, None], lengths, layer=layer, encoder_input="wave")


def run_reference(encoder: PreTrainedModel, config: dict[str, Any], waveform: torch.Tensor) -> Any:
    """The output of transformers' class with its own feature extractor."""
    reference = AutoModel.from_config(AutoConfig.for_model(**config)).eval()
    reference.load_state_dict(encoder.state_dict(), strict=False)
    model_type = config["model_type"]
    if model_type == "wav2vec2-bert":
        extractor = SeamlessM4TFeatureExtractor(80, 16_000, 80)
    else:
        normalize = config.get("feat_extract_norm") == "layer" or "data2vec" in model_type
        extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    features = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    return reference(**features, output_hidden_states=True)


def select_layer(output: Any, layer: LayerSelection) -> torch.Tensor:
    if layer == "last":
        return output.last_hidden_state
    if layer == "weighted_sum":
        return torch.cat(output.hidden_states, 2)
    return output.hidden_states[layer]


@torch.no_grad()
@pytest.mark.parametrize("family", WAVEFORM_FAMILIES)
def test_one_waveform_is_encoded_as_by_its_class(encoders, family: str) -> None:
    encoder, waveform = encoders[family], make_waveform(4000)
    reference = run_reference(encoder, make_waveform_config(family), waveform)
    for layer in LAYERS:
        output, expected = encode_one(encoder, waveform, layer), select_layer(reference, layer)
        num_frames = int(output.lengths[0])
        assert output.hidden_states.shape[1] == num_frames
        assert abs(expected.shape[1] - num_frames) <= 1
        assert torch.allclose(output.hidden_states, expected[:, :num_frames], atol=1e-5)
        num_states, hidden_size = get_encoder_dims(encoder, layer)
        assert output.hidden_states.shape[2] == num_states * hidden_size
        assert num_states == (3 if layer == "weighted_sum" else 1)


@torch.no_grad()
@pytest.mark.parametrize("layer", ["last", "weighted_sum"])
@pytest.mark.parametrize("family", WAVEFORM_FAMILIES)
def test_padding_of_a_batch_changes_no_output(encoders, family: str, layer: LayerSelection) -> None:
    lengths = [560, 719, 4000, 2500]
    waveforms = [make_waveform(length, seed) for seed, length in enumerate(lengths)]
    batch = torch.full((len(lengths), 1, 4100), 7.0)  # padding that is not zero
    for padded, waveform in zip(batch, waveforms, strict=True):
        padded[0, : len(waveform)] = waveform
    output = run_encoder(
        encoders[family], batch, torch.tensor(lengths), layer=layer, encoder_input="wave"
    )
    for hidden, count, waveform in zip(
        output.hidden_states, output.lengths, waveforms, strict=True
    ):
        expected = encode_one(encoders[family], waveform, layer)
        assert count == expected.lengths[0] == expected.hidden_states.shape[1]
        assert torch.allclose(hidden[:count], expected.hidden_states[0], atol=1e-5)
        assert not hidden[count:].any()


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2_group", "wav2vec2-bert"])
def test_frames_are_as_many_as_the_plan_counts(encoders, family: str) -> None:
    audio_spec = get_waveform_audio_spec(family)
    shortest = 560 if family == "wav2vec2-bert" else 400
    assert audio_spec.min_samples == shortest
    for num_samples in (*range(shortest, shortest + 1300, 79), 719, 720, 721, 16_000, 16_399):
        output = encode_one(encoders[family], make_waveform(num_samples), "last")
        expected = count_encoder_frames(num_samples, audio_spec)
        assert output.hidden_states.shape[1] == int(output.lengths[0]) == expected
        assert output.hidden_states.isfinite().all()


@torch.no_grad()
def test_a_config_may_say_whether_waveforms_are_normalized(encoders) -> None:
    """Loudness changes the output exactly where nothing normalizes it."""
    waveform = make_waveform(1000)
    for family, do_normalize, is_same in (("wav2vec2", False, False), ("wavlm", True, True)):
        config = {**make_waveform_config(family), "do_normalize": do_normalize}
        encoder = build_encoder(config).eval()
        encoder.load_state_dict(encoders[family].state_dict())
        outputs = [encode_one(encoder, gain * waveform, "last").hidden_states for gain in (1, 3)]
        assert torch.allclose(*outputs, atol=1e-4) is is_same


@pytest.mark.parametrize("family", WAVEFORM_FAMILIES)
def test_training_drops_no_layer_and_masks_nothing(family: str) -> None:
    names = ("hidden", "activation", "attention", "feat_proj")
    no_dropout = {f"{name}_dropout": 0.0 for name in names} | {"conformer_conv_dropout": 0.0}
    random = {"layerdrop": 0.9, "mask_time_prob": 0.9, "mask_feature_prob": 0.9}
    config = make_waveform_config(family) | no_dropout | random | {"add_adapter": True}
    encoder, waveform = build_encoder(config), make_waveform(1500)
    output = encode_one(encoder.train(), waveform, "last").hidden_states
    expected = encode_one(encoder.eval(), waveform, "last").hidden_states
    if family != "wav2vec2-conformer":  # its batch norm uses the statistics of the batch
        assert torch.allclose(output, expected, atol=1e-5)
    output.sum().backward()
    without_grad = [name for name, value in encoder.named_parameters() if value.grad is None]
    unused = UNUSED_PARAMETERS.get(family, "?")
    assert [name for name in without_grad if not name.startswith(unused)] == []


@pytest.mark.parametrize("family", ["wav2vec2", "data2vec-audio"])
def test_frozen_convolutions_store_no_activations(family: str) -> None:
    """Where only layers train, the waveform needs no gradient: it would fill a GPU."""
    encoder = build_waveform_encoder(family).train().requires_grad_(False)
    encoder.encoder.layers.requires_grad_(True)
    needs_grad: list[bool] = []
    encoder.feature_projection.register_forward_pre_hook(
        lambda module, args: needs_grad.append(args[0].requires_grad)
    )
    assert encode_one(encoder, make_waveform(1500), "last").hidden_states.requires_grad
    assert needs_grad == [False]


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "wav2vec2-bert"])
def test_every_low_rank_weight_of_an_encoder_gets_a_gradient(tmp_path: Path, family: str) -> None:
    fields = {
        "encoder": {"from_scratch": make_waveform_config(family)},
        "projector": {"kind": "stack", "stride": 4, "hidden": 16},
        "lm": {"from_scratch": make_tiny_config()["lm"], "tokenizer": "bytes"},
    }
    spec = resolve_model_spec(ComposedModelConfig.model_validate(fields), tmp_path)
    adapter = AdapterSpec("lora", 2, 4, 0.0, ("encoder",), None)
    model = load_model(ModelPlan(spec, adapter, "cpu", "fp32", "fp32", 0)).train()
    output = model.encode_audio(make_waveform(1500)[None, None], torch.tensor([1500]))
    output.hidden_states.sum().backward()
    parameters = get_trainable_parameters(model)
    assert any("intermediate_dense" in name or "ffn" in name for name in parameters)
    assert [name for name, value in parameters.items() if value.grad is None] == []


def test_an_unknown_class_a_bad_config_and_a_missing_layer_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"qwen3 is not a supported class .*whisper, .*wavlm"
    ) as caught:
        build_encoder({"model_type": "qwen3"})
    assert caught.value.code == "model.not_an_encoder"
    with pytest.raises(ModelError, match=r"not the config of a wav2vec2 \(.*conv_dim") as caught:
        build_encoder(make_waveform_config("wav2vec2") | {"conv_dim": [8]})
    assert caught.value.code == "model.bad_config"
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="has no layer 3; .* 1 to 2") as caught:
        get_encoder_dims(build_waveform_encoder("wavlm"), 3)
    assert caught.value.code == "model.no_such_layer"


@torch.no_grad()
def test_whisper_layers_equal_those_of_transformers() -> None:
    encoder = build_encoder(WHISPER_CONFIG).eval()
    log_mel = torch.randn(2, 80, 200)
    reference = encoder(log_mel, output_hidden_states=True)
    for layer in LAYERS:

        def encode(
            features: torch.Tensor, *lengths: int, layer: LayerSelection = layer
        ) -> torch.Tensor:
            return run_encoder(
                encoder, features, torch.tensor(lengths), layer=layer, encoder_input="mel"
            ).hidden_states

        output = encode(log_mel, 200, 200)
        assert torch.allclose(output, select_layer(reference, layer), atol=1e-5)
        assert output.shape[2] == torch.tensor(get_encoder_dims(encoder, layer)).prod()
        padded, expected = encode(log_mel, 200, 77)[1], encode(log_mel[1:, :, :77], 77)[0]
        assert torch.allclose(padded[:39], expected, atol=1e-5)
        assert not padded[39:].any()


@torch.no_grad()
def test_padding_of_log_mels_changes_no_output_of_whisper() -> None:
    encoder = build_encoder(WHISPER_CONFIG).eval()
    lengths = [1, 2, 3, 57, 128, 199, 200]
    log_mels = [torch.randn(80, length) for length in lengths]
    batch = torch.full((len(lengths), 80, 200), 7.0)  # padding that is not zero
    for padded, log_mel in zip(batch, log_mels, strict=True):
        padded[:, : log_mel.shape[1]] = log_mel
    output = run_whisper_encoder(encoder, batch, torch.tensor(lengths))
    for hidden, log_mel in zip(output, log_mels, strict=True):
        lengths = torch.tensor([log_mel.shape[1]])
        expected = run_whisper_encoder(encoder, log_mel[None], lengths)[0]
        assert torch.allclose(hidden[: len(expected)], expected, atol=1e-5)
        assert not hidden[len(expected) :].any()


@torch.no_grad()
@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_whisper_computes_its_own_log_mel_of_a_waveform(num_mel_bins: int) -> None:
    """At full length that of its feature extractor; a shorter one without the padding."""
    encoder = build_encoder(WHISPER_CONFIG | {"num_mel_bins": num_mel_bins}).eval()
    extractor = WhisperFeatureExtractor(num_mel_bins, chunk_length=2)
    waveform = make_waveform(32_000)
    features = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    expected = encoder(features["input_features"]).last_hidden_state
    hidden = encode_one(encoder, waveform, "last").hidden_states
    assert torch.allclose(hidden, expected, atol=2e-5)
    batch, lengths = torch.stack([waveform, waveform])[:, None], torch.tensor([32_000, 5001])
    output = run_encoder(encoder, batch, lengths, layer="last", encoder_input="wave")
    assert output.lengths.tolist() == [100, 16]
    short = encode_one(encoder, waveform[:5001], "last").hidden_states[0]
    assert torch.allclose(output.hidden_states[1, :16], short, atol=1e-5)
    assert not output.hidden_states[1, 16:].any()


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["qwen2_audio_encoder", "voxtral_encoder"])
def test_the_encoder_of_an_audio_language_model_runs_as_whisper(model_type: str) -> None:
    """Equal to its own forward, before the mean over two frames that ends Qwen2-Audio's."""
    config = AutoConfig.for_model(
        model_type,
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
    log_mel, lengths = torch.randn(1, 80, 100), torch.tensor([100])
    expected = reference(log_mel, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(run_whisper_encoder(encoder, log_mel, lengths, 1), expected, atol=1e-5)
