"""A store in a fresh home."""

from pathlib import Path

import pytest

from dlm.store.versions import Store, open_store
from tests.store.fake_runs import DLM_ID


@pytest.fixture
def store(home: Path) -> Store:
    return open_store(DLM_ID, home)
