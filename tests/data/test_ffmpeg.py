"""Recordings that libsndfile does not read: what the programs are asked, and what becomes of it.

Where ffmpeg is not installed, only what needs it is left out; stand-ins say the rest.
"""

import os
import shlex
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from dlm.data import audio_decoders as ffmpeg
from dlm.data.audio_decoders import (
    detect_container,
    get_ffmpeg_version,
    is_ffmpeg_installed,
    read_program_output,
)
from dlm.data.audio_io import hash_recording, load_audio, read_audio_info
from dlm.data.audio_scan import compute_audio_stats
from dlm.data.load import load_examples
from dlm.data.types import AudioSegment
from dlm.errors import DataError
from tests.data.sounds import RATE, document, noise, pair, save

HEAD = b"\0\0\0\x20ftypM4A " + bytes(200)
SAYS = '{"streams": [{"sample_rate": "16000", "channels": 1, "duration": "1.0"}]}'

# How each is made, and how far a span of it may lie from the same span of the whole, in seconds.
KINDS = {
    "a.m4a": ([], 0),
    "alac.m4a": (["-c:a", "alac"], 0),
    "a.aac": ([], 0),
    "a.mp4": (["-movflags", "+frag_keyframe+empty_moov"], 0),
    "a.mov": ([], 0),
    "a.webm": (["-c:a", "libopus", "-ar", "48000"], 0.01),
    "live.webm": (["-c:a", "libopus", "-ar", "48000", "-f", "webm", "-live", "1"], 0.01),
    "a.mkv": (["-c:a", "flac"], 0.01),
    "a.wma": ([], 0),
    "a.avi": (["-c:a", "mp2", "-ar", "16000"], 0),
    "a.wv": ([], 0),
}


