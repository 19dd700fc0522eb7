"""What a document gives whose one source is this."""

from pathlib import Path
from typing import Any

import yaml

from dlm.clips.sources import Gathered, gather
from tests.clips.sounds import document


def gathered(folder: Path, source: dict[str, Any], *, policy: str = "permissive") -> Gathered:
    """All that a document in `folder` gathers from one source."""
    training = {"sources": [source], "sources_policy": policy}
    return gather(document(folder, head=yaml.safe_dump({"training": training})))


def told(found: Gathered) -> list[str]:
    """What is said of it, each in one line."""
    lines = [str(problem) for problem in found.problems]
    assert not any("\n" in line for line in lines)
    return lines


def faults(found: Gathered) -> list[str]:
    """What is said of it, but for the line that nothing is left to learn."""
    return [line for line in told(found) if "the document gives nothing to learn" not in line]


def spoken(found: Gathered) -> list[tuple[str, str, str | None, str | None]]:
    """Of each clip: its place, what is said, by whom and in which language."""
    return [(clip.place, clip.target, clip.speaker, clip.language) for clip in found.clips]
