"""Manifests of NeMo, plain and in tars."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from dlm.config.data_schema import SourceConfig
from dlm.data.audio_io import load_audio
from dlm.data.load import LoadedData
from dlm.data.readers.base import SourceContext
from dlm.data.readers.registry import find_reader
from dlm.data.types import AudioSegment
from tests.data.gathering import gathered, told
from tests.data.keepers_lists import lines, tar, write
from tests.data.sounds import document, noise, save

GOOD = {"audio_filepath": "a.wav", "text": "Good.", "duration": 1.0}


def given(folder: Path, *rows: object, **source: Any) -> LoadedData:
    """What a manifest of these rows gives; text is written as it is."""
    save(folder / "data/a.wav")
    text = "".join(row if isinstance(row, str) else lines([row]) for row in rows)
    write(folder / "data/manifest.json", text)
    return gathered(folder, {"path": "data/manifest.json", **source})


def test_all_that_a_row_may_say(tmp_path: Path) -> None:
    rich = {"offset": 0.25, "duration": 0.5, "lang": "fr-CA", "speaker": 7, "prompt": "Quoi ?"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/said.txt").write_text(" In a file.\r\n")
    filed = {"audio_filepath": "a.wav", "text_filepath": "said.txt", "offset": 0.5}
    first, last = given(tmp_path, GOOD | rich, filed).examples
    assert first.messages[0].content == (
        AudioSegment(tmp_path / "data/a.wav", 0.25, 0.75),
        "Quoi ?",
    )
    assert (first.target, first.language, first.speaker) == ("Good.", "fr", "7")
    assert (first.task, first.location) == ("transcribe", "data/manifest.json:1")
    assert (
        last.audio_segments == (AudioSegment(tmp_path / "data/a.wav", 0.5),)
        and last.target == "In a file."
    )


TRANSLATED = [
    ({"source_lang": "de", "target_lang": "en"}, "answer", "de"),
    ({"source_lang": "de", "target_lang": "de"}, "transcribe", "de"),
    ({"lang": "de", "taskname": "ast"}, "answer", "de"),
    ({"source_lang": "en", "target_lang": "en", "task": "asr"}, "transcribe", "en"),
    ({"answer": "Gut."}, "transcribe", None),
]


@pytest.mark.parametrize(("more", "task", "language"), TRANSLATED, ids=range(len(TRANSLATED)))
def test_a_translation_is_an_answer(
    more: dict[str, str], task: str, language: str | None, tmp_path: Path
) -> None:
    (clip,) = given(tmp_path, GOOD | more).examples
    assert (clip.task, clip.language) == (task, language)
    assert clip.target == more.get("answer", "Good.")


def test_a_source_names_the_column_and_the_folder(tmp_path: Path) -> None:
    path = save(tmp_path / "far/b.wav")
    row = GOOD | {"audio_filepath": "b.wav", "answer": "no", "pnc_text": "Yes."}
    found = given(tmp_path, row, audio="far", columns={"text": "pnc_text"}, task="answer")
    (clip,) = found.examples
    assert (clip.audio_segments[0].path, clip.target, clip.task) == (path, "Yes.", "answer")


BAD = [
    ("{\n", "not JSON ("),
    ({"text": "x"}, "no audio_filepath"),
    ({"audio_filepath": "a.wav"}, "AUDIO section has empty transcript"),
    (GOOD | {"text": 3}, "text is not text"),
    (GOOD | {"offset": "1"}, "offset is not a number of seconds"),
    (GOOD | {"duration": 0}, "duration is 0"),
    (GOOD | {"audio_filepath": "s3://x/a.wav"}, "s3://x/a.wav is not on this machine"),
    ({"audio_filepath": "a.wav", "text_filepath": "/etc/hostname"}, "/etc/hostname leads out"),
    ({"audio_filepath": "a.wav", "text_filepath": "link.txt"}, "link.txt leads out of the"),
    ({"audio_filepath": "a.wav", "text_filepath": "no.txt"}, "no.txt is no file"),
    ({"audio_filepath": "a.wav", "text_filepath": "a.wav"}, "a.wav cannot be read ('utf-8'"),
]


@pytest.mark.parametrize(("bad", "what"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_told_with_its_line(bad: object, what: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link.txt").symlink_to("/etc/hostname")
    found = given(tmp_path, GOOD, bad, GOOD)
    assert len(found.examples) == 2
    (line,) = told(found)
    assert line.startswith("data/manifest.json:2: ") and what in line and "; " in line


def test_an_id_comes_once(tmp_path: Path) -> None:
    found = given(tmp_path, *(GOOD | {"id": each} for each in ("x", 1, "x", "1")))
    assert len(found.examples) == 2
    assert [line.partition(";")[0] for line in told(found)] == [
        "data/manifest.json:3: the id x comes twice",
        "data/manifest.json:4: the id 1 comes twice",
    ]


def in_tars(folder: Path, rows: list[dict[str, Any]], *, name: str = "audio_{}.tar") -> list[Path]:
    """Three tars of two recordings each, of different noises, and a manifest of these rows."""
    tars = []
    for number in range(3):
        files = [
            save(folder / f"loose/{stem}{number}.wav", noise(seed=number)) for stem in ("a", "b.c")
        ]
        tars.append(tar(folder / "data" / name.format(number), files))
    write(folder / "data/manifest.jsonl", lines(rows))
    return tars


def row(name: str, shard: object) -> dict[str, Any]:
    return {"audio_filepath": name, "text": f"{name}.", "duration": 1.0, "shard_id": shard}


def shards_of(folder: Path, **source: Any) -> list[Any]:
    asked = SourceConfig(path="data/manifest.jsonl", **source)
    origin = SourceContext.from_source(document(folder), asked)
    return find_reader(origin).list_shards(origin)


def test_a_shard_for_each_tar(tmp_path: Path) -> None:
    rows = [row("a2.wav", 2), row("a0.wav", 0), row("far/b.c2.wav", 2), row("b.c0-sub3.wav", "0")]
    rows[3] |= {"offset": 0.25, "duration": 0.5}
    tars = in_tars(tmp_path, rows)
    lost, *shards = shards_of(tmp_path)
    assert [shard.name for shard in shards] == [path.name for path in tars]
    first, empty, last = [list(shard.read(0)) for shard in shards]
    assert [clip.location for clip in first] == ["data/manifest.jsonl:2", "data/manifest.jsonl:4"]
    assert [clip.target for clip in last] == ["a2.wav.", "far/b.c2.wav."]
    assert empty == list(lost.read(0)) == [] and list(shards[2].read(1)) == last[1:]
    (sound,) = first[1].audio_segments
    assert (sound.path, sound.name) == (tars[0], "audio_0.tar/b.c0.wav")
    heard = load_audio(sound, sample_rate=16000, resample=False)
    whole = load_audio(AudioSegment(tmp_path / "loose/b.c0.wav"), sample_rate=16000, resample=False)
    assert (heard == whole[4000:12000]).all()


@pytest.mark.parametrize("written", ["tars", "tars/part__OP_0..2_CL_.tar", "tars/part_{0..2}.tar"])
def test_tars_elsewhere(written: str, tmp_path: Path) -> None:
    in_tars(tmp_path, [row(f"a{number}.wav", number) for number in range(3)], name="part_{}.tar")
    (tmp_path / "tars").mkdir()
    for path in (tmp_path / "data").glob("*.tar"):
        path.rename(tmp_path / "tars" / path.name)
    found = gathered(tmp_path, {"path": "data/manifest.jsonl", "audio": written})
    assert [clip.target for clip in found.examples] == ["a0.wav.", "a1.wav.", "a2.wav."]
    assert found.issues == ()


def test_what_is_wrong_with_tars(tmp_path: Path) -> None:
    rows = [row("a0.wav", 0), row("no.wav", 0), row("a0.wav", 9), row("a1.wav", 1), row("x", None)]
    rows += [{"text": "x", "shard_id": 2}, row("a2.wav", 2) | {"text": ""}]
    tars = in_tars(tmp_path, rows)
    with (tmp_path / "data/manifest.jsonl").open("a") as file:
        file.write("{broken\n")
    with tarfile.open(tars[1], "w") as held:
        held.add(tmp_path / "loose/a1.wav", "../a1.wav")
    found = gathered(tmp_path, {"path": "data/manifest.jsonl"})
    assert [clip.location for clip in found.examples] == ["data/manifest.jsonl:1"]
    wanted = [
        "data/manifest.jsonl:3: the tar of shard_id 9 is not there; put the tar",
        "data/manifest.jsonl:5: no shard_id; ",
        "data/manifest.jsonl:8: not JSON (",
        "data/manifest.jsonl:2: no.wav is not in audio_0.tar; correct its name",
        "audio_1.tar: its member ../a1.wav leads out of it; ",
        "data/manifest.jsonl:6: no audio_filepath; ",
        "data/manifest.jsonl:7: AUDIO section has empty transcript; ",
    ]
    lines_told = told(found)
    assert len(lines_told) == len(wanted)
    assert all(line.startswith(what) for line, what in zip(lines_told, wanted, strict=True))


def test_no_tar_at_all(tmp_path: Path) -> None:
    write(tmp_path / "data/manifest.jsonl", lines([row("a.wav", 0)]))
    (line,) = told(gathered(tmp_path, {"path": "data/manifest.jsonl"}))
    assert "no tar is there; put audio_0.tar and the others beside it, or say" in line
