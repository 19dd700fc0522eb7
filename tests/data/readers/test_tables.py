"""Tables of clips: columns under many names, and each broken row with its line."""

from pathlib import Path
from typing import Any

import pytest

from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment
from tests.data.readers.source_loading import get_issues, get_locations, load_source
from tests.data.recordings import save_audio


def load_table(folder: Path, text: str, *, name: str = "table.csv", **source: Any) -> LoadedData:
    """Load a table of this text, with two recordings beside it."""
    for stem in "ab":
        save_audio(folder / f"data/{stem}.wav")
    (folder / "data" / name).write_text(text, encoding="utf-8", newline="")
    return load_source(folder, {"path": f"data/{name}", **source})


@pytest.mark.parametrize(
    "audio", ["audio", "audio_path", "path", "file", "file_name", "filename", "wav"]
)
@pytest.mark.parametrize("text", ["text", "sentence", "transcription", "caption"])
def test_columns_have_many_names(audio: str, text: str, tmp_path: Path) -> None:
    (example,) = load_table(tmp_path, f"id,{text},{audio}\n7,Hello.,a.wav\n").examples
    assert example.messages[0].content == (AudioSegment(tmp_path / "data/a.wav"),)
    assert (example.target, example.task) == ("Hello.", "transcribe")
    assert example.location == "data/table.csv:2"


def test_a_row_may_have_a_span_a_speaker_a_language_and_a_prompt(tmp_path: Path) -> None:
    header = "path\tsentence\tclient_id\tlocale\tstart\tend\tprompt\n"
    rows = 'a.wav\t"Two\n""lines"""\tann\tpt-BR\t0.25\t1\tWhat?\nb.wav\tSo.\t\t\t\t\t\n'
    first, last = load_table(tmp_path, header + rows, name="all.tsv").examples
    segment = AudioSegment(tmp_path / "data/a.wav", 0.25, 1.0)
    assert first.messages[0].content == (segment, "What?")
    assert (first.target, first.speaker, first.language) == ('Two\n"lines"', "ann", "pt")
    assert (last.speaker, last.language, last.location) == (None, None, "data/all.tsv:4")
    assert len(last.messages[0].content) == 1


def test_a_source_names_the_columns(tmp_path: Path) -> None:
    columns = {"audio": "rec", "text": "de", "start": "from", "speaker": "who", "prompt": "ask"}
    text = "path,rec,text,de,from,start,who,ask\nno,b.wav,no,Ja.,0.5,9,bob,Was?\n"
    (example,) = load_table(tmp_path, text, columns=columns, language="de").examples
    segment = AudioSegment(tmp_path / "data/b.wav", 0.5)
    assert example.messages[0].content == (segment, "Was?")
    assert (example.target, example.speaker, example.language) == ("Ja.", "bob", "de")


@pytest.mark.parametrize(
    ("header", "columns", "words"),
    [
        ("a,text,c\n", {}, "no column for the audio of a clip; the table has a, text, c"),
        ("path,b\n", {}, "no column for the text of a clip; the table has path, b"),
        ("path,text\n", {"text": "words"}, "no column words; the table has path, text"),
        (",".join("abcdefghijklmn") + "\n", {}, "i, j, k, l, ..."),
    ],
)
def test_a_missing_column_is_reported_once(
    header: str, columns: dict[str, str], words: str, tmp_path: Path
) -> None:
    data = load_table(tmp_path, header + "1,2,3\n" * 3, columns=columns)
    assert [code for _, code in get_issues(data)] == ["source.no_column"]
    assert words in data.issues[0].what and "name it with columns" in data.issues[0].hint


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ("a.wav,", "data.empty_transcript", ""),
        (",x", "data.no_audio_path", ""),
        ("a.wav,x,y", "data.bad_cell_count", "3 cells, and the table has 2 columns"),
        ("a.wav,<audio>b.wav</audio>", "data.audio_tag_in_text", "text"),
        ("https://x.org/a.wav,x", "data.remote_audio", "https://x.org/a.wav"),
        ("data:audio/wav;base64,x", "data.inline_audio", ""),
        ('a.wav,"x" y', "data.not_csv", ""),
    ],
)
def test_a_broken_row_is_an_issue_with_its_line(
    row: str, code: str, words: str, tmp_path: Path
) -> None:
    text = f'\ufeffaudio,text\r\na.wav,"Two\r\nlines"\r\n{row}\r\nb.wav,x\r\n'
    data = load_table(tmp_path, text)
    assert get_locations(data) == ["data/table.csv:2", "data/table.csv:5"]
    assert get_issues(data) == [("data/table.csv:4", code)]
    assert words in data.issues[0].what


