"""Examples that cannot be used: fatal among few, skipped among many, never more than 5 %."""

from pathlib import Path

import pytest

from dlm.config.data_schema import AudioConfig
from dlm.config.parser import Document
from dlm.data.bad_examples import (
    BadExampleCounter,
    FilterResult,
    filter_bad_examples,
    should_skip_bad_examples,
)
from dlm.data.load import load_examples
from dlm.data.types import Example, Issue
from dlm.data.validate import validate_examples
from dlm.errors import DataError
from tests.data.recordings import (
    RATE,
    create_document,
    make_noise,
    save_audio,
    save_with_transcript,
)

CORPUS = "training:\n  sources: [corpus]\n"


def filter_document(written: Document) -> tuple[FilterResult, tuple[Example, ...]]:
    """Validate and filter the examples of a document: the result, and the examples left."""
    data = load_examples(written)
    report = validate_examples(
        data, sample_rate=RATE, window_seconds=30.0, audio_config=AudioConfig()
    )
    result = filter_bad_examples(
        written.config.training,
        data,
        report.issues,
        unusable_segments=report.unusable_segments,
        where="my.dlm",
    )
    return result, result.drop_unusable(data.examples)


def filter_corpus(folder: Path, *lines: str) -> tuple[FilterResult, tuple[Example, ...]]:
    """Filter the examples of the folder `corpus`; `lines` are further fields of training."""
    head = CORPUS + "".join(f"  {line}\n" for line in lines)
    return filter_document(create_document(folder, head=head))


def write_corpus(folder: Path, num_examples: int) -> Path:
    """Write so many recordings with their transcripts into `corpus`."""
    for number in range(num_examples):
        save_with_transcript(
            folder / f"corpus/{number:03}.wav", f"This is {number}.", make_noise(0.12, seed=number)
        )
    return folder


def fatal_issues(result: FilterResult) -> list[Issue]:
    return [issue for issue in result.issues if issue.fatal]


def only_skip_issue(result: FilterResult) -> Issue:
    """The one line that counts what is skipped."""
    (issue,) = (issue for issue in result.issues if issue.code == "data.bad_skipped")
    assert not issue.fatal and issue.where == "my.dlm"
    return issue


