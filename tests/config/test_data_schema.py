"""Fields of augmentation and of sources: defaults, every field, mistakes, overrides."""

import pytest

from dlm.config.data_schema import AugmentationConfig
from dlm.config.overrides import apply_overrides
from dlm.config.parser import Document
from dlm.errors import UsageError
from tests.config.documents import HEAD, catch_error, parse_yaml


def parse_augmentation_document(yaml: str) -> Document:
    return parse_yaml(f"training:\n  audio:\n    augment: {yaml}")


def parse_augmentation(yaml: str) -> AugmentationConfig:
    return parse_augmentation_document(yaml).config.training.audio.augment


@pytest.mark.parametrize(
    "yaml", ["", "{}", "{share: 0}", "{codec: []}", "{speed: [0.9, 1.1], share: 0}"]
)
def test_augmentation_is_disabled_where_none_is_named(yaml: str) -> None:
    config = parse_augmentation(yaml)
    assert not config.is_enabled and config.min_speed_percent == 100


def test_every_augmentation_can_be_set() -> None:
    config = parse_augmentation(
        "{speed: [0.9, 1], room: 0.5, rt60: [0.1, 0.4], noise: rain, snr: [-5, 5], gain: [-3, 0],"
        " codec: [none, mulaw, telephone, lowpass], mask_time: {count: 1, seconds: 0.5, most: 0.1},"
        " mask_frequency: {count: 3, bins: 10}, share: 0.75}"
    )
    assert config.is_enabled and config.min_speed_percent == 90
    assert (config.speed, config.snr, config.gain) == ((0.9, 1.0), (-5.0, 5.0), (-3.0, 0.0))
    assert config.codec == ("none", "mulaw", "telephone", "lowpass")
    assert config.mask_time is not None and config.mask_time.seconds == 0.5
    assert config.mask_frequency is not None and config.mask_frequency.bins == 10


def test_a_mask_without_fields_has_defaults() -> None:
    config = parse_augmentation("\n      mask_time: {}\n      mask_frequency: {}")
    assert config.is_enabled
    assert config.mask_time is not None and config.mask_time.count == 2
    assert config.mask_frequency is not None and config.mask_frequency.bins == 27


MISTAKES = {  # code of the error: yaml, position, words
    "document.unknown_key": [
        ("{sped: [1, 1]}", "6:15", "unknown key 'sped'; did you mean 'speed'?"),
        ("{mask_time: {frames: 3}}", "6:27", "unknown key 'frames'; known here are count, sec"),
    ],
    "document.bad_value": [
        ("{speed: [1.1, 0.9]}", "6:15", "speed is a list; it must be two numbers from 0.5 to 2"),
        ("{speed: 0.9}", "6:15", "speed is 0.9; it must be two numbers from 0.5 to 2, the lower f"),
        ("{speed: [0.1, 1]}", "6:15", "such as [0.9, 1.1]"),
        ("{speed: [true, 1]}", "6:15", "it must be two numbers"),
        ("{gain: [-6, 6, 7]}", "6:15", "it must be two numbers from -60 to 60"),
        ("{snr: [6, 20]}", "6:15", "snr is a list; it needs noise: add noise: synthetic"),
        ("{speed: [1, 1], rt60: [0.1, 1]}", "6:30", "it needs room: add room, the fraction"),
        ("{share: 0.5}", "6:15", "share is 0.5; it needs an augmentation: add one of speed,"),
        ("{gain: [0, 1], share: 2}", "6:29", "share is 2; it must be less than or equal to 1"),
        ("{room: -1}", "6:15", "room is -1; it must be greater than or equal to 0"),
        ("{codec: [opus]}", "6:23", "codec[0] is 'opus'; it must be 'none', 'mulaw', 'telephone'"),
        ("{codec: mulaw}", "6:15", "codec is 'mulaw'; it must be a list"),
        ("{noise: ''}", "6:15", "noise is ''; it must"),
        ("{mask_time: {count: 0}}", "6:27", "mask_time.count is 0; it must be greater"),
        ("3", "6:5", "augment is 3; it must be a group of 'key: value' lines"),
    ],
}


@pytest.mark.parametrize(
    ("code", "yaml", "position", "words"),
    [(code, *case) for code, cases in MISTAKES.items() for case in cases],
)
def test_a_mistake_in_augmentation_is_an_error(
    code: str, yaml: str, position: str, words: str
) -> None:
    error = catch_error(
        HEAD.removesuffix("---\n") + f"training:\n  audio:\n    augment: {yaml}\n---\n"
    )
    assert (error.code, error.where) == (code, f"my.dlm:{position}")
    assert words in str(error) and "more mistake" not in str(error)


def test_augmentation_can_be_set_for_one_run() -> None:
    name = "training.audio.augment"
    document = parse_augmentation_document("{gain: [-6, 6], mask_time: {count: 1}}")
    overrides = {f"{name}.share": 0.5, f"{name}.mask_time.seconds": 2}
    config = apply_overrides(document, overrides).config.training.audio.augment
    assert (config.share, config.gain) == (0.5, (-6.0, 6.0))
    assert config.mask_time is not None
    assert (config.mask_time.count, config.mask_time.seconds) == (1, 2)
    with pytest.raises(UsageError, match="two numbers") as caught:
        apply_overrides(document, {f"{name}.speed": [2, 1]})
    assert caught.value.code == "usage.bad_value"


def test_a_column_must_have_a_known_name() -> None:
    sources = "training:\n  sources: [{path: x.csv, columns: {txt: sentence}}]\n---\n"
    error = catch_error(HEAD.removesuffix("---\n") + sources)
    assert (error.code, error.where) == ("document.bad_value", "my.dlm:5:27")
    assert "columns is " in str(error) and "it must name columns" in str(error)
    (source,) = parse_yaml(sources.replace("txt", "text")[:-5]).config.training.sources
    assert source.columns == {"text": "sentence"}
