"""Tables of captions: each row with the recording its reader has, under every known name."""

from pathlib import Path

import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.load import LoadedData, load_examples
from dlm.data.readers.base import SourceContext
from dlm.data.readers.captions import (
    list_audiocaps_shards,
    list_clotho_shards,
    list_musiccaps_shards,
)
from dlm.data.types import AudioSegment
from tests.data.sounds import document, noise, save

HEAD = "training:\n  sources:\n    - path: data/caps.csv\n"
COLUMNS = "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id"
YTID = "-0Gj8-vB1q4"


def row(ytid: str = YTID, *, start: object = 3, end: object = 5, caption: str = "A bell.") -> str:
    return f"{ytid},{start},{end},/m/01,\"['bell', 'loud']\",\"{caption}\",4"


def given(folder: Path, *rows: str, head: str = HEAD, columns: str = COLUMNS) -> LoadedData:
    """What a document gives whose one source is a table of these rows."""
    path = folder / "data/caps.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8", newline="")
    return load_examples(document(folder, head=head))


def told(found: LoadedData) -> list[str]:
    return [str(problem) for problem in found.issues]


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
    (clip,) = found.examples
    assert clip.messages[0].content == (AudioSegment(path),) and clip.audio_segments[0].name == name
    assert (clip.target, clip.task, clip.location) == ("A bell.", "answer", "data/caps.csv:2")
    assert found.issues == ()


def test_of_all_of_a_video_the_span_is_heard(tmp_path: Path) -> None:
    path = save(tmp_path / f"data/{YTID}.wav", noise(6.0))
    head = HEAD + "      prompt: Describe it.\n"
    (clip,) = given(tmp_path, row(), head=head).examples
    assert clip.messages[0].content == (AudioSegment(path, 3.0, 5.0), "Describe it.")


