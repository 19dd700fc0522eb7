"""A folder with a table of its recordings: which rows are clips, and what is said of the rest."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dlm.data.readers.folders import is_audiofolder
from tests.data.gathering import faults, gathered, spoken
from tests.data.sounds import save

FOLDER = {"path": "corpus"}


def table(folder: Path, text: str | bytes, name: str = "metadata.csv") -> Path:
    path = folder / "corpus" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(folder: Path, *rows: object, name: str = "metadata.jsonl") -> Path:
    return table(folder, "".join(f"{json.dumps(row)}\n" for row in rows), name)


def test_a_row_is_a_clip(tmp_path: Path) -> None:
    path = save(tmp_path / "corpus/deep/a.wav")
    table(tmp_path, "file_name,text,speaker_id,language\r\ndeep/a.wav,Oui.,ann,fr\r\n")
    found = gathered(tmp_path, FOLDER)
    assert faults(found) == []
    assert spoken(found) == [("corpus/metadata.csv:2", "Oui.", "ann", "fr")]
    assert found.examples[0].audio_segments[0].path == path
    assert found.examples[0].audio_segments[0].name == "corpus/deep/a.wav"


@pytest.mark.parametrize(
    "key", ["text", "sentence", "normalized_text", "transcript", "transcription", "raw_text"]
)
def test_the_text_is_found_by_its_usual_names(tmp_path: Path, key: str) -> None:
    save(tmp_path / "corpus/a.wav")
    rows(tmp_path, {"file_name": "a.wav", key: "Hi.", "words": "x"})
    assert [text for _, text, *_ in spoken(gathered(tmp_path, FOLDER))] == ["Hi."]


def test_columns_may_be_said(tmp_path: Path) -> None:
    save(tmp_path / "corpus/a.wav")
    rows(tmp_path, {"sound": "a.wav", "caption": "A dog.", "text": "x", "lang": "English"})
    columns = {"audio": "sound", "text": "caption"}
    found = gathered(tmp_path, {**FOLDER, "columns": columns, "task": "answer", "prompt": "What?"})
    assert spoken(found) == [("corpus/metadata.jsonl:1", "A dog.", None, None)]
    assert found.examples[0].task == "answer" and found.examples[0].messages[0].text == "What?"


def test_several_recordings_of_a_row_are_heard_in_order(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"corpus/{name}.wav") for name in "ab"]
    rows(tmp_path, {"audio_file_names": ["a.wav", "b.wav"], "text": "Both.", "prompt": "Which?"})
    (clip,) = gathered(tmp_path, FOLDER).examples
    assert [sound.path for sound in clip.audio_segments] == paths
    assert clip.messages[0].content[-1] == "Which?"


def parted(folder: Path) -> None:
    for part, text in (("train", "One."), ("dev", "Two."), ("test", "Three.")):
        save(folder / f"corpus/{part}/a.wav")
        rows(folder, {"file_name": "a.wav", "text": text}, name=f"{part}/metadata.jsonl")


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
def test_a_part_is_taken_and_the_others_are_counted(tmp_path: Path, split, text: str) -> None:
    parted(tmp_path)
    found = gathered(tmp_path, {**FOLDER, **({"split": split} if split else {})})
    assert [words for _, words, *_ in spoken(found)] == [text]
    assert found.sources[0].skipped_other_split == 2


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    parted(tmp_path)
    (line,) = faults(gathered(tmp_path, {**FOLDER, "split": "extra"}))
    assert "no split extra: it has dev, test, train; say which with split:" in line
    for name in ("train", "dev"):
        (tmp_path / f"corpus/{name}/metadata.jsonl").unlink()
    rows(tmp_path, {"file_name": "a.wav", "text": "x"}, name="val/metadata.jsonl")
    (line,) = faults(gathered(tmp_path, FOLDER))
    assert "no split for training: it has test, val; say which with split:" in line


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"file_name": "../a.wav", "text": "x"}, "../a.wav leads out of the folder of its list"),
        ({"file_name": "/a.wav", "text": "x"}, "/a.wav leads out of the folder of its list"),
        ({"file_name": "https://x.org/a.wav", "text": "x"}, "leads out of the folder of its list"),
        ({"file_name": None, "text": "x"}, "no file_name; name the recording"),
        ({"text": "x"}, "no file_name; name the recording"),
        ({"file_name": [], "text": "x"}, "no file_name; name the recording"),
        ({"file_name": 3, "text": "x"}, "file_name is not text"),
        ({"file_name": "b.wav", "text": " "}, "AUDIO section has empty transcript"),
        ({"file_name": "b.wav"}, "AUDIO section has empty transcript"),
        ({"file_name": "b.wav", "text": 1}, "text is not text"),
        ({"file_name": "a.wav", "text": "x"}, "a.wav comes twice; keep one of its rows"),
        ([1], "not an object"),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path: Path, row: object, what: str) -> None:
    for name in "ab":
        save(tmp_path / f"corpus/{name}.wav")
    rows(tmp_path, {"file_name": "a.wav", "text": "Hi."}, row)
    line = faults(gathered(tmp_path, FOLDER))[0]
    assert line.startswith("corpus/metadata.jsonl:2: ") and what in line


def test_a_table_without_text_is_told_once(tmp_path: Path) -> None:
    save(tmp_path / "corpus/a.wav")
    table(tmp_path, "file_name,words\na.wav,x\nb.wav,x\n")
    assert faults(gathered(tmp_path, FOLDER)) == [
        "corpus/metadata.csv: no column of text: it has file_name, words; "
        "say which it is with columns: {text: ...}"
    ]
    found = gathered(tmp_path, {**FOLDER, "columns": {"text": "caption"}})
    assert faults(found) == ["corpus/metadata.csv: no column caption; correct columns: {text: ...}"]


def test_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    save(tmp_path / "corpus/a.wav")
    table(tmp_path, "file_name,text\na.wav,déjà\n".encode("latin1"))
    (line, *_) = faults(gathered(tmp_path, FOLDER))
    assert line.startswith("corpus/metadata.csv") and "UTF-8" in line


def test_recordings_that_the_table_does_not_name(tmp_path: Path) -> None:
    for name in ("a", "b", "train/c"):
        save(tmp_path / f"corpus/{name}.wav")
    rows(tmp_path, {"file_name": "a.wav", "text": "Hi."})
    rows(tmp_path, {"file_name": "c.wav", "text": "Hi."}, name="train/metadata.jsonl")
    found = gathered(tmp_path, FOLDER)
    assert len(found.examples) == 2
    assert found.sources[0].skipped_names == ("corpus/b.wav",)
    assert "my.dlm:7: 1 without a transcript, skipped: corpus/b.wav" in faults(found)[0]


def test_numbers_of_a_packed_table_are_its_rows(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    packed = pyarrow.Table.from_pylist([{"file_name": "a.wav", "text": "x"}, {"text": "x"}])
    pyarrow.parquet.write_table(packed, tmp_path / "corpus/metadata.parquet")
    found = gathered(tmp_path, FOLDER)
    assert [place for place, *_ in spoken(found)] == ["corpus/metadata.parquet:1"]
    assert faults(found)[0].startswith("corpus/metadata.parquet:2: no file_name; ")
    table(tmp_path, b"PAR1 words", "metadata.parquet")
    (line,) = faults(gathered(tmp_path, FOLDER))
    assert line.startswith("corpus/metadata.parquet: it cannot be read as Arrow or Parquet (")


def test_classes_without_a_table_are_no_such_folder(tmp_path: Path) -> None:
    save(tmp_path / "corpus/dog/a.wav")
    os.mkfifo(tmp_path / "corpus/metadata.csv")
    assert not is_audiofolder(tmp_path / "corpus")
    (line,) = faults(gathered(tmp_path, {**FOLDER, "format": "audiofolder"}))
    assert "no metadata.csv in corpus; write file_name,text in one" in line
