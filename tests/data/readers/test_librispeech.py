"""LibriSpeech: subsets, speakers and chapters, and lines or recordings without a partner."""

import os
from pathlib import Path

import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.readers.base import SourceContext
from dlm.data.readers.corpora import is_librispeech, list_librispeech_shards
from tests.data.readers.source_loading import (
    describe_examples,
    get_issues,
    get_locations,
    load_source,
)
from tests.data.recordings import make_noise, save_audio

CORPUS = {"path": "LibriSpeech"}
TRANSCRIPT = "LibriSpeech/train-clean-100/84/121/84-121.trans.txt"


def write_chapter(
    folder: Path, where: str = "train-clean-100/84/121", text: str | bytes = ""
) -> Path:
    """Write a chapter of one recording."""
    chapter = folder / "LibriSpeech" / where
    name = "-".join(where.split("/")[-2:])
    save_audio(chapter / f"{name}-0000.flac", make_noise(0.3))
    text = text or f"{name}-0000 GO ON\n"
    data = text if isinstance(text, bytes) else text.encode()
    (chapter / f"{name}.trans.txt").write_bytes(data)
    return chapter


def test_a_line_of_a_chapter_is_an_example_and_its_folder_the_speaker(tmp_path: Path) -> None:
    write_chapter(tmp_path)
    write_chapter(tmp_path, "train-other-500/9/7")
    (tmp_path / "LibriSpeech/SPEAKERS.TXT").write_text("; ID |SEX|\n")
    (tmp_path / "LibriSpeech/book").mkdir()
    data = load_source(tmp_path, {**CORPUS, "language": "en"})
    assert get_issues(data) == []
    assert describe_examples(data) == [
        (f"{TRANSCRIPT}:1", "GO ON", "84", "en"),
        ("LibriSpeech/train-other-500/9/7/9-7.trans.txt:1", "GO ON", "9", "en"),
    ]
    (segment,) = data.examples[0].audio_segments
    assert segment.name == "LibriSpeech/train-clean-100/84/121/84-121-0000.flac"


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
def test_a_split_is_a_subset_or_all_of_its_kind(
    tmp_path: Path, split: str | None, speakers: list[str]
) -> None:
    for where in ("train-clean-100/84/1", "train-other-500/9/1", "dev-clean/3/1", "test-clean/5/1"):
        write_chapter(tmp_path, where)
    data = load_source(tmp_path, {**CORPUS, **({"split": split} if split else {})})
    assert [example.speaker for example in data.examples] == speakers
    assert data.sources[0].skipped_other_split == 4 - len(speakers)


def test_the_source_may_be_a_subset_or_the_folder_above(tmp_path: Path) -> None:
    write_chapter(tmp_path)
    data = load_source(tmp_path, {"path": "LibriSpeech/train-clean-100"})
    assert get_locations(data) == [f"{TRANSCRIPT}:1"]
    (example,) = load_source(tmp_path, {"path": "."}).examples
    assert example.speaker == "84"


def test_test_subsets_name_their_benchmark(tmp_path: Path) -> None:
    for where in ("test-clean/5/1", "test-other/6/1", "dev-clean/7/1"):
        write_chapter(tmp_path, where)
    source = SourceConfig(path="LibriSpeech", split="test")
    shards = list_librispeech_shards(SourceContext(tmp_path / "LibriSpeech", source))
    assert {shard.name.split("/")[1]: shard.test_benchmark for shard in shards} == {
        "test-clean": "LibriSpeech",
        "test-other": "LibriSpeech",
        "dev-clean": None,
    }
    assert [len(list(shard.read(0))) for shard in shards] == [1, 1, 1]


def test_a_folder_without_transcripts_is_no_librispeech(tmp_path: Path) -> None:
    save_audio(tmp_path / "train-mine/a/b/c.wav")
    assert not is_librispeech(tmp_path)
    assert not is_librispeech(tmp_path / "train-mine")


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ("84-121-0000\n", 1, "data.empty_transcript"),
        ("84-121-0000 GO\n\n84-121-0000 ON\n", 3, "data.duplicate_id"),
        ("84-121-0000 GO\n84-121-0001 DÉJÀ\n".encode("latin1"), 2, "data.not_utf8"),
    ],
)
def test_a_broken_line_is_an_issue_with_its_number(
    tmp_path: Path, text: str | bytes, line: int, code: str
) -> None:
    write_chapter(tmp_path, text=text)
    data = load_source(tmp_path, CORPUS)
    assert get_issues(data)[0] == (f"{TRANSCRIPT}:{line}", code) and data.issues[0].fatal


def test_lines_and_recordings_without_a_partner_are_counted(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf84-121-0001 GO\r\n84-121-0002 ON\r\n"
    chapter = write_chapter(tmp_path, text=text)
    save_audio(chapter / "84-121-0002.wav")
    (report,) = load_source(tmp_path, CORPUS).sources
    assert (report.audio_count, report.skipped_audio_no_transcript) == (1, 1)
    assert report.skipped_rows_no_audio == 1


def test_a_pipe_as_transcript_is_not_opened(tmp_path: Path) -> None:
    chapter = write_chapter(tmp_path)
    (chapter / "84-121.trans.txt").unlink()
    os.mkfifo(chapter / "84-121.trans.txt")
    data = load_source(tmp_path, CORPUS)
    assert get_issues(data)[0] == (TRANSCRIPT, "source.not_a_file")
    assert data.sources[0].skipped_audio_no_transcript == 1


def test_a_subset_that_is_not_there_is_an_error_with_those_that_are(tmp_path: Path) -> None:
    write_chapter(tmp_path)
    data = load_source(tmp_path, {**CORPUS, "split": "train-clean-360"})
    assert [code for _, code in get_issues(data)] == ["source.no_split"]
    assert data.issues[0].what == "no split train-clean-360: it has train-clean-100"
