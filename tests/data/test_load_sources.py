"""Source folders: the examples they give, and the report and warnings about the rest."""

import os
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

import pytest

from dlm.data.load import LoadedData, SourceReport, load_examples
from dlm.data.types import AudioSegment, Example
from tests.data.recordings import create_document, save_audio, save_with_transcript

CORPUS = "training:\n  sources:\n    - path: ./corpus\n"


def load_corpus(folder: Path, *more: str, head: str = CORPUS) -> LoadedData:
    """Load a document with one source; `more` are further fields of that source."""
    return load_examples(
        create_document(folder, head=head + "".join(f"      {line}\n" for line in more))
    )


def get_locations(data: LoadedData) -> list[str]:
    return [example.location for example in data.examples]


def get_lines(data: LoadedData) -> list[str]:
    lines = [str(issue) for issue in data.issues]
    assert not any("\n" in line for line in lines)
    return lines


def test_audio_with_a_transcript_beside_it_is_an_example(tmp_path: Path) -> None:
    path = save_with_transcript(tmp_path / "corpus/a.wav", "  Hello thère.\n")
    data = load_corpus(tmp_path, "language: fr", "prompt: Write it down.")
    (example,) = data.examples
    assert isinstance(example, Example) and example.location == "corpus/a.wav"
    assert example.messages[0].content == (AudioSegment(path), "Write it down.")
    assert (example.target, example.task, example.language) == ("Hello thère.", "transcribe", "fr")
    assert example.audio_segments[0].name == "corpus/a.wav" and data.issues == ()


def test_without_a_prompt_the_user_message_is_the_audio(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", "Hello.")
    (example,) = load_corpus(tmp_path).examples
    assert len(example.messages[0].content) == 1


@pytest.mark.parametrize(
    "name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.opus", "A.WAV", "a.b.Wav", "ünï cödé.wav"]
)
def test_every_audio_format_is_found_whatever_its_case(tmp_path: Path, name: str) -> None:
    save_with_transcript(tmp_path / "corpus" / name, "Hello.")
    assert get_locations(load_corpus(tmp_path)) == [f"corpus/{name}"]


def test_examples_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.wav", "a/1.wav", "c.wav", "b/10.wav"):
        save_with_transcript(tmp_path / "corpus" / name, name)
    wanted = ["corpus/a/1.wav", "corpus/b/10.wav", "corpus/b/2.wav", "corpus/c.wav"]
    assert get_locations(load_corpus(tmp_path)) == wanted


