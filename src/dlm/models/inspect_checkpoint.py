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

from dlm.errors import ModelError
from dlm.plan.hub import find_local_model
from dlm.plan.model_spec import MODEL_SPEC_FILE, ModelSpec
from dlm.plan.safetensors_index import TensorIndex, make_damaged_checkpoint_error, read_tensor_index

TENSOR_CHUNK_SIZE = 1 << 24  # numbers looked at together


@dataclass(frozen=True)
class DtypeCount:
    """The tensors of one part in one format, as safetensors calls it: F32, BF16."""

    component: str
    dtype: str
    num_tensors: int
    size_bytes: int


@dataclass(frozen=True)
class NonFiniteTensor:
    """A tensor with numbers that are not finite."""

    file: Path
    tensor_name: str
    what: str


@dataclass(frozen=True)
class CheckpointReport:
    """What lies in the files of a base."""

    model_key: str
    dtype_counts: tuple[DtypeCount, ...]
    non_finite_tensors: tuple[NonFiniteTensor, ...]


def inspect_checkpoint(spec: ModelSpec, *, chunk_size: int = TENSOR_CHUNK_SIZE) -> CheckpointReport:
    """Read every tensor of a base that lies on this machine, `chunk` numbers at once.

    Raises BaseError where a part is not here, or a file cannot be read.
    """
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    faults = []
    for role, folder in _iter_component_dirs(spec):
        for file in _list_weight_files(folder):
            for key, kind, tensor in _iter_tensors(file):
                part = key.split(".")[0] if (folder / MODEL_SPEC_FILE).is_file() else role
                if role not in ("", part):
                    continue  # of another part, which comes from elsewhere
                count, size = sums.get((part, kind), (0, 0))
                sums[part, kind] = count + 1, size + tensor.nbytes
                if what := _describe_non_finite(tensor, chunk_size):
                    faults.append(NonFiniteTensor(file, key, what))
    formats = (DtypeCount(*names, *counted) for names, counted in sums.items())
    return CheckpointReport(spec.key, tuple(formats), tuple(faults))


def _iter_component_dirs(spec: ModelSpec) -> Iterator[tuple[str, Path]]:
    """Where the weights of each part lie; one place without a part where all lie together."""
    recipe = spec.composition
    if recipe is None:
        yield "", _require_local_checkpoint(spec.source, spec.revision)
        return
    for role, part in (*(("encoder", each) for each in recipe.encoders), ("lm", recipe.lm)):
        if part.source:
            yield role, _require_local_checkpoint(part.source, part.revision)
    if saved := recipe.projector.get("source"):
        yield "projector", Path(saved)


def _require_local_checkpoint(source: str, revision: str | None) -> Path:
    folder = find_local_model(source, revision)
    if folder is None:
        mend = f"fetch it with `hf download {source}`, or by training with it"
        raise ModelError("is not on this machine, or not all of it", where=source, hint=mend)
    return folder


def _list_weight_files(checkpoint_dir: Path) -> list[Path]:
    """A base's weight files, all there and whole; or the one a version keeps what it learned in."""
    learned = sorted(checkpoint_dir.glob("*.safetensors"))
    whole = not learned or any(path.name.startswith("model") for path in learned)
    return (
        [checkpoint_dir / name for name in sorted(read_tensor_index(checkpoint_dir))]
        if whole
        else learned
    )


def _iter_tensors(path: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Each tensor of a file, with its name and its format."""
    try:
        with safe_open(path, framework="pt") as file:
            for key in sorted(file.keys()):
                yield key, file.get_slice(key).get_dtype(), file.get_tensor(key)
    except (OSError, SafetensorError) as reason:
        raise make_damaged_checkpoint_error(
            f"cannot be read ({' '.join(str(reason).split())})", path
        ) from reason


def _describe_non_finite(tensor: torch.Tensor, chunk_size: int) -> str:
    """What of a tensor's numbers is not finite; nothing where all are."""
    infinite = missing = 0
    for some in tensor.flatten().split(chunk_size) if tensor.is_floating_point() else ():
        exact = some.float() if some.itemsize < 2 else some  # 8-bit floats are not compared
        if not exact.isfinite().all():
            infinite += int(exact.isinf().sum())
            missing += int(exact.isnan().sum())
    if not infinite + missing:
        return ""
    return f"holds {infinite:,} inf and {missing:,} NaN among {tensor.numel():,} numbers"


def check_finite_weights(checkpoint_dir: Path, tensor_index: TensorIndex) -> None:
    """Refuse weights with an infinity or a NaN, before they are cast, packed or moved."""
    for name in sorted(tensor_index):
        with safe_open(checkpoint_dir / name, framework="pt") as file:
            for key in sorted(tensor_index[name]):
                tensor = file.get_tensor(key)
                if tensor.is_floating_point() and not _is_finite(tensor):
                    what = f"{key} holds numbers that are not finite"
                    raise make_damaged_checkpoint_error(what, checkpoint_dir / name)


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are; a NaN is both the least and the largest of its tensor."""
    if not tensor.numel():
        return True
    if tensor.itemsize < 2:  # 8-bit floats have no order
        tensor = tensor.float()
    return bool(torch.stack(tensor.aminmax()).isfinite().all())
