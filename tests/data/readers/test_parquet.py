"""Datasets in .parquet and .arrow: where recordings are in the file, and broken files."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from pyarrow import feather, ipc

from dlm.data.audio_io import load_audio
from dlm.data.load import LoadedData
from dlm.data.readers.parquet import is_parquet
from dlm.data.types import AudioSegment
from tests.data.readers.source_loading import (
    describe_examples,
    get_issues,
    get_locations,
    get_texts,
    load_source,
)
from tests.data.recordings import RATE, make_noise, save_audio

SOURCE = {"path": "rows.arrow"}


def read_recording(folder: Path, seed: int = 0) -> bytes:
    """The bytes of a recording that is written away from the dataset."""
    return save_audio(
        folder / f"away/{seed}.wav", make_noise(0.2 + seed / 10, seed=seed)
    ).read_bytes()


def write_arrow(folder: Path, rows: list[dict[str, Any]] | pyarrow.Table) -> Path:
    """Write rows as `datasets` does, in batches of two."""
    table = rows if isinstance(rows, pyarrow.Table) else pyarrow.Table.from_pylist(rows)
    path = folder / "rows.arrow"
    with ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return path


def check_audio(folder: Path, data: LoadedData, path: Path) -> None:
    """Each example decodes to its recording, from the file at `path` itself."""
    for number, example in enumerate(data.examples):
        (segment,) = example.audio_segments
        assert segment.path == path
        away = AudioSegment(folder / f"away/{number}.wav")
        np.testing.assert_array_equal(
            load_audio(segment, sample_rate=RATE, resample=False),
            load_audio(away, sample_rate=RATE, resample=False),
        )


@pytest.mark.parametrize("kind", ["struct", "binary", "large"])
def test_recordings_are_decoded_from_the_file(tmp_path: Path, kind: str) -> None:
    recordings = [read_recording(tmp_path, number) for number in range(5)]
    if kind == "struct":
        audio = pyarrow.array([{"bytes": data, "path": "a.wav"} for data in recordings])
    else:
        audio_type = pyarrow.binary() if kind == "binary" else pyarrow.large_binary()
        audio = pyarrow.array(recordings, audio_type)
    table = pyarrow.table({"audio": audio, "text": [f"Text {number}." for number in range(5)]})
    path = write_arrow(tmp_path, table.slice(0, 5))
    data = load_source(tmp_path, SOURCE)
    assert get_issues(data) == []
    assert describe_examples(data)[4] == ("rows.arrow:5", "Text 4.", None, None)
    check_audio(tmp_path, data, path)
    assert data.sources[0].audio_bytes == path.stat().st_size


def test_a_large_batch_with_an_offset_is_read_in_slices(tmp_path: Path) -> None:
    audio = pyarrow.array([{"bytes": b"%05d" % number} for number in range(3000)])
    table = pyarrow.table({"audio": audio, "text": [f"{number}." for number in range(3000)]})
    with ipc.new_file(str(tmp_path / "rows.arrow"), table.schema) as file:
        file.write_batch(table.to_batches()[0].slice(7))
    file_bytes = (tmp_path / "rows.arrow").read_bytes()
    data = load_source(tmp_path, SOURCE)
    assert get_texts(data) == [f"{number}." for number in range(7, 3000)]
    for example in data.examples[::500]:
        first, size = example.audio_segments[0].byte_range or (0, 0)
        assert file_bytes[first : first + size] == b"%05d" % int(example.target[:-1])


def test_a_recording_is_named_by_its_row_and_its_path(tmp_path: Path) -> None:
    audio = {"bytes": read_recording(tmp_path), "path": "deep/a.wav"}
    write_arrow(tmp_path, [{"audio": audio, "text": "Hi.", "client_id": "ann", "locale": "pt-BR"}])
    data = load_source(tmp_path, SOURCE)
    assert describe_examples(data) == [("rows.arrow:1", "Hi.", "ann", "pt")]
    assert data.examples[0].audio_segments[0].name == "rows.arrow:1 deep/a.wav"
    for pattern, count in (("**/*.wav", 1), ("**/*.flac", 0)):
        assert len(load_source(tmp_path, {**SOURCE, "include": [pattern]}).examples) == count


def test_a_row_may_name_a_file_beside_the_dataset(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "clips/a.wav")
    rows = [
        {"audio": {"bytes": None, "path": "clips/a.wav"}, "text": "Hi."},
        {"audio": {"bytes": None, "path": None}, "text": "Hi."},
        {"audio": None, "text": "Hi."},
        {"audio": {"bytes": b"", "path": "https://x.org/a.wav"}, "text": "Hi."},
        {"audio": {"bytes": None, "path": str(path)}, "text": None},
    ]
    write_arrow(tmp_path, rows)
    data = load_source(tmp_path, SOURCE)
    assert [example.audio_segments[0].path for example in data.examples] == [path]
    assert get_issues(data) == [
        ("rows.arrow:2", "data.no_audio_path"),
        ("rows.arrow:3", "data.no_audio_path"),
        ("rows.arrow:4", "data.remote_audio"),
        ("rows.arrow:5", "data.empty_transcript"),
    ]
    (tmp_path / "far").mkdir()
    (tmp_path / "rows.arrow").rename(tmp_path / "far/rows.arrow")
    (example,) = load_source(tmp_path, {"path": "far/rows.arrow", "audio": "."}).examples
    assert example.audio_segments[0].path == path


def test_a_parquet_is_converted_once_into_the_cache(tmp_path: Path) -> None:
    rows = [
        {
            "audio": {"bytes": read_recording(tmp_path, number), "path": "a.wav"},
            "text": f"Text {number}.",
        }
        for number in range(3)
    ]
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00001", "dev-00000-of-00001"):
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, tmp_path / f"data/{name}.parquet", row_group_size=2)
    source = {"path": "data", "split": "validation"}
    data = load_source(tmp_path, source, policy="strict")
    assert get_issues(data) == []
    name = "data/dev-00000-of-00001.parquet"
    assert get_locations(data) == [f"{name}:{number}" for number in (1, 2, 3)]
    assert data.sources[0].skipped_other_split == 3
    path = data.examples[0].audio_segments[0].path
    assert path.is_relative_to(os.environ["HF_DATASETS_CACHE"])
    check_audio(tmp_path, data, path)
    second = load_source(tmp_path, source)
    assert second.examples[0].audio_segments[0].path == path


def test_under_strict_a_recording_outside_the_folder_is_an_error(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav")
    (tmp_path / "here").mkdir()
    write_arrow(tmp_path / "here", [{"audio": str(path), "text": "Hi."}])
    data = load_source(tmp_path / "here", SOURCE, policy="strict")
    assert get_issues(data) == [("rows.arrow:1", "data.outside_folder")]


@pytest.mark.parametrize("content", [b"words and words and more of them", b""])
def test_a_file_that_is_no_arrow_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.arrow").write_bytes(content)
    assert get_issues(load_source(tmp_path, SOURCE)) == [("rows.arrow", "source.damaged")]


@pytest.mark.parametrize("name", ["rows.arrow", "rows.parquet", "folder/rows.parquet"])
def test_a_pipe_is_not_opened(tmp_path: Path, name: str) -> None:
    """Of the kind: a file that is waited for without end."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / name)
    data = load_source(tmp_path, {"path": name.partition("/")[0]})
    assert get_issues(data) == [(name, "source.not_a_file")]


