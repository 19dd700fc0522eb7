"""What lies in a tar, where, and the message of every tar that is refused."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from dlm.data.audio_io import load_audio
from dlm.data.readers.webdataset import TarMember, expand_tar_pattern, iter_tar_members
from dlm.data.types import AudioSegment
from dlm.errors import DataError
from tests.data.gathering import faults, gathered, spoken
from tests.data.keepers_trees import tar_of
from tests.data.sounds import RATE, save


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(iter_tar_members(path))
    assert caught.value.hint
    return str(caught.value)


def test_each_member_lies_where_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    add = tar_of(path)
    held = {"a.wav": b"RIFF", "deep/b.txt": b"words" * 300, "n" * 150 + ".txt": b"", "ü.txt": b"1"}
    add("deep", type=tarfile.DIRTYPE)
    for name, data in held.items():
        add(name, data)
    whole = path.read_bytes()
    found = {
        each.name: whole[each.offset : each.offset + each.size] for each in iter_tar_members(path)
    }
    assert found == held


def test_every_form_of_tar_is_read(tmp_path: Path) -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        entry = tarfile.TarInfo("./a.txt")
        entry.size, entry.mtime = 3, 1.5
        with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
            tar.addfile(entry, io.BytesIO(b"abc"))
        (member,) = iter_tar_members(tmp_path / "x.tar")
        assert isinstance(member, TarMember) and member.name == "a.txt"
        assert (tmp_path / "x.tar").read_bytes()[member.offset :][:3] == b"abc"


@pytest.mark.parametrize(
    ("name", "header", "what"),
    [
        ("../a.wav", {}, "its member ../a.wav leads out of it"),
        ("b/../../a.wav", {}, "its member b/../../a.wav leads out of it"),
        ("/etc/a.wav", {}, "its member /etc/a.wav leads out of it"),
        ("..\\a.wav", {}, "leads out of it"),
        ("a.wav", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "no plain file but a link"),
        ("a.wav", {"type": tarfile.LNKTYPE, "linkname": "b"}, "no plain file but a link"),
        ("a.wav", {"type": tarfile.CHRTYPE}, "no plain file but a device"),
        ("a.wav", {"type": tarfile.FIFOTYPE}, "no plain file but a device, a pipe"),
        ("a\udcff.wav", {}, "the name of its member a\\udcff.wav is not UTF-8"),
    ],
)
def test_a_member_that_is_not_to_be_trusted(tmp_path: Path, name, header, what: str) -> None:
    add = tar_of(tmp_path / "x.tar")
    add("ok.wav", b"RIFF")
    add(name, **header)
    line = refusal(tmp_path / "x.tar")
    assert what in line and line.endswith(
        "; make the tar again of plain files, with `tar --sort=name -cf`"
    )


def test_a_tar_that_is_cut_short(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar")("a.wav", bytes(5000))
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:2000])
    assert refusal(tmp_path / "x.tar") == (
        "it is cut short: its member a.wav has 5000 bytes, and 1488 are there; copy it again"
    )


def test_a_tar_with_a_damaged_header(tmp_path: Path) -> None:
    add = tar_of(tmp_path / "x.tar")
    add("a.wav", b"1")
    add("b.wav", b"2")
    whole = bytearray((tmp_path / "x.tar").read_bytes())
    whole[1024 + 150] ^= 0xFF  # in the checksum of the second header
    (tmp_path / "x.tar").write_bytes(whole)
    assert refusal(tmp_path / "x.tar") == "it is damaged at byte 1024; copy it again"


def test_what_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(b"words"))
    assert refusal(path) == (
        "the tar is compressed (gzip), and a recording in it cannot be found; "
        "unpack it: `gunzip x.tar`"
    )
    path.write_bytes(b"words" * 200)
    assert refusal(path).startswith("it is no tar, or a damaged one (")
    path.write_bytes(b"")
    assert refusal(path).startswith("it is no tar, or a damaged one (empty file)")
    path.unlink()
    assert refusal(path) == "the tar is not there; put it there, or correct the path"
    os.mkfifo(path)
    assert refusal(path) == "it is not a regular file; name a .tar"


@drawn(data=st.data())
def test_a_damaged_tar_is_told_and_ends(data: st.DataObject, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("tars") / "x.tar"
    add = tar_of(path)
    add("a.wav", bytes(700))
    add("n" * 120, b"words", pax_headers={"comment": "x" * 600})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        found = list(iter_tar_members(path))
    except DataError as error:
        assert error.hint
    else:
        assert all(0 <= each.offset <= each.offset + each.size <= len(whole) for each in found)


def test_braces_are_expanded(tmp_path: Path) -> None:
    named = [path.name for path in expand_tar_pattern(tmp_path / "{a,b}-{08..11}.tar")]
    assert named == [
        f"{letter}-{number}.tar" for letter in "ab" for number in ("08", "09", "10", "11")
    ]
    (tmp_path / "{1..2}.tar").write_bytes(b"")
    assert expand_tar_pattern(tmp_path / "{1..2}.tar") == [tmp_path / "{1..2}.tar"]
    for pattern in ("{5..4}.tar", "{0..999999999}.tar"):
        with pytest.raises(DataError, match="stands for no tar, or for too many"):
            expand_tar_pattern(tmp_path / pattern)


TAR = {"path": "x.tar"}


def sound(folder: Path) -> bytes:
    return save(folder / "away/a.wav").read_bytes()


def test_a_sample_tells_who_speaks_in_which_language(tmp_path: Path) -> None:
    add = tar_of(tmp_path / "x.tar")
    add("deep/a.flac", save(tmp_path / "a.flac").read_bytes())
    add("deep/a.json", b'{"sentence": "Oui.", "locale": "fr-FR", "speaker_id": 7, "x": [1]}')
    add("deep/b.wav", sound(tmp_path))
    add("deep/b.txt", b"\xef\xbb\xbfNon.\r\n")
    add("deep/b.cls", b"1")
    found = gathered(tmp_path, TAR)
    assert faults(found) == []
    assert spoken(found) == [
        ("x.tar/deep/a.flac", "Oui.", "7", "fr"),
        ("x.tar/deep/b.wav", "Non.", None, None),
    ]
    (first, second) = (clip.audio_segments[0] for clip in found.examples)
    assert first.path == tmp_path / "x.tar" and first.byte_range is not None
    whole = load_audio(AudioSegment(tmp_path / "a.flac"), sample_rate=RATE, resample=False)
    np.testing.assert_array_equal(load_audio(first, sample_rate=RATE, resample=False), whole)
    assert first != second


def test_a_folder_of_tars_is_a_shard_for_each(tmp_path: Path) -> None:
    for number in range(2):
        add = tar_of(tmp_path / f"shards/{number}.tar")
        add("a.wav", sound(tmp_path))
        add("a.txt", b"Hi.")
    found = gathered(tmp_path, {"path": "shards"})
    assert [place for place, *_ in spoken(found)] == ["shards/0.tar/a.wav", "shards/1.tar/a.wav"]


def test_a_part_is_taken_by_the_names_of_the_tars(tmp_path: Path) -> None:
    for name in ("train-000", "train-001", "dev/000", "test-000"):
        add = tar_of(tmp_path / f"shards/{name}.tar")
        add("a.wav", sound(tmp_path))
        add("a.txt", b"Hi.")
    found = gathered(tmp_path, {"path": "shards"})
    assert [place for place, *_ in spoken(found)] == [
        "shards/train-000.tar/a.wav",
        "shards/train-001.tar/a.wav",
    ]
    assert found.sources[0].skipped_other_split == 2
    found = gathered(tmp_path, {"path": "shards", "split": "validation"})
    assert [place for place, *_ in spoken(found)] == ["shards/dev/000.tar/a.wav"]
    for name in ("train-000", "train-001", "test-000"):
        (tmp_path / f"shards/{name}.tar").unlink()
    assert len(gathered(tmp_path, {"path": "shards"}).examples) == 1


def test_a_tar_beside_recordings_is_not_what_is_meant(tmp_path: Path) -> None:
    tar_of(tmp_path / "corpus/old.tar")("a.wav")
    save(tmp_path / "corpus/b.wav").with_suffix(".txt").write_text("Hi.")
    found = gathered(tmp_path, {"path": "corpus"})
    assert [place for place, *_ in spoken(found)] == ["corpus/b.wav"]


def test_a_compressed_tar_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(b"words"))
    (line,) = faults(gathered(tmp_path, {"path": "x.tar.gz"}))
    assert line.startswith("x.tar.gz: the tar is compressed (gzip), and a recording in it cannot")


def test_patterns_mean_the_members(tmp_path: Path) -> None:
    add = tar_of(tmp_path / "x.tar")
    for name in ("a.wav", "out/b.wav"):
        add(name, sound(tmp_path))
        add(name.replace("wav", "txt"), b"Hi.")
    found = gathered(tmp_path, {**TAR, "include": ["**/*.wav"], "exclude": ["out/**"]})
    assert [place for place, *_ in spoken(found)] == ["x.tar/a.wav"]
    assert found.sources[0].skipped_excluded == 1


def test_what_a_tar_has_too_little_of(tmp_path: Path) -> None:
    add = tar_of(tmp_path / "x.tar")
    add("a.wav", sound(tmp_path))
    add("b.txt", b"Hi.")
    add("c.json", b"[1]")
    add("c.wav", b"")
    add("d.wav", b"")
    add("d.txt", b"\xff")
    add("e.json", b"{")
    add("e.wav", b"")
    add("f.txt", b" ")
    add("f.wav", b"")
    add("g.json", b'{"words": "x"}')
    add("g.wav", b"")
    add("README.md", b"")
    found = gathered(tmp_path, TAR)
    (report,) = found.sources
    assert found.examples == ()
    assert report.skipped_audio_no_transcript == 1 and report.skipped_rows_no_audio == 1
    assert report.skipped_not_audio == 1
    lines = faults(found)
    assert lines[:3] == [
        'x.tar/c: c.json is not an object; write {"text": ...}',
        "x.tar/d: d.txt is not UTF-8 (byte 1); save it as UTF-8",
        "x.tar/e: e.json is not JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)); correct it",
    ]
    assert lines[3].startswith("x.tar/f: AUDIO section has empty transcript; ")
    assert lines[4] == (
        "x.tar/g: no column of text: it has words; say which it is with columns: {text: ...}"
    )


def test_members_of_a_sample_that_do_not_lie_together(tmp_path: Path) -> None:
    add = tar_of(tmp_path / "x.tar")
    add("a.wav", sound(tmp_path))
    add("b.wav", sound(tmp_path))
    add("a.txt", b"Hi.")
    assert faults(gathered(tmp_path, TAR))[0] == (
        "x.tar/a: the sample comes again, after others; "
        "put its members together: make the tar with `--sort=name`"
    )


def test_a_sample_of_two_recordings(tmp_path: Path) -> None:
    add = tar_of(tmp_path / "x.tar")
    add("a.clean.wav", sound(tmp_path))
    add("a.noisy.wav", b"")
    add("a.txt", b"Hi.")
    (line,) = faults(gathered(tmp_path, TAR))
    assert line == (
        "x.tar/a: 2 recordings in one sample: clean.wav, noisy.wav; "
        "say which is used with columns: {audio: clean.wav}"
    )
    found = gathered(tmp_path, {**TAR, "columns": {"audio": "clean.wav"}})
    assert [place for place, *_ in spoken(found)] == ["x.tar/a.clean.wav"]


def test_a_bad_tar_is_told_with_its_name(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar")("../a.wav")
    assert faults(gathered(tmp_path, TAR))[0].startswith(
        "x.tar: its member ../a.wav leads out of it; "
    )
    found = gathered(tmp_path, {"path": "{0..1}.tar"})
    assert faults(found) == [
        "my.dlm:7: source not found: {0..1}.tar; make the folder or correct its path"
    ]
    (tmp_path / "x.tar").rename(tmp_path / "1.tar")
    assert faults(gathered(tmp_path, {"path": "{0..1}.tar"}))[0] == (
        "0.tar: the tar is not there; put it there, or correct the path"
    )


def test_strict_keeps_tars_inside(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar")("a.wav")
    (tmp_path / "here").mkdir()
    (line,) = faults(gathered(tmp_path / "here", {"path": "../x.tar"}, policy="strict"))
    assert "../x.tar lies outside the document's folder, and sources_policy is strict" in line
