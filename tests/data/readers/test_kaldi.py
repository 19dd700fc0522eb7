"""Kaldi folders: utterances, commands that are never run, and each broken line with its file."""

import os
from pathlib import Path

import pytest

from tests.data.readers.source_loading import (
    describe_examples,
    get_issues,
    get_lines,
    get_locations,
    load_source,
)
from tests.data.recordings import save_audio

CORPUS = {"path": "corpus"}


def write_corpus(folder: Path, **files: str | bytes) -> Path:
    """Write a folder with these files; wav.scp is `wav`."""
    root = folder / "corpus"
    save_audio(root / "wav/a.wav")
    for name, text in {"wav": "a wav/a.wav\n", **files}.items():
        path = root / ("wav.scp" if name == "wav" else name)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def test_an_utterance_is_an_example(tmp_path: Path) -> None:
    root = write_corpus(
        tmp_path,
        wav="\ufeffr1   wav/a.wav \r\n\r\nr2 /far away/b.wav\n",
        segments="u1 r1 0.25 0.75\nu2 r2 1 -1\n",
        text="u2 Yes,  you.\nu1\tHalf past four.\n",
        utt2spk="u1 ann\nu2 bob\n",
        utt2lang="u1 en\nu2 fra\n",
    )
    data = load_source(tmp_path, CORPUS)
    assert get_issues(data) == []
    assert describe_examples(data) == [
        ("corpus/text:1", "Yes,  you.", "bob", None),
        ("corpus/text:2", "Half past four.", "ann", "en"),
    ]
    far, near = (example.audio_segments[0] for example in data.examples)
    assert (far.path, far.start, far.end) == (Path("/far away/b.wav"), 1.0, None)
    assert (near.path, near.start, near.end) == (root / "wav/a.wav", 0.25, 0.75)
    assert near.name == "wav/a.wav"


def test_without_segments_an_utterance_is_a_recording(tmp_path: Path) -> None:
    root = write_corpus(tmp_path, text="a Hi.\n")
    (root / "wav").rename(tmp_path / "sounds")
    (root / "wav.scp").write_text("a a.wav\n")
    (example,) = load_source(tmp_path, {**CORPUS, "audio": "sounds"}).examples
    (segment,) = example.audio_segments
    assert (segment.path, segment.start) == (tmp_path / "sounds/a.wav", None)


@pytest.mark.parametrize(
    "command", ["touch {}|", "sph2pipe -f wav a.sph | touch {} |", "|touch {}", "-"]
)
def test_a_command_is_never_run(tmp_path: Path, command: str) -> None:
    mark = tmp_path / "ran"
    write_corpus(tmp_path, wav=f"a {command.format(mark)}\nb wav/a.wav\n", text="a Hi.\nb You.\n")
    data = load_source(tmp_path, CORPUS)
    assert get_locations(data) == ["corpus/text:2"]
    assert get_issues(data)[0] == ("corpus/wav.scp:1", "data.command")
    assert data.issues[0].fatal and not mark.exists()
    assert data.sources[0].skipped_not_audio == 1


@pytest.mark.parametrize(
    ("name", "text", "issue", "words"),
    [
        ("wav", "a wav/a.wav\na wav/b.wav\n", ("wav.scp:2", "data.duplicate_id"), "the id a"),
        ("wav", "a raw.ark:1042\n", ("wav.scp:1", "data.unsupported_recording"), "archive"),
        ("wav", "a wav/a.wav\nb\n", ("wav.scp:2", "data.no_audio_path"), "b has no file"),
        ("wav", b"a wav/a.wav\n\xff x\n", ("wav.scp:2", "data.not_utf8"), ""),
        ("segments", "a a 0 1\na a 0 1\n", ("segments:2", "data.duplicate_id"), "the id a"),
        ("segments", "a a 0 one\n", ("segments:1", "data.bad_span"), "no span: a 0 one"),
        ("segments", "a a 0\n", ("segments:1", "data.bad_span"), "no span: a 0"),
        ("segments", "a\n", ("segments:1", "data.bad_span"), "no span: "),
        ("segments", "a a 2 1\n", ("segments:1", "data.bad_span"), "begins at 2 s and ends at 1"),
        ("segments", "a a nan 1\n", ("segments:1", "data.bad_span"), "it begins at nan s"),
        ("text", "a Hi.\na You.\n", ("text:2", "data.duplicate_id"), "the id a"),
        ("text", "a\n", ("text:1", "data.empty_transcript"), ""),
        ("text", "a d\u00e9j\u00e0\n".encode("latin1"), ("text:1", "data.not_utf8"), ""),
    ],
)
def test_a_broken_line_is_an_issue_with_its_file_and_line(
    tmp_path: Path, name: str, text: str | bytes, issue: tuple[str, str], words: str
) -> None:
    write_corpus(tmp_path, **{"text": "a Hi.\n", name: text})
    data = load_source(tmp_path, CORPUS)
    where, code = issue
    assert get_issues(data)[0] == (f"corpus/{where}", code)
    assert words in data.issues[0].what and data.issues[0].fatal


def test_utterances_without_text_or_recording_are_counted(tmp_path: Path) -> None:
    write_corpus(tmp_path, wav="a wav/a.wav\nb wav/b.wav\nc x |\n", text="a Hi.\nc You.\nd Me.\n")
    (report,) = load_source(tmp_path, CORPUS).sources
    assert report.audio_count == 1
    assert (report.skipped_audio_no_transcript, report.skipped_rows_no_audio) == (1, 1)
    assert report.skipped_not_audio == 1
    assert report.skipped_names == ("b", "d")


def test_a_pipe_as_text_is_not_opened(tmp_path: Path) -> None:
    root = write_corpus(tmp_path, text="a Hi.\n")
    (root / "text").unlink()
    os.mkfifo(root / "text")
    data = load_source(tmp_path, {**CORPUS, "format": "kaldi"})
    assert get_issues(data)[0] == ("corpus/text", "source.not_a_file")


def test_a_folder_without_wav_scp_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (line, *_) = get_lines(load_source(tmp_path, {**CORPUS, "format": "kaldi"}))
    assert line.endswith("no wav.scp in corpus; write it, or correct the path")


def test_under_strict_a_recording_outside_the_folder_is_an_error(tmp_path: Path) -> None:
    write_corpus(tmp_path, wav="a /etc/hostname\n", text="a Hi.\n")
    data = load_source(tmp_path, CORPUS, policy="strict")
    assert get_issues(data) == [("corpus/text:1", "data.outside_folder")]
    assert "/etc/hostname" in data.issues[0].what
