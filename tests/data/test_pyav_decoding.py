"""PyAV decodes what libsndfile does not: exact spans, no other file opened, errors with codes."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from dlm.data.audio_decoders import (
    CONTAINER_SIGNATURES,
    detect_container,
    get_decoder_versions,
    is_pyav_installed,
)
from dlm.data.audio_file import FileSlice
from dlm.data.audio_io import hash_recording, load_audio, read_audio_info
from dlm.data.audio_scan import compute_audio_stats
from dlm.data.load import load_examples
from dlm.data.types import AudioSegment
from dlm.errors import AudioError
from tests.data.recordings import (
    RATE,
    create_document,
    make_noise,
    save_audio,
    save_container,
    save_with_transcript,
)

M4A_HEAD = b"\0\0\0\x20ftypM4A " + bytes(200)
CONTAINERS = [
    *("a.m4a", "alac.m4a", "a.aac", "fragmented.mp4", "a.mov", "a.webm", "live.webm", "a.mkv"),
    *("a.wma", "a.avi", "a.wv", "a.ts", "a.flv"),
]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 45 seconds of noise in every container."""
    folder = tmp_path_factory.mktemp("recordings")
    save_audio(folder / "source.wav", make_noise(45.0))
    for name in CONTAINERS:
        save_container(folder / name, make_noise(45.0))
    return folder


@pytest.fixture
def without_pyav(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    is_pyav_installed.cache_clear()
    request.addfinalizer(is_pyav_installed.cache_clear)


def load_error(segment: AudioSegment | Path) -> AudioError:
    """The error of loading a recording: one line that names it, with a hint."""
    if not isinstance(segment, AudioSegment):
        segment = AudioSegment(segment, display_path=f"clips/{segment.name}")
    with pytest.raises(AudioError) as caught:
        load_audio(segment, sample_rate=RATE, resample=False)
    line = str(caught.value)
    assert "\n" not in line and segment.name in line and caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_span_holds_the_same_samples_as_the_whole(recordings: Path, name: str) -> None:
    path = recordings / name
    info = read_audio_info(path)
    rate = info.sample_rate
    assert info.num_channels == 1 and abs(info.seconds - 45) < 0.2
    whole = load_audio(AudioSegment(path), sample_rate=rate, resample=False)
    assert abs(len(whole) - info.num_samples) <= 0.1 * rate
    for start, end in ((0.0, 0.5), (1.3333, 2.0), (40.1234, 41.5)):
        span = load_audio(AudioSegment(path, start, end), sample_rate=rate, resample=False)
        np.testing.assert_array_equal(span, whole[round(start * rate) : round(end * rate)])


def test_a_late_span_is_found_by_seeking(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read: list[int] = []
    readinto = FileSlice.readinto
    monkeypatch.setattr(
        FileSlice,
        "readinto",
        lambda self, buffer: num_read.append(readinto(self, buffer)) or num_read[-1],
    )
    for name in ("a.m4a", "a.mov", "fragmented.mp4", "a.webm"):
        num_read.clear()
        num_bytes = (recordings / name).stat().st_size
        segment = AudioSegment(recordings / name, 40.0, 40.5, byte_range=(0, num_bytes))
        load_audio(segment, sample_rate=48_000 if name == "a.webm" else RATE, resample=False)
        assert sum(num_read) < 0.7 * num_bytes, f"{name}: {sum(num_read)} of {num_bytes} bytes"


@pytest.mark.parametrize("name", ["alac.m4a", "a.mkv", "a.wv"])
def test_lossless_containers_give_the_samples_written(recordings: Path, name: str) -> None:
    source = load_audio(AudioSegment(recordings / "source.wav"), sample_rate=RATE, resample=False)
    decoded = load_audio(AudioSegment(recordings / name), sample_rate=RATE, resample=False)
    np.testing.assert_allclose(decoded, source, atol=1e-4)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.aac"])
def test_a_recording_in_an_archive_is_decoded_in_place(
    recordings: Path, tmp_path: Path, name: str
) -> None:
    content = (recordings / name).read_bytes()
    archive = tmp_path / "all,start:1.tar"
    archive.write_bytes(b"x" * 1000 + content + b"y" * 1000)
    segment = AudioSegment(archive, 1.0, 2.0, byte_range=(1000, len(content)))
    info = read_audio_info(archive, segment.byte_range)
    assert info == read_audio_info(recordings / name)
    in_archive = load_audio(segment, sample_rate=info.sample_rate, resample=False)
    alone = AudioSegment(recordings / name, 1.0, 2.0)
    in_file = load_audio(alone, sample_rate=info.sample_rate, resample=False)
    np.testing.assert_array_equal(in_archive, in_file)
    assert hash_recording(segment) == hash_recording(alone)


@pytest.mark.parametrize("name", ["-x.m4a", "concat:a|b.m4a", "a b'$(touch gone)%d.m4a", "ü\n.m4a"])
def test_a_file_name_is_never_an_address_or_a_command(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes((recordings / "a.m4a").read_bytes())
    assert read_audio_info(Path(name)) == read_audio_info(recordings / "a.m4a")
    assert len(load_audio(AudioSegment(Path(name), 0, 1), sample_rate=RATE, resample=False)) == RATE
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_statistics_are_those_of_the_same_samples_in_a_wav(tmp_path: Path) -> None:
    wav = AudioSegment(save_audio(tmp_path / "source.wav"))
    wave = load_audio(wav, sample_rate=RATE, resample=False)
    stats = compute_audio_stats(AudioSegment(save_container(tmp_path / "a.wv", wave)))
    assert stats == compute_audio_stats(wav)


def test_a_playlist_is_not_followed(recordings: Path, tmp_path: Path) -> None:
    playlist = f"#EXTM3U\n#EXTINF:10,\nfile://{recordings}/a.aac\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.m4a").write_text(playlist)
    assert load_error(tmp_path / "a.m4a").code == "audio.not_audio"
    (tmp_path / "b.m4a").write_bytes(M4A_HEAD + playlist.encode())
    assert load_error(tmp_path / "b.m4a").code == "audio.damaged"


def test_nothing_but_the_recording_is_opened(recordings: Path) -> None:
    script = """
import sys
import av, numpy
from pathlib import Path
from dlm.data.audio_io import load_audio
from dlm.data.types import AudioSegment
path, opened = Path(sys.argv[1]), []
load = lambda: load_audio(AudioSegment(path, 40, 41), sample_rate=16000, resample=False)
load()
sys.addaudithook(lambda event, args: opened.append((event, str(args[0])))
    if event == "open" or event.startswith("socket") else None)
load()
assert opened == [("open", str(path))], opened
"""
    command = [sys.executable, "-c", script, str(recordings / "a.m4a")]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize(("name", "fraction"), [("a.m4a", 0.5), ("alac.m4a", 0.9), ("a.mov", 0.99)])
def test_a_file_cut_before_its_index_is_refused(
    recordings: Path, tmp_path: Path, name: str, fraction: float
) -> None:
    content = (recordings / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(fraction * len(content))])
    error = load_error(tmp_path / name)
    assert error.code == "audio.damaged"
    assert str(error).startswith(f"clips/{name}: PyAV cannot decode it (invalid data")


def test_a_file_cut_within_its_audio_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = save_container(tmp_path / "a.m4a", make_noise(45.0), movflags="+faststart")
    os.truncate(path, path.stat().st_size // 2)
    error = load_error(path)
    assert error.code == "audio.truncated"
    assert "its header promises 720000 samples, the file holds" in str(error)
    assert len(load_audio(AudioSegment(path, 1, 2), sample_rate=RATE, resample=False)) == RATE


def test_a_video_without_audio_is_refused(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=16, height=16)
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(picture), *stream.encode(None)])
    assert load_error(tmp_path / "a.mp4").code == "audio.no_audio_stream"


