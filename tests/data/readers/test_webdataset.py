"""Webdataset: where the members of a tar are, tars that are refused, samples and splits."""

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.audio_io import load_audio
from dlm.data.readers.webdataset import expand_tar_pattern, iter_tar_members
from dlm.data.types import AudioSegment
from dlm.errors import DataError
from tests.data.readers.folder_fixtures import make_tar_writer
from tests.data.readers.source_loading import (
    describe_examples,
    get_issues,
    get_locations,
    load_source,
)
from tests.data.recordings import RATE, save_audio

SOURCE = {"path": "x.tar"}


def read_recording(folder: Path) -> bytes:
    return save_audio(folder / "away/a.wav").read_bytes()


def get_error(path: Path) -> DataError:
    """The error that a tar is refused with."""
    with pytest.raises(DataError) as caught:
        list(iter_tar_members(path))
    assert caught.value.hint and caught.value.code
    return caught.value


def test_the_bytes_of_a_member_are_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    add_member = make_tar_writer(path)
    members = {
        "a.wav": b"RIFF",
        "deep/b.txt": b"text" * 300,
        "n" * 150 + ".txt": b"",
        "ü.txt": b"1",
    }
    add_member("deep", type=tarfile.DIRTYPE)
    for name, data in members.items():
        add_member(name, data)
    tar = path.read_bytes()
    assert members == {
        member.name: tar[member.offset : member.offset + member.size]
        for member in iter_tar_members(path)
    }


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_every_kind_of_tar_is_read(tar_format: int, tmp_path: Path) -> None:
    entry = tarfile.TarInfo("./a.txt")
    entry.size, entry.mtime = 3, 1.5
    with tarfile.open(tmp_path / "x.tar", "w", format=tar_format) as tar:
        tar.addfile(entry, io.BytesIO(b"abc"))
    (member,) = iter_tar_members(tmp_path / "x.tar")
    assert member.name == "a.txt"
    assert (tmp_path / "x.tar").read_bytes()[member.offset :][:3] == b"abc"


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("../a.wav", {}, "its member ../a.wav leads out of it"),
        ("b/../../a.wav", {}, "its member b/../../a.wav leads out of it"),
        ("/etc/a.wav", {}, "its member /etc/a.wav leads out of it"),
        ("..\\a.wav", {}, "leads out of it"),
        (
            "a.wav",
            {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
            "not a regular file but a link",
        ),
        ("a.wav", {"type": tarfile.LNKTYPE, "linkname": "b"}, "not a regular file but a link"),
        ("a.wav", {"type": tarfile.CHRTYPE}, "not a regular file but a device"),
        ("a.wav", {"type": tarfile.FIFOTYPE}, "not a regular file but a device, a pipe"),
        ("a\udcff.wav", {}, "the name of its member a\\udcff.wav is not UTF-8"),
    ],
)
def test_a_tar_with_an_unsafe_member_is_refused(
    tmp_path: Path, name: str, header: dict[str, Any], words: str
) -> None:
    add_member = make_tar_writer(tmp_path / "x.tar")
    add_member("ok.wav", b"RIFF")
    add_member(name, **header)
    error = get_error(tmp_path / "x.tar")
    assert error.code == "source.bad_tar_member" and words in error.what


def test_a_tar_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    make_tar_writer(tmp_path / "x.tar")("a.wav", bytes(5000))
    tar = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(tar[:2000])
    error = get_error(tmp_path / "x.tar")
    assert error.code == "source.damaged"
    assert error.what == "it is cut short: its member a.wav has 5000 bytes, and 1488 are there"


def test_a_tar_with_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    add_member = make_tar_writer(tmp_path / "x.tar")
    add_member("a.wav", b"1")
    add_member("b.wav", b"2")
    tar = bytearray((tmp_path / "x.tar").read_bytes())
    tar[1024 + 150] ^= 0xFF  # in the checksum of the second header
    (tmp_path / "x.tar").write_bytes(tar)
    error = get_error(tmp_path / "x.tar")
    assert (error.code, error.what) == ("source.damaged", "it is damaged at byte 1024")


def test_a_file_that_is_no_plain_tar_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(b"words"))
    error = get_error(path)
    assert (error.code, error.hint) == ("source.compressed", "unpack it: `gunzip x.tar`")
    for content in (b"words" * 200, b""):
        path.write_bytes(content)
        assert get_error(path).code == "source.damaged"
    path.unlink()
    assert get_error(path).code == "source.not_found"
    os.mkfifo(path)
    assert get_error(path).code == "source.not_a_file"


