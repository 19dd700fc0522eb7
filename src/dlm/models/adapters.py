"""What training changes: freezing, LoRA and DoRA (peft), parameter groups, adapter files.

    adapter_config.json            kind, rank, components, and the base and revision it is for
    adapter_model.safetensors      every tensor that training changed, by its name in the model

Also which modules compute in fp32 under autocast, and gradient checkpointing.
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
from dlm.io import read_regular_file
from dlm.legacy import ADAPTER, upgrade_record
from dlm.models.audio_lm import AudioLanguageModel
from dlm.models.quantize import silence_bitsandbytes
from dlm.plan.model_spec import ComponentName, ModelSpec
from dlm.plan.types import AdapterSpec

Fp32Module = Literal["projector", "lora"]
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
# it reads the weights of its linear layers without calling them, so LoRA would have no effect
LORA_EXCLUDED_PARENT_CLASS = "WavLMAttention"


def apply_adapter(model: AudioLanguageModel, adapter: AdapterSpec, *, seed: int) -> None:
    """Freeze a model, add low-rank weights, and make what trains trainable, in fp32.

    Raises:
        PlanError: nothing would train (`plan.nothing_to_train`), more than the adapter names
            (`plan.trains_too_much`), or a target matches no layer (`plan.no_such_target`).
    """
    model.requires_grad_(False)
    if adapter.lora_components:
        _inject_lora(model, adapter, seed)
    full_prefixes = [
        prefix
        for component in adapter.fully_trained_components
        for prefix in model.param_prefixes[component]
    ]
    trainable_prefixes = (*full_prefixes, *_get_top_layer_prefixes(model, adapter.top_layers))
    for name, parameter in model.named_parameters():
        is_position = name.endswith("embed_positions.weight")
        is_sinusoid = is_position and name.startswith(model.param_prefixes["encoder"])
        if name.startswith(trainable_prefixes) and not is_sinusoid:
            parameter.requires_grad_(True)
    _check_trainable_parameters(model, adapter)
    for parameter in get_trainable_parameters(model).values():
        parameter.data = parameter.data.float()


def scale_lora_init(model: AudioLanguageModel, factor: float) -> None:
    """Multiply the initial A matrices of LoRA; its output is zero all the same, as B is."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.mul_(factor)


def keep_modules_in_fp32(model: AudioLanguageModel, modules: tuple[Fp32Module, ...]) -> None:
    """Compute these modules in fp32 under autocast, forward and backward.

    A new projector or new low-rank weights meet activations that are unlike those the frozen
    models were trained on; bf16 keeps three digits of them.
    """
    if "projector" in modules:
        for prefix in model.param_prefixes["projector"]:
            _force_fp32_forward(model.get_submodule(prefix.rstrip(".")).float(), model)
    if "lora" in modules:
        silence_bitsandbytes()
        from peft.tuners.lora import LoraLayer

        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                for matrix in (*layer.lora_A.values(), *layer.lora_B.values()):
                    _force_fp32_forward(matrix, model)


def _force_fp32_forward(module: nn.Module, model: AudioLanguageModel) -> None:
    original_forward: Callable[..., Any] = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.device.type, enabled=False):
            return original_forward(*map(_cast_to_fp32, args), **kwargs)

    vars(module)["forward"] = forward


def _cast_to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def enable_gradient_checkpointing(model: AudioLanguageModel) -> None:
    """Recompute the activations of each layer in the backward pass instead of storing them."""
    lists = (module for module in model.children() if isinstance(module, nn.ModuleList))
    for module in (*model.children(), *chain.from_iterable(lists)):
        if isinstance(module, PreTrainedModel):
            module.activation_checkpointing_enable({"use_reentrant": False})


def get_trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


@contextmanager
def train_only(model: AudioLanguageModel, param_groups: tuple[str, ...]) -> Iterator[None]:
    """Train only these groups of the trainable parameters inside; without groups all of them."""
    trainable = get_trainable_parameters(model)
    for name, parameter in trainable.items():
        in_group = not param_groups or get_param_group(name, model) in param_groups
        parameter.requires_grad_(in_group)
    try:
        yield
    finally:
        for parameter in trainable.values():
            parameter.requires_grad_(True)


@contextmanager
def disable_adapters(model: AudioLanguageModel) -> Iterator[None]:
    """Run the released model inside: no low-rank weights, no dropout."""
    silence_bitsandbytes()
    from peft.tuners.tuners_utils import BaseTunerLayer

    trainable, was_training = get_trainable_parameters(model).values(), model.training
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    model.eval()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)  # which makes all of them trainable
        model.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(was_training)


def get_param_group(param_name: str, model: AudioLanguageModel) -> str:
    """Return the parameter group of a parameter: lora, or the name of its component."""
    if ".lora_" in param_name:
        return "lora"
    prefixes = model.param_prefixes.items()
    return next((name for name, prefix in prefixes if param_name.startswith(prefix)), "lm")


