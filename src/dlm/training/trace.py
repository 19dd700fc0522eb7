"""Where a number first stops being finite: the module, the weight and the clips.

    forward     modules in the order they are done, the innermost first
    backward    row by row, modules as the gradient comes through them, then what they keep of it

A step is taken again with hooks on every module only when it was not finite, which is rare.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dlm.batches.collate import Batch
from dlm.model.adapters import learning
from dlm.model.face import Features, Model
from dlm.training.events import Fault
from dlm.training.loss import Objective


def find_fault(objective: Objective, batches: list[Batch], scale: float) -> Fault | None:
    """Take the step of these `batches` again; their losses count `scale` times.

    Random numbers must stand as they did at its beginning. Gradients are cleared.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules that are given no gradient, or give no tensor
        for batch in batches:
            fault = _fault(objective, batch, scale)
            objective.zero_grad(set_to_none=True)
            if fault:
                return fault
    return None


def _fault(objective: Objective, batch: Batch, scale: float) -> Fault | None:
    with _watching(objective.model) as seen:
        losses = objective(batch).learned
        broken = [
            place
            for place, fine in zip(batch.places, losses.isfinite().tolist(), strict=True)
            if not fine
        ]
        if broken and seen:
            return _said(objective.model, *seen[0], batch, tuple(broken))
        seen.clear()
        for place, loss in zip(batch.places, losses * scale, strict=True):
            objective.zero_grad(set_to_none=True)
            if loss.requires_grad:
                loss.backward(retain_graph=True)
            if seen:
                name, fine = seen[0]
                return Fault(name, "backward", (place,), _largest(objective.model, name, fine))
            tensor = _first_broken(objective.model)
            if tensor:
                return Fault(tensor.rpartition(".")[0], "backward", (place,), tensor)
    return None


Seen = tuple[str, bool]  # a module, and whether it was given finite numbers


@contextmanager
def _watching(model: Model) -> Iterator[list[Seen]]:
    """Inside, the list grows by every module that gives a number that is not finite."""
    seen: list[Seen] = []
    hooks = []
    for name, module in model.named_modules():

        def look(module: nn.Module, given: Any, said: Any, name: str = name) -> None:
            if not _finite(said):
                seen.append((name, _finite(given)))

        def look_back(module: nn.Module, passed: Any, given: Any, name: str = name) -> None:
            if not (_finite(passed) and _finite(given)):
                seen.append((name, _finite(given)))

        hooks += [module.register_forward_hook(look), module.register_full_backward_hook(look_back)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _said(model: Model, name: str, fine: bool, batch: Batch, clips: tuple[str, ...]) -> Fault:
    """What a module did on the way forward; what it was given came from the one around it."""
    given = not _finite(batch.sounds)
    module = name if fine or given else name.rpartition(".")[0]
    return Fault(module, "forward", clips, _largest(model, name, fine), given)


def _largest(model: Model, name: str, fine: bool) -> str:
    """The largest weight of a module that made something of finite numbers that is not."""
    own = model.get_submodule(name).named_parameters(recurse=False) if fine else ()
    sizes = {key: float(each.detach().abs().max().nan_to_num(torch.inf)) for key, each in own}
    return f"{name}.{max(sizes, key=sizes.__getitem__)}" if sizes else ""


def _first_broken(model: Model) -> str:
    """The last tensor with a gradient that is not finite, from the end, where it began."""
    found = ((name, each.grad) for name, each in reversed(learning(model).items()))
    return next((name for name, grad in found if grad is not None and not _finite(grad)), "")


def _finite(value: Any) -> bool:
    """Whether all tensors in what a module takes or gives are finite."""
    value = value.values if isinstance(value, Features) else value
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return not isinstance(value, tuple | list) or all(map(_finite, value))
