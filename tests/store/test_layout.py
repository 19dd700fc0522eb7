"""Where the store is."""

from pathlib import Path

import pytest

from dlm.store.layout import home, locate


def test_home_is_dlm_home_or_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/ada")
    monkeypatch.delenv("DLM_HOME", raising=False)
    assert home() == Path("/people/ada/.dlm")
    monkeypatch.setenv("DLM_HOME", "~/sounds")
    assert home() == Path("/people/ada/sounds")
    assert locate("01HZ").root == Path("/people/ada/sounds/store/01HZ")


def test_the_paths_are_those_of_the_drawing() -> None:
    layout = locate("01HZ", Path("/home"))
    paths = (layout.manifest, layout.version(12), layout.current, layout.blob("ab"), layout.lock)
    assert [str(path.relative_to("/home/store/01HZ")) for path in paths] == [
        "manifest.json",
        "adapter/versions/v0012",
        "adapter/current.txt",
        "blobs/ab",
        "lock",
    ]
    assert (layout.features.name, layout.runs.name, layout.exports.name) == (
        "features",
        "runs",
        "exports",
    )
