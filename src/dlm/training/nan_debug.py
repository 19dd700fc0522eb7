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

from dlm.batching.collator import Batch
from dlm.models.adapters import get_trainable_parameters
from dlm.models.audio_lm import AudioLanguageModel, EncoderOutput
from dlm.training.events import NonFiniteOrigin
from dlm.training.loss import AudioLMLoss


def locate_non_finite(
    loss_module: AudioLMLoss, batches: list[Batch], loss_scale: float
) -> NonFiniteOrigin | None:
    """Take the step of these `batches` again; their losses count `scale` times.

    Random numbers must stand as they did at its beginning. Gradients are cleared.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules that are given no gradient, or give no tensor
        for batch in batches:
            fault = _locate_in_batch(loss_module, batch, loss_scale)
            loss_module.zero_grad(set_to_none=True)
            if fault:
                return fault
    return None


def _locate_in_batch(
    loss_module: AudioLMLoss, batch: Batch, loss_scale: float
) -> NonFiniteOrigin | None:
    with _watch_modules(loss_module.model) as seen:
        losses = loss_module(batch).total_loss
        broken = [
            place
            for place, fine in zip(batch.locations, losses.isfinite().tolist(), strict=True)
            if not fine
        ]
        if broken and seen:
            return _make_forward_origin(loss_module.model, *seen[0], batch, tuple(broken))
        seen.clear()
        for place, loss in zip(batch.locations, losses * loss_scale, strict=True):
            loss_module.zero_grad(set_to_none=True)
            if loss.requires_grad:
                loss.backward(retain_graph=True)
            if seen:
                name, fine = seen[0]
                return NonFiniteOrigin(
                    name, "backward", (place,), _find_largest_weight(loss_module.model, name, fine)
                )
            tensor = _find_non_finite_grad(loss_module.model)
            if tensor:
                return NonFiniteOrigin(tensor.rpartition(".")[0], "backward", (place,), tensor)
    return None


NonFiniteModule = tuple[str, bool]  # a module, and whether it was given finite numbers


@contextmanager
def _watch_modules(model: AudioLanguageModel) -> Iterator[list[NonFiniteModule]]:
    """Inside, the list grows by every module that gives a number that is not finite."""
    seen: list[NonFiniteModule] = []
    hooks = []
    for name, module in model.named_modules():

        def look(module: nn.Module, given: Any, said: Any, name: str = name) -> None:
            if not _is_finite(said):
                seen.append((name, _is_finite(given)))

        def look_back(module: nn.Module, passed: Any, given: Any, name: str = name) -> None:
            if not (_is_finite(passed) and _is_finite(given)):
                seen.append((name, _is_finite(given)))

        hooks += [module.register_forward_hook(look), module.register_full_backward_hook(look_back)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _make_forward_origin(
    model: AudioLanguageModel,
    module_name: str,
    is_input_finite: bool,
    batch: Batch,
    locations: tuple[str, ...],
) -> NonFiniteOrigin:
    """What a module did on the way forward; what it was given came from the one around it."""
    given = not _is_finite(batch.audio_features)
    module = module_name if is_input_finite or given else module_name.rpartition(".")[0]
    return NonFiniteOrigin(
        module,
        "forward",
        locations,
        _find_largest_weight(model, module_name, is_input_finite),
        given,
    )


def _find_largest_weight(model: AudioLanguageModel, module_name: str, is_input_finite: bool) -> str:
    """The largest weight of a module that made something of finite numbers that is not."""
    own = (
        model.get_submodule(module_name).named_parameters(recurse=False) if is_input_finite else ()
    )
    sizes = {key: float(each.detach().abs().max().nan_to_num(torch.inf)) for key, each in own}
    return f"{module_name}.{max(sizes, key=sizes.__getitem__)}" if sizes else ""


def _find_non_finite_grad(model: AudioLanguageModel) -> str:
    """The last tensor with a gradient that is not finite, from the end, where it began."""
    found = ((name, each.grad) for name, each in reversed(get_trainable_parameters(model).items()))
    return next((name for name, grad in found if grad is not None and not _is_finite(grad)), "")


def _is_finite(value: Any) -> bool:
    """Whether all tensors in what a module takes or gives are finite."""
    value = value.hidden_states if isinstance(value, EncoderOutput) else value
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return not isinstance(value, tuple | list) or all(map(_is_finite, value))
