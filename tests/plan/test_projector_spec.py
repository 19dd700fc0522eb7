"""What a projector takes: options, a rate in whole strides, a size before it is built."""

import pytest

from dlm.errors import ModelError
from dlm.models.projectors import build_projector
from dlm.plan.audio_lengths import AudioTokenizerSpec
from dlm.plan.projector_spec import (
    compute_projector_strides,
    count_projector_parameters,
    get_projector_learning_rate,
    parse_projector_config,
)

WHISPER = 50.0  # encoder frames per second
SHAPES = [
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


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("heard", [((1, 6),), ((4, 6),), ((1, 4), (3, 6))], ids=str)
@pytest.mark.parametrize("stride", [1, 5])
def test_parameters_are_counted_before_they_exist(
    shape: dict, heard: tuple[tuple[int, int], ...], stride: int
) -> None:
    strides = AudioTokenizerSpec(16_000, 160, 2, stride, 480_000)
    built = build_projector(shape, encoder_dims=heard, audio_spec=strides, out_features=10)
    counted = count_projector_parameters(shape, heard, stride=stride, out_features=10)
    assert counted == sum(each.numel() for each in built.parameters())


def test_ultravox_and_slam_are_as_large_as_published() -> None:
    """About 50 M for Whisper turbo and 8B; 21.5 M for Whisper large's 1280 and 18.9 M for 1024."""
    assert (
        count_projector_parameters("stack", ((1, 1280),), stride=8, out_features=4096) == 50_343_936
    )
    slam = [
        count_projector_parameters("concat", ((1, w),), stride=5, out_features=4096)
        for w in (1280, 1024)
    ]
    assert [round(each / 1e6, 1) for each in slam] == [21.5, 18.9]


@pytest.mark.parametrize(
    ("shape", "strides"),
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
    shape: dict | str, strides: tuple[int, int]
) -> None:
    assert compute_projector_strides(shape, WHISPER) == strides


def test_another_encoder_has_another_stride() -> None:
    assert compute_projector_strides("stack", 25.0) == (4, 1)


@pytest.mark.parametrize(
    ("shape", "rate"),
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
def test_what_is_normed_learns_faster(shape: dict | str, rate: float) -> None:
    assert get_projector_learning_rate(shape) == rate


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ("stak", "unknown kind 'stak'; did you mean 'stack'?"),
        ("zzz", "unknown kind 'zzz'; known are pool, mlp, stack, concat, conv, qformer"),
        ({"hidden": 4}, "no kind is given; known are pool, mlp, stack,"),
        ({"kind": 3}, "unknown kind '3'; known are pool,"),
        ({"kind": "mlp", "hiden": 4}, "mlp takes no 'hiden'; did you mean 'hidden'?"),
        (
            {"kind": "pool", "hidden": 4},
            "pool takes no 'hidden'; known are scale, source, stride, tok",
        ),
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
def test_a_mistake_is_one_line_with_its_mend(shape: dict | str, line: str) -> None:
    with pytest.raises(ModelError) as told:
        parse_projector_config(shape)
    assert str(told.value).startswith("projector: ")
    assert line in str(told.value)
    assert "\n" not in str(told.value)
