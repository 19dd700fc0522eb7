"""A way to keep the same three clips for each format: each writes them and gives the source.

The key is the format's name; a word behind it tells several ways of one format apart.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.keepers_lists import LISTS
from tests.data.keepers_trees import TREES

Keeper = Callable[[Path], dict[str, Any]]

KEEPERS: dict[str, Keeper] = {**LISTS, **TREES}
