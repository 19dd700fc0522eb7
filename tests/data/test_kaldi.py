"""Directories of Kaldi: nothing in them is run, and each bad line is told with its file."""

import os
from pathlib import Path

import pytest

from tests.data.gathering import faults, gathered, spoken
from tests.data.sounds import save

CORPUS = {"path": "corpus"}


def corpus(folder: Path, **files: str | bytes) -> Path:
    """A directory with the files, wav.scp as `wav`."""
    root = folder / "corpus"
    save(root / "wav/a.wav")
    for name, text in {"wav": "a wav/a.wav\n", **files}.items():
        path = root / ("wav.scp" if name == "wav" else name)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def test_an_utterance_is_a_clip(tmp_path: Path) -> None:
    root = corpus(
        tmp_path,
        wav="\ufeffr1   wav/a.wav \r\n\r\nr2 /far away/b.wav\n",
        segments="u1 r1 0.25 0.75\nu2 r2 1 -1\n",
        text="u2 Yes,  you.\nu1\tHalf past four.\n",
        utt2spk="u1 ann\nu2 bob\n",
        utt2lang="u1 en\nu2 fra\n",
    )
    found = gathered(tmp_path, CORPUS)
    assert faults(found) == []
    assert spoken(found) == [
        ("corpus/text:1", "Yes,  you.", "bob", None),
        ("corpus/text:2", "Half past four.", "ann", "en"),
    ]
    far, near = (clip.audio_segments[0] for clip in found.examples)
    assert (far.path, far.start, far.end) == (Path("/far away/b.wav"), 1.0, None)
    assert (near.path, near.start, near.end) == (root / "wav/a.wav", 0.25, 0.75)
    assert near.name == "wav/a.wav"


def test_without_segments_an_utterance_is_a_recording(tmp_path: Path) -> None:
    root = corpus(tmp_path, text="a Hi.\n")
    (root / "wav").rename(tmp_path / "sounds")
    (root / "wav.scp").write_text("a a.wav\n")
    (clip,) = gathered(tmp_path, {**CORPUS, "audio": "sounds"}).examples
    assert (
        clip.audio_segments[0].path == tmp_path / "sounds/a.wav"
        and clip.audio_segments[0].start is None
    )


@pytest.mark.parametrize(
    "command", ["touch {}|", "sph2pipe -f wav a.sph | touch {} |", "|touch {}", "-"]
)
def test_a_command_is_never_run(tmp_path: Path, command: str) -> None:
    mark = tmp_path / "ran"
    corpus(tmp_path, wav=f"a {command.format(mark)}\nb wav/a.wav\n", text="a Hi.\nb You.\n")
    found = gathered(tmp_path, CORPUS)
    assert [place for place, *_ in spoken(found)] == ["corpus/text:2"]
    assert faults(found)[0] == (
        "corpus/wav.scp:1: a is the output of a command, and none is run; "
        "run it once into a file, and name that file here"
    )
    assert found.issues[0].fatal and not mark.exists()


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("wav", "a wav/a.wav\na wav/b.wav\n", "corpus/wav.scp:2: the id a comes twice; keep one"),
        ("wav", "a raw.ark:1042\n", "corpus/wav.scp:1: a is in an archive of Kaldi, which is"),
        ("wav", "a wav/a.wav\nb\n", "corpus/wav.scp:2: b has no file; write its path behind it"),
        ("wav", b"a wav/a.wav\n\xff x\n", "corpus/wav.scp:2: the line is not UTF-8; save it as"),
        ("segments", "a a 0 1\na a 0 1\n", "corpus/segments:2: the id a comes twice; keep one"),
        ("segments", "a a 0 one\n", "corpus/segments:1: no span: a 0 one; write utterance, "),
        ("segments", "a a 0\n", "corpus/segments:1: no span: a 0; write utterance, "),
        ("segments", "a\n", "corpus/segments:1: no span: ; write utterance, "),
        ("segments", "a a 2 1\n", "corpus/segments:1: it begins at 2 s and ends at 1 s; write"),
        ("segments", "a a nan 1\n", "corpus/segments:1: it begins at nan s and ends at 1 s; "),
        ("text", "a Hi.\na You.\n", "corpus/text:2: the id a comes twice; give each record an id"),
        ("text", "a\n", "corpus/text:1: AUDIO section has empty transcript; "),
        ("text", "a d\u00e9j\u00e0\n".encode("latin1"), "corpus/text:1: the line is not UTF-8; "),
    ],
)
def test_a_line_that_cannot_be_used(tmp_path: Path, name: str, text, line: str) -> None:
    corpus(tmp_path, **{"text": "a Hi.\n", name: text})
    found = gathered(tmp_path, CORPUS)
    assert any(each.startswith(line) for each in faults(found)), faults(found)
    assert any(problem.fatal and str(problem).startswith(line) for problem in found.issues)


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    corpus(tmp_path, wav="a wav/a.wav\nb wav/b.wav\nc x |\n", text="a Hi.\nc You.\nd Me.\n")
    (report,) = gathered(tmp_path, CORPUS).sources
    assert report.audio_count == 1
    assert (report.skipped_audio_no_transcript, report.skipped_rows_no_audio) == (1, 1)
    assert report.skipped_not_audio == 1
    assert report.skipped_names == ("b", "d")


def test_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    root = corpus(tmp_path, text="a Hi.\n")
    (root / "text").unlink()
    os.mkfifo(root / "text")
    found = gathered(tmp_path, {**CORPUS, "format": "kaldi"})
    assert faults(found)[0] == "corpus/text: it is not a regular file; write it as text"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (line,) = faults(gathered(tmp_path, {**CORPUS, "format": "kaldi"}))
    assert line.endswith("no wav.scp in corpus; write it, or correct the path")


def test_strict_keeps_recordings_inside(tmp_path: Path) -> None:
    corpus(tmp_path, wav="a /etc/hostname\n", text="a Hi.\n")
    (line,) = faults(gathered(tmp_path, CORPUS, policy="strict"))
    assert line.startswith("corpus/text:1: /etc/hostname lies outside the document's folder")
