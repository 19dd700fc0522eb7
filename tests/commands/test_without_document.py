"""`transcribe` and `prompt` on recordings alone: the base in the package, any rate and channels."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli_runner import dlm
from tests.data.recordings import save_container

VOICE = Path(__file__).parents[2] / "examples" / "voice"
QUESTION = "Transcribe the audio."


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same short sentence as a wav, and as a phone records it."""
    folder = tmp_path_factory.mktemp("recordings")
    waveform, sample_rate = soundfile.read(VOICE / "new.flac", dtype="float32")
    soundfile.write(folder / "a.wav", waveform, sample_rate)
    save_container(folder / "phone.m4a", waveform)
    return folder


@pytest.fixture(autouse=True)
def folder(recordings: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory and a home that nothing is written to."""
    monkeypatch.chdir(recordings)
    files = sorted(recordings.iterdir())
    yield recordings
    assert sorted(recordings.iterdir()) == files
    assert not home.exists()


def test_a_phone_recording_is_transcribed_in_every_format() -> None:
    done = dlm("transcribe", "phone.m4a")
    assert done.code == 0, done.err
    text = done.out.removeprefix("phone.m4a: ").removesuffix("\n")
    assert len(text.split()) > 2 and not done.err
    both = dlm("transcribe", "phone.m4a", "a.wav", "--json").out.splitlines()
    first, second = map(json.loads, both)
    assert (first["path"], first["text"], second["path"]) == ("phone.m4a", text, "a.wav")
    assert first["seconds"] == pytest.approx(second["seconds"], abs=0.1)
    assert dlm("transcribe", "phone.m4a", "--vtt").out.startswith("WEBVTT\n\n00:00:00.000 --> ")
    lines = dlm("transcribe", ".").out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["a.wav", "phone.m4a"]


def test_a_question_needs_no_document() -> None:
    answer = dlm("prompt", "--audio", "phone.m4a", QUESTION)
    assert answer.code == 0 and len(answer.out.split()) > 2, answer.err
    assert dlm("prompt", "--audio", "phone.m4a", stdin=QUESTION + "\n").out == answer.out
    assert dlm("prompt", "--audio", "phone.m4a", "--base", QUESTION).out == answer.out


def test_a_command_without_a_question_does_not_wait_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = dlm("prompt", "--audio", "no.wav", stdin=b"")
    done.refused("audio not found: no.wav", error="usage.audio_not_found", code=2)
    monkeypatch.setattr("dlm.cli.main.read_piped_text", lambda: pytest.fail("stdin was read"))
    assert dlm("prompt", "--audio", "a.wav", QUESTION).code == 0


@pytest.mark.parametrize("command", [("transcribe",), ("prompt", QUESTION, "--audio")])
def test_what_is_no_recording_is_refused_in_one_line(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    for name, content, error in (
        ("empty.wav", b"", "audio.empty"),
        ("text.m4a", b"no sound here\n", "audio.not_audio"),
        ("page.mp3", b"\0\1\2\3" * 400, "audio.not_audio"),
        ("cut.m4a", Path("phone.m4a").read_bytes()[:2000], "audio.damaged"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        dlm(*command, path).refused(name, error=error)
    done = dlm(*command, tmp_path / "no.wav")
    done.refused("audio not found", error="usage.audio_not_found", code=2)


def test_a_folder_a_version_or_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    dlm("transcribe", tmp_path).refused("no recordings", error="data.no_recordings")
    done = dlm("prompt", QUESTION, "--audio", tmp_path)
    done.refused("a directory", error="audio.not_a_file")
    for command in (("transcribe", "a.wav"), ("prompt", QUESTION, "--audio", "a.wav")):
        done = dlm(*command, "--version", "v0001")
        done.refused("--version needs a document", error="usage.document_missing", code=2)
    for document in ((), ("mine.dlm",)):
        done = dlm("transcribe", *document)
        done.refused("no recording", error="usage.audio_missing", code=2)
    done = dlm("transcribe", "mine.dlm", "a.wav")
    done.refused("mine.dlm: there is no such document", error="document.not_found")


@pytest.mark.parametrize("seconds", [1, 20])
def test_silence_gives_no_text_and_a_line_that_says_so(seconds: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-4, (seconds * 44_100, 2))
    soundfile.write(tmp_path / "silence.wav", noise, 44_100, subtype="FLOAT")
    done = dlm("transcribe", tmp_path / "silence.wav")
    assert (done.code, done.out) == (0, f"{tmp_path}/silence.wav: \n")
    assert done.err == f"{tmp_path}/silence.wav: no speech was found\n"
    transcript = json.loads(dlm("transcribe", tmp_path / "silence.wav", "--json").out)
    assert (transcript["text"], transcript["segments"]) == ("", [])
