"""MusicCaps, AudioCaps and Clotho: captions joined with recordings under every known name."""

from pathlib import Path
from typing import Any

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
from tests.data.readers.source_loading import get_issues, get_locations, get_texts, load_source
from tests.data.recordings import create_document, make_noise, save_audio

SOURCE = {"path": "data/caps.csv"}
MUSICCAPS_HEADER = "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id"
AUDIOCAPS_HEADER = "audiocap_id,youtube_id,start_time,caption"
CLOTHO_HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"
YTID, OTHER_YTID, MISSING_YTID = "-0Gj8-vB1q4", "x" * 11, "z" * 11


def make_row(
    ytid: str = YTID, *, start: object = 3, end: object = 5, caption: str = "A bell."
) -> str:
    return f"{ytid},{start},{end},/m/01,\"['bell', 'loud']\",\"{caption}\",4"


def load_table(
    folder: Path,
    *rows: str,
    header: str = MUSICCAPS_HEADER,
    policy: str = "permissive",
    **source: Any,
) -> LoadedData:
    """Load a table of these rows."""
    path = folder / "data/caps.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8", newline="")
    return load_source(folder, {**SOURCE, **source}, policy=policy)


@pytest.mark.parametrize(
    "name",
    [
        f"{YTID}.wav",
        f"Y{YTID}.flac",
        f"more/{YTID}_3_5.wav",
        f"{YTID}_3000_5000.wav",
        f"[{YTID}]-[3-5].wav",
        f"Y{YTID}_3.000_5.000.wav",
        f"{YTID}_3.WAV",
    ],
)
def test_a_recording_of_the_span_is_used_whole(name: str, tmp_path: Path) -> None:
    path = save_audio(tmp_path / "data" / name, make_noise(2.0))
    save_audio(tmp_path / "data" / f"{YTID}_30_40.wav")
    data = load_table(tmp_path, make_row())
    (example,) = data.examples
    assert example.messages[0].content == (AudioSegment(path),)
    assert example.audio_segments[0].name == name
    assert (example.target, example.task) == ("A bell.", "answer")
    assert example.location == "data/caps.csv:2" and data.issues == ()


def test_of_a_whole_video_the_span_is_used(tmp_path: Path) -> None:
    path = save_audio(tmp_path / f"data/{YTID}.wav", make_noise(6.0))
    (example,) = load_table(tmp_path, make_row(), prompt="Describe it.").examples
    assert example.messages[0].content == (AudioSegment(path, 3.0, 5.0), "Describe it.")


def test_rows_without_a_recording_are_counted(tmp_path: Path) -> None:
    save_audio(tmp_path / f"data/{YTID}.wav")
    save_audio(tmp_path / f"data/{OTHER_YTID}_1_2.wav")  # of another span
    (tmp_path / f"data/{MISSING_YTID}.txt").write_text("words")
    data = load_table(tmp_path, make_row(OTHER_YTID), make_row(), make_row(MISSING_YTID))
    assert get_locations(data) == ["data/caps.csv:3"]
    (report,) = data.sources
    assert (report.audio_count, report.skipped_rows_no_audio) == (1, 2)
    assert report.skipped_names == (OTHER_YTID, MISSING_YTID)
    assert get_issues(data) == [("my.dlm:7", "data.no_recording")]
    names = f"{OTHER_YTID}, {MISSING_YTID}"
    assert data.issues[0].what == f"2 without a recording, skipped: {names}"
    assert not data.issues[0].fatal


def test_a_caption_may_take_several_lines_with_any_line_ends(tmp_path: Path) -> None:
    save_audio(tmp_path / f"data/{YTID}.wav")
    rows = [MUSICCAPS_HEADER, make_row(caption='A ""loud""\r\nbell, ünd so'), "", make_row()]
    (tmp_path / "data/caps.csv").write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
    data = load_source(tmp_path, SOURCE)
    assert get_texts(data) == ['A "loud"\r\nbell, ünd so', "A bell."]
    assert get_locations(data) == ["data/caps.csv:2", "data/caps.csv:5"]


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        (make_row(caption=" "), "data.missing_field", "no caption"),
        (make_row(""), "data.missing_field", "no ytid"),
        (make_row(start="soon"), "data.bad_seconds", "start_s"),
        (make_row(end=""), "data.bad_seconds", "end_s"),
        (make_row(start=-1), "data.bad_seconds", "start_s is -1"),
        (make_row(end="nan"), "data.bad_seconds", "end_s"),
        (make_row(end=2), "data.bad_span", "end_s is 2, and start_s 3"),
        (f"{YTID},3,5,A bell, loud and clear,x,y,4", "data.bad_cell_count", "8 cells"),
        (f"{YTID},3,5", "data.bad_cell_count", "3 cells"),
        (f'{YTID},3,5,"a" b,c,d,4', "data.not_csv", ""),
    ],
)
def test_a_broken_row_is_an_issue_with_its_line(
    row: str, code: str, words: str, tmp_path: Path
) -> None:
    save_audio(tmp_path / f"data/{YTID}.wav")
    data = load_table(tmp_path, make_row(), row, make_row())
    assert get_locations(data) == ["data/caps.csv:2", "data/caps.csv:4"]
    assert get_issues(data) == [("data/caps.csv:3", code)]
    assert words in data.issues[0].what and data.issues[0].fatal


def test_a_quote_that_is_never_closed_is_an_issue_with_its_line(tmp_path: Path) -> None:
    save_audio(tmp_path / f"data/{YTID}.wav")
    data = load_table(tmp_path, make_row(), f'{YTID},3,5,"never ending', make_row())
    assert len(data.examples) == 1
    assert get_issues(data) == [("data/caps.csv:3", "data.not_csv")]


