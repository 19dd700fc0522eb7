"""`dlm show` and `dlm versions`: what a document has before and after training."""

import json
import re
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cli_runner import dlm
from tests.tiny_models import write_document, write_tiny_model, write_tone


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def document(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    training = "  held_out: 0\n  sources:\n    - path: corpus\n"
    for name in "abc":
        write_tone(Path(f"corpus/{name}.wav"), hertz=400 + ord(name))
    for name in "ab":
        Path(f"corpus/{name}.txt").write_text(f"It says {name}.")
    Path("corpus/notes.md").write_text("not audio")
    write_document(Path(), base_model=tiny_model, num_clips=2, training=training)
    return Path("my.dlm")


def test_show_counts_sources_before_any_training(document: Path, home: Path) -> None:
    result = json.loads(dlm("show", document, "--json").out)
    (source,) = result["source_directives"]
    assert (source["audio_count"], source["skipped_audio_no_transcript"]) == (2, 1)
    assert result["versions"] == result["exports"] == []
    assert result["clips"] == 4 and result["current"] is None
    assert result["total_size_bytes"] == 0
    text = dlm("show", document).out
    assert re.search(r"^source +corpus: 2 clips, 1 without a transcript, 1 not audio$", text, re.M)
    assert re.search(r"^base +tiny, revision test$", text, re.MULTILINE)
    assert "no version yet: run `dlm train my.dlm`" in dlm("versions", document).err
    assert not home.exists()


def test_show_lists_the_recordings_of_a_version(document: Path) -> None:
    """Each recording of a clip, also of one with several."""
    write_tone(Path("extra.wav"), hertz=900)
    question = "<audio>clips/0.wav</audio> <audio>extra.wav</audio> Which is high?"
    section = f"\n::conversation::\n### User\n{question}\n### Assistant\nThe second.\n"
    document.write_text(document.read_text() + section)
    done = dlm("train", document, "--steps", 1)
    assert done.code == 0, done.err
    names = ["clips/0.wav", "clips/1.wav", "extra.wav", "corpus/a.wav", "corpus/b.wav"]
    done = dlm("show", document, "--version", "v0001")
    assert done.code == 0 and "v0001 was trained on 5 recordings" in done.out
    lines = [line.split() for line in done.out.splitlines()[-5:]]
    assert lines == [[sha256(Path(name).read_bytes()).hexdigest()[:12], name] for name in names]
    result = json.loads(dlm("show", document, "--version", "v0001", "--json").out)
    assert [recording["path"] for recording in result["train_recordings"]] == names
    assert "train_recordings" not in json.loads(dlm("show", document, "--json").out)
    text = "no version 'v0009'; known: v0001"
    done = dlm("show", document, "--version", "v0009")
    done.refused(text, error="store.unknown_version")
