"""`dlm gc`: stored copies and features that nothing needs are removed, all others stay."""

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
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document with a version trained on clips 0 to 3, and their cached features."""
    monkeypatch.chdir(tmp_path)
    training = "  held_out: 0\n  freeze_encoder: true\n"
    write_document(tmp_path, base_model=tiny_model, num_clips=4, training=training)
    assert dlm("train", "my.dlm", "--steps", 1).code == 0
    return Path("my.dlm")


def remove_clip(document: Path, number: int) -> str:
    """Remove a clip from the document and return the sha256 of its recording."""
    lines = document.read_text().splitlines(keepends=True)
    document.write_text("".join(line for line in lines if f"clips/{number}.wav" not in line))
    return sha256(Path(f"clips/{number}.wav").read_bytes()).hexdigest()


def test_nothing_that_is_needed_is_removed(document: Path, home: Path) -> None:
    hashes_before = hash_files(home)
    done = dlm("gc", document)
    assert (done.code, done.out) == (0, "")
    assert done.err == "my.dlm: there is nothing to remove\n"
    assert hash_files(home) == hashes_before


def test_recordings_of_a_version_stay_and_features_go(document: Path, home: Path) -> None:
    removed_sha256 = remove_clip(document, 3)
    result = json.loads(dlm("gc", document, "--dry-run", "--json").out)
    kinds = [(item["kind"], item["name"]) for item in result["unneeded"]]
    assert kinds == [("features", "clips/3.wav")]
    assert result["removed"] is False
    hashes_before = hash_files(home)
    assert dlm("gc", document, "--dry-run").code == 0 and hash_files(home) == hashes_before
    done = dlm("gc", document)
    assert done.code == 0 and done.err.endswith(" kB removed\n")
    (removed,) = hashes_before.keys() - hash_files(home).keys()
    assert removed.split("/")[-1].startswith(f"{removed_sha256}-")
    assert dlm("verify", document).code == 0


def test_the_copy_of_a_recording_without_a_version_is_removed(document: Path, home: Path) -> None:
    """A run that was left had copied it."""
    write_tone(Path("clips/9.wav"), hertz=900)
    section = '\n::audio path="clips/9.wav" transcript="Nine."::\n'
    document.write_text(document.read_text() + section)
    copy = f"store/*/blobs/{sha256(Path('clips/9.wav').read_bytes()).hexdigest()}"
    next(event for event in api.train(document, steps=20) if any(home.glob(copy)))
    remove_clip(document, 9)
    (blob,) = home.glob(copy)
    done = dlm("gc", document, "--dry-run")
    assert done.code == 0, done.err
    line = re.search("^recordings that no version was trained on +1 .*clips/9.wav$", done.out, re.M)
    assert line, done.out
    assert done.err.endswith("would be removed: `dlm gc my.dlm`\n") and blob.exists()
    assert dlm("gc", document).code == 0 and not blob.exists()


def test_a_missing_recording_does_not_count_as_removed(document: Path, home: Path) -> None:
    Path("clips/2.wav").rename("elsewhere.wav")
    hashes_before = hash_files(home)
    text = "clips/2.wav: audio not found: clips/2.wav; restore it, or take it out of the document"
    dlm("gc", document).refused(text, error="audio.not_found")
    assert hash_files(home) == hashes_before


def test_a_missing_source_does_not_count_as_removed(document: Path, home: Path) -> None:
    document.write_text(
        document.read_text().replace("training:\n", "training:\n  sources: [away]\n")
    )
    hashes_before = hash_files(home)
    dlm("gc", document).refused("source not found: away", error="source.not_found")
    assert hash_files(home) == hashes_before


def test_nothing_is_removed_while_another_process_writes(document: Path) -> None:
    with open_store(read_document(document).config.dlm_id).lock():
        text = "is training this document; wait for it to end"
        dlm("gc", document).refused(text, error="store.locked")
        assert dlm("gc", document, "--dry-run").code == 0


@pytest.mark.parametrize("name", ["adapter/versions/v0001/version.json", "runs/*/run.json"])
def test_nothing_is_removed_while_a_record_is_damaged(
    name: str, document: Path, home: Path
) -> None:
    """Damage of the store: what a version learned from is not known, and is not collected."""
    remove_clip(document, 3)
    (record,) = home.glob(f"store/*/{name}")
    record.write_bytes(record.read_bytes()[:-9])
    hashes_before = hash_files(home)
    for command in (("gc", document), ("gc", document, "--dry-run"), ("train", document)):
        dlm(*command).refused("gone or damaged", "dlm verify", error="store.damaged")
    assert hash_files(home) == hashes_before
    assert record.name in dlm("versions", document).err
    done = dlm("verify", document)
    assert done.code == 1 and record.name in done.err
    done = dlm("verify", document, "--repair")
    assert done.code == 0 and "was restored from" in done.err
    assert dlm("gc", document).code == 0 and dlm("verify", document).code == 0
