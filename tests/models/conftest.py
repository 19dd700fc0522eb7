"""A tiny composed model and examples, made once for each module of tests."""

from pathlib import Path

import pytest

from dlm.data.types import Example
from dlm.models.composed import ComposedAudioLM, load_composed_model
from tests.models.batches import write_examples
from tests.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_dir: Path) -> ComposedAudioLM:
    """A model that no test changes."""
    return load_composed_model(model_dir).requires_grad_(False)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_examples(tmp_path_factory.mktemp("examples"))
