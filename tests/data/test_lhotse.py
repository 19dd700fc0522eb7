"""Manifests of Lhotse: cuts, and folders of recordings and supervisions."""

from pathlib import Path
from typing import Any

import pytest

from dlm.data.load import LoadedData
from dlm.data.types import AudioSegment
from tests.data.gathering import gathered, told
from tests.data.keepers_lists import lines, write
from tests.data.sounds import noise, save

Fields = dict[str, Any]

FILE = {"type": "file", "channels": [0], "source": "a.wav"}
RECORDING: Fields = {"id": "a", "sources": [FILE], "sampling_rate": 16000, "duration": 4.0}
SAID: Fields = {"id": "s", "recording_id": "a", "start": 0.5, "duration": 1.0, "text": "Good."}


def cut(*said: object, **more: object) -> Fields:
    plain = {"id": "c", "start": 1.0, "duration": 3.0, "channel": 0, "type": "MonoCut"}
    return {**plain, "recording": RECORDING, "supervisions": list(said), **more}


def given(folder: Path, *rows: object, **source: Any) -> LoadedData:
    """What a list of these cuts gives, with a recording beside it."""
    save(folder / "data/a.wav", noise(4.0))
    write(folder / "data/cuts.jsonl", lines(rows))
    return gathered(folder, {"path": "data/cuts.jsonl", **source})


def test_a_supervision_is_a_clip(tmp_path: Path) -> None:
    more = {"id": "t", "start": -0.25, "text": "So.", "language": "fr", "speaker": "ann"}
    wordless = {"id": "u", "start": 0, "duration": 1}
    found = given(tmp_path, cut(SAID, SAID | more, wordless), cut(id="d"), cut(SAID, id="e"))
    first, second, third = found.examples
    sound = AudioSegment(tmp_path / "data/a.wav", 1.5, 2.5)
    assert (
        first.messages[0].content == third.messages[0].content == (sound,)
        and first.target == "Good."
    )
    assert second.audio_segments[0] == AudioSegment(sound.path, 0.75, 1.75)
    assert (second.language, second.speaker, second.location) == ("fr", "ann", "data/cuts.jsonl:1")
    assert third.location == "data/cuts.jsonl:3" and found.sources[0].skipped_names == ("u", "d")
    (line,) = told(found)
    assert "2 without a transcript, skipped: u, d" in line


def of(**more: object) -> Fields:
    """The recording, but for this."""
    return cut(SAID, recording=RECORDING | more)


BAD = [
    (of(sources=[FILE | {"type": "command", "source": "touch ran"}]), "is of type command, and"),
    (of(sources=[FILE | {"type": "url"}]), "is of type url, and only files are read"),
    (of(sources=[FILE | {"channels": [0, 1]}]), "its recording has 2 channels; save it as"),
    (of(sources=[FILE, FILE]), "its recording has 2 sources"),
    (of(sources="a.wav"), "sources is not a list of objects"),
    (of(sources=[FILE | {"source": "https://x.org/a.wav"}]), "https://x.org/a.wav is not on this"),
    (of(transforms=[{"name": "Speed"}]), "is to be changed first (transforms); save the result"),
    (cut(SAID, type="MultiCut", channel=[0, 1]), "the cut has 2 channels"),
    (cut(SAID | {"channel": [0, 1]}), "a supervision has 2 channels"),
    (cut(SAID, type="MixedCut"), "a MixedCut is not read"),
    (cut(SAID | {"duration": 0}), "a supervision has no span"),
    (cut(SAID | {"start": -1.5}), "a supervision has no span"),
    (cut(SAID | {"start": "0"}), "start is not a number of seconds"),
    (cut(SAID | {"text": 5}), "text is not text"),
    (cut("words"), "supervisions is not a list of objects"),
    (cut(SAID, id="c0"), "the id c0 comes twice"),
]


@pytest.mark.parametrize(("bad", "what"), BAD, ids=range(len(BAD)))
def test_a_bad_cut_is_told_with_its_line(bad: Fields, what: str, tmp_path: Path) -> None:
    found = given(tmp_path, cut(SAID, id="c0"), bad, cut(SAID, id="c2", channel=[0]))
    assert [clip.location for clip in found.examples] == ["data/cuts.jsonl:1", "data/cuts.jsonl:3"]
    (line,) = told(found)
    assert line.startswith("data/cuts.jsonl:2: ") and what in line and "; " in line
    assert not list(tmp_path.rglob("ran"))


def test_a_cut_of_features_alone_is_skipped(tmp_path: Path) -> None:
    bare = cut(SAID, id="f")
    del bare["recording"]
    found = given(tmp_path, cut(SAID), bare)
    assert len(found.examples) == 1 and found.sources[0].skipped_rows_no_audio == 1


def kept(folder: Path, recordings: list[object], said: list[object], *, part: str = "") -> None:
    write(folder / f"data/recordings{part}.jsonl", lines(recordings))
    write(folder / f"data/supervisions{part}.jsonl", lines(said))


def test_a_folder_of_two_manifests(tmp_path: Path) -> None:
    save(tmp_path / "data/a.wav", noise(4.0))
    ran = {"id": "b", "sources": [FILE | {"type": "command", "source": "touch ran"}]}
    recordings = [RECORDING, ran, RECORDING, {"sources": [FILE]}]
    others = [SAID | {"id": "t", "recording_id": "b"}, SAID | {"id": "u", "recording_id": "z"}]
    kept(tmp_path, recordings, [SAID, *others, SAID, {"id": "v"}])
    found = gathered(tmp_path, {"path": "data"})
    (clip,) = found.examples
    assert clip.audio_segments == (AudioSegment(tmp_path / "data/a.wav", 0.5, 1.5),)
    assert clip.location == "data/supervisions.jsonl:1" and not list(tmp_path.rglob("ran"))
    wanted = [
        "data/recordings.jsonl:2: its recording is of type command, and only files are read",
        "data/recordings.jsonl:3: the id a comes twice",
        "data/recordings.jsonl:4: no id",
        "data/supervisions.jsonl:3: the recording z is not in the manifest of recordings",
        "data/supervisions.jsonl:4: the id s comes twice",
        "data/supervisions.jsonl:5: no recording_id",
    ]
    *lines_told, skipped = told(found)
    assert len(lines_told) == len(wanted) and "1 without a recording, skipped: b" in skipped
    assert all(line.startswith(what) for line, what in zip(lines_told, wanted, strict=True))


def test_one_of_several_pairs(tmp_path: Path) -> None:
    save(tmp_path / "data/a.wav", noise(4.0))
    for part in ("_train", "_dev"):
        kept(tmp_path, [RECORDING], [SAID | {"text": f"{part}."}], part=part)
    (line,) = told(gathered(tmp_path, {"path": "data"}))
    assert "recordings_dev.jsonl, recordings_train.jsonl; say which with split: train" in line
    (clip,) = gathered(tmp_path, {"path": "data", "split": "dev"}).examples
    assert clip.target == "_dev."
    (line,) = told(gathered(tmp_path, {"path": "data", "format": "lhotse", "split": "x"}))
    assert "there is not one manifest of recordings and supervisions, but none" in line


def test_strict_keeps_recordings_inside(tmp_path: Path) -> None:
    given(tmp_path, of(sources=[FILE | {"source": "/far/a.wav"}]))
    (line,) = told(gathered(tmp_path, {"path": "data/cuts.jsonl"}, policy="strict"))
    assert line.startswith("data/cuts.jsonl:1: /far/a.wav lies outside the document's folder")
