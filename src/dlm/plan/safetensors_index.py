"""The one reader of safetensors headers: names, shapes, dtypes and sizes of tensors, unloaded.

    folder/   model.safetensors              8 bytes with the length of a JSON header, the header,
              or                             the tensors
              model.safetensors.index.json   the shard of each tensor

Refuses pickled weights, files of another length than their header says, and names that lead out of
the folder. Owns the fingerprint that is the revision of a model in a folder.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlm.errors import ModelError
from dlm.io import read_regular_file

HF_CONFIG_FILE = "config.json"
WEIGHTS_FILE, WEIGHTS_INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
CTRANSLATE2_WEIGHTS_FILE = "model.bin"
CTRANSLATE2_VOCABULARY_GLOBS = ("vocabulary.*", "*_vocabulary.*")
PICKLE_GLOBS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SAFETENSORS_LENGTH_BYTES = 8  # little-endian
MAX_HEADER_BYTES = 100_000_000  # as the safetensors library
FINGERPRINT_TENSOR_BYTES = 256  # read of each tensor: training changes nearly all its numbers


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a safetensors file.

    Attributes:
        shape: its dimensions.
        start: its first byte, counted from the end of the header.
        end: the byte after its last one.
        dtype: as safetensors calls it, such as BF16.
    """

    shape: tuple[int, ...]
    start: int
    end: int
    dtype: str

    @property
    def num_elements(self) -> int:
        """Count its numbers."""
        return math.prod(self.shape)


TensorHeader = dict[str, TensorInfo]  # by the name of the tensor
TensorIndex = dict[str, TensorHeader]  # by the name of the file


def read_tensor_index(folder: Path) -> TensorIndex:
    """Read the headers of a checkpoint's weight files.

    Raises:
        ModelError: there are no safetensors (`model.no_safetensors`, `model.other_format`), or a
            file is missing, unreadable or of another length (`model.damaged_checkpoint`).
    """
    names = [WEIGHTS_FILE]
    if not (folder / WEIGHTS_FILE).is_file():
        if not (folder / WEIGHTS_INDEX_FILE).is_file():
            raise _make_missing_weights_error(folder)
        weight_map = read_json_object(folder / WEIGHTS_INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not all(map(is_safe_file_name, weight_map.values())):
            what = "cannot be read (its weight_map does not name files beside it)"
            raise make_damaged_checkpoint_error(what, folder / WEIGHTS_INDEX_FILE)
        names = sorted(set(weight_map.values()))
    for name in names:
        if not (folder / name).is_file():
            raise make_damaged_checkpoint_error(f"{name} is missing", folder)
    return {name: read_tensor_header(folder / name) for name in names}


def read_tensor_header(path: Path) -> TensorHeader:
    """Read the header of a safetensors file, and check that the file is as long as it says.

    Raises:
        ModelError: it cannot be read, or has another length (`model.damaged_checkpoint`).
    """
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            header = parse_tensor_header(lambda begin, end: file.read(end - begin), num_bytes)
            tensors_start = file.tell()
    except (OSError, ValueError) as error:
        raise make_damaged_checkpoint_error(f"cannot be read ({error})", path) from error
    expected_bytes = tensors_start + max((tensor.end for tensor in header.values()), default=0)
    if num_bytes != expected_bytes:
        what = f"has {num_bytes:,} bytes where its header promises {expected_bytes:,}"
        raise make_damaged_checkpoint_error(what, path)
    return header


def parse_tensor_header(
    read_bytes: Callable[[int, int], bytes], file_bytes: int | None
) -> TensorHeader:
    """Parse the header of a safetensors file.

    Args:
        read_bytes: returns the bytes from a first one up to, not including, a last one; it is
            called in the order of the file.
        file_bytes: the size of the file, where it is known.

    Raises:
        ValueError: it is damaged.
    """
    prefix = read_bytes(0, SAFETENSORS_LENGTH_BYTES)
    header_bytes = int.from_bytes(prefix, "little")
    max_bytes = min(file_bytes or MAX_HEADER_BYTES, MAX_HEADER_BYTES)
    if len(prefix) < SAFETENSORS_LENGTH_BYTES or header_bytes > max_bytes:
        raise ValueError("it holds no complete safetensors header")
    header = read_bytes(SAFETENSORS_LENGTH_BYTES, SAFETENSORS_LENGTH_BYTES + header_bytes)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = {}
        for name, entry in entries.items():
            start, end = map(int, entry["data_offsets"])
            shape = tuple(map(int, entry["shape"]))
            tensors[name] = TensorInfo(shape, start, end, str(entry["dtype"]))
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("its header is not that of safetensors") from error
    if not all(0 <= tensor.start <= tensor.end for tensor in tensors.values()):
        raise ValueError("its header has impossible offsets")
    return tensors


def iter_tensor_bytes(path: Path) -> Iterator[tuple[str, TensorInfo, np.ndarray]]:
    """Yield the name, the shape and the bytes of each tensor of a file, mapped and not loaded.

    Raises:
        ModelError: as `read_tensor_header`.
    """
    header = read_tensor_header(path)
    data = np.memmap(path, np.uint8, "r")
    tensors_start = len(data) - max((tensor.end for tensor in header.values()), default=0)
    for name, tensor in header.items():
        yield name, tensor, data[tensors_start + tensor.start : tensors_start + tensor.end]


def iter_tensor_infos(tensor_index: TensorIndex) -> Iterator[tuple[str, TensorInfo]]:
    """Yield the name and the shape of every tensor of every file."""
    for header in tensor_index.values():
        yield from header.items()


def count_tensor_bytes(tensor_index: TensorIndex) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.end - tensor.start for _, tensor in iter_tensor_infos(tensor_index))


