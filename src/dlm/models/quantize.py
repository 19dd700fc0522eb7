"""4 and 8 bit weights (bitsandbytes) for the linear layers of the language model.

    4 bits    nf4 in blocks of 64, with 8-bit scales (QLoRA, Dettmers et al. 2023)
    8 bits    integers with one scale for each output feature (LLM.int8, Dettmers et al. 2022)

Encoder, projector, head and everything that trains keep their dtype.
"""

import logging
import re
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from dlm.errors import MissingExtra
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.pretrained import MODEL_FAMILIES
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import Bits

INT8_OUTLIER_THRESHOLD = 6.0  # inputs beyond this are multiplied in 16 bits (LLM.int8, section 3.2)
BNB_4BIT_QUANT_TYPE = "nf4"


def make_bnb_config(bits: Bits, spec: ModelSpec, *, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Make the config with which transformers quantizes a pretrained model as it loads it.

    Raises:
        MissingExtra: bitsandbytes is not installed.
    """
    _require_bitsandbytes()
    decoder = re.escape(MODEL_FAMILIES[spec.family].module_paths["decoder"])
    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        llm_int8_threshold=INT8_OUTLIER_THRESHOLD,
        llm_int8_skip_modules=[rf"(?!{decoder}\.).*"],
        bnb_4bit_quant_type=BNB_4BIT_QUANT_TYPE,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def quantize_linear_layers(model: AudioLanguageModel, bits: Bits, *, dtype: torch.dtype) -> None:
    """Quantize a composed model after loading; it multiplies in `dtype`. Raises MissingExtra."""
    _require_bitsandbytes()
    decoder = model.decoder
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Linear):
            decoder.set_submodule(name, _quantize_linear(layer, bits, dtype))


def _quantize_linear(layer: nn.Linear, bits: Bits, dtype: torch.dtype) -> nn.Linear:
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    quantized: nn.Linear
    if bits == 4:
        quantized = Linear4bit(*shape, compute_dtype=dtype, quant_type=BNB_4BIT_QUANT_TYPE)
    else:
        quantized = Linear8bitLt(*shape, has_fp16_weights=False, threshold=INT8_OUTLIER_THRESHOLD)
    quantized.load_state_dict(layer.state_dict())
    return quantized.requires_grad_(False).to(layer.weight.device)  # this quantizes


def adapt_bnb_to_cpu(model: AudioLanguageModel) -> None:
    """Change what bitsandbytes does on CPUs, where its layers are on one.

    4 bits: weights are not repacked in the first forward, as repacked ones cannot be trained with,
    and not every width can be repacked. 8 bits: evaluation multiplies dequantized weights, as
    training does; the integer products of torch overflow on CPUs without VNNI instructions.
    """
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt):
            vars(module)["forward"] = partial(_int8_forward, module, Linear8bitLt.forward)


def _int8_forward(layer: nn.Module, original_forward: Any, x: torch.Tensor) -> torch.Tensor:
    is_training = layer.training
    layer.training = is_training or x.device.type == "cpu"
    try:
        output: torch.Tensor = original_forward(layer, x)
        return output
    finally:
        layer.training = is_training


def dequantize_linear_layers(model: AudioLanguageModel) -> None:
    """Replace quantized layers by fp32 layers with the same weights."""
    silence_bitsandbytes()
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and not layer.weight.dtype.is_floating_point:
            linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            weight = layer.get_parameter("weight")
            dequantized = dequantize_bnb_weight(weight, vars(layer).get("state"))
            linear.weight = nn.Parameter(dequantized.float())
            if layer.bias is not None:
                linear.bias = layer.bias
            model.set_submodule(name, linear.requires_grad_(False))


def silence_bitsandbytes() -> None:
    """Raise the log level of bitsandbytes, which peft imports wherever it is installed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _require_bitsandbytes() -> None:
    silence_bitsandbytes()
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quant")
