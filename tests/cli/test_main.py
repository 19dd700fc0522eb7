"""Help, version and wrong command lines; what a command imports before it needs it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.main import get_command

import dlm as api
from dlm.cli.main import COMMANDS, build_app
from tests.cli_runner import dlm

NAMES = (
    "init tones import check stitch train prompt transcribe eval "
    "insight show versions use export shards export-data verify gc doctor"
).split()
PRINT_IMPORTS = """
import sys
from dlm.cli.main import main
try:
    main()
finally:
    print("loaded:", *{"torch", "transformers", "peft", "accelerate"} & set(sys.modules))
"""
RUN_HELP = """
import sys
from dlm.cli.main import main
sys.argv = ["dlm", "--help"]
try:
    main()
finally:
    print("loaded:", *{"numpy", "pydantic", "yaml", "rich.console"} & set(sys.modules))
"""


def test_the_commands() -> None:
    assert [command.name for command in COMMANDS] == NAMES
    assert list(get_command(build_app()).commands) == NAMES


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_is_80_columns_wide_and_not_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = dlm(*filter(None, [name]), "--help")
    assert (done.code, done.err) == (0, "")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert not re.search(r"\w\.\.\.$", done.out, re.MULTILINE), done.out


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_and_option_has_help(name: str) -> None:
    command = get_command(build_app()).commands[name]
    assert command.help, f"dlm {name} has no help"
    without_help = [each.name for each in command.params if each.name != "help" and not each.help]
    assert not without_help, f"dlm {name}: no help for {without_help}"


def test_dlm_without_a_command_prints_the_help() -> None:
    assert dlm() == dlm("--help")


def test_the_version_is_printed() -> None:
    done = dlm("--version")
    assert (done.code, done.out, done.err) == (0, f"dlm {api.__version__}\n", "")


def test_wrong_command_lines_are_refused() -> None:
    def assert_refused(*args: str, text: str) -> None:
        dlm(*args).refused(text, error="usage.arguments", code=2)

    assert_refused("frobnicate", text="No such command 'frobnicate'; see `dlm --help`")
    assert_refused("--frobnicate", text="No such option: --frobnicate; see `dlm --help`")
    assert_refused("train", text="Missing argument 'DOCUMENT'; see `dlm train --help`")
    assert_refused("check", "a.dlm", "b.dlm", text="b.dlm")


def test_home_is_taken_before_and_after_the_command(tmp_path: Path) -> None:
    for number, args in enumerate([("--home", "{}", "init"), ("init", "--home", "{}")]):
        home = tmp_path / f"home-{number}"
        document = tmp_path / f"{number}.dlm"
        assert dlm(*(arg.format(home) for arg in args), document).code == 0
        assert (home / "store").is_dir()


def run_and_print_imports(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRINT_IMPORTS, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_does_not_import_torch() -> None:
    done = run_and_print_imports("train", "--help")
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_the_list_of_commands_imports_no_library_but_typer() -> None:
    done = subprocess.run([sys.executable, "-c", RUN_HELP], capture_output=True, text=True)
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_check_does_not_import_torch(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (12, 16_000))
    for number, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
        (tmp_path / f"{number}.txt").write_text(f"Clip number {number}.")
    document = api.init(tmp_path / "mine.dlm").path
    frontmatter = document.read_text().split("---")[1].splitlines()
    identity = [line for line in frontmatter if line.startswith(("dlm_", "base_model"))]
    training = ["training:", "  sources:", "    - path: ."]
    document.write_text("\n".join(["---", *identity, *training, "---", ""]))
    done = run_and_print_imports("check", document)
    assert done.returncode == 0, done.stderr
    assert "12" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"
