"""What nobody needs is found and removed; what a version learned from stays."""

from hashlib import sha256
from pathlib import Path

import pytest

from dlm.errors import StoreError
from dlm.store.gc import find_garbage, remove_garbage
from dlm.store.records import RecordingHash
from dlm.store.runs import find_resumable_run, list_runs, persist_events
from dlm.store.versions import Store
from tests.store.fake_runs import facts, fit, version_facts, weights


@pytest.fixture
def blobs(store: Store, tmp_path: Path) -> dict[str, str]:
    """Three recordings in the store by name, each with features; a version learned from `old`."""
    kept = {}
    for name in ("old", "there", "gone"):
        sound = tmp_path / f"{name}.wav"
        sound.write_bytes(name.encode() * 1000)
        kept[name] = store.add_blob(sound)
        features = store.layout.features_dir / f"{kept[name]}-{'0' * 64}.safetensors"
        features.parent.mkdir(exist_ok=True)
        features.write_bytes(b"heard")
    learned = (RecordingHash("clips/old.wav", kept["old"]),)
    store.commit_version(
        lambda folder: weights(1.0, folder), version_facts(train_recordings=learned)
    )
    return kept


def told(store: Store, *named: str) -> list[tuple[str, str]]:
    return [(each.kind, each.path.name) for each in find_garbage(store, named)]


def test_copies_of_what_was_taken_out_are_found(store: Store, blobs: dict[str, str]) -> None:
    dash = f"-{'0' * 64}.safetensors"
    assert told(store, blobs["there"]) == [
        ("recordings", blobs["gone"]),
        *sorted(("features", blobs[name] + dash) for name in ("old", "gone")),
    ]
    assert told(store, *blobs.values()) == []


def test_only_that_is_removed(store: Store, blobs: dict[str, str]) -> None:
    remove_garbage(store, find_garbage(store, [blobs["there"]]))
    assert {each.name for each in store.layout.blobs_dir.iterdir()} == {
        blobs["old"],
        blobs["there"],
    }
    assert [each.name[:64] for each in store.layout.features_dir.iterdir()] == [blobs["there"]]
    assert store.verify_versions() == () and len(store.list_versions()) == 1
    assert told(store, blobs["there"]) == []


def test_bytes_are_counted_and_names_known(store: Store, blobs: dict[str, str]) -> None:
    """A run knows what it was told of: the names are those of the document it learned from."""
    learned = (RecordingHash("clips/gone.wav", blobs["gone"]),)
    list(persist_events(fit(), store, record=facts(train_recordings=learned)))
    found = find_garbage(store, ())
    assert [(each.kind, each.name, each.size_bytes) for each in found[:1]] == [
        ("recordings", None, 5000)  # two versions learned from the others
    ]
    assert {(each.name, each.size_bytes) for each in found[1:]} == {
        ("clips/gone.wav", 5),
        (None, 5),
    }


def test_a_teachers_answers_go_with_anything_else(store: Store, blobs: dict[str, str]) -> None:
    answer = store.layout.features_dir / f"{sha256(b'answer').hexdigest()}.safetensors"
    answer.write_bytes(b"words")
    assert told(store, *blobs.values()) == []
    assert ("answers", answer.name) in told(store, blobs["old"], blobs["there"])


def test_what_a_kill_left_of_a_feature_is_found(store: Store, blobs: dict[str, str]) -> None:
    mine = store.layout.features_dir / "a.1.pending"  # process 1 always lives
    left = store.layout.features_dir / f"b.{1 << 22}.pending"
    for path in (mine, left):
        path.write_bytes(b"half")
    assert told(store, *blobs.values()) == [("unfinished", left.name)]


def test_only_the_newest_run_can_go_on(store: Store, blobs: dict[str, str]) -> None:
    for _ in range(2):
        for event in persist_events(fit(), store, record=facts()):
            if type(event).__name__ == "CheckpointSaved":
                break
    older, newer = list_runs(store)
    assert [each.path for each in find_garbage(store, blobs.values())] == [older.checkpoint_dir]
    remove_garbage(store, find_garbage(store, blobs.values()))
    assert [run.status for run in list_runs(store)] == ["abandoned", "unfinished"]
    assert (
        find_resumable_run(store) == newer
        and not older.checkpoint_dir.exists()
        and newer.checkpoint_dir.exists()
    )


def test_a_link_out_of_the_store_is_not_followed(
    store: Store, blobs: dict[str, str], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("keep")
    link = store.layout.blobs_dir / ("a" * 64)
    link.symlink_to(outside)
    with pytest.raises(StoreError, match="leads out of the store"):
        remove_garbage(store, find_garbage(store, blobs.values()))
    assert (outside / "precious").exists() and link.is_symlink()


def test_part_of_an_archive_is_kept_by_itself(store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"before" + b"sound" * 500_000 + b"after")
    name = store.add_blob(archive, (6, 2_500_000))
    assert name == sha256(b"sound" * 500_000).hexdigest()
    assert store.layout.blob_path(name).stat().st_size == 2_500_000
