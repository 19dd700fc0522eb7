"""Attention on a processor, in bf16: two matrix products and a softmax.

torch's fused attention multiplies in fp32 on a processor, whatever the format; matrix products in
bf16 run on its tile units. What is rounded otherwise is the scores, to bf16, as transformers' eager
attention does. Everything else (another format, long rows, dropout) is transformers' own.

RMSNorm on a processor, in bf16: the class's own formula forward, its gradient in five passes.

Autograd goes back through every step of the formula, each over the whole input and most of them in
fp32: two thirds of what a norm costs. The gradient in one piece (Zhang and Sennrich, "Root Mean
Square Layer Normalization", 2019, section 4) is half of that, and rounded once.

The last layer's feed-forward part, at the positions that are learned alone.

    attention    every position, for each reads those before it
    feed-forward what it says of a position is read by nobody but the head, which is asked at labels

With few layers and many tokens of sound for each word that is a good part of the work. Everything
the loss reads stays as it was; at the other positions the hidden states are not the model's.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from dlm.plan.audio_lengths import ceil_div
from dlm.plan.memory import MAX_BF16_SCORE_KEYS

BF16_ATTENTION_NAME = "dlm_bf16"


def use_cpu_bf16_attention(decoder: nn.Module) -> None:
    """Let a language model on a processor use this attention."""
    if isinstance(decoder, PreTrainedModel) and decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(BF16_ATTENTION_NAME, cpu_bf16_attention_forward)
        AttentionMaskInterface.register(BF16_ATTENTION_NAME, sdpa_mask)
        decoder.set_attn_implementation(BF16_ATTENTION_NAME)


def cpu_bf16_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(rows, heads, tokens, width) -> (rows, tokens, heads, width); keys may have fewer heads."""
    plain = query.dtype == torch.bfloat16 and not kwargs.get("dropout")
    if not plain or key.shape[2] > MAX_BF16_SCORE_KEYS:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    key, value = (repeat_kv(each, groups).flatten(0, 1) for each in (key, value))
    mask = _make_additive_mask(attention_mask, query, key.shape[1]).expand(rows, heads, -1, -1)
    scale = width**-0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
    scores = torch.baddbmm(
        mask.flatten(0, 1), query.flatten(0, 1), key.transpose(1, 2), alpha=scale
    )
    mixed = torch.bmm(scores.softmax(dim=-1), value)
    return mixed.view(rows, heads, tokens, width).transpose(1, 2).contiguous(), None


def _make_additive_mask(
    mask: torch.Tensor | None, query: torch.Tensor, num_keys: int
) -> torch.Tensor:
    """What is added to the scores; None allows every key up to a query's own."""
    tokens, least = query.shape[2], torch.finfo(query.dtype).min
    if mask is None:
        hidden = torch.full((tokens, num_keys), least, dtype=query.dtype, device=query.device)
        return hidden.triu(1 + num_keys - tokens)[None, None]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, least)
    return mask.to(query.dtype)


EPSILON_ATTRIBUTES = ("variance_epsilon", "eps")


def use_cpu_bf16_rmsnorm(decoder: nn.Module) -> None:
    """Let those norms of a language model use it whose formula this is, to the bit."""
    for module in decoder.modules():
        epsilon = next(
            (vars(module)[key] for key in EPSILON_ATTRIBUTES if key in vars(module)), None
        )
        if (
            type(module).__name__.endswith("RMSNorm")
            and epsilon
            and _uses_standard_rmsnorm(module, epsilon)
        ):
            module.forward = partial(_rmsnorm_forward, module, type(module).forward, epsilon)


def _rmsnorm_forward(
    norm: nn.Module, original_forward: Any, epsilon: float, x: torch.Tensor
) -> torch.Tensor:
    """(..., width) -> (..., width); by the class's own way where the weight learns, or in fp32."""
    weight = norm.get_parameter("weight")
    if weight.requires_grad or not x.dtype == weight.dtype == torch.bfloat16:
        plain: torch.Tensor = original_forward(norm, x)
        return plain
    joined: Any = _RMSNormFunction.apply  # torch does not say its type
    said: torch.Tensor = joined(x, weight, epsilon)
    return said


@torch.no_grad()
def _uses_standard_rmsnorm(norm: nn.Module, epsilon: float) -> bool:
    """Whether this is the module's formula; some add one to the weight, or multiply in fp32."""
    weight = dict(norm.named_parameters()).get("weight")
    if weight is None or weight.dtype != torch.bfloat16:
        return False
    ramp = torch.linspace(-3, 3, 4 * weight.numel(), device=weight.device).to(weight.dtype)
    x = ramp.view(4, -1)
    return torch.equal(_compute_rmsnorm(x, weight, epsilon)[0], norm(x))


def _compute_rmsnorm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, ...]:
    """x / rms(x) * weight, and 1 / rms(x) in fp32."""
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * scale).to(x.dtype).mul_(weight), scale


class _RMSNormFunction(torch.autograd.Function):
    """x / rms(x) * weight, and the gradient of x; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        x, weight, epsilon = args
        said, scale = _compute_rmsnorm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        above, wide = (grad_outputs[0] * weight).float(), x.float()
        along = torch.linalg.vecdot(above, wide).unsqueeze(-1).mul_(scale.pow(3) / x.shape[-1])
        return above.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype), None, None


POSITION_PAD_MULTIPLE = (
    16  # positions: a processor compiles its products anew for every length it meets
)
MLP_NAME_RE = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.mlp$")


@contextmanager
def sparse_last_mlp(decoder: nn.Module, position_mask: torch.Tensor) -> Iterator[None]:
    """Inside, the last feed-forward part sees the positions (rows, tokens) that are `wanted`.

    A decoder that thinks its layers through again on the way back sees all of them: by then the
    positions would be forgotten.
    """
    feed = _find_last_mlp(decoder)
    if feed is None or _uses_gradient_checkpointing(decoder):
        yield
        return
    count = (
        ceil_div(max(int(position_mask.sum()), 1), POSITION_PAD_MULTIPLE) * POSITION_PAD_MULTIPLE
    )
    at = position_mask.flatten().to(torch.int8).topk(min(count, position_mask.numel())).indices

    def take(module: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (given[0].flatten(0, 1)[None, at],)

    def put(module: nn.Module, given: Any, said: torch.Tensor) -> torch.Tensor:
        whole = said.new_zeros(position_mask.numel(), said.shape[-1])
        return whole.index_copy(0, at, said[0]).view(*position_mask.shape, -1)

    hooks = feed.register_forward_pre_hook(take), feed.register_forward_hook(put)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _uses_gradient_checkpointing(decoder: nn.Module) -> bool:
    inner = (each for each in decoder.modules() if isinstance(each, GradientCheckpointingLayer))
    return any(each.gradient_checkpointing for each in inner)


def _find_last_mlp(decoder: nn.Module) -> nn.Module | None:
    """The feed-forward part of the last layer, where the decoder has it under a known name."""
    found = [(MLP_NAME_RE.search(name), module) for name, module in decoder.named_modules()]
    parts = {int(named[1]): module for named, module in found if named}
    return parts[max(parts)] if parts else None
