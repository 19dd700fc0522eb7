"""What lies in the weight files of a base: formats and their sizes, and every number not finite.

    base --parts--> folder --files--> tensor, one in memory at a time

A stitched base that is joined as it is loaded has a folder for each part; a folder of one that was
written whole has the parts in the names of its tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dlm.errors import BaseError
from dlm.plan.bases import FACTS, Base
from dlm.plan.hub import place_of
from dlm.plan.weights import damaged, read_weights

CHUNK = 1 << 24  # numbers looked at together


@dataclass(frozen=True)
class Format:
    """The tensors of one part in one format, as safetensors calls it: F32, BF16."""

    part: str
    format: str
    tensors: int
    size_bytes: int


@dataclass(frozen=True)
class Fault:
    """A tensor with numbers that are not finite."""

    file: Path
    tensor: str
    what: str


@dataclass(frozen=True)
class Inspection:
    """What lies in the files of a base."""

    base: str
    formats: tuple[Format, ...]
    faults: tuple[Fault, ...]


def inspect(base: Base, *, chunk: int = CHUNK) -> Inspection:
    """Read every tensor of a base that lies on this machine, `chunk` numbers at once.

    Raises BaseError where a part is not here, or a file cannot be read.
    """
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    faults = []
    for role, folder in _folders(base):
        for file in _files(folder):
            for key, kind, tensor in _tensors(file):
                part = key.split(".")[0] if (folder / FACTS).is_file() else role
                if role not in ("", part):
                    continue  # of another part, which comes from elsewhere
                count, size = sums.get((part, kind), (0, 0))
                sums[part, kind] = count + 1, size + tensor.nbytes
                if what := _odd(tensor, chunk):
                    faults.append(Fault(file, key, what))
    formats = (Format(*names, *counted) for names, counted in sums.items())
    return Inspection(base.key, tuple(formats), tuple(faults))


def _folders(base: Base) -> Iterator[tuple[str, Path]]:
    """Where the weights of each part lie; one place without a part where all lie together."""
    recipe = base.recipe
    if recipe is None:
        yield "", _here(base.source, base.revision)
        return
    for role, part in (*(("encoder", each) for each in recipe.encoders), ("lm", recipe.lm)):
        if part.source:
            yield role, _here(part.source, part.revision)
    if saved := recipe.projector.get("source"):
        yield "projector", Path(saved)


def _here(source: str, revision: str | None) -> Path:
    folder = place_of(source, revision)
    if folder is None:
        mend = f"fetch it with `hf download {source}`, or by training with it"
        raise BaseError("is not on this machine, or not all of it", where=source, mend=mend)
    return folder


def _files(folder: Path) -> list[Path]:
    """A base's weight files, all there and whole; or the one a version keeps what it learned in."""
    learned = sorted(folder.glob("*.safetensors"))
    whole = not learned or any(path.name.startswith("model") for path in learned)
    return [folder / name for name in sorted(read_weights(folder))] if whole else learned


def _tensors(path: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Each tensor of a file, with its name and its format."""
    try:
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                yield key, file.get_slice(key).get_dtype(), file.get_tensor(key)
    except (OSError, SafetensorError) as reason:
        raise damaged(f"cannot be read ({' '.join(str(reason).split())})", path) from reason


def _odd(tensor: torch.Tensor, chunk: int) -> str:
    """What of a tensor's numbers is not finite; nothing where all are."""
    infinite = missing = 0
    for some in tensor.flatten().split(chunk) if tensor.is_floating_point() else ():
        exact = some.float() if some.itemsize < 2 else some  # 8-bit floats are not compared
        if not exact.isfinite().all():
            infinite += int(exact.isinf().sum())
            missing += int(exact.isnan().sum())
    if not infinite + missing:
        return ""
    return f"holds {infinite:,} inf and {missing:,} NaN among {tensor.numel():,} numbers"
