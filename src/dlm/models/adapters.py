"""Parts that are computed in fp32, whatever autocast says: what is new and joins two models.

A matrix that has just been drawn, between a model that hears and one that writes, meets numbers
that neither has seen; bf16 keeps three digits of them.

What learns and what stays: freezing, LoRA, and the adapter as a set of named tensors.

adapter_config.json            which kind, and for which base and revision
adapter_model.safetensors      every tensor that training changed, by its name in the model
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from dlm.errors import ModelError, PlanError
from dlm.legacy import ADAPTER, upgrade
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.quantize import silence_bitsandbytes
from dlm.plan.model_spec import ComponentName, ModelSpec
from dlm.plan.types import AdapterSpec

Fp32Module = Literal["projector", "lora"]


def keep_modules_in_fp32(model: AudioLanguageModel, modules: tuple[Fp32Module, ...]) -> None:
    """From now on compute these parts of `model` in fp32, forward and back."""
    if "projector" in modules:
        for prefix in model.param_prefixes["projector"]:
            module = model.get_submodule(prefix.rstrip("."))
            _force_fp32_forward(module.float(), model)
    if "lora" in modules:
        for each in _get_lora_matrices(model):
            _force_fp32_forward(each, model)


def _get_lora_matrices(model: AudioLanguageModel) -> list[nn.Module]:
    """The matrices of low rank, each a layer of its own in peft's form of the sum."""
    silence_bitsandbytes()
    from peft.tuners.lora import LoraLayer

    from dlm.models.fused_lora import FusedLoraLinear

    layers = [each for each in model.modules() if isinstance(each, LoraLayer)]
    for layer in layers:
        if isinstance(layer, FusedLoraLinear):
            layer.use_peft_forward = True
    pairs = [maps for layer in layers for maps in (layer.lora_A, layer.lora_B)]
    return [each for maps in pairs for each in maps.values()]


def _force_fp32_forward(module: nn.Module, model: AudioLanguageModel) -> None:
    """Give the module a forward of its own, outside autocast and of fp32."""
    inner: Callable[..., Any] = module.forward

    def forward(*given: Any, **named: Any) -> Any:
        with torch.autocast(model.device.type, enabled=False):
            return inner(*map(_cast_to_fp32, given), **named)

    vars(module)["forward"] = forward


def _cast_to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
LORA_EXCLUDED_PARENT_CLASS = (
    "WavLMAttention"  # it reads the weights of its layers, and LoRA would never be asked
)


def apply_adapter(model: AudioLanguageModel, adapter: AdapterSpec, *, seed: int) -> None:
    """Freeze what stays and make the rest learn. Raises PlanError when nothing would learn."""
    model.requires_grad_(False)
    if adapter.lora_components:
        _inject_lora(model, adapter, seed)
    own = tuple(
        each for role in adapter.fully_trained_components for each in model.param_prefixes[role]
    )
    _unfreeze_parameters(model, (*own, *_get_top_layer_prefixes(model, adapter.top_layers)))
    for each in _require_trainable_parameters(model, adapter).values():
        each.data = each.data.float()  # what learns is exact, whatever the rest is held in


def scale_lora_init(model: AudioLanguageModel, factor: float) -> None:
    """Let fresh low-rank weights begin `factor` times as large; what they add is zero even so."""
    with torch.no_grad():
        for name, each in model.named_parameters():
            if ".lora_A." in name:
                each.mul_(factor)


def enable_gradient_checkpointing(model: AudioLanguageModel) -> None:
    """Think each layer through again for its gradients instead of remembering it."""
    several = (part for part in model.children() if isinstance(part, nn.ModuleList))
    for part in (*model.children(), *chain.from_iterable(several)):
        if isinstance(part, PreTrainedModel):
            part.activation_checkpointing_enable({"use_reentrant": False})


def get_trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


