"""Models and clips, built once for each module of tests."""

from pathlib import Path

import pytest

from dlm.data.types import Example
from dlm.models.composed import ComposedAudioLM, load_composed_model
from tests.models.batches import write_examples
from tests.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(folder: Path) -> ComposedAudioLM:
    """A model that no test changes."""
    return load_composed_model(folder).requires_grad_(False)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_examples(tmp_path_factory.mktemp("clips"))
