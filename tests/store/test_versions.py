"""Versions are kept whole, or not at all, and the store puts itself right."""

import json
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dlm.errors import DlmError, StoreError
from dlm.store.records import RecordingHash
from dlm.store.versions import Store, open_store
from tests.store.fake_runs import DLM_ID, version_facts, weights


def commit(store: Store, value: float, **changes: object) -> str:
    return store.commit_version(partial(weights, value), version_facts(**changes)).name


def test_opening_a_new_store_writes_nothing(store: Store, home: Path) -> None:
    assert (
        store.list_versions(),
        store.get_current_version(),
        store.list_exports(),
        store.compute_size_bytes(),
    ) == (
        (),
        None,
        (),
        0,
    )
    assert not home.exists()


def test_a_version_carries_its_record(store: Store, home: Path) -> None:
    assert [commit(store, 1.0), commit(store, 2.0, scores={"wer": 0.5, "gap": float("nan")})] == [
        "v0001",
        "v0002",
    ]
    first, second = open_store(DLM_ID, home).list_versions()
    assert (first.number, first.base, first.base_revision, first.seed) == (1, "sparrow", "1", 42)
    assert (first.steps, first.seconds, first.scores) == (6, 1.5, {"wer": 0.25})
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


def test_use_goes_back_and_forth(store: Store) -> None:
    commit(store, 1.0)
    commit(store, 2.0)
    assert store.set_current_version("v0001") == store.get_current_version()
    assert commit(store, 3.0) == "v0003"
    assert (
        store.set_current_version("v0002")
        == store.get_current_version()
        == store.get_version("v0002")
    )
    assert store.get_version("v0001").number == 1
    with pytest.raises(StoreError, match=r"^no version 'v0009'; known: v0001, v0002, v0003$"):
        store.set_current_version("v0009")


def test_use_without_versions_says_how_to_make_one(store: Store) -> None:
    with pytest.raises(StoreError, match="^no version 'v0001'; `dlm train` makes the first$"):
        store.set_current_version("v0001")


def test_a_run_commits_once(store: Store) -> None:
    assert [commit(store, 1.0, run="a"), commit(store, 2.0, run="a")] == ["v0001", "v0001"]
    assert commit(store, 2.0, run="b") == "v0002"


@pytest.mark.parametrize("pointer", [None, "", "v0009\n", "\xff", "../v0001"])
def test_a_lost_pointer_is_the_newest(store: Store, home: Path, pointer: str | None) -> None:
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
def test_the_manifest_is_made_anew(store: Store, home: Path, manifest: bytes | None) -> None:
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


def test_what_a_kill_left_is_swept(store: Store, home: Path) -> None:
    commit(store, 1.0)
    pending = store.layout.versions_dir / ".pending-999999999"
    weights(1.0, pending) if pending.mkdir() else None
    half = store.layout.versions_dir / "v0002"
    half.mkdir()
    for folder in (store.layout.root, store.layout.blobs_dir):
        folder.mkdir(exist_ok=True)
        (folder / ".pending-999999999-1").write_text("half")
    again = open_store(DLM_ID, home)
    assert [version.name for version in again.list_versions()] == ["v0001"]
    assert not list(store.layout.root.rglob(".pending-*"))
    assert commit(again, 2.0) == "v0003", "a folder that is there is never written into"


def test_verify_names_the_file(store: Store) -> None:
    commit(store, 1.0)
    path = store.layout.version_dir(1)
    assert store.verify_versions() == ()
    (path / "adapter.safetensors").write_bytes(b"other")
    (path / "config" / "adapter.json").unlink()
    (path / "more.txt").write_text("more")
    assert store.verify_versions() == (
        "v0001/adapter.safetensors: was changed since the commit",
        "v0001/config/adapter.json: is gone since the commit",
        "v0001/more.txt: was added since the commit",
    )
    (path / "version.json").write_text("{")
    assert store.verify_versions() == ("v0001: its version.json is damaged",)


def test_a_fill_that_fails_leaves_nothing(store: Store) -> None:
    def fails(folder: Path) -> None:
        weights(2.0, folder)
        raise ValueError("no")

    commit(store, 1.0)
    before = contents(store)
    with pytest.raises(ValueError, match="no"):
        store.commit_version(fails, version_facts())
    with pytest.raises(StoreError, match="nothing was written to keep"):
        store.commit_version(lambda folder: None, version_facts())
    with pytest.raises(StoreError, match=r"version\.json is the store's own name"):
        store.commit_version(lambda folder: forge(folder / "version.json"), version_facts())
    assert contents(store) == before


def forge(path: Path) -> None:
    path.write_text("{}")


