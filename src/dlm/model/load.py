"""From a plan to a model that can hear: find the weights, load them, add the adapter."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from dlm.batches.chat import tokenizer_in
from dlm.model.adapters import adapt, place_adapter, read_adapter, recompute, scale_low_rank
from dlm.model.attention import attend_in_bf16
from dlm.model.checkpoint import load_native
from dlm.model.exact import compute_in_fp32
from dlm.model.face import Model
from dlm.model.join import join, words
from dlm.model.norm import normalise_in_bf16
from dlm.model.quantize import pack, settings, steady
from dlm.model.stitched import load_stitched
from dlm.plan.bases import Base
from dlm.plan.hub import fetch, fetch_words, place_of
from dlm.plan.plan import Bits, ModelPlan


def load(plan: ModelPlan) -> Model:
    """The base of a plan, with what learns made ready, in fp32 where it learns."""
    dtype = torch.bfloat16 if plan.weights == "bf16" else torch.float32
    bits, spread = plan.adapter.bits, plan.device_map
    model = load_base(plan.base, dtype=dtype, bits=bits, device_map=spread or plan.device)
    adapt(model, plan.adapter, seed=plan.seed)
    scale_low_rank(model, plan.lora_init_scale)
    compute_in_fp32(model, plan.exact)
    if plan.checkpointing:
        recompute(model)
    if plan.device == "cpu" and plan.weights == "bf16":
        attend_in_bf16(model.decoder)
        normalise_in_bf16(model.decoder)
    return model if spread else _placed(model, plan)


def _placed(model: Model, plan: ModelPlan) -> Model:
    """The model where it runs, but for an encoder that stays elsewhere."""
    model.to(plan.device)
    if plan.encoder_device:
        for prefix in model.parts["encoder"]:
            model.get_submodule(prefix.rstrip(".")).to(plan.encoder_device)
    return model


def load_version(base: Base, version: Path | None, *, device: str) -> Model:
    """A base with a committed version on it, or the bare base when `version` is None."""
    large = base.kind == "native" and device != "cpu"
    dtype = torch.bfloat16 if large else torch.float32
    if version is None:
        bare = load_base(base, dtype=dtype, device_map=device)
        return bare.requires_grad_(False).to(device).eval()
    adapter = read_adapter(version, base)
    dtype = torch.float32 if adapter.top_layers else dtype  # of two formats no row can think
    model = load_base(base, dtype=dtype, bits=adapter.bits, device_map=device)
    adapt(model, adapter, seed=0)
    place_adapter(model, version)
    return model.to(device).eval()


def load_base(
    base: Base,
    *,
    dtype: torch.dtype = torch.float32,
    bits: Bits | None = None,
    device_map: str = "cpu",
) -> Model:
    """The bare base, in evaluation mode; a native one is read straight to where it will run."""
    if base.kind == "stitched":
        recipe = base.recipe
        stitched = (
            join(base, recipe, dtype=dtype) if recipe else load_stitched(folder_of(base), base)
        )
        joined: tuple[torch.nn.Module, ...] = (stitched.encoder, stitched.lm)
        for part in joined:  # what joins them stays exact
            part.to(dtype)
        model: Model = stitched
        if bits:
            pack(model, bits, dtype=dtype)
    else:
        packed = settings(bits, base, dtype=dtype) if bits else None
        model = load_native(
            folder_of(base), base, dtype=dtype, quantization=packed, device_map=device_map
        )
    if bits:
        steady(model)
    return model


def tokenizer_of(base: Base) -> PreTrainedTokenizerBase:
    """A base's tokenizer alone; of a base that is not here, no weights are fetched for it."""
    return words(base, base.recipe) if base.recipe else tokenizer_in(words_of(base), base)


def words_of(base: Base) -> Path:
    """The folder with a base's tokenizer and processor, and with its weights if they are here."""
    return _folder_here(base) or fetch_words(base.source, base.revision)


def folder_of(base: Base) -> Path:
    """The folder with a base's weights, fetched from the hub when it is not here yet."""
    return _folder_here(base) or fetch(base.source, base.revision)


def _folder_here(base: Base) -> Path | None:
    """Where a base lies on this machine, if it does."""
    return place_of(base.source, base.revision)
