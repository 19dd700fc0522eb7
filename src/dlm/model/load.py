"""From a plan to a model that can hear: find the weights, load them, add the adapter."""

from importlib.resources import files
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

from dlm.errors import BaseError
from dlm.model.adapters import adapt, place_adapter, read_adapter
from dlm.model.face import Model
from dlm.model.native import load_native
from dlm.model.stitched import load_stitched
from dlm.plan.bases import Base
from dlm.plan.plan import ModelPlan

EMBEDDED = "embedded:"
FETCHED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")  # never pickles, never code


def load(plan: ModelPlan) -> Model:
    """The base of a plan, with what learns made ready, in fp32 where it learns."""
    dtype = torch.bfloat16 if plan.weights == "bf16" else torch.float32
    model = load_base(plan.base, dtype=dtype)
    adapt(model, plan.adapter, seed=plan.seed)
    return model.to(plan.device)


def load_version(base: Base, version: Path | None, *, device: str) -> Model:
    """A base with a committed version on it, or the bare base when `version` is None."""
    large = base.kind == "native" and device != "cpu"
    model = load_base(base, dtype=torch.bfloat16 if large else torch.float32)
    if version is None:
        model.requires_grad_(False)
    else:
        adapt(model, read_adapter(version, base), seed=0)
        place_adapter(model, version)
    return model.to(device).eval()


def load_base(base: Base, *, dtype: torch.dtype = torch.float32) -> Model:
    """The bare base, in evaluation mode."""
    folder = folder_of(base)
    if base.kind == "stitched":
        return load_stitched(folder, base)
    return load_native(folder, base, dtype=dtype)


def folder_of(base: Base) -> Path:
    """The folder with a base's weights, fetched from the hub when it is not here yet."""
    if base.source.startswith(EMBEDDED):
        return Path(str(files("dlm.model"))) / base.source.removeprefix(EMBEDDED)
    if Path(base.source).is_dir() or base.kind == "stitched":
        return Path(base.source)
    try:
        return Path(
            snapshot_download(base.source, revision=base.revision, allow_patterns=list(FETCHED))
        )
    except GatedRepoError as reason:
        mend = f"accept its licence at https://huggingface.co/{base.source}, then `hf auth login`"
        raise BaseError("needs its licence accepted", where=base.source, mend=mend) from reason
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as reason:
        mend = f"`hf download {base.source}` where there is a network, or use base_model: sparrow"
        what = f"is not on this machine and cannot be fetched ({base.megabytes / 1000:.1f} GB)"
        raise BaseError(what, where=base.source, mend=mend) from reason
