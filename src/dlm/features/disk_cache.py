"""The disk cache of tensors: one safetensors file for each key, complete or absent."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dlm.io import PRIVATE_FILE_MODE, make_folder, to_disk_full_error, wrap_write_errors


def read_cached_tensors(path: Path) -> dict[str, torch.Tensor] | None:
    """Read the tensors of a file; None where there is no file or it is incomplete."""
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None


def write_cached_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file of tensors and its folder.

    Raises:
        StoreError: it cannot be written (`store.*`).
    """
    pending = path.with_suffix(f".{os.getpid()}.pending")
    try:
        with wrap_write_errors(path):
            make_folder(path.parent, private=True)
            save_file(tensors, pending)
            pending.chmod(PRIVATE_FILE_MODE)
            pending.replace(path)
    except SafetensorError as error:
        pending.unlink(missing_ok=True)
        raise to_disk_full_error(error, path) or error from error
