"""Reads safetensors weight files one tensor at a time: dtypes, sizes, and values not finite.

A composed model whose components come from elsewhere has a folder for each; in a model that was
written as one folder, the first word of a tensor's name is its component.
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

TENSOR_CHUNK_SIZE = 1 << 24  # values that are checked at once


@dataclass(frozen=True)
class DtypeCount:
    """The tensors of one component in one dtype.

    Attributes:
        component: `encoder`, `projector`, `lm`; empty for a pretrained model, which is one whole.
        dtype: as safetensors writes it: F32, BF16.
        num_tensors: how many there are.
        size_bytes: of all of them.
    """

    component: str
    dtype: str
    num_tensors: int
    size_bytes: int


@dataclass(frozen=True)
class NonFiniteTensor:
    """A tensor with infinities or NaN; `what` counts them."""

    file: Path
    tensor_name: str
    what: str


@dataclass(frozen=True)
class CheckpointReport:
    """What the weight files of a model hold."""

    model_key: str
    dtype_counts: tuple[DtypeCount, ...]
    non_finite_tensors: tuple[NonFiniteTensor, ...]


def inspect_checkpoint(spec: ModelSpec, *, chunk_size: int = TENSOR_CHUNK_SIZE) -> CheckpointReport:
    """Read every tensor of a model that is on this machine.

    Raises:
        ModelError: a component is not on this machine (`model.not_downloaded`), or a file cannot
            be read (`model.damaged_checkpoint`).
    """
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    non_finite = []
    for folder_component, folder in _iter_component_dirs(spec):
        has_components = (folder / MODEL_SPEC_FILE).is_file()
        for path in _list_weight_files(folder):
            for name, dtype, tensor in _iter_tensors(path):
                component = name.split(".")[0] if has_components else folder_component
                if folder_component not in ("", component):
                    continue  # another component, which the model takes from elsewhere
                num_tensors, size_bytes = counts.get((component, dtype), (0, 0))
                counts[component, dtype] = num_tensors + 1, size_bytes + tensor.nbytes
                if what := _count_non_finite(tensor, chunk_size):
                    non_finite.append(NonFiniteTensor(path, name, what))
    dtype_counts = tuple(DtypeCount(*key, *count) for key, count in counts.items())
    return CheckpointReport(spec.key, dtype_counts, tuple(non_finite))


def check_finite_weights(checkpoint_dir: Path, tensor_index: TensorIndex) -> None:
    """Refuse weights with an infinity or a NaN, before they are cast, quantized or moved.

    Raises:
        ModelError: `model.damaged_checkpoint`.
    """
    for file_name in sorted(tensor_index):
        path = checkpoint_dir / file_name
        with safe_open(path, framework="pt") as file:
            for name in sorted(tensor_index[file_name]):
                if not is_finite(file.get_tensor(name)):
                    what = f"{name} holds values that are not finite"
                    raise make_damaged_checkpoint_error(what, path)


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether all values are finite; a NaN is both the minimum and the maximum."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.itemsize < 2:  # torch does not compare 8-bit floats
        tensor = tensor.float()
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


def _count_non_finite(tensor: torch.Tensor, chunk_size: int) -> str:
    """How many infinities and NaN a tensor has, as text; empty where all values are finite."""
    num_inf = num_nan = 0
    for chunk in tensor.flatten().split(chunk_size):
        if not is_finite(chunk):
            num_inf += int(chunk.float().isinf().sum())
            num_nan += int(chunk.float().isnan().sum())
    if not num_inf + num_nan:
        return ""
    return f"holds {num_inf:,} inf and {num_nan:,} NaN among {tensor.numel():,} numbers"


def _iter_component_dirs(spec: ModelSpec) -> Iterator[tuple[str, Path]]:
    """Each component with the folder of its weights; an empty name where all are in one folder."""
    composition = spec.composition
    if composition is None:
        yield "", _require_local_checkpoint(spec.source, spec.revision)
        return
    encoders = (("encoder", encoder) for encoder in composition.encoders)
    for component, component_ref in (*encoders, ("lm", composition.lm)):
        if component_ref.source:
            folder = _require_local_checkpoint(component_ref.source, component_ref.revision)
            yield component, folder
    if projector_dir := composition.projector.get("source"):
        yield "projector", Path(projector_dir)


def _require_local_checkpoint(source: str, revision: str | None) -> Path:
    folder = find_local_model(source, revision)
    if folder is None:
        raise ModelError(
            "is not on this machine, or not all of it",
            where=source,
            hint=f"fetch it with `hf download {source}`, or by training with it",
            code="model.not_downloaded",
        )
    return folder


def _list_weight_files(checkpoint_dir: Path) -> list[Path]:
    """The weight files of a model, all present and whole; or the one file of a version."""
    paths = sorted(checkpoint_dir.glob("*.safetensors"))
    if paths and not any(path.name.startswith("model") for path in paths):
        return paths
    return [checkpoint_dir / name for name in sorted(read_tensor_index(checkpoint_dir))]


def _iter_tensors(path: Path) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Each tensor of a file: name, dtype, values."""
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_slice(name).get_dtype(), file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        what = f"cannot be read ({' '.join(str(error).split())})"
        raise make_damaged_checkpoint_error(what, path) from error
