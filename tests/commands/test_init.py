"""`dlm init`: the document it writes, and what it never overwrites."""

import re
from pathlib import Path

import pytest
import yaml

from tests.cli_runner import dlm
from tests.tiny_models import write_tiny_model


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def read_frontmatter(path: str) -> dict:
    return yaml.safe_load(Path(path).read_text().split("---")[1])


def test_audio_writes_a_document_with_qwen2_audio() -> None:
    done = dlm("init", "my-audio.dlm", "--audio")
    assert (done.code, done.out) == (0, "")
    assert "wrote my-audio.dlm (qwen2-audio-7b-instruct)" in done.err
    assert "then `dlm check my-audio.dlm`" in done.err
    frontmatter = read_frontmatter("my-audio.dlm")
    assert frontmatter["base_model"] == "qwen2-audio-7b-instruct"
    assert frontmatter["dlm_version"] == 11
    assert frontmatter["training"]["adapter"] == "lora"
    assert re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", frontmatter["dlm_id"])
    text = Path("my-audio.dlm").read_text()
    assert '::audio path="clips/your-clip.wav" transcript="' in text


@pytest.mark.parametrize("options", ["", "--base sparrow", "--audio --base sparrow"])
def test_the_default_base_is_sparrow(options: str) -> None:
    assert dlm("init", "a.dlm", *options.split()).code == 0
    assert read_frontmatter("a.dlm")["base_model"] == "sparrow"
    assert read_frontmatter("a.dlm")["training"]["adapter"] == "full"


def test_a_folder_can_be_the_base(tiny_model: Path) -> None:
    assert dlm("init", "a.dlm", "--base", tiny_model).code == 0
    assert Path(read_frontmatter("a.dlm")["base_model"]).resolve() == tiny_model.resolve()
    done = dlm("check", "a.dlm")
    assert any("audio not found: clips/your-clip.wav" in line for line in done.err.splitlines())


def test_a_document_is_overwritten_only_with_force() -> None:
    Path("a.dlm").write_text("mine")
    done = dlm("init", "a.dlm", "--audio")
    text = "a.dlm already exists; re-run with --force to overwrite it"
    done.refused(text, error="usage.file_exists", code=2)
    assert Path("a.dlm").read_text() == "mine"
    assert dlm("init", "a.dlm", "--force").code == 0
    first_id = read_frontmatter("a.dlm")["dlm_id"]
    assert dlm("init", "a.dlm", "--force").code == 0
    assert read_frontmatter("a.dlm")["dlm_id"] != first_id


def test_missing_folders_are_made() -> None:
    done = dlm("init", "new/folder/a.dlm")
    assert done.code == 0, done.err
    assert read_frontmatter("new/folder/a.dlm")["base_model"] == "sparrow"


def test_the_example_clip_is_refused_before_anything_is_loaded() -> None:
    dlm("init", "a.dlm")
    line = 1 + Path("a.dlm").read_text().splitlines().index(
        '::audio path="clips/your-clip.wav" transcript="Transcript of the audio clip."::'
    )
    text = f"a.dlm:{line}: audio not found: clips/your-clip.wav; put the file there"
    dlm("train", "a.dlm").refused(text, error="audio.not_found")
