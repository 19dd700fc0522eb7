"""What a document may change of its sounds, and every mistake at its own line."""

from pathlib import Path

import pytest

from dlm.config.data_schema import AugmentationConfig
from dlm.config.overrides import apply_overrides
from dlm.config.parser import parse_document
from dlm.errors import DocumentError, UsageError

HEAD = "---\ndlm_id: 01HZ4X7TGZM3J1A2B3C4D5E6F7\nbase_model: sparrow\ntraining:\n  audio:\n"


def document(yaml: str):
    lines = "\n".join(f"    {line}" for line in yaml.split("\n"))
    return parse_document(f"{HEAD}{lines}\n---\n", Path("my.dlm"))


def augment(yaml: str) -> AugmentationConfig:
    return document(f"augment: {yaml}").config.training.audio.augment


@pytest.mark.parametrize(
    "yaml", ["", "{}", "{share: 0}", "{codec: []}", "{speed: [0.9, 1.1], share: 0}"]
)
def test_nothing_is_changed_that_is_not_named(yaml: str) -> None:
    found = augment(yaml)
    assert not found.is_enabled and found.min_speed_percent == 100


def test_everything_can_be_named() -> None:
    found = augment(
        "{speed: [0.9, 1], room: 0.5, rt60: [0.1, 0.4], noise: rain, snr: [-5, 5], gain: [-3, 0],"
        " codec: [none, mulaw, telephone, lowpass], mask_time: {count: 1, seconds: 0.5, most: 0.1},"
        " mask_frequency: {count: 3, bins: 10}, share: 0.75}"
    )
    assert found.is_enabled and found.min_speed_percent == 90
    assert (found.speed, found.snr, found.gain) == ((0.9, 1.0), (-5.0, 5.0), (-3.0, 0.0))
    assert found.codec == ("none", "mulaw", "telephone", "lowpass")
    assert found.mask_time is not None and found.mask_time.seconds == 0.5
    assert found.mask_frequency is not None and found.mask_frequency.bins == 10


def test_a_mask_without_fields_is_one_of_defaults() -> None:
    found = augment("\n      mask_time: {}\n      mask_frequency: {}")
    assert found.is_enabled
    assert found.mask_time is not None and found.mask_time.count == 2
    assert found.mask_frequency is not None and found.mask_frequency.bins == 27


@pytest.mark.parametrize(
    ("yaml", "place", "words"),
    [
        ("{sped: [1, 1]}", "6:15", "unknown key 'sped'; did you mean 'speed'?"),
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
        ("{mask_time: {frames: 3}}", "6:27", "unknown key 'frames'; known here are count, sec"),
        ("3", "6:5", "augment is 3; it must be a group of 'key: value' lines"),
    ],
)
def test_a_mistake_is_one_line_at_its_place(yaml: str, place: str, words: str) -> None:
    with pytest.raises(DocumentError) as told:
        augment(yaml)
    message = str(told.value)
    assert message.startswith(f"my.dlm:{place}: ") and words in message, message
    assert len(message.splitlines()) == 1 and "more mistake" not in message


def test_it_can_be_asked_over_the_document() -> None:
    name = "training.audio.augment"
    written = document("augment: {gain: [-6, 6], mask_time: {count: 1}}")
    asked = apply_overrides(written, {f"{name}.share": 0.5, f"{name}.mask_time.seconds": 2})
    found = asked.config.training.audio.augment
    assert (found.share, found.gain) == (0.5, (-6.0, 6.0))
    assert found.mask_time is not None
    assert (found.mask_time.count, found.mask_time.seconds) == (1, 2)
    with pytest.raises(UsageError, match="two numbers"):
        apply_overrides(written, {f"{name}.speed": [2, 1]})
