"""Attention on a processor, in bf16: two matrix products and a softmax.

torch's fused attention multiplies in fp32 on a processor, whatever the format; matrix products in
bf16 run on its tile units. What is rounded otherwise is the scores, to bf16, as transformers' eager
attention does. Everything else (another format, long rows, dropout) is transformers' own.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from dlm.plan.memory import MOST_SCORES

NAME = "dlm_bf16"


def attend_in_bf16(decoder: nn.Module) -> None:
    """Let a language model on a processor use this attention."""
    if isinstance(decoder, PreTrainedModel) and decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        decoder.set_attn_implementation(NAME)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **how: Any,
) -> tuple[torch.Tensor, None]:
    """(rows, heads, tokens, width) -> (rows, tokens, heads, width); keys may have fewer heads."""
    plain = query.dtype == torch.bfloat16 and not how.get("dropout")
    if not plain or key.shape[2] > MOST_SCORES:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    rows, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    key, value = (repeat_kv(each, groups).flatten(0, 1) for each in (key, value))
    mask = _additive(attention_mask, query, key.shape[1]).expand(rows, heads, -1, -1)
    scale = width**-0.5 if how.get("scaling") is None else how["scaling"]
    scores = torch.baddbmm(
        mask.flatten(0, 1), query.flatten(0, 1), key.transpose(1, 2), alpha=scale
    )
    mixed = torch.bmm(scores.softmax(dim=-1), value)
    return mixed.view(rows, heads, tokens, width).transpose(1, 2).contiguous(), None


def _additive(mask: torch.Tensor | None, query: torch.Tensor, keys: int) -> torch.Tensor:
    """What is added to the scores; None allows every key up to a query's own."""
    tokens, least = query.shape[2], torch.finfo(query.dtype).min
    if mask is None:
        hidden = torch.full((tokens, keys), least, dtype=query.dtype, device=query.device)
        return hidden.triu(1 + keys - tokens)[None, None]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, least)
    return mask.to(query.dtype)
