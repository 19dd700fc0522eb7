"""An audiofolder: which rows of its metadata table are examples, splits, and broken rows."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dlm.data.readers.folders import is_audiofolder
from tests.data.readers.source_loading import (
    describe_examples,
    get_issues,
    get_lines,
    get_locations,
    get_texts,
    load_source,
)
from tests.data.recordings import save_audio

FOLDER = {"path": "corpus"}


def write_table(folder: Path, text: str | bytes, name: str = "metadata.csv") -> Path:
    path = folder / "corpus" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_rows(folder: Path, *rows: object, name: str = "metadata.jsonl") -> Path:
    return write_table(folder, "".join(f"{json.dumps(row)}\n" for row in rows), name)


def write_splits(folder: Path) -> None:
    for split, text in (("train", "One."), ("dev", "Two."), ("test", "Three.")):
        save_audio(folder / f"corpus/{split}/a.wav")
        write_rows(folder, {"file_name": "a.wav", "text": text}, name=f"{split}/metadata.jsonl")


def test_a_row_is_an_example(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "corpus/deep/a.wav")
    write_table(tmp_path, "file_name,text,speaker_id,language\r\ndeep/a.wav,Oui.,ann,fr\r\n")
    data = load_source(tmp_path, FOLDER)
    assert get_issues(data) == []
    assert describe_examples(data) == [("corpus/metadata.csv:2", "Oui.", "ann", "fr")]
    (segment,) = data.examples[0].audio_segments
    assert (segment.path, segment.name) == (path, "corpus/deep/a.wav")


@pytest.mark.parametrize(
    "key", ["text", "sentence", "normalized_text", "transcript", "transcription", "raw_text"]
)
def test_the_text_column_has_many_names(tmp_path: Path, key: str) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    write_rows(tmp_path, {"file_name": "a.wav", key: "Hi.", "words": "x"})
    assert get_texts(load_source(tmp_path, FOLDER)) == ["Hi."]


def test_a_source_names_the_columns(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    write_rows(tmp_path, {"sound": "a.wav", "caption": "A dog.", "text": "x", "lang": "English"})
    columns = {"audio": "sound", "text": "caption"}
    data = load_source(
        tmp_path, {**FOLDER, "columns": columns, "task": "answer", "prompt": "What?"}
    )
    assert describe_examples(data) == [("corpus/metadata.jsonl:1", "A dog.", None, None)]
    assert data.examples[0].task == "answer" and data.examples[0].messages[0].text == "What?"


def test_several_recordings_of_a_row_stay_in_order(tmp_path: Path) -> None:
    paths = [save_audio(tmp_path / f"corpus/{name}.wav") for name in "ab"]
    row = {"audio_file_names": ["a.wav", "b.wav"], "text": "Both.", "prompt": "Which?"}
    write_rows(tmp_path, row)
    (example,) = load_source(tmp_path, FOLDER).examples
    assert [segment.path for segment in example.audio_segments] == paths
    assert example.messages[0].content[-1] == "Which?"


@pytest.mark.parametrize(
    ("split", "text"),
    [
        (None, "One."),
        ("train", "One."),
        ("validation", "Two."),
        ("dev", "Two."),
        ("test", "Three."),
    ],
)
def test_one_split_is_read_and_the_others_are_counted(
    tmp_path: Path, split: str | None, text: str
) -> None:
    write_splits(tmp_path)
    data = load_source(tmp_path, {**FOLDER, **({"split": split} if split else {})})
    assert get_texts(data) == [text]
    assert data.sources[0].skipped_other_split == 2


def test_a_split_that_is_not_there_is_an_error_with_those_that_are(tmp_path: Path) -> None:
    write_splits(tmp_path)
    data = load_source(tmp_path, {**FOLDER, "split": "extra"})
    assert get_issues(data) == [("my.dlm:7", "source.no_split")]
    assert data.issues[0].what == "no split extra: it has dev, test, train"
    for name in ("train", "dev"):
        (tmp_path / f"corpus/{name}/metadata.jsonl").unlink()
    write_rows(tmp_path, {"file_name": "a.wav", "text": "x"}, name="val/metadata.jsonl")
    data = load_source(tmp_path, FOLDER)
    assert get_issues(data) == [("my.dlm:7", "source.no_split")]
    assert data.issues[0].what == "no split for training: it has test, val"


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"file_name": "../a.wav", "text": "x"}, "data.outside_folder", "../a.wav"),
        ({"file_name": "/a.wav", "text": "x"}, "data.outside_folder", "/a.wav"),
        ({"file_name": "https://x.org/a.wav", "text": "x"}, "data.outside_folder", "x.org"),
        ({"file_name": None, "text": "x"}, "data.no_audio_path", "file_name"),
        ({"text": "x"}, "data.no_audio_path", "file_name"),
        ({"file_name": [], "text": "x"}, "data.no_audio_path", "file_name"),
        ({"file_name": 3, "text": "x"}, "data.not_text", "file_name"),
        ({"file_name": "b.wav", "text": " "}, "data.empty_transcript", ""),
        ({"file_name": "b.wav"}, "data.empty_transcript", ""),
        ({"file_name": "b.wav", "text": 1}, "data.not_text", "text"),
        ({"file_name": "a.wav", "text": "x"}, "data.duplicate_id", "a.wav"),
        ([1], "data.not_an_object", ""),
    ],
)
def test_a_broken_row_is_an_issue_with_its_line(
    tmp_path: Path, row: object, code: str, words: str
) -> None:
    for name in "ab":
        save_audio(tmp_path / f"corpus/{name}.wav")
    write_rows(tmp_path, {"file_name": "a.wav", "text": "Hi."}, row)
    data = load_source(tmp_path, FOLDER)
    assert get_issues(data)[0] == ("corpus/metadata.jsonl:2", code)
    assert words in data.issues[0].what and data.issues[0].fatal


def test_a_missing_text_column_is_reported_once(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    write_table(tmp_path, "file_name,words\na.wav,x\nb.wav,x\n")
    data = load_source(tmp_path, FOLDER)
    assert get_issues(data) == [("corpus/metadata.csv", "source.no_column")]
    assert data.issues[0].what == "no column of text: it has file_name, words"
    data = load_source(tmp_path, {**FOLDER, "columns": {"text": "caption"}})
    assert get_issues(data) == [("corpus/metadata.csv", "source.no_column")]
    assert data.issues[0].what == "no column caption"


def test_a_table_must_be_utf8(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    write_table(tmp_path, "file_name,text\na.wav,déjà\n".encode("latin1"))
    issue, *_ = get_issues(load_source(tmp_path, FOLDER))
    assert issue == ("corpus/metadata.csv:2", "data.bad_characters")


def test_recordings_that_no_table_names_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b", "train/c"):
        save_audio(tmp_path / f"corpus/{name}.wav")
    write_rows(tmp_path, {"file_name": "a.wav", "text": "Hi."})
    write_rows(tmp_path, {"file_name": "c.wav", "text": "Hi."}, name="train/metadata.jsonl")
    data = load_source(tmp_path, FOLDER)
    assert len(data.examples) == 2
    assert data.sources[0].skipped_names == ("corpus/b.wav",)
    assert get_issues(data) == [("my.dlm:7", "data.no_transcript")]
    assert data.issues[0].what == "1 without a transcript, skipped: corpus/b.wav"


def test_a_parquet_table_counts_rows_from_one(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    table = pyarrow.Table.from_pylist([{"file_name": "a.wav", "text": "x"}, {"text": "x"}])
    pyarrow.parquet.write_table(table, tmp_path / "corpus/metadata.parquet")
    data = load_source(tmp_path, FOLDER)
    assert get_locations(data) == ["corpus/metadata.parquet:1"]
    assert get_issues(data)[0] == ("corpus/metadata.parquet:2", "data.no_audio_path")
    write_table(tmp_path, b"PAR1 words", "metadata.parquet")
    data = load_source(tmp_path, FOLDER)
    assert get_issues(data) == [("corpus/metadata.parquet", "source.damaged")]


def test_a_folder_without_a_table_is_no_audiofolder(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/dog/a.wav")
    os.mkfifo(tmp_path / "corpus/metadata.csv")
    assert not is_audiofolder(tmp_path / "corpus")
    (line, *_) = get_lines(load_source(tmp_path, {**FOLDER, "format": "audiofolder"}))
    assert line.endswith("no metadata.csv in corpus; write file_name,text in one")