@contextmanager
def train_only(model: AudioLanguageModel, param_groups: tuple[str, ...]) -> Iterator[None]:
    """Inside, of all that learns what has one of these roles does; without roles all of it."""
    slots = get_trainable_parameters(model)
    for name, each in slots.items():
        each.requires_grad_(not param_groups or get_param_group(name, model) in param_groups)
    try:
        yield
    finally:
        for each in slots.values():
            each.requires_grad_(True)


@contextmanager
def disable_adapters(model: AudioLanguageModel) -> Iterator[None]:
    """Inside, the language model speaks as it was released: without low-rank weights or dropout."""
    silence_bitsandbytes()
    from peft.tuners.tuners_utils import BaseTunerLayer

    learns, mode = get_trainable_parameters(model).values(), model.training
    layers = [each for each in model.modules() if isinstance(each, BaseTunerLayer)]
    model.eval()
    for each in layers:
        each.enable_adapters(False)
    try:
        yield
    finally:
        for each in layers:
            each.enable_adapters(True)  # which lets all of them learn
        model.requires_grad_(False)
        for parameter in learns:
            parameter.requires_grad_(True)
        model.train(mode)


def get_param_group(param_name: str, model: AudioLanguageModel) -> str:
    """The group a parameter learns with: lora, or the part of the model it belongs to."""
    if ".lora_" in param_name:
        return "lora"
    return next(
        (role for role, prefix in model.param_prefixes.items() if param_name.startswith(prefix)),
        "lm",
    )


def save_adapter(model: AudioLanguageModel, adapter: AdapterSpec, adapter_dir: Path) -> None:
    """Write what training changed."""
    tensors = {
        name: each.detach().cpu().contiguous()
        for name, each in get_trainable_parameters(model).items()
    }
    save_file(tensors, adapter_dir / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    facts = {"base": model.spec.key, "revision": model.spec.revision, **asdict(adapter)}
    (adapter_dir / ADAPTER_CONFIG_FILE).write_text(
        json.dumps(facts, indent=2) + "\n", encoding="utf-8"
    )


def read_adapter_spec(adapter_dir: Path, spec: ModelSpec) -> AdapterSpec:
    """What a version's adapter is. Raises BaseError when it was made for another base."""
    try:
        facts = json.loads((adapter_dir / ADAPTER_CONFIG_FILE).read_text(encoding="utf-8"))
        made_for = (facts.pop("base"), facts.pop("revision"))
        facts = upgrade(facts, ADAPTER)
        targets = facts["target_modules"] and tuple(facts["target_modules"])
        components = tuple(facts["components"])
        adapter = AdapterSpec(**{**facts, "components": components, "target_modules": targets})
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise ModelError(f"not an adapter ({reason})", where=str(adapter_dir)) from reason
    if made_for != (spec.key, spec.revision):
        raise ModelError(
            f"made for {made_for[0]} ({made_for[1]}), not for {spec.key} ({spec.revision})",
            where=str(adapter_dir),
            hint="train again, or set base_model back",
        )
    return adapter


def read_adapter_tensors(adapter_dir: Path) -> dict[str, torch.Tensor]:
    """A version's tensors, by their names in the model."""
    try:
        return load_file(adapter_dir / ADAPTER_WEIGHTS_FILE)
    except (OSError, SafetensorError) as reason:
        raise ModelError(
            f"cannot be read ({reason})", where=str(adapter_dir / ADAPTER_WEIGHTS_FILE)
        ) from reason


def load_adapter_weights(model: AudioLanguageModel, adapter_dir: Path) -> None:
    """Put a version's tensors into a model that `adapt` made ready; all of them, and no others."""
    slots, tensors = get_trainable_parameters(model), read_adapter_tensors(adapter_dir)
    shapes, found = ({name: each.shape for name, each in some.items()} for some in (slots, tensors))
    if found != shapes:
        odd = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
        raise ModelError(
            f"{len(odd)} tensors do not fit this base, first {odd[0]}",
            where=str(adapter_dir / ADAPTER_WEIGHTS_FILE),
            hint="train again",
        )
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(tensors[name])


def _inject_lora(model: AudioLanguageModel, adapter: AdapterSpec, seed: int) -> None:
    """LoRA or DoRA on the layers of each part that has it."""
    silence_bitsandbytes()
    from peft import LoraConfig, inject_adapter_in_model

    from dlm.models.fused_lora import FusedLoraLinear

    chosen = _select_lora_targets(model, adapter)
    if not chosen:  # all layers learn as they are
        return
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=chosen,
        use_dora=adapter.kind == "dora",
    )
    if adapter.bits is None:
        config._register_custom_module({nn.Linear: FusedLoraLinear})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)  # which freezes everything else


