"""Lists of clips in JSON: what a record may say, and each broken record with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from dlm.data.load import LoadedData, load_examples
from dlm.data.types import AudioSegment
from tests.data.readers.source_loading import get_issues, get_locations, get_texts, load_source
from tests.data.recordings import create_document, save_audio

SOURCE = {"path": "data/list.jsonl"}
COLUMNS = {"audio": "rec", "text": "said", "start": "from", "end": "to", "prompt": "ask"}


def load_list(
    folder: Path,
    *records: object,
    policy: str = "permissive",
    system: str | None = None,
    **source: Any,
) -> LoadedData:
    """Load a list of these records; text is written as it is."""
    lines = [
        record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)
        for record in records
    ]
    path = folder / "data/list.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_source(folder, {**SOURCE, **source}, policy=policy, system=system)


def test_a_record_is_an_example(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "data/a.wav")
    plain = {"audio_path": "a.wav", "text": " Hello\u2028thère. ", "id": 7}
    span = {"audio": "a.wav", "start": 0.25, "end": 1, "prompt": "What?", "language": "fr"}
    data = load_list(tmp_path, plain, "", span | {"text": "So."})
    first, second = data.examples
    assert first.messages[0].content == (AudioSegment(path),)
    assert (first.target, first.task, first.language) == ("Hello\u2028thère.", "transcribe", None)
    assert first.location == "data/list.jsonl:1" and data.issues == ()
    assert second.location == "data/list.jsonl:3" and second.language == "fr"
    assert second.messages[0].content == (AudioSegment(path, 0.25, 1.0), "What?")
    assert second.audio_segments[0].name == "a.wav"


def test_the_source_says_what_a_record_leaves_open(tmp_path: Path) -> None:
    save_audio(tmp_path / "data/a.wav")
    records = [
        {"audio": "a.wav", "text": "Ja."},
        {"audio": "a.wav", "text": "No.", "language": "en"},
    ]
    data = load_list(tmp_path, *records, language="de", prompt="Was?", system="Be brief.")
    assert [example.language for example in data.examples] == ["de", "en"]
    assert data.examples[0].messages[1].content[1] == "Was?"
    assert data.examples[0].messages[0].text == "Be brief."


def test_columns_have_many_names(tmp_path: Path) -> None:
    save_audio(tmp_path / "data/a.wav")
    record = {"file_name": "a.wav", "sentence": "Ja.", "locale": "pt-BR", "speaker_id": 7}
    (example,) = load_list(tmp_path, record | {"text": None}).examples
    assert (example.target, example.language, example.speaker) == ("Ja.", "pt", "7")


def test_a_source_names_the_columns(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "data/a.wav")
    record = {"rec": "a.wav", "said": "So.", "from": 0.25, "to": 0.5, "ask": "?", "text": "no"}
    (example,) = load_list(tmp_path, record, columns=COLUMNS).examples
    assert example.messages[0].content == (AudioSegment(path, 0.25, 0.5), "?")
    assert example.target == "So."
    data = load_list(tmp_path, {"rec": "a.wav", "text": "no"}, columns=COLUMNS)
    assert get_issues(data) == [("data/list.jsonl:1", "data.empty_transcript")]


def test_recordings_may_be_in_another_folder(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "far/a.wav")
    (example,) = load_list(tmp_path, {"audio": "a.wav", "text": "x"}, audio="far").examples
    assert example.audio_segments[0].path == path


def test_an_id_that_comes_twice_is_an_issue(tmp_path: Path) -> None:
    ids = ("u", 5, None, None, "u", "5")
    data = load_list(tmp_path, *({"audio": "a.wav", "text": "x", "id": name} for name in ids))
    assert len(data.examples) == 4
    assert get_issues(data) == [
        ("data/list.jsonl:5", "data.duplicate_id"),
        ("data/list.jsonl:6", "data.duplicate_id"),
    ]
    assert [issue.what for issue in data.issues] == [
        "the id u appears twice",
        "the id 5 appears twice",
    ]


def test_records_are_counted_like_the_files_of_a_folder(tmp_path: Path) -> None:
    num_bytes = save_audio(tmp_path / "data/a.wav").stat().st_size
    names = ("a.wav", "a.wav", "b.flac", "a.wav")
    records = [{"audio": name, "text": "x"} for name in names]
    (report,) = load_list(tmp_path, *records, include=["*.wav"], max_files=2).sources
    assert report.path == "data/list.jsonl"
    assert (report.audio_count, report.audio_bytes) == (2, num_bytes)
    assert (report.skipped_excluded, report.skipped_over_max_files) == (1, 1)
    assert report.audio_names == ("a.wav", "a.wav")


BROKEN = [
    ("{", "data.not_json", "Expecting property name"),
    ("[1]", "data.not_an_object", ""),
    ("[" * 100_000, "data.not_json", ""),
    ("1" * 5_000, "data.not_json", ""),
    ('{"text": "x"}', "data.no_audio_path", ""),
    ('{"audio": "", "text": "x"}', "data.no_audio_path", ""),
    ('{"audio": 1, "text": "x"}', "data.not_text", "audio"),
    ('{"audio": "a\\u0000.wav", "text": "x"}', "data.bad_characters", "audio"),
    ('{"audio": "a.wav"}', "data.empty_transcript", ""),
    ('{"audio": "a.wav", "text": " "}', "data.empty_transcript", ""),
    ('{"audio": "a.wav", "text": "\\ud800"}', "data.bad_characters", "text"),
    ('{"audio": "a.wav", "text": "x", "language": 5}', "data.not_text", "language"),
    ('{"audio": "a.wav", "text": "x", "start": "1"}', "data.bad_seconds", "start"),
    ('{"audio": "http://x.org/a.wav", "text": "x"}', "data.remote_audio", "http://x.org/a.wav"),
    ('{"audio": "data:audio/wav;base64,AA", "text": "x"}', "data.inline_audio", ""),
    ('{"audio": "a.wav", "text": "x", "end": true}', "data.bad_seconds", "end"),
    ('{"audio": "a.wav", "text": "x", "end": NaN}', "data.bad_seconds", "end"),
]


@pytest.mark.parametrize(("line", "code", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_record_is_an_issue_with_its_line(
    line: str, code: str, words: str, tmp_path: Path
) -> None:
    save_audio(tmp_path / "data/a.wav")
    data = load_list(tmp_path, {"audio": "a.wav", "text": "good"}, line)
    assert len(data.examples) == 1
    assert get_issues(data) == [("data/list.jsonl:2", code)]
    assert words in data.issues[0].what and data.issues[0].fatal


def test_a_list_that_is_empty_or_not_text_is_an_issue(tmp_path: Path) -> None:
    data = load_list(tmp_path)
    assert [issue.code for issue in data.issues] == ["source.empty", "data.no_examples"]
    assert '{"audio"' in data.issues[0].hint
    (tmp_path / "data/list.jsonl").write_bytes(b"\xff\xfe")
    assert get_issues(load_source(tmp_path, SOURCE)) == [("my.dlm:7", "source.not_a_list")]


@pytest.mark.parametrize(
    "sources", ["sources: no.jsonl", "sources:\n    - no.jsonl", "sources:\n    - path: no.jsonl"]
)
def test_a_missing_source_is_an_issue_with_its_line(sources: str, tmp_path: Path) -> None:
    data = load_examples(create_document(tmp_path, head=f"training:\n  {sources}\n"))
    line = 6 + sources.count("\n")
    assert get_issues(data) == [(f"my.dlm:{line}", "source.not_found")]
    assert data.issues[0].what == "source not found: no.jsonl"


@pytest.mark.parametrize("path", ["/elsewhere/a.wav", "../../a.wav"])
def test_under_strict_a_recording_outside_the_folder_is_an_error(path: str, tmp_path: Path) -> None:
    record = {"audio": path, "text": "x"}
    data = load_list(tmp_path, record, policy="strict")
    assert get_issues(data) == [("data/list.jsonl:1", "data.outside_folder")]
    assert path in data.issues[0].what
    assert get_texts(load_list(tmp_path, record)) == ["x"]


def test_records_of_an_array_keep_their_lines(tmp_path: Path) -> None:
    save_audio(tmp_path / "data/a.wav")
    records = [{"audio": "a.wav", "text": str(number)} for number in range(3)]
    (tmp_path / "data/list.json").write_text(json.dumps(records, indent=1))
    data = load_source(tmp_path, {"path": "data/list.json"})
    assert get_locations(data) == [f"data/list.json:{line}" for line in (2, 6, 10)]
