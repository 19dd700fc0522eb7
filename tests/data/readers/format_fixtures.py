"""The same three examples in every format: each fixture writes the files and returns the source.

Its key is the name of the format; what follows tells several fixtures of one format apart.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.readers.folder_fixtures import FOLDER_FIXTURES
from tests.data.readers.list_fixtures import LIST_FIXTURES

FORMAT_FIXTURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    **LIST_FIXTURES,
    **FOLDER_FIXTURES,
}
