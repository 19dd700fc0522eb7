"""Loads models: from a plan to train, from a version to use, a base or a tokenizer by itself.

Decides the dtype and the device of each component, and fetches from the hub what is not here.
"""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from dlm.batching.chat_template import load_pretrained_tokenizer
from dlm.errors import PlanError
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
from dlm.models.cpu_kernels import CpuKernel, use_cpu_kernels
from dlm.models.pretrained import load_pretrained_audio_lm
from dlm.models.quantize import adapt_bnb_to_cpu, make_bnb_config, quantize_linear_layers
from dlm.plan.hardware import detect_hardware, format_bytes
from dlm.plan.hub import download_model, download_tokenizer, find_local_model
from dlm.plan.model_spec import CompositionSpec, ModelSpec
from dlm.plan.types import Bits, ModelPlan

SCRATCH_PARAMETER_BYTES = 4  # random weights are made in fp32


def load_model(plan: ModelPlan) -> AudioLanguageModel:
    """Load the base of a plan with a fresh adapter; trainable parameters are fp32."""
    dtype = torch.bfloat16 if plan.weights_dtype == "bf16" else torch.float32
    device_map = plan.device_map or plan.device
    model = load_base_model(plan.spec, dtype=dtype, bits=plan.adapter.bits, device_map=device_map)
    apply_adapter(model, plan.adapter, seed=plan.seed)
    scale_lora_init(model, plan.lora_init_scale)
    keep_modules_in_fp32(model, plan.fp32_modules)
    if plan.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    use_cpu_kernels(model, _select_kernels(plan))
    if plan.device_map:  # layers are on several devices already
        return model
    model.to(plan.device)
    if plan.encoder_device:
        for prefix in model.param_prefixes["encoder"]:
            model.get_submodule(prefix.rstrip(".")).to(plan.encoder_device)
    return model


def _select_kernels(plan: ModelPlan) -> tuple[CpuKernel, ...]:
    kernels: list[CpuKernel] = ["sparse_last_mlp"]
    if "lora" not in plan.fp32_modules:
        kernels.append("fused_lora")
    if plan.device == "cpu" and plan.weights_dtype == "bf16":
        kernels += ["bf16_attention", "bf16_rmsnorm"]
    return tuple(kernels)


def load_version(spec: ModelSpec, version_dir: Path | None, *, device: str) -> AudioLanguageModel:
    """Load a base with a version's adapter, or without one, in evaluation mode."""
    is_large = spec.kind == "native" and device != "cpu"
    dtype = torch.bfloat16 if is_large else torch.float32
    if version_dir is None:
        model = load_base_model(spec, dtype=dtype, device_map=device)
        use_cpu_kernels(model, ("sparse_last_mlp",))
        return model.requires_grad_(False).to(device).eval()
    adapter = read_adapter_spec(version_dir, spec)
    if adapter.top_layers:  # they are fp32, and layers of two dtypes cannot follow each other
        dtype = torch.float32
    model = load_base_model(spec, dtype=dtype, bits=adapter.bits, device_map=device)
    apply_adapter(model, adapter, seed=0)
    load_adapter_weights(model, version_dir)
    use_cpu_kernels(model, ("fused_lora", "sparse_last_mlp"))
    return model.to(device).eval()


def load_base_model(
    spec: ModelSpec,
    *,
    dtype: torch.dtype = torch.float32,
    bits: Bits | None = None,
    device_map: str = "cpu",
) -> AudioLanguageModel:
    """Load a base in evaluation mode; a pretrained one is read straight to its device.

    Raises:
        ModelError: a file is missing or damaged (`model.*`).
        PlanError: random weights do not fit this machine (`plan.memory_too_small`).
    """
    model: AudioLanguageModel
    if spec.composition:
        _check_scratch_memory(spec, spec.composition)
    if spec.kind == "stitched":
        composed = (
            compose_model(spec, spec.composition, dtype=dtype)
            if spec.composition
            else load_composed_model(get_checkpoint_dir(spec), spec)
        )
        components: tuple[torch.nn.Module, ...] = (composed.encoder, composed.lm)
        for component in components:  # the projector stays fp32
            component.to(dtype)
        model = composed
        if bits:
            quantize_linear_layers(model, bits, dtype=dtype)
    else:
        model = load_pretrained_audio_lm(
            get_checkpoint_dir(spec),
            spec,
            dtype=dtype,
            quantization_config=make_bnb_config(bits, spec, dtype=dtype) if bits else None,
            device_map=device_map,
        )
    if bits:
        adapt_bnb_to_cpu(model)
    return model


def _check_scratch_memory(spec: ModelSpec, composition: CompositionSpec) -> None:
    """Refuse random weights of any size before they are made: torch fills them for minutes."""
    is_scratch_encoder = any(not encoder.source for encoder in composition.encoders)
    num_parameters = is_scratch_encoder * spec.sizes.encoder.num_parameters
    if not composition.lm.source:
        num_parameters += spec.sizes.lm.num_parameters + spec.sizes.embedding
    num_bytes, memory = SCRATCH_PARAMETER_BYTES * num_parameters, detect_hardware(Path()).memory
    if num_bytes > memory:
        what = f"the random weights of {spec.key} take {format_bytes(num_bytes)} of memory"
        what += f", and this machine has {format_bytes(memory)}"
        hint = "make the sizes of from_scratch smaller"
        raise PlanError(what, hint=hint, code="plan.memory_too_small")


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Load a base's tokenizer; no weights are fetched for it."""
    if spec.composition:
        return load_composed_tokenizer(spec, spec.composition)
    return load_pretrained_tokenizer(get_tokenizer_dir(spec), spec)


def get_tokenizer_dir(spec: ModelSpec) -> Path:
    """Return the folder with a base's tokenizer and processor, fetched if need be."""
    return find_local_model(spec.source, spec.revision) or download_tokenizer(
        spec.source, spec.revision
    )


def get_checkpoint_dir(spec: ModelSpec) -> Path:
    """Return the folder with a base's weights, fetched if need be."""
    return find_local_model(spec.source, spec.revision) or download_model(
        spec.source, spec.revision
    )


def get_num_threads() -> int:
    """Return how many CPU threads compute; another number rounds sums otherwise."""
    return torch.get_num_threads()
