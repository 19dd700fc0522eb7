"""Train/test contamination: test splits of benchmarks are refused, leaked examples reported."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dlm.config.data_schema import AudioConfig
from dlm.data.contamination import check_leakage, find_test_benchmark, is_test_split
from dlm.data.load import LoadedData, load_examples
from dlm.data.types import Example, Issue
from dlm.data.validate import validate_examples
from tests.data.recordings import (
    RATE,
    create_document,
    make_audio_example,
    make_noise,
    save_audio,
    save_with_transcript,
)


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
def test_test_splits_of_benchmarks_are_known(name: str, split: str, benchmark: str) -> None:
    assert find_test_benchmark(name, split) == benchmark
    assert find_test_benchmark(name, "train") is None
    assert find_test_benchmark(name, "validation") is None


def test_other_datasets_are_not_benchmarks() -> None:
    assert find_test_benchmark("me/amigos", "test") is None
    assert find_test_benchmark("me/my_recordings", "test") is None


def test_a_test_split_is_known_by_its_name() -> None:
    assert is_test_split("test") and is_test_split("Test-Other")
    assert not is_test_split("latest") and not is_test_split("testimony")


def find_fatal_issues(folder: Path, *lines: str) -> list[Issue]:
    """Load a document with these fields of training: what would stop it."""
    head = "training:\n" + "".join(f"  {line}\n" for line in lines)
    return [
        issue for issue in load_examples(create_document(folder, head=head)).issues if issue.fatal
    ]


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """A folder as LibriSpeech has it, with one utterance for tests and one for training."""
    for split in ("test-clean", "train-clean-100"):
        chapter = tmp_path / f"LibriSpeech/{split}/61/70968"
        save_with_transcript(chapter / "61-70968-0000.flac", "x").with_suffix(".txt").unlink()
        (chapter / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n")
    return tmp_path


TEST_CLEAN = "sources: [{path: LibriSpeech, split: test-clean}]"


def test_the_test_split_of_a_benchmark_is_refused(librispeech: Path) -> None:
    (issue,) = find_fatal_issues(librispeech, TEST_CLEAN)
    assert (issue.where, issue.code) == ("my.dlm:6", "data.test_split")
    assert "LibriSpeech is the test split of LibriSpeech" in issue.what
    assert "--allow-test-split" in issue.hint and "held_out: LibriSpeech" in issue.hint


def test_a_test_split_may_be_held_out_or_allowed(librispeech: Path) -> None:
    train_split = "sources: [{path: LibriSpeech, split: train-clean-100}]"
    assert find_fatal_issues(librispeech, train_split) == []
    assert find_fatal_issues(librispeech, TEST_CLEAN, "allow_test_split: true") == []
    save_with_transcript(librispeech / "mine/a.wav", "Mine.")
    both = "sources: [mine, {path: LibriSpeech, split: test-clean}]"
    assert find_fatal_issues(librispeech, both, "held_out: LibriSpeech") == []
    (issue,) = find_fatal_issues(librispeech, both, "held_out: mine")
    assert issue.code == "data.test_split"


def test_a_test_split_that_gives_no_example_is_not_refused(librispeech: Path) -> None:
    source = "{path: LibriSpeech, split: test-clean, exclude: ['test-*/**']}"
    save_with_transcript(librispeech / "mine/a.wav", "Mine.")
    assert find_fatal_issues(librispeech, f"sources: [mine, {source}]") == []


def test_the_test_split_of_an_unknown_dataset_is_refused(tmp_path: Path) -> None:
    save_with_transcript(tmp_path / "a.wav", "Said.")
    (tmp_path / "mine.jsonl").write_text('{"audio": "a.wav", "text": "Said.", "split": "test"}\n')
    (issue,) = find_fatal_issues(tmp_path, "sources: [{path: mine.jsonl, split: test}]")
    assert (issue.where, issue.code) == ("my.dlm:6", "data.test_split")
    assert issue.what == "split test of mine.jsonl is for tests, not for training"


SENTENCE = "The quick brown fox jumps over it"


def find_leaks(train: list[Example], held_out: list[Example]) -> list[tuple[str, str, str]]:
    """Location, code and message of each leak; none of them is fatal."""
    data = LoadedData((*train, *held_out), (), ())
    report = validate_examples(
        data, sample_rate=RATE, window_seconds=30.0, audio_config=AudioConfig()
    )
    issues = list(check_leakage(train, held_out, report.example_stats))
    assert not any(issue.fatal for issue in issues)
    return [(issue.where, issue.code, issue.what) for issue in issues]


def make_example(path: Path, text: str, *, seed: int = 0, speaker: str | None = None) -> Example:
    return replace(
        make_audio_example(save_audio(path, make_noise(seed=seed)), text), speaker=speaker
    )


def test_a_held_out_sentence_that_is_trained_on(tmp_path: Path) -> None:
    train = [
        make_example(tmp_path / "a.wav", SENTENCE),
        make_example(tmp_path / "b.wav", "else", seed=1),
    ]
    held_out = [make_example(tmp_path / "c.wav", f"{SENTENCE.lower()}!", seed=2)]
    what = "it is held out, and a.wav, which is trained on, has the same transcript"
    assert find_leaks(train, held_out) == [("c.wav", "data.leaked_sentence", what)]
    assert find_leaks(train, []) == []


def test_short_phrases_are_no_leak(tmp_path: Path) -> None:
    train, held_out = (
        [make_example(tmp_path / f"{n}.wav", "yes please do", seed=n)] for n in range(2)
    )
    assert find_leaks(train, held_out) == []


def test_held_out_audio_that_is_trained_on(tmp_path: Path) -> None:
    train = [make_example(tmp_path / "a.wav", SENTENCE)]
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    held_out = [make_audio_example(tmp_path / "b.wav", "quite another text that is not it")]
    what = "it is held out, and a.wav, which is trained on, is the same audio"
    assert find_leaks(train, held_out) == [("b.wav", "data.leaked_audio", what)]


def test_a_speaker_on_both_sides_is_reported_once(tmp_path: Path) -> None:
    examples = [
        make_example(tmp_path / f"{n}.wav", f"text {n}", seed=n, speaker=speaker)
        for n, speaker in enumerate(["ann", "ann", "bob", "ann", "ann", "eve", None])
    ]
    what = "speaker ann is in 2 held-out clips and in 2 that are trained on"
    assert find_leaks([*examples[:3], examples[6]], examples[3:6]) == [
        ("3.wav", "data.leaked_speaker", what)
    ]


def test_unknown_speakers_are_no_leak(tmp_path: Path) -> None:
    train, held_out = ([make_example(tmp_path / f"{n}.wav", f"text {n}", seed=n)] for n in range(2))
    assert find_leaks(train, held_out) == []
