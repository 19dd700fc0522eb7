"""Versions are committed whole or not at all; the store repairs itself and verifies its files."""

import json
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dlm.data.audio_file import open_recording
from dlm.data.types import AudioSegment
from dlm.errors import DlmError, StoreError
from dlm.store.damage import find_damaged_records, require_readable
from dlm.store.records import RecordingHash
from dlm.store.versions import Store, open_store, require_unchanged
from dlm.training.events import ScoreDifference, VersionComparison
from tests.store.fake_runs import DLM_ID, make_version_record, write_weights


def commit(store: Store, value: float, **changes: object) -> str:
    return store.commit_version(partial(write_weights, value), make_version_record(**changes)).name


def read_all_files(store: Store) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.layout.root.rglob("*") if path.is_file()}


def test_opening_a_new_store_writes_nothing(store: Store, home: Path) -> None:
    assert store.list_versions() == store.list_exports() == ()
    assert store.get_current_version() is None and store.compute_size_bytes() == 0
    assert not home.exists()


def test_a_version_has_its_record(store: Store, home: Path) -> None:
    assert commit(store, 1.0) == "v0001"
    assert commit(store, 2.0, scores={"wer": 0.5, "gap": float("nan")}) == "v0002"
    first, second = open_store(DLM_ID, home).list_versions()
    assert (first.number, first.base_model, first.base_model_revision) == (1, "sparrow", "1")
    assert (first.seed, first.steps, first.seconds, first.scores) == (42, 6, 1.5, {"wer": 0.25})
    assert second.scores == {"wer": 0.5}, "what could not be measured is no score"
    assert first.train_recordings == (RecordingHash("clips/a.wav", "0" * 64),)
    assert "numpy" in first.environment and first.created_at < second.created_at
    assert set(first.hashes) == {"adapter.safetensors", "config/adapter.json"}
    assert first.path == store.layout.root / "adapter" / "versions" / "v0001"
    assert store.get_current_version() == second and first.sha256 != second.sha256
    assert store.layout.current_path.read_text() == "v0002\n"
    manifest = json.loads(store.layout.manifest_path.read_text())
    assert manifest["versions"]["v0001"]["data_sha256"] == "0" * 64
    assert store.compute_size_bytes() > 2 * 64 * 64 * 4


def test_a_version_is_parsed_once_unless_its_record_changes(store: Store) -> None:
    commit(store, 1.0)
    (version,) = store.list_versions()
    assert store.list_versions()[0] is store.get_version("v0001") is version
    (version.path / "version.json").write_text("{")
    assert store.list_versions() == ()


def test_a_clearly_worse_version_is_kept_and_not_put_in_use(store: Store, home: Path) -> None:
    commit(store, 1.0)
    difference = ScoreDifference("v0001", 40, score=0.61, other_score=0.0, low=0.5, high=0.7)
    comparison = VersionComparison("v0001", "wer", (difference,))
    manifest = store.layout.manifest_path.read_bytes()
    assert commit(store, 2.0, comparison=comparison) == "v0002"
    assert store.get_current_version() == store.get_version("v0001")
    assert store.get_version("v0002").comparison == comparison
    store.layout.manifest_path.write_bytes(manifest)  # as after a kill within the commit
    assert open_store(DLM_ID, home).layout.current_path.read_text() == "v0001\n"
    assert store.layout.manifest_path.read_bytes() != manifest
    store.layout.current_path.unlink()
    assert open_store(DLM_ID, home).layout.current_path.read_text() == "v0001\n"
    store.set_current_version("v0002")
    assert open_store(DLM_ID, home).get_current_version() == store.get_version("v0002")


def test_another_version_can_be_put_in_use(store: Store) -> None:
    commit(store, 1.0)
    commit(store, 2.0)
    assert store.set_current_version("v0001") == store.get_current_version()
    assert commit(store, 3.0) == "v0003"
    second = store.set_current_version("v0002")
    assert second == store.get_current_version() == store.get_version("v0002")
    assert store.get_version("v0001").number == 1
    with pytest.raises(StoreError, match="; known: v0001, v0002, v0003$") as caught:
        store.set_current_version("v0009")
    assert caught.value.code == "store.unknown_version"


def test_without_versions_the_error_names_the_command_that_makes_one(store: Store) -> None:
    with pytest.raises(DlmError, match="no version .*; `dlm train` makes the first$") as caught:
        store.set_current_version("v0001")
    assert caught.value.code == "store.unknown_version" and "\n" not in str(caught.value)


def test_a_run_commits_once(store: Store) -> None:
    assert [commit(store, 1.0, run="a"), commit(store, 2.0, run="a")] == ["v0001", "v0001"]
    assert commit(store, 2.0, run="b") == "v0002"


