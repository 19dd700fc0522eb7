"""The last layer's feed-forward part, at the positions that are learned alone.

    attention    every position, for each reads those before it
    feed-forward what it says of a position is read by nobody but the head, which is asked at labels

With few layers and many tokens of sound for each word that is a good part of the work. Everything
the loss reads stays as it was; at the other positions the hidden states are not the model's.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from dlm.plan.frames import ceil_div

MULTIPLE = 16  # positions: a processor compiles its products anew for every length it meets
FEED = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.mlp$")


@contextmanager
def told_at(decoder: nn.Module, wanted: torch.Tensor) -> Iterator[None]:
    """Inside, the last feed-forward part sees the positions (rows, tokens) that are `wanted`.

    A decoder that thinks its layers through again on the way back sees all of them: by then the
    positions would be forgotten.
    """
    feed = _last(decoder)
    if feed is None or _recomputes(decoder):
        yield
        return
    count = ceil_div(max(int(wanted.sum()), 1), MULTIPLE) * MULTIPLE
    at = wanted.flatten().to(torch.int8).topk(min(count, wanted.numel())).indices

    def take(module: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (given[0].flatten(0, 1)[None, at],)

    def put(module: nn.Module, given: Any, said: torch.Tensor) -> torch.Tensor:
        whole = said.new_zeros(wanted.numel(), said.shape[-1])
        return whole.index_copy(0, at, said[0]).view(*wanted.shape, -1)

    hooks = feed.register_forward_pre_hook(take), feed.register_forward_hook(put)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _recomputes(decoder: nn.Module) -> bool:
    inner = (each for each in decoder.modules() if isinstance(each, GradientCheckpointingLayer))
    return any(each.gradient_checkpointing for each in inner)


def _last(decoder: nn.Module) -> nn.Module | None:
    """The feed-forward part of the last layer, where the decoder has it under a known name."""
    found = [(FEED.search(name), module) for name, module in decoder.named_modules()]
    parts = {int(named[1]): module for named, module in found if named}
    return parts[max(parts)] if parts else None
