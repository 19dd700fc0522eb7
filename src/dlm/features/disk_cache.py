"""The disk cache of tensors: one safetensors file for each key, complete or absent.

Each has a checksum: a file of which a byte has changed is as absent, and so is one of an earlier
version, which has none.
"""

import os
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from dlm.io import PRIVATE_FILE_MODE, make_folder, to_disk_full_error, wrap_write_errors

CHECKSUM_KEY = "crc32"


def read_cached_tensors(path: Path) -> dict[str, torch.Tensor] | None:
    """Read the tensors of a file; None where there is none, or not as it was written."""
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            checksum = (file.metadata() or {}).get(CHECKSUM_KEY)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return tensors if checksum == _compute_checksum(tensors) else None


def write_cached_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file of tensors and its folder.

    Raises:
        StoreError: it cannot be written (`store.*`).
    """
    pending = path.with_suffix(f".{os.getpid()}.pending")
    try:
        with wrap_write_errors(path):
            make_folder(path.parent, private=True)
            save_file(tensors, pending, {CHECKSUM_KEY: _compute_checksum(tensors)})
            pending.chmod(PRIVATE_FILE_MODE)
            pending.replace(path)
    except SafetensorError as error:
        pending.unlink(missing_ok=True)
        raise to_disk_full_error(error, path) or error from error


def _compute_checksum(tensors: dict[str, torch.Tensor]) -> str:
    """The CRC-32 of names, types, shapes and values: it is as fast as the file is read."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        crc = zlib.crc32(values.numpy().data, crc)
    return f"{crc:08x}"
