"""Which files a pattern means, and a walk that ends."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.file_globs import expand_braces, list_files, matches_glob
from dlm.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("**/*.wav", ["a.wav", "x/a.wav", "x/y/a.wav", "A.WAV", "x/a.Wav"], ["a.wavy", "a.flac"]),
        ("**/*", ["a.wav", "x/y/z"], []),
        ("**", ["a", "x/a.wav"], []),
        ("*.wav", ["a.wav", ".wav"], ["x/a.wav"]),
        ("x/**", ["x/a.wav", "x/y/a"], ["x", "y/a", "xx/a"]),
        ("x/", ["x/a.wav", "x/y/a"], ["y/a"]),
        ("./x/*.wav", ["x/a.wav"], ["a.wav", "x/y/a.wav"]),
        ("x/**/y/*.ogg", ["x/y/a.ogg", "x/1/2/y/a.ogg"], ["x/a.ogg", "x/1/a.ogg"]),
        ("**/**/a.wav", ["a.wav", "x/a.wav", "x/y/a.wav"], ["xa.wav"]),
        ("a?.wav", ["ab.wav", "aé.wav"], ["a.wav", "abc.wav", "a/.wav"]),
        ("*.{wav,flac}", ["a.wav", "a.FLAC"], ["a.ogg", "a.wav,flac"]),
        ("{x,y/z}/{a,b}*.wav", ["x/a1.wav", "y/z/b.wav"], ["y/a.wav", "z/a.wav"]),
        ("{a,b{1,2}}.wav", ["a.wav", "b1.wav", "b2.wav"], ["b.wav", "b12.wav"]),
        ("a{b.wav", ["a{b.wav"], ["ab.wav"]),
        ("a[1].wav", ["a[1].wav"], ["a1.wav"]),
        ("Speech/*.wav", ["Speech/a.wav"], ["speech/a.wav"]),
        ("a+(b).wav", ["a+(b).wav"], ["aab.wav"]),
        ("*.*", ["a.wav", "a.b.c"], ["a"]),
    ],
)
def test_what_a_pattern_means(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not matches_glob(path, [pattern])] == []
    assert [path for path in no if matches_glob(path, [pattern])] == []


def test_no_pattern_means_nothing() -> None:
    assert not matches_glob("a.wav", [])
    assert matches_glob("a.wav", ["*.ogg", "*.wav"])


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
PARTS = st.one_of(
    st.just("**"),
    st.text("ab.*?", min_size=1, max_size=4).filter(lambda p: "**" not in p and p != "."),
)


@given(parts=st.lists(PARTS, min_size=1, max_size=4), names=st.lists(NAMES, min_size=1, max_size=4))
def test_a_pattern_means_what_its_definition_says(parts: list[str], names: list[str]) -> None:
    assert matches_glob("/".join(names), ["/".join(parts)]) == means(parts, names)


def means(parts: list[str], names: list[str]) -> bool:
    """The definition, one folder at a time."""
    if not parts:
        return not names
    if parts[0] == "**":
        if len(parts) == 1:
            return bool(names)
        return means(parts[1:], names) or (bool(names) and means(parts, names[1:]))
    return bool(names) and spells(parts[0], names[0]) and means(parts[1:], names[1:])


def spells(part: str, name: str) -> bool:
    if not part:
        return not name
    if part[0] == "*":
        return spells(part[1:], name) or (bool(name) and spells(part, name[1:]))
    return bool(name) and part[0] in ("?", name[0]) and spells(part[1:], name[1:])


@given(st.text("ab{},/*", max_size=12))
def test_any_braces_end_in_patterns(pattern: str) -> None:
    assert expand_braces(pattern)
    assert matches_glob(pattern, [pattern]) in (True, False)


@pytest.mark.parametrize("pattern", ["*a" * 12 + "c", "**/a/" * 12 + "x", "**/" + "*a*/" * 9 + "c"])
def test_stars_that_could_mean_anything_are_soon_refused(pattern: str) -> None:
    began = time.perf_counter()
    assert not matches_glob("a" * 60 + "/aa" * 60, [pattern])
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("pattern", ["{a,b}" * 24, "{a}" * 5000, "{" * 5000 + "}" * 5000])
def test_braces_that_stand_for_too_much_are_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="a pattern of more than .*; write several patterns"):
        matches_glob("a", [pattern])


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in list_files(root).files]


def test_a_walk_is_sorted_and_skips_what_is_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.wav", "a/2.wav", "a/10.wav", ".git/c.wav", "a/.d.wav", "._b.wav")
    assert names(tmp_path) == ["a/10.wav", "a/2.wav", "b.wav"]


def test_a_walk_of_a_file_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "b.wav")
    assert list_files(tmp_path / "b.wav").files == (tmp_path / "b.wav",)


def test_links_that_lead_round_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.wav", "b/2.wav")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/b").symlink_to(tmp_path / "b")
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    (tmp_path / "b/self").symlink_to(tmp_path / "b/self")
    assert names(tmp_path) == ["a/1.wav", "b/2.wav", "b/self"]


def test_a_linked_folder_is_entered(tmp_path: Path) -> None:
    touch(tmp_path, "far/1.wav", "here/2.wav")
    (tmp_path / "here/link").symlink_to(tmp_path / "far")
    assert names(tmp_path / "here") == ["2.wav", "link/1.wav"]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch) -> None:
    touch(tmp_path, "a/1.wav", "b/2.wav")
    plain = Path.iterdir

    def listed(folder: Path):
        if folder.name == "a":
            raise PermissionError(13, "Permission denied")
        return plain(folder)

    monkeypatch.setattr(Path, "iterdir", listed)
    assert list_files(tmp_path).unreadable_folders == (tmp_path / "a",)
    assert names(tmp_path) == ["b/2.wav"]
