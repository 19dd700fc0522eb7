"""An encoder out of a released checkpoint: its own tensors, and nothing else of the folder.

    conv1.weight                      an encoder by itself
    model.encoder.conv1.weight        Whisper with its decoder
    audio_tower.conv1.weight          Qwen2-Audio, Voxtral, Audio Flamingo 3
    wav2vec2.encoder.layers.0 ...     wav2vec 2.0 under a head, and its kin

Whatever else lies in the files is not read.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from dlm.errors import BaseError
from dlm.model.checkpoint import check_finite
from dlm.model.encoder import build
from dlm.plan.weights import Weights, damaged, read_weights

RENAMED = {  # what weight norms were called before torch 2.0
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


def load_encoder(folder: Path, config: dict[str, Any]) -> PreTrainedModel:
    """The encoder that `config` describes with its weights from `folder`, in evaluation mode.

    Raises BaseError naming the first tensor that is missing, misshapen or not finite.
    """
    encoder = build(config)
    shapes = {name: tuple(each.shape) for name, each in encoder.state_dict().items()}
    weights = read_weights(folder)
    beginning = _beginning((key for keys in weights.values() for key in keys), shapes)
    if beginning is None:
        what = f"holds no encoder of class {config['model_type']}"
        raise BaseError(what, where=str(folder), mend="set encoder to a model that has one")
    own: Weights = {
        file: {key: each for key, each in keys.items() if _name(key, beginning) in shapes}
        for file, keys in weights.items()
    }
    _check_shapes(folder, own, beginning, shapes)
    check_finite(folder, own)
    encoder.load_state_dict(_read(folder, own, beginning))
    encoder.eval()
    return encoder


def _beginning(keys: Iterable[str], names: Iterable[str]) -> str | None:
    """What stands before an encoder's names in a checkpoint, if any of them is there."""
    wanted, found = set(names), Counter[str]()
    for key in keys:
        words = _renamed(key).split(".")
        for at in range(len(words)):
            if ".".join(words[at:]) in wanted:
                found[".".join([*words[:at], ""])] += 1
    return found.most_common(1)[0][0] if found else None


def _renamed(key: str) -> str:
    for old, new in RENAMED.items():
        if key.endswith(old):
            return key.removesuffix(old) + new
    return key


def _name(key: str, beginning: str) -> str | None:
    """The encoder's name for a tensor of the checkpoint, None for what is another part's."""
    return _renamed(key).removeprefix(beginning) if key.startswith(beginning) else None


def _check_shapes(
    folder: Path, own: Weights, beginning: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    """Refuse a checkpoint in which a tensor is missing or of another shape."""
    found = {
        _name(key, beginning): each.shape for keys in own.values() for key, each in keys.items()
    }
    missing = sorted(beginning + name for name in shapes.keys() - found.keys())
    odd = sorted(
        f"{beginning}{name} ({list(found[name])}, not {list(shape)})"
        for name, shape in shapes.items()
        if name in found and found[name] != shape
    )
    faults = {"missing": missing, "of another shape": odd}
    told = [f"{len(names)} {fault}, first {names[0]}" for fault, names in faults.items() if names]
    if told:
        raise damaged(f"these are not the weights of this encoder: {'; '.join(told)}", folder)


def _read(folder: Path, own: Weights, beginning: str) -> dict[str, torch.Tensor]:
    """The tensors, by the encoder's names for them."""
    tensors = {}
    for file, keys in own.items():
        with safe_open(folder / file, framework="pt") as opened:
            for key in keys:
                tensors[str(_name(key, beginning))] = opened.get_tensor(key)
    return tensors