@pytest.mark.parametrize("seconds", ["soon", "nan", "1e999"])
def test_seconds_must_be_finite_numbers(seconds: str, tmp_path: Path) -> None:
    data = load_table(tmp_path, f"path,text,start\na.wav,x,{seconds}\n")
    assert get_issues(data) == [("data/table.csv:2", "data.bad_seconds")]
    assert "start" in data.issues[0].what


def test_a_quote_that_is_never_closed_is_an_issue_with_its_line(tmp_path: Path) -> None:
    data = load_table(tmp_path, 'path,text\nnone.wav,x\na.wav,"open\nb.wav,x\n')
    assert get_locations(data) == ["data/table.csv:2"]
    assert get_issues(data) == [("data/table.csv:3", "data.not_csv")]


def test_under_strict_a_recording_outside_the_folder_is_an_error(tmp_path: Path) -> None:
    data = load_table(tmp_path, "path,text\n../../far.wav,x\n")
    assert [example.audio_segments[0].name for example in data.examples] == ["../../far.wav"]
    data = load_source(tmp_path, {"path": "data/table.csv"}, policy="strict")
    assert get_issues(data) == [("data/table.csv:2", "data.outside_folder")]


@pytest.mark.parametrize("text", ["", "\n", "path,text\n"])
def test_an_empty_table_is_an_issue(text: str, tmp_path: Path) -> None:
    data = load_table(tmp_path, text)
    assert [issue.code for issue in data.issues] == ["source.empty", "data.no_examples"]
    assert data.issues[0].hint.startswith("name its columns")


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_csv_may_have_other_delimiters(delimiter: str, tmp_path: Path) -> None:
    """What programs call CSV: with the semicolons of Excel, with | and with tabs."""
    rows = [("path", "text"), ("a.wav", "Yes.")]
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    (example,) = load_table(tmp_path, text).examples
    assert (example.target, example.location) == ("Yes.", "data/table.csv:2")


def test_a_semicolon_within_a_comma_table_is_text(tmp_path: Path) -> None:
    text = "path,text\na.wav,one; two; three\n"
    assert load_table(tmp_path, text).examples[0].target == "one; two; three"


@pytest.mark.parametrize("num_cells", [2, 3])
@pytest.mark.parametrize("source", ["lj", "lj/metadata.csv"])
def test_the_metadata_of_ljspeech_is_read(tmp_path: Path, num_cells: int, source: str) -> None:
    """A table without a header, whose texts have quotes as they are: the folder and the file."""
    lines = []
    for number, text in enumerate(('"Yes," he said.', "In 1, and 2")):
        save_audio(tmp_path / f"lj/wavs/LJ001-000{number}.wav")
        lines.append("|".join([f"LJ001-000{number}", *["Printed"] * (num_cells - 2), text]))
    (tmp_path / "lj/metadata.csv").write_text("\n".join(lines) + "\n")
    data = load_source(tmp_path, {"path": source})
    assert [example.target for example in data.examples] == ['"Yes," he said.', "In 1, and 2"]
    paths = [example.audio_segments[0].path for example in data.examples]
    assert all(path.is_file() for path in paths) and get_issues(data) == []
    assert get_locations(data) == [f"lj/metadata.csv:{line}" for line in (1, 2)]
