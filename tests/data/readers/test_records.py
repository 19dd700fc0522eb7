"""Records of lists and tables: read one by one, whatever their size, each with its line."""

import gzip
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlm.data.readers.columns import get_seconds, get_text, require_local_path
from dlm.data.readers.records import (
    JSON_CHUNK_CHARS,
    MAX_RECORD_CHARS,
    get_list_suffix,
    read_column_names,
    read_first_record,
    read_records,
)
from dlm.errors import DataError

RECORDS = [{"n": number, "text": "ünd\n" + "x" * (number % 50)} for number in range(3000)]
TABLE = 'a,"b ""c""",\r\n1,"two\r\nlines",x\r\n\r\n2,plain,\r\n'


def write_list(path: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


def read_list(path: Path) -> list[tuple[int, object]]:
    """Every record with its line; an error as its code."""
    return [
        (line, record.code if isinstance(record, DataError) else record)
        for line, record in read_records(path)
    ]


def format_lines(records: list[dict[str, object]]) -> str:
    return "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "A.JSON.GZ"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_record_of_json_comes_with_its_line(name: str, mark: str, tmp_path: Path) -> None:
    path = write_list(tmp_path / name, mark + format_lines(RECORDS).replace("\n", "\r\n"))
    assert read_list(path) == list(enumerate(RECORDS, start=1))


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_in_pieces(indent: int | None, tmp_path: Path) -> None:
    text = json.dumps(RECORDS, indent=indent, ensure_ascii=False)
    text = text.replace('"text"', " " * 200 + '"text"')
    assert len(text) > 2 * JSON_CHUNK_CHARS
    lines = [4 * index + 2 if indent else 1 for index in range(len(RECORDS))]
    path = write_list(tmp_path / "a.json", text)
    assert read_list(path) == list(zip(lines, RECORDS, strict=True))


def test_an_error_far_into_an_array_has_its_line(tmp_path: Path) -> None:
    num_good = JSON_CHUNK_CHARS // 4 + 1000  # over the end of a piece
    text = "[" + ",\n".join([*["{}"] * num_good, "{no", "{}"]) + "]"
    *_, last, error = read_list(write_list(tmp_path / "a.json", text))
    assert last == (num_good, {}) and error == (num_good + 1, "data.not_json")


def test_after_a_broken_value_reading_goes_on_at_the_next_object(tmp_path: Path) -> None:
    num_more = JSON_CHUNK_CHARS // 3 + 1000  # over the end of a piece
    text = '{"a": 1}\n{"a": "open\n{"a":\n 2}\n7\n{"a" 3}\n' + "{}\n" * num_more + "{"
    records = read_list(write_list(tmp_path / "a.json", text))
    assert records[:7] == [
        (1, {"a": 1}),
        (2, "data.not_json"),
        (3, {"a": 2}),
        (5, "data.not_an_object"),
        (6, "data.not_json"),
        (7, {}),
        (8, {}),
    ]
    assert records[-2:] == [(num_more + 6, {}), (num_more + 7, "data.not_json")]


def test_a_number_is_read_to_its_end(tmp_path: Path) -> None:
    path = write_list(tmp_path / "a.json", "[" + " " * (JSON_CHUNK_CHARS - 3) + "12345, {}]")
    assert read_list(path) == [(1, "data.not_an_object"), (1, {})]


def test_a_row_of_a_table_comes_with_its_line(tmp_path: Path) -> None:
    for name, text in (("a.csv", "\ufeff" + TABLE), ("a.csv.gz", TABLE)):
        path = write_list(tmp_path / name, text)
        assert read_column_names(path) == ("a", 'b "c"', "")
        first = {"a": "1", 'b "c"': "two\r\nlines", "": "x"}
        assert read_list(path) == [(2, first), (5, {"a": "2", 'b "c"': "plain", "": ""})]
    path = write_list(tmp_path / "a.tsv", "a\tb\n1, 2\tx\n")
    assert read_list(path) == [(2, {"a": "1, 2", "b": "x"})]


def test_after_a_quote_that_is_never_closed_reading_goes_on(tmp_path: Path) -> None:
    text = "a,b\n" + '1,"open\n' + "2,x\n" * 60_000
    error, *records = read_list(write_list(tmp_path / "a.csv", text))
    assert error == (2, "data.not_csv") and records[-1] == (60_002, {"a": "2", "b": "x"})
    path = write_list(tmp_path / "b.csv", 'a,b\n1,2\n3,"4')
    assert read_list(path) == [(2, {"a": "1", "b": "2"}), (3, "data.not_csv")]
    (_, first), (_, last) = read_records(path)
    assert isinstance(last, DataError) and last.what == "not CSV (a quote is never closed)"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'a,b\n1,"open' + "x\n" * 200_000),
        ("a.tsv", "a\tb\n" + "1\n" * 200_000),
        ("a.jsonl", "{\n" * 200_000),
    ],
)
def test_a_list_of_broken_records_ends(name: str, text: str, tmp_path: Path) -> None:
    """Of the kind: an input of some megabytes that makes millions of problems. Neighbours: an open
    quote, rows of one cell, lines that are no JSON."""
    records = read_list(write_list(tmp_path / name, text))
    assert len(records) < 1010 and records[-1][1] == "data.too_many_broken"


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_memory_does_not_grow_with_the_list(kind: str, tmp_path: Path) -> None:
    line = {"jsonl": '{"text": "%s"}\n', "json": '{"text": "%s"},\n', "csv": '"%s",\n'}[kind]
    text = (line % ("x" * 150)) * 20_000
    start, end = {"json": ("[", "{}]"), "csv": ("text,\n", "")}.get(kind, ("", ""))
    path = write_list(tmp_path / f"a.{kind}", start + text + end)
    tracemalloc.start()
    try:
        count = sum(isinstance(record, dict) for _, record in read_records(path))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000 + (kind == "json") and peak_bytes < len(text) / 1.5


