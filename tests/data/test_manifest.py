"""A list of clips in JSON Lines: a source as any other, each bad line told with its number."""

import json
from pathlib import Path

import pytest

from dlm.data.load import LoadedData, load_examples
from dlm.data.types import AudioSegment, Example
from tests.data.sounds import document, save

LIST = "training:\n  sources:\n    - path: data/list.jsonl\n"


def listed(folder: Path, *rows: object, more: str = "", head: str = LIST) -> LoadedData:
    """What a document gives whose one source is a list of these rows; text is written as it is."""
    lines = [
        row if isinstance(row, str) else json.dumps(row, ensure_ascii=False).replace("\n", " ")
        for row in rows
    ]
    path = folder / "data/list.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_examples(document(folder, head=head + more))


def told(found: LoadedData) -> list[str]:
    lines = [str(problem) for problem in found.issues]
    assert not any("\n" in line for line in lines)
    return lines


def test_a_row_is_a_clip(tmp_path: Path) -> None:
    save(tmp_path / "data/a.wav")
    rich = {"audio": "a.wav", "start": 0.25, "end": 1, "prompt": "What?", "language": "fr"}
    found = listed(
        tmp_path,
        {"audio_path": "a.wav", "text": " Hello\u2028thère. ", "id": 7},
        "",
        rich | {"text": "So."},
    )
    plain, asked = found.examples
    assert isinstance(plain, Example) and plain.location == "data/list.jsonl:1"
    assert plain.messages[0].content == (AudioSegment(tmp_path / "data/a.wav"),)
    assert (plain.target, plain.task, plain.language) == ("Hello\u2028thère.", "transcribe", None)
    assert asked.location == "data/list.jsonl:3" and asked.language == "fr"
    assert asked.messages[0].content == (AudioSegment(tmp_path / "data/a.wav", 0.25, 1.0), "What?")
    assert asked.audio_segments[0].name == "a.wav" and found.issues == ()


def test_the_source_says_what_a_row_does_not(tmp_path: Path) -> None:
    save(tmp_path / "data/a.wav")
    more = "      language: de\n      prompt: Was?\n"
    rows = {"audio": "a.wav", "text": "Ja."}, {"audio": "a.wav", "text": "No.", "language": "en"}
    head = "system_prompt: Be brief.\n" + LIST
    found = listed(tmp_path, *rows, more=more, head=head)
    assert [clip.language for clip in found.examples] == ["de", "en"]
    assert found.examples[0].messages[1].content[1] == "Was?"
    assert found.examples[0].messages[0].text == "Be brief."


def test_columns_have_many_names_and_a_source_may_say_them(tmp_path: Path) -> None:
    save(tmp_path / "data/a.wav")
    row = {
        "file_name": "a.wav",
        "sentence": "Ja.",
        "locale": "pt-BR",
        "speaker_id": 7,
        "text": None,
    }
    (clip,) = listed(tmp_path, row).examples
    assert (clip.target, clip.language, clip.speaker) == ("Ja.", "pt", "7")
    more = "      columns: {audio: rec, text: said, start: from, end: to, prompt: ask}\n"
    row = {"rec": "a.wav", "said": "So.", "from": 0.25, "to": 0.5, "ask": "?", "text": "no"}
    (clip,) = listed(tmp_path, row, more=more).examples
    assert clip.messages[0].content == (AudioSegment(tmp_path / "data/a.wav", 0.25, 0.5), "?")
    assert clip.target == "So."
    (line,) = told(listed(tmp_path, {"rec": "a.wav", "text": "no"}, more=more))
    assert "AUDIO section has empty transcript" in line


def test_recordings_may_lie_elsewhere(tmp_path: Path) -> None:
    path = save(tmp_path / "far/a.wav")
    (clip,) = listed(tmp_path, {"audio": "a.wav", "text": "x"}, more="      audio: far\n").examples
    assert clip.audio_segments[0].path == path