def contents(store: Store) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.layout.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "bf16", "<c8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_refused(store: Store, dtype: str, bad: float) -> None:
    commit(store, 1.0)
    before = contents(store)
    with pytest.raises(StoreError, match=r"tensor 'lora\.B' holds nan or inf.*; lower") as error:
        store.commit_version(partial(poisoned, dtype, bad), version_facts())
    assert "adapter.safetensors" in str(error.value)
    assert contents(store) == before


def poisoned(dtype: str, bad: float, folder: Path) -> None:
    path = folder / "deep" / "adapter.safetensors"
    path.parent.mkdir()
    sound = np.full(9, np.finfo("<f2").max, "<f4")
    values = np.array([0, -1, np.finfo("<f2").max, bad], "<f4")
    if dtype == "bf16":
        write_bf16(path, {"lora.A": sound, "lora.B": values})
    else:
        save_file({"lora.A": sound.astype(dtype), "lora.B": values.astype(dtype)}, path)


def write_bf16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, body = {}, b""
    for name, values in tensors.items():
        half = (values.view("<u4") >> 16).astype("<u2").tobytes()
        at = [len(body), len(body) + len(half)]
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": at}
        body += half
    told = json.dumps(header).encode()
    path.write_bytes(len(told).to_bytes(8, "little") + told + body)


def test_extreme_but_finite_tensors_are_kept(store: Store) -> None:
    def fill(folder: Path) -> None:
        kinds = ["<f2", "<f4", "<f8"]
        limits = {k: np.array([np.finfo(k).max, np.finfo(k).tiny], k) for k in kinds}
        save_file({**limits, "ids": np.array([-1])}, folder / "a.safetensors")
        write_bf16(folder / "b.safetensors", {"x": np.array([3.3e38, -1e-38], "<f4")})

    assert store.commit_version(fill, version_facts()).name == "v0001"


@pytest.mark.parametrize("damaged", [b"", b"\x01", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_broken_safetensors_file_is_refused(store: Store, damaged: bytes) -> None:
    with pytest.raises(StoreError, match=r"a\.safetensors is not a whole safetensors file"):
        store.commit_version(lambda folder: cut(folder, damaged), version_facts())
    assert store.list_versions() == ()


def cut(folder: Path, data: bytes) -> None:
    (folder / "a.safetensors").write_bytes(data)


def test_a_truncated_safetensors_file_is_refused(store: Store) -> None:
    def fill(folder: Path) -> None:
        weights(1.0, folder)
        path = folder / "adapter.safetensors"
        path.write_bytes(path.read_bytes()[:-4])

    with pytest.raises(StoreError, match="it ends early"):
        store.commit_version(fill, version_facts())


def test_blobs_are_kept_once(store: Store, tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    sound.write_bytes(b"sound" * 500_000)
    name = store.add_blob(sound)
    assert name == sha256(sound.read_bytes()).hexdigest() == store.add_blob(sound)
    assert [path.name for path in store.layout.blobs_dir.iterdir()] == [name]
    assert store.layout.blob_path(name).read_bytes() == sound.read_bytes()
    with pytest.raises(StoreError, match=r"b\.wav: cannot be read: No such file"):
        store.add_blob(tmp_path / "b.wav")


def test_exports_are_on_record(store: Store, home: Path, tmp_path: Path) -> None:
    inside, outside = store.layout.exports_dir / "hf-audio-snapshot", tmp_path / "hf-audio-snapshot"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("read me")
        store.record_export(folder, kind="hf_snapshot", version_name="v0001")
    store.record_export(inside, kind="hf_snapshot", version_name="v0002")
    exports = open_store(DLM_ID, home).list_exports()
    assert [(export.path, export.version) for export in exports] == [
        (outside.resolve(), "v0001"),
        (inside, "v0002"),
    ]
    assert exports[0].hashes == {"README.md": sha256(b"read me").hexdigest()}


def test_what_leads_out_of_the_store_is_refused(store: Store, home: Path, tmp_path: Path) -> None:
    commit(store, 1.0)
    (tmp_path / "v0002").mkdir()
    store.layout.current_path.write_text("../../../../../etc\n")
    with pytest.raises(StoreError, match="leads out of the store"):
        open_store(DLM_ID, home)
    store.layout.current_path.write_text("v0001\n")
    store.layout.exports_dir.mkdir()
    note = {"kind": "x", "version": "v1", "created_at": "", "path": "../../../..", "hashes": {}}
    (store.layout.exports_dir / "x.json").write_text(json.dumps(note))
    with pytest.raises(StoreError, match="leads out of the store"):
        store.list_exports()
    store.layout.version_dir(2).symlink_to(tmp_path / "v0002")
    with pytest.raises(StoreError, match="v0002: leads out of the store"):
        open_store(DLM_ID, home)
    with pytest.raises(StoreError, match="cannot name a folder"):
        open_store("../elsewhere", home)


def test_every_error_is_one_line(store: Store) -> None:
    with pytest.raises(DlmError) as error:
        store.set_current_version("v0001")
    assert "\n" not in str(error.value)
