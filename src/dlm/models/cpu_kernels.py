"""Faster equivalents of layers of transformers and peft, made for training on CPUs.

    bf16_attention   two bf16 matrix products and a softmax: torch's fused attention multiplies in
                     fp32 on a CPU. Rounds the scores to bf16, as transformers' eager attention.
    bf16_rmsnorm     the gradient in five passes over memory (Zhang and Sennrich, "Root Mean Square
                     Layer Normalization", 2019, section 4); the forward is the class's, to the bit.
    fused_lora       x W' + scaling (x A') B' and its gradients, with the sums inside the products
                     of low rank and no cast of x. Equal to peft's to 1e-4 in fp32.
    sparse_last_mlp  the last feed-forward layer at positions with labels only: no other position
                     of it reaches the loss. Their hidden states are not the model's own.

`use_cpu_kernels` is the one switch. The first two are for bf16 weights on a CPU, the other two for
any device. Where the conditions of a kernel do not hold, the original layer runs.
`python bench/cpu_kernels.py` measures each of them.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.quantize import silence_bitsandbytes
from dlm.plan.audio_lengths import ceil_div
from dlm.plan.memory import MAX_BF16_SCORE_KEYS

CpuKernel = Literal["bf16_attention", "bf16_rmsnorm", "fused_lora", "sparse_last_mlp"]
CPU_KERNELS: tuple[CpuKernel, ...] = get_args(CpuKernel)
BF16_ATTENTION_NAME = "dlm_bf16"  # in transformers' registry
EPSILON_ATTRIBUTES = ("variance_epsilon", "eps")
POSITION_PAD_MULTIPLE = 16  # positions: a CPU's library compiles a product for every new length
MLP_NAME_RE = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.mlp$")


def use_cpu_kernels(
    model: AudioLanguageModel, kernels: tuple[CpuKernel, ...] = CPU_KERNELS
) -> None:
    """Replace layers of a model, adapter included, by their faster equivalents."""
    install: dict[CpuKernel, Callable[[], None]] = {
        "bf16_attention": partial(_use_bf16_attention, model.decoder),
        "bf16_rmsnorm": partial(_use_bf16_rmsnorm, model.decoder),
        "fused_lora": partial(_use_fused_lora, model),
        "sparse_last_mlp": partial(setattr, model, "has_sparse_last_mlp", True),
    }
    for kernel in kernels:
        install[kernel]()


def _use_bf16_attention(decoder: nn.Module) -> None:
    if isinstance(decoder, PreTrainedModel) and decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(BF16_ATTENTION_NAME, _bf16_attention_forward)
        AttentionMaskInterface.register(BF16_ATTENTION_NAME, sdpa_mask)
        decoder.set_attn_implementation(BF16_ATTENTION_NAME)


def _bf16_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(batch, heads, tokens, head_dim) -> (batch, tokens, heads, head_dim); or transformers' own.

    Transformers' own are: another dtype, dropout, and sequences so long that scores take much
    memory.
    """
    is_bf16 = query.dtype == torch.bfloat16 and not kwargs.get("dropout")
    if not is_bf16 or key.shape[2] > MAX_BF16_SCORE_KEYS:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    batch, heads, tokens, head_dim = query.shape
    groups = heads // key.shape[1]
    key, value = (repeat_kv(states, groups).flatten(0, 1) for states in (key, value))
    mask = _make_additive_mask(attention_mask, query, key.shape[1]).expand(batch, heads, -1, -1)
    scale = head_dim**-0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
    scores = torch.baddbmm(
        mask.flatten(0, 1), query.flatten(0, 1), key.transpose(1, 2), alpha=scale
    )
    output = torch.bmm(scores.softmax(dim=-1), value)
    return output.view(batch, heads, tokens, head_dim).transpose(1, 2).contiguous(), None


def _make_additive_mask(
    mask: torch.Tensor | None, query: torch.Tensor, num_keys: int
) -> torch.Tensor:
    """What is added to the scores; None allows every key up to a query's own."""
    tokens, lowest = query.shape[2], torch.finfo(query.dtype).min
    if mask is None:
        future = torch.full((tokens, num_keys), lowest, dtype=query.dtype, device=query.device)
        return future.triu(1 + num_keys - tokens)[None, None]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, lowest)
    return mask.to(query.dtype)


def _use_bf16_rmsnorm(decoder: nn.Module) -> None:
    for module in decoder.modules():
        attributes = vars(module)
        epsilon = next((attributes[key] for key in EPSILON_ATTRIBUTES if key in attributes), 0.0)
        is_rmsnorm = type(module).__name__.endswith("RMSNorm") and epsilon > 0
        if is_rmsnorm and _uses_standard_rmsnorm(module, epsilon):
            vars(module)["forward"] = partial(
                _rmsnorm_forward, module, type(module).forward, epsilon
            )


@torch.no_grad()
def _uses_standard_rmsnorm(norm: nn.Module, epsilon: float) -> bool:
    """Whether this is the module's formula; some add one to the weight, or multiply in fp32."""
    weight = dict(norm.named_parameters()).get("weight")
    if weight is None or weight.dtype != torch.bfloat16:
        return False
    ramp = torch.linspace(-3, 3, 4 * weight.numel(), device=weight.device).to(weight.dtype)
    x = ramp.view(4, -1)
    return torch.equal(_compute_rmsnorm(x, weight, epsilon)[0], norm(x))


