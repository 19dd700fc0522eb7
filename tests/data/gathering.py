"""What a document gives whose one source is this."""

from pathlib import Path
from typing import Any

import yaml

from dlm.data.load import LoadedData, load_examples
from tests.data.sounds import document


def gathered(folder: Path, source: dict[str, Any], *, policy: str = "permissive") -> LoadedData:
    """All that a document in `folder` gathers from one source."""
    training = {"sources": [source], "sources_policy": policy}
    return load_examples(document(folder, head=yaml.safe_dump({"training": training})))


def told(found: LoadedData) -> list[str]:
    """What is said of it, each in one line."""
    lines = [str(problem) for problem in found.issues]
    assert not any("\n" in line for line in lines)
    return lines


def faults(found: LoadedData) -> list[str]:
    """What is said of it, but for the line that nothing is left to learn."""
    return [line for line in told(found) if "the document has nothing to train on" not in line]


def spoken(found: LoadedData) -> list[tuple[str, str, str | None, str | None]]:
    """Of each clip: its place, what is said, by whom and in which language."""
    return [(clip.location, clip.target, clip.speaker, clip.language) for clip in found.examples]
