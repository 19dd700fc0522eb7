"""Projector options: strides from rates, parameter counts, learning rates, and what is refused."""

import pytest

from dlm.errors import ModelError
from dlm.models.projectors import build_projector
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.projector_spec import (
    EncoderDims,
    compute_projector_strides,
    count_projector_parameters,
    get_projector_learning_rate,
    parse_projector_config,
)

WHISPER_FRAMES_PER_SECOND = 50.0
PROJECTORS = [
    {"kind": "pool"},
    {"kind": "mlp"},
    {"kind": "mlp", "hidden": 12},
    {"kind": "stack"},
    {"kind": "stack", "hidden": 14, "norm": "end"},
    {"kind": "concat"},
    {"kind": "concat", "hidden": 12, "norm": True, "activation": "gelu", "scale": 0.4},
    {"kind": "conv", "hidden": 12},
    {"kind": "qformer", "hidden": 8, "heads": 2},
    {"kind": "qformer", "hidden": 8, "heads": 4, "layers": 1, "queries": 5},
]


@pytest.mark.parametrize("projector", PROJECTORS, ids=str)
@pytest.mark.parametrize("encoder_dims", [((1, 6),), ((4, 6),), ((1, 4), (3, 6))], ids=str)
@pytest.mark.parametrize("stride", [1, 5])
def test_parameter_counts_are_those_of_the_modules(
    projector: dict, encoder_dims: EncoderDims, stride: int
) -> None:
    audio_spec = AudioTokenizerSpec(16_000, 160, 2, stride, 480_000)
    module = build_projector(
        projector, encoder_dims=encoder_dims, audio_spec=audio_spec, out_features=10
    )
    expected = sum(parameter.numel() for parameter in module.parameters())
    counted = count_projector_parameters(projector, encoder_dims, stride=stride, out_features=10)
    assert counted == expected


@pytest.mark.parametrize(
    ("kind", "width", "stride", "millions"),
    [
        ("stack", 1280, 8, 50.3),  # Ultravox: Whisper turbo and Llama 8B
        ("concat", 1280, 5, 21.5),  # SLAM-ASR: Whisper large
        ("concat", 1024, 5, 18.9),  # SLAM-ASR: HuBERT large and others 1024 wide
    ],
)
def test_parameter_counts_are_those_of_the_papers(
    kind: str, width: int, stride: int, millions: float
) -> None:
    count = count_projector_parameters(kind, ((1, width),), stride=stride, out_features=4096)
    assert round(count / 1e6, 1) == millions


def test_the_parameters_of_ultravox_are_exact() -> None:
    count = count_projector_parameters("stack", ((1, 1280),), stride=8, out_features=4096)
    assert count == 50_343_936


@pytest.mark.parametrize(
    ("projector", "strides"),
    [
        ("pool", (6, 1)),
        ("mlp", (4, 1)),
        ("stack", (8, 1)),
        ("concat", (5, 1)),
        ("conv", (5, 1)),
        ("qformer", (15, 3)),
        ({"kind": "qformer", "queries": 1, "stride": 17}, (17, 1)),
        ({"kind": "qformer", "tokens_per_second": 12.5}, (12, 3)),
        ({"kind": "mlp", "stride": 1}, (1, 1)),
        ({"kind": "stack", "tokens_per_second": 12.5}, (4, 1)),
        ({"kind": "stack", "tokens_per_second": 12}, (4, 1)),
        ({"kind": "stack", "tokens_per_second": 500}, (1, 1)),
    ],
    ids=str,
)
def test_a_rate_becomes_the_nearest_whole_stride(
    projector: dict | str, strides: tuple[int, int]
) -> None:
    assert compute_projector_strides(projector, WHISPER_FRAMES_PER_SECOND) == strides


def test_a_slower_encoder_has_a_smaller_stride() -> None:
    assert compute_projector_strides("stack", 25.0) == (4, 1)


@pytest.mark.parametrize(
    ("projector", "learning_rate"),
    [
        ("pool", 1.5e-3),
        ("mlp", 1e-3),
        ("stack", 1e-3),
        ("concat", 1e-4),
        ({"kind": "concat", "norm": True}, 1e-3),
        ("conv", 1e-4),
        ("qformer", 1e-3),
    ],
)
def test_projectors_with_a_norm_have_a_higher_learning_rate(
    projector: dict | str, learning_rate: float
) -> None:
    assert get_projector_learning_rate(projector) == learning_rate


@pytest.mark.parametrize(
    ("projector", "words"),
    [
        ("stak", "'stak'; did you mean 'stack'?"),
        ("zzz", "'zzz'; known are pool, mlp, stack, concat, conv, qformer"),
        ({"hidden": 4}, "no kind is given; known are pool, mlp, stack,"),
        ({"kind": 3}, "'3'; known are pool,"),
        ({"kind": "mlp", "hiden": 4}, "mlp takes no 'hiden'; did you mean 'hidden'?"),
        ({"kind": "pool", "hidden": 4}, "'hidden'; known are scale, source, stride, tok"),
        ({"kind": "mlp", "hidden": 0}, "hidden is 0; it must be greater than or equal to 1"),
        ({"kind": "mlp", "hidden": 2.5}, "hidden is 2.5; it must be a whole number"),
        ({"kind": "stack", "hidden": 15}, "hidden is 15; it must be a multiple of 2"),
        ({"kind": "stack", "norm": "start"}, "norm is 'start'; it must be 'middle' or 'end'"),
        ({"kind": "concat", "norm": "yes"}, "norm is 'yes'; it must be true or false"),
        ({"kind": "concat", "activation": "tanh"}, "it must be 'relu' or 'gelu'"),
        ({"kind": "qformer", "heads": 3}, "heads is 3; it must divide hidden, which is 1024"),
        ({"kind": "qformer", "hidden": 24}, "heads is 16; it must divide hidden, which is 24"),
        ({"kind": "pool", "stride": 0}, "stride is 0; it must be greater than or equal to 1"),
        ({"kind": "pool", "tokens_per_second": 0}, "tokens_per_second is 0; it must be greater"),
        (
            {"kind": "pool", "stride": 4, "tokens_per_second": 12.5},
            "tokens_per_second is 12.5; it must be left out where stride is given",
        ),
        ({"kind": "pool", "scale": 0}, "scale is 0; it must be 'embeddings' or a number above 0"),
        ({"kind": "pool", "scale": "loud"}, "scale is 'loud'; it must be 'embeddings' or"),
        ({"kind": "pool", "scale": True}, "scale is true; it must be 'embeddings' or"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_with_a_hint(projector: dict | str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_projector_config(projector)
    error = caught.value
    assert (error.code, error.where) == ("model.bad_projector", "projector")
    assert words in str(error) and "\n" not in str(error)
