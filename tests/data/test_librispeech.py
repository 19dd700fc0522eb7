"""The tree of LibriSpeech: subsets, speakers, chapters, and what is said of the rest."""

import os
from pathlib import Path

import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.readers.base import SourceContext
from dlm.data.readers.corpora import is_librispeech, list_librispeech_shards
from tests.data.gathering import faults, gathered, spoken
from tests.data.sounds import noise, save

TREE = {"path": "LibriSpeech"}


def chapter(folder: Path, where: str = "train-clean-100/84/121", text: str | bytes = "") -> Path:
    """A chapter of one recording."""
    place = folder / "LibriSpeech" / where
    speaker, number = where.split("/")[-2:]
    name = f"{speaker}-{number}"
    save(place / f"{name}-0000.flac", noise(0.3))
    words = text or f"{name}-0000 GO ON\n"
    (place / f"{name}.trans.txt").write_bytes(words if isinstance(words, bytes) else words.encode())
    return place


def test_speakers_are_the_folders(tmp_path: Path) -> None:
    chapter(tmp_path)
    chapter(tmp_path, "train-other-500/9/7")
    (tmp_path / "LibriSpeech/SPEAKERS.TXT").write_text("; ID |SEX|\n")
    (tmp_path / "LibriSpeech/book").mkdir()
    found = gathered(tmp_path, {**TREE, "language": "en"})
    assert faults(found) == []
    assert spoken(found) == [
        ("LibriSpeech/train-clean-100/84/121/84-121.trans.txt:1", "GO ON", "84", "en"),
        ("LibriSpeech/train-other-500/9/7/9-7.trans.txt:1", "GO ON", "9", "en"),
    ]
    assert (
        found.examples[0].audio_segments[0].name
        == "LibriSpeech/train-clean-100/84/121/84-121-0000.flac"
    )


@pytest.mark.parametrize(
    ("split", "speakers"),
    [
        (None, ["84", "9"]),
        ("train", ["84", "9"]),
        ("train-other-500", ["9"]),
        ("dev", ["3"]),
        ("validation", ["3"]),
        ("dev-clean", ["3"]),
    ],
)
def test_a_split_is_a_subset_or_all_of_its_kind(tmp_path: Path, split, speakers) -> None:
    for where in ("train-clean-100/84/1", "train-other-500/9/1", "dev-clean/3/1", "test-clean/5/1"):
        chapter(tmp_path, where)
    found = gathered(tmp_path, {**TREE, **({"split": split} if split else {})})
    assert [speaker for _, _, speaker, _ in spoken(found)] == speakers
    assert found.sources[0].skipped_other_split == 4 - len(speakers)


def test_a_subset_may_be_the_source(tmp_path: Path) -> None:
    chapter(tmp_path)
    (clip,) = gathered(tmp_path, {"path": "LibriSpeech/train-clean-100"}).examples
    assert clip.location == "LibriSpeech/train-clean-100/84/121/84-121.trans.txt:1"
    (clip,) = gathered(tmp_path, {"path": "."}).examples
    assert clip.speaker == "84"


def test_the_subsets_for_tests_say_so(tmp_path: Path) -> None:
    for where in ("test-clean/5/1", "test-other/6/1", "dev-clean/7/1"):
        chapter(tmp_path, where)
    shards = list_librispeech_shards(
        SourceContext(tmp_path / "LibriSpeech", SourceConfig(path="LibriSpeech", split="test"))
    )
    told_of = {shard.name.split("/")[1]: shard.test_benchmark for shard in shards}
    assert told_of == {
        "test-clean": "LibriSpeech",
        "test-other": "LibriSpeech",
        "dev-clean": None,
    }
    assert [len(list(shard.read(0))) for shard in shards] == [1, 1, 1]


def test_a_folder_of_recordings_is_no_such_tree(tmp_path: Path) -> None:
    save(tmp_path / "train-mine/a/b/c.wav")
    assert not is_librispeech(tmp_path)
    assert not is_librispeech(tmp_path / "train-mine")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("84-121-0000\n", "1: AUDIO section has empty transcript; "),
        (
            "84-121-0000 GO\n\n84-121-0000 ON\n",
            "3: the id 84-121-0000 comes twice; give each record",
        ),
        ("84-121-0000 GO\n84-121-0001 DÉJÀ\n".encode("latin1"), "2: the line is not UTF-8; save"),
    ],
)
def test_a_line_that_cannot_be_used(tmp_path: Path, text, line: str) -> None:
    chapter(tmp_path, text=text)
    name = "LibriSpeech/train-clean-100/84/121/84-121.trans.txt"
    found = gathered(tmp_path, TREE)
    assert faults(found)[0].startswith(f"{name}:{line}") and found.issues[0].fatal


def test_what_has_no_partner_is_counted(tmp_path: Path) -> None:
    place = chapter(tmp_path, text=b"\xef\xbb\xbf84-121-0001 GO\r\n84-121-0002 ON\r\n")
    save(place / "84-121-0002.wav")
    (report,) = gathered(tmp_path, TREE).sources
    assert (report.audio_count, report.skipped_audio_no_transcript) == (1, 1)
    assert report.skipped_rows_no_audio == 1
    (place / "84-121.trans.txt").unlink()
    os.mkfifo(place / "84-121.trans.txt")
    assert gathered(tmp_path, TREE).sources[0].skipped_audio_no_transcript == 2


def test_a_subset_that_is_not_there(tmp_path: Path) -> None:
    chapter(tmp_path)
    (line,) = faults(gathered(tmp_path, {**TREE, "split": "train-clean-360"}))
    assert "no split train-clean-360: it has train-clean-100; say which with split:" in line