def test_an_arrow_that_is_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    rows = [{"audio": read_recording(tmp_path), "text": "Hi."} for _ in range(4)]
    path = write_arrow(tmp_path, rows)
    path.write_bytes(path.read_bytes()[:-9000])
    data = load_source(tmp_path, SOURCE)
    assert len(data.examples) == 2
    assert get_issues(data)[-1] == ("rows.arrow", "source.damaged")


@pytest.mark.parametrize(("start", "end"), [(0, 1 << 30), (-4, 500), (400, 300)])
def test_offsets_that_lead_out_of_the_file_are_errors(tmp_path: Path, start: int, end: int) -> None:
    path = write_arrow(tmp_path, [{"audio": b"x" * 500, "text": "Hi."}])
    offsets = (0).to_bytes(4, "little") + (500).to_bytes(4, "little")
    head, tail = path.read_bytes().rsplit(offsets, 1)  # the batch's own; its schema comes first
    changed = start.to_bytes(4, "little", signed=True) + end.to_bytes(4, "little")
    path.write_bytes(head + changed + tail)
    data = load_source(tmp_path, SOURCE)
    assert data.examples == () and get_issues(data) == [("rows.arrow", "source.damaged")]


def test_a_compressed_arrow_is_an_error(tmp_path: Path) -> None:
    table = pyarrow.table({"audio": [bytes(90_000)] * 3, "text": ["Hi."] * 3})
    feather.write_feather(table, str(tmp_path / "rows.arrow"), compression="lz4")
    data = load_source(tmp_path, SOURCE)
    assert get_issues(data) == [("rows.arrow", "source.compressed")]
    assert data.issues[0].hint.startswith("write it without: ")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sound": b"x", "text": "Hi."}, "no column of recordings: it has sound, text"),
        ({"audio": b"x", "words": "Hi."}, "no column of text: it has audio, words"),
        ({"audio": [0.5], "text": "Hi."}, "column audio holds no recordings but list<"),
        (
            {"audio": {"array": [0.5]}, "text": "Hi."},
            "column audio holds no recordings but struct<",
        ),
    ],
)
def test_a_missing_or_wrong_column_is_reported_once(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    write_arrow(tmp_path, [row])
    data = load_source(tmp_path, SOURCE)
    assert get_issues(data) == [("rows.arrow", "source.no_column")]
    assert data.issues[0].what.startswith(words)


def test_a_source_names_the_columns(tmp_path: Path) -> None:
    write_arrow(tmp_path, [{"sound": read_recording(tmp_path), "caption": "A dog.", "text": "x"}])
    columns = {"audio": "sound", "text": "caption"}
    assert get_texts(load_source(tmp_path, {**SOURCE, "columns": columns})) == ["A dog."]
    data = load_source(tmp_path, {**SOURCE, "columns": {"audio": "wave"}})
    assert get_issues(data) == [("rows.arrow", "source.no_column")]
    assert data.issues[0].what == "no column wave"


def test_a_damaged_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + bytes(100))
    source = {"path": "rows.parquet"}
    assert get_issues(load_source(tmp_path, source)) == [("rows.parquet", "source.damaged")]
    table = pyarrow.Table.from_pylist([{"audio": read_recording(tmp_path), "text": "Hi."}])
    pyarrow.parquet.write_table(table, path)
    file_bytes = bytearray(path.read_bytes())
    file_bytes[4:40] = bytes(36)
    path.write_bytes(file_bytes)
    assert get_issues(load_source(tmp_path, source)) == [("rows.parquet", "source.damaged")]


