"""Granary: records of text joined with the recordings that are here."""

import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from dlm.data.load import LoadedData
from tests.data.readers.list_fixtures import format_json_lines, write_list
from tests.data.readers.source_loading import get_issues, get_locations, load_source
from tests.data.recordings import save_audio

SOURCE = {"path": "data/fr_asr.jsonl", "audio": "sounds"}
GOOD = {"utt_id": "a", "text": "Good.", "duration": 1.0, "source_lang": "fr", "target_lang": "fr"}


def load_granary(folder: Path, *records: object, **source: Any) -> LoadedData:
    """Load these records, with two recordings somewhere below a folder."""
    for name in ("sounds/fr/a.wav", "sounds/fr/2019/b.x.wav"):
        save_audio(folder / name)
    lines = [
        record if isinstance(record, str) else format_json_lines([record]) for record in records
    ]
    write_list(folder / "data/fr_asr.jsonl", "".join(lines))
    return load_source(folder, {**SOURCE, **source})


JOINED = [
    ({"utt_id": "a"}, "fr/a.wav"),
    ({"id": "b.x"}, "fr/2019/b.x.wav"),
    ({"audio_id": "b.x.wav"}, "fr/2019/b.x.wav"),
    ({"audio_filepath": "fr/a.wav", "utt_id": "b.x"}, "fr/a.wav"),
    ({"audio_filepath": "/mnt/data/b.x.opus", "utt_id": "none"}, "fr/2019/b.x.wav"),
    ({"source_id": "b.x", "text_id": "b.x", "utterance": "a"}, "fr/a.wav"),
]


@pytest.mark.parametrize(("names", "path"), JOINED, ids=range(len(JOINED)))
def test_a_record_is_joined_with_its_recording(
    names: dict[str, str], path: str, tmp_path: Path
) -> None:
    (example,) = load_granary(tmp_path, names | {"text": "Bon."}, format="granary").examples
    (segment,) = example.audio_segments
    assert (segment.path, segment.name) == (tmp_path / "sounds" / path, path)
    assert (example.target, example.location) == ("Bon.", "data/fr_asr.jsonl:1")


def test_an_id_may_be_a_number_and_a_translation_is_an_answer(tmp_path: Path) -> None:
    save_audio(tmp_path / "sounds/12.wav")
    record = {"id": 12, "text": "Bon.", "answer": "Good.", "lang": "fr", "target_lang": "en"}
    (example,) = load_granary(tmp_path, record | {"offset": 0.5, "duration": 0.25}).examples
    assert (example.target, example.task, example.language) == ("Good.", "answer", "fr")
    assert (example.audio_segments[0].start, example.audio_segments[0].end) == (0.5, 0.75)


def test_a_source_names_the_column(tmp_path: Path) -> None:
    (example,) = load_granary(tmp_path, GOOD | {"key": "b.x"}, columns={"audio": "key"}).examples
    assert example.audio_segments[0].name == "fr/2019/b.x.wav"


def test_records_without_a_recording_are_counted(tmp_path: Path) -> None:
    data = load_granary(tmp_path, GOOD, GOOD | {"utt_id": "x"}, GOOD | {"utt_id": "y"})
    assert get_locations(data) == ["data/fr_asr.jsonl:1"]
    assert data.sources[0].skipped_rows_no_audio == 2
    assert get_issues(data) == [("my.dlm:8", "data.no_recording")]
    assert data.issues[0].what == "2 without a recording, skipped: x, y"


BROKEN = [
    ({"text": "x", "duration": 1}, "data.no_audio_path", "it has text, duration"),
    (GOOD | {"utt_id": "b.x", "text": ""}, "data.empty_transcript", ""),
    (GOOD, "data.duplicate_id", "the id a appears twice"),
    (GOOD | {"utt_id": "c"}, "data.ambiguous_recording", "one/c.wav and two/c.flac"),
    ("{\n", "data.not_json", ""),
]


@pytest.mark.parametrize(("record", "code", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_record_is_an_issue_with_its_line(
    record: object, code: str, words: str, tmp_path: Path
) -> None:
    for name in ("one/c.wav", "two/c.flac"):
        save_audio(tmp_path / "sounds" / name)
    data = load_granary(tmp_path, GOOD, record)
    assert len(data.examples) == 1
    assert get_issues(data) == [("data/fr_asr.jsonl:2", code)]
    assert words in data.issues[0].what


def test_under_strict_a_link_out_of_the_folder_is_an_error(tmp_path: Path) -> None:
    far = save_audio(tmp_path.parent / f"{tmp_path.name}-far/z.wav")
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds/z.wav").symlink_to(far)
    load_granary(tmp_path, GOOD | {"utt_id": "z"})
    data = load_source(tmp_path, SOURCE, policy="strict")
    assert get_issues(data) == [("data/fr_asr.jsonl:1", "data.outside_folder")]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_recording_is_found_by_its_name_in_either_form_of_unicode(
    tmp_path: Path, form: str
) -> None:
    save_audio(tmp_path / "data" / f"{normalize(form, 'Grüße')}.wav")
    name = normalize("NFD" if form == "NFC" else "NFC", "Grüße")
    (tmp_path / "data/rows.jsonl").write_text(json.dumps({"utt_id": name, "text": "Said."}))
    data = load_source(tmp_path, {"path": "data/rows.jsonl"})
    assert [example.target for example in data.examples] == ["Said."]
    assert data.examples[0].audio_segments[0].path.is_file()
