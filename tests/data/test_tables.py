"""Tables of clips: columns under many names, and what is wrong with one told with its line."""

from pathlib import Path
from typing import Any

import pytest

from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment
from tests.data.gathering import gathered, told
from tests.data.sounds import save


def given(folder: Path, text: str, *, name: str = "table.csv", **source: Any) -> LoadedData:
    """What a table of this text gives, with two recordings beside it."""
    for stem in "ab":
        save(folder / f"data/{stem}.wav")
    (folder / "data" / name).write_text(text, encoding="utf-8", newline="")
    return gathered(folder, {"path": f"data/{name}", **source})


@pytest.mark.parametrize(
    "audio", ["audio", "audio_path", "path", "file", "file_name", "filename", "wav"]
)
@pytest.mark.parametrize("text", ["text", "sentence", "transcription", "caption"])
def test_columns_have_many_names(audio: str, text: str, tmp_path: Path) -> None:
    (clip,) = given(tmp_path, f"id,{text},{audio}\n7,Hello.,a.wav\n").examples
    assert clip.messages[0].content == (AudioSegment(tmp_path / "data/a.wav"),)
    assert (clip.target, clip.task, clip.location) == ("Hello.", "transcribe", "data/table.csv:2")


def test_all_that_a_row_may_say(tmp_path: Path) -> None:
    head = "path\tsentence\tclient_id\tlocale\tstart\tend\tprompt\n"
    rows = 'a.wav\t"Two\n""lines"""\tann\tpt-BR\t0.25\t1\tWhat?\nb.wav\tSo.\t\t\t\t\t\n'
    first, last = given(tmp_path, head + rows, name="all.tsv").examples
    assert first.messages[0].content == (AudioSegment(tmp_path / "data/a.wav", 0.25, 1.0), "What?")
    assert (first.target, first.speaker, first.language) == ('Two\n"lines"', "ann", "pt")
    assert (last.speaker, last.language, last.location) == (None, None, "data/all.tsv:4")
    assert len(last.messages[0].content) == 1


def test_a_source_names_the_columns(tmp_path: Path) -> None:
    columns = {"audio": "rec", "text": "de", "start": "from", "speaker": "who", "prompt": "ask"}
    text = "path,rec,text,de,from,start,who,ask\nno,b.wav,no,Ja.,0.5,9,bob,Was?\n"
    (clip,) = given(tmp_path, text, columns=columns, language="de").examples
    assert clip.messages[0].content == (AudioSegment(tmp_path / "data/b.wav", 0.5), "Was?")
    assert (clip.target, clip.speaker, clip.language) == ("Ja.", "bob", "de")


MISSING = [
    ("a,text,c\n", {}, "no column for the audio of a clip; the table has a, text, c"),
    ("path,b\n", {}, "no column for the text of a clip; the table has path, b"),
    ("path,text\n", {"text": "words"}, "no column words; the table has path, text"),
    (",".join("abcdefghijklmn") + "\n", {}, "i, j, k, l, ...; say which it is with columns: {a"),
]


@pytest.mark.parametrize(("text", "columns", "what"), MISSING, ids=range(len(MISSING)))
def test_a_table_without_its_columns(
    text: str, columns: dict[str, str], what: str, tmp_path: Path
) -> None:
    line, *_ = told(given(tmp_path, text + "1,2,3\n", columns=columns))
    assert line.startswith("my.dlm:") and what in line and "; say which it is with" in line


BAD = [
    ("a.wav,", "AUDIO section has empty transcript"),
    (",x", "no audio"),
    ("a.wav,x,y", "3 cells, and the table has 2 columns"),
    ("a.wav,<audio>b.wav</audio>", "text holds an <audio> tag"),
    ("https://x.org/a.wav,x", "https://x.org/a.wav is not on this machine"),
    ("data:audio/wav;base64,x", "a recording is inside the record itself"),
    ('a.wav,"x" y', "not CSV ("),
]


@pytest.mark.parametrize(("bad", "what"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_with_its_line(bad: str, what: str, tmp_path: Path) -> None:
    text = f'audio,text\r\na.wav,"Two\r\nlines"\r\n{bad}\r\nb.wav,x\r\n'
    found = given(tmp_path, "\ufeff" + text)
    assert [clip.location for clip in found.examples] == ["data/table.csv:2", "data/table.csv:5"]
    (line,) = told(found)
    assert line.startswith("data/table.csv:4: ") and what in line and "; " in line


@pytest.mark.parametrize("seconds", ["soon", "nan", "1e999"])
def test_a_span_is_in_numbers(seconds: str, tmp_path: Path) -> None:
    (line,) = told(given(tmp_path, f"path,text,start\na.wav,x,{seconds}\n"))
    assert line.startswith("data/table.csv:2: start is not a number of seconds")


def test_an_open_quote_a_missing_file_and_one_that_is_far(tmp_path: Path) -> None:
    text = 'path,text\nnone.wav,x\n../../far.wav,x\na.wav,"open\nb.wav,x\n'
    found = given(tmp_path, text)
    assert [clip.audio_segments[0].name for clip in found.examples] == ["none.wav", "../../far.wav"]
    (line,) = told(found)
    assert line.startswith("data/table.csv:4: not CSV (a quote is never closed); close it")
    strict = gathered(tmp_path, {"path": "data/table.csv"}, policy="strict")
    assert "data/table.csv:3: ../../far.wav lies outside the document's folder" in told(strict)[0]


@pytest.mark.parametrize("text", ["", "\n", "path,text\n"])
def test_an_empty_table(text: str, tmp_path: Path) -> None:
    first, nothing = told(given(tmp_path, text))
    assert "no clips in data/table.csv; name its columns" in first
    assert "nothing to train on" in nothing