def test_deep_nesting_takes_no_more_memory_than_the_list(tmp_path: Path) -> None:
    path = write_list(tmp_path / "a.json", '[{"a": 1}, ' + "[" * 100_000)
    tracemalloc.start()
    try:
        records = read_list(path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert records == [(1, {"a": 1}), (1, "data.not_json")] and peak_bytes < 10_000_000


def test_a_record_without_an_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    with path.open("ab") as file:
        file.truncate(2 * MAX_RECORD_CHARS + 10)
        file.seek(0, 2)
        file.write(b"\n{}\n")
    assert read_list(path) == [(1, {}), (2, "data.record_too_long"), (3, {})]


def iter_unreadable_lists(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Files that are no lists, with the code and the words of their error."""
    path = write_list(folder / "a.jsonl", "{}\n".encode("utf-16"))
    yield path, "source.not_a_list", "it is UTF-16"
    yield folder / "missing.csv", "source.not_a_list", "it is not a regular file"
    yield write_list(folder / "a.txt", "words"), "source.not_a_list", ""
    for name in ("pipe.jsonl", "pipe.csv"):
        os.mkfifo(folder / name)
        yield folder / name, "source.not_a_list", "it is not a regular file"
    (folder / "plain.jsonl.gz").write_text("{}\n")
    yield folder / "plain.jsonl.gz", "source.unreadable", "Not a gzipped file"
    cut = gzip.compress(format_lines(RECORDS).encode())[:-2000]
    (folder / "cut.jsonl.gz").write_bytes(cut)
    yield folder / "cut.jsonl.gz", "source.unreadable", "Compressed file ended"
    (folder / "bad.json.gz").write_bytes(cut[:200] + b"\xff" * 300)
    yield folder / "bad.json.gz", "source.unreadable", ""


def test_a_file_that_is_no_list_is_an_error(tmp_path: Path) -> None:
    for path, code, words in iter_unreadable_lists(tmp_path):
        with pytest.raises(DataError) as caught:
            list(read_records(path))
        assert caught.value.code == code and words in caught.value.what and caught.value.hint
        assert read_column_names(path) == ()
    for name in ("pipe.jsonl", "a.jsonl", "a.txt"):
        assert read_first_record(tmp_path / name) == {}


def test_bytes_that_are_not_utf8_spoil_only_their_record(tmp_path: Path) -> None:
    lines = b'{"text": "a"}\n{"text": "caf\xe9"}\n{\xe9}\n{"text": "b"}\n'
    first, second, third, last = read_records(write_list(tmp_path / "a.jsonl", lines))
    assert first == (1, {"text": "a"}) and last == (4, {"text": "b"})
    assert isinstance(third[1], DataError) and isinstance(second[1], dict) and second[0] == 2
    with pytest.raises(DataError) as caught:
        get_text(second[1], "text")
    assert caught.value.code == "data.bad_characters"
    table = write_list(tmp_path / "a.csv", b"te\xffxt,b\ncaf\xe9,1\n")
    assert read_column_names(table) == ("te?xt", "b")
    assert [line for line, _ in read_records(table)] == [2]


def test_bytes_that_are_not_utf8_spoil_only_their_record_of_an_array(tmp_path: Path) -> None:
    text = b'[{"text": "caf\xe9"},\n{"end": NaN},\n{"id": ' + b"1" * 30 + b"}]"
    records = read_list(write_list(tmp_path / "a.json", text))
    assert [line for line, _ in records] == [1, 2, 3]
    assert records[2][1] == {"id": int("1" * 30)}


def test_seconds_are_finite_numbers() -> None:
    assert [get_seconds({"s": value}, "s") for value in (None, 1, 0.5)] == [None, 1.0, 0.5]
    for value in (True, "1", [], float("inf"), float("nan"), 10**400):
        with pytest.raises(DataError) as caught:
            get_seconds({"s": value}, "s")
        assert caught.value.code == "data.bad_seconds"


def test_a_recording_must_be_a_file_of_this_machine() -> None:
    local = {
        "clips/a b.wav": "clips/a b.wav",
        "C:a.wav": "C:a.wav",
        "file:///tmp/a%20b.wav": "/tmp/a b.wav",
        "FILE:///a%00b.wav": "/a?b.wav",
    }
    assert {path: require_local_path(path) for path in local} == local
    refused = {
        "https://x.org/a.wav": "data.remote_audio",
        "S3://bucket/a.wav": "data.remote_audio",
        "data:audio/wav;base64,AAAA": "data.inline_audio",
        "A" * 5000: "data.bad_path",
    }
    for path, code in refused.items():
        with pytest.raises(DataError) as caught:
            require_local_path(path)
        assert caught.value.code == code and caught.value.hint


def test_the_format_of_a_list_is_in_its_name() -> None:
    names = ("a.jsonl", "a.b.JSON.gz", "a.gz", "a.csv.bak")
    assert [get_list_suffix(Path(name)) for name in names] == [".jsonl", ".json", "", ".bak"]
