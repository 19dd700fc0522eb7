"""Lhotse manifests: cuts, and folders of recordings and supervisions."""

from pathlib import Path
from typing import Any

import pytest

from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment
from tests.data.readers.list_fixtures import format_json_lines, write_list
from tests.data.readers.source_loading import get_issues, get_locations, get_texts, load_source
from tests.data.recordings import make_noise, save_audio

FILE: dict[str, Any] = {"type": "file", "channels": [0], "source": "a.wav"}
COMMAND = FILE | {"type": "command", "source": "touch ran"}
RECORDING: dict[str, Any] = {
    "id": "a",
    "sources": [FILE],
    "sampling_rate": 16000,
    "duration": 4.0,
}
SUPERVISION: dict[str, Any] = {
    "id": "s",
    "recording_id": "a",
    "start": 0.5,
    "duration": 1.0,
    "text": "Good.",
}


def make_cut(*supervisions: object, **fields: object) -> dict[str, Any]:
    cut = {"id": "c", "start": 1.0, "duration": 3.0, "channel": 0, "type": "MonoCut"}
    return {**cut, "recording": RECORDING, "supervisions": list(supervisions), **fields}


def make_cut_of(**recording: object) -> dict[str, Any]:
    return make_cut(SUPERVISION, recording=RECORDING | recording)


def load_cuts(folder: Path, *cuts: object) -> LoadedData:
    """Load these cuts, with a recording beside them."""
    save_audio(folder / "data/a.wav", make_noise(4.0))
    write_list(folder / "data/cuts.jsonl", format_json_lines(cuts))
    return load_source(folder, {"path": "data/cuts.jsonl"})


def write_manifests(
    folder: Path, recordings: list[Any], supervisions: list[Any], *, suffix: str = ""
) -> None:
    write_list(folder / f"data/recordings{suffix}.jsonl", format_json_lines(recordings))
    write_list(folder / f"data/supervisions{suffix}.jsonl", format_json_lines(supervisions))


def test_a_supervision_with_a_text_is_an_example(tmp_path: Path) -> None:
    other = {"id": "t", "start": -0.25, "text": "So.", "language": "fr", "speaker": "ann"}
    no_text = {"id": "u", "start": 0, "duration": 1}
    data = load_cuts(
        tmp_path,
        make_cut(SUPERVISION, SUPERVISION | other, no_text),
        make_cut(id="d"),
        make_cut(SUPERVISION, id="e"),
    )
    first, second, third = data.examples
    path = tmp_path / "data/a.wav"
    assert first.messages[0].content == (AudioSegment(path, 1.5, 2.5),)
    assert third.messages[0].content == first.messages[0].content and first.target == "Good."
    assert second.audio_segments == (AudioSegment(path, 0.75, 1.75),)
    assert (second.language, second.speaker, second.location) == ("fr", "ann", "data/cuts.jsonl:1")
    assert third.location == "data/cuts.jsonl:3" and data.sources[0].skipped_names == ("u", "d")
    assert [code for _, code in get_issues(data)] == ["data.no_transcript"]
    assert data.issues[0].what == "2 without a transcript, skipped: u, d"


BROKEN = [
    (make_cut_of(sources=[COMMAND]), "data.command", "is of type command"),
    (make_cut_of(sources=[FILE | {"type": "url"}]), "data.command", "is of type url"),
    (
        make_cut_of(sources=[FILE | {"channels": [0, 1]}]),
        "data.several_channels",
        "recording has 2",
    ),
    (make_cut_of(sources=[FILE, FILE]), "data.several_channels", "2 sources"),
    (make_cut_of(sources="a.wav"), "data.not_a_list", "sources"),
    (make_cut_of(sources=[FILE | {"source": "https://x.org/a.wav"}]), "data.remote_audio", "x.org"),
    (make_cut_of(transforms=[{"name": "Speed"}]), "data.unsupported_recording", "has transforms"),
    (
        make_cut(SUPERVISION, type="MultiCut", channel=[0, 1]),
        "data.several_channels",
        "the cut has",
    ),
    (make_cut(SUPERVISION | {"channel": [0, 1]}), "data.several_channels", "a supervision has"),
    (make_cut(SUPERVISION, type="MixedCut"), "data.unsupported_recording", "a MixedCut"),
    (make_cut(SUPERVISION | {"duration": 0}), "data.bad_span", "a supervision has no span"),
    (make_cut(SUPERVISION | {"start": -1.5}), "data.bad_span", "a supervision has no span"),
    (make_cut(SUPERVISION | {"start": "0"}), "data.bad_seconds", "start"),
    (make_cut(SUPERVISION | {"text": 5}), "data.not_text", "text"),
    (make_cut("words"), "data.not_a_list", "supervisions"),
    (make_cut(SUPERVISION, id="c0"), "data.duplicate_id", "the id c0"),
]


