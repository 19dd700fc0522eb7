"""Whatever the format, the same recordings become the same examples: a fixture for each format."""

from pathlib import Path
from typing import get_args

import pytest

from dlm.config.data_schema import SourceFormat
from dlm.data.audio_io import load_audio
from dlm.data.readers.registry import READERS
from dlm.data.types import Example
from tests.data.readers.format_fixtures import FORMAT_FIXTURES
from tests.data.readers.recordings import RECORDINGS
from tests.data.readers.source_loading import get_lines, load_source
from tests.data.recordings import RATE

each_format = pytest.mark.parametrize("name", sorted(FORMAT_FIXTURES))


def decode_example(example: Example) -> tuple[str, str, bytes]:
    """The user's text, the assistant's, and the samples."""
    (segment,) = example.audio_segments
    waveform = load_audio(segment, sample_rate=RATE, resample=False)
    return example.messages[0].text, example.target, waveform.tobytes()


@each_format
def test_a_format_is_detected_and_gives_the_same_examples(name: str, tmp_path: Path) -> None:
    data = load_source(tmp_path, FORMAT_FIXTURES[name](tmp_path))
    assert get_lines(data) == []
    assert [decode_example(example) for example in data.examples] == [
        ("", audio.text, audio.make_waveform().tobytes()) for audio in RECORDINGS
    ]
    assert data.sources[0].audio_count == len(RECORDINGS)


@each_format
def test_a_source_may_name_its_format(name: str, tmp_path: Path) -> None:
    source = FORMAT_FIXTURES[name](tmp_path)
    data = load_source(tmp_path, {"format": name.split()[0], **source})
    assert len(data.examples) == len(RECORDINGS)


def test_every_format_has_a_fixture_and_can_be_named_in_a_document() -> None:
    names = {reader.name for reader in READERS}
    assert names == set(get_args(SourceFormat)) == {name.split()[0] for name in FORMAT_FIXTURES}
