"""Fetching a base: only what is needed, said first, and one line when it does not come."""

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
def ear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-Audio, beside what a repository holds that nobody should fetch."""
    folder = write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("bases") / "ear")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("pytorch_model.bin", "consolidated.safetensors", "modeling_ear.py", "ear.png"):
        (folder / name).write_bytes(b"not to be fetched")
    return folder


@pytest.fixture
def hub(ear: Path):
    """A hub with that repository."""
    with serve_hub() as hub:
        hub.repositories["me/ear"] = Repository(ear)
        yield hub


def test_only_what_is_needed_is_fetched_and_only_once(
    hub: FakeHub, ear: Path, tmp_path: Path
) -> None:
    first, place, again = fetched(hub, tmp_path, "me/ear", "me/ear")
    assert first == "fetching me/ear (0.5 MB)"
    assert place == again == str(tmp_path / "hub" / "models--me--ear" / "snapshots" / COMMIT)
    names = {path.name for path in Path(place).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert hub.downloaded_files() == names
    assert not names & {"pytorch_model.bin", "consolidated.safetensors", "modeling_ear.py"}
    assert (
        load_file(Path(place) / "model.safetensors").keys()
        == load_file(ear / "model.safetensors").keys()
    )


def test_a_download_that_breaks_off_goes_on_where_it_was(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["me/ear"].breaks_off_at["model.safetensors"] = 100_000
    *_, place = fetched(hub, tmp_path, "me/ear")
    gets = [line for line in hub.requests if line.startswith("GET") and "model.safetensors" in line]
    assert len(gets) == 2
    assert load_file(Path(place) / "model.safetensors")


def test_a_download_that_stays_short_leaves_nothing_to_load(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["me/ear"].truncated_files = ("model.safetensors",)
    told = fetched(hub, tmp_path, "me/ear")[-1]
    assert told.startswith(f"hf:me/ear: is not in {tmp_path / 'hub'} and cannot be fetched: there")
    assert told.endswith(" (downloads resume), or use base_model: sparrow")
    assert not list((tmp_path / "hub").rglob("snapshots/*/model.safetensors"))
    hub.repositories["me/ear"].truncated_files = ()
    place = fetched(hub, tmp_path, "me/ear")[-1]
    assert load_file(Path(place) / "model.safetensors")


def test_a_base_that_does_not_come_is_one_line(hub: FakeHub, ear: Path, tmp_path: Path) -> None:
    hub.repositories["me/gated"] = Repository(ear, gated=True)
    told = fetched(hub, tmp_path, "me/gated", "me/none", HF_TOKEN="hf_secret")
    assert told == [
        "hf:me/gated: needs its licence accepted; accept it at https://huggingface.co/me/gated,"
        " then `hf auth login`",
        "hf:me/none: is not on the hub, or is private; check the name, or `hf auth login` with a"
        " token that may read it",
    ]
    assert "Bearer hf_secret" in hub.tokens


def test_a_disk_without_room_is_told_before(hub: FakeHub, ear: Path, tmp_path: Path) -> None:
    hub.repositories["me/vast"] = Repository(ear, claimed_bytes={"model.safetensors": 1 << 60})
    (told,) = fetched(hub, tmp_path / "cache", "me/vast")
    assert told.startswith("me/vast: takes 1152921504.6 GB and ")
    assert told.endswith(" are free; free some, or set HF_HOME to a folder on a larger disk")
    assert "model.safetensors" not in hub.downloaded_files()


def test_the_command_fetches_tells_it_and_answers(hub: FakeHub, tmp_path: Path) -> None:
    """From a name of the hub to an answer; then its revision is known without a network."""
    write_tone(tmp_path / "a.wav", hertz=200, seconds=0.3)
    around = hub.make_environment(tmp_path / "cache")
    made = run_process("init", "my.dlm", "--base", "hf:me/ear", folder=tmp_path, env=around)
    assert made.code == 0, made.err
    assert "hf:me/ear" in (tmp_path / "my.dlm").read_text()
    words = ("prompt", "my.dlm", "What?", "--audio", "a.wav", "--base", "--max-tokens", "2")
    done = run_process(*words, folder=tmp_path, env=around)
    assert done.code == 0, done.err
    assert done.err == "fetching me/ear (0.5 MB)\n"
    offline = make_environment(HF_HOME=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    shown = run_process("show", "my.dlm", folder=tmp_path, env=offline)
    assert f"ear, revision {COMMIT}" in shown.out, shown.err


def test_a_folder_is_loaded_from_where_it_lies(ear: Path) -> None:
    base = resolve_model_spec("ear", ear.parent)
    assert get_checkpoint_dir(base) == ear
    assert load_tokenizer(base).convert_tokens_to_ids("<|AUDIO|>") == 260


def fetched(hub: FakeHub, cache: Path, *names: str, **more: str) -> list[str]:
    """What a process of its own says while it fetches, line by line."""
    command = [sys.executable, "-c", FETCH, *names]
    around = hub.make_environment(cache, **more)
    done = subprocess.run(command, env=around, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
