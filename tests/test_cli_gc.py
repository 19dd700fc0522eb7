"""`dlm gc` and `dlm show --version`: what is kept of which recordings."""

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest

import dlm as api
from dlm.config.parser import read_document
from dlm.store.versions import open_store
from tests.cli_runner import dlm, hash_files
from tests.tiny_models import write_document, write_tiny_model, write_tone


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document with a version that learned from clips 0 to 3, and kept what it heard."""
    monkeypatch.chdir(tmp_path)
    frozen = "  held_out: 0\n  freeze_encoder: true\n"
    write_document(tmp_path, base_model=tiny, num_clips=4, training=frozen)
    assert dlm("train", "my.dlm", "--steps", 1).code == 0
    return Path("my.dlm")


def without(document: Path, number: int) -> str:
    """Take a clip out of the document; the sha256 of its recording."""
    lines = document.read_text().splitlines(keepends=True)
    document.write_text("".join(line for line in lines if f"clips/{number}.wav" not in line))
    return sha256(Path(f"clips/{number}.wav").read_bytes()).hexdigest()


def test_a_version_says_which_recordings_it_learned_from(document: Path) -> None:
    done = dlm("show", document, "--version", "v0001")
    assert done.code == 0 and "v0001 learned from 4 recordings" in done.out
    told = [line.split() for line in done.out.splitlines()[-4:]]
    names = [f"clips/{number}.wav" for number in range(4)]
    assert told == [[sha256(Path(name).read_bytes()).hexdigest()[:12], name] for name in names]
    shown = json.loads(dlm("show", document, "--version", "v0001", "--json").out)
    assert [each["path"] for each in shown["train_recordings"]] == names
    assert "train_recordings" not in json.loads(dlm("show", document, "--json").out)
    dlm("show", document, "--version", "v0009").refused("no version 'v0009'; known: v0001")


def test_every_recording_of_a_clip_is_told(document: Path) -> None:
    write_tone(Path("extra.wav"), hertz=900)
    asked = "<audio>clips/0.wav</audio> <audio>extra.wav</audio> Which is high?"
    more = f"\n::conversation::\n### User\n{asked}\n### Assistant\nThe second.\n"
    document.write_text(document.read_text() + more)
    done = dlm("train", document, "--steps", 1)
    assert done.code == 0, done.err
    told = dlm("show", document, "--version", "v0002").out
    assert "learned from 5 recordings" in told and told.endswith("  extra.wav\n")


def test_nothing_is_removed_that_is_needed(document: Path, home: Path) -> None:
    before = hash_files(home)
    done = dlm("gc", document)
    assert (done.code, done.out) == (0, "")
    assert done.err == "my.dlm: nothing is kept that nobody needs\n"
    assert hash_files(home) == before


def test_what_a_version_learned_from_stays(document: Path, home: Path) -> None:
    gone = without(document, 3)
    told = json.loads(dlm("gc", document, "--dry-run", "--json").out)
    assert [(each["kind"], each["name"]) for each in told["unneeded"]] == [
        ("features", "clips/3.wav")
    ]
    assert told["removed"] is False
    before = hash_files(home)
    assert dlm("gc", document, "--dry-run").code == 0 and hash_files(home) == before
    done = dlm("gc", document)
    assert done.code == 0 and done.err.endswith(" MB removed\n")
    left = before.keys() - hash_files(home).keys()
    assert len(left) == 1 and next(iter(left)).split("/")[-1].startswith(f"{gone}-")
    assert dlm("verify", document).code == 0


def test_a_recording_that_nothing_learned_from_is_removed(document: Path, home: Path) -> None:
    """A run that was left had copied it."""
    write_tone(Path("clips/9.wav"), hertz=900)
    more = '\n::audio path="clips/9.wav" transcript="Nine."::\n'
    document.write_text(document.read_text() + more)
    copied = f"store/*/blobs/{sha256(Path('clips/9.wav').read_bytes()).hexdigest()}"
    next(event for event in api.train(document, steps=20) if any(home.glob(copied)))
    gone = without(document, 9)
    (blob,) = home.glob(f"store/*/blobs/{gone}")
    done = dlm("gc", document, "--dry-run")
    assert done.code == 0, done.err
    line = re.search("^recordings that no version learned from +1 .*clips/9.wav$", done.out, re.M)
    assert line is not None, done.out
    assert done.err.endswith("would be removed: `dlm gc my.dlm`\n") and blob.exists()
    assert dlm("gc", document).code == 0 and not blob.exists()


def test_a_recording_that_is_away_is_not_taken_for_removed(document: Path, home: Path) -> None:
    Path("clips/2.wav").rename("elsewhere.wav")
    before = hash_files(home)
    words = "clips/2.wav: audio not found: clips/2.wav; put it back, or take it out of the document"
    dlm("gc", document).refused(words)
    assert hash_files(home) == before


def test_a_source_that_is_away_is_not_taken_for_removed(document: Path, home: Path) -> None:
    document.write_text(
        document.read_text().replace("training:\n", "training:\n  sources: [away]\n")
    )
    before = hash_files(home)
    dlm("gc", document).refused("source not found: away")
    assert hash_files(home) == before


def test_nothing_is_removed_while_another_writes(document: Path) -> None:
    with open_store(read_document(document).config.dlm_id).lock():
        dlm("gc", document).refused("is training this document; wait for it to end")
        assert dlm("gc", document, "--dry-run").code == 0
