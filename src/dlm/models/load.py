"""From a plan to a model that can hear: find the weights, load them, add the adapter."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from dlm.batching.chat_template import load_pretrained_tokenizer
from dlm.models.adapters import (
    apply_adapter,
    enable_gradient_checkpointing,
    keep_modules_in_fp32,
    load_adapter_weights,
    read_adapter_spec,
    scale_lora_init,
)
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.composed import compose_model, load_composed_model, load_composed_tokenizer
from dlm.models.cpu_kernels import use_cpu_bf16_attention, use_cpu_bf16_rmsnorm
from dlm.models.pretrained import load_pretrained_audio_lm
from dlm.models.quantize import disable_cpu_repack, make_bnb_config, quantize_linear_layers
from dlm.plan.hub import download_model, download_tokenizer, find_local_model
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import Bits, ModelPlan


def load_model(plan: ModelPlan) -> AudioLanguageModel:
    """The base of a plan, with what learns made ready, in fp32 where it learns."""
    dtype = torch.bfloat16 if plan.weights_dtype == "bf16" else torch.float32
    bits, spread = plan.adapter.bits, plan.device_map
    model = load_base_model(plan.spec, dtype=dtype, bits=bits, device_map=spread or plan.device)
    apply_adapter(model, plan.adapter, seed=plan.seed)
    scale_lora_init(model, plan.lora_init_scale)
    keep_modules_in_fp32(model, plan.fp32_modules)
    if plan.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    if plan.device == "cpu" and plan.weights_dtype == "bf16":
        use_cpu_bf16_attention(model.decoder)
        use_cpu_bf16_rmsnorm(model.decoder)
    return model if spread else _move_to_devices(model, plan)


def _move_to_devices(model: AudioLanguageModel, plan: ModelPlan) -> AudioLanguageModel:
    """The model where it runs, but for an encoder that stays elsewhere."""
    model.to(plan.device)
    if plan.encoder_device:
        for prefix in model.param_prefixes["encoder"]:
            model.get_submodule(prefix.rstrip(".")).to(plan.encoder_device)
    return model


def load_version(spec: ModelSpec, version_dir: Path | None, *, device: str) -> AudioLanguageModel:
    """A base with a committed version on it, or the bare base when `version` is None."""
    large = spec.kind == "native" and device != "cpu"
    dtype = torch.bfloat16 if large else torch.float32
    if version_dir is None:
        bare = load_base_model(spec, dtype=dtype, device_map=device)
        return bare.requires_grad_(False).to(device).eval()
    adapter = read_adapter_spec(version_dir, spec)
    dtype = torch.float32 if adapter.top_layers else dtype  # of two formats no row can think
    model = load_base_model(spec, dtype=dtype, bits=adapter.bits, device_map=device)
    apply_adapter(model, adapter, seed=0)
    load_adapter_weights(model, version_dir)
    return model.to(device).eval()


def load_base_model(
    spec: ModelSpec,
    *,
    dtype: torch.dtype = torch.float32,
    bits: Bits | None = None,
    device_map: str = "cpu",
) -> AudioLanguageModel:
    """The bare base, in evaluation mode; a native one is read straight to where it will run."""
    if spec.kind == "stitched":
        recipe = spec.composition
        stitched = (
            compose_model(spec, recipe, dtype=dtype)
            if recipe
            else load_composed_model(get_checkpoint_dir(spec), spec)
        )
        joined: tuple[torch.nn.Module, ...] = (stitched.encoder, stitched.lm)
        for part in joined:  # what joins them stays exact
            part.to(dtype)
        model: AudioLanguageModel = stitched
        if bits:
            quantize_linear_layers(model, bits, dtype=dtype)
    else:
        packed = make_bnb_config(bits, spec, dtype=dtype) if bits else None
        model = load_pretrained_audio_lm(
            get_checkpoint_dir(spec),
            spec,
            dtype=dtype,
            quantization_config=packed,
            device_map=device_map,
        )
    if bits:
        disable_cpu_repack(model)
    return model


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """A base's tokenizer alone; of a base that is not here, no weights are fetched for it."""
    return (
        load_composed_tokenizer(spec, spec.composition)
        if spec.composition
        else load_pretrained_tokenizer(get_tokenizer_dir(spec), spec)
    )


def get_tokenizer_dir(spec: ModelSpec) -> Path:
    """The folder with a base's tokenizer and processor, and with its weights if they are here."""
    return _find_local_checkpoint(spec) or download_tokenizer(spec.source, spec.revision)


def get_checkpoint_dir(spec: ModelSpec) -> Path:
    """The folder with a base's weights, fetched from the hub when it is not here yet."""
    return _find_local_checkpoint(spec) or download_model(spec.source, spec.revision)


def _find_local_checkpoint(spec: ModelSpec) -> Path | None:
    """Where a base lies on this machine, if it does."""
    return find_local_model(spec.source, spec.revision)
