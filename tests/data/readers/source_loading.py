"""Load a document whose one source is given, and list its examples and issues."""

from pathlib import Path
from typing import Any

import yaml

from dlm.data.load import LoadedData, load_examples
from tests.data.recordings import create_document


def load_source(
    folder: Path, source: dict[str, Any], *, policy: str = "permissive", system: str | None = None
) -> LoadedData:
    """Load the examples of a document in `folder` with this source."""
    head: dict[str, Any] = {"training": {"sources": [source], "sources_policy": policy}}
    head |= {"system_prompt": system} if system else {}
    return load_examples(create_document(folder, head=yaml.safe_dump(head, allow_unicode=True)))


def get_lines(data: LoadedData) -> list[str]:
    """Each issue as a person reads it: one line with a location and a hint."""
    lines = [str(issue) for issue in data.issues]
    assert not any("\n" in line for line in lines)
    assert all(issue.where and issue.hint and issue.code for issue in data.issues), lines
    return lines


def get_issues(data: LoadedData) -> list[tuple[str, str]]:
    """The location and the code of each issue, but for a document that is left without examples."""
    get_lines(data)
    issues = [(issue.where, issue.code) for issue in data.issues]
    return [issue for issue in issues if issue[1] != "data.no_examples"]


def get_locations(data: LoadedData) -> list[str]:
    return [example.location for example in data.examples]


def get_texts(data: LoadedData) -> list[str]:
    return [example.target for example in data.examples]


def describe_examples(data: LoadedData) -> list[tuple[str, str, str | None, str | None]]:
    """The location, text, speaker and language of each example."""
    return [
        (example.location, example.target, example.speaker, example.language)
        for example in data.examples
    ]