@given(data=st.data())
def test_any_damage_is_an_error_or_leaves_members_inside(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tars") / "x.tar"
    add_member = make_tar_writer(path)
    add_member("a.wav", bytes(700))
    add_member("n" * 120, b"words", pax_headers={"comment": "x" * 600})
    tar = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        tar[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    path.write_bytes(tar[: data.draw(st.integers(1, len(tar)))])
    try:
        members = list(iter_tar_members(path))
    except DataError as error:
        assert error.hint and error.code
    else:
        ends = [member.offset + member.size for member in members]
        assert all(member.offset >= 0 for member in members)
        assert all(member.size >= 0 for member in members) and max(ends, default=0) <= len(tar)


def test_braces_of_a_pattern_are_expanded(tmp_path: Path) -> None:
    names = [path.name for path in expand_tar_pattern(tmp_path / "{a,b}-{08..11}.tar")]
    numbers = ("08", "09", "10", "11")
    assert names == [f"{letter}-{number}.tar" for letter in "ab" for number in numbers]
    (tmp_path / "{1..2}.tar").write_bytes(b"")
    assert expand_tar_pattern(tmp_path / "{1..2}.tar") == [tmp_path / "{1..2}.tar"]
    for pattern in ("{5..4}.tar", "{0..999999999}.tar"):
        with pytest.raises(DataError) as caught:
            expand_tar_pattern(tmp_path / pattern)
        assert caught.value.code == "source.bad_pattern"


def test_a_sample_may_have_a_speaker_and_a_language(tmp_path: Path) -> None:
    add_member = make_tar_writer(tmp_path / "x.tar")
    add_member("deep/a.flac", save_audio(tmp_path / "a.flac").read_bytes())
    add_member("deep/a.json", b'{"sentence": "Oui.", "locale": "fr-FR", "speaker_id": 7, "x": [1]}')
    add_member("deep/b.wav", read_recording(tmp_path))
    add_member("deep/b.txt", b"\xef\xbb\xbfNon.\r\n")
    add_member("deep/b.cls", b"1")
    data = load_source(tmp_path, SOURCE)
    assert get_issues(data) == []
    assert describe_examples(data) == [
        ("x.tar/deep/a.flac", "Oui.", "7", "fr"),
        ("x.tar/deep/b.wav", "Non.", None, None),
    ]
    first, second = (example.audio_segments[0] for example in data.examples)
    assert first.path == tmp_path / "x.tar" and first.byte_range is not None
    loose = load_audio(AudioSegment(tmp_path / "a.flac"), sample_rate=RATE, resample=False)
    np.testing.assert_array_equal(load_audio(first, sample_rate=RATE, resample=False), loose)
    assert first != second


def write_tar_of_one_sample(path: Path, recording: bytes) -> None:
    add_member = make_tar_writer(path)
    add_member("a.wav", recording)
    add_member("a.txt", b"Hi.")


def test_a_folder_of_tars_is_a_source(tmp_path: Path) -> None:
    for number in range(2):
        write_tar_of_one_sample(tmp_path / f"shards/{number}.tar", read_recording(tmp_path))
    data = load_source(tmp_path, {"path": "shards"})
    assert get_locations(data) == ["shards/0.tar/a.wav", "shards/1.tar/a.wav"]


def test_a_split_is_in_the_names_of_tars_and_folders(tmp_path: Path) -> None:
    for name in ("train-000", "train-001", "dev/000", "test-000"):
        write_tar_of_one_sample(tmp_path / f"shards/{name}.tar", read_recording(tmp_path))
    data = load_source(tmp_path, {"path": "shards"})
    assert get_locations(data) == ["shards/train-000.tar/a.wav", "shards/train-001.tar/a.wav"]
    assert data.sources[0].skipped_other_split == 2
    data = load_source(tmp_path, {"path": "shards", "split": "validation"})
    assert get_locations(data) == ["shards/dev/000.tar/a.wav"]
    for name in ("train-000", "train-001", "test-000"):
        (tmp_path / f"shards/{name}.tar").unlink()
    assert len(load_source(tmp_path, {"path": "shards"}).examples) == 1


def test_a_tar_among_recordings_is_not_read(tmp_path: Path) -> None:
    make_tar_writer(tmp_path / "corpus/old.tar")("a.wav")
    save_audio(tmp_path / "corpus/b.wav").with_suffix(".txt").write_text("Hi.")
    assert get_locations(load_source(tmp_path, {"path": "corpus"})) == ["corpus/b.wav"]


def test_a_compressed_tar_is_an_issue_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(b"words"))
    data = load_source(tmp_path, {"path": "x.tar.gz"})
    assert get_issues(data) == [("x.tar.gz", "source.compressed")]


def test_patterns_select_members(tmp_path: Path) -> None:
    add_member = make_tar_writer(tmp_path / "x.tar")
    for name in ("a", "out/b"):
        add_member(f"{name}.wav", read_recording(tmp_path))
        add_member(f"{name}.txt", b"Hi.")
    data = load_source(tmp_path, {**SOURCE, "include": ["**/*.wav"], "exclude": ["out/**"]})
    assert get_locations(data) == ["x.tar/a.wav"]
    assert data.sources[0].skipped_excluded == 1


def test_incomplete_samples_are_counted_and_broken_ones_are_issues(tmp_path: Path) -> None:
    add_member = make_tar_writer(tmp_path / "x.tar")
    add_member("a.wav", read_recording(tmp_path))
    add_member("b.txt", b"Hi.")
    texts = {
        "c.json": b"[1]",
        "d.txt": b"\xff",
        "e.json": b"{",
        "f.txt": b" ",
        "g.json": b'{"words": "x"}',
    }
    for name, text in texts.items():
        add_member(name, text)
        add_member(f"{name[0]}.wav", b"")
    add_member("README.md", b"")
    data = load_source(tmp_path, SOURCE)
    (report,) = data.sources
    assert data.examples == ()
    assert report.skipped_audio_no_transcript == 1 and report.skipped_rows_no_audio == 1
    assert report.skipped_not_audio == 1
    assert get_issues(data)[:5] == [
        ("x.tar/c", "data.not_an_object"),
        ("x.tar/d", "data.not_utf8"),
        ("x.tar/e", "data.not_json"),
        ("x.tar/f", "data.empty_transcript"),
        ("x.tar/g", "source.no_column"),
    ]
    assert data.issues[1].what == "d.txt is not UTF-8 (byte 1)"
    assert data.issues[4].what == "no column of text: it has words"


def test_the_members_of_a_sample_must_be_together(tmp_path: Path) -> None:
    add_member = make_tar_writer(tmp_path / "x.tar")
    add_member("a.wav", read_recording(tmp_path))
    add_member("b.wav", read_recording(tmp_path))
    add_member("a.txt", b"Hi.")
    assert get_issues(load_source(tmp_path, SOURCE))[0] == ("x.tar/a", "data.scattered_sample")


def test_of_several_recordings_in_a_sample_the_source_names_one(tmp_path: Path) -> None:
    add_member = make_tar_writer(tmp_path / "x.tar")
    add_member("a.clean.wav", read_recording(tmp_path))
    add_member("a.noisy.wav", b"")
    add_member("a.txt", b"Hi.")
    data = load_source(tmp_path, SOURCE)
    assert get_issues(data) == [("x.tar/a", "data.ambiguous_recording")]
    assert data.issues[0].what == "2 recordings in one sample: clean.wav, noisy.wav"
    assert data.issues[0].hint == "choose one with columns: {audio: clean.wav}"
    data = load_source(tmp_path, {**SOURCE, "columns": {"audio": "clean.wav"}})
    assert get_locations(data) == ["x.tar/a.clean.wav"]


def test_a_refused_or_missing_tar_is_an_issue_with_its_name(tmp_path: Path) -> None:
    make_tar_writer(tmp_path / "x.tar")("../a.wav")
    assert get_issues(load_source(tmp_path, SOURCE))[0] == ("x.tar", "source.bad_tar_member")
    pattern = {"path": "{0..1}.tar"}
    assert get_issues(load_source(tmp_path, pattern)) == [("my.dlm:7", "source.not_found")]
    (tmp_path / "x.tar").rename(tmp_path / "1.tar")
    assert get_issues(load_source(tmp_path, pattern))[0] == ("0.tar", "source.not_found")


def test_under_strict_a_tar_outside_the_folder_is_an_error(tmp_path: Path) -> None:
    make_tar_writer(tmp_path / "x.tar")("a.wav")
    (tmp_path / "here").mkdir()
    data = load_source(tmp_path / "here", {"path": "../x.tar"}, policy="strict")
    assert get_issues(data) == [("my.dlm:7", "data.outside_folder")]


def test_what_macos_adds_to_a_tar_is_skipped_and_counted(tmp_path: Path) -> None:
    """Members that no person packed, between those of a sample, in a folder and at the end."""
    add_member = make_tar_writer(tmp_path / "x.tar")
    wav = read_recording(tmp_path)
    for name in ("a.txt", "a.wav", "deep/b.txt", "deep/b.wav"):
        folder, _, file_name = name.rpartition("/")
        add_member(f"./{folder}/._{file_name}" if folder else f"./._{file_name}", b"\0\5\x16\7")
        add_member(f"./{name}", wav if name.endswith(".wav") else b"Text.")
    add_member("._.", b"\0\5\x16\7")
    data = load_source(tmp_path, SOURCE)
    assert get_locations(data) == ["x.tar/a.wav", "x.tar/deep/b.wav"]
    assert data.sources[0].skipped_not_audio == 5 and get_issues(data) == []


@pytest.mark.parametrize("stem", ["talk_11.708", "talk_11.708_13.970", "Track 2.0", "v1.2.3"])
def test_numbers_behind_dots_belong_to_the_key(tmp_path: Path, stem: str) -> None:
    """Seconds, spans, versions in a name; `a.clean.wav` still is a recording of sample a."""
    add_member = make_tar_writer(tmp_path / "x.tar")
    for name in (f"{stem}.wav", f"{stem}.txt", "a.clean.wav", "a.txt"):
        add_member(name, read_recording(tmp_path) if name.endswith(".wav") else b"Text.")
    data = load_source(tmp_path, SOURCE)
    assert get_locations(data) == [f"x.tar/{stem}.wav", "x.tar/a.clean.wav"]