def test_a_folder_of_a_table_or_of_cache_files_is_no_dataset(tmp_path: Path) -> None:
    save_audio(tmp_path / "corpus/a.wav")
    (tmp_path / "corpus/metadata.parquet").write_bytes(b"")
    (tmp_path / "corpus/cache-0123.arrow").write_bytes(b"")
    assert not is_parquet(tmp_path / "corpus")
    (tmp_path / "corpus/train").mkdir()
    (tmp_path / "corpus/train/0.parquet").write_bytes(b"")
    assert is_parquet(tmp_path / "corpus")
    (tmp_path / "bare").mkdir()
    data = load_source(tmp_path, {"path": "bare", "format": "parquet"})
    assert [code for _, code in get_issues(data)] == ["source.missing_file"]


def test_a_shard_without_rows_is_an_empty_shard(tmp_path: Path) -> None:
    """No rows are no damage: an empty Parquet beside a full one, and an Arrow alone."""
    rows = [{"audio": {"bytes": read_recording(tmp_path), "path": "a.wav"}, "text": "One."}]
    table = pyarrow.Table.from_pylist(rows)
    (tmp_path / "data").mkdir()
    for number, each in enumerate((table, table.slice(0, 0))):
        path = tmp_path / f"data/train-{number:05}-of-00002.parquet"
        pyarrow.parquet.write_table(each, path)
    data = load_source(tmp_path, {"path": "data"})
    assert get_texts(data) == ["One."] and get_issues(data) == []
    write_arrow(tmp_path, table.slice(0, 0))
    assert get_issues(load_source(tmp_path, SOURCE)) == [("my.dlm:7", "source.empty")]
