"""Glob patterns: what they match, soon and by their definition; and the listing of folders."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.data.file_globs import expand_braces, list_files, matches_glob
from dlm.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
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
def test_a_pattern_matches(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [path for path in matching if not matches_glob(path, [pattern])] == []
    assert [path for path in others if matches_glob(path, [pattern])] == []


def test_one_of_several_patterns_is_enough_and_none_matches_nothing() -> None:
    assert not matches_glob("a.wav", [])
    assert matches_glob("a.wav", ["*.ogg", "*.wav"])


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
NAME_PATTERNS = st.one_of(
    st.just("**"),
    st.text("ab.*?", min_size=1, max_size=4).filter(lambda name: "**" not in name and name != "."),
)


@given(
    patterns=st.lists(NAME_PATTERNS, min_size=1, max_size=4),
    names=st.lists(NAMES, min_size=1, max_size=4),
)
def test_a_pattern_matches_by_its_definition(patterns: list[str], names: list[str]) -> None:
    assert matches_glob("/".join(names), ["/".join(patterns)]) == matches_path(patterns, names)


def matches_path(patterns: list[str], names: list[str]) -> bool:
    """The definition, one folder at a time."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        if len(patterns) == 1:
            return bool(names)
        rest = bool(names) and matches_path(patterns, names[1:])
        return matches_path(patterns[1:], names) or rest
    first = bool(names) and matches_name(patterns[0], names[0])
    return first and matches_path(patterns[1:], names[1:])


def matches_name(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return matches_name(pattern[1:], name) or (bool(name) and matches_name(pattern, name[1:]))
    first = bool(name) and pattern[0] in ("?", name[0])
    return first and matches_name(pattern[1:], name[1:])


@given(st.text("ab{},/*", max_size=12))
def test_any_braces_can_be_expanded(pattern: str) -> None:
    assert expand_braces(pattern)
    assert matches_glob(pattern, [pattern]) in (True, False)


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 12 + "c", "**/a/" * 12 + "x", "**/" + "*a*/" * 9 + "c", "**/a*/" * 8 + "x"],
)
def test_patterns_of_many_stars_take_no_exponential_time(pattern: str) -> None:
    start = time.perf_counter()
    for path in ("a" * 60 + "/aa" * 60, "a" * 60, "/".join(["aa"] * 40)):
        assert not matches_glob(path, [pattern])
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("pattern", ["{a,b}" * 24, "{a}" * 5000, "{" * 5000 + "}" * 5000])
def test_braces_that_stand_for_too_many_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="a pattern of more than ") as caught:
        matches_glob("a", [pattern])
    assert caught.value.code == "data.pattern_too_large"


def touch_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def list_names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in list_files(root).files]


def test_a_listing_is_sorted_and_leaves_out_hidden_files(tmp_path: Path) -> None:
    touch_files(tmp_path, "b.wav", "a/2.wav", "a/10.wav", ".git/c.wav", "a/.d.wav", "._b.wav")
    assert list_names(tmp_path) == ["a/10.wav", "a/2.wav", "b.wav"]


def test_the_listing_of_a_file_is_that_file(tmp_path: Path) -> None:
    touch_files(tmp_path, "b.wav")
    assert list_files(tmp_path / "b.wav").files == (tmp_path / "b.wav",)


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    touch_files(tmp_path, "a/1.wav", "b/2.wav")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/b").symlink_to(tmp_path / "b")
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    (tmp_path / "b/self").symlink_to(tmp_path / "b/self")
    assert list_names(tmp_path) == ["a/1.wav", "b/2.wav", "b/self"]


def test_a_linked_folder_is_listed(tmp_path: Path) -> None:
    touch_files(tmp_path, "far/1.wav", "here/2.wav")
    (tmp_path / "here/link").symlink_to(tmp_path / "far")
    assert list_names(tmp_path / "here") == ["2.wav", "link/1.wav"]


def test_a_folder_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch_files(tmp_path, "a/1.wav", "b/2.wav")
    iterdir = Path.iterdir

    def refuse_a(folder: Path) -> Iterator[Path]:
        if folder.name == "a":
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse_a)
    assert list_files(tmp_path).unreadable_folders == (tmp_path / "a",)
    assert list_names(tmp_path) == ["b/2.wav"]
