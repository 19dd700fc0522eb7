"""Folders that appear whole or not at all: exports, versions and checkpoints, also after a kill.

    save_checkpoint   state.new  ->  written, synced;  state -> state.old;  state.new -> state

Between any two steps one complete checkpoint exists, and `iter_checkpoint_repairs` finds it.
Weights are checked here as well: a `.safetensors` file with nan or inf is refused.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from dlm.errors import ModelError, StoreError
from dlm.io import (
    fsync_path,
    fsync_tree,
    hash_tree,
    make_folder,
    make_temp_path,
    remove_path,
    remove_stale_temp_files,
    set_tree_modes,
    to_disk_full_error,
    wrap_write_errors,
    write_atomic,
)
from dlm.plan.safetensors_index import iter_tensor_bytes
from dlm.store.records import dump_record_json, parse_record_json

WriteFn = Callable[[Path], None]  # writes files into an empty folder

CHECKPOINT_INFO_FILE = "saved.json"
FINITE_CHECK_VALUES = 1 << 22  # checked at once
NON_FINITE_BITS = {  # dtype: how its bits are read, and those all set in nan and inf (IEEE 754)
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "C64": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


def require_empty_dir(folder: Path, *, hint: str = "name an empty folder") -> None:
    """Refuse a file, or a folder that holds anything. Raises StoreError (`store.not_empty`)."""
    with wrap_write_errors(folder):
        is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free:
        raise StoreError("not empty", where=str(folder), hint=hint, code="store.not_empty")


def write_dir(folder: Path, write_fn: WriteFn, *, private: bool = True) -> None:
    """Empty a folder and let `write_fn` write into it.

    Raises:
        StoreError: the disk is full, or nothing was written (`store.nothing_written`).
    """
    remove_path(folder)
    with wrap_write_errors(folder):
        make_folder(folder, private=private)
    try:
        write_fn(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if disk_full := to_disk_full_error(error, folder):
            raise disk_full from error
        raise
    if not any(path.is_file() for path in folder.rglob("*")):
        raise StoreError(
            "nothing was written",
            where=str(folder),
            hint="train again",
            code="store.nothing_written",
        )


def replace_dir(folder: Path, write_fn: WriteFn, *, private: bool = False) -> None:
    """Write a folder, then put it in place of the one that was there. Raises StoreError.

    Args:
        folder: keeps nothing of what it held; of a link, the folder that it leads to.
        write_fn: writes into an empty folder beside it.
        private: all of it is for its owner alone; else its modes are those of the umask.
    """
    folder = Path(os.path.realpath(folder))
    remove_stale_temp_files(folder.parent)
    new, old = make_temp_path(folder.parent), make_temp_path(folder.parent)
    try:
        write_dir(new, write_fn, private=private)
        _swap_dirs(folder, new, old, private=private)
    finally:
        remove_path(new)
    remove_path(old)


def save_checkpoint(run_dir: Path, write_fn: WriteFn, *, step: int) -> None:
    """Write the checkpoint of a run, then put it in place of the last one. Raises StoreError."""
    for repair in iter_checkpoint_repairs(run_dir, unfinished=True):
        repair()
    new, old = run_dir / "state.new", run_dir / "state.old"
    try:
        write_dir(new, write_fn)
        info = dump_record_json({"step": step, "hashes": hash_tree(new)})
        write_atomic(new / CHECKPOINT_INFO_FILE, info, private=True)
        _swap_dirs(run_dir / "state", new, old, private=True)
    finally:
        remove_path(new)
    remove_path(old)


def _swap_dirs(folder: Path, new: Path, old: Path, *, private: bool) -> None:
    """Sync `new`, move `folder` to `old` if it is there, and `new` to `folder`."""
    set_tree_modes(new, private=private)
    fsync_tree(new)
    with wrap_write_errors(folder):
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        fsync_path(folder.parent)


def read_checkpoint_step(run_dir: Path) -> int | None:
    """Return the step of a run's complete checkpoint; None without one."""
    step = _read_checkpoint_info(run_dir).get("step")
    return step if isinstance(step, int) else None


def find_changed_checkpoint_files(run_dir: Path) -> tuple[str, ...]:
    """Hash a run's checkpoint again: the names of files that were changed since it was saved."""
    expected = _read_checkpoint_info(run_dir).get("hashes")
    if not isinstance(expected, dict):
        return ()  # of an earlier version
    hashes = hash_tree(run_dir / "state")
    return tuple(name for name in expected if hashes.get(name) != expected[name])


def _read_checkpoint_info(run_dir: Path) -> dict[str, object]:
    try:
        info = parse_record_json((run_dir / "state" / CHECKPOINT_INFO_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return info if isinstance(info, dict) else {}


def iter_checkpoint_repairs(run_dir: Path, *, unfinished: bool) -> Iterator[Callable[[], None]]:
    """Yield what leaves one complete checkpoint, or none when the run is over."""
    new, state, old = run_dir / "state.new", run_dir / "state", run_dir / "state.old"
    if unfinished and old.exists() and not state.exists():
        yield partial(_restore_checkpoint, old, state)
    for path in (new, old) if unfinished else (new, old, state):
        if path.exists():
            yield partial(remove_path, path)


def _restore_checkpoint(backup: Path, checkpoint_dir: Path) -> None:
    with wrap_write_errors(checkpoint_dir):
        backup.rename(checkpoint_dir)
        fsync_path(checkpoint_dir.parent)


def check_safetensors_finite(folder: Path) -> None:
    """Refuse weights with nan or inf, without loading a file whole.

    Raises:
        StoreError: a tensor is not finite (`store.non_finite`), or a file is damaged
            (`store.bad_safetensors`).
    """
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            name = _find_non_finite_tensor(path)
        except (ModelError, ValueError) as error:
            reason = error.what if isinstance(error, ModelError) else error
            raise StoreError(
                f"{path.name} is not a whole safetensors file: {reason}",
                hint="train again",
                code="store.bad_safetensors",
            ) from error
        if name is not None:
            raise StoreError(
                f"{path.name}: tensor {name!r} holds nan or inf, no version was made",
                hint="lower training.learning_rate and train again",
                code="store.non_finite",
            )


def _find_non_finite_tensor(path: Path) -> str | None:
    for name, tensor, data in iter_tensor_bytes(path):
        if tensor.dtype in NON_FINITE_BITS:
            dtype, mask = NON_FINITE_BITS[tensor.dtype]
            bits = data.view(dtype)
            for start in range(0, len(bits), FINITE_CHECK_VALUES):
                chunk = bits[start : start + FINITE_CHECK_VALUES]
                if ((chunk & mask) == mask).any():
                    return name
    return None
