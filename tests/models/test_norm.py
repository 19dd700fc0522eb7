"""The norm with a gradient of its own says what the class says, and only where it may."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from dlm.models.cpu_kernels import use_cpu_bf16_rmsnorm

WIDTH = 48


def norm(kind: type[nn.Module], dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    made = kind(WIDTH, eps=1e-5)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    return made.to(dtype).requires_grad_(False)


def passed(module: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What it says of the same numbers, and their gradient."""
    chance = torch.Generator().manual_seed(1)
    given, above = torch.randn(2, 2, 7, 3, WIDTH, generator=chance).bfloat16().unbind()
    x = (5 * given).to(dtype).requires_grad_(True)
    said = module(x)
    said.backward(above.to(dtype))
    return said.detach(), x.grad


@pytest.mark.parametrize("kind", [Qwen2RMSNorm, LlamaRMSNorm, Qwen3RMSNorm])
def test_it_equals_the_class(kind: type[nn.Module]) -> None:
    """Forward to the bit; the gradient is as near to fp32's as the class's own."""
    theirs = norm(kind, torch.bfloat16)
    ours = copy.deepcopy(theirs)
    use_cpu_bf16_rmsnorm(ours)
    assert "forward" in vars(ours)
    (said, gradient), (expected, own) = (passed(each, torch.bfloat16) for each in (ours, theirs))
    exact = passed(copy.deepcopy(theirs).float(), torch.float32)[1]
    assert torch.equal(said, expected)
    off, allowed = ((each.float() - exact).abs() for each in (gradient, own))
    assert off.mean() <= 1.05 * allowed.mean()
    assert off.max() < 0.01 * exact.abs().max()


@pytest.mark.parametrize(
    "kind, dtype", [(Gemma3RMSNorm, torch.bfloat16), (Qwen2RMSNorm, torch.float32)]
)
def test_another_formula_or_format_stays_as_it_is(
    kind: type[nn.Module], dtype: torch.dtype
) -> None:
    module = norm(kind, dtype)
    use_cpu_bf16_rmsnorm(module)
    assert "forward" not in vars(module)


def test_a_norm_that_learns_is_the_class_s_own() -> None:
    theirs = norm(Qwen2RMSNorm, torch.bfloat16).requires_grad_(True)
    ours = copy.deepcopy(theirs)
    use_cpu_bf16_rmsnorm(ours)
    for mine, expected in zip(
        passed(ours, torch.bfloat16), passed(theirs, torch.bfloat16), strict=True
    ):
        assert torch.equal(mine, expected)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
