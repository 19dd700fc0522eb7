"""The tree of Common Voice: its tables as they have been written, and what is said of the rest."""

from pathlib import Path

import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.readers.base import SourceContext
from dlm.data.readers.corpora import is_commonvoice, list_commonvoice_shards
from tests.data.gathering import faults, gathered, spoken
from tests.data.sounds import save

HEAD = "client_id\tpath\tsentence\tup_votes\tlocale"
TREE = {"path": "cv/sv-SE"}


def table(folder: Path, *rows: str, name: str = "train", head: str = HEAD, end: str = "\n") -> Path:
    root = folder / "cv/sv-SE"
    save(root / "clips/a.mp3")
    lines = "".join(f"{row}{end}" for row in (head, *rows))
    (root / f"{name}.tsv").write_bytes(lines.encode("utf-8", "surrogateescape"))
    return root


def test_a_row_is_a_clip(tmp_path: Path) -> None:
    root = table(tmp_path, "f00\ta.mp3\t Tack. \t2\tsv-SE", end="\r\n")
    found = gathered(tmp_path, TREE)
    assert faults(found) == []
    assert spoken(found) == [("cv/sv-SE/train.tsv:2", "Tack.", "f00", "sv")]
    assert found.examples[0].audio_segments[0].path == root / "clips/a.mp3"
    assert found.examples[0].audio_segments[0].name == "cv/sv-SE/clips/a.mp3"


def test_early_tables_leave_out_the_suffix_and_the_locale(tmp_path: Path) -> None:
    root = table(tmp_path, "f00\ta\tTack.", head="client_id\tpath\tsentence")
    (clip,) = gathered(tmp_path, TREE).examples
    assert clip.audio_segments[0].path == root / "clips/a.mp3" and clip.language == "sv"


@pytest.mark.parametrize(
    ("written", "said"),
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
def test_quotes_are_read_as_they_were_written(tmp_path: Path, written: str, said: str) -> None:
    table(tmp_path, f"f00\ta.mp3\t{written}\t2\tsv")
    assert [text for _, text, *_ in spoken(gathered(tmp_path, TREE))] == [said]


def test_a_split_is_a_table_and_languages_lie_side_by_side(tmp_path: Path) -> None:
    for name in ("train", "dev", "test", "validated"):
        table(tmp_path, f"f00\ta.mp3\tFrom {name}.\t2\tsv", name=name)
    assert [text for _, text, *_ in spoken(gathered(tmp_path, {"path": "cv"}))] == ["From train."]
    for split, name in (("validation", "dev"), ("validated", "validated")):
        found = gathered(tmp_path, {**TREE, "split": split})
        assert [text for _, text, *_ in spoken(found)] == [f"From {name}."]
        assert found.sources[0].skipped_other_split == 3
    shards = list_commonvoice_shards(
        SourceContext(tmp_path / "cv", SourceConfig(path="cv", split="test"))
    )
    assert [shard.test_benchmark for shard in shards] == [None, None, "Common Voice", None]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("f00\ta.mp3\tTack.", "3 cells, and the table has 5 columns; put a tab between two cells"),
        ("f00\tb.mp3\t \t2\tsv", "AUDIO section has empty transcript; "),
        ("f00\ta.mp3\tTack.\t2\tsv", "the id a.mp3 comes twice; give each record an id of its own"),
        ("f00\t../a.mp3\tTack.\t2\tsv", "../a.mp3 leads out of the folder of its list; name it"),
        ("f00\tb.mp3\tD\udce9j\udce0\t2\tsv", "the line is not UTF-8; save it as UTF-8"),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path: Path, row: str, line: str) -> None:
    table(tmp_path, "f00\ta.mp3\tTack.\t2\tsv", "", row)
    found = gathered(tmp_path, TREE)
    assert faults(found)[0].startswith(f"cv/sv-SE/train.tsv:4: {line}") and found.issues[0].fatal
    assert len(found.examples) == 1


def test_a_table_without_its_columns(tmp_path: Path) -> None:
    root = table(tmp_path, "f00\ta.mp3", head="client_id\tpath")
    assert not is_commonvoice(root)
    assert faults(gathered(tmp_path, {**TREE, "format": "commonvoice"})) == [
        "cv/sv-SE/train.tsv:1: the table has no column sentence; name its columns in the first line"
    ]
    (tmp_path / "bare").mkdir()
    (line,) = faults(gathered(tmp_path, {"path": "bare", "format": "commonvoice"}))
    assert "no split for training: it has none; say which with split:" in line
