"""The example documents with real parts put in by `--set`, on their own clips."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli_runner import dlm, make_environment
from tests.real.conftest import FigureFn, PartFn

ROOT = Path(__file__).parents[2]


def test_documents_of_composed_bases_run_with_real_parts(
    part: PartFn, tmp_path: Path, figure: FigureFn
) -> None:
    """`make real-recipes` with two steps of each document."""
    parts = part("whisper-base").parent
    done = subprocess.run(
        [ROOT / "scripts/real-recipes", tmp_path / "out", "2"],
        env=make_environment(DLM_REAL_PARTS=str(parts), PYTHON=sys.executable),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("listening gap") >= 4
    assert list((tmp_path / "out").glob("*insight*/*.html"))
    figure(f"real-recipes, 2 steps: {done.stderr.count('+ dlm')} commands")


def test_the_audio_recipe_with_real_parts(part: PartFn, tmp_path: Path) -> None:
    examples = ROOT / "examples"
    shutil.copytree(examples / "podcast", tmp_path / "podcast")
    path = Path(shutil.copy(examples / "podcast.dlm", tmp_path))
    base_model = f"{{encoder: {part('whisper-tiny.en')}, lm: {part('gemma-3-270m')}}}"
    parts = ("--set", f"base_model={base_model}")
    new_projector = (
        "--set",
        "training.adapter=lora",
        "--set",
        "training.lora.where=[lm, projector]",
    )
    trained = dlm("train", path, "--steps", 2, *parts, *new_projector)
    assert trained.code == 0, trained.err
    clip = ("--audio", tmp_path / "podcast/new-clip.ogg")
    asked = dlm("prompt", path, *clip, "What did the speaker say?", "--max-tokens", 8)
    assert asked.code == 0, asked.err
    assert dlm("export", path, "--out", tmp_path / "out").code == 0
    assert dlm("verify", tmp_path / "out").code == 0
