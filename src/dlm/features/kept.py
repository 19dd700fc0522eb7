"""How what is heard once is kept on disk: a file of tensors, there as a whole or not at all."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dlm.files import disk_full, make_folder, writing


def read_kept(path: Path) -> dict[str, torch.Tensor] | None:
    """What is kept there, or None when there is nothing or a kill left half a file."""
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None


def keep(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write the file and its folder. Raises StoreError when it cannot be written."""
    pending = path.with_suffix(f".{os.getpid()}.pending")
    try:
        with writing(path):
            make_folder(path.parent)
            save_file(tensors, pending)
            pending.replace(path)
    except SafetensorError as error:
        pending.unlink(missing_ok=True)
        raise disk_full(error, path) or error from error
