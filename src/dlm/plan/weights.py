"""What the weight files of a base tell without being loaded: names, shapes, sizes.

    folder/  config.json                      the class
             model.safetensors                every tensor, or
             model.safetensors.index.json     which tensor is in which of several files

Only safetensors are read: a pickle runs what it holds.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import get_local_safetensors_metadata
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

from dlm.errors import BaseError

if TYPE_CHECKING:
    from huggingface_hub.utils._safetensors import SafetensorsRepoMetadata

CONFIG = "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
PREFIX_BYTES = 8  # of a safetensors file: the length of its header, little-endian
SAMPLE_BYTES = 256  # of each tensor: training changes nearly all its numbers


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file; its bytes are those from `begin` to `end` behind the header."""

    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


Weights = dict[str, dict[str, Tensor]]  # by file, by name


def read_weights(folder: Path) -> Weights:
    """The tensors of a folder. Raises BaseError for files that are missing, cut off or pickles."""
    try:
        weights = weights_of(get_local_safetensors_metadata(folder))
    except NotASafetensorsRepoError as reason:
        raise _no_weights(folder) from reason
    except FileNotFoundError as reason:
        what = f"{Path(str(reason.filename)).name} is missing"
        raise damaged(what, folder) from reason
    except (OSError, ValueError, AttributeError, TypeError, SafetensorsParsingError) as reason:
        told = " ".join(str(reason).split())
        raise damaged(f"cannot be read ({told})", folder) from reason
    for name, tensors in weights.items():
        _check_length(folder / name, tensors)
    return weights


def weights_of(found: "SafetensorsRepoMetadata") -> Weights:
    """The same, from what the hub's library read."""
    return {
        name: {key: Tensor(tuple(each.shape), *each.data_offsets) for key, each in tensors.items()}
        for name, tensors in ((name, file.tensors) for name, file in found.files_metadata.items())
    }


def fingerprint(folder: Path, weights: Weights) -> str:
    """A revision for a folder: another one when its shape, or any tensor, was changed."""
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    for name in sorted(weights):
        with (folder / name).open("rb") as file:
            prefix = file.read(PREFIX_BYTES)
            header = int.from_bytes(prefix, "little")
            digest.update(prefix + file.read(header))
            for tensor in weights[name].values():
                file.seek(PREFIX_BYTES + header + tensor.begin)
                digest.update(file.read(min(SAMPLE_BYTES, tensor.end - tensor.begin)))
    return digest.hexdigest()[:40]


def damaged(what: str, place: Path) -> BaseError:
    """The error for what cannot be loaded. The hub's cache mends nothing by itself: say how."""
    cached = next((part for part in place.parts if part.startswith("models--")), None)
    mend = "copy or make the folder again"
    if cached:
        name = cached.removeprefix("models--").replace("--", "/")
        mend = f"`hf cache rm model/{name}`, then run it again"
    return BaseError(what, where=str(place), mend=mend)


def _check_length(path: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse a file that ends before, or goes on after, what its header promises."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(PREFIX_BYTES), "little")
    promised = PREFIX_BYTES + header + max((each.end for each in tensors.values()), default=0)
    size = path.stat().st_size
    if size != promised:
        what = f"has {size:,} bytes where its header promises {promised:,}"
        raise damaged(what, path)


def _no_weights(folder: Path) -> BaseError:
    pickles = sorted(path.name for form in PICKLES for path in folder.glob(form))
    if not pickles:
        return damaged("no model.safetensors in this folder", folder)
    mend = "save the model with transformers' save_pretrained, which writes safetensors"
    what = f"holds its weights as a pickle ({pickles[0]}); only safetensors are read"
    return BaseError(what, where=str(folder), mend=mend)