def test_an_id_comes_once(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "x", "id": each} for each in ("u", 5, None, None, "u", "5")]
    found = listed(tmp_path, *rows)
    assert len(found.examples) == 4
    assert [line.partition(";")[0] for line in told(found)] == [
        "data/list.jsonl:5: the id u comes twice",
        "data/list.jsonl:6: the id 5 comes twice",
    ]


def test_rows_are_counted_like_the_files_of_a_folder(tmp_path: Path) -> None:
    size = save(tmp_path / "data/a.wav").stat().st_size
    rows = [{"audio": name, "text": "x"} for name in ("a.wav", "a.wav", "b.flac", "a.wav")]
    more = '      include: ["*.wav"]\n      max_files: 2\n'
    (report,) = listed(tmp_path, *rows, more=more).sources
    assert report.path == "data/list.jsonl"
    assert (report.audio_count, report.audio_bytes) == (2, size)
    assert (report.skipped_excluded, report.skipped_over_max_files) == (1, 1)
    assert report.audio_names == ("a.wav", "a.wav")


BAD = {
    "{": "not JSON (Expecting property name",
    "[1]": "not an object",
    "[" * 100_000: "not JSON (",
    "1" * 5_000: "not JSON (",
    '{"text": "x"}': "no audio",
    '{"audio": "", "text": "x"}': "no audio",
    '{"audio": 1, "text": "x"}': "audio is not text",
    '{"audio": "a\\u0000.wav", "text": "x"}': "audio holds what is no character",
    '{"audio": "a.wav"}': "AUDIO section has empty transcript",
    '{"audio": "a.wav", "text": " "}': "AUDIO section has empty transcript",
    '{"audio": "a.wav", "text": "\\ud800"}': "text holds what is no character",
    '{"audio": "a.wav", "text": "x", "language": 5}': "language is not text",
    '{"audio": "a.wav", "text": "x", "start": "1"}': "start is not a number of seconds",
    '{"audio": "http://x.org/a.wav", "text": "x"}': "http://x.org/a.wav is not on this machine",
    '{"audio": "data:audio/wav;base64,AA", "text": "x"}': "a recording is inside the record itself",
    '{"audio": "a.wav", "text": "x", "end": true}': "end is not a number of seconds",
    '{"audio": "a.wav", "text": "x", "end": NaN}': "end is not a number of seconds",
}


@pytest.mark.parametrize("row", BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_with_its_line(row: str, tmp_path: Path) -> None:
    save(tmp_path / "data/a.wav")
    found = listed(tmp_path, {"audio": "a.wav", "text": "good"}, row)
    assert len(found.examples) == 1
    (line,) = told(found)
    assert line.startswith("data/list.jsonl:2: ") and BAD[row] in line and "; " in line
    assert found.issues[0].fatal


def test_a_list_that_is_no_text_or_empty(tmp_path: Path) -> None:
    (line, nothing) = told(listed(tmp_path))
    assert "no clips in data/list.jsonl" in line and '{"audio"' in line
    assert "nothing to train on" in nothing
    (tmp_path / "data/list.jsonl").write_bytes(b"\xff\xfe")
    (line,) = told(load_examples(document(tmp_path, head=LIST)))
    assert "not a list of clips" in line and line.startswith("my.dlm:")


@pytest.mark.parametrize(
    "written", ["sources: no.jsonl", "sources:\n    - no.jsonl", "sources:\n    - path: no.jsonl"]
)
def test_a_source_may_be_its_path_alone(written: str, tmp_path: Path) -> None:
    (line,) = told(load_examples(document(tmp_path, head=f"training:\n  {written}\n")))
    number = 6 + written.count("\n")
    assert line.startswith(f"my.dlm:{number}: source not found: no.jsonl; ")


@pytest.mark.parametrize("where", ["/elsewhere/a.wav", "../../a.wav"])
def test_strict_keeps_rows_inside(where: str, tmp_path: Path) -> None:
    row = {"audio": where, "text": "x"}
    strict = LIST + "  sources_policy: strict\n"
    (line,) = told(listed(tmp_path, row, head=strict))
    assert line.startswith(f"data/list.jsonl:1: {where} lies outside the document's folder")
    assert len(listed(tmp_path, row).examples) == 1