def test_rows_without_a_recording_are_counted_and_said(tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    save(tmp_path / f"data/{'x' * 11}_1_2.wav")  # of another span
    (tmp_path / f"data/{'z' * 11}.txt").write_text("words")
    found = given(tmp_path, row("x" * 11), row(), row("z" * 11))
    assert [clip.location for clip in found.examples] == ["data/caps.csv:3"]
    (report,) = found.sources
    assert (report.audio_count, report.skipped_rows_no_audio) == (1, 2)
    assert report.skipped_names == ("x" * 11, "z" * 11)
    (line,) = told(found)
    assert line.startswith(f"my.dlm:7: 2 without a recording, skipped: {'x' * 11}, {'z' * 11}; put")
    assert not found.issues[0].fatal


def test_a_caption_may_take_several_lines_and_any_line_ends(tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    path = tmp_path / "data/caps.csv"
    given(tmp_path)
    rows = [COLUMNS, row(caption='A ""loud""\r\nbell, ünd so'), "", row()]
    path.write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
    found = load_examples(document(tmp_path, head=HEAD))
    assert [clip.target for clip in found.examples] == ['A "loud"\r\nbell, ünd so', "A bell."]
    assert [clip.location for clip in found.examples] == ["data/caps.csv:2", "data/caps.csv:5"]


BAD = [
    (row(caption=" "), "no caption"),
    (row(""), "no ytid"),
    (row(start="soon"), "start_s is not a number of seconds"),
    (row(end=""), "end_s is not a number of seconds"),
    (row(start=-1), "start_s is -1"),
    (row(end="nan"), "end_s is not a number of seconds"),
    (row(end=2), "end_s is 2, and start_s 3"),
    (f"{YTID},3,5,A bell, loud and clear,x,y,4", "8 cells, and the table has 7 columns"),
    (f"{YTID},3,5", "3 cells, and the table has 7 columns"),
    (f'{YTID},3,5,"a" b,c,d,4', "not CSV ("),
]


@pytest.mark.parametrize(("bad", "what"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_with_its_line(bad: str, what: str, tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    found = given(tmp_path, row(), bad, row())
    assert [clip.location for clip in found.examples] == ["data/caps.csv:2", "data/caps.csv:4"]
    (line,) = told(found)
    assert line.startswith("data/caps.csv:3: ") and what in line and "; " in line
    assert found.issues[0].fatal


def test_a_quote_that_never_ends(tmp_path: Path) -> None:
    save(tmp_path / f"data/{YTID}.wav")
    found = given(tmp_path, row(), f'{YTID},3,5,"never ending', row())
    assert len(found.examples) == 1
    (line,) = told(found)
    assert line.startswith("data/caps.csv:3: ")


@pytest.mark.parametrize("columns", ["ytid,start_s,end_s", "audio,text"])
def test_another_table(columns: str, tmp_path: Path) -> None:
    found = given(tmp_path, columns=columns)
    assert found.examples == () and "my.dlm:7: " in told(found)[0]


SPLITS = [("", 3, None), ("train", 3, None), ("test", 4, "MusicCaps"), ("eval", 4, "MusicCaps")]


@pytest.mark.parametrize(("split", "line", "test_of"), SPLITS)
def test_rows_of_the_other_split_are_passed_over(
    split: str, line: int, test_of: str | None, tmp_path: Path
) -> None:
    path = save(tmp_path / f"data/{YTID}.wav")
    columns = COLUMNS + ",is_audioset_eval"
    rows = ["", f"{row()},False", f"{row()},True"]
    head = HEAD + (f"      split: {split}\n" if split else "") + "  allow_test_split: true\n"
    found = given(tmp_path, *rows, columns=columns, head=head)
    assert [clip.location for clip in found.examples] == [f"data/caps.csv:{line}"]
    assert found.examples[0].audio_segments[0].path == path
    assert found.sources[0].skipped_other_split == 1
    source = SourceConfig(path="data/caps.csv", split=split or None)
    (shard,) = list_musiccaps_shards(SourceContext(tmp_path / "data/caps.csv", source))
    assert shard.test_benchmark == test_of


AUDIOCAPS = "audiocap_id,youtube_id,start_time,caption"


def test_audiocaps_has_spans_of_ten_seconds(tmp_path: Path) -> None:
    path = save(tmp_path / f"data/{YTID}.wav", noise(14.0))
    cut = save(tmp_path / f"data/{'x' * 11}_30_40.wav")
    rows = [f"1,{YTID},2,A dog.", f"2,{'x' * 11},30,A cat.", f"3,{'z' * 11},0,None."]
    rows += [f"4,{YTID},2,Dogs.", f"5,{YTID},,x", f"6,{YTID},-1,x", ",,3,x"]
    found = given(tmp_path, *rows, columns=AUDIOCAPS)
    assert [clip.target for clip in found.examples] == ["A dog.", "A cat.", "Dogs."]
    assert [clip.task for clip in found.examples] == ["answer"] * 3
    assert (
        found.examples[0].audio_segments == (AudioSegment(path, 2.0, 12.0),)
        and found.examples[1].audio_segments[0].path == cut
    )
    assert [line.partition(";")[0] for line in told(found)] == [
        "data/caps.csv:6: start_time is not a number of seconds",
        "data/caps.csv:7: start_time is -1",
        "data/caps.csv:8: no youtube_id",
        f"my.dlm:7: 1 without a recording, skipped: {'z' * 11}",
    ]


CLOTHO = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"


def test_clotho_has_five_captions_a_recording(tmp_path: Path) -> None:
    path = save(tmp_path / "data/development/A bell (1).wav")
    rows = ["A bell (1).wav,One.,Two.,Three.,Four.,Five.", "no.wav,a,b,c,d,e", "x.wav,,,,,"]
    head = HEAD + "      prompt: What is heard?\n      task: transcribe\n"
    found = given(tmp_path, *rows, columns=CLOTHO, head=head)
    assert [clip.target for clip in found.examples] == ["One.", "Two.", "Three.", "Four.", "Five."]
    assert {clip.messages[0].content for clip in found.examples} == {
        (AudioSegment(path), "What is heard?")
    }
    assert (
        found.examples[0].task == "transcribe" and found.examples[0].location == "data/caps.csv:2"
    )
    bad, skipped = told(found)
    assert bad.startswith("data/caps.csv:4: no caption; ") and "skipped: no.wav" in skipped


NAMES_OF_TESTS = [
    ("clotho_captions_evaluation.csv", True),
    ("test.csv", True),
    ("retest.csv", False),
    ("development.csv", False),
]


@pytest.mark.parametrize(("name", "test"), NAMES_OF_TESTS)
def test_the_name_of_a_table_says_whether_it_is_a_test(name: str, test: bool) -> None:
    origin = SourceContext(Path(name), SourceConfig(path=name))
    (first,), (second,) = list_audiocaps_shards(origin), list_clotho_shards(origin)
    assert (first.test_benchmark, second.test_benchmark) == (
        ("AudioCaps", "Clotho") if test else (None, None)
    )


def test_a_recording_that_cannot_be_heard_is_left_to_the_audit(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{YTID}.wav").write_bytes(b"no sound")
    assert len(given(tmp_path, row()).examples) == 1


def test_strict_keeps_recordings_inside(tmp_path: Path) -> None:
    far = save(tmp_path.parent / f"{tmp_path.name}-far/{YTID}.wav")
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{YTID}.wav").symlink_to(far)
    strict = HEAD + "  sources_policy: strict\n"
    (line,) = told(given(tmp_path, row(), head=strict))
    assert line.startswith(f"data/caps.csv:2: {YTID}.wav lies outside the document's folder")
