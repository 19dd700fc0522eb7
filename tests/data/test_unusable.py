"""Clips that cannot be used: refused among few, left out among many, never too many."""

from pathlib import Path

import pytest

from dlm.config.data_schema import AudioConfig
from dlm.data.load import (
    BadExampleCounter,
    FilterResult,
    filter_bad_examples,
    load_examples,
    should_skip_bad_examples,
)
from dlm.data.types import Example
from dlm.data.validate import validate_examples
from dlm.errors import DataError
from tests.data.sounds import RATE, document, noise, pair, save

CORPUS = "training:\n  sources: [corpus]\n"


def sifted(folder: Path, *lines: str) -> tuple[FilterResult, tuple[Example, ...]]:
    """What is left out of a corpus, and the clips that are not."""
    found = document(folder, head=CORPUS + "".join(f"  {line}\n" for line in lines))
    gathered, asked = load_examples(found), found.config.training
    heard = validate_examples(gathered, rate=RATE, window_seconds=30.0, audio_config=AudioConfig())
    what = filter_bad_examples(
        asked, gathered, heard.issues, unusable_segments=heard.unusable_segments, where="my.dlm"
    )
    return what, what.drop_unusable(gathered.examples)


def corpus(folder: Path, count: int) -> Path:
    """So many clips, with a recording each."""
    for number in range(count):
        pair(folder / f"corpus/{number:03}.wav", f"This is {number}.", noise(0.12, seed=number))
    return folder


def fatal(found: FilterResult) -> list[str]:
    return [str(problem) for problem in found.issues if problem.fatal]


def remarks(found: FilterResult) -> list[str]:
    return [str(problem) for problem in found.issues if "cannot be used" in problem.what]