BAD = {
    "missing": lambda path: path.unlink(),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "other rate": lambda path: save_audio(path, rate=8000),
    "too short": lambda path: save_audio(path, make_noise(0.01)),
    "empty transcript": lambda path: path.with_suffix(".txt").write_text("\n"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_example_of_many_is_skipped(kind: str, tmp_path: Path) -> None:
    paths = [write_corpus(tmp_path, 25) / f"corpus/{number:03}.wav" for number in range(25)]
    records = (f'{{"audio": "corpus/{path.name}", "text": "No. {path.stem}"}}\n' for path in paths)
    (tmp_path / "list.jsonl").write_text("".join(records))
    BAD[kind](paths[7])
    in_folder = kind == "empty transcript"
    source, location = ("corpus", "corpus/007.txt") if in_folder else ("list.jsonl", "list.jsonl:8")
    head = f"training:\n  sources: [{source}]\n  bad_clips: skip\n"
    result, examples = filter_document(create_document(tmp_path, head=head))
    assert fatal_issues(result) == [] and len(examples) == 24
    assert str(only_skip_issue(result)) == (
        f"my.dlm: 1 of 25 clips cannot be used and is left out: {location}; "
        "nothing to do, or correct them: `dlm check --json` lists all"
    )
    assert [issue.where for issue in result.skipped_issues] == [location]


def test_bad_examples_are_fatal_below_100_and_skipped_from_there(tmp_path: Path) -> None:
    write_corpus(tmp_path, 99)
    (tmp_path / "corpus/007.txt").write_text("")
    result, examples = filter_corpus(tmp_path)
    assert len(fatal_issues(result)) == 1 and result.skipped_issues == () and len(examples) == 98
    save_with_transcript(tmp_path / "corpus/100.wav", "One more.", make_noise(0.12))
    result, _ = filter_corpus(tmp_path)
    assert fatal_issues(result) == [] and len(result.skipped_issues) == 1
    result, _ = filter_corpus(tmp_path, "bad_clips: error")
    assert len(fatal_issues(result)) == 1 and result.skipped_issues == ()


def test_the_first_few_locations_are_named(tmp_path: Path) -> None:
    write_corpus(tmp_path, 100)
    for number in range(5):
        (tmp_path / f"corpus/{number:03}.wav").write_bytes(b"")
    result, examples = filter_corpus(tmp_path)
    names = "corpus/000.wav, corpus/001.wav, corpus/002.wav and 2 more"
    what = f"5 of 100 clips cannot be used and are left out: {names}"
    assert only_skip_issue(result).what == what and len(examples) == 95


def test_more_than_5_percent_stop_training(tmp_path: Path) -> None:
    write_corpus(tmp_path, 100)
    for number in range(6):
        (tmp_path / f"corpus/{number:03}.wav").write_bytes(b"")
    result, examples = filter_corpus(tmp_path)
    first, *others = fatal_issues(result)
    assert first.code == "data.too_many_bad" and first.where == "my.dlm"
    names = "corpus/000.wav, corpus/001.wav, corpus/002.wav and 3 more"
    assert first.what == f"6 of 100 clips cannot be used, more than 5%: {names}"
    assert len(others) == 6 and len(examples) == 100


def test_a_missing_source_is_never_skipped(tmp_path: Path) -> None:
    write_corpus(tmp_path, 25)
    head = "training:\n  sources: [corpus, else]\n  bad_clips: skip\n"
    result, _ = filter_document(create_document(tmp_path, head=head))
    assert [(issue.where, issue.code) for issue in fatal_issues(result)] == [
        ("my.dlm:6", "source.not_found")
    ]


def test_examples_of_one_bad_recording_are_skipped_together(tmp_path: Path) -> None:
    """The recording is reported once, with the first of them."""
    write_corpus(tmp_path, 45)
    records = [f'{{"audio": "corpus/{n % 45:03}.wav", "text": "Text {n}"}}\n' for n in range(90)]
    (tmp_path / "list.jsonl").write_text("".join(records))
    (tmp_path / "corpus/003.wav").unlink()
    head = "training:\n  sources: [list.jsonl]\n  bad_clips: skip\n"
    written = create_document(tmp_path, head=head)
    result, examples = filter_document(written)
    left = {example.location for example in examples}
    locations = [example.location for example in load_examples(written).examples]
    assert [location for location in locations if location not in left] == [
        "list.jsonl:4",
        "list.jsonl:49",
    ]
    what = "2 of 90 clips cannot be used and are left out: list.jsonl:4"
    assert only_skip_issue(result).what == what


def test_broken_records_count_as_examples(tmp_path: Path) -> None:
    write_corpus(tmp_path, 98)
    records = [f'{{"audio": "corpus/{n:03}.wav", "text": "Text {n}"}}\n' for n in range(98)]
    lines = [*records[:50], "{broken\n", "[]\n", *records[50:]]
    (tmp_path / "list.jsonl").write_text("".join(lines))
    written = create_document(tmp_path, head="training:\n  sources: [list.jsonl]\n")
    data, config = load_examples(written), written.config.training
    assert len(data.record_issues) == 2 and should_skip_bad_examples(config, data)
    result = filter_bad_examples(config, data, data.issues, where="my.dlm")
    assert only_skip_issue(result).what == (
        "2 of 100 clips cannot be used and are left out: list.jsonl:51, list.jsonl:52"
    )
    assert fatal_issues(result) == []


def test_nothing_is_skipped_of_good_examples(tmp_path: Path) -> None:
    result, examples = filter_corpus(write_corpus(tmp_path, 3), "bad_clips: skip")
    assert result.skipped_issues == () and len(examples) == 3
    assert not any(issue.code == "data.bad_skipped" for issue in result.issues)


def count_errors(num_bad: int, num_examples: int, *, skip: bool = True) -> BadExampleCounter:
    """Count so many bad examples while training on `num_examples`."""
    counter = BadExampleCounter(num_examples, skip_bad_examples=skip)
    for number in range(num_bad):
        error = DataError("missing", where=f"{number}.wav", hint="put it back", code="data.x")
        counter.record_error(error, f"m:{number}")
    return counter


def test_an_example_that_is_bad_twice_is_counted_once() -> None:
    counter = count_errors(5, 100)
    counter.record_error(DataError("missing", code="data.x"), "m:4")
    assert [issue.where for issue in counter.issues.values()] == [f"m:{n}" for n in range(5)]
    assert str(counter.issues["m:0"]) == "m:0: 0.wav: missing; put it back"


def test_too_many_bad_examples_stop_a_run() -> None:
    with pytest.raises(DataError) as caught:
        count_errors(6, 100)
    assert caught.value.code == "data.too_many_bad" and caught.value.where == "m:5"
    assert "6 of 100 clips cannot be used, more than 5%: m:0, m:1, m:2 and 3" in caught.value.what


def test_the_first_bad_example_stops_a_run_that_skips_none() -> None:
    with pytest.raises(DataError) as caught:
        count_errors(1, 1000, skip=False)
    assert (caught.value.code, caught.value.where) == ("data.x", "0.wav")
