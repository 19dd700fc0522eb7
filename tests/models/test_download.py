"""Fetching a model from the hub: only what is needed, announced, and one line when it fails."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dlm.models.load import get_checkpoint_dir, load_tokenizer
from dlm.plan.resolve import resolve_model_spec
from tests.cli_runner import make_environment, run_process
from tests.fake_hub import COMMIT, FakeHub, Repository, serve_hub
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import write_tone

FETCH = """
import logging, sys
from dlm.errors import DlmError
from dlm.plan.hub import download_model
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
logging.getLogger("httpx2").setLevel(logging.WARNING)
logging.getLogger("httpx").setLevel(logging.WARNING)
for name in sys.argv[1:]:
    try:
        print(download_model(name, None))
    except DlmError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-Audio, beside what a repository holds that nobody should fetch."""
    folder = write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("bases") / "ear")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("pytorch_model.bin", "consolidated.safetensors", "modeling_ear.py", "ear.png"):
        (folder / name).write_bytes(b"not to be fetched")
    return folder


@pytest.fixture
def hub(checkpoint_dir: Path):
    """A hub with that repository."""
    with serve_hub() as hub:
        hub.repositories["me/ear"] = Repository(checkpoint_dir)
        yield hub


def test_only_needed_files_are_fetched_and_only_once(
    hub: FakeHub, checkpoint_dir: Path, tmp_path: Path
) -> None:
    first, model_dir, again = fetch_models(hub, tmp_path, "me/ear", "me/ear")
    assert first == "fetching me/ear (0.5 MB)"
    assert model_dir == again == str(tmp_path / "hub" / "models--me--ear" / "snapshots" / COMMIT)
    names = {path.name for path in Path(model_dir).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert hub.downloaded_files() == names
    assert not names & {"pytorch_model.bin", "consolidated.safetensors", "modeling_ear.py"}
    assert (
        load_file(Path(model_dir) / "model.safetensors").keys()
        == load_file(checkpoint_dir / "model.safetensors").keys()
    )


def test_an_interrupted_download_is_resumed(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["me/ear"].breaks_off_at["model.safetensors"] = 100_000
    *_, model_dir = fetch_models(hub, tmp_path, "me/ear")
    gets = [line for line in hub.requests if line.startswith("GET") and "model.safetensors" in line]
    assert len(gets) == 2
    assert load_file(Path(model_dir) / "model.safetensors")


def test_an_incomplete_download_leaves_no_weights(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["me/ear"].truncated_files = ("model.safetensors",)
    lines = fetch_models(hub, tmp_path, "me/ear")[-1]
    assert lines.startswith(f"hf:me/ear: is not in {tmp_path / 'hub'} and cannot be fetched: there")
    assert lines.endswith(" (downloads resume), or use base_model: sparrow")
    assert not list((tmp_path / "hub").rglob("snapshots/*/model.safetensors"))
    hub.repositories["me/ear"].truncated_files = ()
    model_dir = fetch_models(hub, tmp_path, "me/ear")[-1]
    assert load_file(Path(model_dir) / "model.safetensors")


def test_gated_and_missing_models_are_one_line_each(
    hub: FakeHub, checkpoint_dir: Path, tmp_path: Path
) -> None:
    hub.repositories["me/gated"] = Repository(checkpoint_dir, gated=True)
    lines = fetch_models(hub, tmp_path, "me/gated", "me/none", HF_TOKEN="hf_secret")
    assert lines == [
        "hf:me/gated: needs its licence accepted; accept it at https://huggingface.co/me/gated,"
        " then `hf auth login`",
        "hf:me/none: is not on the hub, or is private; check the name, or `hf auth login` with a"
        " token that may read it",
    ]
    assert "Bearer hf_secret" in hub.tokens


def test_a_full_disk_is_reported_before_the_download(
    hub: FakeHub, checkpoint_dir: Path, tmp_path: Path
) -> None:
    hub.repositories["me/vast"] = Repository(
        checkpoint_dir, claimed_bytes={"model.safetensors": 1 << 60}
    )
    (lines,) = fetch_models(hub, tmp_path / "cache", "me/vast")
    assert lines.startswith("me/vast: takes 1152921504.6 GB and ")
    assert lines.endswith(" are free; free some, or set HF_HOME to a folder on a larger disk")
    assert "model.safetensors" not in hub.downloaded_files()


def test_prompt_fetches_the_model_says_so_and_answers(hub: FakeHub, tmp_path: Path) -> None:
    """From a name of the hub to an answer; then its revision is known without a network."""
    write_tone(tmp_path / "a.wav", hertz=200, seconds=0.3)
    environ = hub.make_environment(tmp_path / "cache")
    created = run_process("init", "my.dlm", "--base", "hf:me/ear", folder=tmp_path, env=environ)
    assert created.code == 0, created.err
    assert "hf:me/ear" in (tmp_path / "my.dlm").read_text()
    arguments = ("prompt", "my.dlm", "What?", "--audio", "a.wav", "--base", "--max-tokens", "2")
    result = run_process(*arguments, folder=tmp_path, env=environ)
    assert result.code == 0, result.err
    assert result.err == "fetching me/ear (0.5 MB)\n"
    offline = make_environment(HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    shown = run_process("show", "my.dlm", folder=tmp_path, env=offline)
    assert f"ear, revision {COMMIT}" in shown.out, shown.err


def test_a_folder_is_loaded_in_its_place(checkpoint_dir: Path) -> None:
    spec = resolve_model_spec("ear", checkpoint_dir.parent)
    assert get_checkpoint_dir(spec) == checkpoint_dir
    assert load_tokenizer(spec).convert_tokens_to_ids("<|AUDIO|>") == 260


def fetch_models(hub: FakeHub, cache: Path, *names: str, **more: str) -> list[str]:
    """What a process of its own says while it fetches, line by line."""
    command = [sys.executable, "-c", FETCH, *names]
    environ = hub.make_environment(cache, **more)
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()
