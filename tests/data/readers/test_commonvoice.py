"""Common Voice: its tables as they have been written over the years, splits and broken rows."""

from pathlib import Path

import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.readers.base import SourceContext
from dlm.data.readers.corpora import is_commonvoice, list_commonvoice_shards
from tests.data.readers.source_loading import (
    describe_examples,
    get_issues,
    get_texts,
    load_source,
)
from tests.data.recordings import save_audio

HEADER = "client_id\tpath\tsentence\tup_votes\tlocale"
CORPUS = {"path": "cv/sv-SE"}


def write_corpus(
    folder: Path, *rows: str, split: str = "train", header: str = HEADER, end: str = "\n"
) -> Path:
    root = folder / "cv/sv-SE"
    save_audio(root / "clips/a.mp3")
    table = "".join(f"{row}{end}" for row in (header, *rows))
    (root / f"{split}.tsv").write_bytes(table.encode("utf-8", "surrogateescape"))
    return root


def test_a_row_is_an_example(tmp_path: Path) -> None:
    root = write_corpus(tmp_path, "f00\ta.mp3\t Tack. \t2\tsv-SE", end="\r\n")
    data = load_source(tmp_path, CORPUS)
    assert get_issues(data) == []
    assert describe_examples(data) == [("cv/sv-SE/train.tsv:2", "Tack.", "f00", "sv")]
    (segment,) = data.examples[0].audio_segments
    assert (segment.path, segment.name) == (root / "clips/a.mp3", "cv/sv-SE/clips/a.mp3")


def test_early_tables_leave_out_the_suffix_and_the_locale(tmp_path: Path) -> None:
    root = write_corpus(tmp_path, "f00\ta\tTack.", header="client_id\tpath\tsentence")
    (example,) = load_source(tmp_path, CORPUS).examples
    assert example.audio_segments[0].path == root / "clips/a.mp3" and example.language == "sv"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('He said "no".', 'He said "no".'),
        ('He said ""no"".', 'He said "no".'),
        ('""No"", he said.', '"No", he said.'),
        ('"He said ""no""."', 'He said "no".'),
        ('"""No"", he said."', '"No", he said.'),
        ('"No', '"No'),
        ('"', '"'),
    ],
)
def test_quotes_are_read_as_each_release_wrote_them(tmp_path: Path, cell: str, text: str) -> None:
    write_corpus(tmp_path, f"f00\ta.mp3\t{cell}\t2\tsv")
    assert get_texts(load_source(tmp_path, CORPUS)) == [text]


def test_a_split_is_a_table_and_a_folder_may_hold_several_languages(tmp_path: Path) -> None:
    for split in ("train", "dev", "test", "validated"):
        write_corpus(tmp_path, f"f00\ta.mp3\tFrom {split}.\t2\tsv", split=split)
    assert get_texts(load_source(tmp_path, {"path": "cv"})) == ["From train."]
    for split, table in (("validation", "dev"), ("validated", "validated")):
        data = load_source(tmp_path, {**CORPUS, "split": split})
        assert get_texts(data) == [f"From {table}."]
        assert data.sources[0].skipped_other_split == 3
    context = SourceContext(tmp_path / "cv", SourceConfig(path="cv", split="test"))
    benchmarks = [shard.test_benchmark for shard in list_commonvoice_shards(context)]
    assert benchmarks == [None, None, "Common Voice", None]


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ("f00\ta.mp3\tTack.", "data.bad_cell_count", "3 cells, and the table has 5 columns"),
        ("f00\tb.mp3\t \t2\tsv", "data.empty_transcript", ""),
        ("f00\ta.mp3\tTack.\t2\tsv", "data.duplicate_id", "a.mp3"),
        ("f00\t../a.mp3\tTack.\t2\tsv", "data.outside_folder", "../a.mp3"),
        ("f00\tb.mp3\tD\udce9j\udce0\t2\tsv", "data.not_utf8", ""),
    ],
)
def test_a_broken_row_is_an_issue_with_its_line(
    tmp_path: Path, row: str, code: str, words: str
) -> None:
    write_corpus(tmp_path, "f00\ta.mp3\tTack.\t2\tsv", "", row)
    data = load_source(tmp_path, CORPUS)
    assert get_issues(data) == [("cv/sv-SE/train.tsv:4", code)]
    assert words in data.issues[0].what and data.issues[0].fatal
    assert len(data.examples) == 1


def test_a_table_without_its_columns_is_an_error(tmp_path: Path) -> None:
    root = write_corpus(tmp_path, "f00\ta.mp3", header="client_id\tpath")
    assert not is_commonvoice(root)
    data = load_source(tmp_path, {**CORPUS, "format": "commonvoice"})
    assert get_issues(data) == [("cv/sv-SE/train.tsv:1", "source.no_column")]
    assert data.issues[0].what == "the table has no column sentence"
    (tmp_path / "bare").mkdir()
    data = load_source(tmp_path, {"path": "bare", "format": "commonvoice"})
    assert [code for _, code in get_issues(data)] == ["source.no_split"]
