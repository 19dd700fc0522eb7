"""Folders that appear whole or not at all: exports, versions and checkpoints, also after a kill.

    save_checkpoint   state.new  ->  written, synced;  state -> state.old;  state.new -> state

Between any two steps one complete checkpoint exists, and `iter_checkpoint_repairs` finds it.
Weights are checked here as well: a `.safetensors` file with nan or inf is refused.
"""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from dlm.errors import StoreError
from dlm.io import (
    fsync_path,
    fsync_tree,
    make_folder,
    make_temp_path,
    remove_path,
    to_disk_full_error,
    wrap_write_errors,
    write_atomic,
)

WriteFn = Callable[[Path], None]  # writes files into an empty folder

CHECKPOINT_INFO_FILE = "saved.json"
HEADER_LENGTH_BYTES = 8
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


def write_dir(folder: Path, write_fn: WriteFn) -> None:
    """Empty a folder and let `write_fn` write into it.

    Raises:
        StoreError: the disk is full, or nothing was written (`store.nothing_written`).
    """
    remove_path(folder)
    with wrap_write_errors(folder):
        make_folder(folder)
    try:
        write_fn(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if disk_full := to_disk_full_error(error, folder):
            raise disk_full from error
        raise
    if not any(path.is_file() for path in folder.rglob("*")):
        raise StoreError(
            "nothing was written to keep",
            where=str(folder),
            hint="train again",
            code="store.nothing_written",
        )


def replace_dir(folder: Path, write_fn: WriteFn) -> None:
    """Write a folder, then put it in place of the one that was there. Raises StoreError."""
    new, old = make_temp_path(folder.parent), make_temp_path(folder.parent)
    try:
        write_dir(new, write_fn)
        _swap_dirs(folder, new, old)
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
        write_atomic(new / CHECKPOINT_INFO_FILE, json.dumps({"step": step}))
        _swap_dirs(run_dir / "state", new, old)
    finally:
        remove_path(new)
    remove_path(old)


def _swap_dirs(folder: Path, new: Path, old: Path) -> None:
    """Sync `new`, move `folder` to `old` if it is there, and `new` to `folder`."""
    fsync_tree(new)
    with wrap_write_errors(folder):
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        fsync_path(folder.parent)


def read_checkpoint_step(run_dir: Path) -> int | None:
    """Return the step of a run's complete checkpoint; None without one."""
    try:
        step = json.loads((run_dir / "state" / CHECKPOINT_INFO_FILE).read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


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
        for name, bits, mask in _iter_float_tensors(path):
            chunks = range(0, len(bits), FINITE_CHECK_VALUES)
            if any(_has_non_finite(bits[at : at + FINITE_CHECK_VALUES], mask) for at in chunks):
                raise StoreError(
                    f"{path.name}: tensor {name!r} holds nan or inf, no version was made",
                    hint="lower training.learning_rate and train again",
                    code="store.non_finite",
                )


def _has_non_finite(bits: np.ndarray, mask: int) -> bool:
    return bool(((bits & mask) == mask).any())


def _iter_float_tensors(path: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """For each tensor of floats: its name, its bits (values,), and those that mean nan or inf."""
    try:
        data = np.memmap(path, np.uint8, "r")
        header, start = _read_safetensors_header(data)
        for name, tensor in header.items():
            first, last = (start + offset for offset in tensor["data_offsets"])
            if last > len(data):
                raise ValueError("it ends early")
            if tensor["dtype"] in NON_FINITE_BITS:
                dtype, mask = NON_FINITE_BITS[tensor["dtype"]]
                yield name, data[first:last].view(dtype), mask
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path.name} is not a whole safetensors file: {error}",
            hint="train again",
            code="store.bad_safetensors",
        ) from error


def _read_safetensors_header(data: np.ndarray) -> tuple[dict[str, Any], int]:
    """The header without its metadata, and where the tensors begin."""
    (length,) = struct.unpack("<Q", data[:HEADER_LENGTH_BYTES].tobytes())
    header = json.loads(data[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + length].tobytes())
    header.pop("__metadata__", None)
    return header, HEADER_LENGTH_BYTES + length