@pytest.mark.parametrize(("cut", "code", "words"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_cut_is_an_issue_with_its_line(
    cut: dict[str, Any], code: str, words: str, tmp_path: Path
) -> None:
    data = load_cuts(
        tmp_path, make_cut(SUPERVISION, id="c0"), cut, make_cut(SUPERVISION, id="c2", channel=[0])
    )
    assert get_locations(data) == ["data/cuts.jsonl:1", "data/cuts.jsonl:3"]
    assert get_issues(data) == [("data/cuts.jsonl:2", code)]
    assert words in data.issues[0].what
    assert not list(tmp_path.rglob("ran"))


def test_a_cut_of_features_alone_is_counted(tmp_path: Path) -> None:
    cut = make_cut(SUPERVISION, id="f")
    del cut["recording"]
    data = load_cuts(tmp_path, make_cut(SUPERVISION), cut)
    assert len(data.examples) == 1 and data.sources[0].skipped_rows_no_audio == 1


def test_a_folder_of_two_manifests_is_joined_by_recording(tmp_path: Path) -> None:
    save_audio(tmp_path / "data/a.wav", make_noise(4.0))
    recordings = [RECORDING, {"id": "b", "sources": [COMMAND]}, RECORDING, {"sources": [FILE]}]
    supervisions = [
        SUPERVISION,
        SUPERVISION | {"id": "t", "recording_id": "b"},
        SUPERVISION | {"id": "u", "recording_id": "z"},
        SUPERVISION,
        {"id": "v"},
    ]
    write_manifests(tmp_path, recordings, supervisions)
    data = load_source(tmp_path, {"path": "data"})
    (example,) = data.examples
    assert example.audio_segments == (AudioSegment(tmp_path / "data/a.wav", 0.5, 1.5),)
    assert example.location == "data/supervisions.jsonl:1" and not list(tmp_path.rglob("ran"))
    assert get_issues(data) == [
        ("data/recordings.jsonl:2", "data.command"),
        ("data/recordings.jsonl:3", "data.duplicate_id"),
        ("data/recordings.jsonl:4", "data.missing_field"),
        ("data/supervisions.jsonl:3", "data.unknown_recording"),
        ("data/supervisions.jsonl:4", "data.duplicate_id"),
        ("data/supervisions.jsonl:5", "data.missing_field"),
        ("my.dlm:7", "data.no_recording"),
    ]
    assert data.issues[-1].what == "1 without a recording, skipped: b"


def test_a_split_names_one_of_several_pairs(tmp_path: Path) -> None:
    save_audio(tmp_path / "data/a.wav", make_noise(4.0))
    for suffix in ("_train", "_dev"):
        write_manifests(
            tmp_path, [RECORDING], [SUPERVISION | {"text": f"{suffix}."}], suffix=suffix
        )
    data = load_source(tmp_path, {"path": "data"})
    assert [code for _, code in get_issues(data)] == ["source.no_split"]
    assert data.issues[0].what.endswith("recordings_dev.jsonl, recordings_train.jsonl")
    assert get_texts(load_source(tmp_path, {"path": "data", "split": "dev"})) == ["_dev."]
    data = load_source(tmp_path, {"path": "data", "format": "lhotse", "split": "x"})
    assert [code for _, code in get_issues(data)] == ["source.no_split"]
    assert data.issues[0].what.endswith("but none")


def test_under_strict_a_recording_outside_the_folder_is_an_error(tmp_path: Path) -> None:
    load_cuts(tmp_path, make_cut_of(sources=[FILE | {"source": "/far/a.wav"}]))
    data = load_source(tmp_path, {"path": "data/cuts.jsonl"}, policy="strict")
    assert get_issues(data) == [("data/cuts.jsonl:1", "data.outside_folder")]
    assert "/far/a.wav" in data.issues[0].what