@pytest.mark.parametrize("pointer", [None, "", "v0009\n", "\xff", "../v0001"])
def test_the_newest_version_replaces_a_lost_pointer(
    store: Store, home: Path, pointer: str | None
) -> None:
    commit(store, 1.0)
    commit(store, 2.0)
    store.set_current_version("v0001")
    store.layout.current_path.unlink()
    if pointer is not None:
        store.layout.current_path.write_bytes(pointer.encode("latin-1"))
    current = open_store(DLM_ID, home).get_current_version()
    assert current and current.name == "v0002"
    assert store.layout.current_path.read_text() == "v0002\n"


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[]", b'{"versions": 3}', b"\xff"])
def test_a_damaged_manifest_is_rebuilt(store: Store, home: Path, manifest: bytes | None) -> None:
    commit(store, 1.0)
    commit(store, 2.0)
    store.set_current_version("v0001")
    whole = store.layout.manifest_path.read_bytes()
    store.layout.manifest_path.unlink()
    if manifest is not None:
        store.layout.manifest_path.write_bytes(manifest)
    current = open_store(DLM_ID, home).get_current_version()
    assert current and current.name == "v0001", "the version in use stays"
    assert store.layout.manifest_path.read_bytes() == whole


def test_opening_a_store_removes_what_a_kill_left(store: Store, home: Path) -> None:
    commit(store, 1.0)
    pending = store.layout.versions_dir / ".pending-999999999"
    pending.mkdir()
    write_weights(1.0, pending)
    without_record = store.layout.versions_dir / "v0002"
    without_record.mkdir()
    for folder in (store.layout.root, store.layout.blobs_dir):
        folder.mkdir(exist_ok=True)
        (folder / ".pending-999999999-1").write_text("half")
    reopened = open_store(DLM_ID, home)
    assert [version.name for version in reopened.list_versions()] == ["v0001"]
    assert not list(store.layout.root.rglob(".pending-*"))
    assert commit(reopened, 2.0) == "v0003", "a folder that is there is never written into"


def test_verify_names_every_changed_file(store: Store) -> None:
    commit(store, 1.0)
    path = store.layout.version_dir(1)
    assert store.verify_files() == ()
    (path / "adapter.safetensors").write_bytes(b"other")
    (path / "config" / "adapter.json").unlink()
    (path / "more.txt").write_text("more")
    assert store.verify_files() == (
        "v0001/adapter.safetensors: was changed since the commit",
        "v0001/config/adapter.json: is gone since the commit",
        "v0001/more.txt: was added since the commit",
    )
    (path / "version.json").write_text("{")
    assert store.list_damaged_versions() == ("v0001",)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"other"), Path.unlink])
def test_a_version_with_a_changed_or_missing_file_is_not_used(store: Store, damage) -> None:
    commit(store, 1.0)
    version = store.get_version("v0001")
    require_unchanged(version)
    (version.path / "more.txt").write_text("more")
    require_unchanged(version)  # a file that no one reads does no harm
    damage(version.path / "adapter.safetensors")
    with pytest.raises(
        StoreError, match="v0001/adapter.safetensors: was changed or removed"
    ) as caught:
        require_unchanged(version)
    assert caught.value.code == "store.version_changed"


def test_a_commit_that_fails_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        write_weights(2.0, folder)
        raise ValueError("no")

    def write_record(folder: Path) -> None:
        (folder / "version.json").write_text("{}")

    def write_nan(folder: Path) -> None:
        save_file({"lora.B": np.array([np.nan], np.float32)}, folder / "adapter.safetensors")

    commit(store, 1.0)
    before = read_all_files(store)
    with pytest.raises(ValueError, match="no"):
        store.commit_version(fail, make_version_record())
    for write_fn, code in (
        (lambda folder: None, "store.nothing_written"),
        (write_record, "store.reserved_name"),
        (write_nan, "store.non_finite"),
    ):
        with pytest.raises(StoreError) as caught:
            store.commit_version(write_fn, make_version_record())
        assert caught.value.code == code
    assert read_all_files(store) == before


def test_a_recording_is_copied_once(store: Store, tmp_path: Path) -> None:
    recording = tmp_path / "a.wav"
    recording.write_bytes(b"sound" * 500_000)
    with recording.open("rb") as file:
        name = store.add_blob(file)
        assert name == sha256(recording.read_bytes()).hexdigest() == store.add_blob(file, name)
    assert [path.name for path in store.layout.blobs_dir.iterdir()] == [name]
    assert store.layout.blob_path(name).read_bytes() == recording.read_bytes()


def test_a_recording_with_other_bytes_than_expected_is_not_kept(
    store: Store, tmp_path: Path
) -> None:
    recording = tmp_path / "a.wav"
    recording.write_bytes(b"sound")
    with recording.open("rb") as file:
        assert store.add_blob(file, "0" * 64) == sha256(b"sound").hexdigest()
    assert not list(store.layout.blobs_dir.iterdir())


def test_a_recording_in_an_archive_is_copied_alone(store: Store, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"before" + b"sound" * 500_000 + b"after")
    with open_recording(AudioSegment(archive, byte_range=(6, 2_500_000))) as file:
        name = store.add_blob(file)
    assert name == sha256(b"sound" * 500_000).hexdigest()
    assert store.layout.blob_path(name).stat().st_size == 2_500_000


