"""Rows of lists and tables: read one by one, whatever their size, each with its line."""

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

NUMBERED = [{"n": number, "text": "ünd\n" + "x" * (number % 50)} for number in range(3000)]


def kept(path: Path, text: str | bytes) -> Path:
    words = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(words) if path.suffix.lower() == ".gz" else words)
    return path


def read(path: Path) -> list[tuple[int, object]]:
    """Every row, an error as its words."""
    return [
        (line, str(row) if isinstance(row, DataError) else row) for line, row in read_records(path)
    ]


def as_lines(made: list[dict[str, object]]) -> str:
    return "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in made)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "A.JSON.GZ"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_and_their_lines(name: str, mark: str, tmp_path: Path) -> None:
    path = kept(tmp_path / name, mark + as_lines(NUMBERED).replace("\n", "\r\n"))
    assert read(path) == [(at + 1, row) for at, row in enumerate(NUMBERED)]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_piece_by_piece(indent: int | None, tmp_path: Path) -> None:
    text = json.dumps(NUMBERED, indent=indent, ensure_ascii=False)
    assert len(text) > JSON_CHUNK_CHARS / 4
    long = text.replace('"text"', " " * 200 + '"text"')
    assert len(long) > 2 * JSON_CHUNK_CHARS
    found = read(kept(tmp_path / "a.json", long))
    assert [row for _, row in found] == NUMBERED
    lines = [4 * at + 2 if indent else 1 for at in range(len(NUMBERED))]
    assert [line for line, _ in found] == lines


def test_what_is_broken_far_into_an_array_has_its_line(tmp_path: Path) -> None:
    listed = "[" + ",\n".join([*("{}" for _ in range(50_000)), "{no", "{}"]) + "]"
    *_, before, (line, row) = read(kept(tmp_path / "a.json", listed))
    assert before == (50_000, {}) and line == 50_001
    assert str(row).startswith("not JSON (Expecting property name")


def test_values_one_after_the_other_go_on_after_a_broken_one(tmp_path: Path) -> None:
    text = '{"a": 1}\n{"a": "open\n{"a":\n 2}\n7\n{"a" 3}\n' + "{}\n" * 100_000 + "{"
    found = read(kept(tmp_path / "a.json", text))
    assert [line for line, _ in found[:7]] == [1, 2, 3, 5, 6, 7, 8]
    assert [found[at][1] for at in (0, 2, 5)] == [{"a": 1}, {"a": 2}, {}]
    assert [str(found[at][1])[:9] for at in (1, 3, 4)] == ["not JSON ", "not an ob", "not JSON "]
    assert found[-2] == (100_006, {}) and found[-1][0] == 100_007


def test_a_number_is_not_taken_for_its_beginning(tmp_path: Path) -> None:
    path = kept(tmp_path / "a.json", "[" + " " * (JSON_CHUNK_CHARS - 3) + "12345, {}]")
    assert [str(row)[:13] for _, row in read(path)] == ["not an object", "{}"]


TABLE = 'a,"b ""c""",\r\n1,"two\r\nlines",x\r\n\r\n2,plain,\r\n'


def test_a_table_and_its_lines(tmp_path: Path) -> None:
    for name, text in (("a.csv", "\ufeff" + TABLE), ("a.csv.gz", TABLE)):
        path = kept(tmp_path / name, text)
        assert read_column_names(path) == ("a", 'b "c"', "")
        first = {"a": "1", 'b "c"': "two\r\nlines", "": "x"}
        assert read(path) == [(2, first), (5, {"a": "2", 'b "c"': "plain", "": ""})]
    tabs = kept(tmp_path / "a.tsv", "a\tb\n1, 2\tx\n")
    assert read(tabs) == [(2, {"a": "1, 2", "b": "x"})]


