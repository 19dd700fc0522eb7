"""The pages of the documentation agree with the code, and their examples run."""

import ast
import inspect
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import dlm
from dlm.cli.main import COMMANDS, build_app
from dlm.config.parser import parse_document
from dlm.config.schema import TrainingConfig
from tests.tiny_models import write_document, write_tiny_model, write_tone

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAMES = [command.name for command in COMMANDS]
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMAND_RE = re.compile(r"(?:^|`)dlm ([a-z][a-z-]*)([^`\n#]*)", flags=re.MULTILINE)


def test_pages_made_from_the_code_are_up_to_date() -> None:
    command = [sys.executable, ROOT / "scripts" / "docs", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_commands_options_and_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = get_command(build_app()).commands
    for name, rest in COMMAND_RE.findall(text):
        assert name in NAMES, f"{page} names the command {name}"
        options = {flag for param in commands[name].params for flag in param.opts} | {"--help"}
        unknown = set(re.findall(r"--[a-z][a-z-]*", rest)) - options
        assert not unknown, f"{page}: dlm {name} has no {unknown}"
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), f"{page} links to {link}, which does not exist"


def test_the_readme_lists_every_command() -> None:
    table = re.findall(r"^\| `dlm .*\|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert re.findall(r"`dlm ([a-z-]+)`", "\n".join(table)) == NAMES


def test_documents_in_the_pages_can_be_parsed() -> None:
    page = (DOCS / "document.md").read_text(encoding="utf-8")
    (document,) = re.findall(r"^```\n(---\n.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    kinds = [section.kind for section in parse_document(document, Path("page.dlm")).sections]
    assert kinds == ["audio", "instruction", "conversation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert TrainingConfig(**yaml.safe_load(settings)["training"]).sources[0].path == "recordings"


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCS / "api.md"
    example = re.search(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert example
    tiny_model = write_tiny_model(tmp_path / "tiny")
    document = write_document(tmp_path, base_model=tiny_model, training="  held_out: 2\n")
    document.rename(tmp_path / "mine.dlm")
    write_tone(tmp_path / "new.wav", hertz=333)
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], page, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    steps = [line.split()[0] for line in lines if re.match(r"\d+ \d", line)]
    assert steps == [str(step) for step in range(1, 21)]
    (version,) = dlm.versions("mine.dlm").versions
    assert version.steps == 20


def test_the_python_page_names_every_function() -> None:
    page = (DOCS / "api.md").read_text()
    assert [name for name in dlm.__all__ if f"dlm.{name}(" not in page] == []


def test_the_python_page_has_the_parameters_and_defaults_of_each_function() -> None:
    table = re.findall(r"^\| `dlm\..*? \|", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    calls = re.findall(r"`dlm\.(\w+\(.*?\))`", "\n".join(table))
    assert len(calls) == len(dlm.__all__)
    for text in calls:
        call = ast.parse(text, mode="eval").body
        parameters = inspect.signature(attrgetter(call.func.id)(dlm)).parameters
        assert {name.id for name in call.args} <= parameters.keys(), text
        for keyword in call.keywords:
            default = parameters[keyword.arg].default
            assert default == ast.literal_eval(keyword.value), f"{text}: {keyword.arg}"
