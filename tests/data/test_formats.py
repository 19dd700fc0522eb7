"""However recordings are kept, they are the same clips: a fixture for each format, one table."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from dlm.config.data_schema import SourceFormat
from dlm.data.audio_io import load_audio
from dlm.data.load import LoadedData, load_examples
from dlm.data.readers.registry import READERS
from dlm.data.types import Example
from tests.data.keepers import KEEPERS
from tests.data.said import RATE, SAID, Said
from tests.data.sounds import document

EACH = pytest.mark.parametrize("name", sorted(KEEPERS))


def gathered(folder: Path, source: dict[str, object]) -> LoadedData:
    head = yaml.safe_dump({"training": {"sources": [source]}}, allow_unicode=True)
    return load_examples(document(folder, head=head))


def heard(clip: Example) -> tuple[str, str, bytes]:
    """What is asked and said, and the samples."""
    (sound,) = clip.audio_segments
    wave = load_audio(sound, sample_rate=RATE, resample=False)
    return clip.messages[0].text, clip.target, wave.tobytes()


def wanted(said: Said) -> tuple[str, str, bytes]:
    return "", said.text, said.wave().tobytes()


@EACH
def test_each_format_gives_the_same_clips(name: str, tmp_path: Path) -> None:
    found = gathered(tmp_path, KEEPERS[name](tmp_path))
    assert [str(problem) for problem in found.issues] == []
    assert [heard(clip) for clip in found.examples] == [wanted(said) for said in SAID]
    assert found.sources[0].audio_count == len(SAID)


@EACH
def test_its_format_may_be_said(name: str, tmp_path: Path) -> None:
    source = KEEPERS[name](tmp_path)
    found = gathered(tmp_path, {**source, "format": source.get("format", name.split()[0])})
    assert len(found.examples) == len(SAID)


def test_every_format_has_a_fixture_and_is_one_a_document_may_name() -> None:
    names = {each.name for each in READERS}
    assert names == set(get_args(SourceFormat)) == {name.split()[0] for name in KEEPERS}
