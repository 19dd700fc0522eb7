"""Test splits are not learned from, unless that is asked for."""

from pathlib import Path

import pytest

from dlm.data import contamination as benchmarks
from dlm.data.load import load_examples
from tests.data.sounds import document, pair

LIBRI = "LibriSpeech/test-clean/61/70968"


@pytest.mark.parametrize(
    ("name", "split", "benchmark"),
    [
        ("openslr/librispeech_asr", "test.clean", "LibriSpeech"),
        ("librispeech_asr", "test", "LibriSpeech"),
        ("facebook/multilingual_librispeech", "test", "Multilingual LibriSpeech"),
        ("mozilla-foundation/common_voice_17_0", "test", "Common Voice"),
        ("corpora/cv-corpus-22.0-2025-06-20/", "test", "Common Voice"),
        ("google/fleurs", "test", "FLEURS"),
        ("facebook/voxpopuli", "test", "VoxPopuli"),
        ("speechcolab/gigaspeech", "test", "GigaSpeech"),
        ("LIUM/tedlium", "test", "TED-LIUM"),
        ("distil-whisper/earnings22", "test", "Earnings-22"),
        ("edinburghcstr/ami", "test", "AMI"),
        ("kensho/spgispeech", "test", "SPGISpeech"),
        ("MLCommons/peoples_speech", "test", "People's Speech"),
    ],
)
def test_what_is_known(name: str, split: str, benchmark: str) -> None:
    assert benchmarks.find_test_benchmark(name, split) == benchmark
    assert benchmarks.find_test_benchmark(name, "train") is None
    assert benchmarks.find_test_benchmark(name, "validation") is None


def test_others_are_not_benchmarks() -> None:
    assert benchmarks.find_test_benchmark("me/amigos", "test") is None
    assert benchmarks.find_test_benchmark("me/my_recordings", "test") is None
    assert [
        benchmarks.is_test_split(each) for each in ("test", "Test-Other", "latest", "testimony")
    ] == [
        True,
        True,
        False,
        False,
    ]


def refused(folder: Path, *lines: str) -> list[str]:
    """What would stop training with these settings."""
    head = "training:\n" + "".join(f"  {line}\n" for line in lines)
    return [str(each) for each in load_examples(document(folder, head=head)).issues if each.fatal]


@pytest.fixture
def libri(tmp_path: Path) -> Path:
    """A tree as LibriSpeech has it, with one utterance of a test split and one for training."""
    for split in ("test-clean", "train-clean-100"):
        chapter = tmp_path / f"LibriSpeech/{split}/61/70968"
        pair(chapter / "61-70968-0000.flac", "x").with_suffix(".txt").unlink()
        (chapter / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n")
    return tmp_path


TEST = "sources: [{path: LibriSpeech, split: test-clean}]"


def test_a_test_split_is_refused_by_name(libri: Path) -> None:
    assert refused(libri, TEST) == [
        "my.dlm:6: LibriSpeech is the test split of LibriSpeech, on which models are compared; "
        "keep it for testing with `held_out: LibriSpeech`, or say --allow-test-split"
    ]


def test_it_may_be_held_out_or_asked_for(libri: Path) -> None:
    assert refused(libri, "sources: [{path: LibriSpeech, split: train-clean-100}]") == []
    assert refused(libri, TEST, "allow_test_split: true") == []
    pair(libri / "mine/a.wav", "Mine.")
    both = "sources: [mine, {path: LibriSpeech, split: test-clean}]"
    assert refused(libri, both, "held_out: LibriSpeech") == []
    assert len(refused(libri, both, "held_out: mine")) == 1


def test_what_gives_no_clip_is_not_refused(libri: Path) -> None:
    source = "{path: LibriSpeech, split: test-clean, exclude: ['test-*/**']}"
    pair(libri / "mine/a.wav", "Mine.")
    assert refused(libri, f"sources: [mine, {source}]") == []


def test_any_split_of_that_name_is_refused(tmp_path: Path) -> None:
    """Of a dataset that nobody knows."""
    rows = '{"audio": "a.wav", "text": "Said.", "split": "test"}\n'
    pair(tmp_path / "a.wav", "Said.")
    (tmp_path / "mine.jsonl").write_text(rows)
    source = "{path: mine.jsonl, split: test}"
    assert refused(tmp_path, f"sources: [{source}]") == [
        "my.dlm:6: mine.jsonl would be learned from its split test, which is for tests; "
        "keep it for testing with `held_out: mine.jsonl`, or say --allow-test-split"
    ]
