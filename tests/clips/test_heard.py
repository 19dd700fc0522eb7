"""How sounds are looked at: all of them decoded, or a sample of a great many."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from dlm.clips.audit import Audit, audit
from dlm.clips.clip import Clip, Sound, Turn
from dlm.clips.heard import FULL_LISTEN, identity
from dlm.clips.sources import Gathered
from dlm.document.intake import Audio
from dlm.errors import ClipError
from tests.clips.sounds import RATE, noise, save, spoken

MORE = FULL_LISTEN + 50


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """More clips than are all decoded, each a span of one recording."""
    path = save(tmp_path_factory.mktemp("long") / "a.wav", noise(0.1 * (MORE + 1)))
    return [spoken(path, f"clip number {n}", start=n / 10, end=n / 10 + 0.1) for n in range(MORE)]


def looked_at(clips: list[Clip], **how: bool) -> Audit:
    given = {"rate": RATE, "window_seconds": 30.0, "taken_in": Audio()}
    return audit(Gathered(tuple(clips), (), ()), **given, **how)


def test_of_many_sounds_a_sample_is_heard_and_the_headers_of_all(spans: list[Clip]) -> None:
    report = looked_at(spans)
    facts = list(report.facts)
    assert (report.clips, report.sounds, report.heard) == (MORE, MORE, FULL_LISTEN)
    assert {each.seconds for each in facts} == {0.1} and {each.rate for each in facts} == {RATE}
    heard = [each for each in facts if each.peak is not None]
    assert len(heard) == FULL_LISTEN
    assert all(each.rms is None and not each.content for each in facts if each.peak is None)
    assert {each.sha256 for each in facts} == {""}  # nothing is hashed where there are so many
    assert [each.peak for each in looked_at(spans).facts] == [each.peak for each in facts]
    assert sum(report.lengths.counts) == MORE and sum(report.levels.counts) == FULL_LISTEN


def test_all_are_heard_where_that_is_asked(spans: list[Clip]) -> None:
    report = looked_at(spans, full=True)
    assert report.heard == MORE
    path = spans[0].sounds[0].path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert {each.sha256 for each in report.facts} == {digest}


def test_headers_tell_what_is_missing_and_cut(spans: list[Clip], tmp_path: Path) -> None:
    cut = save(tmp_path / "cut.wav")
    os.truncate(cut, 5000)
    bad = [spoken(tmp_path / "gone.wav"), spoken(cut), spoken(spans[0].sounds[0].path, start=1e6)]
    report = looked_at([*spans, *bad])
    told = [str(problem) for problem in report.fatal]
    assert len(told) == 3
    assert "audio not found: gone.wav" in told[0] and "it is cut short" in told[1]
    assert "lies outside the recording" in told[2]
    assert len(report.facts) == MORE


def test_sounds_in_one_archive_are_told_apart(tmp_path: Path) -> None:
    files = [save(tmp_path / f"{n}.wav", noise(seed=n)).read_bytes() for n in range(2)]
    archive = tmp_path / "clips.bin"
    archive.write_bytes(b"".join(files))
    starts = [0, len(files[0])]
    clips = [
        Clip(
            (
                Turn("user", (Sound(archive, inside=(start, len(file)), written=f"{n}"),)),
                Turn("assistant", (f"words of {n}",)),
            ),
            f"clips.bin:{n}",
            "transcribe",
        )
        for n, (start, file) in enumerate(zip(starts, files, strict=True))
    ]
    report = looked_at(clips)
    assert not report.problems
    assert [each.sha256 for each in report.facts] == [
        hashlib.sha256(file).hexdigest() for file in files
    ]


def test_an_identity_follows_size_time_and_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    whole = np.random.default_rng(0).bytes(300_000)
    path.write_bytes(whole)
    os.utime(path, (1, 1))
    known = identity(Sound(path))
    assert identity(Sound(path)) == known
    for changed in (b"x" + whole[1:], whole[:-1] + b"x", whole + b"x"):
        path.write_bytes(changed)
        os.utime(path, (1, 1))
        assert identity(Sound(path)) != known
    path.write_bytes(whole)
    os.utime(path, (2, 2))
    assert identity(Sound(path)) != known
    assert len({identity(Sound(path, inside=(start, 1000))) for start in (0, 1000)}) == 2
    with pytest.raises(ClipError, match="audio not found"):
        identity(Sound(tmp_path / "gone"))
