"""What is built can be installed elsewhere and walks the road: data files, entry point and all."""

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
    """`dlm` from a wheel, in an environment that has our libraries but not our sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    waste = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=waste)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "empty")
    python = folder / "empty" / "bin" / "python"
    (site,) = (folder / "empty" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*pip, "--python", python, "install", "--no-deps", "--no-compile", wheel)
    return folder / "empty" / "bin" / "dlm"


def run(*words: str | Path, folder: Path | None = None) -> str:
    """Run a command that must succeed; what it wrote to its standard output."""
    done = subprocess.run(
        list(map(str, words)), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_walks_the_road(program: Path, tmp_path: Path) -> None:
    where = "import dlm; print(dlm.__file__)"
    imported = run(program.with_name("python"), "-c", where, folder=tmp_path)
    assert imported.startswith(str(program.parent.parent))
    assert (Path(imported.strip()).parent / "reports" / "insight.html").is_file()
    voice = ROOT / "examples" / "voice"
    clips = sorted((voice / "clips").glob("*.flac"))[:12]
    (tmp_path / "clips").mkdir()
    for clip in clips:
        shutil.copy(clip, tmp_path / "clips")
        shutil.copy(clip.with_suffix(".txt"), tmp_path / "clips")
    run(program, "init", "voice.dlm", "--base", "sparrow", folder=tmp_path)
    document = tmp_path / "voice.dlm"
    kept = [line for line in document.read_text().splitlines() if line.startswith(("dlm_", "base"))]
    settings = ["training:", "  sources:", "    - path: clips", "  held_out: 2"]
    document.write_text("\n".join(["---", *kept, *settings, "---", ""]))
    assert "12" in run(program, "check", "voice.dlm", folder=tmp_path)
    run(program, "train", "voice.dlm", "--steps", "5", folder=tmp_path)
    assert "v0001" in run(program, "versions", "voice.dlm", folder=tmp_path)
    heard = ("prompt", "voice.dlm", "--audio", voice / "new.flac", "Transcribe the audio.")
    assert run(program, *heard, folder=tmp_path).strip()
