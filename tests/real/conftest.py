"""Tests on released weights and human recordings, in the folder that DLM_REAL_PARTS names.

    whisper-tiny.en/ whisper-base/ gemma-3-270m/    folders as transformers saves them
    speech/prompts-en/ ...                          recordings of 16 kHz, each with its text

CONTRIBUTING.md tells how to fill it. What is missing fails with one line: it is never skipped.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REAL_PARTS_VARIABLE = "DLM_REAL_PARTS"
FIGURES = pytest.StashKey[list[str]]()

PartFn = Callable[[str], Path]
FigureFn = Callable[[str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.weights)


@pytest.fixture(scope="session")
def part() -> PartFn:
    """The folder of a part by its name, such as `whisper-base` or `speech/prompts-en`."""

    def find_part(name: str) -> Path:
        root = os.environ.get(REAL_PARTS_VARIABLE)
        if not root:
            message = f"{REAL_PARTS_VARIABLE} names no folder with the parts: see CONTRIBUTING.md"
            pytest.fail(message, pytrace=False)
        folder = Path(root).absolute() / name
        if not folder.is_dir():
            message = f"{REAL_PARTS_VARIABLE} has no {name} ({folder}): see CONTRIBUTING.md"
            pytest.fail(message, pytrace=False)
        return folder

    return find_part


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> FigureFn:
    """Note a line with a measured figure, printed at the end for docs/proof.md."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    figures = terminalreporter.config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
