"""Where the store is."""

from pathlib import Path

import pytest

from dlm.store.layout import get_dlm_home, get_store_layout


def test_home_is_dlm_home_or_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/ada")
    monkeypatch.delenv("DLM_HOME", raising=False)
    assert get_dlm_home() == Path("/people/ada/.dlm")
    monkeypatch.setenv("DLM_HOME", "~/sounds")
    assert get_dlm_home() == Path("/people/ada/sounds")
    assert get_store_layout("01HZ").root == Path("/people/ada/sounds/store/01HZ")


def test_the_paths_are_those_of_the_drawing() -> None:
    layout = get_store_layout("01HZ", Path("/home"))
    paths = (
        layout.manifest_path,
        layout.version_dir(12),
        layout.current_path,
        layout.blob_path("ab"),
        layout.lock_path,
    )
    assert [str(path.relative_to("/home/store/01HZ")) for path in paths] == [
        "manifest.json",
        "adapter/versions/v0012",
        "adapter/current.txt",
        "blobs/ab",
        "lock",
    ]
    assert (layout.features_dir.name, layout.runs_dir.name, layout.exports_dir.name) == (
        "features",
        "runs",
        "exports",
    )
