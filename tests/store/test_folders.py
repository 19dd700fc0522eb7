"""A folder that takes the place of another: whole, or not at all."""

from pathlib import Path

import pytest

from dlm.store.versions import replace_dir


def writes(text: str):
    def fill(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)

    return fill


def breaks(folder: Path) -> None:
    (folder / "half.txt").write_text("half")
    raise ValueError("it broke")


def test_it_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "new" / "place"
    for text in ("one", "two"):
        replace_dir(place, writes(text))
        (place / "left.txt").write_text("of an earlier time")
    replace_dir(place, writes("three"))
    assert [path.name for path in place.rglob("*")] == ["sub", "a.txt"]
    assert (place / "sub" / "a.txt").read_text() == "three"
    assert list(place.parent.iterdir()) == [place], "nothing is left beside it"


def test_what_was_there_stays_when_writing_breaks(tmp_path: Path) -> None:
    place = tmp_path / "place"
    replace_dir(place, writes("whole"))
    with pytest.raises(ValueError, match="it broke"):
        replace_dir(place, breaks)
    assert [path.name for path in place.rglob("*")] == ["sub", "a.txt"]
    assert list(tmp_path.iterdir()) == [place]
