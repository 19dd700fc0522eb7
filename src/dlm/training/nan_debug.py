"""The search for the first non-finite number of a step: module, weight, direction and examples.

    forward     modules in the order they are done, innermost first
    backward    example by example, modules as the gradient passes them, then gradients of weights

Only a step that was not finite is run again with hooks on every module.
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

NonFiniteModule = tuple[str, bool]  # name of a module, whether its input was finite


def locate_non_finite(
    loss_module: AudioLMLoss, batches: list[Batch], loss_scale: float
) -> NonFiniteOrigin | None:
    """Run the batches of a step again, and find where a number is first not finite.

    Args:
        loss_module: its gradients are cleared.
        batches: of the step; random numbers must be seeded as at its beginning.
        loss_scale: what the step multiplies losses by.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules without a gradient, or without a tensor
        for batch in batches:
            origin = _locate_in_batch(loss_module, batch, loss_scale)
            loss_module.zero_grad(set_to_none=True)
            if origin:
                return origin
    return None


def _locate_in_batch(
    loss_module: AudioLMLoss, batch: Batch, loss_scale: float
) -> NonFiniteOrigin | None:
    model = loss_module.model
    with _watch_modules(model) as non_finite_modules:
        losses = loss_module(batch).total_loss
        is_finite = losses.isfinite().tolist()
        bad_locations = tuple(
            location
            for location, finite in zip(batch.locations, is_finite, strict=True)
            if not finite
        )
        if bad_locations and non_finite_modules:
            return _make_forward_origin(model, *non_finite_modules[0], batch, bad_locations)
        non_finite_modules.clear()
        for location, loss in zip(batch.locations, losses * loss_scale, strict=True):
            loss_module.zero_grad(set_to_none=True)
            if loss.requires_grad:
                loss.backward(retain_graph=True)
            if non_finite_modules:
                name, input_finite = non_finite_modules[0]
                weight_name = _find_largest_weight(model, name) if input_finite else ""
                return NonFiniteOrigin(name, "backward", (location,), weight_name)
            weight_name = _find_non_finite_grad(model)
            if weight_name:
                module_name = weight_name.rpartition(".")[0]
                return NonFiniteOrigin(module_name, "backward", (location,), weight_name)
    return None


@contextmanager
def _watch_modules(model: AudioLanguageModel) -> Iterator[list[NonFiniteModule]]:
    """A list that grows by every module whose output or gradient is not finite."""
    non_finite_modules: list[NonFiniteModule] = []
    hooks = []
    for name, module in model.named_modules():

        def check_forward(_: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            if not _is_finite(output):
                non_finite_modules.append((name, _is_finite(inputs)))

        def check_backward(
            _: nn.Module, grad_input: Any, grad_output: Any, name: str = name
        ) -> None:
            if not (_is_finite(grad_input) and _is_finite(grad_output)):
                non_finite_modules.append((name, _is_finite(grad_output)))

        hooks.append(module.register_forward_hook(check_forward))
        hooks.append(module.register_full_backward_hook(check_backward))
    try:
        yield non_finite_modules
    finally:
        for hook in hooks:
            hook.remove()


def _make_forward_origin(
    model: AudioLanguageModel,
    module_name: str,
    input_finite: bool,
    batch: Batch,
    locations: tuple[str, ...],
) -> NonFiniteOrigin:
    """A module's output was not finite; where its input was not, the module around it is named."""
    features_non_finite = not _is_finite(batch.audio_features)
    named = input_finite or features_non_finite
    return NonFiniteOrigin(
        module_name if named else module_name.rpartition(".")[0],
        "forward",
        locations,
        _find_largest_weight(model, module_name) if input_finite else "",
        features_non_finite,
    )


def _find_largest_weight(model: AudioLanguageModel, module_name: str) -> str:
    """The name of the module's own weight with the largest value; empty if it has none."""
    largest_values = {
        name: float(parameter.detach().abs().max().nan_to_num(torch.inf))
        for name, parameter in model.get_submodule(module_name).named_parameters(recurse=False)
    }
    if not largest_values:
        return ""
    return f"{module_name}.{max(largest_values, key=largest_values.__getitem__)}"


def _find_non_finite_grad(model: AudioLanguageModel) -> str:
    """The last parameter whose gradient is not finite: gradients are computed from the end."""
    for name, parameter in reversed(get_trainable_parameters(model).items()):
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return name
    return ""


def _is_finite(value: Any) -> bool:
    """Whether all tensors in a module's input or output are finite."""
    if isinstance(value, EncoderOutput):
        value = value.hidden_states
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return not isinstance(value, tuple | list) or all(map(_is_finite, value))
