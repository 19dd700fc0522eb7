"""How a folder that someone else fills enters the store: whole, finite, or not at all.

    keep_state   state.new  ->  filled, synced;  state -> state.old;  state.new -> state

Between any two of these steps one complete state exists, and `state_repairs` finds it.
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
from dlm.files import (
    discard,
    disk_full,
    make_folder,
    sync,
    sync_tree,
    temporary,
    write_atomic,
    writing,
)

Fill = Callable[[Path], None]

SAVED = "saved.json"
HEADER_BYTES = 8
CHUNK = 1 << 22  # values looked at together
NOT_FINITE = {  # dtype: how its bits are read, and the bits that are all set in nan and inf
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "C64": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


def fill_folder(folder: Path, fill: Fill) -> None:
    """Let `fill` write into `folder`, empty; a full disk is said in one line."""
    discard(folder)
    with writing(folder):
        make_folder(folder)
    try:
        fill(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if full := disk_full(error, folder):
            raise full from error
        raise
    if not any(path.is_file() for path in folder.rglob("*")):
        raise StoreError("nothing was written to keep", where=str(folder), mend="train again")


def check_finite(folder: Path) -> None:
    """Refuse a `.safetensors` file that holds nan or inf, by the name of the tensor."""
    for path in sorted(folder.rglob("*.safetensors")):
        for name, bits, mask in _floats(path):
            if not all(_finite(bits[at : at + CHUNK], mask) for at in range(0, len(bits), CHUNK)):
                raise StoreError(
                    f"{path.name}: tensor {name!r} holds nan or inf, no version was made",
                    mend="lower training.learning_rate and train again",
                )


def keep_state(run: Path, write: Fill, *, step: int) -> None:
    """Make what `write` writes the state of this run, in place of the one before."""
    for repair in state_repairs(run, unfinished=True):
        repair()
    new, state, old = run / "state.new", run / "state", run / "state.old"
    try:
        fill_folder(new, write)
        write_atomic(new / SAVED, json.dumps({"step": step}))
        sync_tree(new)
        with writing(state):
            if state.exists():
                state.rename(old)
            new.rename(state)
            sync(run)
    finally:
        discard(new)
    discard(old)


def replace_folder(folder: Path, fill: Fill) -> None:
    """Make what `fill` writes the folder `folder`, in place of what was there."""
    new, old = temporary(folder.parent), temporary(folder.parent)
    try:
        fill_folder(new, fill)
        sync_tree(new)
        with writing(folder):
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            sync(folder.parent)
    finally:
        discard(new)
    discard(old)


def state_step(run: Path) -> int | None:
    """The step of the run's complete state, or None without one."""
    try:
        step = json.loads((run / "state" / SAVED).read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def state_repairs(run: Path, *, unfinished: bool) -> Iterator[Callable[[], None]]:
    """What must be done to leave one complete state, or none when the run is over."""
    new, state, old = run / "state.new", run / "state", run / "state.old"
    if unfinished and old.exists() and not state.exists():
        yield partial(_put_back, old, state)
    for path in (new, old) if unfinished else (new, old, state):
        if path.exists():
            yield partial(discard, path)


def _put_back(old: Path, state: Path) -> None:
    with writing(state):
        old.rename(state)
        sync(state.parent)


def _floats(path: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """Each tensor of floats in the file: its name, its bits (values,), and what must not be set."""
    try:
        data = np.memmap(path, np.uint8, "r")
        header, start = _header(data)
        for name, about in header.items():
            first, last = (start + offset for offset in about["data_offsets"])
            if last > len(data):
                raise ValueError("it ends early")
            if about["dtype"] in NOT_FINITE:
                kind, mask = NOT_FINITE[about["dtype"]]
                yield name, data[first:last].view(kind), mask
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path.name} is not a whole safetensors file: {error}", mend="train again"
        ) from error


def _header(data: np.ndarray) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack("<Q", data[:HEADER_BYTES].tobytes())
    header = json.loads(data[HEADER_BYTES : HEADER_BYTES + length].tobytes())
    header.pop("__metadata__", None)
    return header, HEADER_BYTES + length


def _finite(bits: np.ndarray, mask: int) -> bool:
    return not bool(((bits & mask) == mask).any())
