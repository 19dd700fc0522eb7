"""From a plan to a model that can hear: find the weights, load them, add the adapter."""

from importlib.resources import files
from pathlib import Path

from dlm.model.adapters import adapt, place_adapter, read_adapter
from dlm.model.face import Model
from dlm.model.stitched import Stitched, load_stitched
from dlm.plan.bases import Base
from dlm.plan.plan import ModelPlan

EMBEDDED = "embedded:"


def load(plan: ModelPlan) -> Model:
    """The base of a plan, with what learns made ready."""
    model = load_base(plan.base)
    adapt(model, plan.adapter, seed=plan.seed)
    return model.to(plan.device)


def load_version(base: Base, version: Path | None, *, device: str) -> Stitched:
    """A base with a committed version on it, or the bare base when `version` is None."""
    model = load_base(base)
    if version is None:
        model.requires_grad_(False)
    else:
        adapt(model, read_adapter(version, base), seed=0)
        place_adapter(model, version)
    return model.to(device).eval()


def load_base(base: Base) -> Stitched:
    """The bare base, in evaluation mode."""
    return load_stitched(folder_of(base), base)


def folder_of(base: Base) -> Path:
    """The folder with a base's weights."""
    if base.source.startswith(EMBEDDED):
        return Path(str(files("dlm.model"))) / base.source.removeprefix(EMBEDDED)
    return Path(base.source)
