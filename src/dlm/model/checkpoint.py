"""Whether a checkpoint is what it should be: nothing missing, nothing random, every number finite.

    config.json    the class that the base's row names
    safetensors    whole files, each tensor in its place and finite

Nothing else is read: no pickle, and no code that lies beside the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging

from dlm.errors import BaseError
from dlm.model.native import FAMILIES, Native
from dlm.plan.bases import Base
from dlm.plan.derive import family_of, read_config
from dlm.plan.weights import Weights, damaged, read_weights

TOKENS = ("audio_token_id", "audio_token_index")  # what configs call the placeholder
FAULTS = {
    "missing_keys": "missing",
    "unexpected_keys": "unknown",
    "mismatched_keys": "of another shape",
    "error_msgs": "not placed",
}


def load_native(
    folder: Path,
    base: Base,
    *,
    dtype: torch.dtype,
    quantization: BitsAndBytesConfig | None = None,
    device_map: str | None = None,
) -> Native:
    """Load a released model from its folder, in evaluation mode.

    Raises BaseError for another class, and naming the first tensor that is missing, unknown,
    misshapen or not finite.
    """
    kind = FAMILIES[base.family]
    _check_class(folder, base)
    check_finite(folder, read_weights(folder))
    how = {"dtype": dtype, "quantization_config": quantization, "device_map": device_map}
    model = kind(base, placed(kind.architecture, folder, how), folder).eval()
    _check_token(folder, model)
    return model


def _check_class(folder: Path, base: Base) -> None:
    """Refuse the weights of another class than the row's."""
    family = family_of(read_config(folder))
    if family != base.family:
        what = f"is of class {family}, and {base.key} is of class {base.family}"
        raise BaseError(what, where=str(folder), mend="name it in base_model by its own name")


def check_finite(folder: Path, weights: Weights) -> None:
    """Refuse weights with an infinity or a NaN, before they are cast, packed or moved."""
    for name in sorted(weights):
        with safe_open(folder / name, framework="pt") as file:
            for key in sorted(weights[name]):
                tensor = file.get_tensor(key)
                if tensor.is_floating_point() and not _finite(tensor):
                    what = f"{key} holds numbers that are not finite"
                    raise damaged(what, folder / name)


def _check_token(folder: Path, model: Native) -> None:
    """Refuse a tokenizer whose token for sound is not the class's own."""
    config = {**read_config(folder), **read_config(folder).get("thinker_config", {})}
    named = [config[key] for key in TOKENS if key in config]
    if named and named[0] != model.placeholder:
        what = f"its config says that token {named[0]} stands for sound, its tokenizer that"
        what += f" {model.placeholder} does ({model.base.placeholder})"
        raise damaged(what, folder)


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are; a NaN is both the least and the largest of its tensor."""
    if not tensor.numel():
        return True
    if tensor.itemsize < 2:  # 8-bit floats have no order
        tensor = tensor.float()
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


def placed(architecture: Any, folder: Path, how: dict[str, Any]) -> PreTrainedModel:
    """The class with every tensor from the files, none of them random."""
    try:
        with _quiet():
            loaded: Any = architecture.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are told with the others, below
                output_loading_info=True,
                **how,
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as reason:
        told = next(iter(str(reason).splitlines()), type(reason).__name__)
        raise damaged(f"cannot be loaded ({told})", folder) from reason
    whole: PreTrainedModel
    whole, report = loaded
    odd = {fault: sorted(map(_name, report[key])) for key, fault in FAULTS.items() if report[key]}
    if odd:
        told = "; ".join(f"{len(names)} {fault}, first {names[0]}" for fault, names in odd.items())
        raise damaged(f"these are not the weights of this class: {told}", folder)
    return whole


def _name(entry: str | tuple[Any, ...]) -> str:
    """A tensor as the report tells it, with both shapes where they differ."""
    if isinstance(entry, str):
        return entry
    name, found, wanted = entry
    return f"{name} ({list(found)}, not {list(wanted)})"


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar and no table on the way: what matters of them is told as an error."""
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
