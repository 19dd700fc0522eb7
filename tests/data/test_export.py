"""Exported data: read again, every format gives the same examples."""

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
from tests.data.recordings import RATE, create_document, make_noise, save_audio

EACH_FORMAT = pytest.mark.parametrize("export_format", EXPORT_FORMATS)


def make_example(
    segment: AudioSegment, text: str, *question: str, speaker: str | None = None, task: str = ""
) -> Example:
    turns = (Message("user", (segment, *question)), Message("assistant", (text,)))
    return Example(turns, f"list.jsonl:{text[:1]}", task or "transcribe", "fr", speaker)


def make_examples(folder: Path) -> list[Example]:
    """A whole recording, spans of others, and one within an archive."""
    plain = save_audio(folder / "a b.wav", make_noise(0.5))
    deep = folder / "deep.flac"
    soundfile.write(deep, make_noise(1.0, channels=2, seed=1), 8000, subtype="PCM_24")
    member = save_audio(folder / "c.ogg", make_noise(0.4, seed=2))
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.add(plain, "first.wav")
        tar.add(member, "c.ogg")
    with tarfile.open(folder / "x.tar") as tar:
        inside = tar.getmember("c.ogg")
    shut = AudioSegment(
        folder / "x.tar", byte_range=(inside.offset_data, inside.size), display_path="x.tar/c.ogg"
    )
    return [
        make_example(
            AudioSegment(plain, display_path="../../a b.wav"), 'Où ? "Là", <là>\\', speaker="ann"
        ),
        make_example(AudioSegment(plain, 0.1, 0.3), "1 of a", "Écris."),
        make_example(AudioSegment(plain, 0.1, 0.3), "2 of a"),
        make_example(AudioSegment(deep, 0.25, None), "3 of two channels"),
        make_example(shut, "4 shut in"),
    ]


def read_back(folder: Path, name: str, **source: str) -> list[Example]:
    """The clips of a source, whose format is found out by looking."""
    known = "".join(f"      {key}: {value}\n" for key, value in source.items())
    data = load_examples(
        create_document(folder, head=f"training:\n  sources:\n    - path: {name}\n{known}")
    )
    assert [str(problem) for problem in data.issues] == []
    return list(data.examples)


def describe(example: Example) -> tuple[object, ...]:
    """Everything that is to be read again, samples included."""
    texts = [
        [part for part in message.content if isinstance(part, str)] for message in example.messages
    ]
    waves = [
        (load_audio(segment, sample_rate=get_rate(segment), resample=False) * (1 << 23))
        .round()
        .tolist()
        for segment in example.audio_segments
    ]
    return texts, waves, example.language, example.speaker, example.task


def get_rate(segment: AudioSegment) -> int:
    return 8000 if "deep" in segment.name else RATE


@EACH_FORMAT
def test_examples_are_read_again_as_they_were(export_format: ExportFormat, tmp_path: Path) -> None:
    examples = make_examples(tmp_path / "from")
    (tmp_path / "to").mkdir()
    summary = export_examples(tmp_path / "to", examples, export_format)
    back = read_back(tmp_path, f"to/{summary.source_path}".rstrip("/"))
    assert list(map(describe, back)) == list(map(describe, examples))
    assert (summary.num_examples, summary.num_without_audio, summary.num_answers) == (5, 0, 0)
    assert summary.num_recordings == (4 if export_format == "jsonl" else 5)
    assert summary.seconds == pytest.approx(0.5 + 0.2 + 0.2 + 1.75 + 0.4)


@EACH_FORMAT
def test_the_same_examples_make_the_same_bytes(export_format: ExportFormat, tmp_path: Path) -> None:
    examples = make_examples(tmp_path / "from")
    hashes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export_examples(tmp_path / name, examples, export_format)
        hashes.append(hash_tree(tmp_path / name))
    assert hashes[0] == hashes[1]


def test_whole_recordings_are_copied_and_spans_are_cut(tmp_path: Path) -> None:
    examples = make_examples(tmp_path / "from")
    (tmp_path / "to").mkdir()
    export_examples(tmp_path / "to", examples, "jsonl")
    names = sorted(path.name for path in (tmp_path / "to/audio").iterdir())
    assert names == ["000000-a-b.wav", "000001-a-b.wav", "000002-deep.wav", "000003-c.ogg"]
    for copy, plain in (("000000-a-b.wav", "a b.wav"), ("000003-c.ogg", "c.ogg")):
        copied = (tmp_path / "to/audio" / copy).read_bytes()
        assert copied == (tmp_path / "from" / plain).read_bytes()
    cut, deep = (soundfile.info(tmp_path / f"to/audio/{name}") for name in names[1:3])
    assert (cut.subtype, cut.frames) == ("PCM_16", 0.2 * RATE)
    assert (deep.subtype, deep.channels, deep.samplerate) == ("PCM_24", 2, 8000)


