"""Models and clips, built once for each module of tests."""

from pathlib import Path

import pytest

from dlm.data.types import Example
from dlm.models.composed import ComposedAudioLM, load_composed_model
from tests.models.twin import clips_in
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(folder: Path) -> ComposedAudioLM:
    """A model that no test changes."""
    return load_composed_model(folder).requires_grad_(False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return clips_in(tmp_path_factory.mktemp("clips"))
