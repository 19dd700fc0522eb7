"""RMSNorm on a processor, in bf16: the class's own formula forward, its gradient in five passes.

Autograd goes back through every step of the formula, each over the whole input and most of them in
fp32: two thirds of what a norm costs. The gradient in one piece (Zhang and Sennrich, "Root Mean
Square Layer Normalization", 2019, section 4) is half of that, and rounded once.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

EPSILONS = ("variance_epsilon", "eps")


def normalise_in_bf16(decoder: nn.Module) -> None:
    """Let those norms of a language model use it whose formula this is, to the bit."""
    for module in decoder.modules():
        epsilon = next((vars(module)[key] for key in EPSILONS if key in vars(module)), None)
        if type(module).__name__.endswith("RMSNorm") and epsilon and _same(module, epsilon):
            module.forward = partial(_normalise, module, type(module).forward, epsilon)


def _normalise(norm: nn.Module, own: Any, epsilon: float, x: torch.Tensor) -> torch.Tensor:
    """(..., width) -> (..., width); by the class's own way where the weight learns, or in fp32."""
    weight = norm.get_parameter("weight")
    if weight.requires_grad or not x.dtype == weight.dtype == torch.bfloat16:
        plain: torch.Tensor = own(norm, x)
        return plain
    joined: Any = _Norm.apply  # torch does not say its type
    said: torch.Tensor = joined(x, weight, epsilon)
    return said


@torch.no_grad()
def _same(norm: nn.Module, epsilon: float) -> bool:
    """Whether this is the module's formula; some add one to the weight, or multiply in fp32."""
    weight = dict(norm.named_parameters()).get("weight")
    if weight is None or weight.dtype != torch.bfloat16:
        return False
    ramp = torch.linspace(-3, 3, 4 * weight.numel(), device=weight.device).to(weight.dtype)
    x = ramp.view(4, -1)
    return torch.equal(_formula(x, weight, epsilon)[0], norm(x))


def _formula(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, ...]:
    """x / rms(x) * weight, and 1 / rms(x) in fp32."""
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * scale).to(x.dtype).mul_(weight), scale


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight, and the gradient of x; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> torch.Tensor:
        x, weight, epsilon = given
        said, scale = _formula(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        above, wide = (gradients[0] * weight).float(), x.float()
        along = torch.linalg.vecdot(above, wide).unsqueeze(-1).mul_(scale.pow(3) / x.shape[-1])
        return above.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype), None, None
