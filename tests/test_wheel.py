"""The wheel, installed into another environment: data files, entry point, and a training."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dlm` from the wheel, in an environment with the same libraries but without the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq"]
    run_command(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "empty")
    python = folder / "empty" / "bin" / "python"
    (site,) = (folder / "empty" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run_command(*pip, "--python", python, "install", "--no-deps", "--no-compile", wheel)
    return folder / "empty" / "bin" / "dlm"


def run_command(*command: str | Path, folder: Path | None = None) -> str:
    """Run a command that must succeed; what it wrote to its standard output."""
    result = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_the_wheel_checks_trains_and_answers(program: Path, tmp_path: Path) -> None:
    script = "import dlm; print(dlm.__file__)"
    imported = run_command(program.with_name("python"), "-c", script, folder=tmp_path)
    assert imported.startswith(str(program.parent.parent))
    reports = {path.name for path in (Path(imported.strip()).parent / "reports").glob("*.html")}
    assert reports == {"page.html", "insight.html", "data_report.html"}
    voice = ROOT / "examples" / "voice"
    clips = sorted((voice / "clips").glob("*.flac"))[:12]
    (tmp_path / "clips").mkdir()
    for clip in clips:
        shutil.copy(clip, tmp_path / "clips")
        shutil.copy(clip.with_suffix(".txt"), tmp_path / "clips")
    run_command(program, "init", "voice.dlm", "--base", "sparrow", folder=tmp_path)
    document = tmp_path / "voice.dlm"
    header = [
        line for line in document.read_text().splitlines() if line.startswith(("dlm_", "base"))
    ]
    settings = ["training:", "  sources:", "    - path: clips", "  held_out: 2"]
    document.write_text("\n".join(["---", *header, *settings, "---", ""]))
    assert "12" in run_command(program, "check", "voice.dlm", folder=tmp_path)
    run_command(program, "train", "voice.dlm", "--steps", "5", folder=tmp_path)
    assert "v0001" in run_command(program, "versions", "voice.dlm", folder=tmp_path)
    prompt = ("prompt", "voice.dlm", "--audio", voice / "new.flac", "Transcribe the audio.")
    assert run_command(program, *prompt, folder=tmp_path).strip()