@pytest.mark.parametrize(
    ("header", "code"),
    [("ytid,start_s,end_s", "source.no_column"), ("audio,text", "source.empty")],
)
def test_a_table_with_other_columns_is_no_musiccaps(header: str, code: str, tmp_path: Path) -> None:
    data = load_table(tmp_path, header=header)
    assert data.examples == () and get_issues(data) == [("my.dlm:7", code)]


@pytest.mark.parametrize(
    ("split", "line", "benchmark"),
    [(None, 3, None), ("train", 3, None), ("test", 4, "MusicCaps"), ("eval", 4, "MusicCaps")],
)
def test_rows_of_the_other_split_are_counted(
    split: str | None, line: int, benchmark: str | None, tmp_path: Path
) -> None:
    path = save_audio(tmp_path / f"data/{YTID}.wav")
    header = MUSICCAPS_HEADER + ",is_audioset_eval"
    fields = {"split": split} if split else {}
    data = load_table(
        tmp_path, "", f"{make_row()},False", f"{make_row()},True", header=header, **fields
    )
    assert get_locations(data) == [f"data/caps.csv:{line}"]
    assert data.examples[0].audio_segments[0].path == path
    assert data.sources[0].skipped_other_split == 1
    source = SourceConfig(path="data/caps.csv", **fields)
    (shard,) = list_musiccaps_shards(SourceContext(tmp_path / "data/caps.csv", source))
    assert shard.test_benchmark == benchmark
    refused = [("my.dlm:7", "data.test_split")] if benchmark else []
    assert [issue for issue in get_issues(data) if issue[1] == "data.test_split"] == refused


def test_the_test_split_of_musiccaps_can_be_allowed(tmp_path: Path) -> None:
    save_audio(tmp_path / f"data/{YTID}.wav")
    load_table(tmp_path, f"{make_row()},True", header=MUSICCAPS_HEADER + ",is_audioset_eval")
    head = "training:\n  allow_test_split: true\n  sources: [{path: data/caps.csv, split: test}]\n"
    data = load_examples(create_document(tmp_path, head=head))
    assert len(data.examples) == 1 and data.issues == ()


def test_audiocaps_has_spans_of_ten_seconds(tmp_path: Path) -> None:
    path = save_audio(tmp_path / f"data/{YTID}.wav", make_noise(14.0))
    span_path = save_audio(tmp_path / f"data/{OTHER_YTID}_30_40.wav")
    rows = [
        f"1,{YTID},2,A dog.",
        f"2,{OTHER_YTID},30,A cat.",
        f"3,{MISSING_YTID},0,None.",
        f"4,{YTID},2,Dogs.",
        f"5,{YTID},,x",
        f"6,{YTID},-1,x",
        ",,3,x",
    ]
    data = load_table(tmp_path, *rows, header=AUDIOCAPS_HEADER)
    assert get_texts(data) == ["A dog.", "A cat.", "Dogs."]
    assert [example.task for example in data.examples] == ["answer"] * 3
    assert data.examples[0].audio_segments == (AudioSegment(path, 2.0, 12.0),)
    assert data.examples[1].audio_segments == (AudioSegment(span_path),)
    assert get_issues(data) == [
        ("data/caps.csv:6", "data.bad_seconds"),
        ("data/caps.csv:7", "data.bad_seconds"),
        ("data/caps.csv:8", "data.missing_field"),
        ("my.dlm:7", "data.no_recording"),
    ]
    assert data.issues[-1].what == f"1 without a recording, skipped: {MISSING_YTID}"


def test_clotho_has_five_captions_a_recording(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "data/development/A bell (1).wav")
    rows = ["A bell (1).wav,One.,Two.,Three.,Four.,Five.", "no.wav,a,b,c,d,e", "x.wav,,,,,"]
    data = load_table(
        tmp_path, *rows, header=CLOTHO_HEADER, prompt="What is heard?", task="transcribe"
    )
    assert get_texts(data) == ["One.", "Two.", "Three.", "Four.", "Five."]
    contents = {example.messages[0].content for example in data.examples}
    assert contents == {(AudioSegment(path), "What is heard?")}
    assert data.examples[0].task == "transcribe"
    assert data.examples[0].location == "data/caps.csv:2"
    assert [code for _, code in get_issues(data)] == ["data.missing_field", "data.no_recording"]
    assert data.issues[0].where == "data/caps.csv:4" and "no.wav" in data.issues[1].what


@pytest.mark.parametrize(
    ("name", "is_test"),
    [
        ("clotho_captions_evaluation.csv", True),
        ("test.csv", True),
        ("retest.csv", False),
        ("development.csv", False),
    ],
)
def test_a_table_of_a_test_split_is_known_by_its_name(name: str, is_test: bool) -> None:
    context = SourceContext(Path(name), SourceConfig(path=name))
    (audiocaps,), (clotho,) = list_audiocaps_shards(context), list_clotho_shards(context)
    assert audiocaps.test_benchmark == ("AudioCaps" if is_test else None)
    assert clotho.test_benchmark == ("Clotho" if is_test else None)


def test_a_damaged_recording_is_still_an_example(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{YTID}.wav").write_bytes(b"no sound")
    assert len(load_table(tmp_path, make_row()).examples) == 1


def test_under_strict_a_link_out_of_the_folder_is_an_error(tmp_path: Path) -> None:
    far = save_audio(tmp_path.parent / f"{tmp_path.name}-far/{YTID}.wav")
    (tmp_path / "data").mkdir()
    (tmp_path / f"data/{YTID}.wav").symlink_to(far)
    data = load_table(tmp_path, make_row(), policy="strict")
    assert get_issues(data) == [("data/caps.csv:2", "data.outside_folder")]
    assert f"{YTID}.wav" in data.issues[0].what