def test_exports_are_recorded(store: Store, home: Path, tmp_path: Path) -> None:
    inside, outside = store.layout.exports_dir / "hf-audio-snapshot", tmp_path / ".odd ü name"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("read me")
        store.record_export(store.describe_export(folder, kind="hf_snapshot", version_name="v0001"))
    store.record_export(store.describe_export(inside, kind="hf_snapshot", version_name="v0002"))
    exports = open_store(DLM_ID, home).list_exports()
    assert [(export.path, export.version) for export in exports] == [
        (outside.resolve(), "v0001"),
        (inside, "v0002"),
    ]
    assert exports[0].hashes == {"README.md": sha256(b"read me").hexdigest()}
    names = {path.name[:-14] for path in store.layout.exports_dir.glob("*.json")}
    assert names == {"hf-audio-snapshot", "odd-name"}
    (older_record,) = store.layout.exports_dir.glob("odd-name-*.json")
    older_record.rename(older_record.with_name(f"{outside.name}-1.json"))
    store.record_export(store.describe_export(outside, kind="hf_snapshot", version_name="v0003"))
    exports = store.list_exports()
    assert [(export.path.name, export.version) for export in exports] == [
        (inside.name, "v0002"),
        (outside.name, "v0003"),
    ], "a folder is listed once"


def test_a_path_that_leads_out_of_the_store_is_refused(
    store: Store, home: Path, tmp_path: Path
) -> None:
    commit(store, 1.0)
    (tmp_path / "v0002").mkdir()
    store.layout.current_path.write_text("../../../../../etc\n")
    refuse_to(lambda: open_store(DLM_ID, home), "store.outside")
    store.layout.current_path.write_text("v0001\n")
    store.layout.exports_dir.mkdir()
    record = {"kind": "x", "version": "v1", "created_at": "", "path": "../../../..", "hashes": {}}
    (store.layout.exports_dir / "x.json").write_text(json.dumps(record))
    refuse_to(store.list_exports, "store.outside")
    store.layout.version_dir(2).symlink_to(tmp_path / "v0002")
    refuse_to(lambda: open_store(DLM_ID, home), "store.outside")
    refuse_to(lambda: open_store("../elsewhere", home), "store.bad_name")


def refuse_to(action, code: str) -> None:
    with pytest.raises(StoreError) as caught:
        action()
    assert caught.value.code == code


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b'"steps": 6') + 9] += 1  # a number that is as good as the other
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_short, flip_byte, Path.unlink, Path.touch])
def test_a_damaged_record_is_told_and_nothing_is_rewritten(
    store: Store, home: Path, damage
) -> None:
    """Damage: a record of a version is cut short, has one other byte, or is gone.

    Neither the pointer nor the list is written meanwhile, and the record comes back from the list.
    """
    commit(store, 1.0)
    commit(store, 2.0)
    record_path = store.layout.version_dir(2) / "version.json"
    before, record = read_all_files(store), record_path.read_bytes()
    if damage is Path.touch:
        record_path.write_bytes(b"")
    else:
        damage(record_path)
    store = open_store(DLM_ID, home)
    assert [version.name for version in store.list_versions()] == ["v0001"]
    assert store.list_damaged_versions() == ("v0002",)
    for action in (store.get_current_version, lambda: store.get_version("v0002")):
        refuse_to(action, "store.damaged")
    refuse_to(lambda: require_readable(store), "store.damaged")
    unchanged = read_all_files(store).items() & before.items()
    assert len(unchanged) == len(before) - 1
    assert commit(store, 3.0) == "v0003", "what a run learned is not lost"
    assert store.layout.current_path.read_text() == "v0002\n"
    (damaged,) = find_damaged_records(store)
    assert str(damaged) == "adapter/versions/v0002/version.json: is gone or damaged"
    assert damaged.mend_fn() == "was restored from manifest.json"
    assert record_path.read_bytes() == record
    store = open_store(DLM_ID, home)
    require_readable(store)
    assert store.layout.current_path.read_text() == "v0003\n"
    assert len(json.loads(store.layout.manifest_path.read_text())["versions"]) == 3


def test_a_record_that_is_nowhere_else_cannot_be_mended(store: Store, home: Path) -> None:
    commit(store, 1.0)
    commit(store, 2.0)
    record_path = store.layout.version_dir(2) / "version.json"
    for path in (record_path, store.layout.manifest_path):
        cut_short(path)
    before = read_all_files(store)
    (damaged,) = find_damaged_records(open_store(DLM_ID, home))
    assert damaged.mend_fn() is None and read_all_files(store) == before


def test_a_pointer_to_nothing_is_told_when_it_is_replaced(
    store: Store, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit(store, 1.0)
    store.layout.current_path.write_text("v0003\n")
    open_store(DLM_ID, home)
    assert "names no version that is there: v0001 is now in use" in caplog.text


def test_a_copy_with_other_bytes_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    with (tmp_path / "a.wav").open("rb") as file:
        name = store.add_blob(file)
    assert store.verify_files() == ()
    store.layout.blob_path(name).write_bytes(b"other")
    assert store.verify_files() == (f"blobs/{name}: is not the recording it is named after",)
