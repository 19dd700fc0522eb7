"""Folders appear whole or not at all; weights with nan or inf, and damaged ones, are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dlm.errors import StoreError
from dlm.store.atomic_dirs import (
    check_safetensors_finite,
    iter_checkpoint_repairs,
    read_checkpoint_step,
    replace_dir,
    require_empty_dir,
    save_checkpoint,
)


def write_text(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)

    return write


def fail_halfway(folder: Path) -> None:
    (folder / "half.txt").write_text("half")
    raise ValueError("it broke")


def test_a_folder_replaces_the_one_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    for text in ("one", "two"):
        replace_dir(folder, write_text(text))
        (folder / "left.txt").write_text("of an earlier time")
    replace_dir(folder, write_text("three"))
    assert [path.name for path in folder.rglob("*")] == ["sub", "a.txt"]
    assert (folder / "sub" / "a.txt").read_text() == "three"
    assert list(folder.parent.iterdir()) == [folder], "nothing is left beside it"


def test_a_folder_stays_when_writing_its_successor_fails(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    replace_dir(folder, write_text("whole"))
    with pytest.raises(ValueError, match="it broke"):
        replace_dir(folder, fail_halfway)
    assert [path.name for path in folder.rglob("*")] == ["sub", "a.txt"]
    assert list(tmp_path.iterdir()) == [folder]


def test_only_an_empty_folder_or_a_new_one_is_free(tmp_path: Path) -> None:
    require_empty_dir(tmp_path)
    require_empty_dir(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="not empty; name another") as caught:
            require_empty_dir(path, hint="name another")
        assert caught.value.code == "store.not_empty"


@pytest.mark.parametrize("kill", ["writing", "between the renames", "before the removal"])
def test_one_checkpoint_is_complete_at_any_time(tmp_path: Path, kill: str) -> None:
    save_checkpoint(tmp_path, write_text("two"), step=2)
    new, state, old = (tmp_path / name for name in ("state.new", "state", "state.old"))
    new.mkdir()
    (new / "half").write_text("half")
    if kill == "between the renames":
        state.rename(old)
    if kill == "before the removal":
        old.mkdir()
    for repair in iter_checkpoint_repairs(tmp_path, unfinished=True):
        repair()
    assert read_checkpoint_step(tmp_path) == 2 and [*tmp_path.iterdir()] == [state]
    save_checkpoint(tmp_path, write_text("four"), step=4)
    assert read_checkpoint_step(tmp_path) == 4 and [*tmp_path.iterdir()] == [state]
    for repair in iter_checkpoint_repairs(tmp_path, unfinished=False):
        repair()
    assert read_checkpoint_step(tmp_path) is None and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "bf16", "<c8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_with_nan_or_inf_is_refused(tmp_path: Path, dtype: str, bad: float) -> None:
    path = tmp_path / "deep" / "adapter.safetensors"
    path.parent.mkdir()
    good = np.full(9, np.finfo("<f2").max, "<f4")
    values = np.array([0, -1, np.finfo("<f2").max, bad], "<f4")
    if dtype == "bf16":
        write_bf16(path, {"lora.A": good, "lora.B": values})
    else:
        save_file({"lora.A": good.astype(dtype), "lora.B": values.astype(dtype)}, path)
    with pytest.raises(StoreError, match=r"tensor 'lora\.B' holds nan or inf.*; lower") as caught:
        check_safetensors_finite(tmp_path)
    assert caught.value.code == "store.non_finite" and "adapter.safetensors" in str(caught.value)


def write_bf16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, body = {}, b""
    for name, values in tensors.items():
        upper_half = (values.view("<u4") >> 16).astype("<u2").tobytes()
        offsets = [len(body), len(body) + len(upper_half)]
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": offsets}
        body += upper_half
    header_bytes = json.dumps(header).encode()
    path.write_bytes(len(header_bytes).to_bytes(8, "little") + header_bytes + body)


def test_extreme_but_finite_tensors_are_accepted(tmp_path: Path) -> None:
    limits = {
        dtype: np.array([np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
        for dtype in ("<f2", "<f4", "<f8")
    }
    save_file({**limits, "ids": np.array([-1])}, tmp_path / "a.safetensors")
    write_bf16(tmp_path / "b.safetensors", {"x": np.array([3.3e38, -1e-38], "<f4")})
    check_safetensors_finite(tmp_path)


@pytest.mark.parametrize("damaged", [b"", b"\x01", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(damaged)
    with pytest.raises(StoreError, match=r"a\.safetensors is not a whole") as caught:
        check_safetensors_finite(tmp_path)
    assert caught.value.code == "store.bad_safetensors"


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.ones(9, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StoreError, match="where its header promises") as caught:
        check_safetensors_finite(tmp_path)
    assert caught.value.code == "store.bad_safetensors"


def test_what_killed_processes_left_beside_a_folder_is_removed(tmp_path: Path) -> None:
    """Left behind: a folder or a file of a dead process; nothing else that is named alike."""
    dead, alive = 1 << 22, 1  # process 1 always lives
    for name in (f".pending-{dead}-0", f".pending-{alive}-0", ".pending-notes", f"pending-{dead}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    (tmp_path / f".pending-{dead}-7").write_text("half a document")
    replace_dir(tmp_path / "out", write_text("new"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", f".pending-{alive}-0", ".pending-notes", f"pending-{dead}"}


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_link_to_a_folder_is_written_through(is_dangling: bool, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "exports", tmp_path / "out"
    if not is_dangling:
        target.mkdir()
    link.symlink_to(target)
    replace_dir(link, write_text("new"))
    assert link.is_symlink() and not target.is_symlink()
    assert [path.name for path in target.iterdir()] == ["sub"]
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "out"}
