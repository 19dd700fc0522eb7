"""Parts that are computed in fp32, whatever autocast says: what is new and joins two models.

A matrix that has just been drawn, between a model that hears and one that writes, meets numbers
that neither has seen; bf16 keeps three digits of them.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from dlm.model.face import Model
from dlm.model.quantize import hush

Part = Literal["projector", "lora"]


def compute_in_fp32(model: Model, parts: tuple[Part, ...]) -> None:
    """From now on compute these parts of `model` in fp32, forward and back."""
    if "projector" in parts:
        for prefix in model.parts["projector"]:
            module = model.get_submodule(prefix.rstrip("."))
            _exact(module.float(), model)
    if "lora" in parts:
        for each in _maps(model):
            _exact(each, model)


def _maps(model: Model) -> list[nn.Module]:
    """The matrices of low rank, each a layer of its own in peft's form of the sum."""
    hush()
    from peft.tuners.lora import LoraLayer

    from dlm.model.lora import Linear

    layers = [each for each in model.modules() if isinstance(each, LoraLayer)]
    for layer in layers:
        if isinstance(layer, Linear):
            layer.plain = True
    pairs = [maps for layer in layers for maps in (layer.lora_A, layer.lora_B)]
    return [each for maps in pairs for each in maps.values()]


def _exact(module: nn.Module, model: Model) -> None:
    """Give the module a forward of its own, outside autocast and of fp32."""
    inner: Callable[..., Any] = module.forward

    def forward(*given: Any, **named: Any) -> Any:
        with torch.autocast(model.device.type, enabled=False):
            return inner(*map(_raised, given), **named)

    vars(module)["forward"] = forward


def _raised(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
