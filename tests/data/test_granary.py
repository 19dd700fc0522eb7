"""Rows of text joined with the recordings that are here."""

from pathlib import Path
from typing import Any

import pytest

from dlm.data.load import LoadedData
from tests.data.gathering import gathered, told
from tests.data.keepers_lists import lines, write
from tests.data.sounds import save

GOOD = {"utt_id": "a", "text": "Good.", "duration": 1.0, "source_lang": "fr", "target_lang": "fr"}


def given(folder: Path, *rows: object, **source: Any) -> LoadedData:
    """What these rows give, with two recordings somewhere below a folder."""
    for name in ("sounds/fr/a.wav", "sounds/fr/2019/b.x.wav"):
        save(folder / name)
    text = "".join(row if isinstance(row, str) else lines([row]) for row in rows)
    write(folder / "data/fr_asr.jsonl", text)
    return gathered(folder, {"path": "data/fr_asr.jsonl", "audio": "sounds", **source})


JOINED = [
    ({"utt_id": "a"}, "fr/a.wav"),
    ({"id": "b.x"}, "fr/2019/b.x.wav"),
    ({"audio_id": "b.x.wav"}, "fr/2019/b.x.wav"),
    ({"audio_filepath": "fr/a.wav", "utt_id": "b.x"}, "fr/a.wav"),
    ({"audio_filepath": "/mnt/data/b.x.opus", "utt_id": "none"}, "fr/2019/b.x.wav"),
    ({"source_id": "b.x", "text_id": "b.x", "utterance": "a"}, "fr/a.wav"),
]


@pytest.mark.parametrize(("named", "path"), JOINED, ids=range(len(JOINED)))
def test_a_row_is_joined_with_its_recording(
    named: dict[str, str], path: str, tmp_path: Path
) -> None:
    (clip,) = given(tmp_path, named | {"text": "Bon."}, format="granary").examples
    assert (
        clip.audio_segments[0].path == tmp_path / "sounds" / path
        and clip.audio_segments[0].name == path
    )
    assert (clip.target, clip.location) == ("Bon.", "data/fr_asr.jsonl:1")


def test_a_number_is_an_id_and_a_translation_an_answer(tmp_path: Path) -> None:
    save(tmp_path / "sounds/12.wav")
    row = {"id": 12, "text": "Bon.", "answer": "Good.", "lang": "fr", "target_lang": "en"}
    (clip,) = given(tmp_path, row | {"offset": 0.5, "duration": 0.25}).examples
    assert (clip.target, clip.task, clip.language) == ("Good.", "answer", "fr")
    assert (clip.audio_segments[0].start, clip.audio_segments[0].end) == (0.5, 0.75)


def test_the_source_names_the_column(tmp_path: Path) -> None:
    row = GOOD | {"key": "b.x"}
    (clip,) = given(tmp_path, row, columns={"audio": "key"}).examples
    assert clip.audio_segments[0].name == "fr/2019/b.x.wav"


def test_rows_without_a_recording_are_counted(tmp_path: Path) -> None:
    found = given(tmp_path, GOOD, GOOD | {"utt_id": "x"}, GOOD | {"utt_id": "y"})
    assert [clip.location for clip in found.examples] == ["data/fr_asr.jsonl:1"]
    assert found.sources[0].skipped_rows_no_audio == 2
    (line,) = told(found)
    assert "2 without a recording, skipped: x, y; put it beside the list, or say where" in line


BAD = [
    ({"text": "x", "duration": 1}, "nothing in it names a recording: it has text, duration; say"),
    (GOOD | {"utt_id": "b.x", "text": ""}, "AUDIO section has empty transcript"),
    (GOOD, "the id a comes twice"),
    (GOOD | {"utt_id": "c"}, "one/c.wav and two/c.flac have the name of its recording; rename"),
    ("{\n", "not JSON ("),
]


@pytest.mark.parametrize(("bad", "what"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_with_its_line(bad: object, what: str, tmp_path: Path) -> None:
    for name in ("one/c.wav", "two/c.flac"):
        save(tmp_path / "sounds" / name)
    found = given(tmp_path, GOOD, bad)
    assert len(found.examples) == 1
    (line,) = told(found)
    assert line.startswith("data/fr_asr.jsonl:2: ") and what in line and "; " in line


def test_strict_keeps_recordings_inside(tmp_path: Path) -> None:
    far = save(tmp_path.parent / f"{tmp_path.name}-far/z.wav")
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds/z.wav").symlink_to(far)
    given(tmp_path, GOOD | {"utt_id": "z"})
    source = {"path": "data/fr_asr.jsonl", "audio": "sounds"}
    (line,) = told(gathered(tmp_path, source, policy="strict"))
    assert line.startswith("data/fr_asr.jsonl:1: z.wav lies outside the document's folder")