def save_adapter(model: AudioLanguageModel, adapter: AdapterSpec, adapter_dir: Path) -> None:
    """Write the trainable parameters, and the config they belong to."""
    tensors = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in get_trainable_parameters(model).items()
    }
    save_file(tensors, adapter_dir / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    config = {"base": model.spec.key, "revision": model.spec.revision, **asdict(adapter)}
    text = json.dumps(config, indent=2) + "\n"
    (adapter_dir / ADAPTER_CONFIG_FILE).write_text(text, encoding="utf-8")


def read_adapter_spec(adapter_dir: Path, spec: ModelSpec) -> AdapterSpec:
    """Read what a version's adapter is.

    Raises:
        ModelError: the config cannot be read (`model.bad_adapter`), or is for another base
            (`model.other_base`).
    """
    try:
        config = json.loads(read_regular_file(adapter_dir / ADAPTER_CONFIG_FILE))
        key, revision = config.pop("base"), config.pop("revision")
        config = upgrade_record(config, ADAPTER)
        targets = config["target_modules"] and tuple(config["target_modules"])
        components = tuple(config["components"])
        adapter = AdapterSpec(**{**config, "components": components, "target_modules": targets})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"not an adapter ({error})"
        raise ModelError(what, where=str(adapter_dir), code="model.bad_adapter") from error
    if (key, revision) != (spec.key, spec.revision):
        raise ModelError(
            f"made for {key} ({revision}), not for {spec.key} ({spec.revision})",
            where=str(adapter_dir),
            hint="train again, or set base_model back",
            code="model.other_base",
        )
    return adapter


def read_adapter_tensors(adapter_dir: Path) -> dict[str, torch.Tensor]:
    """Read a version's tensors, by their names in the model.

    Raises:
        ModelError: the file cannot be read (`model.bad_adapter`).
    """
    path = adapter_dir / ADAPTER_WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        what = f"cannot be read ({error})"
        raise ModelError(what, where=str(path), code="model.bad_adapter") from error


def load_adapter_weights(model: AudioLanguageModel, adapter_dir: Path) -> None:
    """Load a version's tensors into a model that `apply_adapter` prepared.

    Raises:
        ModelError: its tensors are not the trainable ones of the model (`model.other_base`).
    """
    parameters, tensors = get_trainable_parameters(model), read_adapter_tensors(adapter_dir)
    expected = {name: parameter.shape for name, parameter in parameters.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes != expected:
        names = {*shapes, *expected}
        wrong = sorted(name for name in names if shapes.get(name) != expected.get(name))
        raise ModelError(
            f"{len(wrong)} tensors do not fit this base, first {wrong[0]}",
            where=str(adapter_dir / ADAPTER_WEIGHTS_FILE),
            hint="train again",
            code="model.other_base",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _inject_lora(model: AudioLanguageModel, adapter: AdapterSpec, seed: int) -> None:
    """Add LoRA or DoRA to the linear layers of each component that has it."""
    silence_bitsandbytes()
    from peft import LoraConfig, inject_adapter_in_model

    layer_names = _select_lora_targets(model, adapter)
    if not layer_names:  # all layers train fully
        return
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=layer_names,
        use_dora=adapter.kind == "dora",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)  # which freezes everything else


def _check_trainable_parameters(model: AudioLanguageModel, adapter: AdapterSpec) -> None:
    """Refuse an adapter that trains nothing, or parameters outside of its components."""
    all_components: tuple[ComponentName, ...] = ("encoder", "projector", "lm")
    components = [name for name in all_components if adapter.is_trainable(name)]
    allowed = tuple(prefix for name in components for prefix in model.param_prefixes[name])
    trainable = get_trainable_parameters(model)
    outside = [name for name in trainable if not name.startswith(allowed)]
    hint = "set training.lora.where to components that this base has"
    if outside:
        what = f"{len(outside)} tensors outside {', '.join(components)} would be trained, "
        raise PlanError(what + f"first {outside[0]}", hint=hint, code="plan.trains_too_much")
    if not trainable:
        raise PlanError("nothing would be trained", hint=hint, code="plan.nothing_to_train")


def _get_top_layer_prefixes(model: AudioLanguageModel, num_layers: int) -> tuple[str, ...]:
    """The parameter name prefixes of the last `num_layers` layers of the language model."""
    if not num_layers:
        return ()
    names = {module: name for name, module in model.named_modules()}
    layers = next(  # the outermost list: lists inside a layer come later
        module for module in model.decoder.modules() if isinstance(module, nn.ModuleList)
    )
    return tuple(f"{names[layer]}." for layer in list(layers)[-num_layers:])


def _select_lora_targets(model: AudioLanguageModel, adapter: AdapterSpec) -> list[str]:
    """The names of the linear layers that LoRA goes on."""
    layer_names, targets = _find_linear_layers(model, adapter), adapter.target_modules
    if targets is None:
        return layer_names
    patterns = {target: re.compile(rf"(^|\.){re.escape(target)}$") for target in targets}
    unmatched = [
        target for target, pattern in patterns.items() if not any(map(pattern.search, layer_names))
    ]
    if unmatched:
        examples = sorted({name.rsplit(".", 1)[-1] for name in layer_names})[:4]
        raise PlanError(
            f"training.target_modules names {', '.join(unmatched)}, and no linear layer matches",
            hint=f"set it to auto, or to names such as {', '.join(examples)}",
            code="plan.no_such_target",
        )
    return [
        name for name in layer_names if any(pattern.search(name) for pattern in patterns.values())
    ]


def _find_linear_layers(model: AudioLanguageModel, adapter: AdapterSpec) -> list[str]:
    """The names of all linear layers of the components with LoRA, without the output head."""
    prefixes = tuple(
        prefix for name in adapter.lora_components for prefix in model.param_prefixes[name]
    )
    fully_trained = _get_top_layer_prefixes(model, adapter.top_layers)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(prefixes)
        and module is not model.lm_head
        and not name.startswith(fully_trained)
        and type(model.get_submodule(name.rpartition(".")[0])).__name__
        != LORA_EXCLUDED_PARENT_CLASS
    ]
