"""NeMo manifests, plain and tarred."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.audio_io import load_audio
from dlm.data.load import LoadedData
from dlm.data.readers.base import SourceContext, SourceShard
from dlm.data.readers.registry import find_reader
from dlm.data.types import AudioSegment
from tests.data.readers.list_fixtures import format_json_lines, write_list, write_tar
from tests.data.readers.source_loading import (
    get_issues,
    get_lines,
    get_locations,
    get_texts,
    load_source,
)
from tests.data.recordings import RATE, create_document, make_noise, save_audio

GOOD = {"audio_filepath": "a.wav", "text": "Good.", "duration": 1.0}
TARRED = {"path": "data/manifest.jsonl"}


def load_manifest(folder: Path, *records: object, **source: Any) -> LoadedData:
    """Load a manifest of these records; text is written as it is."""
    save_audio(folder / "data/a.wav")
    lines = [
        record if isinstance(record, str) else format_json_lines([record]) for record in records
    ]
    write_list(folder / "data/manifest.json", "".join(lines))
    return load_source(folder, {"path": "data/manifest.json", **source})


def write_tars(
    folder: Path, records: list[dict[str, Any]], *, name: str = "audio_{}.tar"
) -> list[Path]:
    """Write three tars of two recordings each, and a manifest of these records."""
    tars = []
    for number in range(3):
        files = [
            save_audio(folder / f"loose/{stem}{number}.wav", make_noise(seed=number))
            for stem in ("a", "b.c")
        ]
        tars.append(write_tar(folder / "data" / name.format(number), files))
    write_list(folder / "data/manifest.jsonl", format_json_lines(records))
    return tars


def make_record(name: str, shard_id: object) -> dict[str, Any]:
    return {"audio_filepath": name, "text": f"{name}.", "duration": 1.0, "shard_id": shard_id}


def list_shards(folder: Path) -> list[SourceShard]:
    context = SourceContext.from_source(create_document(folder), SourceConfig(**TARRED))
    return find_reader(context).list_shards(context)


def test_a_record_may_have_a_span_a_speaker_a_language_and_a_prompt(tmp_path: Path) -> None:
    fields = {"offset": 0.25, "duration": 0.5, "lang": "fr-CA", "speaker": 7, "prompt": "Quoi ?"}
    (example,) = load_manifest(tmp_path, GOOD | fields).examples
    segment = AudioSegment(tmp_path / "data/a.wav", 0.25, 0.75)
    assert example.messages[0].content == (segment, "Quoi ?")
    assert (example.target, example.language, example.speaker) == ("Good.", "fr", "7")
    assert (example.task, example.location) == ("transcribe", "data/manifest.json:1")


def test_the_text_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/said.txt").write_text(" In a file.\r\n")
    record = {"audio_filepath": "a.wav", "text_filepath": "said.txt", "offset": 0.5}
    (example,) = load_manifest(tmp_path, record).examples
    assert example.audio_segments == (AudioSegment(tmp_path / "data/a.wav", 0.5),)
    assert example.target == "In a file."


TRANSLATIONS = [
    ({"source_lang": "de", "target_lang": "en"}, "answer", "de"),
    ({"source_lang": "de", "target_lang": "de"}, "transcribe", "de"),
    ({"lang": "de", "taskname": "ast"}, "answer", "de"),
    ({"source_lang": "en", "target_lang": "en", "task": "asr"}, "transcribe", "en"),
    ({"answer": "Gut."}, "transcribe", None),
]


@pytest.mark.parametrize(("fields", "task", "language"), TRANSLATIONS, ids=range(len(TRANSLATIONS)))
def test_a_translation_is_an_answer(
    fields: dict[str, str], task: str, language: str | None, tmp_path: Path
) -> None:
    (example,) = load_manifest(tmp_path, GOOD | fields).examples
    assert (example.task, example.language) == (task, language)
    assert example.target == fields.get("answer", "Good.")


def test_a_source_names_the_column_and_the_folder(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "far/b.wav")
    record = GOOD | {"audio_filepath": "b.wav", "answer": "no", "pnc_text": "Yes."}
    data = load_manifest(tmp_path, record, audio="far", columns={"text": "pnc_text"}, task="answer")
    (example,) = data.examples
    assert example.audio_segments[0].path == path
    assert (example.target, example.task) == ("Yes.", "answer")


BROKEN = [
    ("{\n", "data.not_json", ""),
    ({"text": "x"}, "data.no_audio_path", "audio_filepath"),
    ({"audio_filepath": "a.wav"}, "data.empty_transcript", ""),
    (GOOD | {"text": 3}, "data.not_text", "text"),
    (GOOD | {"offset": "1"}, "data.bad_seconds", "offset"),
    (GOOD | {"duration": 0}, "data.bad_span", "duration is 0"),
    (GOOD | {"audio_filepath": "s3://x/a.wav"}, "data.remote_audio", "s3://x/a.wav"),
    (
        {"audio_filepath": "a.wav", "text_filepath": "/etc/hostname"},
        "data.outside_folder",
        "/etc/hostname",
    ),
    ({"audio_filepath": "a.wav", "text_filepath": "link.txt"}, "data.outside_folder", "link.txt"),
    ({"audio_filepath": "a.wav", "text_filepath": "no.txt"}, "data.bad_text_file", "is not a file"),
    ({"audio_filepath": "a.wav", "text_filepath": "a.wav"}, "data.bad_text_file", "('utf-8'"),
]


@pytest.mark.parametrize(("record", "code", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_record_is_an_issue_with_its_line(
    record: object, code: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link.txt").symlink_to("/etc/hostname")
    data = load_manifest(tmp_path, GOOD, record, GOOD)
    assert len(data.examples) == 2
    assert get_issues(data) == [("data/manifest.json:2", code)]
    assert words in data.issues[0].what


def test_an_id_that_comes_twice_is_an_issue(tmp_path: Path) -> None:
    data = load_manifest(tmp_path, *(GOOD | {"id": name} for name in ("x", 1, "x", "1")))
    assert len(data.examples) == 2
    assert get_issues(data) == [
        ("data/manifest.json:3", "data.duplicate_id"),
        ("data/manifest.json:4", "data.duplicate_id"),
    ]


def test_a_tar_is_a_shard_and_its_recordings_stay_in_it(tmp_path: Path) -> None:
    records = [
        make_record("a2.wav", 2),
        make_record("a0.wav", 0),
        make_record("far/b.c2.wav", 2),
        make_record("b.c0-sub3.wav", "0") | {"offset": 0.25, "duration": 0.5},
    ]
    tars = write_tars(tmp_path, records)
    unassigned, *shards = list_shards(tmp_path)
    assert [shard.name for shard in shards] == [path.name for path in tars]
    first, empty, last = [list(shard.read(0)) for shard in shards]
    assert [item.location for item in first] == ["data/manifest.jsonl:2", "data/manifest.jsonl:4"]
    assert [item.target for item in last] == ["a2.wav.", "far/b.c2.wav."]
    assert empty == list(unassigned.read(0)) == [] and list(shards[2].read(1)) == last[1:]
    (segment,) = first[1].audio_segments
    assert (segment.path, segment.name) == (tars[0], "audio_0.tar/b.c0.wav")
    waveform = load_audio(segment, sample_rate=RATE, resample=False)
    loose = AudioSegment(tmp_path / "loose/b.c0.wav")
    whole = load_audio(loose, sample_rate=RATE, resample=False)
    assert (waveform == whole[RATE // 4 : RATE * 3 // 4]).all()


@pytest.mark.parametrize("audio", ["tars", "tars/part__OP_0..2_CL_.tar", "tars/part_{0..2}.tar"])
def test_tars_may_be_in_another_folder_or_behind_a_pattern(audio: str, tmp_path: Path) -> None:
    records = [make_record(f"a{number}.wav", number) for number in range(3)]
    write_tars(tmp_path, records, name="part_{}.tar")
    (tmp_path / "tars").mkdir()
    for path in (tmp_path / "data").glob("*.tar"):
        path.rename(tmp_path / "tars" / path.name)
    data = load_source(tmp_path, {**TARRED, "audio": audio})
    assert get_texts(data) == ["a0.wav.", "a1.wav.", "a2.wav."]
    assert data.issues == ()


def test_broken_records_and_tars_of_a_tarred_manifest_are_issues(tmp_path: Path) -> None:
    records = [
        make_record("a0.wav", 0),
        make_record("no.wav", 0),
        make_record("a0.wav", 9),
        make_record("a1.wav", 1),
        make_record("x", None),
        {"text": "x", "shard_id": 2},
        make_record("a2.wav", 2) | {"text": ""},
    ]
    tars = write_tars(tmp_path, records)
    with (tmp_path / "data/manifest.jsonl").open("a") as file:
        file.write("{broken\n")
    with tarfile.open(tars[1], "w") as tar:
        tar.add(tmp_path / "loose/a1.wav", "../a1.wav")
    data = load_source(tmp_path, TARRED)
    assert get_locations(data) == ["data/manifest.jsonl:1"]
    assert get_issues(data) == [
        ("data/manifest.jsonl:3", "data.missing_tar"),
        ("data/manifest.jsonl:5", "data.missing_tar"),
        ("data/manifest.jsonl:8", "data.not_json"),
        ("data/manifest.jsonl:2", "data.missing_tar_member"),
        ("audio_1.tar", "source.bad_tar_member"),
        ("data/manifest.jsonl:6", "data.no_audio_path"),
        ("data/manifest.jsonl:7", "data.empty_transcript"),
    ]
    whats = [issue.what for issue in data.issues]
    assert whats[:2] == ["the tar of shard_id 9 is not there", "no shard_id"]
    assert whats[3] == "no.wav is not in audio_0.tar"


def test_a_tarred_manifest_without_tars_is_an_error(tmp_path: Path) -> None:
    write_list(tmp_path / "data/manifest.jsonl", format_json_lines([make_record("a.wav", 0)]))
    data = load_source(tmp_path, TARRED)
    assert get_issues(data) == [("my.dlm:7", "source.missing_file")]
    assert "put audio_0.tar and the others beside it, or name" in get_lines(data)[0]


def test_a_duration_without_an_offset_is_a_span_from_the_beginning(tmp_path: Path) -> None:
    (example,) = load_manifest(tmp_path, GOOD | {"duration": 0.4}).examples
    assert example.audio_segments == (AudioSegment(tmp_path / "data/a.wav", 0.0, 0.4),)
