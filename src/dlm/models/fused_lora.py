"""LoRA's layer with fewer passes over memory, where nothing but the plain form is asked for.

    peft    result + B(A(x)) * scaling    a product, a scaling and a sum, each over the output
    here    the sums ride with the products of low rank, on the way forward and on the way back

Everything else (DoRA, merged, switched off, several adapters) is peft's own.
"""

from typing import Any

import torch
from peft.tuners import lora
from torch import nn
from torch.autograd.function import once_differentiable


class FusedLoraLinear(lora.Linear):
    """A linear layer with low-rank weights; equal to peft's to 1e-5 in fp32, peft's if `plain`."""

    use_peft_forward = False

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        special = args or kwargs or self.lora_variant or self.merged or self.disable_adapters
        if special or self.use_peft_forward or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        enter, leave = (
            maps.get_parameter(f"{name}.weight").to(x.dtype) for maps in (self.lora_A, self.lora_B)
        )
        dropout, scaling, base = self.lora_dropout[name], self.scaling[name], self.base_layer
        if (
            isinstance(base, nn.Linear)
            and _is_frozen_linear(base, x)
            and not _is_dropout_active(dropout)
        ):
            flat = x.flatten(0, -2)
            joined: Any = _FusedLoraFunction.apply  # torch does not say its type
            said: torch.Tensor = joined(flat, base.weight, base.bias, enter, leave, scaling)
            return said.view(*x.shape[:-1], -1)
        result: torch.Tensor = base(x)
        low = nn.functional.linear(dropout(x), enter)
        added = torch.addmm(result.flatten(0, -2), low.flatten(0, -2), leave.t(), alpha=scaling)
        return added.view_as(result)


def _is_frozen_linear(base_layer: nn.Linear, x: torch.Tensor) -> bool:
    """Whether the layer stays as it is and multiplies `x` in the format both are in."""
    cast = torch.is_autocast_enabled(x.device.type) and x.dtype == torch.float32
    return x.dtype == base_layer.weight.dtype and not base_layer.weight.requires_grad and not cast


def _is_dropout_active(dropout: nn.Module) -> bool:
    return dropout.training and not isinstance(dropout, nn.Identity)


class _FusedLoraFunction(torch.autograd.Function):
    """x W' + b + scaling (x A') B' of x (n, in), and its gradients; W and b are frozen."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        x, weight, bias, enter, leave, scaling = args
        low = x @ enter.t()
        ctx.save_for_backward(x, low, weight, enter, leave)
        ctx.scaling = scaling
        return nn.functional.linear(x, weight, bias).addmm_(low, leave.t(), alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low, weight, enter, leave = ctx.saved_tensors
        (above,) = grad_outputs
        of_low = (above @ leave).mul_(ctx.scaling)
        of_leave = (above.t() @ low).mul_(ctx.scaling)
        of_x = (above @ weight).addmm_(of_low, enter) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_low.t() @ x, of_leave, None