@pytest.fixture(autouse=True)
def afresh(request: pytest.FixtureRequest) -> None:
    """Look for the programs again, with every test."""
    is_ffmpeg_installed.cache_clear()
    request.addfinalizer(is_ffmpeg_installed.cache_clear)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of noise in every container."""
    folder = tmp_path_factory.mktemp("made")
    source = save(folder / "source.wav", noise(45.0))
    for name, (words, _) in KINDS.items():
        run = ["ffmpeg", "-v", "error", "-i", str(source), *words, str(folder / name)]
        subprocess.run(run, check=True, timeout=60)
    return folder


def refusal(sound: AudioSegment | Path) -> str:
    given = (
        sound
        if isinstance(sound, AudioSegment)
        else AudioSegment(sound, display_path=f"clips/{sound.name}")
    )
    with pytest.raises(DataError) as caught:
        load_audio(given, sample_rate=RATE, resample=False)
    line = str(caught.value)
    assert "\n" not in line and given.name in line and caught.value.hint
    return line


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *, probe: str, decode: str) -> Path:
    """A recording, and programs of these names that do something else."""
    for name, does in (("ffprobe", probe), ("ffmpeg", decode)):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >> {folder}/asked\n{does}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    path = folder / "a.m4a"
    path.write_bytes(HEAD)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_a_span_is_the_same_samples_as_in_the_whole(made: Path, name: str) -> None:
    header = read_audio_info(made / name)
    rate, off = header.sample_rate, round(KINDS[name][1] * header.sample_rate)
    assert header.num_channels == 1 and abs(header.seconds - 45) < 0.2
    whole = load_audio(AudioSegment(made / name), sample_rate=rate, resample=False)
    assert abs(len(whole) - header.num_samples) <= 0.1 * rate
    for start, end in ((0.0, 0.5), (1.3333, 2.0), (40.1234, 41.5)):
        first, last = round(start * rate), round(end * rate)
        part = load_audio(AudioSegment(made / name, start, end), sample_rate=rate, resample=False)
        assert len(part) == last - first
        lags = range(-off, off + 1) if start > ffmpeg.MIN_SEEK_SECONDS else (0,)
        away = [np.abs(part[500:] - whole[first + lag + 500 : last + lag]).max() for lag in lags]
        assert min(away) < 1e-4, f"{name} from {start}: {min(away)}"


def test_it_sounds_like_what_it_was_made_of(made: Path) -> None:
    source = load_audio(AudioSegment(made / "source.wav", 0, 2), sample_rate=RATE, resample=False)
    for name in ("alac.m4a", "a.mkv", "a.wv"):
        heard = load_audio(AudioSegment(made / name, 0, 2), sample_rate=RATE, resample=False)
        np.testing.assert_allclose(heard, source, atol=1e-4)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.aac"])
def test_it_may_lie_in_an_archive(made: Path, tmp_path: Path, name: str) -> None:
    content = (made / name).read_bytes()
    archive = tmp_path / "all,start:1.tar"
    archive.write_bytes(b"x" * 1000 + content + b"y" * 1000)
    sound = AudioSegment(archive, 1.0, 2.0, byte_range=(1000, len(content)))
    header = read_audio_info(*sound.recording)
    assert header == read_audio_info(made / name)
    heard = load_audio(sound, sample_rate=header.sample_rate, resample=False)
    wanted = load_audio(
        AudioSegment(made / name, 1.0, 2.0), sample_rate=header.sample_rate, resample=False
    )
    np.testing.assert_array_equal(heard, wanted)
    assert hash_recording(sound) == hash_recording(AudioSegment(made / name))


@pytest.mark.parametrize("name", ["-x.m4a", "concat:a|b.m4a", "a b'$(touch gone)%d.m4a", "ü\n.m4a"])
def test_a_name_is_only_a_name(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes((made / "a.m4a").read_bytes())
    assert read_audio_info(Path(name)) == read_audio_info(made / "a.m4a")
    assert len(load_audio(AudioSegment(Path(name), 0, 1), sample_rate=RATE, resample=False)) == RATE
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_measured_as_other_sound_is(made: Path) -> None:
    facts = compute_audio_stats(AudioSegment(made / "alac.m4a"))
    assert facts == compute_audio_stats(AudioSegment(made / "source.wav"))


def test_a_list_of_other_files_opens_none(made: Path, tmp_path: Path) -> None:
    """A playlist, or one dressed up as a film, is not followed."""
    listed = f"#EXTM3U\n#EXTINF:10,\nfile://{made}/a.aac\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m4a").write_text(listed)
    assert "it holds text, not sound" in refusal(tmp_path / "a.m4a")
    (tmp_path / "b.m4a").write_bytes(HEAD + listed.encode())
    assert "ffprobe cannot read it" in refusal(tmp_path / "b.m4a")


@pytest.mark.parametrize(("name", "share"), [("a.m4a", 0.5), ("alac.m4a", 0.9), ("a.mov", 0.99)])
def test_a_film_cut_short(made: Path, tmp_path: Path, name: str, share: float) -> None:
    content = (made / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(share * len(content))])
    line = refusal(path)
    assert line.startswith(f"clips/{name}: ffprobe cannot read it (moov atom not found); copy it")


def test_a_film_whose_sound_is_cut_short(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    words = ["-i", str(made / "a.m4a"), "-c", "copy", "-movflags", "+faststart", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", *words], check=True, timeout=60)
    os.truncate(path, path.stat().st_size // 2)
    assert "it is cut short: its header promises 720000 samples, the file holds" in refusal(path)
    assert len(load_audio(AudioSegment(path, 1, 2), sample_rate=RATE, resample=False)) == RATE


def test_a_film_without_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    picture = ["-f", "lavfi", "-i", "color=s=16x16:d=1", "-c:v", "mpeg4", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", *picture], check=True, timeout=60)
    assert "clips/a.mp4: there is no sound in it; name a recording" in refusal(path)


def test_without_the_programs_it_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(HEAD)
    line = refusal(tmp_path / "a.m4a")
    assert "it is a recording (mov) that is read with ffmpeg, which is not installed" in line
    assert "`apt-get install ffmpeg`" in line and get_ffmpeg_version() is None


def test_the_programs_are_told_what_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = shlex.quote(str(save(tmp_path / "raw.wav", noise(1.0), subtype="FLOAT")))
    path = stand_in(tmp_path, monkeypatch, probe=f"echo '{SAYS}'", decode=f"tail -c 64000 {sound}")
    heard = load_audio(AudioSegment(path), sample_rate=RATE, resample=False)
    np.testing.assert_array_equal(heard, noise(1.0)[:, 0])
    for line in (tmp_path / "asked").read_text().splitlines():
        assert "-protocol_whitelist file,subfile -f mov" in line
        assert f"-i file:{path}" in line


def test_a_program_that_gives_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stand_in(tmp_path, monkeypatch, probe=f"echo '{SAYS}'", decode="head -c 40001 /dev/zero")
    line = refusal(path)
    assert "its header promises 16000 samples, the file holds 10000" in line


def test_a_program_that_gives_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stand_in(tmp_path, monkeypatch, probe=f"echo '{SAYS}'", decode="cat /dev/zero")
    assert len(load_audio(AudioSegment(path), sample_rate=RATE, resample=False)) == 16000


def test_a_header_that_promises_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = SAYS.replace('"1.0"', '"864000"')
    path = stand_in(tmp_path, monkeypatch, probe=f"echo '{says}'", decode="cat /dev/zero")
    line = refusal(path)
    assert "it promises 240.0 hours of sound in 212 bytes, which cannot be" in line


@pytest.mark.parametrize(
    "says",
    ["{}", '{"streams": []}', '{"streams": [{"sample_rate": "0", "channels": 1}]}'],
)
def test_a_program_that_finds_no_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    path = stand_in(tmp_path, monkeypatch, probe=f"echo '{says}'", decode="false")
    assert "there is no sound in it" in refusal(path)


def test_what_a_program_complains_of_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = r"printf '[mov @ 0x5] odd\033[31m %0300d\nmore' 7 >&2; exit 1"
    path = stand_in(tmp_path, monkeypatch, probe=says, decode="false")
    line = refusal(path)
    assert "ffprobe cannot read it (odd[31m 000" in line and len(line) < 200


def test_a_silent_program_is_ended(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sh has said nothing for 0.2 s and was ended"):
        list(
            read_program_output(
                ["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"], timeout_seconds=0.2
            )
        )
    gone(tmp_path / "pid")


def test_a_program_ends_when_nobody_asks_any_more(tmp_path: Path) -> None:
    given = read_program_output(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec yes"])
    assert next(given).startswith(b"y\n")
    given.close()
    gone(tmp_path / "pid")


def gone(told: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_every_container_is_told_by_its_first_bytes() -> None:
    for kind, marks in ffmpeg.CONTAINER_SIGNATURES:
        head = bytearray(400)
        for at, mark in marks:
            head[at : at + len(mark)] = mark
        assert detect_container(bytes(head)) == kind
    assert detect_container(b"") is None and detect_container(bytes(400)) is None


def test_what_ffmpeg_would_read_is_counted_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.m4a", "b.webm"):
        pair(tmp_path / "corpus/x.wav", "Hi.").rename(tmp_path / "corpus" / name)
        (tmp_path / "corpus/x.txt").rename(tmp_path / "corpus" / f"{name[0]}.txt")
    pair(tmp_path / "corpus/c.wav", "Hi.")
    made = document(tmp_path, head="training:\n  sources:\n    - path: corpus\n")
    for path, clips in ((os.environ["PATH"], 3 if which("ffmpeg") else 1), ("/nowhere", 1)):
        is_ffmpeg_installed.cache_clear()
        monkeypatch.setenv("PATH", path)
        found = load_examples(made)
        assert len(found.examples) == clips
    assert [str(problem) for problem in found.issues] == [
        "my.dlm:7: 2 in a format that is not read: corpus/a.m4a, corpus/b.webm; install ffmpeg, "
        f"which reads it: {ffmpeg.FFMPEG_INSTALL_HINT}"
    ]