def _rmsnorm_forward(
    norm: nn.Module, original_forward: Any, epsilon: float, x: torch.Tensor
) -> torch.Tensor:
    """(..., hidden_size) -> the same; by the class's own forward if the weight trains, or fp32."""
    weight = norm.get_parameter("weight")
    is_frozen_bf16 = x.dtype == weight.dtype == torch.bfloat16 and not weight.requires_grad
    apply: Any = _RMSNormFunction.apply  # untyped in torch
    output: torch.Tensor = (
        apply(x, weight, epsilon) if is_frozen_bf16 else original_forward(norm, x)
    )
    return output


def _compute_rmsnorm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, ...]:
    """x / rms(x) * weight, and 1 / rms(x) in fp32."""
    x_fp32 = x.float()
    inverse_rms = torch.rsqrt(x_fp32.pow(2).mean(-1, keepdim=True) + epsilon)
    return (x_fp32 * inverse_rms).to(x.dtype).mul_(weight), inverse_rms


class _RMSNormFunction(torch.autograd.Function):
    """x / rms(x) * weight, and the gradient of x; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        x, weight, epsilon = args
        output, inverse_rms = _compute_rmsnorm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse_rms)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse_rms = ctx.saved_tensors
        grad, x_fp32 = (grad_outputs[0] * weight).float(), x.float()
        projection = torch.linalg.vecdot(grad, x_fp32).unsqueeze(-1)
        projection.mul_(inverse_rms.pow(3) / x.shape[-1])
        grad_x = grad.mul_(inverse_rms).addcmul_(x_fp32, projection, value=-1)
        return grad_x.to(x.dtype), None, None


def _use_fused_lora(model: nn.Module) -> None:
    silence_bitsandbytes()
    from peft.tuners import lora

    for module in model.modules():
        if type(module) is lora.Linear and type(module.base_layer) is nn.Linear:
            vars(module)["forward"] = partial(_fused_lora_forward, module, lora.Linear.forward)


def _fused_lora_forward(
    layer: Any, original_forward: Any, x: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """(..., in_features) -> (..., out_features); by peft unless one plain adapter is active."""
    is_special = args or kwargs or layer.lora_variant or layer.merged or layer.disable_adapters
    if is_special or len(layer.active_adapters) != 1:
        output: torch.Tensor = original_forward(layer, x, *args, **kwargs)
        return output
    (name,) = layer.active_adapters
    lora_a, lora_b = layer.lora_A[name].weight.to(x.dtype), layer.lora_B[name].weight.to(x.dtype)
    dropout, scaling, linear = layer.lora_dropout[name], layer.scaling[name], layer.base_layer
    has_dropout = dropout.training and not isinstance(dropout, nn.Identity)
    is_autocast = torch.is_autocast_enabled(x.device.type) and x.dtype == torch.float32
    is_frozen = x.dtype == linear.weight.dtype and not linear.weight.requires_grad
    if is_frozen and not is_autocast and not has_dropout:
        apply: Any = _FusedLoraFunction.apply  # untyped in torch
        output = apply(x.flatten(0, -2), linear.weight, linear.bias, lora_a, lora_b, scaling)
        return output.view(*x.shape[:-1], -1)
    result = linear(x)
    low_rank = nn.functional.linear(dropout(x), lora_a).flatten(0, -2)
    return torch.addmm(result.flatten(0, -2), low_rank, lora_b.t(), alpha=scaling).view_as(result)


class _FusedLoraFunction(torch.autograd.Function):
    """x W' + b + scaling (x A') B' of x (n, in_features), and its gradients; W, b are frozen."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        x, weight, bias, lora_a, lora_b, scaling = args
        low_rank = x @ lora_a.t()
        ctx.save_for_backward(x, low_rank, weight, lora_a, lora_b)
        ctx.scaling = scaling
        return nn.functional.linear(x, weight, bias).addmm_(low_rank, lora_b.t(), alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low_rank, weight, lora_a, lora_b = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_low_rank = (grad @ lora_b).mul_(ctx.scaling)
        grad_b = (grad.t() @ low_rank).mul_(ctx.scaling)
        grad_x = (grad @ weight).addmm_(grad_low_rank, lora_a) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_low_rank.t() @ x, grad_b, None


@contextmanager
def sparse_last_mlp(model: AudioLanguageModel, position_mask: torch.Tensor) -> Iterator[None]:
    """Run the last feed-forward layer at the masked positions only, where the kernel is in use.

    With gradient checkpointing it runs at all of them: layers run again in the backward pass,
    after this context.

    Args:
        position_mask: (batch, tokens) positions whose hidden states are read.
    """
    mlp = _find_last_mlp(model.decoder) if model.has_sparse_last_mlp else None
    if mlp is None or _uses_gradient_checkpointing(model.decoder):
        yield
        return
    count = ceil_div(max(int(position_mask.sum()), 1), POSITION_PAD_MULTIPLE)
    count = min(count * POSITION_PAD_MULTIPLE, position_mask.numel())
    indices = position_mask.flatten().to(torch.int8).topk(count).indices

    def gather(module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1)[None, indices],)

    def scatter(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        padded = output.new_zeros(position_mask.numel(), output.shape[-1])
        return padded.index_copy(0, indices, output[0]).view(*position_mask.shape, -1)

    hooks = mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _uses_gradient_checkpointing(decoder: nn.Module) -> bool:
    return any(
        layer.gradient_checkpointing
        for layer in decoder.modules()
        if isinstance(layer, GradientCheckpointingLayer)
    )


def _find_last_mlp(decoder: nn.Module) -> nn.Module | None:
    """The feed-forward part of the last layer, where the decoder has it under a known name."""
    matches = [(MLP_NAME_RE.search(name), module) for name, module in decoder.named_modules()]
    mlps = {int(match[1]): module for match, module in matches if match}
    return mlps[max(mlps)] if mlps else None
