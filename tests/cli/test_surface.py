"""What people meet: names, options and pages agree with the code, and help comes without torch."""

import re
import subprocess
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from typer.main import get_command

import dlm
from dlm.cli.main import build_app
from dlm.config.parser import parse_document
from dlm.config.schema import TrainingConfig

ROOT = Path(__file__).parent.parent
VERBS = (
    "init tones import check stitch train prompt transcribe eval "
    "insight show versions use export shards export-data verify gc doctor"
).split()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITHOUT_TORCH = """
import sys
from dlm.cli.main import main
try:
    main()
finally:
    print("loaded:", *{"torch", "transformers", "peft", "accelerate"} & set(sys.modules))
"""


def test_the_verbs() -> None:
    assert list(get_command(build_app()).commands) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_and_option_is_explained(verb: str) -> None:
    command = get_command(build_app()).commands[verb]
    assert command.help, f"dlm {verb} says nothing of itself"
    silent = [each.name for each in command.params if each.name != "help" and not each.help]
    assert not silent, f"dlm {verb}: no word on {silent}"


def test_the_verbs_are_a_python_api() -> None:
    import_module("dlm.inference.metrics")  # a room of the same name must not hide a verb
    names = {"eval": "evaluate", "use": "use_version"}
    names |= {"import": "import_source", "export-data": "export_data"}
    assert sorted(dlm.__all__) == sorted(names.get(verb, verb) for verb in VERBS)
    for name in dlm.__all__:
        assert callable(attrgetter(name)(dlm)), f"dlm.{name} is no function"
        assert f"dlm.{name}(" in (ROOT / "docs" / "api.md").read_text(), f"{name}: not in api.md"


def test_help_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_check_needs_no_torch(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (12, 16_000))
    for number, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
        (tmp_path / f"{number}.txt").write_text(f"Clip number {number}.")
    document = dlm.init(tmp_path / "mine.dlm").path
    front = document.read_text().split("---")[1]
    own = [line for line in front.splitlines() if line.startswith(("dlm_", "base_model"))]
    settings = ["training:", "  sources:", "    - path: ."]
    document.write_text("\n".join(["---", *own, *settings, "---", ""]))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "check", str(document)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "12" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_made_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_speak_of_what_there_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    spoken = re.findall(r"(?:^|`)dlm ([a-z][a-z-]*)", text, flags=re.MULTILINE)
    assert set(spoken) <= set(VERBS), f"{page} speaks of {set(spoken) - set(VERBS)}"
    commands = get_command(build_app()).commands
    for verb, rest in re.findall(r"(?:^|`)dlm ([a-z][a-z-]*)([^`\n#]*)", text, flags=re.MULTILINE):
        known = {flag for param in commands[verb].params for flag in param.opts} | {"--help"}
        unknown = set(re.findall(r"--[a-z][a-z-]*", rest)) - known
        assert not unknown, f"{page}: dlm {verb} has no {unknown}"
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), f"{page} links to {link}, which is not there"


def test_the_readme_names_every_verb() -> None:
    table = re.findall(r"^\| `dlm .*\|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert re.findall(r"`dlm ([a-z-]+)`", "\n".join(table)) == VERBS


def test_documents_in_the_pages_can_be_read() -> None:
    page = (ROOT / "docs" / "document.md").read_text(encoding="utf-8")
    (whole,) = re.findall(r"^```\n(---\n.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    kinds = [section.kind for section in parse_document(whole, Path("page.dlm")).sections]
    assert kinds == ["audio", "instruction", "conversation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```yaml\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert TrainingConfig(**yaml.safe_load(settings)["training"]).sources[0].path == "recordings"