def test_conversations_are_messages(tmp_path: Path) -> None:
    first, second = (AudioSegment(save_audio(tmp_path / name)) for name in ("a.wav", "b.wav"))
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
    question = make_example(first, "One.", "How many?", task="answer")
    (tmp_path / "to").mkdir()
    summary = export_examples(tmp_path / "to", [talk, prose, question], "jsonl")
    assert (
        summary.num_examples,
        summary.num_without_audio,
        summary.num_recordings,
        summary.num_answers,
    ) == (2, 1, 2, 2)
    (record, _) = map(json.loads, (tmp_path / "to/clips.jsonl").read_text().splitlines())
    assert record["audios"] == ["audio/000000-a.wav", "audio/000001-b.wav", "audio/000000-a.wav"]
    back = read_back(tmp_path, "to/clips.jsonl")
    for example, expected in zip(back, (talk, question), strict=True):
        assert [message.role for message in example.messages] == [
            message.role for message in expected.messages
        ]
        assert describe(example) == describe(expected)
    for export_format in ("audiofolder", "webdataset"):
        with pytest.raises(DataError, match="my.dlm:9: it is a conversation.*--form jsonl"):
            export_examples(tmp_path, [talk], export_format)


def test_questions_are_read_again_with_task_answer(tmp_path: Path) -> None:
    question = make_example(
        AudioSegment(save_audio(tmp_path / "a.wav")), "One.", "How many?", task="answer"
    )
    for export_format in ("audiofolder", "webdataset"):
        (tmp_path / export_format).mkdir()
        assert export_examples(tmp_path / export_format, [question], export_format).num_answers == 1
        assert list(map(describe, read_back(tmp_path, export_format, task="answer"))) == [
            describe(question)
        ]


def test_a_text_with_an_audio_tag_is_refused_in_jsonl(tmp_path: Path) -> None:
    tagged = make_example(AudioSegment(save_audio(tmp_path / "a.wav")), "<audio> is a tag")
    with pytest.raises(DataError, match="its text holds an <audio> tag; take it out, or take"):
        export_examples(tmp_path, [tagged], "jsonl")
    (tmp_path / "to").mkdir()
    export_examples(tmp_path / "to", [tagged], "webdataset")
    assert [each.target for each in read_back(tmp_path, "to")] == ["<audio> is a tag"]


def test_file_names_are_safe_and_unique(tmp_path: Path) -> None:
    names = ["../../x.wav", "/etc/x.wav", "a\n\u202eb.WAV", "x" * 300 + ".wav", ".wav", "日本.wav"]
    path = save_audio(tmp_path / "a.wav")
    ends = [0.1 + at / 10 for at in range(len(names))]
    segments = [
        AudioSegment(path, 0.0, end, display_path=name)
        for end, name in zip(ends, names, strict=True)
    ]
    examples = [make_example(segment, "x") for segment in segments]
    for export_format in EXPORT_FORMATS:
        (tmp_path / export_format).mkdir()
        export_examples(tmp_path / export_format, examples, export_format)
    copies = [each.name for each in (tmp_path / "jsonl/audio").iterdir()]
    plain = ["000000-x", "000001-x", "000002-a-b", f"000003-{'x' * 40}", "000004-wav", "000005"]
    assert sorted(copies) == [f"{name}.wav" for name in plain]
    with tarfile.open(tmp_path / "webdataset/data-000000.tar") as tar:
        assert [name for name in tar.getnames() if name.endswith("wav")] == sorted(copies)


def test_many_examples_fill_several_shards(tmp_path: Path) -> None:
    path = save_audio(tmp_path / "a.wav", make_noise(0.01))
    examples = [make_example(AudioSegment(path), f"{number}") for number in range(7)]
    (tmp_path / "to").mkdir()
    describe: list[tuple[int, ...]] = []
    export_examples(
        tmp_path / "to",
        examples,
        "webdataset",
        max_shard_examples=3,
        progress=lambda *at: describe.append(at),
    )
    counts = []
    for shard in sorted((tmp_path / "to").iterdir()):
        with tarfile.open(shard) as tar:
            counts.append(len(tar.getnames()))
    assert counts == [6, 6, 2]
    assert (describe[0], describe[-1]) == ((1, 7), (7, 7))


def test_full_scale_samples_are_kept(tmp_path: Path) -> None:
    wave = np.array([-1.0, 1.0 - 2**-15, 0.0, 2**-15] * 100)[:, None]
    loud = make_example(AudioSegment(save_audio(tmp_path / "a.wav", wave), 0.0, 0.02), "x")
    (tmp_path / "to").mkdir()
    export_examples(tmp_path / "to", [loud], "jsonl")
    assert list(map(describe, read_back(tmp_path, "to/clips.jsonl"))) == [describe(loud)]