BAD = {
    "gone": lambda path: path.unlink(),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "other rate": lambda path: save(path, rate=8000),
    "too short": lambda path: save(path, noise(0.01)),
    "no words": lambda path: path.with_suffix(".txt").write_text("\n"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_of_many_is_left_out(kind: str, tmp_path: Path) -> None:
    names = [corpus(tmp_path, 25) / f"corpus/{number:03}.wav" for number in range(25)]
    listed = "".join(f'{{"audio": "corpus/{n.name}", "text": "No. {n.stem}"}}\n' for n in names)
    (tmp_path / "list.jsonl").write_text(listed)
    BAD[kind](names[7])
    which = "[corpus]" if kind == "no words" else "[list.jsonl]"
    head = f"training:\n  sources: {which}\n  bad_clips: skip\n"
    found = document(tmp_path, head=head)
    gathered, asked = load_examples(found), found.config.training
    heard = validate_examples(gathered, rate=RATE, window_seconds=30.0, audio_config=AudioConfig())
    what = filter_bad_examples(
        asked, gathered, heard.issues, unusable_segments=heard.unusable_segments, where="my.dlm"
    )
    assert fatal(what) == [] and len(what.drop_unusable(gathered.examples)) == 24
    place = "corpus/007.txt" if kind == "no words" else "list.jsonl:8"
    assert remarks(what) == [
        f"my.dlm: 1 of 25 clips cannot be used and is left out: {place}; "
        "nothing to do, or mend them: `dlm check --json` names all"
    ]
    assert [problem.where for problem in what.skipped_issues] == [place]


def test_few_clips_are_refused_and_many_are_not(tmp_path: Path) -> None:
    corpus(tmp_path, 99)
    (tmp_path / "corpus/007.txt").write_text("")
    found, clips = sifted(tmp_path)
    assert len(fatal(found)) == 1 and found.skipped_issues == () and len(clips) == 98
    pair(tmp_path / "corpus/100.wav", "One more.", noise(0.12))
    found, _ = sifted(tmp_path)
    assert fatal(found) == [] and len(found.skipped_issues) == 1
    found, _ = sifted(tmp_path, "bad_clips: error")
    assert len(fatal(found)) == 1 and found.skipped_issues == ()


def test_names_are_the_first_few(tmp_path: Path) -> None:
    corpus(tmp_path, 100)
    for number in range(5):
        (tmp_path / f"corpus/{number:03}.wav").write_bytes(b"")
    found, clips = sifted(tmp_path)
    names = "corpus/000.wav, corpus/001.wav, corpus/002.wav and 2 more"
    (told,) = remarks(found)
    assert f"5 of 100 clips cannot be used and are left out: {names};" in told
    assert len(clips) == 95


def test_more_than_one_in_twenty_stops(tmp_path: Path) -> None:
    corpus(tmp_path, 100)
    for number in range(6):
        (tmp_path / f"corpus/{number:03}.wav").write_bytes(b"")
    found, clips = sifted(tmp_path)
    assert fatal(found)[0] == (
        "my.dlm: 6 of 100 clips cannot be used, more than 5%: corpus/000.wav, corpus/001.wav, "
        "corpus/002.wav and 3 more; correct them, or take them out"
    )
    assert len(fatal(found)) == 7 and len(clips) == 100


def test_what_is_wrong_with_a_source_is_not_passed_over(tmp_path: Path) -> None:
    corpus(tmp_path, 25)
    head = "training:\n  sources: [corpus, else]\n  bad_clips: skip\n"
    found = document(tmp_path, head=head)
    gathered = load_examples(found)
    what = filter_bad_examples(found.config.training, gathered, gathered.issues, where="my.dlm")
    assert fatal(what) == ["my.dlm:6: source not found: else; make the folder or mend its path"]


def test_clips_that_share_a_bad_sound_are_left_out_together(tmp_path: Path) -> None:
    """The sound is spoken of once, at the first of them."""
    corpus(tmp_path, 45)
    rows = [f'{{"audio": "corpus/{n % 45:03}.wav", "text": "Text {n}"}}\n' for n in range(90)]
    (tmp_path / "list.jsonl").write_text("".join(rows))
    (tmp_path / "corpus/003.wav").unlink()
    head = "training:\n  sources: [list.jsonl]\n  bad_clips: skip\n"
    found = document(tmp_path, head=head)
    gathered, asked = load_examples(found), found.config.training
    heard = validate_examples(gathered, rate=RATE, window_seconds=30.0, audio_config=AudioConfig())
    what = filter_bad_examples(
        asked, gathered, heard.issues, unusable_segments=heard.unusable_segments, where="my.dlm"
    )
    assert [
        clip.location
        for clip in gathered.examples
        if clip not in what.drop_unusable(gathered.examples)
    ] == [
        "list.jsonl:4",
        "list.jsonl:49",
    ]
    (told,) = remarks(what)
    assert "2 of 90 clips cannot be used and are left out: list.jsonl:4;" in told


def test_broken_rows_are_counted_among_the_clips(tmp_path: Path) -> None:
    corpus(tmp_path, 98)
    good = [f'{{"audio": "corpus/{n:03}.wav", "text": "Text {n}"}}\n' for n in range(98)]
    (tmp_path / "list.jsonl").write_text("".join([*good[:50], "{broken\n", "[]\n", *good[50:]]))
    found = document(tmp_path, head="training:\n  sources: [list.jsonl]\n")
    gathered = load_examples(found)
    assert len(gathered.record_issues) == 2 and should_skip_bad_examples(
        found.config.training, gathered
    )
    what = filter_bad_examples(found.config.training, gathered, gathered.issues, where="my.dlm")
    (told,) = remarks(what)
    assert "2 of 100 clips cannot be used and are left out: list.jsonl:51, list.jsonl:52" in told
    assert fatal(what) == []


def late(count: int, of: int, *, skip: bool = True) -> BadExampleCounter:
    """So many clips that turn out to be bad."""
    tally = BadExampleCounter(of, skip_bad_examples=skip)
    for number in range(count):
        tally.record_error(
            DataError("it is gone", where=f"{number}.wav", hint="put it back"), f"m:{number}"
        )
    return tally


def test_what_turns_out_on_the_way_is_counted_once() -> None:
    tally = late(5, 100)
    tally.record_error(DataError("it is gone"), "m:4")
    assert [problem.where for problem in tally.issues.values()] == [f"m:{n}" for n in range(5)]
    assert str(tally.issues["m:0"]) == "m:0: 0.wav: it is gone; put it back"


def test_too_much_on_the_way_ends_the_run() -> None:
    with pytest.raises(DataError) as caught:
        late(6, 100)
    assert str(caught.value) == (
        "m:5: 6 of 100 clips cannot be used, more than 5%: m:0, m:1, m:2 and 3 more; "
        "correct them, or take them out"
    )


def test_the_first_ends_a_run_that_leaves_nothing_out() -> None:
    with pytest.raises(DataError, match="0.wav: it is gone"):
        late(1, 1000, skip=False)


def test_nothing_is_left_out_of_what_is_fine(tmp_path: Path) -> None:
    found, clips = sifted(corpus(tmp_path, 3), "bad_clips: skip")
    assert found.skipped_issues == () and len(clips) == 3 and remarks(found) == []
