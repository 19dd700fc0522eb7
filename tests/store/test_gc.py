"""Files that nobody needs are found and removed; what a version was trained on stays."""

from hashlib import sha256
from pathlib import Path

import pytest

from dlm.errors import StoreError
from dlm.store.gc import find_garbage, remove_garbage
from dlm.store.records import RecordingHash
from dlm.store.runs import find_resumable_run, list_runs, persist_events
from dlm.store.versions import Store
from tests.store.fake_runs import iter_events, make_run_record, make_version_record, write_weights

CACHE_SUFFIX = f"-{'0' * 64}.safetensors"


@pytest.fixture
def blobs(store: Store, tmp_path: Path) -> dict[str, str]:
    """Three recordings in the store, each with features; a version was trained on `old`."""
    hashes = {}
    for name in ("old", "there", "gone"):
        recording = tmp_path / f"{name}.wav"
        recording.write_bytes(name.encode() * 1000)
        with recording.open("rb") as file:
            hashes[name] = store.add_blob(file)
        features = store.layout.features_dir / f"{hashes[name]}{CACHE_SUFFIX}"
        features.parent.mkdir(exist_ok=True)
        features.write_bytes(b"12345")
    recordings = (RecordingHash("clips/old.wav", hashes["old"]),)
    store.commit_version(
        lambda folder: write_weights(1.0, folder), make_version_record(train_recordings=recordings)
    )
    return hashes


def list_garbage(store: Store, *referenced: str) -> list[tuple[str, str]]:
    return [(item.kind, item.path.name) for item in find_garbage(store, referenced)]


def test_copies_of_recordings_that_were_removed_are_found(
    store: Store, blobs: dict[str, str]
) -> None:
    assert list_garbage(store, blobs["there"]) == [
        ("recordings", blobs["gone"]),
        *sorted(("features", blobs[name] + CACHE_SUFFIX) for name in ("old", "gone")),
    ]
    assert list_garbage(store, *blobs.values()) == []


def test_nothing_else_is_removed(store: Store, blobs: dict[str, str]) -> None:
    remove_garbage(store, find_garbage(store, [blobs["there"]]))
    assert {path.name for path in store.layout.blobs_dir.iterdir()} == {
        blobs["old"],
        blobs["there"],
    }
    assert [path.name[:64] for path in store.layout.features_dir.iterdir()] == [blobs["there"]]
    assert store.verify_files() == () and len(store.list_versions()) == 1
    assert list_garbage(store, blobs["there"]) == []


def test_items_have_sizes_and_the_names_that_runs_know(store: Store, blobs: dict[str, str]) -> None:
    recordings = (RecordingHash("clips/gone.wav", blobs["gone"]),)
    record = make_run_record(train_recordings=recordings)
    list(persist_events(iter_events(), store, record=record))
    recording, *features = find_garbage(store, ())
    # two versions were trained on the other recordings
    assert (recording.kind, recording.name, recording.size_bytes) == ("recordings", None, 5000)
    assert {(item.name, item.size_bytes) for item in features} == {("clips/gone.wav", 5), (None, 5)}


def test_a_teachers_answers_are_removed_with_anything_else(
    store: Store, blobs: dict[str, str]
) -> None:
    answer = store.layout.features_dir / f"{sha256(b'answer').hexdigest()}.safetensors"
    answer.write_bytes(b"words")
    assert list_garbage(store, *blobs.values()) == []
    assert ("answers", answer.name) in list_garbage(store, blobs["old"], blobs["there"])


def test_unfinished_features_of_dead_processes_are_found(
    store: Store, blobs: dict[str, str]
) -> None:
    alive = store.layout.features_dir / "a.1.pending"  # process 1 always lives
    dead = store.layout.features_dir / f"b.{1 << 22}.pending"
    for path in (alive, dead):
        path.write_bytes(b"half")
    assert list_garbage(store, *blobs.values()) == [("unfinished", dead.name)]


def test_only_the_newest_unfinished_run_stays_resumable(
    store: Store, blobs: dict[str, str]
) -> None:
    for _ in range(2):
        for event in persist_events(iter_events(), store, record=make_run_record()):
            if type(event).__name__ == "CheckpointSaved":
                break
    older, newer = list_runs(store)
    garbage = find_garbage(store, blobs.values())
    assert [item.path for item in garbage] == [older.checkpoint_dir]
    remove_garbage(store, garbage)
    assert [run.status for run in list_runs(store)] == ["abandoned", "unfinished"]
    assert find_resumable_run(store) == newer
    assert not older.checkpoint_dir.exists() and newer.checkpoint_dir.exists()


def test_a_link_out_of_the_store_is_not_followed(
    store: Store, blobs: dict[str, str], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    link = store.layout.blobs_dir / ("a" * 64)
    link.symlink_to(outside)
    with pytest.raises(StoreError) as caught:
        remove_garbage(store, find_garbage(store, blobs.values()))
    assert caught.value.code == "store.outside"
    assert (outside / "precious").exists() and link.is_symlink()
