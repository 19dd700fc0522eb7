"""LoRA's layer with fewer passes over memory, where nothing but the plain form is asked for.

    peft      result + B(A(x)) * scaling     a product, a scaling and a sum, each over the output
    here      addmm(result, A(x), B)         the scaling and the sum ride with the product

Everything else (DoRA, merged, switched off, several adapters) is peft's own.
"""

from typing import Any

import torch
from peft.tuners import lora
from torch import nn


class Linear(lora.Linear):
    """A linear layer with low-rank weights; equal to peft's to 1e-5 in fp32."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        special = args or kwargs or self.lora_variant or self.merged or self.disable_adapters
        if special or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        result: torch.Tensor = self.base_layer(x)
        enter, leave = (
            maps.get_parameter(f"{name}.weight").to(x.dtype) for maps in (self.lora_A, self.lora_B)
        )
        low = nn.functional.linear(self.lora_dropout[name](x), enter)
        added = torch.addmm(
            result.flatten(0, -2), low.flatten(0, -2), leave.t(), alpha=self.scaling[name]
        )
        return added.view_as(result)
