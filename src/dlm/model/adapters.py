"""What learns and what stays: freezing, LoRA, and the adapter as a set of named tensors.

adapter_config.json            which kind, and for which base and revision
adapter_model.safetensors      every tensor that training changed, by its name in the model
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from dlm.errors import BaseError, PlanError
from dlm.model.face import Model
from dlm.model.quantize import hush
from dlm.plan.bases import Base, Role
from dlm.plan.plan import Adapter

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PASSES_BY = "WavLMAttention"  # it reads the weights of its layers, and LoRA would never be asked


def adapt(model: Model, adapter: Adapter, *, seed: int) -> None:
    """Freeze what stays and make the rest learn. Raises PlanError when nothing would learn."""
    model.requires_grad_(False)
    if adapter.low_rank:
        _add_low_rank(model, adapter, seed)
    own = tuple(each for role in adapter.whole for each in model.parts[role])
    _unfreeze(model, (*own, *_top_layers(model, adapter.top_layers)))
    for each in _only(model, adapter).values():
        each.data = each.data.float()  # what learns is exact, whatever the rest is held in


def scale_low_rank(model: Model, factor: float) -> None:
    """Let fresh low-rank weights begin `factor` times as large; what they add is zero even so."""
    with torch.no_grad():
        for name, each in model.named_parameters():
            if ".lora_A." in name:
                each.mul_(factor)


def recompute(model: Model) -> None:
    """Think each layer through again for its gradients instead of remembering it."""
    several = (part for part in model.children() if isinstance(part, nn.ModuleList))
    for part in (*model.children(), *chain.from_iterable(several)):
        if isinstance(part, PreTrainedModel):
            part.activation_checkpointing_enable({"use_reentrant": False})


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


@contextmanager
def only(model: Model, roles: tuple[str, ...]) -> Iterator[None]:
    """Inside, of all that learns what has one of these roles does; without roles all of it."""
    slots = learning(model)
    for name, each in slots.items():
        each.requires_grad_(not roles or role_of(name, model) in roles)
    try:
        yield
    finally:
        for each in slots.values():
            each.requires_grad_(True)


@contextmanager
def released(model: Model) -> Iterator[None]:
    """Inside, the language model speaks as it was released: without low-rank weights or dropout."""
    hush()
    from peft.tuners.tuners_utils import BaseTunerLayer

    learns, mode = learning(model).values(), model.training
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


def role_of(name: str, model: Model) -> str:
    """The group a parameter learns with: lora, or the part of the model it belongs to."""
    if ".lora_" in name:
        return "lora"
    return next((role for role, prefix in model.parts.items() if name.startswith(prefix)), "lm")


def save_adapter(model: Model, adapter: Adapter, folder: Path) -> None:
    """Write what training changed."""
    tensors = {name: each.detach().cpu().contiguous() for name, each in learning(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    facts = {"base": model.base.key, "revision": model.base.revision, **asdict(adapter)}
    (folder / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_adapter(folder: Path, base: Base) -> Adapter:
    """What a version's adapter is. Raises BaseError when it was made for another base."""
    try:
        facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        made_for = (facts.pop("base"), facts.pop("revision"))
        targets = None if facts["targets"] is None else tuple(facts["targets"])
        adapter = Adapter(**{**facts, "where": tuple(facts["where"]), "targets": targets})
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise BaseError(f"not an adapter ({reason})", where=str(folder)) from reason
    if made_for != (base.key, base.revision):
        raise BaseError(
            f"made for {made_for[0]} ({made_for[1]}), not for {base.key} ({base.revision})",
            where=str(folder),
            mend="train again, or set base_model back",
        )
    return adapter


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """A version's tensors, by their names in the model."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as reason:
        raise BaseError(f"cannot be read ({reason})", where=str(folder / WEIGHTS)) from reason


def place_adapter(model: Model, folder: Path) -> None:
    """Put a version's tensors into a model that `adapt` made ready; all of them, and no others."""
    slots, tensors = learning(model), read_tensors(folder)
    shapes, found = ({name: each.shape for name, each in some.items()} for some in (slots, tensors))
    if found != shapes:
        odd = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
        raise BaseError(
            f"{len(odd)} tensors do not fit this base, first {odd[0]}",
            where=str(folder / WEIGHTS),
            mend="train again",
        )
    with torch.no_grad():
        for name, slot in slots.items():
            slot.copy_(tensors[name])


def _add_low_rank(model: Model, adapter: Adapter, seed: int) -> None:
    """LoRA or DoRA on the layers of each part that has it."""
    hush()
    from peft import LoraConfig, inject_adapter_in_model

    from dlm.model.lora import Linear

    chosen = _chosen(model, adapter)
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
        config._register_custom_module({nn.Linear: Linear})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)  # which freezes everything else


def _only(model: Model, adapter: Adapter) -> dict[str, nn.Parameter]:
    """What learns. Raises PlanError when that is nothing, or more than was asked for."""
    found = learning(model)
    roles: tuple[Role, ...] = ("encoder", "projector", "lm")
    taught = tuple(role for role in roles if adapter.trains(role))
    asked = tuple(each for role in taught for each in model.parts[role])
    beyond = [name for name in found if not name.startswith(asked)]
    if beyond or not found:
        what = f"{len(beyond)} tensors outside {', '.join(taught)} would learn, first "
        what = what + beyond[0] if beyond else "nothing would learn"
        raise PlanError(what, mend="set training.lora.where to parts that this base has")
    return found


def _unfreeze(model: Model, prefixes: tuple[str, ...]) -> None:
    for name, each in model.named_parameters():
        if name.startswith(prefixes) and not name.endswith("embed_positions.weight"):
            each.requires_grad_(True)  # the positions are Whisper's fixed sinusoids


def _top_layers(model: Model, count: int) -> tuple[str, ...]:
    """How the names in the last `count` layers of the language model begin."""
    if not count:
        return ()
    names = {module: name for name, module in model.named_modules()}
    stacks = (each for each in model.decoder.modules() if isinstance(each, nn.ModuleList))
    layers = next(stacks)  # the outermost: what a layer holds comes after it
    return tuple(f"{names[layer]}." for layer in list(layers)[-count:])


def _linear_layers(model: Model, adapter: Adapter) -> list[str]:
    """Names of the linear layers that may have low-rank weights, the output head apart."""
    prefixes = tuple(each for role in adapter.low_rank for each in model.parts[role])
    top = _top_layers(model, adapter.top_layers)  # which learn as they are
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(prefixes)
        and not name.endswith("lm_head")
        and not name.startswith(top)
        and type(model.get_submodule(name.rpartition(".")[0])).__name__ != PASSES_BY
    ]


def _chosen(model: Model, adapter: Adapter) -> list[str]:
    """Names of the layers that LoRA sits on. Raises PlanError for a target that matches none."""
    layers, targets = _linear_layers(model, adapter), adapter.targets
    if targets is None:
        return layers
    forms = {each: re.compile(rf"(^|\.){re.escape(each)}$") for each in targets}
    idle = [each for each, form in forms.items() if not any(map(form.search, layers))]
    if idle:
        raise PlanError(
            f"training.target_modules names {', '.join(idle)}, and no linear layer matches",
            mend=f"set it to auto, or to names such as {_ending(layers)}",
        )
    return [name for name in layers if any(form.search(name) for form in forms.values())]


def _ending(layers: list[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in layers})[:4])
