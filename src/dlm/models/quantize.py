"""Which weights are held in 4 or 8 bits, and how: the linear layers of the language model alone.

    4 bits    nf4 in blocks of 64, their scales in 8 bits again (Dettmers et al. 2023, QLoRA)
    8 bits    whole numbers with one scale a row (Dettmers et al. 2022, LLM.int8)

Encoder, projector and head stay as they are, and so does all that learns.
"""

import logging
import re
from importlib.util import find_spec

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
    """What transformers is told when it loads a native base; it multiplies in `dtype`.

    Raises MissingExtra where bitsandbytes is not installed.
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
    """The same for a stitched base, once it is loaded. Raises MissingExtra."""
    _require_bitsandbytes()
    decoder = model.decoder
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Linear):
            decoder.set_submodule(name, _quantize_linear(layer, bits, dtype))


def disable_cpu_repack(model: AudioLanguageModel) -> None:
    """Keep packed weights as they are: on some CPUs the first answer would pack them anew.

    That is for good, so that nothing could be learned after it, and not for every width.
    """
    from bitsandbytes.nn import modules as packing

    for module in model.modules():
        if isinstance(module, packing.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _quantize_linear(layer: nn.Linear, bits: Bits, dtype: torch.dtype) -> nn.Linear:
    """The same layer, its weights packed."""
    from bitsandbytes.nn import modules as packing

    shape = (layer.in_features, layer.out_features, layer.bias is not None)
    packed: nn.Linear
    if bits == 4:
        packed = packing.Linear4bit(*shape, compute_dtype=dtype, quant_type=BNB_4BIT_QUANT_TYPE)
    else:
        packed = packing.Linear8bitLt(
            *shape, has_fp16_weights=False, threshold=INT8_OUTLIER_THRESHOLD
        )
    packed.load_state_dict(layer.state_dict())
    return packed.requires_grad_(False).to(layer.weight.device)  # which is when it packs


def dequantize_linear_layers(model: AudioLanguageModel) -> None:
    """Put plain layers in the place of packed ones, with what their weights stand for."""
    silence_bitsandbytes()
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and not layer.weight.dtype.is_floating_point:
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            weight = layer.get_parameter("weight")
            stands_for = dequantize_bnb_weight(weight, vars(layer).get("state"))
            plain.weight = nn.Parameter(stands_for.float())
            if layer.bias is not None:
                plain.bias = layer.bias
            model.set_submodule(name, plain.requires_grad_(False))


def silence_bitsandbytes() -> None:
    """Keep bitsandbytes to itself: peft loads it wherever it is, and it tells much of itself."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _require_bitsandbytes() -> None:
    silence_bitsandbytes()
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quant")
