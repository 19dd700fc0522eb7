"""Projectors: each kind's formula, exact counts, one scale, and what reaches what."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, relu, silu

from dlm.errors import ModelError
from dlm.models.audio_lm import EncoderOutput
from dlm.models.composed import ComposedAudioLM, load_composed_model, save_composed_model
from dlm.models.projectors import (
    PROJECTOR_CLASSES,
    Projector,
    build_projector,
    calibrate_output_scale,
)
from dlm.plan.audio_lengths import AudioTokenizerSpec, mel_frames_to_audio_tokens
from dlm.plan.projector_spec import PROJECTOR_CONFIG_CLASSES
from tests.tiny_models import (
    make_tiny_config,
    make_tiny_spec,
    make_tiny_tokenizer,
)

WIDTH, STRIDE, OUT = 6, 4, 10
LENGTHS = [9, 1, 12, 4, 7]
SMALL = {  # a shape of each kind, none of it as wide as another part
    "pool": {},
    "mlp": {"hidden": 14},
    "stack": {"hidden": 16},
    "concat": {"hidden": 14},
    "conv": {"hidden": 14},
    "qformer": {"hidden": 16, "heads": 2, "queries": 3},
}
SHAPES = [
    *({"kind": kind, **options} for kind, options in SMALL.items()),
    {"kind": "stack", "hidden": 16, "norm": "end"},
    {"kind": "concat", "hidden": 14, "activation": "gelu"},
    {"kind": "concat", "hidden": 14, "norm": True},
]
Weights = dict[str, torch.Tensor]

each_kind = pytest.mark.parametrize("kind", PROJECTOR_CONFIG_CLASSES)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s.values())))


def make_audio_spec(stride: int = STRIDE, queries: int = 1) -> AudioTokenizerSpec:
    return AudioTokenizerSpec(16_000, 160, 1, stride, 320_000, num_queries=queries)


def make_projector(
    kind: str,
    encoder_dims: tuple[tuple[int, int], ...] = ((1, WIDTH),),
    stride: int = STRIDE,
    **more: object,
) -> Projector:
    """A small projector as it begins."""
    torch.manual_seed(0)
    projector = build_projector(
        {"kind": kind, **SMALL[kind], **more},
        encoder_dims=encoder_dims,
        audio_spec=make_audio_spec(stride),
        out_features=OUT,
    )
    return projector.eval()


def randomize(projector: Projector) -> Projector:
    """A projector with random weights; at the start zeros and ones would hide a mistake."""
    with torch.no_grad():
        for each in projector.parameters():
            each.add_(0.3 * torch.randn(each.shape))
    return projector


def make_features(lengths: list[int] = LENGTHS, width: int = WIDTH, seed: int = 1) -> EncoderOutput:
    """Noise, that past the end of each window too."""
    torch.manual_seed(seed)
    return EncoderOutput(torch.randn(len(lengths), max(lengths), width), torch.tensor(lengths))


def list_frame_groups(
    features: EncoderOutput, stride: int = STRIDE
) -> list[tuple[torch.Tensor, int]]:
    """Every group of frames one by one, with zeros after the end; and how many are there."""
    frame_groups = []
    for values, length in zip(features.hidden_states, features.lengths.tolist(), strict=True):
        for start in range(0, length, stride):
            frames = values[start : min(start + stride, length)]
            group = torch.zeros(stride, values.shape[1])
            group[: len(frames)] = frames
            frame_groups.append((group, len(frames)))
    return frame_groups


def rms_norm(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * values / (values.square().mean() + 1e-6).sqrt()


def pool(weights: Weights, shape: dict, group: torch.Tensor, num_frames: int) -> torch.Tensor:
    mean = sum(group[:num_frames]) / num_frames
    return weights["leave.weight"] @ layer_norm(
        mean, (WIDTH,), weights["norm.weight"], weights["norm.bias"]
    )


def mlp(weights: Weights, shape: dict, group: torch.Tensor, num_frames: int) -> torch.Tensor:
    return weights["leave.weight"] @ gelu(weights["enter.weight"] @ group.flatten())


def stack(weights: Weights, shape: dict, group: torch.Tensor, num_frames: int) -> torch.Tensor:
    hidden = weights["enter.weight"] @ rms_norm(group.flatten(), weights["before.weight"])
    value, gate = hidden[:8], hidden[8:]
    hidden = silu(gate) * value
    if shape.get("norm") == "end":
        return rms_norm(weights["leave.weight"] @ hidden, weights["norm.weight"])
    return weights["leave.weight"] @ rms_norm(hidden, weights["norm.weight"])


def concat(weights: Weights, shape: dict, group: torch.Tensor, num_frames: int) -> torch.Tensor:
    activation = gelu if shape.get("activation") == "gelu" else relu
    hidden = activation(weights["enter.weight"] @ group.flatten() + weights["enter.bias"])
    token = weights["leave.weight"] @ hidden + weights["leave.bias"]
    return rms_norm(token, weights["norm.weight"]) if shape.get("norm") else token


def conv(weights: Weights, shape: dict, group: torch.Tensor, num_frames: int) -> torch.Tensor:
    step = sum(weights["conv.weight"][:, :, at] @ frame for at, frame in enumerate(group))
    hidden = relu(
        weights["enter.weight"] @ relu(step + weights["conv.bias"]) + weights["enter.bias"]
    )
    return weights["leave.weight"] @ hidden + weights["leave.bias"]


def attend(
    weights: Weights, name: str, query_input: torch.Tensor, key_input: torch.Tensor
) -> torch.Tensor:
    """Two heads of attention, one after the other."""
    maps = zip(
        weights[f"{name}.in_proj_weight"].chunk(3),
        weights[f"{name}.in_proj_bias"].chunk(3),
        strict=True,
    )
    query, key, value = (
        source @ weight.T + bias
        for source, (weight, bias) in zip((query_input, key_input, key_input), maps, strict=True)
    )
    heads = []
    for at in (slice(0, 8), slice(8, 16)):
        scores = query[:, at] @ key[:, at].T / math.sqrt(8)
        heads.append(scores.softmax(dim=-1) @ value[:, at])
    mixed = torch.cat(heads, dim=-1)
    return mixed @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


def qformer(weights: Weights, shape: dict, group: torch.Tensor, num_frames: int) -> torch.Tensor:
    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return layer_norm(values, (16,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(name: str, values: torch.Tensor) -> torch.Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    frames, tokens = linear("enter", group[:num_frames]), weights["queries"]
    for layer in ("layers.0", "layers.1"):
        query_input = norm(f"{layer}.norm1", tokens)
        tokens = tokens + attend(weights, f"{layer}.self_attn", query_input, query_input)
        query_input = norm(f"{layer}.norm2", tokens)
        tokens = tokens + attend(weights, f"{layer}.multihead_attn", query_input, frames)
        hidden = gelu(linear(f"{layer}.linear1", norm(f"{layer}.norm3", tokens)))
        tokens = tokens + linear(f"{layer}.linear2", hidden)
    return linear("leave", norm("norm", tokens))


FORMULAS: dict[str, Callable[[Weights, dict, torch.Tensor, int], torch.Tensor]] = {
    "pool": pool,
    "mlp": mlp,
    "stack": stack,
    "concat": concat,
    "conv": conv,
    "qformer": qformer,
}


def test_every_kind_has_a_class_a_config_and_a_formula() -> None:
    assert PROJECTOR_CLASSES.keys() == PROJECTOR_CONFIG_CLASSES.keys() == FORMULAS.keys()


@each_shape
@torch.no_grad()
def test_a_kind_computes_its_formula_group_by_group(shape: dict) -> None:
    projector, features = randomize(make_projector(**shape)), make_features()
    weights = projector.state_dict()
    tokens = [
        FORMULAS[shape["kind"]](weights, shape, group, num_frames)
        for group, num_frames in list_frame_groups(features)
    ]
    expected = torch.cat([token.view(-1, OUT) for token in tokens])
    torch.testing.assert_close(projector(features), expected)


@torch.no_grad()
def test_30_seconds_of_whisper_are_pooled_to_250_tokens() -> None:
    projector, features = make_projector("pool", stride=6), make_features([1500])
    pooled = nn.AdaptiveAvgPool1d(250)(features.hidden_states.transpose(1, 2)).transpose(1, 2)
    expected = projector.leave(projector.norm(pooled))[0]
    torch.testing.assert_close(projector(features), expected)


@torch.no_grad()
def test_conv_equals_a_strided_convolution() -> None:
    projector, features = randomize(make_projector("conv")), make_features([12, 12])
    steps = relu(projector.conv(features.hidden_states.transpose(1, 2))).transpose(1, 2)
    expected = projector.leave(relu(projector.enter(steps))).flatten(0, 1)
    torch.testing.assert_close(projector(features), expected)


def test_initial_weights_of_stack_and_mlp() -> None:
    projector = make_projector("stack")
    assert all((norm.weight == 0.4).all() for norm in (projector.before, projector.norm))
    assert not make_projector("mlp")(make_features()).any()


@each_kind
@pytest.mark.parametrize("stride", [1, 4, 7])
@torch.no_grad()
def test_tokens_are_as_many_as_the_plan_counts(kind: str, stride: int) -> None:
    projector, queries = make_projector(kind, stride=stride), SMALL[kind].get("queries", 1)
    for length in range(1, 18):
        counted = mel_frames_to_audio_tokens(length, make_audio_spec(stride, queries))
        assert projector(make_features([length])).shape == (counted, OUT)
    num_tokens = sum(
        mel_frames_to_audio_tokens(length, make_audio_spec(stride, queries)) for length in LENGTHS
    )
    assert len(projector(make_features())) == num_tokens


@each_kind
@torch.no_grad()
def test_a_batch_changes_no_token_of_a_window(kind: str) -> None:
    projector, features = randomize(make_projector(kind)), make_features()
    alone = [
        projector(EncoderOutput(values[None, :length], torch.tensor([length])))
        for values, length in zip(features.hidden_states, LENGTHS, strict=True)
    ]
    torch.testing.assert_close(projector(features), torch.cat(alone))


@each_kind
def test_gradients_reach_every_parameter(kind: str) -> None:
    """After a step, for what lies before a layer that begins at zero has none before."""
    projector = make_projector(kind, encoder_dims=((3, 4), (1, 5)))
    features, wanted = make_features(width=3 * 4 + 5), torch.randn(1)
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (projector(features) - wanted).square().mean().backward()
        optimizer.step()
    idle = [name for name, each in projector.named_parameters() if not each.grad.any()]
    assert not idle


@each_kind
def test_the_same_seed_makes_the_same_projector(kind: str) -> None:
    first, second = make_projector(kind), make_projector(kind)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize(
    "shape", [{"kind": "concat", "norm": True}, {"kind": "stack", "norm": "end"}]
)
@torch.no_grad()
def test_the_last_norm_is_fp32_under_autocast(shape: dict) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        tokens = make_projector(**shape)(make_features())
    assert tokens.dtype == torch.float32
    assert not torch.equal(tokens, tokens.bfloat16().float())


@each_kind
@pytest.mark.parametrize("scale", [0.4, "embeddings"])
@torch.no_grad()
def test_initial_tokens_have_the_rms_of_scale(kind: str, scale: float | str) -> None:
    square = {"hidden": OUT} if kind == "mlp" else {}
    projector, table = make_projector(kind, scale=scale, **square), 0.03 * torch.randn(300, OUT)
    calibrate_output_scale(projector, table)
    if kind == "mlp":
        projector.leave.weight.copy_(torch.eye(OUT))  # it hands on what it reads
    tokens = projector(make_features([400], seed=7))
    wanted = 0.4 if scale == 0.4 else table.square().mean().sqrt().item()
    assert tokens.square().mean().sqrt().item() == pytest.approx(wanted, rel=0.1)


def test_only_projectors_with_scale_have_an_output_scale() -> None:
    plain, scaled = make_projector("stack"), make_projector("stack", scale=0.4)
    assert scaled.state_dict().keys() - plain.state_dict().keys() == {"factor"}
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    calibrate_output_scale(plain, torch.ones(3, 3))
    calibrate_output_scale(scaled)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    first = scaled.factor.clone()
    torch.manual_seed(99)
    calibrate_output_scale(scaled)
    assert torch.equal(scaled.factor, first)
    assert first != 1


@pytest.mark.parametrize("table", [None, torch.zeros(4, OUT), torch.full((4, OUT), math.nan)])
def test_embeddings_without_an_rms_are_refused(table: torch.Tensor | None) -> None:
    with pytest.raises(ModelError, match="^projector: text embeddings .*; set scale to a number$"):
        calibrate_output_scale(make_projector("pool", scale="embeddings"), table)


@torch.no_grad()
def test_hidden_states_are_summed_with_softmax_weights() -> None:
    projector, single = (
        make_projector("concat", encoder_dims=((3, WIDTH),)),
        make_projector("concat"),
    )
    single.load_state_dict(projector.state_dict(), strict=False)
    features = make_features(width=3 * WIDTH)
    states = features.hidden_states.chunk(3, dim=-1)

    def alone(values: torch.Tensor) -> torch.Tensor:
        return single(EncoderOutput(values, features.lengths))

    torch.testing.assert_close(projector(features), alone(sum(states) / 3))
    projector.weighing["0"].copy_(torch.tensor([0.0, 1.0, 2.0]).log())
    torch.testing.assert_close(projector(features), alone((states[1] + 2 * states[2]) / 3))
    assert "weighing.0" not in single.state_dict()


@torch.no_grad()
def test_two_encoders_are_normalized_and_concatenated() -> None:
    both, single = (
        make_projector("mlp", encoder_dims=((1, 4), (2, WIDTH))),
        make_projector("mlp", encoder_dims=((1, 4 + WIDTH),)),
    )
    randomize(both)
    single.load_state_dict(both.state_dict(), strict=False)
    features = make_features(width=4 + 2 * WIDTH)
    first, *states = features.hidden_states.split([4, WIDTH, WIDTH], dim=-1)
    share = both.weighing["1"].softmax(dim=0)
    second = share[0] * states[0] + share[1] * states[1]
    joined = torch.cat([layer_norm(part, part.shape[-1:]) for part in (first, second)], dim=-1)
    torch.testing.assert_close(both(features), single(EncoderOutput(joined, features.lengths)))
    louder = torch.cat([100 * first, *states], dim=-1)
    torch.testing.assert_close(
        both(EncoderOutput(louder, features.lengths)), both(features), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", PROJECTOR_CONFIG_CLASSES)
@torch.no_grad()
def test_a_model_of_any_kind_is_saved_with_its_output_scale(kind: str, tmp_path: Path) -> None:
    small = {"scale": "embeddings", **SMALL[kind]}
    config = {**make_tiny_config(), "projector": {"kind": kind, **small}}
    model = ComposedAudioLM(make_tiny_spec(), config, make_tiny_tokenizer()).eval()
    calibrate_output_scale(model.projector, model.embed_tokens.weight)
    save_composed_model(model, tmp_path)
    loaded, features = load_composed_model(tmp_path), make_features(width=32)
    assert loaded.projector.factor != 1
    assert torch.equal(model.project_audio(features), loaded.project_audio(features))
