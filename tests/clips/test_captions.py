"""MusicCaps' table: each row with the recording its reader has, under every known name."""

from pathlib import Path

import pytest

from dlm.clips.clip import Sound
from dlm.clips.sources import Gathered, gather
from tests.clips.sounds import document, noise, save

HEAD = "training:\n  sources:\n    - path: data/caps.csv\n"
COLUMNS = "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id"
YTID = "-0Gj8-vB1q4"


def row(ytid: str = YTID, *, start: object = 3, end: object = 5, caption: str = "A bell.") -> str:
    return f"{ytid},{start},{end},/m/01,\"['bell', 'loud']\",\"{caption}\",4"


def given(folder: Path, *rows: str, head: str = HEAD, columns: str = COLUMNS) -> Gathered:
    """What a document gives whose one source is a table of these rows."""
    path = folder / "data/caps.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8", newline="")
    return gather(document(folder, head=head))


def told(found: Gathered) -> list[str]:
    return [str(problem) for problem in found.problems]


NAMES = [
    f"{YTID}.wav",
    f"Y{YTID}.flac",
    f"more/{YTID}_3_5.wav",
    f"{YTID}_3000_5000.wav",
    f"[{YTID}]-[3-5].wav",
    f"Y{YTID}_3.000_5.000.wav",
    f"{YTID}_3.WAV",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_cut_out_is_heard_whole(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "data" / name, noise(2.0))
    save(tmp_path / "data" / f"{YTID}_30_40.wav")
    found = given(tmp_path, row())
    (clip,) = found.clips
    assert clip.turns[0].parts == (Sound(path),) and clip.sounds[0].name == name
    assert (clip.target, clip.task, clip.place) == ("A bell.", "answer", "data/caps.csv:2")
    assert found.problems == ()


def test_of_all_of_a_video_the_span_is_heard(tmp_path: Path) -> None:
    path = save(tmp_path / f"data/{YTID}.wav", noise(6.0))
    head = HEAD + "      prompt: Describe it.\n"
    (clip,) = given(tmp_path, row(), head=head).clips
    assert clip.turns[0].parts == (Sound(path, 3.0, 5.0), "Describe it.")


def test_rows_without_a_recording_are_counted_and_said(tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    save(tmp_path / f"data/{'x' * 11}_1_2.wav")  # of another span
    (tmp_path / f"data/{'z' * 11}.txt").write_text("words")
    found = given(tmp_path, row("x" * 11), row(), row("z" * 11))
    assert [clip.place for clip in found.clips] == ["data/caps.csv:3"]
    (report,) = found.sources
    assert (report.audio_count, report.skipped_rows_no_audio) == (1, 2)
    assert report.skipped_names == ("x" * 11, "z" * 11)
    (line,) = told(found)
    assert line.startswith(f"my.dlm:7: 2 without a recording, skipped: {'x' * 11}, {'z' * 11}; put")
    assert not found.problems[0].fatal


def test_a_caption_may_take_several_lines_and_any_line_ends(tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    path = tmp_path / "data/caps.csv"
    given(tmp_path)
    rows = [COLUMNS, row(caption='A ""loud""\r\nbell, ünd so'), "", row()]
    path.write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
    found = gather(document(tmp_path, head=HEAD))
    assert [clip.target for clip in found.clips] == ['A "loud"\r\nbell, ünd so', "A bell."]
    assert [clip.place for clip in found.clips] == ["data/caps.csv:2", "data/caps.csv:5"]


BAD = [
    (row(caption=" "), "no caption"),
    (row(""), "no ytid"),
    (row(start="soon"), "start_s is not a number of seconds"),
    (row(end=""), "end_s is not a number of seconds"),
    (row(start=-1), "start_s is -1"),
    (row(end="nan"), "end_s is nan"),
    (row(end=2), "end_s is 2, and start_s 3"),
    (f"{YTID},3,5,A bell, loud and clear,x,y,4", "8 cells, and the table has 7 columns"),
    (f"{YTID},3,5", "3 cells, and the table has 7 columns"),
    (f'{YTID},3,5,"a" b,c,d,4', "not CSV ("),
]


@pytest.mark.parametrize(("bad", "what"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_with_its_line(bad: str, what: str, tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    found = given(tmp_path, row(), bad, row())
    assert [clip.place for clip in found.clips] == ["data/caps.csv:2", "data/caps.csv:4"]
    (line,) = told(found)
    assert line.startswith("data/caps.csv:3: ") and what in line and "; " in line
    assert found.problems[0].fatal


def test_a_quote_that_never_ends(tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    found = given(tmp_path, row(), f'{YTID},3,5,"never ending', row())
    assert len(found.clips) == 1
    (line,) = told(found)
    assert line.startswith("data/caps.csv:3: ")


@pytest.mark.parametrize("columns", ["", "ytid,start_s,end_s", "audio,text"])
def test_another_table(columns: str, tmp_path: Path) -> None:
    (line,) = told(given(tmp_path, columns=columns))
    assert line.startswith("my.dlm:7: not a table of captions: no column ")
    assert "ytid, start_s, end_s, caption" in line


def test_a_recording_that_cannot_be_heard_is_left_to_the_audit(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{YTID}.wav").write_bytes(b"no sound")
    assert len(given(tmp_path, row()).clips) == 1


def test_strict_keeps_recordings_inside(tmp_path: Path) -> None:
    far = save(tmp_path.parent / f"{tmp_path.name}-far/{YTID}.wav")
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{YTID}.wav").symlink_to(far)
    strict = HEAD + "  sources_policy: strict\n"
    (line,) = told(given(tmp_path, row(), head=strict))
    assert line.startswith(f"data/caps.csv:2: {YTID}.wav lies outside the document's folder")
