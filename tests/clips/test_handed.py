"""Clips handed on as data come back as the same clips, from every form."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.clips.audio import decode
from dlm.clips.clip import Clip, Sound, Turn
from dlm.clips.handed import FORMS, Form, hand_on
from dlm.clips.sources import gather
from dlm.errors import ClipError
from dlm.files import hash_tree
from tests.clips.sounds import RATE, document, noise, save

EACH = pytest.mark.parametrize("form", FORMS)


def clip(sound: Sound, text: str, *asked: str, speaker: str | None = None, task: str = "") -> Clip:
    turns = (Turn("user", (sound, *asked)), Turn("assistant", (text,)))
    return Clip(turns, f"list.jsonl:{text[:1]}", task or "transcribe", "fr", speaker)


def recordings(folder: Path) -> list[Clip]:
    """A whole recording, spans of others, and one within an archive."""
    plain = save(folder / "a b.wav", noise(0.5))
    deep = folder / "deep.flac"
    soundfile.write(deep, noise(1.0, channels=2, seed=1), 8000, subtype="PCM_24")
    member = save(folder / "c.ogg", noise(0.4, seed=2))
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.add(plain, "first.wav")
        tar.add(member, "c.ogg")
    with tarfile.open(folder / "x.tar") as tar:
        inside = tar.getmember("c.ogg")
    shut = Sound(folder / "x.tar", inside=(inside.offset_data, inside.size), written="x.tar/c.ogg")
    return [
        clip(Sound(plain, written="../../a b.wav"), 'Où ? "Là", <là>\\', speaker="ann"),
        clip(Sound(plain, 0.1, 0.3), "1 of a", "Écris."),
        clip(Sound(plain, 0.1, 0.3), "2 of a"),
        clip(Sound(deep, 0.25, None), "3 of two channels"),
        clip(shut, "4 shut in"),
    ]


def read_back(folder: Path, name: str, **source: str) -> list[Clip]:
    """The clips of a source, whose format is found out by looking."""
    known = "".join(f"      {key}: {value}\n" for key, value in source.items())
    found = gather(document(folder, head=f"training:\n  sources:\n    - path: {name}\n{known}"))
    assert [str(problem) for problem in found.problems] == []
    return list(found.clips)


def told(clip: Clip) -> tuple[object, ...]:
    """Everything that is to come back, samples among it."""
    said = [[part for part in turn.parts if isinstance(part, str)] for turn in clip.turns]
    waves = [
        (decode(sound, rate=rate_of(sound), resample=False) * (1 << 23)).round().tolist()
        for sound in clip.sounds
    ]
    return said, waves, clip.language, clip.speaker, clip.task


def rate_of(sound: Sound) -> int:
    return 8000 if "deep" in sound.name else RATE


@EACH
def test_clips_come_back_as_they_were(form: Form, tmp_path: Path) -> None:
    clips = recordings(tmp_path / "from")
    (tmp_path / "to").mkdir()
    handed = hand_on(tmp_path / "to", clips, form)
    back = read_back(tmp_path, f"to/{handed.source}".rstrip("/"))
    assert list(map(told, back)) == list(map(told, clips))
    assert (handed.clips, handed.without_sound, handed.answers) == (5, 0, 0)
    assert handed.recordings == (4 if form == "jsonl" else 5)
    assert handed.seconds == pytest.approx(0.5 + 0.2 + 0.2 + 1.75 + 0.4)


@EACH
def test_the_same_clips_make_the_same_bytes(form: Form, tmp_path: Path) -> None:
    clips = recordings(tmp_path / "from")
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        hand_on(tmp_path / name, clips, form)
        hashes.append(hash_tree(tmp_path / name))
    assert hashes[0] == hashes[1]


def test_recordings_are_copied_as_found_and_spans_are_cut(tmp_path: Path) -> None:
    clips = recordings(tmp_path / "from")
    (tmp_path / "to").mkdir()
    hand_on(tmp_path / "to", clips, "jsonl")
    names = sorted(path.name for path in (tmp_path / "to/audio").iterdir())
    assert names == ["000000-a-b.wav", "000001-a-b.wav", "000002-deep.wav", "000003-c.ogg"]
    for copy, plain in (("000000-a-b.wav", "a b.wav"), ("000003-c.ogg", "c.ogg")):
        copied = (tmp_path / "to/audio" / copy).read_bytes()
        assert copied == (tmp_path / "from" / plain).read_bytes()
    cut, deep = (soundfile.info(tmp_path / f"to/audio/{name}") for name in names[1:3])
    assert (cut.subtype, cut.frames) == ("PCM_16", 0.2 * RATE)
    assert (deep.subtype, deep.channels, deep.samplerate) == ("PCM_24", 2, 8000)


def test_conversations_are_messages(tmp_path: Path) -> None:
    first, second = (Sound(save(tmp_path / name)) for name in ("a.wav", "b.wav"))
    talk = Clip(
        (
            Turn("system", ("Be brief.",)),
            Turn("user", (first, second, " Who is faster?")),
            Turn("assistant", ("The second.",)),
            Turn("user", ("And this? ", first)),
            Turn("assistant", ("Slow.",)),
        ),
        "my.dlm:9",
        "answer",
        "en",
    )
    prose = Clip((Turn("assistant", ("Only text.",)),), "my.dlm:20", "text")
    asked = clip(first, "One.", "How many?", task="answer")
    (tmp_path / "to").mkdir()
    handed = hand_on(tmp_path / "to", [talk, prose, asked], "jsonl")
    assert (handed.clips, handed.without_sound, handed.recordings, handed.answers) == (2, 1, 2, 2)
    (row, _) = map(json.loads, (tmp_path / "to/clips.jsonl").read_text().splitlines())
    assert row["audios"] == ["audio/000000-a.wav", "audio/000001-b.wav", "audio/000000-a.wav"]
    back = read_back(tmp_path, "to/clips.jsonl")
    for found, wanted in zip(back, (talk, asked), strict=True):
        assert [turn.role for turn in found.turns] == [turn.role for turn in wanted.turns]
        assert told(found) == told(wanted)
    for form in ("audiofolder", "webdataset"):
        with pytest.raises(ClipError, match="my.dlm:9: it is a conversation.*--form jsonl"):
            hand_on(tmp_path, [talk], form)


def test_questions_come_back_as_such_when_the_task_is_said(tmp_path: Path) -> None:
    asked = clip(Sound(save(tmp_path / "a.wav")), "One.", "How many?", task="answer")
    for form in ("audiofolder", "webdataset"):
        (tmp_path / form).mkdir()
        assert hand_on(tmp_path / form, [asked], form).answers == 1
        assert list(map(told, read_back(tmp_path, form, task="answer"))) == [told(asked)]


def test_a_tag_in_a_text_fits_no_list(tmp_path: Path) -> None:
    tagged = clip(Sound(save(tmp_path / "a.wav")), "<audio> is a tag")
    with pytest.raises(ClipError, match="its text holds an <audio> tag; take it out, or take"):
        hand_on(tmp_path, [tagged], "jsonl")
    (tmp_path / "to").mkdir()
    hand_on(tmp_path / "to", [tagged], "webdataset")
    assert [each.target for each in read_back(tmp_path, "to")] == ["<audio> is a tag"]


def test_names_lead_nowhere_and_differ(tmp_path: Path) -> None:
    names = ["../../x.wav", "/etc/x.wav", "a\n\u202eb.WAV", "x" * 300 + ".wav", ".wav", "日本.wav"]
    path = save(tmp_path / "a.wav")
    ends = [0.1 + at / 10 for at in range(len(names))]
    sounds = [Sound(path, 0.0, end, written=name) for end, name in zip(ends, names, strict=True)]
    clips = [clip(sound, "x") for sound in sounds]
    for form in FORMS:
        (tmp_path / form).mkdir()
        hand_on(tmp_path / form, clips, form)
    copies = [each.name for each in (tmp_path / "jsonl/audio").iterdir()]
    plain = ["000000-x", "000001-x", "000002-a-b", f"000003-{'x' * 40}", "000004-wav", "000005"]
    assert sorted(copies) == [f"{name}.wav" for name in plain]
    with tarfile.open(tmp_path / "webdataset/data-000000.tar") as tar:
        assert [name for name in tar.getnames() if name.endswith("wav")] == sorted(copies)


def test_a_long_part_fills_several_shards(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(0.01))
    clips = [clip(Sound(path), f"{number}") for number in range(7)]
    (tmp_path / "to").mkdir()
    told: list[tuple[int, ...]] = []
    hand_on(
        tmp_path / "to", clips, "webdataset", shard_clips=3, progress=lambda *at: told.append(at)
    )
    counts = []
    for shard in sorted((tmp_path / "to").iterdir()):
        with tarfile.open(shard) as tar:
            counts.append(len(tar.getnames()))
    assert counts == [6, 6, 2]
    assert (told[0], told[-1]) == ((1, 7), (7, 7))


def test_full_scale_is_kept(tmp_path: Path) -> None:
    wave = np.array([-1.0, 1.0 - 2**-15, 0.0, 2**-15] * 100)[:, None]
    loud = clip(Sound(save(tmp_path / "a.wav", wave), 0.0, 0.02), "x")
    (tmp_path / "to").mkdir()
    hand_on(tmp_path / "to", [loud], "jsonl")
    assert list(map(told, read_back(tmp_path, "to/clips.jsonl"))) == [told(loud)]
