"""`dlm export-data`: clips written as a folder in three formats, and which are left out."""

import re
from pathlib import Path

import pytest

from dlm.config.parser import read_document
from dlm.data.load import load_examples
from tests.cli_runner import dlm
from tests.commands.corpora import FRONTMATTER, write_corpus


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.dlm").write_text(FRONTMATTER)


@pytest.mark.parametrize("export_format", ["audiofolder", "jsonl", "webdataset"])
def test_exported_clips_can_be_imported(export_format: str) -> None:
    write_corpus(num_clips=12)
    dlm("import", "corpus", "--into", "my.dlm", "--yes", "--language", "en")
    counts = []
    for subset in ("all", "learn", "held-out"):
        options = ("--form", export_format, "--part", subset)
        done = dlm("export-data", "my.dlm", f"out/{subset}", *options)
        assert done.code == 0, done
        counts.append(int(re.match(rf"out/{subset}: (\d+) clip", done.out)[1]))
    assert counts[0] == counts[1] + counts[2] == 12 and counts[2]
    command = re.search(r"`dlm (import \S+) ", done.err)[1]
    Path("other.dlm").write_text(FRONTMATTER)
    assert dlm(*command.split(), "--into", "other.dlm", "--yes").code == 0
    examples = load_examples(read_document(Path("other.dlm"))).examples
    assert len(examples) == counts[2]
    assert {example.language for example in examples} == {"en"}


def test_bad_clips_are_left_out_where_the_document_skips_them() -> None:
    write_corpus(num_clips=4)
    Path("my.dlm").write_text(FRONTMATTER[:-4] + "training: {bad_clips: skip}\n---\nOnly text.\n")
    dlm("import", "corpus", "--into", "my.dlm", "--yes")
    Path("corpus/1.wav").write_bytes(b"RIFF")
    Path("corpus/2.txt").write_text("")
    done = dlm("export-data", "my.dlm", "out", "--form", "audiofolder")
    assert (done.code, done.out) == (0, "out: 2 clips, 2 recordings, 1.0 s\n")
    left_out = "left out, since they have no audio: 1\nleft out, since they cannot be used: 1; `dlm"
    assert done.err.startswith(left_out)


@pytest.mark.parametrize(
    ("args", "text", "error", "code"),
    [
        ("out --form zip", "--form is 'zip'; choose one of audiof", "usage.unknown_choice", 2),
        ("out --part some", "--part is 'some'; choose one of all, l", "usage.unknown_choice", 2),
        ("corpus", "corpus: not empty; name an empty folder", "store.not_empty", 1),
        ("out", "my.dlm: the document has nothing to train on; add an", "data.no_examples", 1),
    ],
)
def test_a_wrong_option_or_an_empty_document_writes_nothing(
    args: str, text: str, error: str, code: int
) -> None:
    write_corpus()
    dlm("export-data", "my.dlm", *args.split()).refused(text, error=error, code=code)
    assert Path("my.dlm").read_text() == FRONTMATTER and not Path("out").exists()


def test_a_streamed_source_is_not_exported() -> None:
    write_corpus()
    dlm("import", "corpus", "--into", "my.dlm", "--yes", "--stream")
    text = "my.dlm: only the first 256 clips of each source would be written: it streams"
    done = dlm("export-data", "my.dlm", "out")
    done.refused(text, error="usage.streamed_source", code=2)
    assert not Path("out").exists()


def test_a_subset_without_clips_and_bad_clips_write_nothing() -> None:
    write_corpus(num_clips=2)
    Path("my.dlm").write_text(FRONTMATTER[:-4] + "training: {held_out: 0}\n---\n")
    dlm("import", "corpus", "--into", "my.dlm", "--yes")
    done = dlm("export-data", "my.dlm", "out", "--part", "held-out")
    done.refused("my.dlm: no clip with audio in this part", error="data.no_audio")
    Path("corpus/1.wav").write_bytes(b"RIFF")
    dlm("export-data", "my.dlm", "out").refused("corpus/1.wav: ", error="audio.not_audio")
    Path("corpus/1.txt").write_text("")
    text = "corpus/1.txt: AUDIO section has empty transcript"
    dlm("export-data", "my.dlm", "out").refused(text, error="data.empty_transcript")
    assert not Path("out").exists()
