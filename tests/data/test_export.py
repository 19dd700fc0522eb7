"""Clips handed on as data come back as the same clips, from every form."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dlm.data.audio_io import load_audio
from dlm.data.export import EXPORT_FORMATS, ExportFormat, export_examples
from dlm.data.load import load_examples
from dlm.data.types import AudioSegment, Example, Message
from dlm.errors import DataError
from dlm.io import hash_tree
from tests.data.sounds import RATE, document, noise, save

EACH = pytest.mark.parametrize("form", EXPORT_FORMATS)


def clip(
    sound: AudioSegment, text: str, *asked: str, speaker: str | None = None, task: str = ""
) -> Example:
    turns = (Message("user", (sound, *asked)), Message("assistant", (text,)))
    return Example(turns, f"list.jsonl:{text[:1]}", task or "transcribe", "fr", speaker)


def recordings(folder: Path) -> list[Example]:
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
    shut = AudioSegment(
        folder / "x.tar", byte_range=(inside.offset_data, inside.size), display_path="x.tar/c.ogg"
    )
    return [
        clip(AudioSegment(plain, display_path="../../a b.wav"), 'Où ? "Là", <là>\\', speaker="ann"),
        clip(AudioSegment(plain, 0.1, 0.3), "1 of a", "Écris."),
        clip(AudioSegment(plain, 0.1, 0.3), "2 of a"),
        clip(AudioSegment(deep, 0.25, None), "3 of two channels"),
        clip(shut, "4 shut in"),
    ]


def read_back(folder: Path, name: str, **source: str) -> list[Example]:
    """The clips of a source, whose format is found out by looking."""
    known = "".join(f"      {key}: {value}\n" for key, value in source.items())
    found = load_examples(
        document(folder, head=f"training:\n  sources:\n    - path: {name}\n{known}")
    )
    assert [str(problem) for problem in found.issues] == []
    return list(found.examples)


def told(clip: Example) -> tuple[object, ...]:
    """Everything that is to come back, samples among it."""
    said = [[part for part in turn.content if isinstance(part, str)] for turn in clip.messages]
    waves = [
        (load_audio(sound, sample_rate=rate_of(sound), resample=False) * (1 << 23)).round().tolist()
        for sound in clip.audio_segments
    ]
    return said, waves, clip.language, clip.speaker, clip.task


def rate_of(sound: AudioSegment) -> int:
    return 8000 if "deep" in sound.name else RATE


@EACH
def test_clips_come_back_as_they_were(form: ExportFormat, tmp_path: Path) -> None:
    clips = recordings(tmp_path / "from")
    (tmp_path / "to").mkdir()
    handed = export_examples(tmp_path / "to", clips, form)
    back = read_back(tmp_path, f"to/{handed.source_path}".rstrip("/"))
    assert list(map(told, back)) == list(map(told, clips))
    assert (handed.num_examples, handed.num_without_audio, handed.num_answers) == (5, 0, 0)
    assert handed.num_recordings == (4 if form == "jsonl" else 5)
    assert handed.seconds == pytest.approx(0.5 + 0.2 + 0.2 + 1.75 + 0.4)


@EACH
def test_the_same_clips_make_the_same_bytes(form: ExportFormat, tmp_path: Path) -> None:
    clips = recordings(tmp_path / "from")
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export_examples(tmp_path / name, clips, form)
        hashes.append(hash_tree(tmp_path / name))
    assert hashes[0] == hashes[1]


def test_recordings_are_copied_as_found_and_spans_are_cut(tmp_path: Path) -> None:
    clips = recordings(tmp_path / "from")
    (tmp_path / "to").mkdir()
    export_examples(tmp_path / "to", clips, "jsonl")
    names = sorted(path.name for path in (tmp_path / "to/audio").iterdir())
    assert names == ["000000-a-b.wav", "000001-a-b.wav", "000002-deep.wav", "000003-c.ogg"]
    for copy, plain in (("000000-a-b.wav", "a b.wav"), ("000003-c.ogg", "c.ogg")):
        copied = (tmp_path / "to/audio" / copy).read_bytes()
        assert copied == (tmp_path / "from" / plain).read_bytes()
    cut, deep = (soundfile.info(tmp_path / f"to/audio/{name}") for name in names[1:3])
    assert (cut.subtype, cut.frames) == ("PCM_16", 0.2 * RATE)
    assert (deep.subtype, deep.channels, deep.samplerate) == ("PCM_24", 2, 8000)


def test_conversations_are_messages(tmp_path: Path) -> None:
    first, second = (AudioSegment(save(tmp_path / name)) for name in ("a.wav", "b.wav"))
    talk = Example(
        (
            Message("system", ("Be brief.",)),
            Message("user", (first, second, " Who is faster?")),
            Message("assistant", ("The second.",)),
            Message("user", ("And this? ", first)),
            Message("assistant", ("Slow.",)),
        ),
        "my.dlm:9",
        "answer",
        "en",
    )
    prose = Example((Message("assistant", ("Only text.",)),), "my.dlm:20", "text")
    asked = clip(first, "One.", "How many?", task="answer")
    (tmp_path / "to").mkdir()
    handed = export_examples(tmp_path / "to", [talk, prose, asked], "jsonl")
    assert (
        handed.num_examples,
        handed.num_without_audio,
        handed.num_recordings,
        handed.num_answers,
    ) == (2, 1, 2, 2)
    (row, _) = map(json.loads, (tmp_path / "to/clips.jsonl").read_text().splitlines())
    assert row["audios"] == ["audio/000000-a.wav", "audio/000001-b.wav", "audio/000000-a.wav"]
    back = read_back(tmp_path, "to/clips.jsonl")
    for found, wanted in zip(back, (talk, asked), strict=True):
        assert [turn.role for turn in found.messages] == [turn.role for turn in wanted.messages]
        assert told(found) == told(wanted)
    for form in ("audiofolder", "webdataset"):
        with pytest.raises(DataError, match="my.dlm:9: it is a conversation.*--form jsonl"):
            export_examples(tmp_path, [talk], form)


def test_questions_come_back_as_such_when_the_task_is_said(tmp_path: Path) -> None:
    asked = clip(AudioSegment(save(tmp_path / "a.wav")), "One.", "How many?", task="answer")
    for form in ("audiofolder", "webdataset"):
        (tmp_path / form).mkdir()
        assert export_examples(tmp_path / form, [asked], form).num_answers == 1
        assert list(map(told, read_back(tmp_path, form, task="answer"))) == [told(asked)]


def test_a_tag_in_a_text_fits_no_list(tmp_path: Path) -> None:
    tagged = clip(AudioSegment(save(tmp_path / "a.wav")), "<audio> is a tag")
    with pytest.raises(DataError, match="its text holds an <audio> tag; take it out, or take"):
        export_examples(tmp_path, [tagged], "jsonl")
    (tmp_path / "to").mkdir()
    export_examples(tmp_path / "to", [tagged], "webdataset")
    assert [each.target for each in read_back(tmp_path, "to")] == ["<audio> is a tag"]


def test_names_lead_nowhere_and_differ(tmp_path: Path) -> None:
    names = ["../../x.wav", "/etc/x.wav", "a\n\u202eb.WAV", "x" * 300 + ".wav", ".wav", "日本.wav"]
    path = save(tmp_path / "a.wav")
    ends = [0.1 + at / 10 for at in range(len(names))]
    sounds = [
        AudioSegment(path, 0.0, end, display_path=name)
        for end, name in zip(ends, names, strict=True)
    ]
    clips = [clip(sound, "x") for sound in sounds]
    for form in EXPORT_FORMATS:
        (tmp_path / form).mkdir()
        export_examples(tmp_path / form, clips, form)
    copies = [each.name for each in (tmp_path / "jsonl/audio").iterdir()]
    plain = ["000000-x", "000001-x", "000002-a-b", f"000003-{'x' * 40}", "000004-wav", "000005"]
    assert sorted(copies) == [f"{name}.wav" for name in plain]
    with tarfile.open(tmp_path / "webdataset/data-000000.tar") as tar:
        assert [name for name in tar.getnames() if name.endswith("wav")] == sorted(copies)


def test_a_long_part_fills_several_shards(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", noise(0.01))
    clips = [clip(AudioSegment(path), f"{number}") for number in range(7)]
    (tmp_path / "to").mkdir()
    told: list[tuple[int, ...]] = []
    export_examples(
        tmp_path / "to",
        clips,
        "webdataset",
        max_shard_examples=3,
        progress=lambda *at: told.append(at),
    )
    counts = []
    for shard in sorted((tmp_path / "to").iterdir()):
        with tarfile.open(shard) as tar:
            counts.append(len(tar.getnames()))
    assert counts == [6, 6, 2]
    assert (told[0], told[-1]) == ((1, 7), (7, 7))


def test_full_scale_is_kept(tmp_path: Path) -> None:
    wave = np.array([-1.0, 1.0 - 2**-15, 0.0, 2**-15] * 100)[:, None]
    loud = clip(AudioSegment(save(tmp_path / "a.wav", wave), 0.0, 0.02), "x")
    (tmp_path / "to").mkdir()
    export_examples(tmp_path / "to", [loud], "jsonl")
    assert list(map(told, read_back(tmp_path, "to/clips.jsonl"))) == [told(loud)]