def test_a_quote_that_is_never_closed_costs_no_memory(tmp_path: Path) -> None:
    text = "a,b\n" + '1,"open\n' + "2,x\n" * 60_000
    found = read(kept(tmp_path / "a.csv", text))
    lost, *after = found
    assert lost[0] == 2 and str(lost[1]).startswith("not CSV (a quote is never closed); close it")
    assert after[-1] == (60_002, {"a": "2", "b": "x"})
    last = read(kept(tmp_path / "b.csv", 'a,b\n1,2\n3,"4'))
    assert [line for line, _ in last] == [2, 3] and "a quote is never closed" in str(last[1])


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_no_more_is_held_than_a_row(kind: str, tmp_path: Path) -> None:
    body = {"jsonl": '{"text": "%s"}\n', "json": '{"text": "%s"},\n', "csv": '"%s",\n'}[kind]
    text = (body % ("x" * 150)) * 20_000
    ends = {"json": ("[", "{}]"), "csv": ("text,\n", "")}.get(kind, ("", ""))
    path = kept(tmp_path / f"a.{kind}", ends[0] + text + ends[1])
    tracemalloc.start()
    try:
        count = sum(isinstance(row, dict) for _, row in read_records(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000 + (kind == "json") and peak < len(text) / 1.5


def test_a_row_without_an_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    with path.open("ab") as file:
        file.truncate(2 * MAX_RECORD_CHARS + 10)
        file.seek(0, 2)
        file.write(b"\n{}\n")
    first, long, last = read(path)
    assert (first, last) == ((1, {}), (3, {}))
    assert long[0] == 2 and "the record has over 16,777,216 characters" in str(long[1])


def unreadable(folder: Path) -> Iterator[tuple[Path, str]]:
    yield kept(folder / "a.jsonl", "{}\n".encode("utf-16")), "not a list of clips (it is UTF-16)"
    yield folder / "missing.csv", "not a list of clips (it is no regular file)"
    yield kept(folder / "a.txt", "words"), "not a list of clips; name a .jsonl"
    os.mkfifo(folder / "pipe.jsonl")
    yield folder / "pipe.jsonl", "not a list of clips (it is no regular file)"
    os.mkfifo(folder / "pipe.csv")
    yield folder / "pipe.csv", "not a list of clips (it is no regular file)"
    (folder / "plain.jsonl.gz").write_text("{}\n")
    yield folder / "plain.jsonl.gz", "the list cannot be read (Not a gzipped file"
    cut = gzip.compress(as_lines(NUMBERED).encode())[:-2000]
    (folder / "cut.jsonl.gz").write_bytes(cut)
    yield folder / "cut.jsonl.gz", "the list cannot be read (Compressed file ended"
    (folder / "bad.json.gz").write_bytes(cut[:200] + b"\xff" * 300)
    yield folder / "bad.json.gz", "the list cannot be read ("


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    for path, what in unreadable(tmp_path):
        with pytest.raises(DataError, match="; ") as caught:
            list(read_records(path))
        assert str(caught.value).startswith(what)
        assert read_column_names(path) == ()
    assert (
        read_first_record(tmp_path / "pipe.jsonl") == read_first_record(tmp_path / "a.jsonl") == {}
    )


def test_what_is_not_utf_8_spoils_only_its_row(tmp_path: Path) -> None:
    lines = b'{"text": "a"}\n{"text": "caf\xe9"}\n{\xe9}\n{"text": "b"}\n'
    good, bad, broken, last = read_records(kept(tmp_path / "a.jsonl", lines))
    assert good == (1, {"text": "a"}) and last == (4, {"text": "b"})
    assert isinstance(broken[1], DataError) and isinstance(bad[1], dict) and bad[0] == 2
    with pytest.raises(DataError, match="text holds what is no character; write it as UTF-8"):
        get_text(bad[1], "text")
    table = kept(tmp_path / "a.csv", b"te\xffxt,b\ncaf\xe9,1\n")
    assert read_column_names(table) == ("te?xt", "b")
    assert [line for line, _ in read_records(table)] == [2]


def test_seconds_are_finite_numbers() -> None:
    assert [get_seconds({"s": value}, "s") for value in (None, 1, 0.5)] == [None, 1.0, 0.5]
    for value in (True, "1", [], float("inf"), float("nan"), 10**400):
        with pytest.raises(DataError, match="s is not a number of seconds"):
            get_seconds({"s": value}, "s")


LOCAL = {
    "clips/a b.wav": "clips/a b.wav",
    "C:a.wav": "C:a.wav",
    "file:///tmp/a%20b.wav": "/tmp/a b.wav",
    "FILE:///a%00b.wav": "/a?b.wav",
}
AWAY = {
    "https://x.org/a.wav": "https://x.org/a.wav is not on this machine, and nothing is downloaded",
    "S3://bucket/a.wav": "S3://bucket/a.wav is not on this machine",
    "data:audio/wav;base64,AAAA": "a recording is inside the record itself; save it in a file",
    "A" * 5000: "the path of a recording has 5,000 characters; save",
}


def test_only_files_of_this_machine_are_heard() -> None:
    assert {written: require_local_path(written) for written in LOCAL} == LOCAL
    for written, what in AWAY.items():
        with pytest.raises(DataError) as caught:
            require_local_path(written)
        assert str(caught.value).startswith(what)


def test_the_kind_of_a_list_is_in_its_name() -> None:
    names = ("a.jsonl", "a.b.JSON.gz", "a.gz", "a.csv.bak")
    assert [get_list_suffix(Path(name)) for name in names] == [".jsonl", ".json", "", ".bak"]