def test_a_header_that_promises_days_is_refused(recordings: Path, tmp_path: Path) -> None:
    content = bytearray((recordings / "a.m4a").read_bytes())
    at = content.index(b"mdhd") + 16  # units per second, then the length in them
    content[at : at + 4] = (1).to_bytes(4)
    (tmp_path / "a.m4a").write_bytes(content)
    assert load_error(tmp_path / "a.m4a").code in ("audio.implausible_length", "audio.truncated")


@pytest.mark.usefixtures("without_pyav")
def test_without_pyav_the_error_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(M4A_HEAD)
    error = load_error(tmp_path / "a.m4a")
    assert error.code == "extra.missing"
    assert "it is a recording (mov) that PyAV reads, and PyAV is not installed" in str(error)
    assert error.hint == "pip install av" and "PyAV" not in get_decoder_versions()


def test_every_container_is_detected_by_its_first_bytes() -> None:
    for container, signature in CONTAINER_SIGNATURES:
        head = bytearray(400)
        for offset, mark in signature:
            head[offset : offset + len(mark)] = mark
        assert detect_container(bytes(head)) == container
    assert detect_container(b"") is None and detect_container(bytes(400)) is None


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_folder_counts_what_only_pyav_reads(
    tmp_path: Path, request: pytest.FixtureRequest, is_installed: bool
) -> None:
    if not is_installed:
        request.getfixturevalue("without_pyav")
    for name in ("a.m4a", "b.webm"):
        save_with_transcript(tmp_path / "corpus/x.wav", "Hi.").rename(tmp_path / "corpus" / name)
        (tmp_path / "corpus/x.txt").rename(tmp_path / "corpus" / f"{name[0]}.txt")
    save_with_transcript(tmp_path / "corpus/c.wav", "Hi.")
    data = load_examples(
        create_document(tmp_path, head="training:\n  sources:\n    - path: corpus\n")
    )
    assert len(data.examples) == (3 if is_installed else 1)
    assert [str(issue) for issue in data.issues] == (
        []
        if is_installed
        else [
            "my.dlm:7: 2 in a format that is not read: corpus/a.m4a, corpus/b.webm; "
            "install PyAV, which reads it: pip install av"
        ]
    )