def test_skipped_files_are_counted_and_reported(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    sizes = sum(
        save_with_transcript(corpus / name, "Hi.").stat().st_size for name in ("a.wav", "b.flac")
    )
    save_with_transcript(corpus / "out/c.wav", "Hi.")
    save_audio(corpus / "d.wav")
    for name in ("notes.md", "lone.txt", "e.mid", ".hidden.wav"):
        (corpus / name).write_text("words")
    data = load_corpus(tmp_path, "include: ['**/*.{wav,flac}']", "exclude: [out/**]")
    (report,) = data.sources
    assert report == SourceReport(
        path="./corpus",
        audio_count=2,
        audio_bytes=sizes,
        skipped_audio_no_transcript=1,
        skipped_not_audio=3,
        skipped_excluded=1,
        audio_names=("corpus/a.wav", "corpus/b.flac"),
        skipped_names=("corpus/d.wav",),
    )
    assert get_lines(data) == [
        "my.dlm:7: 1 without a transcript, skipped: corpus/d.wav; write corpus/d.txt"
    ]
    assert not any(issue.fatal for issue in data.issues)


def test_only_the_first_names_are_reported(tmp_path: Path) -> None:
    for number in range(8):
        save_audio(tmp_path / f"corpus/{number}.wav")
    data = load_corpus(tmp_path)
    assert data.sources[0].skipped_audio_no_transcript == 8
    assert data.sources[0].skipped_names[-1] == "corpus/4.wav"
    assert "corpus/4.wav and 3 more; write corpus/0.txt" in get_lines(data)[0]


def test_transcripts_are_no_text_examples(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", "Hello.")
    assert [example.task for example in load_corpus(tmp_path).examples] == ["transcribe"]


def test_max_files_counts_examples(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/0.wav")
    for number in range(1, 6):
        save_with_transcript(tmp_path / f"corpus/{number}.wav", "Hi.")
    data = load_corpus(tmp_path, "max_files: 2")
    assert get_locations(data) == ["corpus/1.wav", "corpus/2.wav"]
    (report,) = data.sources
    assert (report.skipped_over_max_files, report.skipped_audio_no_transcript) == (3, 1)


def test_several_sources_and_sections_in_order(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "x/a.wav", "Hi.")
    save_with_transcript(tmp_path / "y/a.wav", "Hi.")
    head = "training:\n  sources:\n    - {path: y}\n    - path: 'x'  # second\n"
    data = load_examples(create_document(tmp_path, "Prose.\n", head=head))
    assert get_locations(data) == ["my.dlm:10", "y/a.wav", "x/a.wav"]
    assert [report.path for report in data.sources] == ["y", "x"]


def test_a_source_may_be_one_recording(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", "Hi.")
    head = "training:\n  sources:\n    - path: corpus/a.wav\n"
    assert get_locations(load_corpus(tmp_path, head=head)) == ["corpus/a.wav"]


def test_a_source_that_is_no_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("words")
    (line,) = get_lines(load_corpus(tmp_path))
    assert line.startswith(
        "my.dlm:7: source is neither a folder nor audio: ./corpus; name a folder"
    )


def test_a_source_outside_is_named_as_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_with_transcript(tmp_path / "far/a.wav", "Hi.")
    (tmp_path / "here").mkdir()
    for path, location in (("../far", "../far/a.wav"), ("~/far", "~/far/a.wav")):
        head = f"training:\n  sources:\n    - path: {path}\n"
        data = load_corpus(tmp_path / "here", head=head)
        assert (
            get_locations(data) == [location] and data.examples[0].audio_segments[0].path.is_file()
        )


@pytest.mark.parametrize(
    "words", ["Hello.", "\ufeffHello.", "\r\n Hello. \r\n", "Hello.\n\n"], ids=ascii
)
def test_a_transcript_is_stripped_and_may_have_a_bom(tmp_path: Path, words: str) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", words)
    assert load_corpus(tmp_path).examples[0].target == "Hello."


@pytest.mark.parametrize("blank", ["", " \n\t", "\ufeff", "\u3000\n"], ids=ascii)
def test_a_blank_transcript(tmp_path: Path, blank: str) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", blank)
    data = load_corpus(tmp_path)
    assert get_lines(data) == [
        "corpus/a.txt: AUDIO section has empty transcript; "
        "write what is said, or remove the file to skip it"
    ]
    assert data.issues[0].fatal and data.sources[0].audio_count == 0


@pytest.mark.parametrize("words", ["déjà".encode("latin1"), "hello".encode("utf-16")], ids=ascii)
def test_a_transcript_that_is_not_utf8(tmp_path: Path, words: bytes) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", words)
    data = load_corpus(tmp_path)
    (line,) = get_lines(data)
    assert "corpus/a.txt: the transcript is not UTF-8 (byte " in line
    encoding = "utf-16" if b"\0" in words else "latin1"
    assert f"iconv -f {encoding} -t utf-8" in line and data.issues[0].fatal


def test_a_transcript_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    os.mkfifo(tmp_path / "corpus/a.txt")
    (line,) = get_lines(load_corpus(tmp_path))
    assert line.startswith("corpus/a.txt: the transcript is not a regular file; ")


def test_a_transcript_without_permission_is_refused(tmp_path: Path, monkeypatch) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", "Hi.")
    parsed = create_document(tmp_path, head=CORPUS)

    def closed(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", closed)
    assert get_lines(load_examples(parsed)) == [
        "corpus/a.txt: the transcript cannot be read; allow it to be read"
    ]


def test_a_missing_source_is_reported_with_its_line(tmp_path: Path) -> None:
    data = load_corpus(tmp_path)
    (issue,) = data.issues
    assert issue.fatal and (issue.where, issue.code) == ("my.dlm:7", "source.not_found")
    assert data.sources == (SourceReport("./corpus"),)


@pytest.mark.parametrize("line", ["- {path: '../c.d', max_files: 1}", '- path: "../c.d" # far'])
def test_the_line_of_a_source_is_found_in_any_style(tmp_path: Path, line: str) -> None:
    head = f"training:\n  sources:\n    - path: here\n    {line}\n"
    (tmp_path / "here").mkdir()
    assert get_lines(load_corpus(tmp_path, head=head))[-1].startswith(
        "my.dlm:8: source not found: ../c.d;"
    )


def test_a_source_whose_line_cannot_be_found_is_reported_with_the_document(tmp_path: Path) -> None:
    head = 'training:\n  sources:\n    - path: "\\x61bc"\n'
    assert get_lines(load_corpus(tmp_path, head=head))[0].startswith(
        "my.dlm: source not found: abc;"
    )


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    note, nothing = get_lines(load_corpus(tmp_path))
    assert note.startswith("my.dlm:7: no clips in ./corpus; put recordings there")
    assert "the document has nothing to train on" in nothing


def test_a_recording_that_is_a_broken_link_is_an_example(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", "Hi.").unlink()
    (tmp_path / "corpus/a.wav").symlink_to("gone.wav")
    assert get_locations(load_corpus(tmp_path)) == ["corpus/a.wav"]


def test_links_in_a_circle_give_each_example_once(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "corpus/x/a.wav", "Hi.")
    (tmp_path / "corpus/x/up").symlink_to(tmp_path / "corpus")
    assert get_locations(load_corpus(tmp_path)) == ["corpus/x/a.wav"]


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch) -> None:
    save_with_transcript(tmp_path / "corpus/a.wav", "Hi.")
    (tmp_path / "corpus/closed").mkdir()
    plain = Path.iterdir

    def listed(folder: Path):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return plain(folder)

    monkeypatch.setattr(Path, "iterdir", listed)
    data = load_corpus(tmp_path)
    assert get_locations(data) == ["corpus/a.wav"]
    assert get_lines(data)[0].startswith("corpus/closed: the folder cannot be listed; ")


STRICT = "training:\n  sources_policy: strict\n  sources:\n"


def test_strict_refuses_sources_outside_the_folder_of_the_document(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "far/a.wav", "Hi.")
    save_with_transcript(tmp_path / "here/corpus/a.wav", "Hi.")
    data = load_corpus(tmp_path / "here", head=STRICT + "    - path: corpus\n    - path: ../far\n")
    assert get_locations(data) == ["corpus/a.wav"]
    assert get_lines(data) == [
        "my.dlm:9: ../far lies outside the document's folder, and sources_policy is strict; "
        "move it inside, or set `sources_policy: permissive`"
    ]
    assert data.issues[0].fatal


def test_strict_follows_links(tmp_path: Path) -> None:
    far = save_with_transcript(tmp_path / "far/a.wav", "Hi.")
    corpus = tmp_path / "here/corpus"
    save_with_transcript(corpus / "b.wav", "Hi.")
    (corpus / "a.wav").symlink_to(far)
    (corpus / "a.txt").write_text("Hi.")
    (corpus / "link").symlink_to(far.parent)
    (corpus / "loop.wav").symlink_to("loop.wav")
    (corpus / "loop.txt").write_text("Hi.")
    parsed = create_document(tmp_path / "here", head=STRICT + "    - path: corpus\n")
    data = load_examples(parsed)
    assert get_locations(data) == ["corpus/b.wav", "corpus/loop.wav"]
    assert [line.split(" lies")[0] for line in get_lines(data)] == [
        "corpus/a.wav: it",
        "corpus/link/a.wav: it",
    ]
    training = parsed.config.training.model_copy(update={"sources_policy": "permissive"})
    free = replace(parsed, config=parsed.config.model_copy(update={"training": training}))
    assert len(load_examples(free).examples) == 4


@pytest.mark.parametrize("audio_form", ["NFC", "NFD"])
@pytest.mark.parametrize("text_form", ["NFC", "NFD"])
def test_names_meet_in_either_form_of_unicode(
    tmp_path: Path, audio_form: str, text_form: str
) -> None:
    """One name written in two ways: beside a recording, in a list, and in a folder of a list."""
    name = "Grüße"
    save_audio(tmp_path / "corpus" / f"{normalize(audio_form, name)}.wav")
    sidecar = tmp_path / "corpus" / f"{normalize(text_form, name)}.txt"
    sidecar.write_text("Beside it.")
    data = load_corpus(tmp_path)
    assert [example.target for example in data.examples] == ["Beside it."] and not data.issues
    folder = tmp_path / "corpus" / normalize(audio_form, "ö")
    path = save_audio(folder / f"{normalize(audio_form, name)}.wav")
    line = normalize(text_form, f"ö/{name}.wav")
    (tmp_path / "corpus/list.csv").write_text(f"audio,text\n{line},Listed.\n")
    (example,) = load_corpus(tmp_path, head=CORPUS.replace("corpus", "corpus/list.csv")).examples
    assert example.audio_segments[0].path == path and path.is_file()
    (tmp_path / "corpus/list.csv").rename(tmp_path / "corpus/metadata.csv")
    table = tmp_path / "corpus/metadata.csv"
    table.write_text(table.read_text().replace("audio,", "file_name,"))
    data = load_corpus(tmp_path)
    assert [example.audio_segments[0].path for example in data.examples] == [path]
    assert data.sources[0].skipped_audio_no_transcript == 1  # Grüße.wav, which is not listed


def test_a_path_with_backslashes_is_read_as_one_with_slashes(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "corpus/deep/a.wav")
    (tmp_path / "corpus/list.csv").write_text("audio,text\ndeep\\a.wav,Listed.\n")
    (example,) = load_corpus(tmp_path, head=CORPUS.replace("corpus", "corpus/list.csv")).examples
    assert example.audio_segments[0].path == path


@pytest.mark.parametrize("suffix", "mp2 sph aifc spx ts ogv".split())
def test_every_suffix_that_is_decoded_is_audio_in_a_folder(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / f"corpus/a.{suffix}").touch()
    (tmp_path / "corpus/a.txt").write_text("Said.")
    data = load_corpus(tmp_path)
    assert get_locations(data) == [f"corpus/a.{suffix}"]