def fingerprint_checkpoint(folder: Path, tensor_index: TensorIndex) -> str:
    """Return a revision for a folder: it changes with the config, a shape or any tensor."""
    digest = hashlib.sha256((folder / HF_CONFIG_FILE).read_bytes())
    for name in sorted(tensor_index):
        with (folder / name).open("rb") as file:
            prefix = file.read(SAFETENSORS_LENGTH_BYTES)
            header_bytes = int.from_bytes(prefix, "little")
            digest.update(prefix + file.read(header_bytes))
            for tensor in tensor_index[name].values():
                file.seek(SAFETENSORS_LENGTH_BYTES + header_bytes + tensor.start)
                digest.update(file.read(min(FINGERPRINT_TENSOR_BYTES, tensor.end - tensor.start)))
    return digest.hexdigest()[:40]


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file beside weights. Raises ModelError (`model.damaged_checkpoint`)."""
    try:
        value = json.loads(read_regular_file(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise make_damaged_checkpoint_error(f"cannot be read ({reason})", path) from error
    if not isinstance(value, dict):
        raise make_damaged_checkpoint_error("is not the config of a model", path)
    return value


def make_damaged_checkpoint_error(what: str, path: Path) -> ModelError:
    """Make the error for files that cannot be loaded; hubs repair nothing in their caches."""
    cached = next((part for part in path.parts if part.startswith("models--")), None)
    hint = "copy or make the folder again"
    if cached:
        name = cached.removeprefix("models--").replace("--", "/")
        hint = f"`hf cache rm model/{name}`, then run it again"
    return ModelError(what, where=str(path), hint=hint, code="model.damaged_checkpoint")


def find_other_format(folder: Path) -> ModelError | None:
    """Return the error for weights of another runtime, with what they were made from or by."""
    original = "name the model it was converted from, such as hf:openai/whisper-base"
    if ggufs := sorted(path.name for path in folder.glob("*.gguf")):
        what = f"holds its weights as GGUF ({ggufs[0]}); only safetensors are read"
        hint = f"{original}; transformers' from_pretrained(..., gguf_file={ggufs[0]!r}) and"
        hint += " save_pretrained convert some classes"
    elif (folder / CTRANSLATE2_WEIGHTS_FILE).is_file() and any(
        any(folder.glob(glob)) for glob in CTRANSLATE2_VOCABULARY_GLOBS
    ):
        what = f"holds its weights for CTranslate2 ({CTRANSLATE2_WEIGHTS_FILE}, of "
        what += "ct2-transformers-converter); only safetensors are read"
        hint = original
    elif ggmls := sorted(path.name for path in folder.glob("ggml-*.bin")):
        what = f"holds its weights for whisper.cpp ({ggmls[0]}, of convert-h5-to-ggml.py); only "
        what += "safetensors are read"
        hint = original
    else:
        return None
    return ModelError(what, where=str(folder), hint=hint, code="model.other_format")


def _make_missing_weights_error(folder: Path) -> ModelError:
    if error := find_other_format(folder):
        return error
    pickles = sorted(path.name for glob in PICKLE_GLOBS for path in folder.glob(glob))
    what, hint = f"no {WEIGHTS_FILE} in this folder", "copy or make the folder again"
    if pickles:
        what = f"holds its weights as a pickle ({pickles[0]}); only safetensors are read"
        hint = "save the model with transformers' save_pretrained, which writes safetensors"
    return ModelError(what, where=str(folder), hint=hint, code="model.no_safetensors")


def is_safe_file_name(name: object) -> bool:
    """Tell whether a name that a hub or a config gives is a file name, not a path elsewhere."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        return False
    return not any(character in name for character in "/\\\0")