def _require_trainable_parameters(
    model: AudioLanguageModel, adapter: AdapterSpec
) -> dict[str, nn.Parameter]:
    """What learns. Raises PlanError when that is nothing, or more than was asked for."""
    found = get_trainable_parameters(model)
    roles: tuple[ComponentName, ...] = ("encoder", "projector", "lm")
    taught = tuple(role for role in roles if adapter.is_trainable(role))
    asked = tuple(each for role in taught for each in model.param_prefixes[role])
    beyond = [name for name in found if not name.startswith(asked)]
    if beyond or not found:
        what = f"{len(beyond)} tensors outside {', '.join(taught)} would learn, first "
        what = what + beyond[0] if beyond else "nothing would learn"
        raise PlanError(what, hint="set training.lora.where to parts that this base has")
    return found


def _unfreeze_parameters(model: AudioLanguageModel, prefixes: tuple[str, ...]) -> None:
    for name, each in model.named_parameters():
        if name.startswith(prefixes) and not name.endswith("embed_positions.weight"):
            each.requires_grad_(True)  # the positions are Whisper's fixed sinusoids


def _get_top_layer_prefixes(model: AudioLanguageModel, num_layers: int) -> tuple[str, ...]:
    """How the names in the last `count` layers of the language model begin."""
    if not num_layers:
        return ()
    names = {module: name for name, module in model.named_modules()}
    stacks = (each for each in model.decoder.modules() if isinstance(each, nn.ModuleList))
    layers = next(stacks)  # the outermost: what a layer holds comes after it
    return tuple(f"{names[layer]}." for layer in list(layers)[-num_layers:])


def _find_linear_layers(model: AudioLanguageModel, adapter: AdapterSpec) -> list[str]:
    """Names of the linear layers that may have low-rank weights, the output head apart."""
    prefixes = tuple(
        each for role in adapter.lora_components for each in model.param_prefixes[role]
    )
    top = _get_top_layer_prefixes(model, adapter.top_layers)  # which learn as they are
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(prefixes)
        and not name.endswith("lm_head")
        and not name.startswith(top)
        and type(model.get_submodule(name.rpartition(".")[0])).__name__
        != LORA_EXCLUDED_PARENT_CLASS
    ]


def _select_lora_targets(model: AudioLanguageModel, adapter: AdapterSpec) -> list[str]:
    """Names of the layers that LoRA sits on. Raises PlanError for a target that matches none."""
    layers, targets = _find_linear_layers(model, adapter), adapter.target_modules
    if targets is None:
        return layers
    forms = {each: re.compile(rf"(^|\.){re.escape(each)}$") for each in targets}
    idle = [each for each, form in forms.items() if not any(map(form.search, layers))]
    if idle:
        raise PlanError(
            f"training.target_modules names {', '.join(idle)}, and no linear layer matches",
            hint=f"set it to auto, or to names such as {_format_layer_suffixes(layers)}",
        )
    return [name for name in layers if any(form.search(name) for form in forms.values())]


def _format_layer_suffixes(layer_names: list[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in layer_names})[:4])
